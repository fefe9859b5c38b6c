//! One SQLite file, in the format of Fedify's own SQLite store.
//!
//! Three threads work on a file, each on a connection of its own: the calling
//! thread reads single keys ([`keys`]), a writer thread commits all queued jobs
//! in one transaction ([`writer`]), and a reader thread lists ([`list`]).

mod clear;
mod compact;
mod entries;
mod keys;
mod list;
mod recent;
mod schema;
mod statements;
mod transaction;
mod upkeep;
pub(in crate::stores) mod url;
mod writer;

use super::check_table_name;
use super::database::{Connection, DatabaseFile, Durability, Location, Snapshot, queue};
use super::pending_writes::PendingWrites;
use super::worker::{ListThread, WorkerThread, spawn_future};
use crate::kv::{
    Answer, Command, Error, Job, JsonText, Key, ListExecutor, Outcome, PageLimits, Pages, Prefix, Reply, Result, Store,
};
use keys::Found;
use list::SqlitePages;
use parking_lot::Mutex;
use queue::{Queued, Work};
use recent::Recent;
use rusqlite::types::ValueRef;
use statements::Statements;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use writer::Writer;

#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub table: String,
    /// The table exists: never create it.
    pub initialized: bool,
    pub durability: Durability,
    /// How long to wait for a lock that another process holds.
    pub busy_timeout: Duration,
    /// How long to wait at most before looking for entries that have expired:
    /// another process may have written some.
    pub sweep_interval: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            table: "fedify_kv".into(),
            initialized: false,
            durability: Durability::Full,
            busy_timeout: Duration::from_secs(5),
            sweep_interval: Duration::from_secs(60),
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

#[derive(Clone)]
pub struct SqliteStore(Arc<Parts>);

/// Held by the store and its lists. The writer must not hold it: it runs for as
/// long as a sender in here exists.
struct Parts {
    shared: Arc<Shared>,
    writer: WorkerThread<Queued>,
    lists: ListThread,
}

/// What the three threads share.
struct Shared {
    file: Arc<DatabaseFile>,
    options: SqliteOptions,
    sql: Statements,
    /// The calling thread's connection, while the store is open and its table
    /// known to exist. The writer opens and closes it.
    snapshot: Mutex<Option<Snapshot>>,
    recent: Recent,
    /// Whether the table is known to exist, for threads that must not wait.
    open: AtomicBool,
    /// Notified when the snapshot is held open, so that the writer ends it.
    held: Notify,
    list: Mutex<ListConnection>,
    /// Whether a missing table may be created. After `drop` it may be, even with
    /// `initialized: true`.
    creates: AtomicBool,
    pending: Arc<PendingWrites>,
}

/// Opened by the first page, closed by the writer.
#[derive(Default)]
struct ListConnection {
    connection: Option<Connection>,
    closed: bool,
}

impl SqliteStore {
    /// A store on a file, which is created when the first operation finds none;
    /// or for `:memory:` one of its own, gone when it is closed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for a path that cannot be a file's.
    pub fn at(path: &str, options: SqliteOptions) -> Result<Self> {
        let shared = Shared {
            file: Arc::new(DatabaseFile::new(Location::parse(path)?)),
            sql: Statements::new(&options.table),
            snapshot: Mutex::default(),
            recent: Recent::default(),
            open: AtomicBool::new(false),
            held: Notify::new(),
            list: Mutex::default(),
            creates: AtomicBool::new(!options.initialized),
            pending: Arc::default(),
            options,
        };
        Ok(Self(Arc::new(Parts {
            shared: Arc::new(shared),
            writer: WorkerThread::default(),
            lists: ListThread::default(),
        })))
    }

    /// Rewrites the file without the space that deleted entries have left.
    pub fn compact(&self, answer: Answer) {
        self.0.send(Work::Compact(answer));
    }

    /// Whether the next read of a key needs no look into the database.
    #[cfg(test)]
    pub fn keeps(&self, key: &Key) -> bool {
        let snapshot = self.0.shared.snapshot.lock();
        let header = snapshot.as_ref().and_then(Snapshot::header);
        header.is_some_and(|header| self.0.shared.recent.get(&header, key.as_json()).is_some())
    }
}

impl Parts {
    /// Queues work for the writer, which is started where it doesn't run.
    fn send(&self, work: Work) {
        let sender = self.writer.sender(|messages: UnboundedReceiver<Queued>| {
            let shared = Arc::clone(&self.shared);
            spawn_future("sqlite", move || Writer::new(shared, messages).run())
        });
        match sender {
            // If the writer has just ended, the work is dropped, which answers it.
            Ok(sender) => drop(sender.send(Queued::new(work, &self.shared.pending))),
            Err(error) => work.fail(error),
        }
    }
}

impl Shared {
    /// A point read on the calling thread. `None` where the writer has to do it:
    /// the store is not open yet, a write of this key is under way, or the engine
    /// answered anything but a row.
    fn read(&self, key: &Key) -> Option<Result<Found>> {
        if self.pending.concerns(key.as_json()) {
            return None;
        }
        let mut snapshot = self.snapshot.try_lock()?;
        let snapshot = snapshot.as_mut()?;
        if let Err(error) = self.file.check_often() {
            return Some(Err(error));
        }
        keys::get(snapshot, &self.held, &self.recent, key.as_json())
            .ok()
            .map(Ok)
    }
}

impl Store for SqliteStore {
    fn answer(&self, command: Command) -> std::result::Result<Outcome, Command> {
        let Command::Get(key) = command else {
            return Err(command);
        };
        match self.0.shared.read(&key) {
            Some(found) => Ok(found.and_then(|found| value_reply(found, key))),
            None => Err(Command::Get(key)),
        }
    }

    fn submit(&self, job: Job) {
        if matches!(job.command, Command::Close) {
            self.0.lists.close();
            match self.0.writer.close() {
                Some(writer) => drop(writer.send(Queued::new(Work::Job(job), &self.0.shared.pending))),
                None => job.answer.deliver(Ok(Reply::Done)),
            }
        } else {
            self.0.send(Work::Job(job));
        }
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        Box::new(SqlitePages::new(Arc::clone(&self.0), &prefix, limits))
    }

    fn list_executor(&self) -> Result<Option<Arc<dyn ListExecutor>>> {
        Ok(Some(Arc::new(self.0.lists.executor("sqlite-list")?)))
    }
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
