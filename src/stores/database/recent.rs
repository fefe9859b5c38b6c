//! A cache of values that were read repeatedly, valid until the database changes.
//!
//! The values belong to one state of the database, which the header of the log's
//! index identifies. After a commit of ours the values are valid in the new
//! state, except those that the commit wrote. After a commit of another
//! connection none is valid.

use super::wal::Header;
use crate::kv::{Millis, now};
use parking_lot::{Mutex, MutexGuard};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// Each key has one slot, which it shares with others: a new value replaces the
/// old one, and the cache takes 16 MiB at most.
const SLOTS: usize = 4096;
const MOST_BYTES: usize = 4096;

#[derive(Default)]
pub struct Recent {
    values: Mutex<Values>,
    hasher: BuildHasherDefault<DefaultHasher>,
}

#[derive(Default)]
struct Values {
    header: Header,
    /// Counts the states that did not follow from a commit of ours. Values of
    /// earlier epochs are not valid.
    epoch: u64,
    slots: Vec<Slot>,
}

#[derive(Clone, Default)]
struct Slot {
    /// The hash of the key that was read last. Only a value that is read twice is
    /// kept, so that reading everything once copies nothing.
    read: u64,
    value: Option<Value>,
}

#[derive(Clone)]
struct Value {
    epoch: u64,
    key: Box<str>,
    text: Box<str>,
    expires: Option<Millis>,
}

impl Recent {
    /// A key's value in this state, if it is kept and has not expired.
    pub fn get(&self, header: &Header, key: &str) -> Option<String> {
        let mut values = self.lock_now()?;
        if values.header != *header {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        let epoch = values.epoch;
        let value = values.slot(hash)?.value.as_ref()?;
        let known = value.epoch == epoch && *value.key == *key;
        let live = value.expires.is_none_or(|expires| expires > now());
        (known && live).then(|| value.text.to_string())
    }

    /// Keeps a value that was read in this state.
    pub fn put(&self, header: &Header, key: &str, text: &str, expires: Option<Millis>) {
        if key.len() + text.len() > MOST_BYTES {
            return;
        }
        let Some(mut values) = self.lock_now() else { return };
        if values.header != *header {
            values.header = *header;
            values.epoch += 1;
            values.slots.resize(SLOTS, Slot::default());
        }
        let hash = self.hasher.hash_one(key);
        let epoch = values.epoch;
        let Some(slot) = values.slot(hash) else { return };
        if slot.read == hash {
            slot.value = Some(Value {
                epoch,
                key: key.into(),
                text: text.into(),
                expires,
            });
        }
        slot.read = hash;
    }

    /// Whether the values belong to this state.
    pub fn is_of(&self, header: &Header) -> bool {
        self.lock().header == *header
    }

    /// Moves the values to a new state, after a commit of ours that wrote only
    /// these keys.
    pub fn advance<'k>(&self, before: &Header, after: &Header, written: impl Iterator<Item = &'k str>) {
        let mut values = self.lock();
        if values.header != *before {
            return;
        }
        for key in written {
            let hash = self.hasher.hash_one(key);
            // The slot may hold another key's value, which is then lost. That is
            // rare.
            if let Some(slot) = values.slot(hash) {
                slot.value = None;
            }
        }
        values.header = *after;
    }

    pub fn clear(&self) {
        *self.lock() = Values::default();
    }

    fn lock(&self) -> MutexGuard<'_, Values> {
        self.values.lock()
    }

    /// The calling thread does not wait for the writer.
    fn lock_now(&self) -> Option<MutexGuard<'_, Values>> {
        self.values.try_lock()
    }
}

impl Values {
    #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
    fn slot(&mut self, hash: u64) -> Option<&mut Slot> {
        self.slots.get_mut(hash as usize % SLOTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(state: u32) -> Header {
        [state; 12]
    }

    impl Recent {
        fn put_twice(&self, header: &Header, key: &str, text: &str, expires: Option<Millis>) {
            self.put(header, key, text, expires);
            self.put(header, key, text, expires);
        }
    }

    #[test]
    fn values_belong_to_one_state() {
        let recent = Recent::default();
        recent.put_twice(&header(1), "a", "1", None);
        assert_eq!(recent.get(&header(1), "a"), Some("1".into()));
        assert_eq!(recent.get(&header(2), "a"), None);
        recent.put_twice(&header(2), "b", "2", None);
        assert_eq!(recent.get(&header(2), "a"), None);
        assert_eq!(recent.get(&header(1), "a"), None);
        recent.clear();
        assert_eq!(recent.get(&header(2), "b"), None);
    }

    #[test]
    fn a_value_that_is_read_once_is_not_kept() {
        let recent = Recent::default();
        recent.put(&header(1), "a", "1", None);
        assert_eq!(recent.get(&header(1), "a"), None);
        recent.put(&header(1), "a", "1", None);
        assert_eq!(recent.get(&header(1), "a"), Some("1".into()));
    }

    #[test]
    fn a_commit_keeps_the_values_that_it_did_not_write() {
        let recent = Recent::default();
        recent.put_twice(&header(1), "a", "1", None);
        recent.put_twice(&header(1), "b", "2", None);
        recent.advance(&header(1), &header(2), ["a"].into_iter());
        assert!(recent.is_of(&header(2)) && !recent.is_of(&header(1)));
        assert_eq!(recent.get(&header(2), "a"), None);
        assert_eq!(recent.get(&header(2), "b"), Some("2".into()));
        // The values belong to another state.
        recent.advance(&header(5), &header(6), [].into_iter());
        assert_eq!(recent.get(&header(6), "b"), None);
    }

    #[test]
    fn an_expired_value_is_not_returned() {
        let recent = Recent::default();
        recent.put_twice(&header(1), "a", "1", Some(now()));
        recent.put_twice(&header(1), "b", "2", Some(now() + 60_000));
        assert_eq!(recent.get(&header(1), "a"), None);
        assert_eq!(recent.get(&header(1), "b"), Some("2".into()));
    }

    #[test]
    fn a_large_value_is_not_kept() {
        let recent = Recent::default();
        recent.put_twice(&header(1), "a", &"x".repeat(MOST_BYTES), None);
        assert_eq!(recent.get(&header(1), "a"), None);
    }
}
