//! A store that keeps a SQLite database, in any [`Format`].
//!
//! Three threads work on a database, each on a connection of its own: the calling
//! thread reads single keys, and writes some ([`Shared::write`]); a writer thread
//! commits all queued jobs in one transaction ([`Writer`]); a reader thread lists
//! ([`DatabasePages`]).

use super::list::DatabasePages;
use super::queue::{Queued, Work};
use super::recent::Recent;
use super::writer::Writer;
use super::{Connection, DatabaseFile, Durability, Expiry, Format, Location, Notes, Snapshot};
use crate::host::thread::{WorkerThread, spawn_future};
use crate::kv::{
    Answer, Command, Job, JsonText, Key, ListExecutor, Outcome, PageLimits, Pages, Prefix, Reply, Result, Store,
};
use crate::stores::pending_writes::PendingWrites;
use crate::stores::worker::ListThread;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

pub struct Options {
    pub durability: Durability,
    /// Writes under these prefixes need no sync to disk.
    pub relaxed: Vec<Prefix>,
    /// How long to wait for a lock that another process holds.
    pub busy_timeout: Duration,
    /// The longest pause between two searches for expired entries, which another
    /// process may have written.
    pub sweep_interval: Duration,
}

impl Options {
    /// What the writes of a command must have survived when it is answered.
    pub fn durability_of(&self, command: &Command) -> Durability {
        let key = match command {
            Command::Get(_) => return Durability::Normal,
            Command::Put(key, _) | Command::Cas(key, ..) => Some(key),
            Command::Clear(prefix) => prefix.key(),
            Command::Initialize | Command::Drop | Command::Close => None,
        };
        let is_relaxed = |key: &Key| self.relaxed.iter().any(|prefix| prefix.contains_json(key.as_json()));
        if key.is_some_and(is_relaxed) {
            Durability::Normal
        } else {
            self.durability
        }
    }
}

pub struct DatabaseStore<F: Format>(Arc<Parts<F>>);

impl<F: Format> Clone for DatabaseStore<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Held by the store and its lists. The writer must not hold it: it runs for as
/// long as a sender in here exists.
pub struct Parts<F: Format> {
    pub shared: Arc<Shared<F>>,
    writer: WorkerThread<Queued>,
    lists: ListThread,
}

/// What the three threads share.
pub struct Shared<F> {
    pub format: F,
    pub file: Arc<DatabaseFile>,
    pub options: Options,
    /// The calling thread's connection, while the store is open. The writer opens
    /// and closes it.
    pub snapshot: Mutex<Option<Snapshot>>,
    pub recent: Recent,
    /// Whether `snapshot` is there, for threads that must not wait.
    pub open: AtomicBool,
    pub notes: Arc<Notes>,
    pub list: Mutex<ListConnection>,
    pub pending: Arc<PendingWrites>,
}

/// Opened by the first page, closed by the writer.
#[derive(Default)]
pub struct ListConnection {
    pub connection: Option<Connection>,
    pub closed: bool,
}

impl<F: Format> DatabaseStore<F> {
    pub fn new(location: Location, format: F, mut options: Options) -> Self {
        if let Location::Memory(_) = location {
            // A database in memory has no disk to wait for.
            options.durability = Durability::Normal;
        }
        let shared = Shared {
            format,
            file: Arc::new(DatabaseFile::new(location)),
            options,
            snapshot: Mutex::default(),
            recent: Recent::default(),
            open: AtomicBool::new(false),
            notes: Arc::default(),
            list: Mutex::default(),
            pending: Arc::default(),
        };
        Self(Arc::new(Parts {
            shared: Arc::new(shared),
            writer: WorkerThread::default(),
            lists: ListThread::default(),
        }))
    }

    pub fn submit_work(&self, work: Work) {
        self.0.send(work);
    }

    #[cfg(test)]
    pub fn location(&self) -> &Location {
        self.0.shared.file.location()
    }

    /// Whether the next read of a key can be answered without the database.
    #[cfg(test)]
    pub fn keeps(&self, key: &Key) -> bool {
        let snapshot = self.0.shared.snapshot.lock();
        let header = snapshot.as_ref().and_then(Snapshot::header);
        header.is_some_and(|header| self.0.shared.recent.get(&header, key.as_json()).is_some())
    }
}

