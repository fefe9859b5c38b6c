//! How the tests of durability and of faults use a store: commands, and
//! outcomes that are marked in a disk's record at the moment of delivery.

use super::test_vfs::Disk;
use crate::kv::{
    Answer, Command, Error, Job, JsonText, Key, KeyBuilder, Lifetime, Outbox, Outcome, PageLimits, Prefix, Reply,
    Store, Ticket, Ttl, Write,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A store, and the disk that its database is on.
pub struct Client<S> {
    pub store: S,
    pub disk: Arc<Disk>,
    inbox: Arc<Inbox>,
    tickets: AtomicUsize,
    /// Whether a write was answered on the calling thread, and nothing was waited
    /// for since.
    wrote: AtomicBool,
}

struct Inbox {
    disk: Arc<Disk>,
    outcomes: Mutex<BTreeMap<Ticket, Outcome>>,
    more: Condvar,
}

impl Outbox for Inbox {
    fn deliver(&self, outcomes: Vec<(Ticket, Outcome)>) {
        self.disk.mark(outcomes.iter().map(|(ticket, _)| *ticket));
        self.outcomes.lock().unwrap().extend(outcomes);
        self.more.notify_all();
    }
}

impl<S: Store> Client<S> {
    pub fn new(disk: &Arc<Disk>, store: S) -> Self {
        let inbox = Inbox {
            disk: Arc::clone(disk),
            outcomes: Mutex::default(),
            more: Condvar::new(),
        };
        Self {
            store,
            disk: Arc::clone(disk),
            inbox: Arc::new(inbox),
            tickets: AtomicUsize::new(0),
            wrote: AtomicBool::new(false),
        }
    }

    /// Calls an operation. Its ticket is its mark, too; tickets count from 0. A
    /// write is carried out on the calling thread where that is possible.
    pub fn submit(&self, mut command: Command) -> Ticket {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        if command.written().is_some() {
            match self.store.answer(command, self.follows_write()) {
                Ok(outcome) => {
                    self.wrote.store(true, Ordering::Relaxed);
                    self.inbox.deliver(vec![(ticket, outcome)]);
                    return ticket;
                }
                Err(unanswered) => command = unanswered,
            }
        }
        let answer = Answer::new(ticket, self.inbox.clone(), &command);
        self.store.submit(Job { command, answer });
        ticket
    }

    pub fn follows_write(&self) -> bool {
        self.wrote.load(Ordering::Relaxed)
    }

    pub fn wait_for(&self, ticket: Ticket) -> Outcome {
        self.wrote.store(false, Ordering::Relaxed);
        let outcomes = self.inbox.outcomes.lock().unwrap();
        let wait = |outcomes: &mut BTreeMap<_, _>| !outcomes.contains_key(&ticket);
        let waited = self
            .inbox
            .more
            .wait_timeout_while(outcomes, Duration::from_secs(60), wait);
        let outcome = waited.unwrap().0.remove(&ticket);
        outcome.expect("every operation has an outcome within a minute")
    }

    /// Calls many operations before the first has its outcome.
    pub fn run_all(&self, commands: impl IntoIterator<Item = Command>) -> Vec<Outcome> {
        let tickets: Vec<_> = commands.into_iter().map(|command| self.submit(command)).collect();
        tickets.into_iter().map(|ticket| self.wait_for(ticket)).collect()
    }

    pub fn run(&self, command: Command) -> Outcome {
        self.wait_for(self.submit(command))
    }

    /// As users get, on the calling thread where that is possible.
    pub fn get(&self, parts: &[&str]) -> Result<Option<String>, Error> {
        let outcome = match self.store.answer(Command::Get(key(parts)), self.follows_write()) {
            Ok(outcome) => outcome,
            Err(command) => self.run(command),
        };
        match outcome? {
            Reply::Value(_, value) => Ok(value.map(JsonText::into_string)),
            other => panic!("{other:?}"),
        }
    }

    /// All entries under a prefix. The first page, too, is read where lists are
    /// read that don't find it on the calling thread.
    pub fn list(&self, parts: &[&str]) -> Result<BTreeMap<String, String>, Error> {
        let mut pages = self.store.pages(prefix(parts), PageLimits::default());
        let mut entries = BTreeMap::new();
        loop {
            let mut page = futures::executor::block_on(pages.next_page())?;
            let json = page.take_json();
            entries.extend(page.texts(&json).map(|(key, value)| (key.to_owned(), value.to_owned())));
            if page.is_last() {
                return Ok(entries);
            }
        }
    }
}

fn built(parts: &[&str]) -> KeyBuilder {
    let mut builder = KeyBuilder::default();
    for part in parts {
        builder.push(part);
    }
    builder
}

pub fn key(parts: &[&str]) -> Key {
    built(parts).key().unwrap()
}

pub fn prefix(parts: &[&str]) -> Prefix {
    built(parts).prefix()
}

pub fn json(text: &str) -> JsonText {
    JsonText::new(text.into())
}

pub fn put(parts: &[&str], value: &str) -> Command {
    Command::Put(key(parts), Write::new(json(value), Lifetime::Unlimited))
}

pub fn put_for(parts: &[&str], value: &str, millis: f64) -> Command {
    let lifetime = Ttl::from_millis(millis).map_or(Lifetime::Over, Lifetime::For);
    Command::Put(key(parts), Write::new(json(value), lifetime))
}

pub fn delete(parts: &[&str]) -> Command {
    Command::Put(key(parts), Write::Delete)
}

pub fn cas(parts: &[&str], expected: Option<&str>, value: &str) -> Command {
    let write = Write::new(json(value), Lifetime::Unlimited);
    Command::Cas(key(parts), expected.map(json), write)
}

/// A folder for databases that is deleted with this.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("fedify-kv-test-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder.canonicalize().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
