//! How outcomes and pages get from a store's threads to JavaScript.
//!
//! One call of a threadsafe function delivers any number of them: those that
//! arrive before the call runs are delivered with it, unless they take so long
//! that the event loop needs a turn between them. The [`Lane`] belongs to the
//! JavaScript thread and has the promises; the threads use the [`Mailbox`].

use super::guard::{guard, guard_each};
use super::js::{Deferred, Js, Ref, Value};
use super::list::{List, Registration};
use super::secret::{Question, ask};
use super::text::Text;
use super::turns::Turns;
use crate::host::Loop;
use crate::kv::{Error, Key, Outbox, Outcome, Reply, Ticket};
use napi::sys;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use slab::Slab;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr;
use std::rc::{Rc, Weak as RcWeak};
use std::sync::{Arc, Weak};

pub struct Lane {
    this: RcWeak<Self>,
    turns: Rc<Turns>,
    /// By ticket. `None` until the promise is made.
    pending: RefCell<Slab<Option<Deferred>>>,
    lists: RefCell<Slab<KnownList>>,
    /// Listeners of collected iterators, to be removed when JavaScript may run.
    stale_listeners: RefCell<Vec<Registration>>,
    /// The function that questions are for.
    secret: RefCell<Option<Rc<Ref>>>,
    /// Whether the environment is ending, so that nothing will be removed.
    ended: Cell<bool>,
    /// How many promises wait for a thread. The process stays alive while any
    /// does.
    waiting: Cell<usize>,
    news: Arc<Mutex<Vec<News>>>,
    mailbox: OnceCell<Weak<Mailbox>>,
    /// News that has not been handled yet, in order: from the mailbox, and from
    /// calls that were answered at once. It is handled after a turn of the event
    /// loop.
    late: RefCell<VecDeque<News>>,
    /// Whether this lane is waiting for a turn.
    resuming: Cell<bool>,
    /// Whether a promise is being made, so that its outcome must not be handled.
    promising: Cell<bool>,
}

pub struct Mailbox {
    /// Shared with the lane, because a store may deliver its last outcomes and
    /// drop the mailbox before they are read.
    news: Arc<Mutex<Vec<News>>>,
    /// Threads call it under the read lock. The write lock is for taking it
    /// away, when the environment ends.
    waker: RwLock<Option<Waker>>,
}

enum News {
    Outcome(Ticket, Outcome),
    Page(usize),
    /// A call of the function that this lane keeps.
    Question(Question),
    /// There are listeners to remove.
    StaleListeners,
    /// Only wakes the JavaScript thread, which has older news to handle.
    Wake,
}

/// A list that has not been collected.
struct KnownList {
    list: RcWeak<List>,
    /// Set while calls wait for a page, so that the list is not collected.
    kept: Option<Rc<List>>,
}

/// A threadsafe function without a JavaScript function. Calling it makes the
/// JavaScript thread empty the mailbox.
struct Waker(sys::napi_threadsafe_function);

// SAFETY: a threadsafe function may be called and released on any thread, and
// called on several at once.
unsafe impl Send for Waker {}
// SAFETY: as above; methods for the JavaScript thread only need a [`Js`].
unsafe impl Sync for Waker {}

impl Lane {
    pub fn new(js: Js) -> (Rc<Self>, Arc<Mailbox>) {
        let lane = Rc::new_cyclic(|this| Self {
            this: this.clone(),
            turns: js.turns().unwrap_or_default(),
            pending: RefCell::default(),
            lists: RefCell::default(),
            stale_listeners: RefCell::default(),
            secret: RefCell::default(),
            ended: Cell::new(false),
            waiting: Cell::new(0),
            news: Arc::default(),
            mailbox: OnceCell::new(),
            late: RefCell::default(),
            resuming: Cell::new(false),
            promising: Cell::new(false),
        });
        let waker = Waker::new(js, &lane);
        let mailbox = Arc::new(Mailbox {
            news: Arc::clone(&lane.news),
            waker: RwLock::new(Some(waker)),
        });
        let _ = lane.mailbox.set(Arc::downgrade(&mailbox));
        if let Ok(event_loop) = js.event_loop() {
            event_loop.add(&lane);
        }
        (lane, mailbox)
    }

    /// A ticket for an operation.
    pub fn ticket(&self, js: Js) -> Ticket {
        let ticket = self.pending.borrow_mut().insert(None);
        self.wait(js);
        ticket
    }

    /// The promise of an operation's outcome. It is made after the operation was
    /// submitted: making a promise may run JavaScript, whose own operations must
    /// come after this one.
    pub fn promise(&self, js: Js, ticket: Ticket) -> Value {
        let outer = self.promising.replace(true);
        let (deferred, promise) = js.promise();
        self.promising.set(outer);
        // No outcome has been handled meanwhile, so the ticket is still pending.
        if let Some(pending) = self.pending.borrow_mut().get_mut(ticket) {
            *pending = Some(deferred);
        }
        promise
    }

