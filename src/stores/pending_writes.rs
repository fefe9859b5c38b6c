//! Which keys have unfinished writes. An operation on the calling thread must not
//! overtake one that was called before it.

use crate::kv::Command;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const SLOTS: usize = 512;

/// Counts by the key's hash. When two keys share a slot, a `get` of one may take
/// the longer way although only the other is being written.
pub struct PendingWrites {
    slots: [AtomicU32; SLOTS],
    /// Writes of many keys.
    broad: AtomicU32,
    total: AtomicU32,
    /// All jobs, also those that write nothing.
    jobs: AtomicU32,
    hasher: RandomState,
}

impl Default for PendingWrites {
    fn default() -> Self {
        Self {
            slots: [const { AtomicU32::new(0) }; SLOTS],
            broad: AtomicU32::new(0),
            total: AtomicU32::new(0),
            jobs: AtomicU32::new(0),
            hasher: RandomState::new(),
        }
    }
}

/// A job under way. Dropped once it is committed or has failed, and before its
/// answer is delivered.
pub struct PendingJob {
    writes: Arc<PendingWrites>,
    /// `None` if it writes nothing.
    slot: Option<Slot>,
}

#[derive(Clone, Copy)]
enum Slot {
    Key(usize),
    Broad,
}

impl PendingWrites {
    /// A job with a command, or one that is not about entries.
    pub fn add(self: &Arc<Self>, command: Option<&Command>) -> PendingJob {
        let slot = match command {
            None | Some(Command::Get(_)) => None,
            Some(Command::Put(key, _) | Command::Cas(key, ..)) => Some(Slot::Key(self.slot(key.as_json()))),
            Some(Command::Clear(_) | Command::Initialize | Command::Drop | Command::Close) => Some(Slot::Broad),
        };
        if let Some(slot) = slot {
            self.counter(slot).fetch_add(1, Ordering::Relaxed);
            self.total.fetch_add(1, Ordering::Relaxed);
        }
        self.jobs.fetch_add(1, Ordering::Relaxed);
        PendingJob {
            writes: Arc::clone(self),
            slot,
        }
    }

    pub fn concerns(&self, key: &str) -> bool {
        let under_way = |slot| self.counter(slot).load(Ordering::Acquire) > 0;
        self.any() && (under_way(Slot::Key(self.slot(key))) || under_way(Slot::Broad))
    }

    pub fn any(&self) -> bool {
        self.total.load(Ordering::Acquire) > 0
    }

    /// Whether there is no job at all.
    pub fn is_idle(&self) -> bool {
        self.jobs.load(Ordering::Acquire) == 0
    }

    fn slot(&self, key: &str) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let hash = self.hasher.hash_one(key) as usize;
        hash % SLOTS
    }

    fn counter(&self, slot: Slot) -> &AtomicU32 {
        match slot {
            Slot::Key(index) => &self.slots[index],
            Slot::Broad => &self.broad,
        }
    }
}

impl Drop for PendingJob {
    fn drop(&mut self) {
        // A reader that sees the lower count also sees the commit.
        if let Some(slot) = self.slot {
            self.writes.counter(slot).fetch_sub(1, Ordering::Release);
            self.writes.total.fetch_sub(1, Ordering::Release);
        }
        self.writes.jobs.fetch_sub(1, Ordering::Release);
    }
}
