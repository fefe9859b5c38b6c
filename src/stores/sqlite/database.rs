//! Connections to a database, and what its errors mean to a caller.

use super::log::Log;
use super::{Durability, SqliteOptions};
use crate::kv::{Error, Result};
use crate::stores::files::{self, Claim};
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};
use std::ffi::c_int;
use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Connections map this much of a file: reads of large values come three times
/// cheaper, and writes copy the pages that they change without a system call.
const MAPPED_BYTES: i64 = 256 * 1024 * 1024;

/// Writes change pages all over a database; more of them fit than by default.
const WRITER_CACHE_KIB: i64 = 16 * 1024;

/// Where a database is.
#[derive(Clone)]
pub enum Place {
    File(PathBuf),
    /// A name that connections of this process share.
    Memory(String),
}

impl Place {
    pub fn memory() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self::Memory(format!("/fedify-kv-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Memory(_) => f.write_str(":memory:"),
        }
    }
}

/// An open connection.
pub struct Database {
    connection: Connection,
    /// If commits go to the log in one piece. Used by the connection until it
    /// is closed, and the claim is given up after that: fields drop in order.
    pub(super) log: Option<Log>,
    claim: Option<Claim>,
}

impl Deref for Database {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Database {
    /// The writer's connection. Creates the file when there is none, and
    /// switches it to a write-ahead log.
    pub fn open_for_writing(place: &Place, options: &SqliteOptions) -> Result<Self> {
        let database = Self::open(place, options.busy_timeout)?;
        database
            .set_up_for_writing(options)
            .map_err(|error| match self::error(&error) {
                Error::Backend(why) => Error::Connection(format!("{place}: {why}")),
                other => other,
            })?;
        Ok(database)
    }

    /// For a connection that goes elsewhere: the claim must outlive it.
    pub fn into_parts(self) -> (Connection, Option<Claim>) {
        (self.connection, self.claim)
    }

    /// Commits the transaction under way.
    pub fn commit(&self) -> rusqlite::Result<()> {
        let commit = || self.connection.execute_batch("COMMIT");
        self.log.as_ref().map_or_else(commit, |log| log.collect(commit))
    }

    /// A connection that only reads.
    pub fn open_for_reading(place: &Place, busy_timeout: Duration) -> Result<Self> {
        let database = Self::open(place, busy_timeout)?;
        let set_up = || {
            database.pragma_update(None, "mmap_size", MAPPED_BYTES)?;
            database.pragma_update(None, "query_only", true)
        };
        set_up().map_err(|error| self::error(&error))?;
        Ok(database)
    }

    /// A connection that moves the log's content into the database.
    pub fn open_for_checkpoints(place: &Place) -> Result<Self> {
        Self::open(place, Duration::ZERO)
    }

    fn open(place: &Place, busy_timeout: Duration) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = match place {
            Place::File(path) => files::open(path, || Connection::open_with_flags(path, flags)),
            Place::Memory(name) => {
                // The VFS "memdb" shares what starts with a slash.
                let opened = Connection::open_with_flags_and_vfs(name, flags, c"memdb");
                let connection = opened.map_err(|error| self::error(&error))?;
                connection
                    .busy_timeout(busy_timeout)
                    .map_err(|error| self::error(&error))?;
                return Ok(Self {
                    connection,
                    log: None,
                    claim: None,
                });
            }
        };
        let Some(opened) = opened else {
            return Err(Error::Connection(format!(
                "{place} is open in this process already, through another copy of the SQLite library (node:sqlite or \
                better-sqlite3, say) or as a plain file; closing either one would cancel the other's locks and can \
                corrupt the database. Give this store a file of its own, or close the other one first"
            )));
        };
        let (connection, claim) = opened.map_err(|error| Error::Connection(format!("{place}: {error}")))?;
        connection
            .busy_timeout(busy_timeout)
            .map_err(|error| self::error(&error))?;
        Ok(Self {
            connection,
            log: None,
            claim: Some(claim),
        })
    }

    fn set_up_for_writing(&self, options: &SqliteOptions) -> rusqlite::Result<()> {
        self.switch_to_wal(options.busy_timeout)?;
        self.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        self.pragma_update(None, "mmap_size", MAPPED_BYTES)?;
        // Checkpoints run on a connection of their own.
        self.pragma_update(None, "wal_autocheckpoint", 0)?;
        self.commits(options.durability, options.busy_timeout)?;
        if cfg!(target_os = "macos") && options.durability == Durability::Full {
            // There, fsync alone leaves the data in the drive's cache.
            self.pragma_update(None, "fullfsync", true)?;
        }
        Ok(())
    }

    /// What commits survive from now on, and how long they wait for a lock.
    pub fn commits(&self, durability: Durability, busy_timeout: Duration) -> rusqlite::Result<()> {
        self.busy_timeout(busy_timeout)?;
        let synchronous = match durability {
            Durability::Full => "FULL",
            Durability::Normal => "NORMAL",
        };
        self.pragma_update(None, "synchronous", synchronous)
    }

    /// An existing database may be in use just now, and SQLite doesn't wait for
    /// this lock by itself. Where a log is not possible (in memory, on some
    /// network file systems) the database stays as it is.
    fn switch_to_wal(&self, busy_timeout: Duration) -> rusqlite::Result<()> {
        let start = Instant::now();
        loop {
            match self.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())) {
                Err(error) if is_busy(&error) && start.elapsed() < busy_timeout => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
    }
}

/// SQLite's object for the database's file, or for its log: which, `opcode` says.
pub fn file(connection: &Connection, opcode: c_int) -> Option<NonNull<ffi::sqlite3_file>> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the handle is open for as long as `connection` is borrowed, and
    // SQLITE_FCNTL_FILE_POINTER and SQLITE_FCNTL_JOURNAL_POINTER write a file
    // pointer to where they are told; any other would find no use for it.
    let status =
        unsafe { ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), opcode, (&raw mut file).cast()) };
    NonNull::new(file).filter(|_| status == ffi::SQLITE_OK)
}

/// The engine's words under our code.
pub fn error(error: &rusqlite::Error) -> Error {
    let words = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Timeout(words),
        Some(ErrorCode::CannotOpen | ErrorCode::NotADatabase) => Error::Connection(words),
        Some(ErrorCode::TooBig) => Error::ValueTooLarge(words),
        _ => Error::Backend(words),
    }
}

pub fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// SQLite has no code for it.
pub fn is_missing_table(error: &rusqlite::Error) -> bool {
    error.to_string().contains("no such table")
}
