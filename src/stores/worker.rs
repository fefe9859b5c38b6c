//! What stores that have a thread share: the lists that run on it, and the answer to
//! `close`.

use crate::host::thread::{WorkerThread, spawn_future};
use crate::kv::{Answer, Error, ListExecutor, Page, Pages, Reply, Result, Task};
use futures::future::{BoxFuture, ready};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// A list that can't be read, because the store's worker can't be started.
pub struct FailedPages(pub Error);

impl Pages for FailedPages {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(ready(Err(self.0.clone())))
    }
}

/// A thread that the tasks of lists share, taking turns at each page.
#[derive(Default)]
pub struct ListThread(WorkerThread<Task>);

impl ListThread {
    /// # Errors
    ///
    /// [`Error::Connection`] if the thread can't be created.
    pub fn executor(&self, name: &'static str) -> Result<impl ListExecutor + use<>> {
        let run = |mut tasks: UnboundedReceiver<Task>| {
            spawn_future(name, move || async move {
                while let Some(task) = tasks.recv().await {
                    tokio::spawn(task);
                }
            })
        };
        self.0.sender(run).map(Tasks)
    }

    /// Ends the thread once its tasks have ended.
    pub fn close(&self) {
        drop(self.0.close());
    }
}

/// Runs the tasks of lists on a worker that takes them as messages.
pub struct Tasks<M>(pub UnboundedSender<M>);

impl<M: From<Task> + Send> ListExecutor for Tasks<M> {
    fn spawn(&self, task: Task) {
        // If the thread has ended, the task is dropped, which its list notices.
        drop(self.0.send(task.into()));
    }
}

/// Answers `close` once the worker's runtime is gone, and with it all sockets.
pub fn answer_close(close: Option<Answer>) {
    if let Some(answer) = close {
        answer.deliver(Ok(Reply::Done));
    }
}
