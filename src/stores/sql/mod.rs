//! What the stores on SQL servers share. One thread does all the work
//! ([`worker`]): it takes all queued operations, forms groups of them, and runs
//! several groups at once, each on a connection of its own. Only the [`engine`]
//! knows the kind of server.

mod engine;
mod list;
mod order;
mod retry;
mod sweep;
mod worker;

use super::served::{Admission, Load};
use super::worker::{FailedPages, Tasks, WorkerThread, answer_close, spawn_with_io};
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
}

/// Messages to the worker.
enum Message {
    Job(Job, Admission),
    /// Answered once all earlier writes are done.
    Ready(oneshot::Sender<()>),
    Task(Task),
}

impl<E: Engine> SqlStore<E> {
    pub fn new(engine: E, queue_limit: usize) -> Self {
        Self {
            engine: Arc::new(engine),
            load: Arc::new(Load::new(queue_limit)),
            worker: WorkerThread::default(),
        }
    }

    /// A sender to the worker, which is started where there is none.
    fn worker(&self) -> Result<UnboundedSender<Message>> {
        self.worker.sender(|messages: UnboundedReceiver<Message>| {
            let engine = Arc::clone(&self.engine);
            spawn_with_io(E::NAME, move || Worker::new(engine, messages).run(), answer_close)
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
            // If the worker has just ended, the job is dropped, which answers it.
            Ok((worker, admission)) => drop(worker.send(Message::Job(job, admission))),
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
        Ok(Some(Arc::new(Tasks(self.worker()?))))
    }
}

impl From<Task> for Message {
    fn from(task: Task) -> Self {
        Self::Task(task)
    }
}
