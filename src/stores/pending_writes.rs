//! Which keys have writes under way, so that a `get` on the calling thread never
//! overtakes a `set` that was called before it.

use crate::kv::Command;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const SLOTS: usize = 512;

/// Counts by the key's hash. When two keys share a slot, a `get` of one may take
/// the longer way although only the other is being written.
pub struct PendingWrites {
    slots: [AtomicU32; SLOTS],
    total: AtomicU32,
    /// Writes of many keys.
    broad: AtomicU32,
    hasher: RandomState,
}

impl Default for PendingWrites {
    fn default() -> Self {
        Self {
            slots: [const { AtomicU32::new(0) }; SLOTS],
            total: AtomicU32::new(0),
            broad: AtomicU32::new(0),
            hasher: RandomState::new(),
        }
    }
}

/// A write under way. Dropped once the write is committed or has failed, and
/// before its answer is delivered.
pub struct PendingWrite {
    writes: Arc<PendingWrites>,
    slot: Slot,
}

#[derive(Clone, Copy)]
enum Slot {
    Key(usize),
    Broad,
}

impl PendingWrites {
    /// `None` for commands that write nothing.
    pub fn add(self: &Arc<Self>, command: &Command) -> Option<PendingWrite> {
        let slot = match command {
            Command::Get(_) => return None,
            Command::Put(key, _) | Command::Cas(key, ..) => Slot::Key(self.slot(key.as_json())),
            Command::Clear(_) | Command::Initialize | Command::Drop | Command::Close => Slot::Broad,
        };
        self.counter(slot).fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
        Some(PendingWrite {
            writes: Arc::clone(self),
            slot,
        })
    }

    pub fn concerns(&self, key: &str) -> bool {
        let under_way = |slot| self.counter(slot).load(Ordering::Acquire) > 0;
        self.any() && (under_way(Slot::Key(self.slot(key))) || under_way(Slot::Broad))
    }

    pub fn any(&self) -> bool {
        self.total.load(Ordering::Acquire) > 0
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

impl Drop for PendingWrite {
    fn drop(&mut self) {
        // A reader that sees the lower count also sees the commit.
        self.writes.counter(self.slot).fetch_sub(1, Ordering::Release);
        self.writes.total.fetch_sub(1, Ordering::Release);
    }
}
