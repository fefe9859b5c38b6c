//! The interface between the common worker and one kind of server. Connections and
//! statements are the engine's own business.

use super::attempt::Limits;
use super::group::Group;
use super::operation::Operation;
use super::schedule::Progress;
use crate::kv::{Error, Key, Outcome, Prefix, Result};
use futures::future::BoxFuture;
use std::time::Duration;
use tokio::time::Instant;

/// Why an operation has no outcome yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nothing was sent, because there was no connection. `lasting` says that a
    /// retry can't help: a wrong password, or a server that was never reached.
    Refused { error: Error, lasting: bool },
    /// It was certainly not carried out, for a temporary reason such as a
    /// deadlock.
    Undone(Error),
    /// The connection ended; it may have been carried out.
    Unknown(Error),
}

impl Lost {
    pub fn error(self) -> Error {
        match self {
            Self::Refused { error, .. } | Self::Undone(error) | Self::Unknown(error) => error,
        }
    }
}

/// The lines of engines whose groups are either all gets or have none.
pub const GETS: usize = 0;
pub const RELAXED: usize = 1;
pub const WRITES: usize = 2;

/// A stored key in the engine's own encoding. A walk continues after it.
pub type Cursor = Vec<u8>;

/// Some consecutive entries.
#[derive(Debug, Default)]
pub struct Rows {
    pub rows: Vec<Row>,
    /// `None` at the end of the range.
    pub next: Option<Cursor>,
}

/// A live entry: its key as JSON, and its value. `None` for data that isn't in
/// the store's format.
#[derive(Debug)]
pub struct Row {
    pub key: Option<String>,
    pub value: Option<String>,
}

/// The result of one slice of a `clear`.
#[derive(Debug, Default)]
pub struct Cleared {
    /// How many live entries were deleted.
    pub live: u64,
    /// `None` at the end of the range.
    pub next: Option<Cursor>,
}

/// The result of one slice of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    pub removed: u64,
    /// Where to continue; `None` at the end. An engine that finds expired
    /// entries by an index always says `None`.
    pub next: Option<Cursor>,
}

/// One server behind the common worker.
///
/// Several calls are under way at a time. Each has a deadline, until which it waits
/// for one of the engine's connections and then for an answer. A statement that is
/// late is cancelled on the server before that; only if the server does not answer
/// that either until the deadline, the connection is given up.
///
/// If the table is missing (another process may have dropped it), it is created
/// and the statement repeated, unless the store was opened with `initialized:
/// true`.
pub trait Engine: Send + Sync + 'static {
    /// Shows in the name of the worker's thread.
    const NAME: &'static str;

    /// Whether its entries are in a table. If not, dropping it clears all of them.
    const HAS_TABLE: bool = true;

    /// While groups are under way, another one begins when this many operations wait
    /// per group. Large groups are cheap.
    const WORTH: usize = 16;

    /// What a walk over many entries has to know beside its cursor.
    type Walk: Default + Send + Sync;

    /// Where the server is, for messages.
    fn place(&self) -> &str;

    /// How many groups may run at once.
    fn connections(&self) -> usize;

    /// How long an operation may take.
    fn query_timeout(&self) -> Duration;

    /// Whether a write of this key is not to wait until it is on disk.
    fn is_relaxed(&self, _: &Key) -> bool {
        false
    }

    /// The line in which an operation waits. A group has operations of one line only.
    /// Gets need not wait until writes are on disk, and relaxed writes neither.
    fn line(&self, operation: &Operation) -> usize {
        if operation.is_get() {
            GETS
        } else if self.is_relaxed(&operation.key) {
            RELAXED
        } else {
            WRITES
        }
    }

    /// Whether another group of a line may begin while so many of this line and of all
    /// lines are under way. Writes may wait for a lock; one connection is left to gets.
    fn may_begin(&self, line: usize, _of_line: usize, of_all: usize) -> bool {
        let most = self.connections();
        let most = if line == GETS { most } else { (most - 1).max(1) };
        of_all < most
    }

    /// Runs a group. No two of its operations have the same key, so they may
    /// run in any order and in as few statements as the engine likes.
    ///
    /// The result has one outcome per operation, in their order.
    fn run<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Vec<Result<Outcome, Lost>>>;

    /// The next entries under a prefix, in key order. Looks at `entries` rows at
    /// most, live or expired, so that the cost doesn't depend on how many expired
    /// rows are left.
    fn read<'a>(
        &'a self,
        walk: &'a Self::Walk,
        prefix: &'a Prefix,
        after: Option<&'a Cursor>,
        entries: u32,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Rows, Lost>>;

    /// Deletes the next entries under a prefix.
    fn clear<'a>(
        &'a self,
        walk: &'a Self::Walk,
        prefix: &'a Prefix,
        after: Option<&'a Cursor>,
        slice: u32,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Cleared, Lost>>;

    /// Creates the table, if there is none, and does what else the store needs
    /// before its first operation. Concurrent creators never fail.
    fn create(&self, limits: Limits) -> BoxFuture<'_, Result<(), Lost>>;

    /// Drops the table, if there is one.
    fn drop_table(&self, _: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async { Ok(()) })
    }

    /// Makes an index agree with the entries, and returns how many there are.
    fn reindex<'a>(&'a self, _: &'a Progress) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async { Err(Error::InvalidOption("the store has no index".into())) })
    }

    /// Whether there is anything to sweep.
    fn needs_sweeps(&self) -> bool {
        true
    }

    /// Deletes expired entries. Looks at `slice` entries at most, and never
    /// waits for a lock.
    fn sweep<'a>(&'a self, after: Option<&'a Cursor>, slice: u32) -> BoxFuture<'a, Result<Swept, Lost>>;

    /// Closes the connections that have become too old. Returns when to do so
    /// again.
    fn tend(&self) -> Option<Instant> {
        None
    }

    /// The store is closed: lets go of functions of the caller's.
    fn forget(&self) {}

    /// Closes all connections. Those in use end with what uses them.
    fn close(&self) -> BoxFuture<'_, ()>;
}
