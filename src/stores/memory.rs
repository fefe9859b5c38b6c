//! Entries in this process: an ordered map that answers on the calling thread.

use crate::kv::{
    Command, Error, Job, JsonText, Key, ListExecutor, Millis, Outcome, Page, PageLimits, Pages, Prefix, Reply, Result,
    Store, Write, now,
};
use futures::future::BoxFuture;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// How many expired entries are removed each time the lock is held. Callers wait
/// for the lock.
const SWEEP_SLICE: usize = 256;

/// Expired entries are invisible at once. Their memory is freed this much later.
const SWEEP_PAUSE: Duration = Duration::from_millis(200);

#[derive(Default)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    entries: Mutex<Entries>,
    /// The entries' counter, to be read without the lock.
    bytes: Arc<AtomicUsize>,
    /// Notified when there is an earlier deadline, and when the store is dropped.
    sweep: Condvar,
}

#[derive(Default)]
struct Entries {
    by_key: BTreeMap<Arc<str>, Entry>,
    by_deadline: BTreeSet<(Millis, Arc<str>)>,
    /// The memory that the entries take. Changed only under the lock.
    bytes: Arc<AtomicUsize>,
    sweeping: bool,
    gone: bool,
}

impl Default for Shared {
    fn default() -> Self {
        let entries = Entries::default();
        Self {
            bytes: Arc::clone(&entries.bytes),
            entries: Mutex::new(entries),
            sweep: Condvar::new(),
        }
    }
}

struct Entry {
    value: JsonText,
    expires: Option<Millis>,
}

impl Entry {
    /// What it takes with its key: their text, and about 100 bytes for the
    /// map's node and the two allocations.
    fn bytes(&self, key: &str) -> usize {
        key.len() + self.value.as_str().len() + 100
    }

    fn is_live(&self, now: Millis) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

impl Entries {
    fn live(&self, key: &str) -> Option<&JsonText> {
        self.by_key
            .get(key)
            .filter(|entry| entry.is_live(now()))
            .map(|entry| &entry.value)
    }

    fn put(&mut self, key: Arc<str>, write: Write) {
        self.remove(&key);
        if let Write::Store { value, ttl } = write {
            let expires = ttl.map(|ttl| ttl.deadline(now()));
            if let Some(expires) = expires {
                self.by_deadline.insert((expires, Arc::clone(&key)));
            }
            let entry = Entry { value, expires };
            self.add_bytes(entry.bytes(&key).cast_signed());
            self.by_key.insert(key, entry);
        }
    }

    fn add_bytes(&self, bytes: isize) {
        // No other thread writes it meanwhile.
        let sum = self.bytes.load(Ordering::Relaxed).wrapping_add_signed(bytes);
        self.bytes.store(sum, Ordering::Relaxed);
    }

    fn remove(&mut self, key: &str) -> Option<Entry> {
        let (key, entry) = self.by_key.remove_entry(key)?;
        self.add_bytes(-entry.bytes(&key).cast_signed());
        if let Some(expires) = entry.expires {
            self.by_deadline.remove(&(expires, key));
        }
        Some(entry)
    }

    fn clear(&mut self, prefix: &Prefix) -> u64 {
        let now = now();
        let keys: Vec<_> = self.under(prefix, None).map(|(key, _)| Arc::clone(key)).collect();
        let live = keys
            .iter()
            .filter_map(|key| self.remove(key))
            .filter(|entry| entry.is_live(now))
            .count();
        live as u64
    }

    fn under(&self, prefix: &Prefix, after: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &Entry)> + use<'_> {
        let (first, last) = match prefix.json_range() {
            Some((first, last)) => (Bound::Included(first), Bound::Included(last)),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let first = after.map_or(first, |after| Bound::Excluded(after.to_owned()));
        let bounds = (first.as_ref().map(String::as_str), last.as_ref().map(String::as_str));
        self.by_key.range::<str, _>((bounds.0, bounds.1))
    }

    /// Removes some expired entries. Returns whether there may be more.
    fn sweep(&mut self) -> bool {
        let now = now();
        for _ in 0..SWEEP_SLICE {
            match self.by_deadline.first() {
                Some((deadline, _)) if *deadline <= now => {}
                _ => return false,
            }
            if let Some((_, key)) = self.by_deadline.pop_first() {
                self.remove(&key);
            }
        }
        true
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock()
    }

