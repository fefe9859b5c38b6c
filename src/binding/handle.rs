//! What every store class holds, and what its methods do.

use super::args::{Arg, ClearPrefix, Json, SetOptions};
use super::js::{Js, Ref, Value};
use super::lane::{Lane, Mailbox, settled};
use super::list::{List, Request};
use crate::kv::{Answer, Command, Error, Job, Key, Reply, Result, Store, Write};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

pub struct Handle {
    store: Arc<dyn Store>,
    lane: Rc<Lane>,
    mailbox: Arc<Mailbox>,
    /// The promise of `close()`, once that was called.
    closed: RefCell<Option<Ref>>,
}

impl Handle {
    pub fn new(js: Js, store: impl Store + 'static) -> Self {
        let (lane, mailbox) = Lane::new(js);
        Self {
            store: Arc::new(store),
            lane,
            mailbox,
            closed: RefCell::default(),
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

    pub fn list(&self, request: Arg<Request>) -> Rc<List> {
        let source = request.0.and_then(|request| {
            if self.is_closed() {
                Err(Error::Closed)
            } else {
                Ok((Arc::clone(&self.store), request))
            }
        });
        List::new(&self.lane, &self.mailbox, source)
    }

    /// Runs a command, or rejects for what stands in its place.
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
            Err(error) => settled(js, Err(error)),
        }
    }

    /// Starts an operation that only one class has. `as_command` is a command of
    /// its kind.
    pub fn start(&self, js: Js, as_command: &Command, begin: impl FnOnce(Answer)) -> Value {
        if self.is_closed() {
            return settled(js, Err(Error::Closed));
        }
        let (answer, promise) = self.promise(js, as_command);
        begin(answer);
        promise
    }

    /// The promise of an outcome, and the answer that settles it.
    fn promise(&self, js: Js, command: &Command) -> (Answer, Value) {
        let (ticket, promise) = self.lane.expect(js);
        (Answer::new(ticket, self.mailbox.clone(), command), promise)
    }

    fn run_nothing(&self, js: Js) -> Value {
        let outcome = if self.is_closed() {
            Err(Error::Closed)
        } else {
            Ok(Reply::Done)
        };
        settled(js, outcome)
    }

    fn submit(&self, js: Js, command: Command) -> Value {
        match self.store.answer(command) {
            Ok(outcome) => settled(js, outcome),
            Err(command) => {
                let (answer, promise) = self.promise(js, &command);
                self.store.submit(Job { command, answer });
                promise
            }
        }
    }

    /// Idempotent: every call gets the promise of the first.
    pub fn close(&self, js: Js) -> Value {
        if let Some(promise) = &*self.closed.borrow() {
            return js.kept(promise);
        }
        let promise = self.submit(js, Command::Close);
        *self.closed.borrow_mut() = Some(js.keep(promise));
        for list in self.lane.lists() {
            list.close(js);
        }
        promise
    }

    fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }
}
