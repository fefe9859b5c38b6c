//! What `list()` returns: an async iterator over the pages of a store.
//!
//! A task on the store's reader thread pulls pages into a bounded channel. The
//! channel is also how the task is stopped: it ends when nobody can receive.

use super::guard::guard;
use super::js::{Deferred, Js, Ref, Value};
use super::lane::{Lane, Mailbox};
use super::text::Text;
use crate::kv::{Error, Page, PageLimits, Pages, Prefix, Store};
use futures::FutureExt;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TryRecvError};

/// Pages ready ahead of the consumer.
const AHEAD: usize = 2;

/// A consumer that never waits for anything else gets pages for so long before
/// the event loop has a turn.
const TURN: Duration = Duration::from_millis(4);

pub struct List {
    lane: Rc<Lane>,
    mailbox: Arc<Mailbox>,
    id: usize,
    /// Whether the task should say so when it has sent a page.
    wanted: Arc<AtomicBool>,
    state: RefCell<State>,
}

struct State {
    source: Source,
    page: Option<Entries>,
    /// A first page that was there at once.
    first: Option<Message>,
    /// `next()` calls without an answer, in their order.
    waiting: VecDeque<Deferred>,
    /// While calls wait, the list must not be collected.
    kept: Option<Rc<List>>,
    signal: Option<Signal>,
    skipped: u32,
    /// Whether a call was told the end, or what ended it. Nothing comes after.
    over: bool,
    /// When the event loop last had a turn between two pages.
    turn: Instant,
}

pub struct Request {
    pub prefix: Prefix,
    pub limits: PageLimits,
    pub signal: Option<Ref>,
}

enum Source {
    Unstarted(Arc<dyn Store>, Prefix, PageLimits),
    /// Pages come from a reader thread, which lives as long as the store.
    Channel {
        receiver: Receiver<Message>,
        _store: Arc<dyn Store>,
    },
    /// Pages come without waiting.
    Inline(Box<dyn Pages>),
    Failed(Failure),
    End,
}

/// What the next call is rejected with; after that the list is over.
enum Failure {
    Error(Error),
    /// An object whose `value` is the reason.
    Reason(Ref),
}

enum Message {
    Page { page: Page, text: Text },
    Failed(Error),
}

/// A page as JavaScript array of keys and values in turn.
struct Entries {
    array: Ref,
    next: u32,
    length: u32,
}

struct Signal {
    signal: Ref,
    listener: Option<Ref>,
}

impl List {
    pub fn new(lane: &Rc<Lane>, mailbox: &Arc<Mailbox>, source: Result<(Arc<dyn Store>, Request), Error>) -> Rc<Self> {
        let (source, signal) = match source {
            Ok((store, Request { prefix, limits, signal })) => (
                Source::Unstarted(store, prefix, limits),
                signal.map(|signal| Signal { signal, listener: None }),
            ),
            Err(error) => (Source::Failed(Failure::Error(error)), None),
        };
        Rc::new_cyclic(|this| Self {
            lane: Rc::clone(lane),
            mailbox: Arc::clone(mailbox),
            id: lane.add_list(this.clone()),
            wanted: Arc::default(),
            state: RefCell::new(State {
                source,
                page: None,
                first: None,
                waiting: VecDeque::new(),
                kept: None,
                signal,
                skipped: 0,
                over: false,
                turn: Instant::now(),
            }),
        })
    }

    pub fn skipped(&self) -> u32 {
        self.state.borrow().skipped
    }

    /// `next()`
    pub fn next(self: &Rc<Self>, js: Js) -> Value {
        if let Some(promise) = self.next_now(js) {
            return promise;
        }
        let (deferred, promise) = js.promise();
        self.state.borrow_mut().waiting.push_back(deferred);
        self.listen(js);
        self.serve(js);
        promise
    }

    /// The answer to a call that no other waits before, if a page is at hand.
    fn next_now(&self, js: Js) -> Option<Value> {
        let mut state = self.state.borrow_mut();
        if !state.waiting.is_empty() {
            return None;
        }
        Self::next_entry(&mut state, |array, index| js.resolved_entry(js.kept(array), index))
    }

    /// `return()`: ends the list. Calls still waiting find it ended.
    pub fn end(self: &Rc<Self>, js: Js) {
        self.state.borrow_mut().over = true;
        self.stop(js, Source::End);
    }

    pub fn close(self: &Rc<Self>, js: Js) {
        self.fail(js, Failure::Error(Error::Closed));
    }

    /// Ends the list early, unless it has ended or failed already.
    fn fail(self: &Rc<Self>, js: Js, failure: Failure) {
        let state = self.state.borrow();
        let too_late = state.over || matches!(state.source, Source::Failed(_));
        drop(state);
        if !too_late {
            self.stop(js, Source::Failed(failure));
        }
    }

