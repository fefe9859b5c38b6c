//! One SQL server, as the common worker sees it: what it is asked, and what it
//! may answer. How it is reached, and in which words, is its own matter.

use crate::kv::{Error, JsonText, Key, Outcome, Prefix, Result, Write};
use futures::future::BoxFuture;
use std::time::Duration;

/// An operation on one entry.
#[derive(Clone, Debug)]
pub struct Operation {
    pub key: Key,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    Get,
    Put(Write),
    /// Puts if the entry means the expected value, where `None` stands for no
    /// live entry.
    Cas(Option<JsonText>, Write),
}

/// Why something has no outcome yet.
#[derive(Clone, Debug)]
pub enum Lost {
    /// Nothing was sent, for want of a connection. `lasting` says that trying
    /// again can't help: a wrong password, or a server that was never reached.
    Refused { error: Error, lasting: bool },
    /// It was certainly not done, for a reason that passes: a deadlock, say.
    Undone(Error),
    /// The connection ended: it may have been done.
    Unknown(Error),
}

impl Lost {
    pub fn error(self) -> Error {
        match self {
            Self::Refused { error, .. } | Self::Undone(error) | Self::Unknown(error) => error,
        }
    }
}

/// A stored key in the engine's own encoding: where a walk goes on after it.
pub type Cursor = Vec<u8>;

/// Some consecutive entries.
#[derive(Debug, Default)]
pub struct Rows {
    pub rows: Vec<Row>,
    /// `None` at the end of the range.
    pub next: Option<Cursor>,
}

/// A live entry: its key as JSON and its value, or `None` for what isn't what
/// the format says.
#[derive(Debug)]
pub struct Row {
    pub key: Option<String>,
    pub value: Option<String>,
}

/// What became of a slice of a `clear`.
#[derive(Debug, Default)]
pub struct Cleared {
    /// How many live entries were deleted.
    pub live: u64,
    /// `None` at the end of the range.
    pub next: Option<Cursor>,
}

/// What became of a slice of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    pub removed: u64,
    /// Where to go on; `None` when all was looked at. An engine that finds
    /// expired entries by an index always says `None`.
    pub next: Option<Cursor>,
}

/// One SQL server behind the common worker.
///
/// All calls come from the worker's thread, several at a time. An engine keeps
/// its connections to itself; a call waits for one, up to the query timeout. A
/// statement that is not answered within that time is cancelled on the server
/// and ends as [`Error::Timeout`].
///
/// A missing table (another process may have dropped it) is created and the
/// statement repeated, unless the store was opened with `initialized: true`.
pub trait Engine: Send + Sync + 'static {
    /// Shows in the name of the worker's thread.
    const NAME: &'static str;

    /// How many groups may be under way at once.
    fn connections(&self) -> usize;

    /// For how long an operation waits for a connection, and then for its
    /// answer.
    fn query_timeout(&self) -> Duration;

    /// Runs a group. No two of its operations concern one key, so that it may
    /// run in any order, and in as few statements as the engine likes. A group
    /// holds either gets only, or no gets.
    ///
    /// The result has one outcome for each operation, in their order.
    fn run<'a>(&'a self, group: &'a [Operation]) -> BoxFuture<'a, Vec<Result<Outcome, Lost>>>;

    /// The next entries under a prefix, in key order. Looks at so many entries,
    /// live or expired: what it costs doesn't depend on what waits to be swept.
    fn read<'a>(
        &'a self,
        prefix: &'a Prefix,
        after: Option<&'a Cursor>,
        entries: u32,
    ) -> BoxFuture<'a, Result<Rows, Lost>>;

    /// Deletes the next entries under a prefix.
    fn clear<'a>(
        &'a self,
        prefix: &'a Prefix,
        after: Option<&'a Cursor>,
        slice: u32,
    ) -> BoxFuture<'a, Result<Cleared, Lost>>;

    /// Creates the table, if there is none. Concurrent creators never fail.
    fn create(&self) -> BoxFuture<'_, Result<(), Lost>>;

    /// Drops the table, if there is one.
    fn drop_table(&self) -> BoxFuture<'_, Result<(), Lost>>;

    /// Deletes expired entries, looking at so many at most, and never waiting
    /// for a lock.
    fn sweep<'a>(&'a self, after: Option<&'a Cursor>, slice: u32) -> BoxFuture<'a, Result<Swept, Lost>>;

    /// Gives all connections up.
    fn close(&self) -> BoxFuture<'_, ()>;
}
