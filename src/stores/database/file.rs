//! The one database that all connections of a store belong to: the file that
//! its writer opened, even if its path names another one later.

use super::Durability;
use super::connection::Connection;
use super::location::Location;
use crate::kv::{Error, Result};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After this time, reads on the calling thread check the path again. A check
/// takes half as long as a read.
const TRUSTED: Duration = Duration::from_micros(100);

/// Device and inode, which identify a file under any path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl FileId {
    /// `None` where the path names no file, or the system has no inodes.
    #[cfg(unix)]
    pub fn at(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    #[cfg(not(unix))]
    pub fn at(_: &Path) -> Option<Self> {
        None
    }
}

pub struct DatabaseFile {
    location: Location,
    opened: Mutex<Option<Opened>>,
    /// When a read last checked the path, in microseconds since `start`.
    looked: AtomicU64,
    start: Instant,
}

/// What the writer opened.
struct Opened {
    database: FileId,
    /// Its log and the log's index, if there are any.
    beside: Vec<(PathBuf, FileId)>,
}

impl Opened {
    /// `None` where the path names nothing, or the system has no inodes.
    fn at(path: &Path) -> Option<Self> {
        let database = FileId::at(path)?;
        // SQLite keeps them beside the file itself, not beside a link to it.
        let path = std::fs::canonicalize(path).ok()?;
        let beside = [LOG, INDEX].map(|suffix| beside(&path, suffix));
        let with_id = |path: PathBuf| FileId::at(&path).map(|id| (path, id));
        Some(Self {
            database,
            beside: beside.into_iter().filter_map(with_id).collect(),
        })
    }
}

/// What SQLite appends to a database's path for its log and the log's index.
const LOG: &str = "-wal";
const INDEX: &str = "-shm";

impl DatabaseFile {
    pub fn new(location: Location) -> Self {
        Self {
            location,
            opened: Mutex::new(None),
            looked: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The writer's connection. The first one creates the file where there is
    /// none.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if it can't be opened; [`Error::Timeout`] if another
    /// process holds a lock that is needed now.
    pub fn open_for_writing(&self, durability: Durability, busy_timeout: Duration) -> Result<Connection> {
        let is_first = self.opened.lock().is_none();
        let mut connection = if is_first {
            Connection::open(&self.location, true)?
        } else {
            self.open_existing()?
        };
        connection.set_up_for_writing(durability, busy_timeout)?;
        if is_first && let Location::File(path) = &self.location {
            *self.opened.lock() = Opened::at(path);
            self.confirm(&connection)?;
        }
        Ok(connection)
    }

    /// A connection that only reads.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if the path doesn't name the writer's file.
    pub fn open_for_reading(&self, busy_timeout: Duration) -> Result<Connection> {
        let connection = self.open_existing()?;
        connection.set_up_for_reading(busy_timeout)?;
        Ok(connection)
    }

    /// A connection for single entries on the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if the path doesn't name the writer's file.
    pub fn open_for_calls(&self, busy_timeout: Duration) -> Result<Connection> {
        let connection = self.open_existing()?;
        connection.set_up_for_calls(busy_timeout)?;
        Ok(connection)
    }

    /// A connection that moves the log's content into the database, with syncs
    /// like the writer's.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if the path doesn't name the writer's file.
    pub fn open_for_checkpoints(&self, durability: Durability) -> Result<Connection> {
        let connection = self.open_existing()?;
        connection.set_up_for_checkpoints(durability)?;
        Ok(connection)
    }

    fn open_existing(&self) -> Result<Connection> {
        self.check()?;
        let connection = Connection::open(&self.location, false)?;
        // Before its first statement: a connection to another file would read
        // our log as that file's.
        self.confirm(&connection)?;
        Ok(connection)
    }

    /// Makes sure that a connection is to the writer's file, and that this is
    /// where the path leads.
    fn confirm(&self, connection: &Connection) -> Result<()> {
        self.check()?;
        if connection.has_moved() {
            return Err(self.moved());
        }
        Ok(())
    }

    /// Makes sure that the path still names the file that the writer opened.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`]
    pub fn check(&self) -> Result<()> {
        let database = self.opened.lock().as_ref().map(|opened| opened.database);
        match &self.location {
            Location::File(path) if database.is_some() && FileId::at(path) != database => Err(self.moved()),
            _ => Ok(()),
        }
    }

    /// The same for reads that take microseconds: at most every 100 µs.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`]
    pub fn check_often(&self) -> Result<()> {
        #[expect(clippy::cast_possible_truncation, reason = "it takes 500,000 years")]
        let now = self.start.elapsed().as_micros() as u64;
        let looked = self.looked.load(Ordering::Relaxed);
        if looked != 0 && u128::from(now - looked.min(now)) < TRUSTED.as_micros() {
            return Ok(());
        }
        self.check()?;
        self.looked.store(now.max(1), Ordering::Relaxed);
        Ok(())
    }

    fn moved(&self) -> Error {
        Error::Connection(format!(
            "{} was replaced, moved or removed while it was open; put the file back, or close this store and open \
            a new one",
            self.location
        ))
    }

    /// Closes the writer's connection, which must be the last one.
    ///
    /// SQLite then moves the log's content into the database and deletes the log
    /// by its name. If the path names another file by now, the log of that name may
    /// be the other file's. It is then deleted only if it is ours; if ours stayed,
    /// SQLite would use it for the other file.
    pub fn close(&self, writer: Connection) {
        if self.check().is_ok() {
            return drop(writer);
        }
        writer.keep_log();
        let is_moved = writer.checkpoint_and_truncate();
        drop(writer);
        if let Some(opened) = self.opened.lock().as_ref().filter(|_| is_moved) {
            for (path, ours) in &opened.beside {
                if FileId::at(path) == Some(*ours) {
                    // If it can't be removed, it is at least empty.
                    drop(std::fs::remove_file(path));
                }
            }
        }
    }

    /// The size of the log, in bytes.
    pub fn log_size(&self) -> u64 {
        match &self.location {
            Location::File(path) => std::fs::metadata(beside(path, LOG)).map_or(0, |log| log.len()),
            Location::Memory(_) => 0,
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
