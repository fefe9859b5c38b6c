//! Single keys, read on the calling thread.
//!
//! Most of what such a read costs is taking and releasing a lock. So in a burst
//! of reads the transaction stays open, and each read first makes sure that
//! nobody has committed since: what it returns is as fresh as if it had taken
//! the lock. What it returns is kept for the next read of that key.

use super::as_text;
use super::database::Database;
use super::recent::Recent;
use super::statements::Statements;
use super::wal::{Header, WalIndex};
use crate::kv::{Millis, now};
use rusqlite::types::ValueRef;
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

/// When an entry expires, if that is known: the column takes anything.
enum Expiry {
    Never,
    At(Millis),
    Unknown,
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

    pub fn get(&mut self, key: &str, recent: &Recent) -> Result<Found> {
        let header = self.header();
        if let Some(text) = header.and_then(|header| recent.get(&header, key)) {
            return Ok(Found::Text(text));
        }
        let (found, expiry) = self.read_key(key, header)?;
        let expires = match expiry {
            Expiry::Never => None,
            Expiry::At(millis) => Some(millis),
            Expiry::Unknown => return Ok(found),
        };
        // Only of a held transaction is it known which state it reads.
        if let (Some(held), Found::Text(text)) = (&self.held, &found) {
            recent.put(held, key, text, expires);
        }
        Ok(found)
    }

    fn read_key(&mut self, key: &str, header: Option<Header>) -> Result<(Found, Expiry)> {
        self.release_if_stale(header)?;
        if self.is_held() {
            return self.select(key);
        }
        let read = Instant::now();
        let burst = read.duration_since(self.last) < BURST;
        self.last = read;
        if header.is_none() || !burst {
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
        self.release_if_stale(self.header())?;
        self.prepared.with_dependent(|database, _| body(database))
    }

    /// Lets a transaction go that somebody has committed after.
    fn release_if_stale(&mut self, header: Option<Header>) -> Result<()> {
        if self.is_held() && self.held != header {
            self.release()?;
        }
        Ok(())
    }

    /// Ends a held transaction: while it is open, the log cannot start over.
    pub fn release(&mut self) -> Result<()> {
        self.held = None;
        self.last = Instant::now();
        self.run(|prepared| prepared.commit.raw_execute()).map(|_| ())
    }

    pub fn header(&self) -> Option<Header> {
        self.wal.as_ref().map(WalIndex::header)
    }

    fn select(&mut self, key: &str) -> Result<(Found, Expiry)> {
        self.run(|prepared| find_with_expiry(&mut prepared.get, key))
    }

    fn run<T>(&mut self, body: impl FnOnce(&mut Prepare<'_>) -> T) -> T {
        self.prepared.with_dependent_mut(|_, prepared| body(prepared))
    }
}

/// Runs the statement that gets one key.
pub fn find(get: &mut Statement<'_>, key: &str) -> Result<Found> {
    Ok(find_with_expiry(get, key)?.0)
}

fn find_with_expiry(get: &mut Statement<'_>, key: &str) -> Result<(Found, Expiry)> {
    let mut rows = get.query(params![key, now()])?;
    let Some(row) = rows.next()? else {
        return Ok((Found::Nothing, Expiry::Unknown));
    };
    let found = as_text(row.get_ref(0)?).map_or(Found::NotText, |text| Found::Text(text.to_owned()));
    let expiry = match row.get_ref(1)? {
        ValueRef::Null => Expiry::Never,
        ValueRef::Integer(millis) => Expiry::At(millis),
        _ => Expiry::Unknown,
    };
    Ok((found, expiry))
}
