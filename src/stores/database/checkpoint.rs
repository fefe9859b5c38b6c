//! Keeps a database's log short: a thread of its own moves its content into the
//! database, so that no write waits for the syncs that this takes.

use super::Durability;
use super::file::DatabaseFile;
use super::wal::WalIndex;
use crate::stores::worker::spawn;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Frames in the log from which its content is moved, beside the writes; and
/// from which writes wait until that is done.
const ENOUGH_FRAMES: u32 = 1000;
const TOO_MANY_FRAMES: u32 = 4000;

/// When writes pause for so long, the rest of the log is moved too: reads that
/// need not look into the log are faster.
const PAUSE: Duration = Duration::from_millis(200);

/// A log of more bytes than this is truncated in a pause. A smaller one keeps its
/// place on disk, because writing over it is cheaper than extending it.
const LARGE_LOG: u64 = 4 * 1024 * 1024;

/// How long to wait before trying again what a reader or a shortage prevented.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

pub struct Checkpoints {
    file: Arc<DatabaseFile>,
    durability: Durability,
    /// Returns whether all of the log was moved.
    thread: Option<JoinHandle<bool>>,
    /// Whether nothing was written since the thread was started.
    in_pause: bool,
    due: Option<Instant>,
    retry: Duration,
}

/// What the log's length asks of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    Short,
    /// Its content must be in the database before more is written.
    TooLong,
}

impl Checkpoints {
    pub fn new(file: &Arc<DatabaseFile>, durability: Durability) -> Self {
        Self {
            file: Arc::clone(file),
            durability,
            thread: None,
            in_pause: false,
            due: None,
            retry: RETRY,
        }
    }

    /// When [`Self::run_if_due`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// After a write: starts a checkpoint if the log has grown long.
    pub fn wrote(&mut self, wal: Option<&WalIndex>) -> Log {
        let Some((frames, backfilled)) = wal.map(WalIndex::frames) else {
            return Log::Short;
        };
        if frames <= backfilled {
            return Log::Short;
        }
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

    /// In a pause: moves the rest of the log, and truncates a large one. What
    /// can't be done now is tried again later.
    pub fn run_if_due(&mut self) {
        if self.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.due = None;
        if self.in_pause && self.thread.as_ref().is_some_and(JoinHandle::is_finished) && self.wait() {
            return;
        }
        self.in_pause = self.start(true);
        self.due = Some(Instant::now() + self.retry);
        self.retry = LONGEST_RETRY.min(self.retry * 2);
    }

    /// Waits for the checkpoint under way, if there is one; whether it has moved
    /// all of the log.
    pub fn wait(&mut self) -> bool {
        self.thread.take().is_some_and(|thread| thread.join().unwrap_or(false))
    }

    /// Whether a checkpoint was started. One at a time.
    fn start(&mut self, truncates: bool) -> bool {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return false;
        }
        let (file, durability) = (Arc::clone(&self.file), self.durability);
        self.thread = spawn("checkpoint", move || run(&file, durability, truncates)).ok();
        self.thread.is_some()
    }
}

/// Whether all of the log was moved, and a large one truncated if it `truncates`.
fn run(file: &DatabaseFile, durability: Durability, truncates: bool) -> bool {
    let Ok(connection) = file.open_for_checkpoints(durability) else {
        return false;
    };
    let moved = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok(row.get::<_, i64>(1)? == row.get::<_, i64>(2)?)
    });
    // Truncating keeps writers waiting, but not for long: what takes syncs is
    // done by now.
    let is_large = truncates && file.log_size() > LARGE_LOG;
    moved.is_ok_and(|moved| moved) && (!is_large || connection.checkpoint_and_truncate())
}
