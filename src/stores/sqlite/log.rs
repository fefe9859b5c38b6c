//! Writes what a commit adds to the write-ahead log in one piece.
//!
//! SQLite hands over each page in two writes, a header of 24 bytes and the
//! content: 128 system calls for a commit of 64 pages, which take half as long
//! as its sync. Here they are collected until the sync, which SQLite asks for
//! before it shows the commit to anybody. So this is for connections that sync
//! each commit (`PRAGMA synchronous = FULL`), and for the time of a COMMIT only:
//! what is left of one that failed is forgotten, and never written over frames
//! that another process has put there since.

use super::database;
use rusqlite::{Connection, ffi};
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr::NonNull;
use std::slice;

/// The header that starts a log, which SQLite syncs before it goes on.
const HEADER_BYTES: usize = 32;

/// Goes out at once, at most: SQLite's files take no more than 0x1FFFF bytes.
const MOST_BYTES: usize = 120 * 1024;

/// The log of a connection, with methods of ours. Dropped after the connection.
pub struct Log(NonNull<Methods>);

// SAFETY: what it points at is owned by it and the connection, which go
// together from thread to thread.
unsafe impl Send for Log {}

#[repr(C)]
struct Methods {
    /// First, so that SQLite's pointer to it is one to all of this.
    ours: ffi::sqlite3_io_methods,
    theirs: ffi::sqlite3_io_methods,
    waiting: UnsafeCell<Waiting>,
}

/// What SQLite believes to be written.
#[derive(Default)]
struct Waiting {
    /// Whether more may be collected.
    open: bool,
    bytes: Vec<u8>,
    /// Where in the log they belong.
    at: i64,
}

impl Log {
    /// `None` when the connection has no log open.
    pub fn of(connection: &Connection) -> Option<Self> {
        let log = database::file(connection, ffi::SQLITE_FCNTL_JOURNAL_POINTER)?;
        // SAFETY: the file object of an open connection that nobody else uses
        // now; its methods are null while no file is open.
        let theirs = *unsafe { (*log.as_ptr()).pMethods.as_ref() }?;
        let methods = Box::new(Methods {
            ours: ffi::sqlite3_io_methods {
                xRead: Some(read),
                xWrite: Some(write),
                xSync: Some(sync),
                ..theirs
            },
            theirs,
            waiting: UnsafeCell::default(),
        });
        let methods = NonNull::from(Box::leak(methods));
        // SAFETY: as above. The new methods do what the old ones do, and live
        // longer than the connection. Should SQLite close the file and open
        // another, that one gets SQLite's own methods.
        unsafe { (*log.as_ptr()).pMethods = methods.as_ptr().cast() };
        Some(Self(methods))
    }

    /// Runs a COMMIT of the connection this is the log of.
    pub fn collect<T, E>(&self, commit: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.set_open(true);
        let _closing = Closing(self);
        commit()
    }

    fn set_open(&self, open: bool) {
        // SAFETY: the methods live as long as this. `waiting` is used on the
        // connection's thread only, which is this one, and by no other frame
        // of its stack: SQLite is not running.
        let waiting = unsafe { &mut *self.0.as_ref().waiting.get() };
        waiting.open = open;
        waiting.bytes.clear();
    }
}

/// Closes it again, whatever becomes of the commit.
struct Closing<'l>(&'l Log);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.set_open(false);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and the connection is closed.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Waiting {
    /// Collects a write, if it follows those before it.
    fn take(&mut self, bytes: &[u8], at: i64) -> bool {
        let end = i64::try_from(self.bytes.len()).map(|length| self.at + length);
        let fits = self.open && self.bytes.len() + bytes.len() <= MOST_BYTES;
        if !fits || !(self.bytes.is_empty() || end == Ok(at)) {
            return false;
        }
        if self.bytes.is_empty() {
            self.at = at;
        }
        self.bytes.extend_from_slice(bytes);
        true
    }
}

/// Ours, from the file they were given to.
///
/// # Safety
///
/// `file` is a log whose methods are [`Methods::ours`], and the caller one of
/// them: there is one thread, and SQLite calls them one after another.
unsafe fn methods<'a>(file: *mut ffi::sqlite3_file) -> (&'a ffi::sqlite3_io_methods, &'a mut Waiting) {
    // SAFETY: `ours` is the first field of `Methods`, whose layout is C's; the
    // box is alive while the file is open; and see above.
    unsafe {
        let methods = (*file).pMethods.cast::<Methods>();
        (&(*methods).theirs, &mut *(*methods).waiting.get())
    }
}

/// Writes what was collected.
///
/// # Safety
///
/// As for [`methods`].
unsafe fn flush(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: promised by the caller.
    let (theirs, waiting) = unsafe { methods(file) };
    let bytes = mem::take(&mut waiting.bytes);
    let (Some(write), Ok(length)) = (theirs.xWrite, c_int::try_from(bytes.len())) else {
        return ffi::SQLITE_IOERR;
    };
    let status = match length {
        0 => ffi::SQLITE_OK,
        // SAFETY: SQLite's own method on its own file, with bytes that it gave.
        _ => unsafe { write(file, bytes.as_ptr().cast(), length, waiting.at) },
    };
    waiting.bytes = bytes;
    waiting.bytes.clear();
    status
}

