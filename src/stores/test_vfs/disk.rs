//! What a test sees of one database's files, and does to them.

use super::vfs;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::ffi;
use std::ffi::c_int;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

/// One of a database's files. The shared index (`-shm`) is none of them: it is
/// built anew from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Database,
    Wal,
    Journal,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Database, Self::Wal, Self::Journal];

    pub fn suffix(self) -> &'static str {
        match self {
            Self::Database => "",
            Self::Wal => "-wal",
            Self::Journal => "-journal",
        }
    }

    pub fn path(self, database: &Path) -> PathBuf {
        let mut path = database.as_os_str().to_owned();
        path.push(self.suffix());
        path.into()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Open,
    Delete,
    Read,
    Write,
    Truncate,
    Sync,
    Lock,
    ShmMap,
    ShmLock,
}

/// A call of SQLite's, before it is carried out.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub kind: Kind,
    pub method: Method,
    /// What is read or written; zeros for other methods.
    pub offset: i64,
    pub length: usize,
}

impl Call {
    pub fn is(&self, kind: Kind, method: Method) -> bool {
        self.kind == kind && self.method == method
    }

    /// A new connection reads this first.
    pub fn reads_header(&self) -> bool {
        self.is(Kind::Database, Method::Read) && self.offset == 0 && self.length == 100
    }
}

/// What becomes of a call instead of what it asks for.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// It fails with this extended result code.
    Fail(c_int),
    /// It succeeds, and nothing is done.
    Skip,
    /// A write is carried out after the next sync of the file.
    Hold,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Opened,
    Closed,
    Wrote {
        offset: usize,
        bytes: Vec<u8>,
    },
    /// The file was truncated or extended.
    Resized(usize),
    /// All earlier events than this one are on the disk, as far as they are
    /// about this file.
    Synced {
        before: usize,
        flags: c_int,
        /// So are earlier deletions of other files.
        folder: bool,
    },
    SyncFailed {
        before: usize,
    },
    Deleted {
        synced: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    File(Kind, Change),
    /// A test's own, such as "this operation was acknowledged".
    Mark(usize),
}

type Rule = dyn Fn(&Call) -> Option<Action> + Send + Sync;

/// A database that is watched, from its creation on or as it is now.
pub struct Disk {
    path: PathBuf,
    initial: [Option<Vec<u8>>; 3],
    events: Mutex<Vec<Event>>,
    more: Condvar,
    rules: Mutex<Vec<Arc<Rule>>>,
}

static WATCHED: Mutex<Vec<Weak<Disk>>> = Mutex::new(Vec::new());

impl Disk {
    /// Watches a database that no connection has open yet, until this is
    /// dropped and the last connection closed.
    pub fn watch(path: &Path) -> Arc<Self> {
        vfs::register();
        let folder = path.parent().unwrap().canonicalize().unwrap();
        let path = folder.join(path.file_name().unwrap());
        let disk = Arc::new(Self {
            initial: Kind::ALL.map(|kind| fs::read(kind.path(&path)).ok()),
            path,
            events: Mutex::default(),
            more: Condvar::new(),
            rules: Mutex::default(),
        });
        WATCHED.lock().unwrap().push(Arc::downgrade(&disk));
        disk
    }

