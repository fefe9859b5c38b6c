//! Lists: names first, then their values, one request ahead of the consumer.
//!
//! Names come from the index, or else from a scan, which must be complete
//! before the first page, because the server keeps no order. No more values are
//! held than two requests bring.

use super::index::Cursor;
use super::many::Kind;
use super::{Hub, Message};
use crate::kv::{Error, Key, Page, PageLimits, Pages, Prefix, Result};
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use std::vec::IntoIter;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The first request asks for few entries, to learn how large values are.
const FIRST: usize = 64;

/// Later requests ask for several pages at once, as long as values are small.
const PAGES: usize = 4;

pub struct RedisPages {
    worker: UnboundedSender<Message>,
    limits: PageLimits,
    hub: Arc<Hub>,
    prefix: Prefix,
    state: State,
    /// Read, but not in a page yet.
    ready: VecDeque<Entry>,
}

type Entry = (Vec<u8>, Vec<u8>);

enum State {
    Unstarted,
    Reading(Reading),
    Over,
}

/// A request that is under way. Dropping it ends it.
struct Reading(JoinHandle<Result<(Vec<Entry>, Option<Reader>)>>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RedisPages {
    pub fn new(hub: Arc<Hub>, worker: UnboundedSender<Message>, prefix: Prefix, limits: PageLimits) -> Self {
        Self {
            worker,
            limits,
            hub,
            prefix,
            state: State::Unstarted,
            ready: VecDeque::new(),
        }
    }

    async fn page(&mut self) -> Result<Page> {
        let mut page = Page::default();
        loop {
            while let Some((name, value)) = self.ready.pop_front() {
                let key = self.hub.wire.key(&name);
                page.push_unchecked(key.as_ref().map(Key::as_json), std::str::from_utf8(&value).ok());
                if page.is_full(self.limits) {
                    return Ok(page);
                }
            }
            // A short page now is better than a full one later.
            if page.entries() > 0 && !matches!(self.state, State::Over) {
                return Ok(page);
            }
            match &mut self.state {
                State::Over => return Ok(page.end()),
                State::Unstarted => {
                    self.writes_before_this().await?;
                    let reader = Reader::new(&self.hub, &self.prefix, self.limits).await?;
                    self.state = reader.start();
                }
                State::Reading(Reading(task)) => {
                    let result = task
                        .await
                        .unwrap_or_else(|_| Err(Error::Backend("internal error in a list".into())));
                    let (entries, reader) = result?;
                    self.ready.extend(entries);
                    self.state = reader.map_or(State::Over, Reader::start);
                }
            }
        }
    }

    /// Waits for the writes that were called before this list.
    async fn writes_before_this(&self) -> Result<()> {
        let (sender, done) = oneshot::channel();
        let _ = self.worker.send(Message::Ready(sender));
        done.await.map_err(|_| Error::Closed)
    }
}

impl Pages for RedisPages {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(self.page())
    }
}

/// Reads the next entries.
struct Reader {
    hub: Arc<Hub>,
    prefix: Prefix,
    limits: PageLimits,
    names: Names,
    /// The number of entries that the next request asks for.
    next: usize,
}

enum Names {
    Scanned(IntoIter<Vec<u8>>),
    Indexed(Cursor),
}

impl Reader {
    async fn new(hub: &Arc<Hub>, prefix: &Prefix, limits: PageLimits) -> Result<Self> {
        let names = if hub.settings.index {
            Names::Indexed(Cursor::new(hub, prefix))
        } else {
            Names::Scanned(hub.scan(prefix, Kind::Entries).await?.into_iter())
        };
        Ok(Self {
            hub: Arc::clone(hub),
            prefix: prefix.clone(),
            limits,
            names,
            next: FIRST.min(limits.entries as usize),
        })
    }

    fn start(self) -> State {
        State::Reading(Reading(tokio::spawn(self.read())))
    }

    /// The next entries, and the reader for more.
    async fn read(mut self) -> Result<(Vec<Entry>, Option<Self>)> {
        let names = match &mut self.names {
            Names::Scanned(names) => names.take(self.next).collect(),
            Names::Indexed(cursor) => self.hub.next_names(&self.prefix, cursor, self.next).await?,
        };
        let over = match &self.names {
            Names::Scanned(names) => names.len() == 0,
            Names::Indexed(cursor) => cursor.is_over(),
        };
        if names.is_empty() {
            return Ok((Vec::new(), None));
        }
        let asked = names.len();
        let values = self.hub.values(&names).await?;
        let mut gone = Vec::new();
        let mut entries = Vec::with_capacity(asked);
        let mut bytes = 0;
        for (name, value) in names.into_iter().zip(values) {
            match value {
                Some(value) => {
                    bytes += name.len() + value.len();
                    entries.push((name, value));
                }
                None => gone.push(name),
            }
        }
        let most = PAGES * self.limits.entries as usize;
        let average = (bytes / asked).max(1);
        self.next = (PAGES * self.limits.bytes / average).clamp(1, most);
        if self.hub.settings.index && !gone.is_empty() {
            let hub = Arc::clone(&self.hub);
            // Not awaited: if it fails, the next list tries again.
            tokio::spawn(async move { hub.prune(&gone).await });
        }
        Ok((entries, (!over).then_some(self)))
    }
}
