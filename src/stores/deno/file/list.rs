//! Lists: ranges on a connection of their own, each resumed after the last key of
//! the one before. Each page is a read transaction, so a slow consumer holds
//! nothing open.

use super::super::key::{self, after};
use super::super::row::add_to_page;
use super::{Connection, Parts, reader};
use crate::kv::{Error, Page, PageLimits, Pages, Prefix, Result};
use crate::stores::database;
use crate::stores::database::queue::Work;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

pub struct FilePages {
    parts: Arc<Parts>,
    limits: PageLimits,
    /// The rest of the list, or why there is none.
    range: Result<(Vec<u8>, Vec<u8>)>,
    begun: bool,
}

impl FilePages {
    pub fn new(parts: Arc<Parts>, prefix: &Prefix, limits: PageLimits) -> Self {
        Self {
            parts,
            limits,
            range: key::range(prefix),
            begun: false,
        }
    }

    async fn page(&mut self) -> Result<Page> {
        let (start, end) = self.range.clone()?;
        if !self.begun {
            self.writes_before_this().await?;
        }
        let parts = Arc::clone(&self.parts);
        let shared = &*parts.shared;
        let mut list = shared.list.lock();
        if list.closed {
            return Err(Error::Closed);
        }
        shared.file.check()?;
        let connection = match list.connection.take() {
            Some(connection) => connection,
            None => shared.file.open_for_reading(shared.busy_timeout)?,
        };
        let connection = list.connection.insert(connection);
        let page = read(connection, (&start, &end), self.limits);
        page.map(|page| self.advance(page))
            .map_err(|error| database::error(&error))
    }

    /// Waits until the store is open and writes called before this list are in.
    async fn writes_before_this(&self) -> Result<()> {
        let shared = &*self.parts.shared;
        if shared.open.load(Ordering::Acquire) && !shared.pending.any() {
            return Ok(());
        }
        let (sender, ready) = oneshot::channel();
        self.parts.send(Work::Ready(sender));
        ready.await.unwrap_or(Err(Error::Closed))
    }

    fn advance(&mut self, (page, last): (Page, Option<Vec<u8>>)) -> Page {
        self.begun = true;
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
    connection: &Connection,
    range: (&[u8], &[u8]),
    limits: PageLimits,
) -> rusqlite::Result<(Page, Option<Vec<u8>>)> {
    let mut page = Page::default();
    let mut read = 0;
    let mut last = None;
    reader::range(connection, range, limits.entries, |key, row| {
        add_to_page(&mut page, key, &row);
        read += 1;
        let full = page.is_full(limits);
        if full || read == limits.entries {
            last = Some(key.to_vec());
        }
        !full
    })?;
    Ok((page, last))
}

impl Pages for FilePages {
    fn first_page_now(&mut self) -> Option<Page> {
        // A page of the usual size takes no longer to read than to parse, and
        // much less than to wait for.
        let usual = self.limits.entries <= PageLimits::default().entries;
        let parts = Arc::clone(&self.parts);
        let shared = &*parts.shared;
        if !usual || shared.pending.any() {
            return None;
        }
        let (start, end) = self.range.as_ref().ok()?;
        let mut reader = shared.reader.try_lock()?;
        let reader = reader.as_mut()?;
        // If this fails, the reader thread tries it again and reports the error.
        shared.file.check_often().ok()?;
        let page = reader.read(|connection| read(connection, (start, end), self.limits));
        page.ok().map(|page| self.advance(page))
    }

    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(self.page())
    }
}
