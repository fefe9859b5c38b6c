//! Deno KV: a database file as Deno itself keeps it, or a server that speaks
//! KV Connect.
//!
//! The engine is Deno's own ([`engine`]). A worker thread ([`worker`]) takes
//! what waits, and answers it with one read and one atomic write ([`batch`]).
//! A file is read on connections of ours ([`reader`]), which know when an entry
//! expires: the engine doesn't tell.

mod batch;
mod checkpoint;
mod engine;
mod key;
mod list;
mod place;
mod reader;
mod remote;
mod row;
mod v8;
mod worker;

use super::pending::PendingWrites;
use super::served::Pending;
use super::sqlite::url::path_of;
use super::worker::spawn_local_with_io;
use crate::kv::{
    Command, Job, Outbox, Outcome, PageLimits, Pages, Prefix, Reader as ListReader, Reply, Result, Store, Task,
};
use list::DenoPages;
use place::Place;
use reader::Reader;
use row::Rows;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use worker::Worker;

#[derive(Clone, Debug)]
pub struct DenoOptions {
    /// For a server. `DENO_KV_ACCESS_TOKEN` where there is none.
    pub access_token: Option<String>,
    /// For a file: how long to wait for a lock that another process holds.
    pub busy_timeout: Duration,
    /// For a server: how long to wait for an answer.
    pub command_timeout: Duration,
}

impl Default for DenoOptions {
    fn default() -> Self {
        Self {
            access_token: None,
            busy_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(5),
        }
    }
}

pub struct DenoStore {
    shared: Arc<Shared>,
    worker: Mutex<Option<UnboundedSender<Message>>>,
}

/// What the calling thread, the worker and the lists share.
struct Shared {
    place: Place,
    options: DenoOptions,
    /// The calling thread's connection, while a file is open. The worker opens
    /// and closes it.
    reader: Mutex<Option<Reader>>,
    /// Told when the reader holds a transaction open, so that the worker ends
    /// it.
    held: Notify,
    /// The worker's and the lists' connection.
    list_reader: Mutex<Option<Reader>>,
    pending: PendingWrites,
}

/// What the worker is sent.
enum Message {
    Job(Pending, Command),
    /// Answered once the store is open and all earlier jobs are done.
    Ready(oneshot::Sender<Result<()>>),
    /// A server's entries from a key to before another, so many at most.
    Range(Vec<u8>, Vec<u8>, u32, oneshot::Sender<Result<Rows>>),
    Task(Task),
}

impl DenoStore {
    /// A store on a file, which is created when the first operation finds none;
    /// for `:memory:` on one of its own, gone when it is closed; or for an
    /// `http:` or `https:` URL on a server.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for what can be neither path nor URL.
    pub fn at(place: &str, options: DenoOptions) -> Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                place: Place::parse(place, &options)?,
                options,
                reader: Mutex::default(),
                held: Notify::new(),
                list_reader: Mutex::default(),
                pending: PendingWrites::default(),
            }),
            worker: Mutex::default(),
        })
    }

    /// The store that a URL names, given what follows `denokv:` in it: a server's
    /// URL, or a path as in `sqlite:` URLs.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for what is neither.
    pub fn at_url(rest: &str, options: DenoOptions) -> Result<Self> {
        if Place::is_remote(rest) {
            return Self::at(rest, options);
        }
        Self::at(&path_of(rest)?, options)
    }

    /// The way to the worker, which is started when there is none.
    fn worker(&self) -> UnboundedSender<Message> {
        lock(&self.worker)
            .get_or_insert_with(|| {
                let (sender, messages) = unbounded_channel();
                let shared = Arc::clone(&self.shared);
                // The last promise resolves when all is released.
                let finish = |last: Option<Pending>| {
                    if let Some(pending) = last {
                        pending.deliver(Ok(Reply::Done));
                    }
                };
                spawn_local_with_io("deno", move || Worker::new(shared, messages).run(), finish);
                sender
            })
            .clone()
    }
}

impl Store for DenoStore {
    fn answer(&self, command: Command) -> std::result::Result<Outcome, Command> {
        let Command::Get(key) = command else {
            return Err(command);
        };
        if self.shared.pending.concerns(key.as_json()) {
            return Err(Command::Get(key));
        }
        let Ok(mut reader) = self.shared.reader.try_lock() else {
            return Err(Command::Get(key));
        };
        match reader.as_mut().map(|reader| reader.get(&key, &self.shared.held)) {
            Some(Ok(outcome)) => Ok(outcome),
            // What fails here is tried again, and told, by the worker.
            Some(Err(_)) | None => Err(Command::Get(key)),
        }
    }

    fn submit(&self, job: Job, outbox: &Arc<dyn Outbox>) {
        self.shared.pending.add(&job.command);
        let pending = Pending::new(job.ticket, outbox);
        // The worker runs for as long as this store holds its sender.
        let _ = self.worker().send(Message::Job(pending, job.command));
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        Box::new(DenoPages::new(Arc::clone(&self.shared), self.worker(), &prefix, limits))
    }

    fn reader(&self) -> Option<Arc<dyn ListReader>> {
        Some(Arc::new(Tasks(self.worker())))
    }
}

/// The worker's thread, for lists.
struct Tasks(UnboundedSender<Message>);

impl ListReader for Tasks {
    fn spawn(&self, task: Task) {
        // A worker that has ended has closed its store, and with it the lists.
        let _ = self.0.send(Message::Task(task));
    }
}

/// A lock whose holder panicked is as good as any: what it guards is replaced
/// whole, never changed in steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