    /// The disk of a file that SQLite names so, if it is watched.
    pub(super) fn of(file: &Path) -> Option<(Arc<Self>, Kind)> {
        let mut watched = WATCHED.lock().unwrap();
        watched.retain(|disk| disk.strong_count() > 0);
        let disks = watched.iter().filter_map(Weak::upgrade);
        let mut found = disks.flat_map(|disk| Kind::ALL.map(|kind| (Arc::clone(&disk), kind)));
        found.find(|(disk, kind)| kind.path(&disk.path) == file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn initial(&self) -> [Option<Vec<u8>>; 3] {
        self.initial.clone()
    }

    /// Puts marks into the record.
    pub fn mark(&self, marks: impl IntoIterator<Item = usize>) {
        self.events.lock().unwrap().extend(marks.into_iter().map(Event::Mark));
    }

    /// What has happened so far.
    pub fn events(&self) -> Vec<Event> {
        self.events_from(0)
    }

    /// What has happened since number `from`.
    pub fn events_from(&self, from: usize) -> Vec<Event> {
        self.events.lock().unwrap()[from..].to_vec()
    }

    /// The number of the next event.
    pub fn now(&self) -> usize {
        self.events.lock().unwrap().len()
    }

    /// Waits for an event of this kind, among those from number `from` on. Its
    /// number.
    pub fn wait_for(&self, from: usize, is: impl Fn(&Event) -> bool) -> usize {
        let find = |events: &[Event]| events.iter().skip(from).position(&is);
        let events = self.events.lock().unwrap();
        let wait = |events: &mut Vec<Event>| find(events).is_none();
        let waited = self
            .more
            .wait_timeout_while(events, Duration::from_secs(60), wait)
            .unwrap();
        let found = find(&waited.0);
        drop(waited);
        from + found.expect("the event that the test waits for")
    }

    /// Adds a rule, which is asked before each call of this database. It may
    /// also block. It ends with the value returned.
    pub fn rule(self: &Arc<Self>, rule: impl Fn(&Call) -> Option<Action> + Send + Sync + 'static) -> Active {
        let hits = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&hits);
        let rule: Arc<Rule> = Arc::new(move |call: &Call| {
            let action = rule(call);
            counter.fetch_add(usize::from(action.is_some()), Ordering::Relaxed);
            action
        });
        self.rules.lock().unwrap().push(Arc::clone(&rule));
        Active {
            disk: Arc::clone(self),
            rule,
            hits,
        }
    }

    /// Lets some of the calls that match fail.
    pub fn fail(
        self: &Arc<Self>,
        code: c_int,
        when: When,
        matches: impl Fn(&Call) -> bool + Send + Sync + 'static,
    ) -> Active {
        let when = Mutex::new(Counter::new(when));
        self.rule(move |call| (matches(call) && when.lock().unwrap().hits()).then_some(Action::Fail(code)))
    }

    /// Lets calls that match wait at a gate.
    pub fn pause(self: &Arc<Self>, matches: impl Fn(&Call) -> bool + Send + Sync + 'static) -> (Arc<Gate>, Active) {
        let gate = Arc::new(Gate::default());
        let passed = Arc::clone(&gate);
        let active = self.rule(move |call| {
            if matches(call) {
                passed.pass();
            }
            None
        });
        (gate, active)
    }

    /// Decides about a call. The lock is not held while rules run: they may
    /// block.
    pub(super) fn decide(&self, call: &Call) -> Option<Action> {
        let rules = self.rules.lock().unwrap().clone();
        rules.iter().find_map(|rule| rule(call))
    }

    /// Carries out a change and records it. In the record, changes are in the
    /// order in which they were carried out.
    pub(super) fn change(&self, kind: Kind, change: Change, native: impl FnOnce() -> c_int) -> c_int {
        let mut events = self.events.lock().unwrap();
        let code = native();
        if code == ffi::SQLITE_OK {
            events.push(Event::File(kind, change));
            self.more.notify_all();
        }
        code
    }

    /// Syncs a file. Writes that others make meanwhile are not covered.
    pub(super) fn sync(&self, kind: Kind, flags: c_int, folder: bool, native: impl FnOnce() -> c_int) -> c_int {
        let before = self.now();
        let code = native();
        let change = match code {
            ffi::SQLITE_OK => Change::Synced { before, flags, folder },
            _ => Change::SyncFailed { before },
        };
        self.events.lock().unwrap().push(Event::File(kind, change));
        self.more.notify_all();
        code
    }
}

/// A rule that is in force until this is dropped.
pub struct Active {
    disk: Arc<Disk>,
    rule: Arc<Rule>,
    hits: Arc<AtomicUsize>,
}

impl Active {
    /// How many calls it has had an effect on.
    pub fn hits(&self) -> usize {
        self.hits.load(Ordering::Relaxed)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut rules = self.disk.rules.lock().unwrap();
        rules.retain(|rule| !Arc::ptr_eq(rule, &self.rule));
    }
}

/// Which of the calls that match fail.
#[derive(Clone, Copy, Debug)]
pub enum When {
    Always,
    /// Once: the n-th, from 1 on.
    Nth(usize),
    /// Each n-th.
    Every(usize),
    /// Each with this probability, from this seed.
    Chance(f64, u64),
}

struct Counter {
    when: When,
    count: usize,
    random: StdRng,
}

impl Counter {
    fn new(when: When) -> Self {
        let seed = if let When::Chance(_, seed) = when { seed } else { 0 };
        Self {
            when,
            count: 0,
            random: StdRng::seed_from_u64(seed),
        }
    }

    fn hits(&mut self) -> bool {
        self.count += 1;
        match self.when {
            When::Always => true,
            When::Nth(nth) => self.count == nth,
            When::Every(each) => self.count.is_multiple_of(each),
            When::Chance(chance, _) => self.random.gen_bool(chance),
        }
    }
}

/// Calls wait here until a test opens it, for good.
#[derive(Default)]
pub struct Gate {
    /// How many have come, and whether it is open.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(_, open)| !*open).unwrap());
    }

    /// Waits until a call has come to the gate.
    pub fn wait_until_reached(&self) {
        let state = self.state.lock().unwrap();
        let wait = |(come, _): &mut (usize, bool)| *come == 0;
        let waited = self.changed.wait_timeout_while(state, Duration::from_secs(60), wait);
        let timeout = waited.unwrap().1;
        assert!(!timeout.timed_out(), "no call came to the gate");
    }

    pub fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}
