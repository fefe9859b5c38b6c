//! Flags that a store's threads share, and read without waiting.

use crate::kv::Millis;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use tokio::sync::Notify;

pub struct Notes {
    /// Rings when the writer has something to do beside jobs.
    pub bell: Notify,
    /// Whether the calling thread has written, and the writer has heard of it or
    /// will.
    wrote: AtomicBool,
    /// When the first of the entries expires that the calling thread has written
    /// since the writer last asked.
    first_expiry: AtomicI64,
    /// Whether a checkpoint is under way.
    syncs: AtomicBool,
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            bell: Notify::new(),
            wrote: AtomicBool::new(false),
            first_expiry: AtomicI64::new(Millis::MAX),
            syncs: AtomicBool::new(false),
        }
    }
}

/// A checkpoint under way. While it syncs the log, writes of it may wait.
pub struct Syncs(Arc<Notes>);

impl Syncs {
    pub fn begin(notes: &Arc<Notes>) -> Self {
        notes.syncs.store(true, Ordering::Release);
        Self(Arc::clone(notes))
    }
}

impl Notes {
    /// The calling thread has written.
    pub fn wrote(&self, first_expiry: Option<Millis>) {
        if let Some(first) = first_expiry {
            self.first_expiry.fetch_min(first, Ordering::AcqRel);
        }
        if !self.wrote.swap(true, Ordering::AcqRel) {
            self.bell.notify_one();
        }
    }

    /// The next write of the calling thread rings again.
    pub fn listen(&self) {
        self.wrote.store(false, Ordering::Release);
    }

    pub fn take_first_expiry(&self) -> Option<Millis> {
        let first = self.first_expiry.swap(Millis::MAX, Ordering::AcqRel);
        (first < Millis::MAX).then_some(first)
    }

    pub fn are_syncs_under_way(&self) -> bool {
        self.syncs.load(Ordering::Acquire)
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        self.0.syncs.store(false, Ordering::Release);
        self.0.bell.notify_one();
    }
}