    /// Drops all that is under way, without waiting for it.
    fn stop(self: &Rc<Self>, js: Js, source: Source) {
        let mut state = self.state.borrow_mut();
        let old = std::mem::replace(&mut state.source, source);
        let pages = (state.page.take(), state.first.take());
        drop(state);
        drop((old, pages));
        self.unlisten(js);
        self.serve(js);
    }

    /// Answers waiting calls for as long as there is something to answer with.
    pub fn serve(self: &Rc<Self>, js: Js) {
        while !self.state.borrow().waiting.is_empty() {
            let Some(answer) = self.answer(js) else {
                self.keep(js);
                return;
            };
            let Some(deferred) = self.state.borrow_mut().waiting.pop_front() else {
                break;
            };
            // Settling may run JavaScript that calls back: nothing is borrowed.
            js.settle(deferred, answer);
        }
        self.unkeep(js);
    }

    /// The answer to the next call; `None` where it has to wait.
    fn answer(self: &Rc<Self>, js: Js) -> Option<Result<Value, Value>> {
        loop {
            let mut state = self.state.borrow_mut();
            let entry = Self::next_entry(&mut state, |array, index| js.entry(js.kept(array), index));
            if let Some(entry) = entry {
                return Some(Ok(entry));
            }
            match &mut state.source {
                Source::End => {
                    state.over = true;
                    drop(state);
                    self.unlisten(js);
                    return Some(Ok(js.step(js.undefined(), true)));
                }
                Source::Failed(_) => {
                    let failed = std::mem::replace(&mut state.source, Source::End);
                    state.over = true;
                    drop(state);
                    self.unlisten(js);
                    let Source::Failed(failure) = failed else { continue };
                    return Some(Err(match failure {
                        Failure::Error(error) => js.error(&error),
                        Failure::Reason(holder) => js.property(js.kept(&holder), c"value").unwrap_or(js.undefined()),
                    }));
                }
                Source::Unstarted(..) => {
                    drop(state);
                    self.start();
                }
                Source::Channel { .. } | Source::Inline(_) => {
                    drop(state);
                    let message = self.receive(js)?;
                    self.accept(js, message);
                }
            }
        }
    }

    /// Takes the next entry of the page at hand.
    fn next_entry(state: &mut State, take: impl FnOnce(&Ref, u32) -> Value) -> Option<Value> {
        let page = state.page.as_mut()?;
        let entry = take(&page.array, page.next);
        page.next += 1;
        if page.next == page.length {
            state.page = None;
        }
        Some(entry)
    }

    fn start(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let source = std::mem::replace(&mut state.source, Source::End);
        let Source::Unstarted(store, prefix, limits) = source else {
            return;
        };
        let mut pages = store.pages(prefix, limits);
        state.first = pages.first_page_now().map(|page| message_of(Ok(page)));
        if state.first.as_ref().is_some_and(Message::is_last) {
            // Nothing to spawn; what is at hand says that it is the last.
            state.source = Source::Inline(pages);
            return;
        }
        state.source = match store.list_executor() {
            Err(error) => Source::Failed(Failure::Error(error)),
            Ok(None) => Source::Inline(pages),
            Ok(Some(executor)) => {
                let (sender, receiver) = channel(AHEAD);
                let (wanted, mailbox) = (Arc::clone(&self.wanted), Arc::clone(&self.mailbox));
                let notice = Notice {
                    wanted,
                    mailbox,
                    list: self.id,
                };
                executor.spawn(Box::pin(pull(pages, sender, notice)));
                Source::Channel {
                    receiver,
                    _store: store,
                }
            }
        };
        state.turn = Instant::now();
    }

    /// The next message, or `None` after arranging to be called when there is
    /// one.
    fn receive(self: &Rc<Self>, js: Js) -> Option<Message> {
        let mut state = self.state.borrow_mut();
        if let Some(first) = state.first.take() {
            return Some(first);
        }
        let turn_over = state.turn.elapsed() >= TURN;
        match &mut state.source {
            // An empty channel gives the event loop its turn anyway.
            Source::Channel { receiver, .. } if !turn_over || receiver.is_empty() => {
                self.wanted.store(true, Ordering::SeqCst);
                match receiver.try_recv() {
                    Ok(message) => {
                        self.wanted.store(false, Ordering::SeqCst);
                        Some(message)
                    }
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => {
                        Some(Message::Failed(Error::Backend("the list's worker has ended".into())))
                    }
                }
            }
            Source::Inline(pages) if !turn_over => pages.next_page().now_or_never().map(message_of),
            _ => {
                drop(state);
                let this = Rc::clone(self);
                let asked = js.set_immediate(move |js| {
                    this.state.borrow_mut().turn = Instant::now();
                    this.serve(js);
                });
                asked
                    .is_err()
                    .then(|| Message::Failed(Error::Backend("setImmediate failed".into())))
            }
        }
    }

    fn accept(self: &Rc<Self>, js: Js, message: Message) {
        let result = match message {
            Message::Page { page, text } => read(js, page, &text),
            Message::Failed(error) => Err(error),
        };
        let mut state = self.state.borrow_mut();
        match result {
            Ok((page, entries)) => {
                state.skipped += page.skipped();
                state.page = entries;
                if page.is_last() {
                    state.source = Source::End;
                }
            }
            Err(error) => state.source = Source::Failed(Failure::Error(error)),
        }
    }

