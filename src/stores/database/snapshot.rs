//! The connection that reads and writes single entries on the calling thread.
//!
//! Most of the time of such a read is spent on taking and releasing a lock. So in
//! a burst of reads the transaction stays open, and each read first checks that
//! there was no commit since. Its result is then as fresh as with a new lock. The
//! store's worker ends the transaction after [`HOLD`].

use super::connection::Connection;
use super::wal::{Header, WalIndex};
use crate::kv::Result;
use rusqlite::Statement;
use self_cell::self_cell;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A transaction is kept open for this time. If reads go on, another one begins.
pub const HOLD: Duration = Duration::from_millis(10);

/// Reads that come closer together than this are a burst.
const BURST: Duration = Duration::from_millis(1);

pub struct Snapshot {
    /// Dropped before the connection that maps it.
    wal: Option<WalIndex>,
    /// The log's header that the open transaction corresponds to.
    held: Option<Header>,
    /// When a read last found no transaction, or one was ended.
    last: Instant,
    prepared: Prepared,
}

struct Prepare<'db> {
    get: Statement<'db>,
    begin: Statement<'db>,
    commit: Statement<'db>,
}

self_cell!(
    /// A connection with the statements that it runs most often.
    struct Prepared {
        owner: Connection,
        #[not_covariant]
        dependent: Prepare,
    }
);

// SAFETY: a connection and its statements may move between threads as long as
// one at a time uses them. They move together in here, and `&mut self` is
// needed to use them.
unsafe impl Send for Snapshot {}

impl Snapshot {
    /// On a connection for reading, with the statement that gets a key. Reads
    /// the schema, and waits for locks as the connection does.
    pub fn new(database: Connection, get: &str) -> Result<Self> {
        let wal = WalIndex::of(&database);
        let prepared = Prepared::try_new(database, |database| -> Result<_> {
            Ok(Prepare {
                get: database.prepare(get)?,
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

    /// From now on, statements fail if a lock is taken, instead of waiting for it.
    pub fn without_waiting(self) -> Result<Self> {
        self.prepared.borrow_owner().busy_timeout(Duration::ZERO)?;
        Ok(self)
    }

    fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The state that the open transaction reads.
    pub fn held(&self) -> Option<&Header> {
        self.held.as_ref()
    }

    /// The latest state.
    pub fn header(&self) -> Option<Header> {
        self.wal.as_ref().map(WalIndex::header)
    }

    /// Runs the statement that gets a key, given the latest state just before.
    /// Notifies `tell` if there is now a transaction to end.
    pub fn get<T>(
        &mut self,
        header: Option<Header>,
        tell: &Notify,
        select: impl FnOnce(&mut Statement<'_>) -> Result<T>,
    ) -> Result<T> {
        self.release_if_stale(header)?;
        if self.is_held() {
            return self.run(|prepared| select(&mut prepared.get));
        }
        let read = Instant::now();
        let burst = read.duration_since(self.last) < BURST;
        self.last = read;
        if header.is_none() || !burst {
            return self.run(|prepared| select(&mut prepared.get));
        }
        self.run(|prepared| prepared.begin.raw_execute())?;
        let found = self.run(|prepared| select(&mut prepared.get));
        // The transaction began at the first row read. It corresponds to the
        // header only if that did not change around it.
        if found.is_ok() && self.header() == header {
            self.held = header;
            tell.notify_one();
        } else {
            self.release()?;
        }
        found
    }

    /// Lets `body` use the connection, and the log's index if there is one. No
    /// transaction may be held.
    pub fn connected<T>(&mut self, body: impl FnOnce(&Connection, Option<&WalIndex>) -> T) -> T {
        let Self { wal, prepared, .. } = self;
        prepared.with_dependent(|connection, _| body(connection, wal.as_ref()))
    }

    /// Lets `body` read the latest state.
    pub fn read<T>(&mut self, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.release_if_stale(self.header())?;
        self.prepared.with_dependent(|database, _| body(database))
    }

    /// Ends a transaction after which there was another commit.
    fn release_if_stale(&mut self, header: Option<Header>) -> Result<()> {
        if self.is_held() && self.held != header {
            self.release()?;
        }
        Ok(())
    }

    /// Ends a transaction, if one is held: while it is open, the log cannot
    /// start over.
    pub fn let_go(&mut self) {
        if self.is_held() {
            // A read transaction has nothing to commit that could fail.
            let _ = self.release();
        }
    }

    fn release(&mut self) -> Result<()> {
        self.held = None;
        self.last = Instant::now();
        self.run(|prepared| prepared.commit.raw_execute())?;
        Ok(())
    }

    fn run<T>(&mut self, body: impl FnOnce(&mut Prepare<'_>) -> T) -> T {
        self.prepared.with_dependent_mut(|_, prepared| body(prepared))
    }
}

#[cfg(test)]
mod tests {
    use super::Snapshot;
    use crate::kv::Error;
    use crate::stores::database::{DatabaseFile, Durability, Location};
    use std::thread;
    use std::time::Duration;
    use tokio::sync::Notify;

    #[test]
    fn a_lock_is_waited_for_when_it_is_opened_and_not_when_it_reads() {
        let file = DatabaseFile::new(Location::memory());
        let patience = Duration::from_secs(5);
        let writer = file.open_for_writing(Durability::Full, patience).unwrap();
        writer
            .execute_batch("CREATE TABLE entries (value); INSERT INTO entries VALUES (1); BEGIN IMMEDIATE")
            .unwrap();
        let opening = thread::spawn(move || {
            let database = file.open_for_calls(patience).unwrap();
            Snapshot::new(database, "SELECT value FROM entries")?.without_waiting()
        });
        // There is no event for a thread that begins to wait for the lock.
        thread::sleep(Duration::from_millis(50));
        writer.execute_batch("COMMIT").unwrap();
        let mut snapshot = opening.join().unwrap().unwrap();
        let mut get = || {
            snapshot.get(None, &Notify::new(), |get| {
                Ok(get.query_row([], |row| row.get::<_, u32>(0))?)
            })
        };
        assert_eq!(get(), Ok(1));
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(matches!(get(), Err(Error::Timeout(_))));
        writer.execute_batch("COMMIT").unwrap();
        assert_eq!(get(), Ok(1));
    }
}
