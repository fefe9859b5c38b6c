//! A look at the header of the write-ahead log's index, which all processes on
//! the database share.
//!
//! Its layout is part of SQLite's documented file format ("The WAL-Index File
//! Format"). Every commit of any process changes the header before it returns.
//! So an unchanged header proves, without a lock, that a snapshot is still the
//! latest state.

use super::connection::file;
use rusqlite::{Connection, ffi};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

/// The first of the two copies of the header is 48 bytes.
pub type Header = [u32; 12];

/// The index comes in blocks of this size, the header in the first.
const BLOCK: c_int = 32 * 1024;

/// Position of `mxFrame`, the number of frames in the log, in words.
const FRAMES: usize = 4;

/// Position of `nBackfill`, the frames already in the database, in words.
const BACKFILLED: usize = 24;

pub struct WalIndex(ptr::NonNull<AtomicU32>);

// SAFETY: it points at memory that every process on the database shares and
// that is only read here, atomically.
unsafe impl Send for WalIndex {}

impl WalIndex {
    /// `None` when the connection has no write-ahead log, or no shared index.
    /// Must be dropped before the connection is.
    pub fn of(connection: &Connection) -> Option<Self> {
        // The first read creates the index. If it fails, there is none.
        connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
            .ok()?;
        let mut block: *mut c_void = ptr::null_mut();
        let file = file(connection)?.as_ptr();
        // SAFETY: SQLite returned the file object of an open database; its
        // methods are null while no file is open.
        let methods = unsafe { (*file).pMethods.as_ref() }?;
        if methods.iVersion < 2 {
            return None;
        }
        let map = methods.xShmMap?;
        // SAFETY: called as SQLite calls it itself: on its own file object,
        // with its block size, and without extending the index (the fourth
        // argument): a block that is not there gives null.
        let status = unsafe { map(file, 0, BLOCK, 0, &raw mut block) };
        if status != ffi::SQLITE_OK {
            return None;
        }
        // Block 0 stays where it is until the connection closes.
        ptr::NonNull::new(block.cast()).map(Self)
    }

    pub fn header(&self) -> Header {
        std::array::from_fn(|word| self.word(word))
    }

    /// Frames in the log, and how many of them the database already has.
    pub fn frames(&self) -> (u32, u32) {
        (self.word(FRAMES), self.word(BACKFILLED))
    }

    fn word(&self, index: usize) -> u32 {
        // SAFETY: the block is larger than the header, aligned to a page, and
        // mapped while the connection, which outlives this, is open. Other
        // processes write to it, hence the atomic load.
        unsafe { self.0.add(index).as_ref() }.load(Ordering::Acquire)
    }
}
