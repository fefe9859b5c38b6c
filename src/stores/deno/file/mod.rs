//! A Deno KV database file, as Deno's own engine (`denokv_sqlite`) keeps it.
//!
//! We read and write it on connections of ours, not through that engine. The
//! engine's thread waits for locks without an end, answers with an error where
//! it commits a part of a write, and panics when the disk is full; an operation
//! could then keep neither its deadline nor its outcome. The format is what its
//! statements are; tests compare both.
//!
//! Three threads work on a file, each on a connection of its own: the calling
//! thread reads single keys, a writer thread commits all queued jobs in one
//! transaction ([`writer`]), and a reader thread lists ([`list`]).

mod clear;
mod list;
mod reader;
mod schema;
mod transaction;
mod upkeep;
mod writer;

use crate::kv::{Answer, Command, Error, Job, ListExecutor, Outcome, PageLimits, Pages, Prefix, Reply, Result, Store};
use crate::stores::database::queue::{Queued, Work};
use crate::stores::database::{Connection, DatabaseFile, Location};
use crate::stores::pending_writes::PendingWrites;
use crate::stores::worker::{ListThread, WorkerThread, spawn_future};
use list::FilePages;
use parking_lot::Mutex;
use reader::Reader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use writer::Writer;

pub struct FileStore(Arc<Parts>);

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
    busy_timeout: Duration,
    /// The calling thread's connection, while the store is open. The writer opens
    /// and closes it.
    reader: Mutex<Option<Reader>>,
    /// Whether `reader` is there, for threads that must not wait.
    open: AtomicBool,
    /// Notified when the reader holds a transaction open, so that the writer ends
    /// it.
    held: Notify,
    list: Mutex<ListConnection>,
    pending: Arc<PendingWrites>,
}

/// Opened by the first page, closed by the writer.
#[derive(Default)]
struct ListConnection {
    connection: Option<Connection>,
    closed: bool,
}

impl FileStore {
    pub fn at(location: Location, busy_timeout: Duration) -> Self {
        let shared = Shared {
            file: Arc::new(DatabaseFile::new(location)),
            busy_timeout,
            reader: Mutex::default(),
            open: AtomicBool::new(false),
            held: Notify::new(),
            list: Mutex::default(),
            pending: Arc::default(),
        };
        Self(Arc::new(Parts {
            shared: Arc::new(shared),
            writer: WorkerThread::default(),
            lists: ListThread::default(),
        }))
    }

    #[cfg(test)]
    pub fn location(&self) -> &Location {
        self.0.shared.file.location()
    }
}

impl Parts {
    /// Queues work for the writer, which is started where it doesn't run.
    fn send(&self, work: Work) {
        let sender = self.writer.sender(|messages: UnboundedReceiver<Queued>| {
            let shared = Arc::clone(&self.shared);
            spawn_future("deno", move || Writer::new(shared, messages).run())
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

impl Shared {
    /// A `get` on the calling thread. `None` where the writer has to do it: the
    /// store is not open yet, a write of this key is under way, or SQLite answered
    /// anything but a row.
    fn get(&self, command: &Command) -> Option<Outcome> {
        let Command::Get(key) = command else {
            return None;
        };
        if self.pending.concerns(key.as_json()) {
            return None;
        }
        let mut reader = self.reader.try_lock()?;
        let reader = reader.as_mut()?;
        if let Err(error) = self.file.check_often() {
            return Some(Err(error));
        }
        reader.get(key, &self.held).ok()
    }

    /// Closes the connections of the other threads, for good.
    fn close(&self) {
        self.close_reader();
        *self.list.lock() = ListConnection {
            connection: None,
            closed: true,
        };
    }

    fn close_reader(&self) {
        self.open.store(false, Ordering::Release);
        let reader = self.reader.lock().take();
        drop(reader);
    }
}

impl Store for FileStore {
    fn answer(&self, command: Command) -> Result<Outcome, Command> {
        self.0.shared.get(&command).ok_or(command)
    }

    fn submit(&self, job: Job) {
        match job.command {
            Command::Close => self.0.close(job.answer),
            _ => self.0.send(Work::Job(job)),
        }
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        Box::new(FilePages::new(Arc::clone(&self.0), &prefix, limits))
    }

    fn list_executor(&self) -> Result<Option<Arc<dyn ListExecutor>>> {
        Ok(Some(Arc::new(self.0.lists.executor("deno-list")?)))
    }
}

fn internal() -> Error {
    Error::Backend("internal error in the Deno KV store".into())
}

/// A panic is an outcome like any other: the thread must go on.
fn guard<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(internal()))
}

#[cfg(test)]
mod tests;
