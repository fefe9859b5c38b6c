//! What a storage format decides: its tables, and the statements on them.
//! Everything else is the same for all stores that keep a SQLite database.
//!
//! Each method runs on a connection, and within a transaction if it writes; the
//! caller begins and ends that. [`Error::Timeout`](crate::kv::Error::Timeout)
//! always means that another connection holds a lock that is needed.

use super::{Connection, Position, Range};
use crate::kv::{Command, Key, Millis, Outcome, Page, PageLimits, Prefix, Result};
use rusqlite::Statement;

pub trait Format: Send + Sync + Sized + 'static {
    /// The names of the threads that write and that list.
    const WRITER: &'static str;
    const LISTS: &'static str;

    /// Whether all tables exist and have the right columns. Takes no lock.
    fn is_complete(&self, connection: &Connection) -> Result<bool>;

    /// Creates the tables, or brings them up to date.
    fn create(&self, connection: &Connection) -> Result<()>;

    /// The statement that gets an entry.
    fn get(&self) -> &str;

    /// Runs that statement for a key.
    fn find(get: &mut Statement<'_>, key: &Key) -> Result<Found>;

    /// Begins a transaction on single entries. What is returned runs commands in
    /// it, and can be called again with more.
    ///
    /// A command that fails alone has an error for an outcome. An error for all
    /// means that the transaction must be rolled back.
    fn entries<'c>(&'c self, connection: &'c Connection) -> impl FnMut(&[&Command]) -> Result<Done> + 'c;

    /// Where the entries under a prefix are.
    fn range(prefix: &Prefix) -> Result<Range>;

    /// Reads a page from the start of a range, and moves the start behind it.
    fn page(&self, connection: &Connection, range: &mut Range, limits: PageLimits) -> Result<Page>;

    /// Deletes at most this many entries from the start of a range.
    fn clear(&self, connection: &Connection, range: &Range, most: u32) -> Result<Slice>;

    /// Deletes everything, or a part of it, as `clear` does.
    fn drop(&self, connection: &Connection, range: &Range, most: u32) -> Result<Slice>;

    /// When the first entry expires, if any does.
    fn first_expiry(&self, connection: &Connection) -> Result<Option<Millis>>;

    /// Deletes at most this many expired entries.
    fn sweep(&self, connection: &Connection, now: Millis, most: u32) -> Result<()>;
}

/// An entry that was looked for.
pub struct Found {
    /// Its JSON text, `None` if there is no such entry, or why it can't be read.
    pub value: Result<Option<String>>,
    pub expiry: Expiry,
}

impl Found {
    pub const NOTHING: Self = Self {
        value: Ok(None),
        expiry: Expiry::Unknown,
    };
}

/// When an entry expires.
pub enum Expiry {
    Never,
    At(Millis),
    Unknown,
}

/// What commands on single entries have done.
pub struct Done {
    pub outcomes: Vec<Outcome>,
    /// The earliest expiry of the entries that were written.
    pub first_expiry: Option<Millis>,
}

/// The result of deleting a slice.
#[derive(Default)]
pub struct Slice {
    /// How many of the deleted entries had not expired.
    pub live: u64,
    /// Where the rest starts, if there may be more.
    pub next: Option<Position>,
}
