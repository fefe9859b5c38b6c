//! Timers of the host that runs the caller.

use super::event_loop::Loop;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// A time limit has run out.
#[derive(Debug, PartialEq, Eq)]
pub struct Elapsed;

pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

pub fn sleep_until(deadline: Instant) -> Sleep {
    match Loop::current() {
        Some(event_loop) => Sleep::Loop(LoopSleep {
            event_loop,
            deadline,
            id: None,
        }),
        None => Sleep::Thread(Box::pin(tokio::time::sleep_until(deadline))),
    }
}

/// # Errors
///
/// [`Elapsed`] if the future is not ready in time. It is then dropped.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    timeout_at(Instant::now() + limit, future).await
}

/// The same with a point in time.
pub async fn timeout_at<T>(deadline: Instant, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut future = pin!(future);
    tokio::select! {
        biased;
        result = &mut future => Ok(result),
        () = sleep_until(deadline) => Err(Elapsed),
    }
}

pub enum Sleep {
    Loop(LoopSleep),
    Thread(Pin<Box<tokio::time::Sleep>>),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match self.get_mut() {
            Self::Loop(sleep) => sleep.poll(context),
            Self::Thread(sleep) => sleep.as_mut().poll(context),
        }
    }
}

/// A sleep is over when its timer has fired, not when its time has come: the loop
/// fires timers only after it has read what has arrived.
pub struct LoopSleep {
    event_loop: Arc<Loop>,
    deadline: Instant,
    id: Option<u64>,
}

impl LoopSleep {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // An ended loop runs nothing.
        let slept = self.event_loop.with_timers(|timers| {
            if let Some(id) = self.id {
                return !timers.renew(self.deadline, id, context.waker());
            }
            self.id = Some(timers.add(self.deadline, context.waker().clone()));
            false
        });
        if slept == Some(true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for LoopSleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // Another thread can't remove it. It then fires, and wakes no task.
            self.event_loop.with_timers(|timers| timers.remove(self.deadline, id));
        }
    }
}

/// The timers of a loop.
#[derive(Default)]
pub struct Timers {
    timers: BTreeMap<(Instant, u64), Waker>,
    last_id: u64,
}

impl Timers {
    fn add(&mut self, deadline: Instant, waker: Waker) -> u64 {
        self.last_id += 1;
        self.timers.insert((deadline, self.last_id), waker);
        self.last_id
    }

    /// Changes whom a timer wakes. Returns whether it has yet to fire.
    fn renew(&mut self, deadline: Instant, id: u64, waker: &Waker) -> bool {
        match self.timers.get_mut(&(deadline, id)) {
            Some(known) => {
                known.clone_from(waker);
                true
            }
            None => false,
        }
    }

    fn remove(&mut self, deadline: Instant, id: u64) {
        self.timers.remove(&(deadline, id));
    }

    pub fn next(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Takes the timers out whose time has come.
    pub fn fire(&mut self, now: Instant) -> Vec<Waker> {
        // Equal times are in the order of their ids, which begin at 1.
        let later = self.timers.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.timers, later).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn timers_fire_once_in_their_order() {
        let now = Instant::now();
        let later = |millis| now + Duration::from_millis(millis);
        let mut timers = Timers::default();
        let counts: Vec<Arc<Count>> = (0..4).map(|_| Arc::default()).collect();
        let ids: Vec<u64> = [5, 5, 9, 7]
            .iter()
            .zip(&counts)
            .map(|(millis, count)| timers.add(later(*millis), Waker::from(Arc::clone(count))))
            .collect();
        timers.remove(later(7), ids[3]);
        assert_eq!(timers.next(), Some(later(5)));
        assert!(timers.fire(later(4)).is_empty());
        let fired = timers.fire(later(5));
        assert_eq!(fired.len(), 2);
        fired.into_iter().for_each(Waker::wake);
        assert!(!timers.renew(later(5), ids[0], Waker::noop()));
        assert!(timers.renew(later(9), ids[2], &Waker::from(Arc::clone(&counts[3]))));
        timers.fire(later(100)).into_iter().for_each(Waker::wake);
        let woken: Vec<usize> = counts.iter().map(|count| count.0.load(Ordering::Relaxed)).collect();
        assert_eq!(woken, [1, 1, 0, 1]);
        assert_eq!(timers.next(), None);
    }
}
