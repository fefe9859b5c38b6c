//! Deno KV: a database file as Deno itself keeps it, or a server that speaks
//! KV Connect.
//!
//! The engine is Deno's own ([`engine`]). A worker thread ([`worker`]) takes
//! what waits, and answers it with one read and one atomic write ([`batch`]).
//! A file is read on connections of ours ([`reader`]), which know when an entry
//! expires: the engine doesn't tell.

mod batch;
mod engine;
mod key;
mod list;
mod reader;
mod remote;
mod row;
mod target;
mod v8;
mod worker;

use super::pending_writes::{PendingWrite, PendingWrites};
use super::sqlite::url::path_of;
use super::worker::{FailedPages, WorkerThread, spawn_local_with_io};
use crate::kv::{Answer, Command, Job, ListExecutor, Outcome, PageLimits, Pages, Prefix, Reply, Result, Store, Task};
use list::DenoPages;
use parking_lot::Mutex;
use reader::Reader;
use row::Rows;
use std::sync::Arc;
use std::time::Duration;
use target::Target;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
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
    worker: WorkerThread<Message>,
}

/// What the calling thread, the worker and the lists share.
struct Shared {
    target: Target,
    options: DenoOptions,
    /// The calling thread's connection, while a file is open. The worker opens
    /// and closes it.
    reader: Mutex<Option<Reader>>,
    /// Told when the reader holds a transaction open, so that the worker ends
    /// it.
    held: Notify,
    /// The worker's and the lists' connection.
    list_reader: Mutex<Option<Reader>>,
    pending: Arc<PendingWrites>,
}

/// What the worker is sent.
enum Message {
    Job(Job, Option<PendingWrite>),
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
    pub fn at(target: &str, options: DenoOptions) -> Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                target: Target::parse(target, &options)?,
                options,
                reader: Mutex::default(),
                held: Notify::new(),
                list_reader: Mutex::default(),
                pending: Arc::default(),
            }),
            worker: WorkerThread::default(),
        })
    }

    /// The store that a URL names, given what follows `denokv:` in it: a server's
    /// URL, or a path as in `sqlite:` URLs.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for what is neither.
    pub fn at_url(rest: &str, options: DenoOptions) -> Result<Self> {
        if Target::is_remote(rest) {
            return Self::at(rest, options);
        }
        Self::at(&path_of(rest)?, options)
    }

    /// A sender to the worker, which is started where there is none.
    fn worker(&self) -> Result<UnboundedSender<Message>> {
        self.worker.sender(|messages: UnboundedReceiver<Message>| {
            let shared = Arc::clone(&self.shared);
            // `close` resolves once all is released.
            let finish = |close: Option<Answer>| {
                if let Some(answer) = close {
                    answer.deliver(Ok(Reply::Done));
                }
            };
            spawn_local_with_io("deno", move || Worker::new(shared, messages).run(), finish)
        })
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
        let Some(mut reader) = self.shared.reader.try_lock() else {
            return Err(Command::Get(key));
        };
        match reader.as_mut().map(|reader| reader.get(&key, &self.shared.held)) {
            Some(Ok(outcome)) => Ok(outcome),
            // What fails here is tried again, and told, by the worker.
            Some(Err(_)) | None => Err(Command::Get(key)),
        }
    }

    fn submit(&self, job: Job) {
        let worker = if matches!(job.command, Command::Close) {
            match self.worker.close() {
                Some(worker) => Ok(worker),
                None => return job.answer.deliver(Ok(Reply::Done)),
            }
        } else {
            self.worker()
        };
        match worker {
            Ok(worker) => {
                let pending = self.shared.pending.add(&job.command);
                // If the worker has just ended, the job is dropped, which answers it.
                drop(worker.send(Message::Job(job, pending)));
            }
            Err(error) => job.answer.deliver(Err(error)),
        }
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        match self.worker() {
            Ok(worker) => Box::new(DenoPages::new(Arc::clone(&self.shared), worker, &prefix, limits)),
            Err(error) => Box::new(FailedPages(error)),
        }
    }

    fn list_executor(&self) -> Result<Option<Arc<dyn ListExecutor>>> {
        Ok(Some(Arc::new(Tasks(self.worker()?))))
    }
}

/// The worker's thread, for lists.
struct Tasks(UnboundedSender<Message>);

impl ListExecutor for Tasks {
    fn spawn(&self, task: Task) {
        // If the worker has ended, the task is dropped, which its list notices.
        drop(self.0.send(Message::Task(task)));
    }
}
