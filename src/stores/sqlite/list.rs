//! Lists: keyset pages on a connection of their own. Each page is a read
//! transaction, so a slow consumer holds nothing open.

use super::queue::Work;
use super::statements::Cursor;
use super::{Connection, Parts, Shared, as_text};
use crate::kv::{Error, Page, PageLimits, Pages, Prefix, Result, now};
use crate::stores::database;
use futures::future::BoxFuture;
use rusqlite::params;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

pub struct SqlitePages {
    parts: Arc<Parts>,
    position: Position,
}

struct Position {
    limits: PageLimits,
    /// The last key read, if one was.
    after: Option<Cursor>,
    first: Cursor,
    last: Cursor,
}

impl SqlitePages {
    pub fn new(parts: Arc<Parts>, prefix: &Prefix, limits: PageLimits) -> Self {
        let (first, last) = match prefix.json_range() {
            Some((first, last)) => (Cursor::from(first), Cursor::from(last)),
            None => (Cursor::Text(Vec::new()), Cursor::End),
        };
        let position = Position {
            limits,
            after: None,
            first,
            last,
        };
        Self { parts, position }
    }

    async fn page(&mut self) -> Result<Page> {
        if self.position.after.is_none() {
            self.writes_before_this().await?;
        }
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
        match self.position.read(shared, list.connection.insert(connection)) {
            Ok(page) => Ok(page),
            // Another process dropped it: there is nothing more to list.
            Err(error) if database::is_missing_table(&error) && shared.creates() => Ok(Page::default().end()),
            Err(error) => Err(database::error(&error)),
        }
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
}

impl Position {
    fn read(&mut self, shared: &Shared, connection: &Connection) -> rusqlite::Result<Page> {
        let sql = &shared.sql;
        let limits = self.limits;
        let (text, from) = match &self.after {
            None => (&sql.first_page, &self.first),
            Some(after) => (&sql.next_page, after),
        };
        let mut page = Page::default();
        let mut statement = connection.prepare_cached(text)?;
        let mut rows = statement.query(params![from, self.last, now(), limits.entries])?;
        let mut read = 0;
        // Kept in one place: a page has many keys and one last.
        let mut last = Vec::new();
        let mut ended = false;
        while !page.is_full(limits)
            && let Some(row) = rows.next()?
        {
            let key = row.get_ref(0)?;
            // Expired rows count as read, so that a page costs the same however
            // many there are.
            if row.get(2)? {
                page.push_unchecked(as_text(key), as_text(row.get_ref(1)?));
            }
            last.clear();
            match key {
                rusqlite::types::ValueRef::Text(bytes) => last.extend_from_slice(bytes),
                _ => ended = true,
            }
            read += 1;
        }
        let more = !ended && (read == limits.entries || page.is_full(limits));
        drop(rows);
        drop(statement);
        if read > 0 {
            self.after = Some(Cursor::Text(last));
        }
        Ok(if more { page } else { page.end() })
    }
}

impl Pages for SqlitePages {
    fn first_page_now(&mut self) -> Option<Page> {
        let shared = &*self.parts.shared;
        // A page of the usual size takes no longer to read than to parse, and
        // much less than to wait for.
        let usual = self.position.limits.entries <= PageLimits::default().entries;
        if !usual || !shared.open.load(Ordering::Acquire) || shared.pending.any() {
            return None;
        }
        let mut snapshot = shared.snapshot.try_lock()?;
        let snapshot = snapshot.as_mut()?;
        // If this fails, the reader thread tries it again and reports the error.
        shared.file.check_often().ok()?;
        snapshot.read(|connection| self.position.read(shared, connection)).ok()
    }

    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(self.page())
    }
}