    /// Keeps the list, and the process, while calls wait for a page.
    fn keep(self: &Rc<Self>, js: Js) {
        let mut state = self.state.borrow_mut();
        if state.kept.is_none() {
            state.kept = Some(Rc::clone(self));
            self.lane.wait(js);
        }
    }

    fn unkeep(&self, js: Js) {
        let kept = self.state.borrow_mut().kept.take();
        if kept.is_some() {
            self.lane.unwait(js);
        }
    }

    /// Starts listening to the signal, at the first `next()`.
    fn listen(self: &Rc<Self>, js: Js) {
        let mut state = self.state.borrow_mut();
        if !matches!(state.source, Source::Unstarted(..)) {
            return;
        }
        let Some(Signal { signal, .. }) = &state.signal else {
            return;
        };
        let signal = js.kept(signal);
        drop(state);
        if js.get(signal, "aborted").ok().and_then(|aborted| js.to_bool(aborted)) == Some(true) {
            self.abort(js, signal);
            return;
        }
        let this = Rc::downgrade(self);
        let listener = js.function(move |js| {
            if let Some(this) = this.upgrade() {
                let signal = this
                    .state
                    .borrow()
                    .signal
                    .as_ref()
                    .map(|signal| js.kept(&signal.signal));
                if let Some(signal) = signal {
                    this.abort(js, signal);
                }
            }
        });
        let event = js.string("abort");
        if js.call_method(signal, "addEventListener", &[event, listener]).is_ok() {
            state = self.state.borrow_mut();
            if let Some(signal) = &mut state.signal {
                signal.listener = Some(js.keep(listener));
            }
        }
    }

    /// A signal outlives many lists: none may stay behind in its listeners.
    fn unlisten(&self, js: Js) {
        let signal = self.state.borrow_mut().signal.take();
        if let Some(Signal {
            signal,
            listener: Some(listener),
        }) = signal
        {
            let event = js.string("abort");
            let _ = js.call_method(js.kept(&signal), "removeEventListener", &[event, js.kept(&listener)]);
        }
    }

    fn abort(self: &Rc<Self>, js: Js, signal: Value) {
        let reason = js.get(signal, "reason").unwrap_or_else(|_| js.undefined());
        // A reference needs an object, and a reason may be a plain string.
        let holder = js.keep(js.step(reason, true));
        self.fail(js, Failure::Reason(holder));
    }
}

impl Drop for List {
    fn drop(&mut self) {
        self.lane.remove_list(self.id);
    }
}

/// How a task says that there is news, be it that the task is gone.
struct Notice {
    wanted: Arc<AtomicBool>,
    mailbox: Arc<Mailbox>,
    list: usize,
}

impl Notice {
    fn give(&self) {
        if self.wanted.swap(false, Ordering::SeqCst) {
            self.mailbox.post_page(self.list);
        }
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.give();
    }
}

/// The task: pulls pages until the last one, an error, or nobody listens.
async fn pull(mut pages: Box<dyn Pages>, sender: Sender<Message>, notice: Notice) {
    // Dropped before the notice, which tells what is gone.
    let sender = sender;
    loop {
        let page = tokio::select! {
            biased;
            () = sender.closed() => return,
            page = pages.next_page() => page,
        };
        let message = message_of(page);
        let last = message.is_last();
        if sender.send(message).await.is_err() {
            return;
        }
        notice.give();
        if last {
            return;
        }
        // A page may come without waiting: other lists have their turn.
        tokio::task::yield_now().await;
    }
}

fn message_of(page: Result<Page, Error>) -> Message {
    match page.map(|page| guard(|| (Text::from(page.json()), page))) {
        Ok(Some((text, page))) => Message::Page { page, text },
        Ok(None) => Message::Failed(Error::Backend("internal error in a list".into())),
        Err(error) => Message::Failed(error),
    }
}

impl Message {
    fn is_last(&self) -> bool {
        match self {
            Self::Page { page, .. } => page.is_last(),
            Self::Failed(_) => true,
        }
    }
}

/// Parses a page, if need be without what is not JSON in it.
fn read(js: Js, page: Page, text: &Text) -> Result<(Page, Option<Entries>), Error> {
    let parse = |page: &Page, text: &Text| {
        let length = page.entries();
        let array = js.parse(text).filter(|array| js.length(*array) == 2 * length)?;
        let array = js.keep(array);
        Some((length > 0).then_some(Entries { array, next: 0, length }))
    };
    if let Some(entries) = parse(&page, text) {
        return Ok((page, entries));
    }
    let page = page.checked();
    match parse(&page, &Text::from(page.json())) {
        Some(entries) => Ok((page, entries)),
        None => Err(Error::Corrupt("a page of the list could not be read".into())),
    }
}