impl<F: Format> Parts<F> {
    /// Queues work for the writer, which is started if it isn't running.
    pub fn send(&self, work: Work) {
        let sender = self.writer.sender(|messages: UnboundedReceiver<Queued>| {
            let shared = Arc::clone(&self.shared);
            spawn_future(F::WRITER, move || Writer::new(shared, messages).run())
        });
        match sender {
            // If the writer has just ended, the work is dropped, which answers it.
            Ok(sender) => drop(sender.send(Queued::new(work, &self.shared.pending))),
            Err(error) => work.fail(error),
        }
    }

    fn close(&self, answer: Answer) {
        self.lists.close();
        if let Some(writer) = self.writer.close() {
            let command = Command::Close;
            let work = Work::Job(Job { command, answer });
            drop(writer.send(Queued::new(work, &self.shared.pending)));
        } else {
            // A writer that has panicked may have left connections.
            self.shared.close();
            answer.deliver(Ok(Reply::Done));
        }
    }
}

impl<F: Format> Shared<F> {
    /// A key's value, read on the calling thread. `None` if the writer has to do
    /// it: the store is not open yet, a write of this key is under way, or
    /// SQLite answered anything but a row.
    fn get(&self, key: &Key) -> Option<Result<Option<String>>> {
        if self.pending.concerns(key.as_json()) {
            return None;
        }
        let mut snapshot = self.snapshot.try_lock()?;
        let snapshot = snapshot.as_mut()?;
        if let Err(error) = self.file.check_often() {
            return Some(Err(error));
        }
        let header = snapshot.header();
        if let Some(text) = header.and_then(|header| self.recent.get(&header, key.as_json())) {
            return Some(Ok(Some(text)));
        }
        let found = snapshot.get(header, &self.notes.bell, |get| F::find(get, key)).ok()?;
        let expires = match found.expiry {
            Expiry::Never => None,
            Expiry::At(millis) => Some(millis),
            Expiry::Unknown => return Some(found.value),
        };
        // Only for a transaction that is kept open is it known which state it reads.
        if let (Some(held), Ok(Some(text))) = (snapshot.held(), &found.value) {
            self.recent.put(held, key.as_json(), text, expires);
        }
        Some(found.value)
    }

    /// Opens the calling thread's connection. If that fails, the writer reads for
    /// it until it succeeds.
    pub fn open_snapshot(&self) -> Result<()> {
        let connection = self.file.open_for_calls(self.options.busy_timeout)?;
        let snapshot = Snapshot::new(connection, self.format.get())?.without_waiting()?;
        *self.snapshot.lock() = Some(snapshot);
        self.open.store(true, Ordering::Release);
        Ok(())
    }

    pub fn release_snapshot(&self) {
        if let Some(snapshot) = self.snapshot.lock().as_mut() {
            snapshot.let_go();
        }
    }

    /// Closes the connections of the other threads. They may be opened again.
    pub fn release(&self) {
        self.open.store(false, Ordering::Release);
        let snapshot = self.snapshot.lock().take();
        drop(snapshot);
        self.recent.clear();
        self.list.lock().connection = None;
    }

    /// Closes them for good.
    pub fn close(&self) {
        self.list.lock().closed = true;
        self.release();
    }
}

impl<F: Format> Store for DatabaseStore<F> {
    fn answer(&self, command: Command, follows_write: bool) -> std::result::Result<Outcome, Command> {
        let shared = &self.0.shared;
        match command {
            Command::Get(key) => match shared.get(&key) {
                Some(value) => Ok(value.map(|text| Reply::Value(key, text.map(JsonText::new)))),
                None => Err(Command::Get(key)),
            },
            command if follows_write => Err(command),
            command => shared.write(&command).ok_or(command),
        }
    }

    fn groups_writes(&self) -> bool {
        true
    }

    fn submit(&self, job: Job) {
        match job.command {
            Command::Close => self.0.close(job.answer),
            _ => self.0.send(Work::Job(job)),
        }
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        Box::new(DatabasePages::new(Arc::clone(&self.0), &prefix, limits))
    }

    fn list_executor(&self) -> Result<Option<Arc<dyn ListExecutor>>> {
        Ok(Some(Arc::new(self.0.lists.executor(F::LISTS)?)))
    }
}
