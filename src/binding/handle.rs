//! What every store class holds, and what its methods do.

use super::args::{Arg, ClearPrefix, Json, SetOptions};
use super::guard::guard;
use super::js::{Deferred, External, Js, Ref, Value};
use super::lane::{Lane, Mailbox};
use super::list::{List, Request};
use crate::kv::{Answer, Command, Error, Job, Key, Reply, Result, Store, Ticket, Write};
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

pub struct Handle {
    store: Arc<dyn Store>,
    lane: Rc<Lane>,
    mailbox: Arc<Mailbox>,
    closing: RefCell<Closing>,
    /// The memory that the store's entries take in this process.
    memory: External,
    /// Whether a write was answered at once, and the code that called it still
    /// runs. It may call more.
    wrote: Rc<Cell<bool>>,
    /// The function that sets `wrote` to false.
    reset_wrote: OnceCell<Ref>,
}

/// The progress of `close()`.
enum Closing {
    NotCalled,
    /// The promise is being made. Making it may run JavaScript, which may call
    /// `close()` again; these are the promises of such calls.
    Begun(Vec<Deferred>),
    Promised(Ref),
}

impl Handle {
    pub fn new(js: Js, store: impl Store + 'static) -> Self {
        let (lane, mailbox) = Lane::new(js);
        Self {
            store: Arc::new(store),
            lane,
            mailbox,
            closing: RefCell::new(Closing::NotCalled),
            memory: External::new(js),
            wrote: Rc::default(),
            reset_wrote: OnceCell::new(),
        }
    }

    pub fn get(&self, js: Js, key: Arg<Key>) -> Value {
        self.run(js, key.0.map(Command::Get))
    }

    pub fn set(&self, js: Js, key: Arg<Key>, value: Arg<Json>, options: Arg<SetOptions>) -> Value {
        let command = || {
            let (key, Json(value), SetOptions(lifetime)) = (key.0?, value.0?, options.0?);
            Ok(value.map(|value| Command::Put(key, Write::new(value, lifetime))))
        };
        match command() {
            Ok(Some(command)) => self.run(js, Ok(command)),
            // Fedify's own stores do nothing for `undefined`.
            Ok(None) => self.run_nothing(js),
            Err(error) => self.run(js, Err(error)),
        }
    }

    pub fn delete(&self, js: Js, key: Arg<Key>) -> Value {
        self.run(js, key.0.map(|key| Command::Put(key, Write::Delete)))
    }

    pub fn cas(&self, js: Js, key: Arg<Key>, expected: Arg<Json>, value: Arg<Json>, options: Arg<SetOptions>) -> Value {
        let command = || {
            let (key, Json(expected), Json(value), SetOptions(lifetime)) = (key.0?, expected.0?, value.0?, options.0?);
            let write = value.map_or(Write::Delete, |value| Write::new(value, lifetime));
            Ok(Command::Cas(key, expected, write))
        };
        self.run(js, command())
    }

    pub fn clear(&self, js: Js, prefix: Arg<ClearPrefix>) -> Value {
        self.run(js, prefix.0.map(|ClearPrefix(prefix)| Command::Clear(prefix)))
    }

    pub fn list(&self, js: Js, request: Arg<Request>) -> Rc<List> {
        let source = request.0.and_then(|request| {
            if self.is_closed() {
                Err(Error::Closed)
            } else {
                Ok((Arc::clone(&self.store), request))
            }
        });
        List::new(js, &self.lane, &self.mailbox, source)
    }

    /// Runs a command, or rejects with the error that its arguments gave.
    pub fn run(&self, js: Js, command: Result<Command>) -> Value {
        let command = command.and_then(|command| {
            if self.is_closed() {
                Err(Error::Closed)
            } else {
                Ok(command)
            }
        });
        match command {
            Ok(command) => self.submit(js, command),
            Err(error) => self.lane.settled(js, Err(error)),
        }
    }

    /// Starts an operation that only one class has. If its answer is dropped, the
    /// error is that of `as_command`.
    pub fn start(&self, js: Js, as_command: &Command, begin: impl FnOnce(Answer)) -> Value {
        if self.is_closed() {
            return self.lane.settled(js, Err(Error::Closed));
        }
        let ticket = self.lane.ticket(js);
        begin(self.answer(ticket, as_command));
        self.lane.promise(js, ticket)
    }

    /// The answer that settles a ticket's promise.
    fn answer(&self, ticket: Ticket, command: &Command) -> Answer {
        Answer::new(ticket, self.mailbox.clone(), command)
    }

    fn run_nothing(&self, js: Js) -> Value {
        let outcome = if self.is_closed() {
            Err(Error::Closed)
        } else {
            Ok(Reply::Done)
        };
        self.lane.settled(js, outcome)
    }

    fn submit(&self, js: Js, command: Command) -> Value {
        let writes = command.written().is_some();
        match self.store.answer(command, self.wrote.get()) {
            Ok(outcome) => {
                if writes && self.store.groups_writes() {
                    self.expect_more(js);
                }
                self.memory.report(js, self.store.memory());
                self.lane.settled(js, outcome)
            }
            Err(command) => {
                let ticket = self.lane.ticket(js);
                let answer = self.answer(ticket, &command);
                self.store.submit(Job { command, answer });
                self.lane.promise(js, ticket)
            }
        }
    }

    /// Expects more writes until the code that called this one awaits something.
    fn expect_more(&self, js: Js) {
        if self.wrote.replace(true) {
            return;
        }
        let reset_wrote = self.reset_wrote.get_or_init(|| {
            let wrote = Rc::clone(&self.wrote);
            js.keep(js.function(move |_| wrote.set(false)))
        });
        js.microtask(reset_wrote);
    }

    /// Idempotent: every call gets the promise of the first, or one that settles
    /// like it.
    pub fn close(&self, js: Js) -> Value {
        let promised = match &*self.closing.borrow() {
            Closing::Promised(promise) => Some(js.kept(promise)),
            _ => None,
        };
        if let Some(promise) = promised {
            return self.lane.in_turn(js, promise);
        }
        if self.is_closed() {
            return self.follow_close(js);
        }
        self.closing.replace(Closing::Begun(Vec::new()));
        let promise = guard(|| self.submit(js, Command::Close))
            .unwrap_or_else(|| js.rejected(js.error(&Error::Backend("internal error in close()".into()))));
        let begun = self.closing.replace(Closing::Promised(js.keep(promise)));
        if let Closing::Begun(followers) = begun {
            for follower in followers {
                js.settle(follower, Ok(promise));
            }
        }
        for list in self.lane.lists() {
            list.close(js);
        }
        promise
    }

    /// A promise that settles like the one that an outer call is making.
    fn follow_close(&self, js: Js) -> Value {
        let (deferred, promise) = js.promise();
        if let Closing::Begun(followers) = &mut *self.closing.borrow_mut() {
            followers.push(deferred);
        }
        promise
    }

    fn is_closed(&self) -> bool {
        !matches!(*self.closing.borrow(), Closing::NotCalled)
    }
}