    /// The promise of an outcome that is there already. It is settled at once,
    /// or later if the event loop needs a turn.
    pub fn settled(&self, js: Js, outcome: Outcome) -> Value {
        if self.must_wait() {
            return self.settled_later(js, outcome);
        }
        let promise = settled(js, outcome);
        self.turns.probe(js);
        promise
    }

    /// The same for a promise, which may be settled.
    pub fn in_turn(&self, js: Js, promise: Value) -> Value {
        if self.must_wait() {
            let turn = self.settled_later(js, Ok(Reply::Done));
            return js.after(turn, promise);
        }
        self.turns.probe(js);
        promise
    }

    /// Whether an answer has to wait for a turn of the event loop, or for
    /// earlier answers that do.
    fn must_wait(&self) -> bool {
        !self.late.borrow().is_empty() || self.turns.is_due()
    }

    fn settled_later(&self, js: Js, outcome: Outcome) -> Value {
        let ticket = self.ticket(js);
        self.late.borrow_mut().push_back(News::Outcome(ticket, outcome));
        self.resume(js);
        self.promise(js, ticket)
    }

    /// Lets a list go on after a turn of the event loop.
    pub fn serve_later(&self, js: Js, list: usize) {
        self.late.borrow_mut().push_back(News::Page(list));
        self.resume(js);
    }

    fn resume(&self, js: Js) {
        if !self.resuming.replace(true)
            && let Some(this) = self.this.upgrade()
        {
            self.turns.add(this);
        }
        if !self.turns.expect(js)
            && let Some(mailbox) = self.mailbox()
        {
            // The mailbox is emptied when the stack is empty.
            mailbox.post([News::Wake]);
        }
    }

    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    pub fn add_list(&self, list: RcWeak<List>) -> usize {
        self.lists.borrow_mut().insert(KnownList { list, kept: None })
    }

    pub fn remove_list(&self, id: usize) {
        self.lists.borrow_mut().try_remove(id);
    }

    pub fn lists(&self) -> Vec<Rc<List>> {
        self.lists
            .borrow()
            .iter()
            .filter_map(|(_, known)| known.list.upgrade())
            .collect()
    }

    /// Keeps a list, and the process, while calls wait for a page.
    pub fn keep_list(&self, js: Js, id: usize, list: &Rc<List>) {
        let before = match self.lists.borrow_mut().get_mut(id) {
            Some(known) => known.kept.replace(Rc::clone(list)),
            None => return,
        };
        if before.is_none() {
            self.wait(js);
        }
    }

    pub fn release_list(&self, js: Js, id: usize) {
        let kept = self.lists.borrow_mut().get_mut(id).and_then(|known| known.kept.take());
        if kept.is_some() {
            self.unwait(js);
        }
    }

    /// Removes a collected iterator's listener in a later turn of the event
    /// loop, because finalizers may not run JavaScript.
    pub fn remove_later(&self, registration: Registration) {
        if self.ended.get() {
            return;
        }
        self.stale_listeners.borrow_mut().push(registration);
        if let Some(mailbox) = self.mailbox() {
            mailbox.post([News::StaleListeners]);
        }
    }

    /// Keeps a function as long as the mailbox exists. It is called for each question
    /// in the mailbox.
    pub fn keep_secret(&self, function: Ref) {
        self.secret.replace(Some(Rc::new(function)));
    }

    /// Counts a promise that waits.
    pub fn wait(&self, js: Js) {
        self.waiting.set(self.waiting.get() + 1);
        if self.waiting.get() == 1 {
            self.with_waker(|waker| waker.keep_process_alive(js, true));
        }
    }

    /// Counts a promise that no longer waits.
    pub fn unwait(&self, js: Js) {
        self.waiting.set(self.waiting.get() - 1);
        if self.waiting.get() == 0 {
            self.with_waker(|waker| waker.keep_process_alive(js, false));
        }
    }

    fn mailbox(&self) -> Option<Arc<Mailbox>> {
        self.mailbox.get()?.upgrade()
    }

    fn with_waker(&self, body: impl FnOnce(&Waker)) {
        if let Some(mailbox) = self.mailbox()
            && let Some(waker) = mailbox.waker().as_ref()
        {
            body(waker);
        }
    }

    /// Whether there is news to take.
    pub fn has_news(&self) -> bool {
        let late = !self.resuming.get() && !self.late.borrow().is_empty();
        late || !self.news.lock().is_empty()
    }

