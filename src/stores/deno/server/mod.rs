//! A server that speaks KV Connect, as the self-hosted `denokv` does.
//!
//! A worker thread ([`worker`]) takes all queued work, and answers it with one
//! read and one atomic write ([`group`]). Lists read ahead on the same thread.

mod clear;
mod group;
mod list;
mod worker;

use super::row::Rows;
use super::target::Server;
use crate::host::thread::{WorkerThread, spawn_local_with_io};
use crate::kv::{Command, Job, ListExecutor, Outcome, PageLimits, Pages, Prefix, Reply, Result, Store, Task};
use crate::stores::database::queue::{Queued, Work};
use crate::stores::pending_writes::PendingWrites;
use crate::stores::worker::{FailedPages, Tasks, answer_close};
use list::ServerPages;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use worker::Worker;

pub struct ServerStore {
    server: Server,
    timeout: Duration,
    worker: WorkerThread<Message>,
    /// Only counted: all reads go through the worker.
    pending: Arc<PendingWrites>,
}

/// What the worker is sent.
enum Message {
    Work(Queued),
    /// Entries from a key to before another, so many at most.
    Range(Vec<u8>, Vec<u8>, u32, oneshot::Sender<Result<Rows>>),
    /// Of a list.
    Task(Task),
}

impl ServerStore {
    pub fn at(server: Server, timeout: Duration) -> Self {
        Self {
            server,
            timeout,
            worker: WorkerThread::default(),
            pending: Arc::default(),
        }
    }

    #[cfg(test)]
    pub fn url(&self) -> &url::Url {
        &self.server.url
    }

    /// A sender to the worker, which is started where there is none.
    fn worker(&self) -> Result<UnboundedSender<Message>> {
        self.worker.sender(|messages: UnboundedReceiver<Message>| {
            let (server, timeout) = (self.server.clone(), self.timeout);
            spawn_local_with_io(
                "deno",
                move || Worker::new(server, timeout, messages).run(),
                answer_close,
            )
        })
    }
}

impl Store for ServerStore {
    fn answer(&self, command: Command, _: bool) -> Result<Outcome, Command> {
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
        match worker {
            // If the worker has just ended, the job is dropped, which answers it.
            Ok(worker) => drop(worker.send(Message::Work(Queued::new(Work::Job(job), &self.pending)))),
            Err(error) => job.answer.deliver(Err(error)),
        }
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        match self.worker() {
            Ok(worker) => Box::new(ServerPages::new(worker, Arc::clone(&self.pending), &prefix, limits)),
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
