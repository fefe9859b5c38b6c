//! Moves what is in a file's log into the database, on a thread of its own: the
//! engine would do it within a commit, which then takes several times as long.

use crate::stores::sqlite::database::{Database, Place};
use crate::stores::worker::spawn;
use std::cell::{Cell, RefCell};
use std::thread::JoinHandle;

/// So many entries are written between two checkpoints, each about a page.
const ENTRIES: usize = 1000;

/// A log of so many pages (of 4 KiB) is more than the thread keeps up with: the
/// engine helps.
pub const MOST_PAGES: u32 = 10_000;

pub struct Checkpoints {
    place: Place,
    written: Cell<usize>,
    running: RefCell<Option<JoinHandle<()>>>,
}

impl Checkpoints {
    pub fn new(place: &Place) -> Self {
        Self {
            place: place.clone(),
            written: Cell::new(0),
            running: RefCell::default(),
        }
    }

    /// So many entries more are in the log.
    pub fn wrote(&self, entries: usize) {
        self.written.set(self.written.get() + entries);
        let mut running = self.running.borrow_mut();
        let busy = running.as_ref().is_some_and(|thread| !thread.is_finished());
        if self.written.get() < ENTRIES || busy || matches!(self.place, Place::Memory(_)) {
            return;
        }
        self.written.set(0);
        let place = self.place.clone();
        *running = Some(spawn("deno-checkpoint", move || async move {
            if let Ok(database) = Database::open_for_checkpoints(&place) {
                // As far as it goes: a reader may be in the way.
                let _ = database.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            }
        }));
    }

    /// Waits until nothing has the file open here.
    pub fn end(&self) {
        if let Some(thread) = self.running.take() {
            let _ = thread.join();
        }
    }
}
