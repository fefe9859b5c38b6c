//! What the stores on SQL servers have in common. One thread does it all
//! ([`worker`]): it takes what waits, makes groups of it, and has several groups
//! under way, each on a connection of the engine's. Which server that is, only
//! the [`engine`] knows.

mod engine;
mod list;
mod order;
mod retry;
mod sweep;
mod worker;

use super::served::{Load, Pending};
use super::worker::spawn_with_io;
use crate::kv::{Command, Job, Outbox, Outcome, PageLimits, Pages, Prefix, Reader, Reply, Store, Task};
pub use engine::{Action, Cleared, Cursor, Engine, Lost, Operation, Row, Rows, Swept};
use list::SqlPages;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use worker::Worker;

pub struct SqlStore<E> {
    engine: Arc<E>,
    load: Arc<Load>,
    worker: Mutex<Option<UnboundedSender<Message>>>,
}

/// What the worker is sent.
enum Message {
    Job(Pending, Command, usize),
    /// Answered once all earlier writes are done.
    Ready(oneshot::Sender<()>),
    Task(Task),
}

impl<E: Engine> SqlStore<E> {
    pub fn new(engine: E, queue_limit: usize) -> Self {
        Self {
            engine: Arc::new(engine),
            load: Arc::new(Load::new(queue_limit)),
            worker: Mutex::default(),
        }
    }

    /// The way to the worker, which is started when there is none.
    fn worker(&self) -> UnboundedSender<Message> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker
            .get_or_insert_with(|| {
                let (sender, messages) = unbounded_channel();
                let (engine, load) = (Arc::clone(&self.engine), Arc::clone(&self.load));
                // The last promise resolves when all sockets are closed.
                let finish = |last: Option<Pending>| {
                    if let Some(pending) = last {
                        pending.deliver(Ok(Reply::Done));
                    }
                };
                spawn_with_io(E::NAME, move || Worker::new(engine, load, messages).run(), finish);
                sender
            })
            .clone()
    }
}

impl<E: Engine> Store for SqlStore<E> {
    fn answer(&self, command: Command) -> std::result::Result<Outcome, Command> {
        Err(command)
    }

    fn submit(&self, job: Job, outbox: &Arc<dyn Outbox>) {
        match self.load.admit(&job.command) {
            // The worker runs for as long as this store holds its sender.
            Ok(weight) => {
                let pending = Pending::new(job.ticket, outbox);
                let _ = self.worker().send(Message::Job(pending, job.command, weight));
            }
            Err(error) => outbox.deliver(vec![(job.ticket, Err(error))]),
        }
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        Box::new(SqlPages::new(Arc::clone(&self.engine), self.worker(), prefix, limits))
    }

    fn reader(&self) -> Option<Arc<dyn Reader>> {
        Some(Arc::new(Tasks(self.worker())))
    }
}

/// The worker's thread, for lists.
struct Tasks(UnboundedSender<Message>);

impl Reader for Tasks {
    fn spawn(&self, task: Task) {
        // A worker that has ended has closed its store, and with it the lists.
        let _ = self.0.send(Message::Task(task));
    }
}