/// `xWrite`
unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, content: *const c_void, length: c_int, at: i64) -> c_int {
    // SAFETY: called by SQLite, as the documentation of `sqlite3_io_methods`
    // says, on a file that was given our methods.
    unsafe {
        let bytes = slice::from_raw_parts(content.cast::<u8>(), usize::try_from(length).unwrap_or(0));
        if methods(file).1.take(bytes, at) {
            return ffi::SQLITE_OK;
        }
        let status = flush(file);
        if status != ffi::SQLITE_OK {
            return status;
        }
        let (theirs, waiting) = methods(file);
        if waiting.take(bytes, at) {
            return ffi::SQLITE_OK;
        }
        theirs
            .xWrite
            .map_or(ffi::SQLITE_IOERR, |write| write(file, content, length, at))
    }
}

/// `xSync`
unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as in `write`.
    unsafe {
        let waiting = &*methods(file).1;
        let header = waiting.at == 0 && waiting.bytes.len() == HEADER_BYTES;
        let status = flush(file);
        if status != ffi::SQLITE_OK {
            return status;
        }
        let (theirs, waiting) = methods(file);
        // There may be no other sync before the commit is shown.
        waiting.open &= header;
        theirs.xSync.map_or(ffi::SQLITE_IOERR, |sync| sync(file, flags))
    }
}

/// `xRead`
unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, into: *mut c_void, length: c_int, at: i64) -> c_int {
    // SAFETY: as in `write`.
    unsafe {
        let status = flush(file);
        if status != ffi::SQLITE_OK {
            return status;
        }
        let (theirs, _) = methods(file);
        theirs
            .xRead
            .map_or(ffi::SQLITE_IOERR, |read| read(file, into, length, at))
    }
}

#[cfg(test)]
mod tests {
    use super::{Log, write as write_log};
    use crate::stores::SqliteOptions;
    use crate::stores::sqlite::database::{self, Database, Place};
    use rusqlite::{Connection, Result, ffi, params};
    use std::cell::Cell;
    use std::ffi::{c_int, c_void};
    use std::path::{Path, PathBuf};

    type Write = unsafe extern "C" fn(*mut ffi::sqlite3_file, *const c_void, c_int, i64) -> c_int;

    thread_local! {
        static REAL: Cell<Option<Write>> = const { Cell::new(None) };
        static WRITES: Cell<u32> = const { Cell::new(0) };
        /// The write after so many fails, as on a full disk.
        static ALLOWED: Cell<u32> = const { Cell::new(u32::MAX) };
    }

    /// Counts the writes that reach the log of a connection on this thread.
    fn count_writes(connection: &Connection) {
        let log = database::file(connection, ffi::SQLITE_FCNTL_JOURNAL_POINTER).unwrap();
        // SAFETY: as in `Log::of`; the table is never freed.
        unsafe {
            let theirs = *(*log.as_ptr()).pMethods;
            REAL.set(theirs.xWrite);
            (*log.as_ptr()).pMethods = Box::leak(Box::new(ffi::sqlite3_io_methods {
                xWrite: Some(counted),
                ..theirs
            }));
        }
    }

