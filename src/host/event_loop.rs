//! Node.js' own event loop as a host.
//!
//! All tasks of an environment's stores share one [`Loop`]. It runs those that are
//! ready in turns: after a call from JavaScript, and after events of sockets and
//! timers. What a turn has found out is delivered after it, so that no task ever
//! runs JavaScript.

use super::socket::{Registered, Watch};
use super::time::Timers;
use super::uv::{Alarm, Bell, Closed, LoopPointer, Poll, Soon, Timer, Uv};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream};
use parking_lot::Mutex;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{self, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;
use tokio::time::Instant;

/// A turn that takes longer than this goes on after other events.
const TURN: Duration = Duration::from_millis(1);

/// How long deadlines wait, when the loop has come too late to them, until what
/// arrived in time is read and what follows from it is done.
const LATEST: Duration = Duration::from_millis(500);

/// The loop is often so late.
const PUNCTUAL: Duration = Duration::from_millis(10);

/// What embeds the loop: here, a JavaScript environment.
pub struct Embedder {
    /// Delivers what tasks have found out. Runs after a turn, never inside one.
    /// Returns whether there is more, for after other events.
    pub deliver: Box<dyn Fn() -> bool>,
    /// Called when the loop has ended and all its handles are closed.
    pub closed: Box<dyn FnOnce()>,
}

/// May be shared with other threads. What must stay on the loop's own thread is
/// [`Local`].
pub struct Loop {
    this: Weak<Self>,
    /// Whether there is something to run. The one who sets it has a turn run.
    ready: AtomicBool,
    incoming: Mutex<Vec<BoxFuture<'static, ()>>>,
    /// Asks for a turn from other threads. `None` when the loop has ended.
    bell: Mutex<Option<Bell>>,
    local: OwnThread<RefCell<Option<Rc<Local>>>>,
}

struct Local {
    uv: &'static Uv,
    at: LoopPointer,
    waker: Waker,
    tasks: RefCell<FuturesUnordered<BoxFuture<'static, ()>>>,
    sockets: RefCell<Slab<(Poll, Arc<Watch>)>>,
    timers: RefCell<Timers>,
    /// When the timer will fire.
    armed: Cell<Option<Instant>>,
    /// Since when deadlines have waited because the loop was late, and how long
    /// they may.
    late: Cell<Option<(Instant, Duration)>>,
    /// `None` when the loop has ended.
    handles: RefCell<Option<Handles>>,
    deliver: Box<dyn Fn() -> bool>,
    /// Whether there is something to deliver.
    deliverable: Cell<bool>,
    in_turn: Cell<bool>,
    /// How many calls came from JavaScript since `soon` last ran.
    calls: Cell<u32>,
    /// Whether there were several before that. Then more of them can be expected
    /// at once.
    burst: Cell<bool>,
}

struct Handles {
    timer: Timer,
    soon: Soon,
    alarm: Alarm,
    closed: Rc<Closed>,
}

thread_local! {
    /// The loop whose turn runs on this thread. It has no destructor, because the
    /// addon may be unloaded before the thread ends.
    static CURRENT: Cell<*const Loop> = const { Cell::new(ptr::null()) };
}

impl Loop {
    /// A host on this thread's event loop; `None` where libuv's functions can't
    /// be used.
    ///
    /// # Safety
    ///
    /// `at` is the live event loop of this thread, and [`Loop::end`] is called
    /// before it ends.
    pub unsafe fn new(at: LoopPointer, embedder: Embedder) -> Option<Arc<Self>> {
        let uv = Uv::get()?;
        let this = Arc::new_cyclic(|this: &Weak<Self>| Self {
            this: this.clone(),
            ready: AtomicBool::new(false),
            incoming: Mutex::default(),
            bell: Mutex::default(),
            local: OwnThread::new(RefCell::default()),
        });
        let Embedder { deliver, closed } = embedder;
        let local = this.local(uv, at, deliver, &Closed::new(closed)).ok()?;
        if let Some(slot) = this.local.get() {
            slot.replace(Some(local));
        }
        Some(this)
    }

    fn local(
        self: &Arc<Self>,
        uv: &'static Uv,
        at: LoopPointer,
        deliver: Box<dyn Fn() -> bool>,
        closed: &Rc<Closed>,
    ) -> io::Result<Rc<Local>> {
        let on = |event: fn(&Self, &Local)| {
            let this = self.this.clone();
            move || Self::on(&this, event)
        };
        let handles = Handles {
            timer: Timer::new(uv, at, closed, on(Self::on_timer))?,
            soon: Soon::new(uv, at, closed, on(Self::on_soon))?,
            alarm: Alarm::new(uv, at, closed, on(Self::run))?,
            closed: Rc::clone(closed),
        };
        *self.bell.lock() = Some(handles.alarm.bell());
        Ok(Rc::new(Local {
            uv,
            at,
            waker: Waker::from(Arc::clone(self)),
            tasks: RefCell::default(),
            sockets: RefCell::default(),
            timers: RefCell::default(),
            armed: Cell::new(None),
            late: Cell::new(None),
            handles: RefCell::new(Some(handles)),
            deliver,
            deliverable: Cell::new(false),
            in_turn: Cell::new(false),
            calls: Cell::new(0),
            burst: Cell::new(false),
        }))
    }

    /// The loop whose task calls this.
    pub fn current() -> Option<Arc<Self>> {
        let current = CURRENT.get();
        // SAFETY: it is set during a turn, whose caller holds the loop.
        unsafe { current.as_ref() }.and_then(|current| current.this.upgrade())
    }

    /// Has the embedder deliver after this turn. Returns false outside of turns.
    pub fn deliver_after_turn() -> bool {
        // SAFETY: as in `current`.
        let current = unsafe { CURRENT.get().as_ref() };
        current.and_then(Self::own).is_some_and(|local| {
            local.deliverable.set(true);
            true
        })
    }

    /// Runs a future. If the loop has ended, drops it.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        if self.bell.lock().is_some() {
            self.incoming.lock().push(Box::pin(future));
            self.wake();
        }
    }

    /// JavaScript has called a store, whose tasks may have something to send. The
    /// first call of a turn is sent at once. Others are sent together before the
    /// loop waits for events.
    pub fn on_call(&self) {
        let Some(local) = self.own() else {
            return;
        };
        let calls = local.calls.get();
        local.calls.set(calls.saturating_add(1));
        // What this turn finds out is delivered then.
        local.soon();
        if calls == 0 && !local.burst.get() && !local.in_turn.get() {
            self.turn(&local);
        }
    }

    /// Ends the loop: drops its tasks and closes its handles.
    pub fn end(&self) {
        *self.bell.lock() = None;
        let Some(local) = self.local.get().and_then(RefCell::take) else {
            return;
        };
        // Explicitly, because the caller may be JavaScript that an event of this
        // loop runs. Handles are closed before their sockets.
        local.sockets.take();
        local.handles.take();
        // Tasks may look for this loop when they are dropped.
        drop(local.tasks.take());
        drop(std::mem::take(&mut *self.incoming.lock()));
    }

    /// The part for the loop's own thread, if this is that thread and the loop has
    /// not ended.
    fn own(&self) -> Option<Rc<Local>> {
        self.local.get()?.borrow().clone()
    }

    fn wake(&self) {
        if self.ready.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.local.get().is_none() {
            if let Some(bell) = &*self.bell.lock() {
                // SAFETY: the alarm is dropped after the bell was taken away.
                unsafe { bell.ring() };
            }
        } else if let Some(local) = self.own()
            && !local.in_turn.get()
        {
            local.soon();
        }
    }

    /// An event of libuv.
    fn on(this: &Weak<Self>, event: fn(&Self, &Local)) {
        // A clone, because the end of the loop frees the event's closure.
        let this = this.clone();
        let run = || {
            if let Some(this) = this.upgrade()
                && let Some(local) = this.own()
            {
                event(&this, &local);
            }
        };
        // Tasks catch their panics, so there should be none. Unwinding into
        // libuv would end the process.
        drop(catch_unwind(AssertUnwindSafe(run)));
    }

    fn on_soon(&self, local: &Local) {
        local.with(|handles| handles.soon.stop());
        local.burst.set(local.calls.replace(0) > 1);
        self.run(local);
    }

    fn on_timer(&self, local: &Local) {
        local.armed.set(None);
        let now = Instant::now();
        let first = local.timers.borrow().next();
        if let Some(first) = first.filter(|first| *first <= now) {
            // libuv fires timers before it polls sockets. After a long turn of
            // other code, answers may have arrived in time, and others may need
            // what the loop could not send. So a deadline gets as much more time
            // as the loop was late.
            let lateness = Some(now - first).filter(|lateness| *lateness > PUNCTUAL);
            let grace = lateness.unwrap_or_default().min(LATEST);
            let (since, grace) = local.late.get().unwrap_or((now, grace));
            let is_read = self.read_all(local);
            let waited = now - since;
            if waited < grace || !is_read && waited < LATEST {
                local.late.set(Some((since, grace)));
                let next = if is_read {
                    grace.saturating_sub(waited)
                } else {
                    Duration::ZERO
                };
                local.armed.set(Some(now + next));
                local.with(|handles| handles.timer.start(next));
                return local.deliver();
            }
            local.late.set(None);
            let fired = local.timers.borrow_mut().fire(now);
            fired.into_iter().for_each(Waker::wake);
        }
        self.run(local);
    }

    /// Reads all sockets. Returns false if there is more than for one turn.
    fn read_all(&self, local: &Local) -> bool {
        let watches: Vec<_> = local
            .sockets
            .borrow()
            .iter()
            .map(|(_, (_, watch))| Arc::clone(watch))
            .collect();
        for watch in &watches {
            watch.refresh();
        }
        self.turn(local);
        !self.ready.load(Ordering::Acquire) && !watches.iter().any(|watch| watch.has_more())
    }

    fn run(&self, local: &Local) {
        self.turn(local);
        local.deliver();
    }

    /// Runs all tasks that are ready, or until time is up.
    fn turn(&self, local: &Local) {
        if local.in_turn.replace(true) {
            return;
        }
        let outer = CURRENT.replace(self);
        let mut begin = None;
        while self.ready.swap(false, Ordering::AcqRel) {
            let begin = *begin.get_or_insert_with(Instant::now);
            self.poll_tasks(local);
            if begin.elapsed() >= TURN {
                break;
            }
        }
        CURRENT.set(outer);
        local.in_turn.set(false);
        if self.ready.load(Ordering::Acquire) {
            local.soon();
        }
        local.arm();
    }

    fn poll_tasks(&self, local: &Local) {
        let mut context = task::Context::from_waker(&local.waker);
        let incoming = std::mem::take(&mut *self.incoming.lock());
        let mut tasks = local.tasks.borrow_mut();
        tasks.extend(incoming);
        loop {
            // A task that panics is dropped.
            let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut *tasks).poll_next(&mut context)));
            if !matches!(polled, Ok(task::Poll::Ready(Some(()))) | Err(_)) {
                return;
            }
        }
    }

    /// Watches a socket; for [`super::Socket`].
    pub(super) fn register(self: &Arc<Self>, descriptor: c_int, watch: &Arc<Watch>) -> io::Result<Registered> {
        let local = self.own().ok_or_else(ended)?;
        let closed = local.with(|handles| Rc::clone(&handles.closed)).ok_or_else(ended)?;
        let (this, seen_by) = (self.this.clone(), Arc::clone(watch));
        let id = local.sockets.borrow().vacant_key();
        let on_ready = move |readiness| {
            let (this, seen_by) = (this.clone(), Arc::clone(&seen_by));
            if !seen_by.on(readiness)
                && let Some(this) = this.upgrade()
            {
                // Its owner does not read, so the event would come in every turn.
                drop(this.watch_for(id, false, seen_by.wants_to_write()));
            }
            Self::on(&this, Self::run);
        };
        let poll = Poll::new(local.uv, local.at, &closed, descriptor, on_ready)?;
        poll.watch(true, false)?;
        local.sockets.borrow_mut().insert((poll, Arc::clone(watch)));
        Ok(Registered::new(Arc::clone(self), id))
    }

    /// Changes what a socket is watched for.
    pub(super) fn watch_for(&self, id: usize, readable: bool, writable: bool) -> io::Result<()> {
        let local = self.own().ok_or_else(ended)?;
        let sockets = local.sockets.borrow();
        sockets
            .get(id)
            .map_or(Ok(()), |(poll, _)| poll.watch(readable, writable))
    }

    /// Closes the handle of a socket. Returns false on other threads.
    pub(super) fn unregister(&self, id: usize) -> bool {
        let Some(slot) = self.local.get() else {
            return false;
        };
        if let Some(local) = &*slot.borrow() {
            drop(local.sockets.borrow_mut().try_remove(id));
        }
        true
    }

    /// The timers; `None` on other threads, or if the loop has ended.
    pub(super) fn with_timers<T>(&self, body: impl FnOnce(&mut Timers) -> T) -> Option<T> {
        self.own().map(|local| body(&mut local.timers.borrow_mut()))
    }
}

