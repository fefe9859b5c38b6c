//! An operation on one entry: what is sent for it, and what the reply means.

use super::Hub;
use super::failure::unexpected;
use super::resp::Request;
use super::script::WRITE;
use super::server::Server;
use crate::kv::{Answer, Error, JsonText, Key, Outcome, Reply, Ttl, Write};
use crate::stores::served::Admission;
use redis::{Cmd, Value};
use std::sync::Arc;
use tokio::time::Instant;

pub struct Op {
    /// Its place in the order of calls.
    pub number: u64,
    /// The lists that wait for it have this number or more.
    pub generation: u64,
    pub answer: Answer,
    pub key: Key,
    pub name: Vec<u8>,
    pub slot: u16,
    pub action: Action,
    pub admission: Admission,
    /// Until when it waits for a server.
    pub patience: Instant,
    /// Whether the server has to be told the script's text.
    pub whole: bool,
    /// Whether it needs a command of its own.
    pub alone: bool,
    /// The server to ask this once, instead of the slot's owner.
    pub ask: Option<Arc<Server>>,
}

pub enum Action {
    Get,
    /// A get that found nothing, together with others: that would also be the
    /// answer if there were something of another type.
    Missed,
    Put(Write),
    Cas {
        expected: Option<JsonText>,
        /// What is stored and means the expected value, once that is known.
        stored: Option<Vec<u8>>,
        write: Write,
    },
}

/// What one command can do for several entries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Joint {
    Get,
    Missed,
    Set,
    Delete,
}

/// What a reply leaves to do.
pub enum Next {
    Finish(Outcome),
    /// Send it again: it now knows what is stored.
    Again,
}

impl Op {
    /// Whether later operations on the entry have to wait for the outcome: it
    /// may take a second request.
    pub fn holds(&self) -> bool {
        matches!(&self.action, Action::Cas { expected: Some(_), .. })
    }

    /// Whether it may be sent again when nobody knows if it was carried out.
    pub fn may_repeat(&self) -> bool {
        !matches!(&self.action, Action::Cas { .. })
    }

    /// Which command it can share.
    pub fn joint(&self, hub: &Hub) -> Option<Joint> {
        if self.alone || self.ask.is_some() {
            return None;
        }
        match &self.action {
            Action::Get => Some(Joint::Get),
            Action::Missed => Some(Joint::Missed),
            Action::Put(Write::Store { ttl: None, .. }) if !hub.settings.index => Some(Joint::Set),
            Action::Put(Write::Delete) if !hub.settings.index => Some(Joint::Delete),
            Action::Put(_) | Action::Cas { .. } => None,
        }
    }

    /// Writes one command for operations that can share it.
    pub fn write_joint(joint: Joint, ops: &[Self], request: &mut Request) {
        match joint {
            Joint::Get => request.command("MGET", ops.len()),
            Joint::Missed => request.command("EXISTS", ops.len()),
            Joint::Delete => request.command("DEL", ops.len()),
            Joint::Set => request.command("MSET", 2 * ops.len()),
        };
        for op in ops {
            request.argument(&op.name);
            if let Action::Put(Write::Store { value, .. }) = &op.action {
                request.argument(value.as_str().as_bytes());
            }
        }
    }

    pub fn write(&self, hub: &Hub, request: &mut Request) {
        let index = hub.settings.index;
        match &self.action {
            Action::Get | Action::Missed => drop(request.command("GET", 1).argument(&self.name)),
            Action::Put(Write::Delete) if !index => drop(request.command("DEL", 1).argument(&self.name)),
            Action::Put(Write::Store { value, ttl }) if !index => self.write_set(value, *ttl, false, request),
            Action::Cas {
                expected: None, write, ..
            } if !index => match write {
                Write::Delete => drop(request.command("EXISTS", 1).argument(&self.name)),
                Write::Store { value, ttl } => self.write_set(value, *ttl, true, request),
            },
            Action::Put(write) => request.add(&self.script(hub, "any", b"", write)),
            Action::Cas {
                expected,
                stored,
                write,
            } => request.add(&match (stored, expected) {
                (Some(stored), _) => self.script(hub, "this", stored, write),
                (None, Some(expected)) => self.script(hub, "this", expected.as_str().as_bytes(), write),
                (None, None) => self.script(hub, "none", b"", write),
            }),
        }
    }

