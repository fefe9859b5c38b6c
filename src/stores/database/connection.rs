//! One connection to a database, with the settings that its purpose needs.

use super::claim::{self, Claim};
use super::location::Location;
use crate::kv::{Error, Result};
use rusqlite::{OpenFlags, ffi};
use std::cell::Cell;
use std::ffi::c_int;
use std::fs;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::time::Duration;

/// Connections map this many bytes of a file. Reads of large values are three
/// times as fast then, and writes need no system call to copy a page.
const MAPPED_BYTES: i64 = 256 * 1024 * 1024;

/// Larger than the default, because writes change pages all over a database.
const WRITER_CACHE_KIB: i64 = 16 * 1024;

/// How long connections to a database in memory wait for each other: they
/// belong to one store, and none of them holds a lock for long.
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);

/// What a resolved write has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// A crash of the process. A power loss may take the last writes, but does
    /// not damage the database.
    Normal,
    /// A power loss: synced to disk before it resolves.
    Full,
}

pub struct Connection {
    /// Before the claim, because fields are dropped in order.
    inner: rusqlite::Connection,
    claim: Option<Claim>,
    location: Location,
    commit_patience: Duration,
    /// What commits survive. `None` is SQLite's default.
    durability: Cell<Option<Durability>>,
}

impl Deref for Connection {
    type Target = rusqlite::Connection;
    fn deref(&self) -> &rusqlite::Connection {
        &self.inner
    }
}

/// The usual reason why a file can't be created. SQLite does not say it.
fn folder_note(location: &Location) -> &'static str {
    match location {
        Location::File(path) if path.parent().is_some_and(|folder| !folder.exists()) => " (its folder doesn't exist)",
        _ => "",
    }
}