    unsafe extern "C" fn counted(file: *mut ffi::sqlite3_file, bytes: *const c_void, length: c_int, at: i64) -> c_int {
        WRITES.set(WRITES.get() + 1);
        if WRITES.get() > ALLOWED.get() {
            return ffi::SQLITE_FULL;
        }
        // SAFETY: what SQLite gave, to SQLite's own method.
        unsafe { REAL.get().unwrap()(file, bytes, length, at) }
    }

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("fedify-kv-log-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir(&folder).unwrap();
            Self(folder)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn open(path: &Path) -> Database {
        let place = Place::File(path.into());
        let mut database = Database::open_for_writing(&place, &SqliteOptions::default()).unwrap();
        let create = "CREATE TABLE IF NOT EXISTS entries (key INTEGER PRIMARY KEY, value TEXT)";
        database.execute_batch(create).unwrap();
        count_writes(&database);
        database.log = Log::of(&database);
        assert!(database.log.is_some());
        database
    }

    /// Writes entries, about one to a page, and commits them.
    fn write(database: &Database, revision: u32, entries: u32) -> Result<()> {
        database.execute_batch("BEGIN IMMEDIATE")?;
        let value = revision.to_string().repeat(3000);
        for key in 0..entries {
            database.execute("REPLACE INTO entries VALUES (?1, ?2)", params![key, value])?;
        }
        database.commit()
    }

    fn revisions(connection: &Connection) -> Vec<(String, u32)> {
        let sound: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(sound, "ok");
        let sql = "SELECT substr(value, 1, 1), count(*) FROM entries GROUP BY 1 ORDER BY 1";
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// What is read after a crash: the files alone, the log checked frame by frame.
    fn recovered(scratch: &Scratch) -> Vec<(String, u32)> {
        std::fs::copy(scratch.path("a.db"), scratch.path("b.db")).unwrap();
        std::fs::copy(scratch.path("a.db-wal"), scratch.path("b.db-wal")).unwrap();
        revisions(&Connection::open(scratch.path("b.db")).unwrap())
    }

    fn all(revision: u32, entries: u32) -> Vec<(String, u32)> {
        vec![(revision.to_string(), entries)]
    }

    #[test]
    fn a_commit_of_many_pages_is_a_few_writes() {
        let scratch = Scratch::new("few");
        let database = open(&scratch.path("a.db"));
        write(&database, 1, 60).unwrap();
        WRITES.set(0);
        write(&database, 2, 60).unwrap();
        assert!((1..=3).contains(&WRITES.get()), "{} writes", WRITES.get());
        assert_eq!(recovered(&scratch), all(2, 60));
    }

    #[test]
    fn so_is_one_that_starts_the_log_anew() {
        let scratch = Scratch::new("anew");
        let database = open(&scratch.path("a.db"));
        write(&database, 1, 60).unwrap();
        let busy = |row: &rusqlite::Row<'_>| row.get::<_, u32>(0);
        let busy = database.query_row("PRAGMA wal_checkpoint(RESTART)", [], busy);
        assert_eq!(busy, Ok(0));
        WRITES.set(0);
        write(&database, 2, 60).unwrap();
        assert!((2..=4).contains(&WRITES.get()), "{} writes", WRITES.get());
        assert_eq!(recovered(&scratch), all(2, 60));
    }

    #[test]
    fn a_commit_that_fails_leaves_nothing_to_be_written_later() {
        let scratch = Scratch::new("fails");
        let database = open(&scratch.path("a.db"));
        write(&database, 1, 100).unwrap();
        for allowed in 0..4 {
            WRITES.set(0);
            ALLOWED.set(allowed);
            write(&database, 2, 100).unwrap_err();
            ALLOWED.set(u32::MAX);
            assert!(database.is_autocommit());
            // Where those frames would have gone, there are now another's.
            let other = Connection::open(scratch.path("a.db")).unwrap();
            other.execute("UPDATE entries SET value = '3'", []).unwrap();
            assert_eq!(revisions(&database), all(3, 100));
            assert_eq!(recovered(&scratch), all(3, 100));
            write(&database, 4, 100).unwrap();
            assert_eq!(revisions(&other), all(4, 100));
        }
        assert_eq!(recovered(&scratch), all(4, 100));
    }

    /// With a cache so small that pages go to the log before the commit.
    fn spill(database: &Database, entries: u32) -> Result<()> {
        database.pragma_update(None, "cache_size", 10)?;
        database.execute_batch("BEGIN IMMEDIATE")?;
        for revision in [5, 6, 7] {
            for key in 0..entries {
                let value = revision.to_string().repeat(3000);
                database.execute("REPLACE INTO entries VALUES (?1, ?2)", params![key, value])?;
            }
        }
        Ok(())
    }

    #[test]
    fn pages_may_go_to_the_log_before_the_commit_and_be_read_and_written_again() {
        for entries in [20, 100] {
            let scratch = Scratch::new("spills");
            let database = open(&scratch.path("a.db"));
            spill(&database, entries).unwrap();
            database.commit().unwrap();
            assert_eq!(recovered(&scratch), all(7, entries));
            let log = database.log.as_ref().unwrap();
            let whole = || spill(&database, entries).and_then(|()| database.execute_batch("COMMIT"));
            log.collect(whole).unwrap();
            assert_eq!(revisions(&database), all(7, entries));
            assert_eq!(recovered(&scratch), all(7, entries));
        }
    }

    #[test]
    fn what_is_left_of_a_commit_is_forgotten() {
        let scratch = Scratch::new("left");
        let database = open(&scratch.path("a.db"));
        let file = database::file(&database, ffi::SQLITE_FCNTL_JOURNAL_POINTER).unwrap();
        WRITES.set(0);
        let log = database.log.as_ref().unwrap();
        // SAFETY: the log's own methods, as SQLite would call them.
        let left =
            log.collect(|| unsafe { Ok::<_, ()>(write_log(file.as_ptr(), c"frame".as_ptr().cast(), 5, 1 << 20)) });
        assert_eq!((left, WRITES.get()), (Ok(ffi::SQLITE_OK), 0));
        // SAFETY: as above.
        let synced = unsafe { super::sync(file.as_ptr(), ffi::SQLITE_SYNC_NORMAL) };
        assert_eq!((synced, WRITES.get()), (ffi::SQLITE_OK, 0));
    }
}
