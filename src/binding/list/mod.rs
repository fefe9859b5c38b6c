//! What `list()` returns: an async iterator over the pages of a store.
//!
//! JavaScript may call back from almost anywhere: while a promise is made
//! (`async_hooks`), while one is resolved (a getter named `then`), while a
//! signal is listened to. So no cell is borrowed while JavaScript runs: the
//! state is read or replaced first, then JavaScript is called. A call from
//! within another call of the same list only joins the queue; the outer call
//! answers the queue in its order.

mod entries;
mod pull;
mod signal;

pub use signal::Registration;

use super::guard::guard;
use super::js::{Deferred, External, Js, Ref, Value};
use super::lane::{Lane, Mailbox};
use crate::kv::{Error, PageLimits, Pages, Prefix, Store};
use entries::Entries;
use futures::FutureExt;
use pull::{Message, ReadAhead};
use signal::Listener;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

pub struct List {
    lane: Rc<Lane>,
    mailbox: Arc<Mailbox>,
    id: usize,
    state: RefCell<State>,
    /// `next()` calls without an answer, in their order. A call joins before
    /// its promise is made, and is `None` until then.
    waiting: RefCell<VecDeque<Option<Deferred>>>,
    /// Whether a call further up the stack is answering the queue.
    serving: Cell<bool>,
    /// Whether something has changed since that call looked at the state.
    changed: Cell<bool>,
    /// Whether the queue is answered after a turn of the event loop.
    late: Cell<bool>,
    skipped: Cell<u32>,
    /// The memory of the pages that were read ahead.
    read_ahead: External,
}

pub struct Request {
    pub prefix: Prefix,
    pub limits: PageLimits,
    pub signal: Option<Ref>,
}

enum State {
    /// Nothing has been asked for. The signal is taken out when the first
    /// `next()` starts to listen to it.
    Unstarted {
        store: Arc<dyn Store>,
        request: Request,
    },
    Running {
        source: Source,
        entries: Option<Entries>,
        listener: Option<Listener>,
    },
    /// The next call is rejected with this; after that the list is over.
    Failed(Failure),
    Over,
}

enum Source {
    /// A task on a reader thread pulls pages.
    Thread(ReadAhead),
    /// Pages come without waiting.
    Inline(Box<dyn Pages>),
    /// The last page has been read.
    Exhausted,
}

enum Failure {
    Error(Error),
    /// An object whose `value` is a signal's reason: a reference needs an
    /// object, and a reason may be a plain string.
    Reason(Ref),
}

type Answer = Result<Value, Value>;

/// What the state asks of the call that answers the queue.
enum Step {
    Start,
    Receive,
    Fail,
    End,
}

impl List {
    pub fn new(
        js: Js,
        lane: &Rc<Lane>,
        mailbox: &Arc<Mailbox>,
        source: Result<(Arc<dyn Store>, Request), Error>,
    ) -> Rc<Self> {
        let state = match source {
            Ok((store, request)) => State::Unstarted { store, request },
            Err(error) => State::Failed(Failure::Error(error)),
        };
        Rc::new_cyclic(|this| Self {
            lane: Rc::clone(lane),
            mailbox: Arc::clone(mailbox),
            id: lane.add_list(this.clone()),
            state: RefCell::new(state),
            waiting: RefCell::default(),
            serving: Cell::new(false),
            changed: Cell::new(false),
            late: Cell::new(false),
            skipped: Cell::new(0),
            read_ahead: External::new(js),
        })
    }

    pub fn skipped(&self) -> u32 {
        self.skipped.get()
    }

    /// `next()`
    pub fn next(self: &Rc<Self>, js: Js) -> Value {
        if self.waiting.borrow().is_empty()
            && !self.lane.turns().is_due()
            && let Some((page, index)) = self.take_entry(js)
        {
            let promise = js.resolved_entry(page, index);
            self.lane.turns().probe(js);
            return promise;
        }
        let place = self.waiting.borrow().len();
        self.waiting.borrow_mut().push_back(None);
        // Nothing leaves the queue meanwhile, so the place stays the same.
        let outer = self.serving.replace(true);
        let (deferred, promise) = js.promise();
        self.serving.set(outer);
        if let Some(call) = self.waiting.borrow_mut().get_mut(place) {
            *call = Some(deferred);
        }
        self.serve(js);
        promise
    }