impl Connection {
    /// Runs no statement yet, so that the caller can look at which file it is.
    pub fn open(location: &Location, creates: bool) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let unopened = |why: rusqlite::Error| Error::Connection(format!("{location}{}: {why}", folder_note(location)));
        let path = match location {
            Location::File(path) => path,
            Location::Memory(name) => {
                // The VFS "memdb" shares databases whose names start with a slash.
                let flags = flags | OpenFlags::SQLITE_OPEN_CREATE;
                let connection = rusqlite::Connection::open_with_flags_and_vfs(name, flags, c"memdb");
                return Ok(Self {
                    inner: connection.map_err(unopened)?,
                    claim: None,
                    location: location.clone(),
                    commit_patience: Duration::ZERO,
                    durability: Cell::new(None),
                });
            }
        };
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(Error::Connection(format!("{location} is not a regular file")));
        }
        let flags = if creates {
            flags | OpenFlags::SQLITE_OPEN_CREATE
        } else {
            flags
        };
        let connect = || rusqlite::Connection::open_with_flags(path, flags).map_err(unopened);
        let (connection, claim) = claim::open(path, connect)?;
        Ok(Self {
            inner: connection,
            claim: Some(claim),
            location: location.clone(),
            commit_patience: Duration::ZERO,
            durability: Cell::new(None),
        })
    }

    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The settings of a writer. It waits for no lock, except that where there is
    /// no write-ahead log, a commit waits for readers for up to `busy_timeout`.
    pub fn set_up_for_writing(&mut self, durability: Durability, busy_timeout: Duration) -> Result<()> {
        self.configure(|connection| {
            connection.busy_timeout(Duration::ZERO)?;
            connection.switch_to_wal()
        })?;
        let mode: String =
            self.configure(|connection| connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)))?;
        self.commit_patience = match self.claim {
            _ if mode == "wal" => Duration::ZERO,
            Some(_) => busy_timeout,
            None => MEMORY_PATIENCE,
        };
        self.configure(|connection| {
            connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
            connection.pragma_update(None, "mmap_size", MAPPED_BYTES)?;
            // Checkpoints run on a connection of their own.
            connection.pragma_update(None, "wal_autocheckpoint", 0)?;
            connection.sync_to_the_platter(durability)
        })
    }

    pub fn set_up_for_reading(&self, busy_timeout: Duration) -> Result<()> {
        self.configure(|connection| {
            connection.busy_timeout(busy_timeout)?;
            connection.pragma_update(None, "mmap_size", MAPPED_BYTES)?;
            connection.pragma_update(None, "query_only", true)
        })
    }

    /// The settings of a connection that reads and writes without waiting, once
    /// it has found what it needs.
    pub fn set_up_for_calls(&self, busy_timeout: Duration) -> Result<()> {
        self.configure(|connection| {
            connection.busy_timeout(busy_timeout)?;
            connection.pragma_update(None, "mmap_size", MAPPED_BYTES)?;
            connection.pragma_update(None, "wal_autocheckpoint", 0)
        })
    }

    pub fn set_up_for_checkpoints(&self, durability: Durability) -> Result<()> {
        self.configure(|connection| {
            connection.busy_timeout(Duration::ZERO)?;
            connection.sync_to_the_platter(durability)
        })
    }

    fn configure<T>(&self, set_up: impl FnOnce(&Self) -> rusqlite::Result<T>) -> Result<T> {
        set_up(self).map_err(|why| match why.into() {
            Error::Backend(why) => Error::Connection(format!("{}: {why}", self.location)),
            other => other,
        })
    }

    /// If a log is not possible (in memory, on some network file systems), the
    /// database keeps its mode.
    fn switch_to_wal(&self) -> rusqlite::Result<()> {
        self.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
    }

    /// On macOS, fsync alone leaves the data in the drive's cache.
    fn sync_to_the_platter(&self, durability: Durability) -> rusqlite::Result<()> {
        if cfg!(target_os = "macos") && durability == Durability::Full {
            self.pragma_update(None, "fullfsync", true)?;
        }
        Ok(())
    }

    /// What commits survive from now on.
    pub fn set_durability(&self, durability: Durability) -> rusqlite::Result<()> {
        if self.durability.get() == Some(durability) {
            return Ok(());
        }
        let synchronous = match durability {
            Durability::Full => "FULL",
            Durability::Normal => "NORMAL",
        };
        self.durability.set(None);
        self.pragma_update(None, "synchronous", synchronous)?;
        self.durability.set(Some(durability));
        Ok(())
    }

    /// Begins a transaction, and takes the lock where it writes.
    pub fn begin(&self, writes: Option<Durability>) -> rusqlite::Result<()> {
        let Some(durability) = writes else {
            return self.run("BEGIN");
        };
        self.set_durability(durability)?;
        self.run("BEGIN IMMEDIATE")
    }

    fn run(&self, sql: &str) -> rusqlite::Result<()> {
        self.prepare_cached(sql)?.execute([]).map(drop)
    }

    /// Commits the transaction under way.
    pub fn commit(&self) -> rusqlite::Result<()> {
        if self.commit_patience.is_zero() {
            return self.run("COMMIT");
        }
        self.busy_timeout(self.commit_patience)?;
        let committed = self.run("COMMIT");
        self.busy_timeout(Duration::ZERO)?;
        committed
    }

    /// Ends a transaction that failed, if it is still open.
    pub fn roll_back(&self) {
        if !self.is_autocommit() {
            // The caller reports the error that ended the transaction.
            drop(self.execute_batch("ROLLBACK"));
        }
    }

    /// Moves the log's content into the database, as far as readers allow, and
    /// truncates the log if all of it was moved. Returns whether it was.
    pub fn checkpoint_and_truncate(&self) -> bool {
        let busy = self.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        busy.is_ok_and(|busy| busy == 0)
    }

    /// Whether the path that was opened names another file now, or none.
    pub fn has_moved(&self) -> bool {
        let mut moved: c_int = 0;
        // SAFETY: the handle is open, and SQLITE_FCNTL_HAS_MOVED writes an int.
        unsafe {
            ffi::sqlite3_file_control(
                self.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_HAS_MOVED,
                (&raw mut moved).cast(),
            );
        }
        moved != 0
    }

    /// Closing the last connection leaves the log where it is.
    pub fn keep_log(&self) {
        let mut keep: c_int = 1;
        // SAFETY: the handle is open, and SQLITE_FCNTL_PERSIST_WAL reads and
        // writes an int.
        unsafe {
            ffi::sqlite3_file_control(
                self.handle(),
                c"main".as_ptr(),
                ffi::SQLITE_FCNTL_PERSIST_WAL,
                (&raw mut keep).cast(),
            );
        }
    }
}

/// SQLite's object for the database's file.
pub fn file(connection: &rusqlite::Connection) -> Option<NonNull<ffi::sqlite3_file>> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the handle is open for as long as `connection` is borrowed, and
    // SQLITE_FCNTL_FILE_POINTER writes a pointer to the given address.
    let status = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast(),
        )
    };
    NonNull::new(file).filter(|_| status == ffi::SQLITE_OK)
}
