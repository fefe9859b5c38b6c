//! Lists: range after range, each resumed after the last key of the one before.

use super::key::{after, decode, range};
use super::reader::{self, Reader};
use super::remote::MOST_ENTRIES;
use super::row::Row;
use super::{Message, Shared, Target};
use crate::kv::{Error, Key, Page, PageLimits, Pages, Prefix, Result};
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

pub struct DenoPages {
    shared: Arc<Shared>,
    worker: UnboundedSender<Message>,
    limits: PageLimits,
    /// From where to where, or why there is nothing.
    range: Result<(Vec<u8>, Vec<u8>)>,
    begun: bool,
    /// What a server sent and is not in a page yet, and whether it has more.
    ready: VecDeque<(Vec<u8>, Row)>,
    more: bool,
}

impl DenoPages {
    pub fn new(shared: Arc<Shared>, worker: UnboundedSender<Message>, prefix: &Prefix, limits: PageLimits) -> Self {
        Self {
            shared,
            worker,
            limits,
            range: range(prefix),
            begun: false,
            ready: VecDeque::new(),
            more: false,
        }
    }

    async fn page(&mut self) -> Result<Page> {
        let (start, end) = self.range.clone()?;
        if !self.begun {
            self.begun = true;
            self.writes_before_this().await?;
        }
        let (page, last) = match self.shared.target {
            Target::Local(_) => reader::with(&self.shared.list_reader, |reader| {
                read(reader, &start, &end, self.limits)
            })?,
            Target::Remote(_) => self.request(start, end).await?,
        };
        Ok(self.go_on(page, last))
    }

    /// Waits until the store is open and writes called before this list are in.
    async fn writes_before_this(&self) -> Result<()> {
        let (sender, ready) = oneshot::channel();
        let _ = self.worker.send(Message::Ready(sender));
        ready.await.unwrap_or(Err(Error::Closed))
    }

    /// A page of a server's, and the last key read if there may be more.
    async fn request(&mut self, start: Vec<u8>, end: Vec<u8>) -> Result<(Page, Option<Vec<u8>>)> {
        if self.ready.is_empty() {
            let (sender, rows) = oneshot::channel();
            let limit = self.limits.entries.min(MOST_ENTRIES);
            let _ = self.worker.send(Message::Range(start, end, limit, sender));
            self.ready = rows.await.unwrap_or(Err(Error::Closed))?.into();
            self.more = self.ready.len() == limit as usize;
        }
        let mut page = Page::default();
        let mut last = None;
        while !page.is_full(self.limits)
            && let Some((key, row)) = self.ready.pop_front()
        {
            add(&mut page, &key, &row);
            last = Some(key);
        }
        let more = self.more || !self.ready.is_empty();
        Ok((page, last.filter(|_| more)))
    }

    fn go_on(&mut self, page: Page, last: Option<Vec<u8>>) -> Page {
        match (last, &mut self.range) {
            (Some(last), Ok((start, _))) => {
                *start = after(&last);
                page
            }
            _ => page.end(),
        }
    }
}

/// A page, and the last key read if there may be more.
fn read(
    reader: &mut Reader,
    start: &[u8],
    end: &[u8],
    limits: PageLimits,
) -> rusqlite::Result<(Page, Option<Vec<u8>>)> {
    let mut page = Page::default();
    let mut read = 0;
    let mut last = None;
    reader.range(start, end, limits.entries, |key, row| {
        add(&mut page, key, &row);
        read += 1;
        let full = page.is_full(limits);
        if full || read == limits.entries {
            last = Some(key.to_vec());
        }
        !full
    })?;
    Ok((page, last))
}

/// Adds an entry to a page. Expired ones are left out, and `undefined`; what
/// JSON can't say is counted.
fn add(page: &mut Page, key: &[u8], row: &Row) {
    if !row.live {
        return;
    }
    let key = decode(key);
    let value = row.value.json();
    match (&key, &value) {
        (Some(key), Ok(Some(value))) => page.push(key.as_json(), value),
        (Some(_), Ok(None)) => {}
        _ => page.push_unchecked(key.as_ref().map(Key::as_json), None),
    }
}

impl Pages for DenoPages {
    fn first_page_now(&mut self) -> Option<Page> {
        // A page of the usual size takes no longer to read than to parse, and
        // much less than to wait for.
        let usual = self.limits.entries <= PageLimits::default().entries;
        if !usual || self.shared.pending.any() {
            return None;
        }
        let (start, end) = self.range.as_ref().ok()?;
        let shared = Arc::clone(&self.shared);
        let mut reader = shared.reader.try_lock()?;
        // What fails here is tried again, and told, by the worker.
        let (page, last) = read(reader.as_mut()?, start, end, self.limits).ok()?;
        self.begun = true;
        Some(self.go_on(page, last))
    }

    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(self.page())
    }
}
