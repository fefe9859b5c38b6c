//! Lists read pages on a separate connection. Each page continues after the last
//! key of the previous one, in a read transaction of its own, so that a slow
//! consumer keeps no transaction open.

use super::queue::Work;
use super::store::Parts;
use super::{Connection, Format, Position, Range};
use crate::kv::{Error, Page, PageLimits, Pages, Prefix, Result, now};
use futures::future::BoxFuture;
use rusqlite::{Row, params};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

pub struct DatabasePages<F: Format> {
    parts: Arc<Parts<F>>,
    limits: PageLimits,
    /// The rest of the list, or why there is none.
    range: Result<Range>,
    begun: bool,
}

impl<F: Format> DatabasePages<F> {
    pub fn new(parts: Arc<Parts<F>>, prefix: &Prefix, limits: PageLimits) -> Self {
        Self {
            parts,
            limits,
            range: F::range(prefix),
            begun: false,
        }
    }

    async fn page(&mut self) -> Result<Page> {
        if !self.begun {
            self.writes_before_this().await?;
            self.begun = true;
        }
        let range = self.range.as_mut().map_err(|error| error.clone())?;
        let shared = &*self.parts.shared;
        let mut list = shared.list.lock();
        if list.closed {
            return Err(Error::Closed);
        }
        shared.file.check()?;
        let connection = match list.connection.take() {
            Some(connection) => connection,
            None => shared.file.open_for_reading(shared.options.busy_timeout)?,
        };
        let connection = list.connection.insert(connection);
        shared.format.page(connection, range, self.limits)
    }

    /// Waits until the store is open and earlier writes are committed.
    async fn writes_before_this(&self) -> Result<()> {
        let shared = &*self.parts.shared;
        if shared.open.load(Ordering::Acquire) && !shared.pending.any() {
            return Ok(());
        }
        let (sender, ready) = oneshot::channel();
        self.parts.send(Work::Ready(sender));
        ready.await.unwrap_or(Err(Error::Closed))
    }
}

impl<F: Format> Pages for DatabasePages<F> {
    fn first_page_now(&mut self) -> Option<Page> {
        let shared = &*self.parts.shared;
        // A page of the usual size takes no longer to read than to parse, and
        // much less than to wait for.
        let usual = self.limits.entries <= PageLimits::default().entries;
        if !usual || !shared.open.load(Ordering::Acquire) || shared.pending.any() {
            return None;
        }
        let range = self.range.as_mut().ok()?;
        let mut snapshot = shared.snapshot.try_lock()?;
        let snapshot = snapshot.as_mut()?;
        // If this fails, the reader thread tries it again and reports the error.
        shared.file.check_often().ok()?;
        let page = snapshot.read(|connection| shared.format.page(connection, range, self.limits));
        self.begun = page.is_ok();
        page.ok()
    }

    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(self.page())
    }
}

/// Reads a page with a statement that gets a range's start and end, how many rows
/// at most, and the time. The first column is the key. `add` adds a row to the
/// page, or leaves it out; both count, so that a page costs the same however
/// many entries have expired.
pub fn read_page(
    connection: &Connection,
    sql: &str,
    range: &mut Range,
    limits: PageLimits,
    add: impl Fn(&mut Page, &Row<'_>) -> rusqlite::Result<()>,
) -> Result<Page> {
    let mut page = Page::default();
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![range.start, range.end, limits.entries, now()])?;
    let mut read = 0;
    while let Some(row) = rows.next()? {
        add(&mut page, row)?;
        read += 1;
        if read == limits.entries || page.is_full(limits) {
            range.start = Position::after(row.get_ref(0)?);
            return Ok(page);
        }
    }
    Ok(page.end())
}