    /// Handles news that came in a turn of the event loop's own tasks, and older
    /// news. If this lane waits for a turn, all will be handled then.
    pub fn take_news(&self, js: Js, most: usize) {
        let news = std::mem::take(&mut *self.news.lock());
        self.late.borrow_mut().extend(news);
        for _ in 0..most {
            if self.resuming.get() {
                return;
            }
            let Some(news) = self.late.borrow_mut().pop_front() else {
                return;
            };
            guard(|| js.scoped(|| self.handle(js, news)));
        }
    }

    fn empty_mailbox(&self, js: Js) {
        let news = std::mem::take(&mut *self.news.lock());
        self.late.borrow_mut().extend(news);
        if self.resuming.get() {
            self.resume(js);
        } else {
            self.deliver(js);
        }
    }

    /// Continues after a turn of the event loop. Returns whether all news is handled.
    pub fn go_on(&self, js: Js) -> bool {
        self.resuming.set(false);
        if self.promising.get() {
            self.resume(js);
            return false;
        }
        self.deliver(js)
    }

    /// Handles the news, until the event loop needs a turn. A call of the
    /// threadsafe function is no turn, because Node makes many calls in one.
    fn deliver(&self, js: Js) -> bool {
        while !self.late.borrow().is_empty() {
            let due = self.turns.is_due_now();
            self.turns.probe(js);
            if due {
                self.resume(js);
                return false;
            }
            let news = self.late.borrow_mut().pop_front();
            if let Some(news) = news {
                guard(|| js.scoped(|| self.handle(js, news)));
            }
        }
        true
    }

    fn handle(&self, js: Js, news: News) {
        match news {
            News::Outcome(ticket, outcome) => self.settle(js, ticket, outcome),
            News::Page(id) => {
                let list = self.lists.borrow().get(id).and_then(|known| known.list.upgrade());
                if let Some(list) = list {
                    list.go_on(js);
                }
            }
            News::Question(question) => {
                let function = self.secret.borrow().clone();
                if let Some(function) = function {
                    ask(js, &function, question);
                }
            }
            News::Wake => {}
            News::StaleListeners => {
                let registrations = self.stale_listeners.take();
                guard_each(registrations, |registration| registration.remove(js));
            }
        }
    }

    fn settle(&self, js: Js, ticket: Ticket, outcome: Outcome) {
        let Some(pending) = self.pending.borrow_mut().try_remove(ticket) else {
            return;
        };
        self.unwait(js);
        // If there is no promise, the call panicked and was rejected then.
        if let Some(deferred) = pending {
            js.settle(deferred, guarded(js, outcome));
        }
    }

    /// The environment is ending: pages that calls wait for will not come.
    fn end(&self) {
        self.ended.set(true);
        let kept: Vec<_> = self
            .lists
            .borrow_mut()
            .iter_mut()
            .filter_map(|(_, known)| known.kept.take())
            .collect();
        // Dropped after the borrow has ended: lists remove themselves from the
        // lane.
        drop(kept);
        self.stale_listeners.take();
        self.secret.take();
        forget(&self.news);
    }
}

/// The value or the error that an outcome settles a promise with.
fn guarded(js: Js, outcome: Outcome) -> Result<Value, Value> {
    guard(|| to_js(js, outcome))
        .unwrap_or_else(|| Err(js.error(&Error::Backend("internal error in the binding".into()))))
}

/// The same, where a panic is not caught.
fn to_js(js: Js, outcome: Outcome) -> Result<Value, Value> {
    match outcome {
        Ok(Reply::Value(key, Some(value))) => js
            .parse_text(&Text::from(value.into_string()))
            .ok_or_else(|| js.error(&not_json(&key))),
        Ok(Reply::Value(_, None) | Reply::Done) => Ok(js.undefined()),
        Ok(Reply::Swapped(swapped)) => Ok(js.boolean(swapped)),
        Ok(Reply::Count(count)) => Ok(js.count(count)),
        Err(error) => Err(js.error(&error)),
    }
}

/// A promise that is settled already.
fn settled(js: Js, outcome: Outcome) -> Value {
    if let Ok(Reply::Value(key, Some(value))) = outcome {
        return js
            .resolved_parsed(&Text::from(value.into_string()))
            .unwrap_or_else(|| js.rejected(js.error(&not_json(&key))));
    }
    match to_js(js, outcome) {
        Ok(value) => js.resolved(value),
        Err(error) => js.rejected(error),
    }
}

fn not_json(key: &Key) -> Error {
    Error::Corrupt(format!("the value of {key} is not JSON"))
}

impl Mailbox {
    fn post(&self, some: impl IntoIterator<Item = News>) {
        let mut news = self.news.lock();
        // If there was news already, the function has been called for it.
        let first = news.is_empty();
        news.extend(some);
        drop(news);
        // Tasks of the event loop need no call: their news is taken after the turn.
        if Loop::deliver_after_turn() {
            return;
        }
        if first && let Some(waker) = self.waker().as_ref() {
            waker.wake();
        }
    }

