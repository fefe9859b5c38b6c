//! Lists: names first, then their values a page at a time.
//!
//! Names come from the index, or else from a scan, which must be over before
//! the first page: the server keeps no order. Values are never held beyond what
//! one request brings.

use super::many::Kind;
use super::{Hub, Message, index::Cursor};
use crate::kv::{Error, Key, Page, PageLimits, Pages, Prefix, Result};
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use std::vec::IntoIter;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// The first request is short: the consumer works on it during the next, and it
/// tells how large values are.
const FIRST: usize = 16;

/// A request brings several pages, for as long as values are small.
const PAGES: usize = 4;

pub struct RedisPages {
    hub: Arc<Hub>,
    worker: UnboundedSender<Message>,
    prefix: Prefix,
    limits: PageLimits,
    names: Names,
    /// Read and not in a page yet.
    ready: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// What the next request asks for.
    next: usize,
}

enum Names {
    Unknown,
    Scanned(IntoIter<Vec<u8>>),
    Indexed(Cursor),
}

impl RedisPages {
    pub fn new(hub: Arc<Hub>, worker: UnboundedSender<Message>, prefix: Prefix, limits: PageLimits) -> Self {
        Self {
            hub,
            worker,
            prefix,
            limits,
            names: Names::Unknown,
            ready: VecDeque::new(),
            next: FIRST.min(limits.entries as usize),
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
            if self.is_over() {
                return Ok(page.end());
            }
            // A short page now is better than a full one later.
            if page.entries() > 0 {
                return Ok(page);
            }
            let names = self.next_names().await?;
            self.read(names).await?;
        }
    }

    fn is_over(&self) -> bool {
        match &self.names {
            Names::Unknown => false,
            Names::Scanned(names) => names.len() == 0,
            Names::Indexed(cursor) => cursor.is_over(),
        }
    }

    async fn next_names(&mut self) -> Result<Vec<Vec<u8>>> {
        if matches!(self.names, Names::Unknown) {
            self.writes_before_this().await?;
            self.names = if self.hub.settings.index {
                Names::Indexed(Cursor::new(&self.hub, &self.prefix))
            } else {
                Names::Scanned(self.hub.scan(&self.prefix, Kind::Entries).await?.into_iter())
            };
        }
        match &mut self.names {
            Names::Unknown => Ok(Vec::new()),
            Names::Scanned(names) => Ok(names.take(self.next).collect()),
            Names::Indexed(cursor) => self.hub.next_names(&self.prefix, cursor, self.next).await,
        }
    }

    /// Waits until writes called before this list are in.
    async fn writes_before_this(&self) -> Result<()> {
        let (sender, done) = oneshot::channel();
        let _ = self.worker.send(Message::Ready(sender));
        done.await.map_err(|_| Error::Closed)
    }

    async fn read(&mut self, names: Vec<Vec<u8>>) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let values = self.hub.values(&names).await?;
        let mut bytes = 0;
        let mut gone = Vec::new();
        let asked = names.len();
        for (name, value) in names.into_iter().zip(values) {
            match value {
                Some(value) => {
                    bytes += name.len() + value.len();
                    self.ready.push_back((name, value));
                }
                None => gone.push(name),
            }
        }
        let most = PAGES * self.limits.entries as usize;
        let average = (bytes / asked.max(1)).max(1);
        self.next = (PAGES * self.limits.bytes / average).clamp(1, most);
        if self.hub.settings.index && !gone.is_empty() {
            let hub = Arc::clone(&self.hub);
            // Nobody waits for it, and the next list tries again.
            tokio::spawn(async move { hub.prune(&gone).await });
        }
        Ok(())
    }
}

impl Pages for RedisPages {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(self.page())
    }
}
