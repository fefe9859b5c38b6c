//! Single keys, read on the calling thread.
//!
//! Most of what such a read costs is taking and releasing a lock. So in a burst
//! of reads the transaction stays open, and each read first makes sure that
//! nobody has committed since: what it returns is as fresh as if it had taken
//! the lock.

use super::as_text;
use super::database::Database;
use super::statements::Statements;
use super::wal::{Header, WalIndex};
use crate::kv::now;
use rusqlite::{Result, params};
use std::time::{Duration, Instant};

/// Reads that come closer together than this are a burst.
const BURST: Duration = Duration::from_millis(1);

pub struct Snapshot {
    /// Dropped before the connection that maps it.
    wal: Option<WalIndex>,
    /// The log's header that the open transaction corresponds to.
    held: Option<Header>,
    last_read: Instant,
    database: Database,
}

pub enum Found {
    Nothing,
    Text(String),
    NotText,
}

impl Snapshot {
    pub fn new(database: Database) -> Self {
        let wal = WalIndex::of(&database);
        Self {
            wal,
            held: None,
            last_read: Instant::now(),
            database,
        }
    }

    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    pub fn get(&mut self, sql: &Statements, key: &str) -> Result<Found> {
        let read = Instant::now();
        let burst = read.duration_since(self.last_read) < BURST;
        self.last_read = read;

        let header = self.wal.as_ref().filter(|_| burst).map(WalIndex::header);
        if self.held.is_some() {
            if self.held == header {
                return self.select(sql, key);
            }
            self.release()?;
        }
        let Some(header) = header else {
            return self.select(sql, key);
        };
        self.database.execute_batch("BEGIN")?;
        let found = self.select(sql, key);
        // The transaction began at the first row read. It corresponds to the
        // header only if that did not change around it.
        if found.is_ok() && self.wal.as_ref().map(WalIndex::header) == Some(header) {
            self.held = Some(header);
        } else {
            self.release()?;
        }
        found
    }

    /// Ends a held transaction: while it is open, the log cannot start over.
    pub fn release(&mut self) -> Result<()> {
        self.held = None;
        self.database.execute_batch("COMMIT")
    }

    /// Ends a held transaction that was not read from for so long. Whether one
    /// is still held.
    pub fn release_if_idle(&mut self, idle: Duration) -> bool {
        if self.is_held() && self.last_read.elapsed() >= idle {
            // A read transaction has nothing to commit that could fail.
            let _ = self.release();
        }
        self.is_held()
    }

    fn select(&self, sql: &Statements, key: &str) -> Result<Found> {
        let mut statement = self.database.prepare_cached(&sql.get)?;
        let mut rows = statement.query(params![key, now()])?;
        Ok(match rows.next()? {
            None => Found::Nothing,
            Some(row) => match as_text(row.get_ref(0)?) {
                Some(text) => Found::Text(text.to_owned()),
                None => Found::NotText,
            },
        })
    }
}
