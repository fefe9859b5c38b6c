//! Lists: keyset pages on a connection of their own. Each page is a read
//! transaction, so a slow consumer holds nothing open.

use super::database::Database;
use super::{Message, Shared, as_text, database, lock};
use crate::kv::{Error, Page, PageLimits, Pages, Prefix, Result, now};
use futures::future::BoxFuture;
use rusqlite::params;
use rusqlite::types::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// Opened by the first page, closed by the writer.
#[derive(Default)]
pub struct ListConnection {
    pub database: Option<Database>,
    pub closed: bool,
}

pub struct SqlitePages {
    shared: Arc<Shared>,
    writer: UnboundedSender<Message>,
    limits: PageLimits,
    /// The last key read, and that it was read.
    after: Option<Value>,
    first: Value,
    last: Value,
}

impl SqlitePages {
    pub fn new(shared: Arc<Shared>, writer: UnboundedSender<Message>, prefix: &Prefix, limits: PageLimits) -> Self {
        let (first, last) = match prefix.json_range() {
            Some((first, last)) => (Value::Text(first), Value::Text(last)),
            // In SQLite's order every text comes before every blob.
            None => (Value::Text(String::new()), Value::Blob(Vec::new())),
        };
        Self {
            shared,
            writer,
            limits,
            after: None,
            first,
            last,
        }
    }

    async fn page(&mut self) -> Result<Page> {
        if self.after.is_none() {
            self.writes_before_this().await?;
        }
        let shared = Arc::clone(&self.shared);
        let mut connection = lock(&shared.list);
        if connection.closed {
            return Err(Error::Closed);
        }
        let database = match &mut connection.database {
            Some(database) => database,
            none => none.insert(Database::open_for_reading(&shared.place, shared.options.busy_timeout)?),
        };
        match self.read(database) {
            Ok(page) => Ok(page),
            // Another process dropped it: there is nothing more to list.
            Err(error) if database::is_missing_table(&error) && shared.creates.load(Ordering::Acquire) => {
                Ok(Page::default().end())
            }
            Err(error) => Err(database::error(&error)),
        }
    }

    /// Waits until the store is open and writes called before this list are in.
    async fn writes_before_this(&self) -> Result<()> {
        if self.shared.open.load(Ordering::Acquire) && !self.shared.pending.any() {
            return Ok(());
        }
        let (sender, ready) = oneshot::channel();
        let _ = self.writer.send(Message::Ready(sender));
        ready.await.unwrap_or(Err(Error::Closed))
    }

    fn read(&mut self, database: &Database) -> rusqlite::Result<Page> {
        let sql = &self.shared.sql;
        let limits = self.limits;
        let (text, from) = match &self.after {
            None => (&sql.first_page, &self.first),
            Some(after) => (&sql.next_page, after),
        };
        let mut page = Page::default();
        let mut statement = database.prepare_cached(text)?;
        let mut rows = statement.query(params![from, self.last, now(), limits.entries])?;
        let mut read = 0;
        let mut last_text = String::new();
        let mut last_other = None;
        while !page.is_full(limits)
            && let Some(row) = rows.next()?
        {
            let key = row.get_ref(0)?;
            // Expired rows count as read: a page costs the same whatever waits
            // to be swept.
            if row.get(2)? {
                page.push_unchecked(as_text(key), as_text(row.get_ref(1)?));
            }
            // Kept in one place: a page has many keys and one last.
            last_text.clear();
            last_other = match as_text(key) {
                Some(text) => {
                    last_text.push_str(text);
                    None
                }
                None => Some(key.try_into().unwrap_or(Value::Null)),
            };
            read += 1;
        }
        let more = read == limits.entries || page.is_full(limits);
        drop(rows);
        drop(statement);
        if read > 0 {
            self.after = Some(last_other.unwrap_or(Value::Text(last_text)));
        }
        Ok(if more { page } else { page.end() })
    }
}

impl Pages for SqlitePages {
    fn first_page_now(&mut self) -> Option<Page> {
        let shared = Arc::clone(&self.shared);
        // A page of the usual size takes no longer to read than to parse, and
        // much less than to wait for.
        let usual = self.limits.entries <= PageLimits::default().entries;
        if !usual || !shared.open.load(Ordering::Acquire) || shared.pending.any() {
            return None;
        }
        let mut snapshot = shared.snapshot.try_lock().ok()?;
        // What fails here is tried again, and told, by the reader thread.
        snapshot.as_mut()?.read(|database| self.read(database)).ok()
    }

    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(self.page())
    }
}
