//! What the stores on SQL servers share. One task does all the work
//! ([`worker`]): it takes all queued operations, forms groups of them, and runs
//! several groups at once, each on a connection of its own. Only the [`engine`]
//! knows the kind of server.
//!
//! The task runs on the event loop or on a thread; see [`crate::host`]. On the event
//! loop it gives what takes long to a thread.

mod engine;
mod list;
mod order;
mod retry;
mod sweep;
mod worker;

use super::served::{Admission, Load};
use super::worker::{FailedPages, Tasks, answer_close};
use crate::host::thread::{WorkerThread, spawn_with_io};
use crate::host::{Bulk, Host};
use crate::kv::{Command, Job, ListExecutor, Outcome, PageLimits, Pages, Prefix, Reply, Result, Store, Task};
pub use engine::{Action, Cleared, Cursor, Engine, Lost, Operation, Row, Rows, Swept};
use list::SqlPages;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use worker::Worker;

pub struct SqlStore<E> {
    engine: Arc<E>,
    load: Arc<Load>,
    worker: WorkerThread<Message>,
    host: Host,
    bulk: Bulk,
}

/// Messages to the worker.
enum Message {
    Job(Job, Admission),
    /// Answered once all earlier writes are done.
    Ready(oneshot::Sender<()>),
    Task(Task),
}

impl<E: Engine> SqlStore<E> {
    pub fn new(engine: E, queue_limit: usize, host: Host, bulk: Bulk) -> Self {
        Self {
            engine: Arc::new(engine),
            load: Arc::new(Load::new(queue_limit)),
            worker: WorkerThread::default(),
            host,
            bulk,
        }
    }

    /// A sender to the worker, which is started where there is none.
    fn worker(&self) -> Result<UnboundedSender<Message>> {
        self.worker.sender(|messages: UnboundedReceiver<Message>| {
            let (engine, bulk) = (Arc::clone(&self.engine), self.bulk.clone());
            let Host::Loop(event_loop) = &self.host else {
                return spawn_with_io(E::NAME, move || Worker::new(engine, messages, bulk).run(), answer_close);
            };
            event_loop.spawn(async move {
                let close = Worker::new(engine, messages, bulk.clone()).run().await;
                bulk.end().await;
                answer_close(close);
            });
            Ok(())
        })
    }
}

impl<E: Engine> Store for SqlStore<E> {
    fn answer(&self, command: Command, _: bool) -> std::result::Result<Outcome, Command> {
        Err(command)
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
        let admitted = worker.and_then(|worker| Ok((worker, self.load.admit(&job.command)?)));
        match admitted {
            Ok((worker, admission)) => {
                // If the worker has just ended, the job is dropped, which answers it.
                drop(worker.send(Message::Job(job, admission)));
                if let Host::Loop(event_loop) = &self.host {
                    event_loop.on_call();
                }
            }
            Err(error) => job.answer.deliver(Err(error)),
        }
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        match self.worker() {
            Ok(worker) => Box::new(SqlPages::new(Arc::clone(&self.engine), worker, prefix, limits)),
            Err(error) => Box::new(FailedPages(error)),
        }
    }

    fn list_executor(&self) -> Result<Option<Arc<dyn ListExecutor>>> {
        Ok(Some(match &self.bulk {
            Bulk::Here => Arc::new(Tasks(self.worker()?)),
            Bulk::On(thread, name) => Arc::new(Tasks(thread.sender(name)?)),
        }))
    }
}

impl From<Task> for Message {
    fn from(task: Task) -> Self {
        Self::Task(task)
    }
}
