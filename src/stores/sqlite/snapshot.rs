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
use rusqlite::{Result, Statement, params};
use self_cell::self_cell;
use std::time::{Duration, Instant};

/// Reads that come closer together than this are a burst.
const BURST: Duration = Duration::from_millis(1);

pub struct Snapshot {
    /// Dropped before the connection that maps it.
    wal: Option<WalIndex>,
    /// The log's header that the open transaction corresponds to.
    held: Option<Header>,
    /// When a read last found no transaction, or one was let go.
    last: Instant,
    prepared: Prepared,
}

struct Prepare<'db> {
    get: Statement<'db>,
    begin: Statement<'db>,
    commit: Statement<'db>,
}

self_cell!(
    /// A connection with the statements that it runs all the time.
    struct Prepared {
        owner: Database,
        #[not_covariant]
        dependent: Prepare,
    }
);

// SAFETY: a connection and its statements may move between threads as long as
// one at a time uses them. They move together in here, and `&mut self` is
// needed to use them.
unsafe impl Send for Snapshot {}

pub enum Found {
    Nothing,
    Text(String),
    NotText,
}

impl Snapshot {
    pub fn new(database: Database, sql: &Statements) -> Result<Self> {
        let wal = WalIndex::of(&database);
        let prepared = Prepared::try_new(database, |database| -> Result<_> {
            Ok(Prepare {
                get: database.prepare(&sql.get)?,
                begin: database.prepare("BEGIN")?,
                commit: database.prepare("COMMIT")?,
            })
        })?;
        Ok(Self {
            wal,
            held: None,
            last: Instant::now(),
            prepared,
        })
    }

    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    pub fn get(&mut self, key: &str) -> Result<Found> {
        if self.is_held_and_fresh()? {
            return self.select(key);
        }
        let read = Instant::now();
        let burst = read.duration_since(self.last) < BURST;
        self.last = read;
        let header = if burst { self.header() } else { None };
        if header.is_none() {
            return self.select(key);
        }
        self.run(|prepared| prepared.begin.raw_execute())?;
        let found = self.select(key);
        // The transaction began at the first row read. It corresponds to the
        // header only if that did not change around it.
        if found.is_ok() && self.header() == header {
            self.held = header;
        } else {
            self.release()?;
        }
        found
    }

    /// Lets `body` read the latest state.
    pub fn read<T>(&mut self, body: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        self.is_held_and_fresh()?;
        self.prepared.with_dependent(|database, _| body(database))
    }

    /// Whether a transaction is held. One that somebody has committed after is
    /// let go.
    fn is_held_and_fresh(&mut self) -> Result<bool> {
        if self.is_held() && self.held != self.header() {
            self.release()?;
        }
        Ok(self.is_held())
    }

    /// Ends a held transaction: while it is open, the log cannot start over.
    pub fn release(&mut self) -> Result<()> {
        self.held = None;
        self.last = Instant::now();
        self.run(|prepared| prepared.commit.raw_execute()).map(|_| ())
    }

    fn header(&self) -> Option<Header> {
        self.wal.as_ref().map(WalIndex::header)
    }

    fn select(&mut self, key: &str) -> Result<Found> {
        self.run(|prepared| find(&mut prepared.get, key))
    }

    fn run<T>(&mut self, body: impl FnOnce(&mut Prepare<'_>) -> T) -> T {
        self.prepared.with_dependent_mut(|_, prepared| body(prepared))
    }
}

/// Runs the statement that gets one key.
pub fn find(get: &mut Statement<'_>, key: &str) -> Result<Found> {
    let mut rows = get.query(params![key, now()])?;
    Ok(match rows.next()? {
        None => Found::Nothing,
        Some(row) => as_text(row.get_ref(0)?).map_or(Found::NotText, |text| Found::Text(text.to_owned())),
    })
}
