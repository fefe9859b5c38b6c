//! Tasks of the host that runs the caller.

use super::event_loop::Loop;
use futures::future::{AbortHandle, abortable};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A future that runs by itself. Awaiting the task gives its result, or `None` if
/// it was aborted or panicked.
pub struct Task<T> {
    abort: AbortHandle,
    result: oneshot::Receiver<T>,
}

/// Runs a future by itself. Must be called by code that a host runs.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    let (sender, result) = oneshot::channel();
    let run = async move {
        // The receiver may be gone.
        drop(sender.send(future.await));
    };
    let (run, abort) = abortable(run);
    let run = async move {
        let _ = run.await;
    };
    match Loop::current() {
        Some(event_loop) => event_loop.spawn(run),
        None => drop(tokio::spawn(run)),
    }
    Task { abort, result }
}

/// Whether an event loop runs the caller.
pub fn on_loop() -> bool {
    Loop::current().is_some()
}

/// Whether a host runs the caller, so that it may spawn.
pub fn on_host() -> bool {
    on_loop() || Handle::try_current().is_ok()
}

impl<T> Task<T> {
    pub fn abort(&self) {
        self.abort.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.result).poll(context).map(Result::ok)
    }
}

/// Lets the other tasks run that are ready.
pub async fn yield_now() {
    if Loop::current().is_none() {
        return tokio::task::yield_now().await;
    }
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
