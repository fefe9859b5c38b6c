//! Threads of the stores, each with a current-thread runtime. On two cores, it was
//! faster than a multi-thread runtime at every load that we measured.
//!
//! Starting one can fail, because the number of threads and descriptors is limited.
//! So a job is handed over only when the thread and its runtime exist.

use crate::kv::{Error, Result, Task};
use parking_lot::Mutex;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// Runs `body` on a new thread. The name shows in debuggers and `top -H`.
pub fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(format!("fedify-kv-{name}")).spawn(body)
}

/// Runs a future on a new thread.
pub fn spawn_future<F: Future<Output = ()>>(name: &str, start: impl FnOnce() -> F + Send + 'static) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    spawn(name, move || runtime.block_on(start()))?;
    Ok(())
}

/// Runs a future that talks to a server on a new thread. Then drops the runtime
/// with all its sockets, and calls `finish` with the result.
pub fn spawn_with_io<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    name: &str,
    start: impl FnOnce() -> F + Send + 'static,
    finish: impl FnOnce(T) + Send + 'static,
) -> io::Result<()> {
    // As a task: the runtime wakes the future that it blocks on by a system
    // call, even from its own thread.
    let run = move |runtime: &Runtime| runtime.block_on(async { tokio::spawn(start()).await }).ok();
    spawn_runtime(name, run, finish)
}

fn spawn_runtime<T>(
    name: &str,
    run: impl FnOnce(&Runtime) -> Option<T> + Send + 'static,
    finish: impl FnOnce(T) + Send + 'static,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_time().enable_io().build()?;
    spawn(name, move || {
        let result = run(&runtime);
        // A name look-up may be stuck on a thread of the runtime's own.
        runtime.shutdown_background();
        if let Some(result) = result {
            finish(result);
        }
    })?;
    Ok(())
}

/// A store's worker thread, which runs for as long as a sender to it exists. It
/// is started when it is first needed, and again if it has ended, until it is
/// closed.
pub struct WorkerThread<M>(Mutex<State<M>>);

enum State<M> {
    Unstarted,
    Started(UnboundedSender<M>),
    Closed,
}

impl<M> Default for WorkerThread<M> {
    fn default() -> Self {
        Self(Mutex::new(State::Unstarted))
    }
}

impl<M> WorkerThread<M> {
    /// A sender to the worker, which `start` starts where it doesn't run.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if the thread or its runtime can't be created;
    /// [`Error::Closed`]
    pub fn sender(&self, start: impl FnOnce(UnboundedReceiver<M>) -> io::Result<()>) -> Result<UnboundedSender<M>> {
        let mut state = self.0.lock();
        match &*state {
            State::Started(sender) if !sender.is_closed() => return Ok(sender.clone()),
            State::Started(_) | State::Unstarted => {}
            State::Closed => return Err(Error::Closed),
        }
        let (sender, messages) = unbounded_channel();
        start(messages).map_err(not_started)?;
        *state = State::Started(sender.clone());
        Ok(sender)
    }

    /// From now on, no worker is started. Returns a sender to the one that runs.
    pub fn close(&self) -> Option<UnboundedSender<M>> {
        self.close_by(|_| Err(io::ErrorKind::NotFound.into()))
    }

    /// The same, but where a worker has panicked, another one is started to clean
    /// up.
    pub fn close_by(&self, start: impl FnOnce(UnboundedReceiver<M>) -> io::Result<()>) -> Option<UnboundedSender<M>> {
        match std::mem::replace(&mut *self.0.lock(), State::Closed) {
            State::Started(sender) if !sender.is_closed() => Some(sender),
            State::Started(_) => {
                let (sender, messages) = unbounded_channel();
                start(messages).ok().map(|()| sender)
            }
            State::Unstarted | State::Closed => None,
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn not_started(error: io::Error) -> Error {
    Error::Connection(format!("the store's thread can't be started: {error}"))
}

/// The thread for work that is too long for the event loop. It is started when it
/// is first needed.
#[derive(Default)]
pub struct WorkThread {
    worker: WorkerThread<Work>,
    /// Resolves when the thread and its sockets are gone.
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

/// Messages to a [`WorkThread`].
pub enum Work {
    Task(Task),
    End,
}

impl From<Task> for Work {
    fn from(task: Task) -> Self {
        Self::Task(task)
    }
}

impl WorkThread {
    /// # Errors
    ///
    /// [`Error::Connection`] if the thread can't be created; [`Error::Closed`]
    pub fn sender(&self, name: &'static str) -> Result<UnboundedSender<Work>> {
        self.worker.sender(|mut messages| {
            let (sender, ended) = oneshot::channel();
            let work = move || async move {
                while let Some(Work::Task(task)) = messages.recv().await {
                    tokio::spawn(task);
                }
            };
            // There may be no caller that waits for the end.
            spawn_with_io(name, work, move |()| {
                let _ = sender.send(());
            })?;
            *self.ended.lock() = Some(ended);
            Ok(())
        })
    }

    /// Ends the thread and what it is doing, and waits for that.
    pub async fn end(&self) {
        if let Some(sender) = self.worker.close() {
            drop(sender.send(Work::End));
        }
        let ended = self.ended.lock().take();
        if let Some(ended) = ended {
            drop(ended.await);
        }
    }
}

/// Where a store does what is too long for the event loop: on the thread that it
/// runs on anyway, or on one that it has for this.
#[derive(Clone)]
pub enum Bulk {
    Here,
    On(Arc<WorkThread>, &'static str),
}

impl Bulk {
    /// Runs a future there. It goes on if the caller no longer waits.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if the thread can't be created, [`Error::Closed`] if it
    /// has ended.
    pub async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (sender, result) = oneshot::channel();
        let task = async move { drop(sender.send(future.await)) };
        match self {
            Self::Here => drop(tokio::spawn(task)),
            Self::On(thread, name) => {
                let work = Work::Task(Box::pin(task));
                drop(thread.sender(name)?.send(work));
            }
        }
        result.await.map_err(|_| Error::Closed)
    }

    pub async fn end(&self) {
        if let Self::On(thread, _) = self {
            thread.end().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_has_ended_is_started_again() {
        let worker = WorkerThread::default();
        let mut kept = None;
        let mut keep = |messages| {
            kept = Some(messages);
            Ok(())
        };
        let first = worker.sender(&mut keep).unwrap();
        assert!(first.same_channel(&worker.sender(|_: UnboundedReceiver<u32>| Ok(())).unwrap()));
        drop(kept.take());
        assert!(first.is_closed());
        let mut keep = |messages| {
            kept = Some(messages);
            Ok(())
        };
        let second = worker.sender(&mut keep).unwrap();
        assert!(!second.same_channel(&first) && !second.is_closed());
        assert!(worker.close().is_some());
        assert!(matches!(
            worker.sender(|_: UnboundedReceiver<u32>| Ok(())),
            Err(Error::Closed)
        ));
        assert!(worker.close().is_none());
    }

    #[test]
    fn a_worker_that_cannot_start_is_tried_again() {
        let worker = WorkerThread::default();
        let fail = |_| Err(io::Error::from_raw_os_error(11));
        for _ in 0..2 {
            assert!(matches!(worker.sender(fail), Err(Error::Connection(_))));
        }
        assert!(worker.sender(|_: UnboundedReceiver<u32>| Ok(())).is_ok());
    }
}
