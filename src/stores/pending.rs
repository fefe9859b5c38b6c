//! Which keys have writes under way, so that a `get` on the calling thread
//! never overtakes a `set` that was called before it.

use crate::kv::Command;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

const SLOTS: usize = 512;

/// Counts by the key's hash. Two keys on one slot cost a detour, no more.
pub struct PendingWrites {
    slots: [AtomicU32; SLOTS],
    total: AtomicU32,
    /// Writes that concern many keys.
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

impl PendingWrites {
    pub fn add(&self, command: &Command) {
        if let Some((slot, total)) = self.counters(command) {
            slot.fetch_add(1, Ordering::Relaxed);
            total.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Called once the write is committed, or has failed.
    pub fn remove(&self, command: &Command) {
        if let Some((slot, total)) = self.counters(command) {
            // Whoever sees the count go down also sees the commit.
            slot.fetch_sub(1, Ordering::Release);
            total.fetch_sub(1, Ordering::Release);
        }
    }

    pub fn concerns(&self, key: &str) -> bool {
        self.any() && (self.slot(key).load(Ordering::Acquire) > 0 || self.broad.load(Ordering::Acquire) > 0)
    }

    pub fn any(&self) -> bool {
        self.total.load(Ordering::Acquire) > 0
    }

    fn slot(&self, key: &str) -> &AtomicU32 {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let hash = self.hasher.hash_one(key) as usize;
        &self.slots[hash % SLOTS]
    }

    fn counters(&self, command: &Command) -> Option<(&AtomicU32, &AtomicU32)> {
        match command {
            Command::Get(_) => None,
            Command::Put(key, _) | Command::Cas(key, ..) => Some((self.slot(key.as_json()), &self.total)),
            Command::Clear(_) | Command::Initialize | Command::Drop | Command::Close => {
                Some((&self.broad, &self.total))
            }
        }
    }
}