    fn waker(&self) -> RwLockReadGuard<'_, Option<Waker>> {
        self.waker.read()
    }

    /// Delivers the news that a list can go on.
    pub fn post_page(&self, list: usize) {
        self.post([News::Page(list)]);
    }
}

/// Drops news that comes too late, so that nothing waits for answers.
fn forget(news: &Mutex<Vec<News>>) {
    let late = std::mem::take(&mut *news.lock());
    // Not under the lock: it may wake tasks.
    drop(late);
}

impl Mailbox {
    /// Has the lane's function called. If the environment has ended, the question is
    /// dropped.
    pub fn post_question(&self, question: Question) {
        self.post([News::Question(question)]);
        if self.waker().is_none() {
            forget(&self.news);
        }
    }
}

impl Outbox for Mailbox {
    fn deliver(&self, outcomes: Vec<(Ticket, Outcome)>) {
        self.post(
            outcomes
                .into_iter()
                .map(|(ticket, outcome)| News::Outcome(ticket, outcome)),
        );
    }
}

impl Waker {
    fn new(js: Js, lane: &Rc<Lane>) -> Self {
        let context = Rc::into_raw(Rc::clone(lane)).cast_mut().cast::<c_void>();
        let mut waker = ptr::null_mut();
        let name = js.text(&Text::from("fedify-kv")).unwrap_or_else(|_| js.undefined());
        // SAFETY: the environment is live. The context is a lane that
        // `finalize` releases, after which Node-API uses neither.
        unsafe {
            sys::napi_create_threadsafe_function(
                js.env(),
                ptr::null_mut(),
                ptr::null_mut(),
                name,
                0,
                1,
                context,
                Some(finalize),
                context,
                Some(on_wake),
                &raw mut waker,
            );
            sys::napi_unref_threadsafe_function(js.env(), waker);
            sys::napi_add_env_cleanup_hook(js.env(), Some(on_environment_end), context);
        }
        Self(waker)
    }

    fn wake(&self) {
        // SAFETY: not released while this exists. Without a queue bound the
        // call fails only when the environment ends.
        unsafe {
            sys::napi_call_threadsafe_function(self.0, ptr::null_mut(), sys::ThreadsafeFunctionCallMode::nonblocking);
        }
    }

    /// Releases the function and drops its pending calls.
    fn close(self) {
        // SAFETY: released once: the usual release is forgotten.
        unsafe { sys::napi_release_threadsafe_function(self.0, sys::ThreadsafeFunctionReleaseMode::abort) };
        std::mem::forget(self);
    }

    fn keep_process_alive(&self, js: Js, yes: bool) {
        // SAFETY: not released while this exists, and called on its thread.
        unsafe {
            if yes {
                sys::napi_ref_threadsafe_function(js.env(), self.0);
            } else {
                sys::napi_unref_threadsafe_function(js.env(), self.0);
            }
        }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // SAFETY: released once, by its only owner. A pending call still runs.
        unsafe { sys::napi_release_threadsafe_function(self.0, sys::ThreadsafeFunctionReleaseMode::release) };
    }
}

/// The threadsafe function's call on the JavaScript thread.
unsafe extern "C" fn on_wake(env: sys::napi_env, _: Value, context: *mut c_void, _: *mut c_void) {
    // It is null when the environment is ending.
    if env.is_null() {
        return;
    }
    // SAFETY: the context is the lane that `finalize` has not released yet, and
    // this is a callback of the environment.
    let (lane, js) = unsafe { (&*context.cast::<Lane>(), Js::new(env)) };
    guard(|| lane.empty_mailbox(js));
}

/// The environment's cleanup hook. From now on, threads call nothing.
unsafe extern "C" fn on_environment_end(context: *mut c_void) {
    // SAFETY: the context is a lane; `finalize`, which releases it, takes this
    // hook away first.
    let lane = unsafe { &*context.cast::<Lane>() };
    if let Some(mailbox) = lane.mailbox()
        && let Some(waker) = mailbox.waker.write().take()
    {
        waker.close();
    }
    lane.end();
}

/// The threadsafe function's finalizer.
unsafe extern "C" fn finalize(env: sys::napi_env, context: *mut c_void, _: *mut c_void) {
    if !env.is_null() {
        // SAFETY: the same hook and argument as were added. If the hook has
        // run already, there is none to remove.
        unsafe { sys::napi_remove_env_cleanup_hook(env, Some(on_environment_end), context) };
    }
    // SAFETY: the context is the count that `Waker::new` gave away; a finalizer
    // runs once.
    drop(unsafe { Rc::from_raw(context.cast::<Lane>()) });
}
