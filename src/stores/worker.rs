//! A thread of a store's own with a current-thread runtime. On the two cores of
//! a small server, a multi-thread runtime loses to it at every load we measured.

use crate::kv::{Reader, Task};
use std::future::Future;
use std::thread::{self, JoinHandle};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

/// Runs a future on a new thread. The name shows in debuggers and `top -H`.
pub fn spawn<F: Future<Output = ()>>(name: &str, start: impl FnOnce() -> F + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new()
        .name(format!("fedify-kv-{name}"))
        .spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime without I/O asks nothing of the system")
                .block_on(start());
        })
        .expect("the system can start a thread")
}

/// Runs a future that talks to a server on a new thread, and `finish` with its
/// result once the runtime is gone, and with it all sockets.
pub fn spawn_with_io<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    name: &str,
    start: impl FnOnce() -> F + Send + 'static,
    finish: impl FnOnce(T) + Send + 'static,
) {
    // As a task: the runtime wakes the future that it blocks on by a system
    // call, even from its own thread.
    let run = move |runtime: &Runtime| runtime.block_on(async { tokio::spawn(start()).await }).ok();
    spawn_runtime(name, run, finish);
}

/// The same for a future that has to stay on one thread.
pub fn spawn_local_with_io<T, F: Future<Output = T>>(
    name: &str,
    start: impl FnOnce() -> F + Send + 'static,
    finish: impl FnOnce(T) + Send + 'static,
) {
    let run = move |runtime: &Runtime| Some(LocalSet::new().block_on(runtime, start()));
    spawn_runtime(name, run, finish);
}

fn spawn_runtime<T>(
    name: &str,
    run: impl FnOnce(&Runtime) -> Option<T> + Send + 'static,
    finish: impl FnOnce(T) + Send + 'static,
) {
    thread::Builder::new()
        .name(format!("fedify-kv-{name}"))
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .enable_io()
                .build()
                .expect("the system has a file descriptor to spare");
            let result = run(&runtime);
            // A name look-up may be stuck on a thread of the runtime's own.
            runtime.shutdown_background();
            if let Some(result) = result {
                finish(result);
            }
        })
        .expect("the system can start a thread");
}

/// A thread that list tasks share, taking turns at each page.
pub struct ReaderThread(UnboundedSender<Task>);

impl ReaderThread {
    pub fn start(name: &str) -> Self {
        let (sender, mut tasks) = unbounded_channel::<Task>();
        spawn(name, move || async move {
            while let Some(task) = tasks.recv().await {
                tokio::spawn(task);
            }
        });
        Self(sender)
    }
}

impl Reader for ReaderThread {
    fn spawn(&self, task: Task) {
        // The thread takes tasks for as long as this sender exists.
        let _ = self.0.send(task);
    }
}