    /// The promise of a call that ends the list; it is settled after a turn of
    /// the event loop if one is due.
    pub fn in_turn(&self, js: Js, promise: Value) -> Value {
        self.lane.in_turn(js, promise)
    }

    /// `return()`: ends the list. Calls still waiting find it ended.
    pub fn end(self: &Rc<Self>, js: Js) {
        self.stop(js, State::Over);
    }

    pub fn close(self: &Rc<Self>, js: Js) {
        self.fail(js, Failure::Error(Error::Closed));
    }

    /// The signal's event.
    fn abort(self: &Rc<Self>, js: Js, reason: Ref) {
        self.fail(js, Failure::Reason(reason));
    }

    /// Ends the list early, unless it has ended or failed already.
    fn fail(self: &Rc<Self>, js: Js, failure: Failure) {
        let under_way = matches!(*self.state.borrow(), State::Unstarted { .. } | State::Running { .. });
        if under_way {
            self.stop(js, State::Failed(failure));
        }
    }

    /// Drops all that is under way, without waiting for it.
    fn stop(self: &Rc<Self>, js: Js, state: State) {
        self.replace(js, state);
        self.serve(js);
    }

    /// Sets the state. Returns the old one, whose pages and listener are
    /// released.
    fn replace(&self, js: Js, state: State) -> State {
        let mut old = self.state.replace(state);
        self.read_ahead.report(js, 0);
        if let State::Running {
            source,
            entries,
            listener,
        } = &mut old
        {
            *source = Source::Exhausted;
            *entries = None;
            if let Some(listener) = listener.take() {
                listener.remove(js);
            }
        }
        old
    }

    /// A page has come, or the event loop has had a turn.
    pub fn go_on(self: &Rc<Self>, js: Js) {
        self.late.set(false);
        self.serve(js);
    }

    /// Answers waiting calls for as long as there is something to answer with,
    /// and the event loop needs no turn.
    fn serve(self: &Rc<Self>, js: Js) {
        if self.late.get() {
            return;
        }
        if self.serving.replace(true) {
            self.changed.set(true);
            return;
        }
        let serving = Serving(&self.serving);
        while !self.waiting.borrow().is_empty() {
            let due = self.lane.turns().is_due_now();
            self.lane.turns().probe(js);
            if due {
                self.late.set(true);
                self.lane.serve_later(js, self.id);
                break;
            }
            self.changed.set(false);
            let answer = guard(|| self.answer(js)).unwrap_or_else(|| Some(Err(self.panicked(js))));
            let Some(answer) = answer else {
                if self.changed.get() {
                    continue;
                }
                break;
            };
            let call = self.waiting.borrow_mut().pop_front();
            if let Some(Some(deferred)) = call {
                js.settle(deferred, answer);
            }
        }
        drop(serving);
        if self.waiting.borrow().is_empty() {
            self.lane.release_list(js, self.id);
        } else {
            // The list, and the process, must live until the page comes.
            self.lane.keep_list(js, self.id, self);
        }
    }

    fn panicked(&self, js: Js) -> Value {
        self.replace(js, State::Over);
        js.error(&Error::Backend("internal error in a list".into()))
    }

    /// The answer to the next call; `None` where it has to wait.
    fn answer(self: &Rc<Self>, js: Js) -> Option<Answer> {
        loop {
            if let Some((page, index)) = self.take_entry(js) {
                return Some(Ok(js.entry(page, index)));
            }
            let step = match &*self.state.borrow() {
                State::Unstarted { .. } => Step::Start,
                State::Running {
                    source: Source::Thread(_) | Source::Inline(_),
                    ..
                } => Step::Receive,
                State::Failed(_) => Step::Fail,
                State::Running {
                    source: Source::Exhausted,
                    ..
                }
                | State::Over => Step::End,
            };
            match step {
                Step::Start => self.start(js),
                Step::Receive => {
                    let message = self.receive()?;
                    self.accept(js, message);
                }
                Step::Fail => {
                    if let State::Failed(failure) = self.replace(js, State::Over) {
                        return Some(Err(failure.reason(js)));
                    }
                }
                Step::End => {
                    self.replace(js, State::Over);
                    return Some(Ok(js.step(js.undefined(), true)));
                }
            }
        }
    }

