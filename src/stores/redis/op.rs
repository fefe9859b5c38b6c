//! An operation on one entry: the command for it, and the meaning of the reply.

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
    /// Lists of this generation or a later one wait for it.
    pub generation: u64,
    pub answer: Answer,
    pub key: Key,
    pub name: Vec<u8>,
    pub slot: u16,
    pub action: Action,
    pub admission: Admission,
    /// Until when it waits for a server.
    pub patience: Instant,
    /// Whether to send the text of the script.
    pub whole: bool,
    /// Whether it may not share a command.
    pub alone: bool,
    /// The server for the next request, instead of the slot's owner.
    pub ask: Option<Arc<Server>>,
}

pub enum Action {
    Get,
    /// A get that found nothing in a shared command, which also finds nothing
    /// where there is a value of another type.
    Missed,
    Put(Write),
    Cas {
        expected: Option<JsonText>,
        /// The stored text that equals the expected value as JSON, once it is
        /// known.
        stored: Option<Vec<u8>>,
        write: Write,
    },
}

/// A command that several entries can share.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Joint {
    Get,
    Missed,
    Set,
    Delete,
}

/// What to do after a reply.
pub enum Next {
    Finish(Outcome),
    /// Send it again: the stored text is known now.
    Again,
}

impl Op {
    /// Whether later operations on the entry have to wait for the outcome,
    /// because it may take a second request.
    pub fn holds(&self) -> bool {
        matches!(&self.action, Action::Cas { expected: Some(_), .. })
    }

    /// Whether it may be sent again if it is unknown whether it was carried
    /// out.
    pub fn may_repeat(&self) -> bool {
        !matches!(&self.action, Action::Cas { .. })
    }

    /// The command that it can share.
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

    /// Writes one command for several operations.
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

    /// The meaning of a reply that is not an error.
    pub fn read(&mut self, reply: Value, index: bool) -> Next {
        let outcome = match (&mut self.action, reply) {
            // A missing entry may have been written since, as a string.
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
            // EXISTS answers 1 if there is an entry, the script if it has
            // written one.
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

/// For Redis, an entry still exists during the last millisecond of its life;
/// for us it is gone then. Redis adds the ttl to the current time, which must
/// not overflow.
fn millis(ttl: Ttl) -> i64 {
    (ttl.deadline(0) - 1).max(1)
}