    fn write_set(&self, value: &JsonText, ttl: Option<Ttl>, only_new: bool, request: &mut Request) {
        let arguments = 2 + if ttl.is_some() { 2 } else { 0 } + usize::from(only_new);
        request.command("SET", arguments);
        request.argument(&self.name).argument(value.as_str().as_bytes());
        if let Some(ttl) = ttl {
            request.argument(b"PX").argument(millis(ttl).to_string().as_bytes());
        }
        if only_new {
            request.argument(b"NX");
        }
    }

    fn script(&self, hub: &Hub, condition: &str, expected: &[u8], write: &Write) -> Cmd {
        let index = hub.settings.index;
        let mut call = WRITE.call(self.whole, if index { 2 } else { 1 });
        call.arg(&self.name);
        if index {
            call.arg(hub.wire.index());
        }
        call.arg(hub.wire.member(&self.name)).arg(condition).arg(expected);
        if let Write::Store { value, ttl } = write {
            call.arg(value.as_str());
            if let Some(ttl) = ttl {
                call.arg(millis(*ttl));
            }
        }
        call
    }

    /// What a reply that is no error means.
    pub fn read(&mut self, reply: Value, index: bool) -> Next {
        let outcome = match (&mut self.action, reply) {
            // What was missed may have been written since, as a string.
            (Action::Get, Value::Nil) | (Action::Missed, Value::Int(0) | Value::Nil | Value::BulkString(_)) => {
                Ok(Reply::Value(self.key.clone(), None))
            }
            (Action::Get, Value::BulkString(value)) => match String::from_utf8(value) {
                Ok(text) => Ok(Reply::Value(self.key.clone(), Some(JsonText::new(text)))),
                Err(_) => Err(Error::Corrupt(format!("the value of {} is not text", self.key))),
            },
            (Action::Missed, Value::Int(_)) => {
                self.alone = true;
                return Next::Again;
            }
            (Action::Put(_), Value::Okay | Value::Int(_)) => Ok(Reply::Done),
            // EXISTS says 1 for what is there, the script for what it wrote.
            (
                Action::Cas {
                    expected: None,
                    write: Write::Delete,
                    ..
                },
                Value::Int(count),
            ) if !index => Ok(Reply::Swapped(count == 0)),
            (Action::Cas { .. }, Value::Okay) => Ok(Reply::Swapped(true)),
            (Action::Cas { .. }, Value::Nil) => Ok(Reply::Swapped(false)),
            (Action::Cas { .. }, Value::Int(written)) => Ok(Reply::Swapped(written == 1)),
            (
                Action::Cas {
                    expected: Some(expected),
                    stored,
                    ..
                },
                Value::BulkString(found),
            ) => match std::str::from_utf8(&found) {
                Err(_) => Err(Error::Corrupt(format!("the value of {} is not text", self.key))),
                Ok(text) => match expected.means(text, &self.key) {
                    Ok(true) => {
                        *stored = Some(found);
                        return Next::Again;
                    }
                    Ok(false) => Ok(Reply::Swapped(false)),
                    Err(error) => Err(error),
                },
            },
            (_, reply) => Err(unexpected(&reply)),
        };
        Next::Finish(outcome)
    }
}

/// For Redis, an entry is there during the last millisecond of its life; for us
/// it is gone then. It adds this to the present, which must not overflow.
fn millis(ttl: Ttl) -> i64 {
    (ttl.deadline(0) - 1).max(1)
}