    /// Takes the next entry of the page at hand.
    fn take_entry(&self, js: Js) -> Option<(Value, u32)> {
        let mut state = self.state.borrow_mut();
        let State::Running { entries, .. } = &mut *state else {
            return None;
        };
        let page = entries.as_mut()?;
        let taken = page.take(js);
        if page.is_empty() {
            *entries = None;
        }
        Some(taken)
    }

    fn start(self: &Rc<Self>, js: Js) {
        let signal = match &mut *self.state.borrow_mut() {
            State::Unstarted { request, .. } => request.signal.take(),
            _ => None,
        };
        let listener = match signal {
            None => None,
            Some(signal) => match Listener::add(js, &self.lane, signal, Rc::downgrade(self)) {
                Ok(listener) => listener,
                Err(reason) => {
                    self.abort(js, reason);
                    return;
                }
            },
        };
        // The signal's methods may have ended the list.
        let old = self.state.replace(State::Over);
        let State::Unstarted { store, request } = old else {
            self.state.replace(old);
            if let Some(listener) = listener {
                listener.remove(js);
            }
            return;
        };
        let (source, first) = self.open(store, request);
        let threaded = matches!(source, Source::Thread(_));
        self.state.replace(State::Running {
            source,
            entries: None,
            listener,
        });
        match first {
            Some(first) => self.accept(js, first),
            None if threaded => self.read_ahead.report(js, PageLimits::default().bytes),
            None => {}
        }
    }

    /// Where pages come from, and the first one if it was there at once.
    fn open(&self, store: Arc<dyn Store>, request: Request) -> (Source, Option<Message>) {
        let mut pages = store.pages(request.prefix, request.limits);
        let first = pages.first_page_now().map(|page| Message::from(Ok(page)));
        if first.as_ref().is_some_and(Message::is_last) {
            return (Source::Exhausted, first);
        }
        let source = match store.list_executor() {
            Err(error) => return (Source::Exhausted, Some(Message::Failed(error))),
            Ok(None) => Source::Inline(pages),
            Ok(Some(executor)) => {
                let notice = pull::Notice::new(Arc::clone(&self.mailbox), self.id);
                let (ahead, task) = ReadAhead::new(pages, store, notice, first.is_some());
                executor.spawn(task);
                Source::Thread(ahead)
            }
        };
        (source, first)
    }

    /// The next message. If there is none yet, the list's task posts a notice when
    /// it has sent one.
    fn receive(&self) -> Option<Message> {
        match &mut *self.state.borrow_mut() {
            State::Running {
                source: Source::Thread(pages),
                ..
            } => pages.next(),
            State::Running {
                source: Source::Inline(pages),
                ..
            } => {
                let page = pages.next_page().now_or_never();
                Some(page.map_or_else(|| Message::Failed(Error::Closed), Message::from))
            }
            _ => None,
        }
    }

    fn accept(&self, js: Js, message: Message) {
        let (page, text) = match message {
            Message::Page { page, text } => (page, text),
            Message::Failed(error) => {
                self.replace(js, State::Failed(Failure::Error(error)));
                return;
            }
        };
        let (bytes, last) = (text.bytes(), page.is_last());
        let (read, skipped) = Entries::read(js, &page, text);
        self.skipped.set(self.skipped.get() + skipped);
        let mut ahead = 0;
        if let State::Running { source, entries, .. } = &mut *self.state.borrow_mut() {
            *entries = read;
            if last {
                *source = Source::Exhausted;
            } else if let Source::Thread(pages) = source {
                ahead = pages.ahead();
            }
        }
        self.read_ahead.report(js, ahead * bytes);
    }
}

/// Resets `serving` when it is dropped, after a panic too.
struct Serving<'a>(&'a Cell<bool>);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Failure {
    fn reason(self, js: Js) -> Value {
        match self {
            Self::Error(error) => js.error(&error),
            Self::Reason(holder) => js.property(js.kept(&holder), c"value").unwrap_or(js.undefined()),
        }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        self.lane.remove_list(self.id);
    }
}