impl Local {
    fn with<T>(&self, body: impl FnOnce(&Handles) -> T) -> Option<T> {
        self.handles.borrow().as_ref().map(body)
    }

    fn deliver(&self) {
        if self.deliverable.replace(false) && (self.deliver)() {
            self.deliverable.set(true);
            self.soon();
        }
    }

    /// Has a turn run soon.
    fn soon(&self) {
        self.with(|handles| handles.soon.start());
    }

    /// Sets the timer for the next deadline. If that has gone meanwhile, the timer
    /// fires in vain, which costs less than stopping it for each operation.
    fn arm(&self) {
        let Some(next) = self.timers.borrow().next() else {
            return;
        };
        if self.armed.get().is_none_or(|armed| next < armed) {
            self.armed.set(Some(next));
            self.with(|handles| handles.timer.start(next.saturating_duration_since(Instant::now())));
        }
    }
}

impl Wake for Loop {
    fn wake(self: Arc<Self>) {
        Self::wake(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Self::wake(self);
    }
}

fn ended() -> io::Error {
    io::Error::other("the event loop has ended")
}

/// A value that only its own thread can reach. If it is dropped on another one, it
/// is leaked.
struct OwnThread<T> {
    owner: ThreadId,
    value: ManuallyDrop<T>,
}

// SAFETY: other threads get no reference to the value, and don't drop it. Ids of
// threads are never used again.
unsafe impl<T> Send for OwnThread<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for OwnThread<T> {}

impl<T> OwnThread<T> {
    fn new(value: T) -> Self {
        Self {
            owner: thread::current().id(),
            value: ManuallyDrop::new(value),
        }
    }

    fn get(&self) -> Option<&T> {
        (thread::current().id() == self.owner).then_some(&*self.value)
    }
}

impl<T> Drop for OwnThread<T> {
    fn drop(&mut self) {
        if self.get().is_some() {
            // SAFETY: dropped once, here, on its own thread.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_on_its_thread() {
        let value = Rc::new(());
        let seen = Rc::downgrade(&value);
        let own = OwnThread::new(value);
        assert!(own.get().is_some());
        let elsewhere = thread::spawn(move || own.get().is_none());
        assert!(elsewhere.join().unwrap());
        assert!(seen.upgrade().is_some());
        drop(OwnThread::new(seen.upgrade()));
    }
}