    /// Runs on a thread of its own while there are entries with a ttl.
    fn sweep(&self) {
        let mut entries = self.lock();
        while !entries.gone {
            if entries.sweep() {
                drop(entries);
                thread::yield_now();
                entries = self.lock();
                continue;
            }
            let Some((deadline, _)) = entries.by_deadline.first() else {
                break;
            };
            let wait = u64::try_from(deadline - now()).unwrap_or(0);
            let wait = Duration::from_millis(wait).max(SWEEP_PAUSE);
            self.sweep.wait_for(&mut entries, wait);
        }
        entries.sweeping = false;
    }
}

impl MemoryStore {
    fn put(&self, mut entries: MutexGuard<'_, Entries>, key: &Key, write: Write) {
        let earliest = |entries: &Entries| entries.by_deadline.first().map(|(deadline, _)| *deadline);
        let before = earliest(&entries);
        entries.put(key.as_json().into(), write);
        // If the thread wakes up too early, it finds nothing and waits again.
        let is_earlier = earliest(&entries).is_some_and(|after| before.is_none_or(|before| after < before));
        if entries.sweeping && !is_earlier || entries.by_deadline.is_empty() {
            return;
        }
        if entries.sweeping {
            self.0.sweep.notify_one();
        } else {
            entries.sweeping = true;
            let shared = Arc::clone(&self.0);
            let sweeper = thread::Builder::new().name("fedify-kv-expiry".into());
            // Without a thread the entries still expire for callers; the next
            // write tries again.
            entries.sweeping = sweeper.spawn(move || shared.sweep()).is_ok();
        }
    }

    fn cas(&self, key: &Key, expected: Option<&JsonText>, write: Write) -> Outcome {
        let entries = self.0.lock();
        let matches = match (entries.live(key.as_json()), expected) {
            (None, None) => true,
            (Some(stored), Some(expected)) => expected.means(stored.as_str(), key)?,
            _ => false,
        };
        if matches {
            self.put(entries, key, write);
        }
        Ok(Reply::Swapped(matches))
    }

    fn empty(&self) {
        let mut entries = self.0.lock();
        // The sweeping thread still runs, and ends when it finds nothing.
        let sweeping = entries.sweeping;
        let bytes = Arc::clone(&entries.bytes);
        bytes.store(0, Ordering::Relaxed);
        let old = std::mem::replace(
            &mut *entries,
            Entries {
                bytes,
                sweeping,
                ..Entries::default()
            },
        );
        drop(entries);
        self.0.sweep.notify_one();
        drop(old);
    }
}

impl Store for MemoryStore {
    fn answer(&self, command: Command, _: bool) -> std::result::Result<Outcome, Command> {
        Ok(match command {
            Command::Get(key) => {
                let value = self.0.lock().live(key.as_json()).cloned();
                Ok(Reply::Value(key, value))
            }
            Command::Put(key, write) => {
                self.put(self.0.lock(), &key, write);
                Ok(Reply::Done)
            }
            Command::Cas(key, expected, write) => self.cas(&key, expected.as_ref(), write),
            Command::Clear(prefix) => Ok(Reply::Count(self.0.lock().clear(&prefix))),
            Command::Initialize => Ok(Reply::Done),
            Command::Drop | Command::Close => {
                self.empty();
                Ok(Reply::Done)
            }
        })
    }

    fn submit(&self, job: Job) {
        let outcome = self.answer(job.command, false).unwrap_or(Err(Error::Closed));
        job.answer.deliver(outcome);
    }

    fn memory(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        Box::new(MemoryPages {
            shared: Arc::clone(&self.0),
            prefix,
            limits,
            after: None,
        })
    }

    fn list_executor(&self) -> Result<Option<Arc<dyn ListExecutor>>> {
        Ok(None)
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.0.lock().gone = true;
        self.0.sweep.notify_one();
    }
}

struct MemoryPages {
    shared: Arc<Shared>,
    prefix: Prefix,
    limits: PageLimits,
    after: Option<Arc<str>>,
}

impl MemoryPages {
    fn page(&mut self) -> Page {
        let entries = self.shared.lock();
        let now = now();
        let mut page = Page::default();
        for (key, entry) in entries.under(&self.prefix, self.after.as_deref()) {
            if page.is_full(self.limits) {
                return page;
            }
            if entry.is_live(now) {
                page.push(key, entry.value.as_str());
            }
            self.after = Some(Arc::clone(key));
        }
        page.end()
    }
}

impl Pages for MemoryPages {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(std::future::ready(Ok(self.page())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{KeyBuilder, Ttl};

    fn key(part: &str) -> Key {
        let mut key = KeyBuilder::default();
        key.push(part);
        key.key().unwrap()
    }

    fn put(store: &MemoryStore, part: &str, length: usize, ttl: Option<Ttl>) {
        let value = JsonText::new("1".repeat(length));
        store
            .answer(Command::Put(key(part), Write::Store { value, ttl }), false)
            .unwrap()
            .unwrap();
    }

    #[test]
    fn its_memory_is_that_of_its_entries() {
        let store = MemoryStore::default();
        assert_eq!(store.memory(), 0);
        put(&store, "a", 10_000, None);
        put(&store, "b", 10_000, None);
        assert!((20_000..21_000).contains(&store.memory()));
        put(&store, "a", 5_000, None);
        assert!((15_000..16_000).contains(&store.memory()));
        store
            .answer(Command::Put(key("b"), Write::Delete), false)
            .unwrap()
            .unwrap();
        assert!((5_000..6_000).contains(&store.memory()));
        put(&store, "c", 10_000, Ttl::from_millis(1.0));
        while store.memory() > 6_000 {
            thread::yield_now();
        }
        store.answer(Command::Drop, false).unwrap().unwrap();
        assert_eq!(store.memory(), 0);
    }
}
