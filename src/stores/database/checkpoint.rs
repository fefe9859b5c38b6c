//! Keeps a database's log short: a separate thread moves the log's content into
//! the database, so that no write waits for the syncs of that.

use super::Durability;
use super::file::DatabaseFile;
use super::notes::{Notes, Syncs};
use super::wal::WalIndex;
use crate::host::thread::spawn;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// With this many frames in the log, its content is moved while writes go on; and
/// with this many, writes wait until it is moved.
const ENOUGH_FRAMES: u32 = 1000;
const TOO_MANY_FRAMES: u32 = 4000;

/// When writes pause for this long, the rest of the log is moved too, because
/// reads are faster with an empty log.
const PAUSE: Duration = Duration::from_millis(200);

/// A log of more bytes than this is truncated in a pause. A smaller one keeps its
/// place on disk, because writing over it is cheaper than extending it.
const LARGE_LOG: u64 = 4 * 1024 * 1024;

/// The pause before another attempt, when a reader or a shortage prevented one.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

pub struct Checkpoints {
    file: Arc<DatabaseFile>,
    notes: Arc<Notes>,
    durability: Durability,
    /// Returns whether all of the log was moved.
    thread: Option<JoinHandle<bool>>,
    /// Whether nothing was written since the thread was started.
    in_pause: bool,
    due: Option<Instant>,
    retry: Duration,
    /// How many frames the log had when it was last read.
    seen: u32,
    /// How many frames the log had when it was started over, all of which are in
    /// the database already; 0 once more was written.
    empty: u32,
}

/// Whether the next commit may be appended to the log, without moving its content
/// first.
pub fn is_appended_to(wal: &WalIndex) -> bool {
    let (frames, backfilled) = wal.frames();
    frames > backfilled && frames - backfilled < ENOUGH_FRAMES && frames < TOO_MANY_FRAMES
}

/// What a writer has to do because of the log's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Short,
    /// Its content must be in the database before more is written.
    TooLong,
}

impl Checkpoints {
    pub fn new(file: &Arc<DatabaseFile>, notes: &Arc<Notes>, durability: Durability) -> Self {
        Self {
            file: Arc::clone(file),
            notes: Arc::clone(notes),
            durability,
            thread: None,
            in_pause: false,
            due: None,
            retry: RETRY,
            seen: 0,
            empty: 0,
        }
    }

    /// When [`Self::run`] must be called next.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    pub fn are_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    /// The log was started over, and all of it is in the database already.
    pub fn begun(&mut self, wal: &WalIndex) {
        self.empty = wal.frames().0;
        self.seen = self.empty;
    }

    /// Whether something was written since this last looked.
    pub fn have_news(&self, wal: Option<&WalIndex>) -> bool {
        wal.is_some_and(|wal| wal.frames().0 != self.seen)
    }

    /// After a write: starts a checkpoint if the log has grown long.
    pub fn wrote(&mut self, wal: Option<&WalIndex>) -> Log {
        let Some((frames, backfilled)) = wal.map(WalIndex::frames) else {
            return Log::Short;
        };
        self.seen = frames;
        if frames <= backfilled || frames == self.empty {
            return Log::Short;
        }
        self.empty = 0;
        self.in_pause = false;
        self.retry = RETRY;
        self.due = Some(Instant::now() + PAUSE);
        if frames >= TOO_MANY_FRAMES {
            return Log::TooLong;
        }
        if frames.saturating_sub(backfilled) >= ENOUGH_FRAMES {
            self.start(false);
        }
        Log::Short
    }

    /// In a pause: moves the rest of the log, and truncates a large one. If that
    /// is not possible now, it is tried again later.
    pub fn run(&mut self, wal: Option<&WalIndex>) {
        self.due = None;
        if self.have_news(wal) {
            // The calling thread has written, so this is no pause.
            self.wrote(wal);
            return;
        }
        self.in_pause = self.start(true);
        self.due = Some(Instant::now() + self.retry);
        self.retry = LONGEST_RETRY.min(self.retry * 2);
    }

    /// Whether a checkpoint has ended, and has moved all of the log.
    pub fn have_moved_all(&mut self) -> bool {
        let has_ended = self.thread.is_some() && !self.notes.are_syncs_under_way();
        let moved = has_ended && self.wait();
        if moved && self.in_pause {
            self.due = None;
        }
        moved
    }

    /// Waits for the running checkpoint, if there is one. Returns whether it has
    /// moved all of the log.
    pub fn wait(&mut self) -> bool {
        self.thread.take().is_some_and(|thread| thread.join().unwrap_or(false))
    }

    /// Whether a checkpoint was started. One at a time.
    fn start(&mut self, truncates: bool) -> bool {
        if self.notes.are_syncs_under_way() {
            return false;
        }
        let (file, syncs, durability) = (Arc::clone(&self.file), Syncs::begin(&self.notes), self.durability);
        let thread = spawn("checkpoint", move || {
            let _syncs = syncs;
            run(&file, durability, truncates)
        });
        self.thread = thread.ok();
        self.thread.is_some()
    }
}

/// Returns whether all of the log was moved, and a large one truncated if it
/// `truncates`.
fn run(file: &DatabaseFile, durability: Durability, truncates: bool) -> bool {
    let Ok(connection) = file.open_for_checkpoints(durability) else {
        return false;
    };
    let moved = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok(row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
    });
    // Truncating keeps writers waiting, but not for long: the syncs are done by
    // now.
    let is_large = truncates && file.log_size() > LARGE_LOG;
    moved.is_ok_and(|moved| moved) && (!is_large || connection.checkpoint_and_truncate())
}
