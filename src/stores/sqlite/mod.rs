//! One SQLite file, in the format of Fedify's own SQLite store.
//!
//! Three parties work on a file, each on a connection of its own: the calling
//! thread reads single keys ([`snapshot`]), a writer thread commits all that
//! waits in one transaction ([`writer`]), and a reader thread lists ([`list`]).

pub(in crate::stores) mod database;
mod entries;
mod keys;
mod list;
mod log;
mod recent;
pub(in crate::stores) mod snapshot;
mod statements;
pub(in crate::stores) mod url;
mod wal;
mod writer;

use super::check_table_name;
use super::pending::PendingWrites;
use super::worker::{self, ReaderThread};
use crate::kv::{
    Command, Error, Job, JsonText, Key, Outbox, Outcome, PageLimits, Pages, Prefix, Reader, Reply, Result, Store,
};
use database::Place;
use keys::Found;
use list::{ListConnection, SqlitePages};
use recent::Recent;
use rusqlite::types::ValueRef;
use snapshot::Snapshot;
use statements::Statements;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use writer::Writer;

/// What a resolved write has survived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A power loss: synced to disk before it resolves.
    Full,
    /// The death of the process. A power loss may take the last writes, never
    /// the database.
    Normal,
}

#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub table: String,
    /// The table exists: never create it.
    pub initialized: bool,
    pub durability: Durability,
    /// How long to wait for a lock that another process holds.
    pub busy_timeout: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            table: "fedify_kv".into(),
            initialized: false,
            durability: Durability::Full,
            busy_timeout: Duration::from_secs(5),
        }
    }
}

impl SqliteOptions {
    /// Sets the table's name, by the rule of Fedify's own store.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for what is not a plain SQL identifier.
    pub fn table(mut self, name: String) -> Result<Self> {
        check_table_name(&name, 64)?;
        self.table = name;
        Ok(self)
    }
}

pub struct SqliteStore {
    shared: Arc<Shared>,
    writer: Mutex<Option<UnboundedSender<Message>>>,
    reader: Mutex<Option<Arc<ReaderThread>>>,
}

/// What the three parties share.
struct Shared {
    place: Place,
    options: SqliteOptions,
    sql: Statements,
    /// The calling thread's connection, while the store is open and its table
    /// known to exist. The writer opens and closes it.
    snapshot: Mutex<Option<Snapshot>>,
    recent: Recent,
    /// Whether there is a snapshot, for those who must not wait for it.
    open: AtomicBool,
    /// Told when the snapshot is held open, so that somebody ends it.
    held: Notify,
    list: Mutex<ListConnection>,
    /// Whether a missing table may be created. After `drop` it may be, whatever
    /// the options say.
    creates: AtomicBool,
    pending: PendingWrites,
}

/// What the writer is sent.
enum Message {
    Job(Job, Arc<dyn Outbox>),
    /// Answers once the store is open and all earlier jobs are done.
    Ready(oneshot::Sender<Result<()>>),
}

impl SqliteStore {
    /// A store on a file, which is created when the first operation finds none;
    /// or for `:memory:` one of its own, gone when it is closed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for a path that cannot be a file's.
    pub fn at(path: &str, options: SqliteOptions) -> Result<Self> {
        if path == ":memory:" {
            return Ok(Self::new(Place::memory(), options));
        }
        let invalid = |why: &str| Err(Error::InvalidOption(format!("{why}: {path:?}")));
        if path.is_empty() {
            return invalid("the path is empty");
        }
        if path.contains('\0') {
            return invalid("the path has a NUL character");
        }
        if path.starts_with("file:") {
            return invalid("give a file's path, not a file: URL");
        }
        // Resolved now: the process may change its directory.
        match std::path::absolute(PathBuf::from(path)) {
            Ok(path) => Ok(Self::new(Place::File(path), options)),
            Err(error) => invalid(&error.to_string()),
        }
    }

    fn new(place: Place, options: SqliteOptions) -> Self {
        let sql = Statements::new(&options.table);
        let shared = Shared {
            place,
            sql,
            snapshot: Mutex::default(),
            recent: Recent::default(),
            open: AtomicBool::new(false),
            held: Notify::new(),
            list: Mutex::default(),
            creates: AtomicBool::new(!options.initialized),
            pending: PendingWrites::default(),
            options,
        };
        Self {
            shared: Arc::new(shared),
            writer: Mutex::default(),
            reader: Mutex::default(),
        }
    }

    /// The way to the writer, which is started when there is none.
    fn writer(&self) -> UnboundedSender<Message> {
        let mut writer = lock(&self.writer);
        writer
            .get_or_insert_with(|| {
                let (sender, messages) = unbounded_channel();
                let shared = Arc::clone(&self.shared);
                worker::spawn("sqlite", move || Writer::new(shared, messages).run());
                sender
            })
            .clone()
    }

    /// Whether the next read of a key needs no look into the database.
    #[cfg(test)]
    pub fn keeps(&self, key: &Key) -> bool {
        let snapshot = lock(&self.shared.snapshot);
        let header = snapshot.as_ref().and_then(Snapshot::header);
        header.is_some_and(|header| self.shared.recent.get(&header, key.as_json()).is_some())
    }

    /// A point read on this thread. `None` where the writer has to do it: the
    /// store is not open yet, a write of this key is under way, or the engine
    /// answered anything but a row.
    fn read(&self, key: &Key) -> Option<Found> {
        if self.shared.pending.concerns(key.as_json()) {
            return None;
        }
        let mut snapshot = self.shared.snapshot.try_lock().ok()?;
        keys::get(
            snapshot.as_mut()?,
            &self.shared.held,
            &self.shared.recent,
            key.as_json(),
        )
        .ok()
    }
}

impl Store for SqliteStore {
    fn answer(&self, command: Command) -> std::result::Result<Outcome, Command> {
        let Command::Get(key) = command else {
            return Err(command);
        };
        match self.read(&key) {
            Some(found) => Ok(value_reply(found, key)),
            None => Err(Command::Get(key)),
        }
    }

    fn submit(&self, job: Job, outbox: &Arc<dyn Outbox>) {
        self.shared.pending.add(&job.command);
        if matches!(job.command, Command::Close) {
            // Its thread ends with its last sender.
            *lock(&self.reader) = None;
        }
        // The writer runs for as long as this store holds its sender.
        let _ = self.writer().send(Message::Job(job, Arc::clone(outbox)));
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        Box::new(SqlitePages::new(
            Arc::clone(&self.shared),
            self.writer(),
            &prefix,
            limits,
        ))
    }

    fn reader(&self) -> Option<Arc<dyn Reader>> {
        let mut reader = lock(&self.reader);
        Some(Arc::clone(reader.get_or_insert_with(|| Arc::new(ReaderThread::start("sqlite-list")))) as Arc<dyn Reader>)
    }
}

/// A lock whose holder panicked is as good as any: what it guards is replaced
/// whole, never changed in steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stored text, if it is one: the column takes anything.
fn as_text(stored: ValueRef<'_>) -> Option<&str> {
    match stored {
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn value_reply(found: Found, key: Key) -> Outcome {
    match found {
        Found::Nothing => Ok(Reply::Value(key, None)),
        Found::Text(text) => Ok(Reply::Value(key, Some(JsonText::new(text)))),
        Found::NotText => Err(Error::Corrupt(format!("the value of {key} is not text"))),
    }
}
