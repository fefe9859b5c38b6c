//! Operations on one entry each: the commands for them, and what the replies mean.
//! Operations of one kind share a command where they can, because that costs the
//! server less than one command each.

use super::failure::unexpected_for;
use super::script::WRITE;
use super::servers::Call;
use super::slots::slot;
use super::{Kv, Settings};
use crate::kv::{Error, JsonText, Outcome, Reply, Ttl, Write};
use crate::stores::served::{Action, Group, Lost, Operation};
use redis::{Cmd, Value, cmd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The most operations that share a command, so that other clients get their turn.
const MOST: usize = 64;

/// The fewest gets that share a command. Gets that find nothing are looked at a second
/// time, which takes longer than a few more commands.
const FEWEST_GETS: usize = 16;

/// What is known of shared commands.
#[derive(Default)]
pub struct Sharing {
    /// This user or this kind of server may not have them.
    refused: AtomicBool,
    /// Most gets found nothing the last time.
    mostly_missed: AtomicBool,
}

/// An operation without an outcome, and how it goes on.
struct Item<'a> {
    /// Its place in the group.
    index: usize,
    operation: &'a Operation,
    name: Vec<u8>,
    step: Step,
    /// Whether the server needs the text of the script.
    whole: bool,
}

enum Step {
    First,
    /// It may not share a command.
    Alone,
    /// A get that found nothing in a shared command, which also finds nothing where
    /// there is a value of another type.
    Missed,
    /// The stored text that equals the expected one as JSON is known.
    Stored(Vec<u8>),
}

/// A command that several operations can share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Joint {
    Get,
    Missed,
    Set,
    Delete,
}

impl Joint {
    fn fewest(self) -> usize {
        match self {
            Self::Get => FEWEST_GETS,
            Self::Missed => 1,
            Self::Set | Self::Delete => 2,
        }
    }

    fn command(self, items: &[Item<'_>]) -> Cmd {
        let mut command = cmd(match self {
            Self::Get => "MGET",
            Self::Missed => "EXISTS",
            Self::Set => "MSET",
            Self::Delete => "DEL",
        });
        for item in items {
            command.arg(&item.name);
            if let Action::Put(Write::Store { value, .. }) = &item.operation.action {
                command.arg(value.as_str());
            }
        }
        command
    }
}

/// What follows from a reply.
enum Next {
    Finish(Outcome),
    Again(Step),
    /// The server does not know the script.
    Whole,
}

/// Runs a group. Returns an answer for each operation.
pub async fn run(kv: &Kv, group: &Group) -> Vec<Result<Outcome, Lost>> {
    let withdrawn = || Lost::Undone(Error::Timeout("rejected before it was sent".into()));
    let mut answers: Vec<_> = group.operations.iter().map(|_| Err(withdrawn())).collect();
    let wanted = group.operations.iter().enumerate();
    let mut items: Vec<Item<'_>> = wanted
        .filter(|(_, operation)| !operation.is_withdrawn())
        .map(|(index, operation)| Item {
            index,
            name: kv.names.name(&operation.key),
            operation,
            step: Step::First,
            whole: false,
        })
        .collect();
    group.send();
    while !items.is_empty() {
        let shares = share(kv, items);
        let calls: Vec<Call> = shares.iter().map(|share| share.call(kv)).collect();
        let calls: Vec<&Call> = calls.iter().collect();
        let results = kv.servers.send(&calls, group.deadline).await;
        items = Vec::new();
        let mut round = Round {
            answers: &mut answers,
            again: &mut items,
            index: kv.settings.index,
        };
        let (mut gets, mut missed) = (0, 0);
        for (share, result) in shares.into_iter().zip(results) {
            match share {
                Share::One(item) => round.take(item, result),
                Share::Joint(joint, some) => {
                    if joint == Joint::Get {
                        gets += some.len();
                        missed += some.len() - found(&result);
                    }
                    if let Ok(Value::ServerError(error)) = &result {
                        let refused = matches!(error.code(), "NOPERM" | "ERR");
                        kv.sharing.refused.fetch_or(refused, Ordering::Relaxed);
                    }
                    round.take_joint(joint, some, result);
                }
            }
        }
        if gets > 0 {
            kv.sharing.mostly_missed.store(2 * missed > gets, Ordering::Relaxed);
        }
    }
    answers
}

fn found(result: &Result<Value, Lost>) -> usize {
    match result {
        Ok(Value::Array(values)) => values.iter().filter(|value| **value != Value::Nil).count(),
        _ => 0,
    }
}

/// The operations of one command.
enum Share<'a> {
    One(Item<'a>),
    Joint(Joint, Vec<Item<'a>>),
}

impl Share<'_> {
    fn call(&self, kv: &Kv) -> Call {
        let (name, command) = match self {
            Self::One(item) => (&item.name, item.command(kv)),
            Self::Joint(joint, items) => (&items[0].name, joint.command(items)),
        };
        Call {
            slot: if kv.servers.is_cluster() { slot(name) } else { 0 },
            command,
        }
    }
}

/// Divides operations among commands. They are on different keys, so that their order
/// does not matter.
fn share<'a>(kv: &Kv, items: Vec<Item<'a>>) -> Vec<Share<'a>> {
    let mut shares = Vec::with_capacity(items.len());
    let may_share = kv.joins && !kv.sharing.refused.load(Ordering::Relaxed);
    let mostly_missed = kv.sharing.mostly_missed.load(Ordering::Relaxed);
    let mut joints: [(Joint, Vec<Item<'a>>); 4] =
        [Joint::Get, Joint::Missed, Joint::Set, Joint::Delete].map(|joint| (joint, Vec::new()));
    for item in items {
        let joint = item.joint(&kv.settings).filter(|joint| match joint {
            Joint::Get => may_share && !mostly_missed,
            Joint::Missed => true,
            Joint::Set | Joint::Delete => may_share,
        });
        match joint.and_then(|joint| joints.iter_mut().find(|(other, _)| *other == joint)) {
            Some((_, items)) => items.push(item),
            None => shares.push(Share::One(item)),
        }
    }
    for (joint, items) in joints {
        let mut items = items.into_iter();
        loop {
            let some: Vec<_> = items.by_ref().take(MOST).collect();
            if some.is_empty() {
                break;
            }
            if some.len() < joint.fewest() {
                shares.extend(some.into_iter().map(Share::One));
            } else {
                shares.push(Share::Joint(joint, some));
            }
        }
    }
    shares
}

impl Item<'_> {
    fn joint(&self, settings: &Settings) -> Option<Joint> {
        match (&self.step, &self.operation.action) {
            (Step::Missed, _) => Some(Joint::Missed),
            (Step::First, Action::Get) => Some(Joint::Get),
            (Step::First, Action::Put(Write::Store { ttl: None, .. })) if !settings.index => Some(Joint::Set),
            (Step::First, Action::Put(Write::Delete)) if !settings.index => Some(Joint::Delete),
            _ => None,
        }
    }

    fn command(&self, kv: &Kv) -> Cmd {
        let index = kv.settings.index;
        match &self.operation.action {
            Action::Get => one("GET", &self.name),
            Action::Put(Write::Delete) if !index => one("DEL", &self.name),
            Action::Put(Write::Store { value, ttl }) if !index => self.set(value, *ttl, false),
            Action::Cas(None, Write::Delete) if !index => one("EXISTS", &self.name),
            Action::Cas(None, Write::Store { value, ttl }) if !index => self.set(value, *ttl, true),
            Action::Put(write) => self.script(kv, "any", b"", write),
            Action::Cas(None, write) => self.script(kv, "none", b"", write),
            Action::Cas(Some(expected), write) => {
                let expected = match &self.step {
                    Step::Stored(stored) => stored,
                    _ => expected.as_str().as_bytes(),
                };
                self.script(kv, "this", expected, write)
            }
        }
    }

    fn set(&self, value: &JsonText, ttl: Option<Ttl>, only_new: bool) -> Cmd {
        let mut set = one("SET", &self.name);
        set.arg(value.as_str());
        if let Some(ttl) = ttl {
            set.arg("PX").arg(millis(ttl));
        }
        if only_new {
            set.arg("NX");
        }
        set
    }

    fn script(&self, kv: &Kv, condition: &str, expected: &[u8], write: &Write) -> Cmd {
        let index = kv.settings.index;
        let mut call = WRITE.call(self.whole, if index { 2 } else { 1 });
        call.arg(&self.name);
        if index {
            call.arg(kv.names.index());
        }
        call.arg(kv.names.member(&self.name)).arg(condition).arg(expected);
        if let Write::Store { value, ttl } = write {
            call.arg(value.as_str());
            if let Some(ttl) = ttl {
                call.arg(millis(*ttl));
            }
        }
        call
    }

    /// The meaning of the reply to a command of its own.
    fn read(&self, reply: Value, index: bool) -> Next {
        let key = &self.operation.key;
        let not_text = || Error::Corrupt(format!("the value of {key} is not text"));
        let outcome = match (&self.operation.action, reply) {
            (_, Value::ServerError(error)) if error.code() == "NOSCRIPT" && !self.whole => return Next::Whole,
            (Action::Get, Value::Nil) => Ok(Reply::Value(key.clone(), None)),
            (Action::Get, Value::BulkString(value)) => match String::from_utf8(value) {
                Ok(text) => Ok(Reply::Value(key.clone(), Some(JsonText::new(text)))),
                Err(_) => Err(not_text()),
            },
            (Action::Put(_), Value::Okay | Value::Int(_)) => Ok(Reply::Done),
            // EXISTS answers 1 if there is an entry, the script if it has written one.
            (Action::Cas(None, Write::Delete), Value::Int(count)) if !index => Ok(Reply::Swapped(count == 0)),
            (Action::Cas(..), Value::Okay) => Ok(Reply::Swapped(true)),
            (Action::Cas(..), Value::Nil) => Ok(Reply::Swapped(false)),
            (Action::Cas(..), Value::Int(written)) => Ok(Reply::Swapped(written == 1)),
            (Action::Cas(Some(expected), _), Value::BulkString(found)) => match std::str::from_utf8(&found) {
                Err(_) => Err(not_text()),
                Ok(text) => match expected.means(text, key) {
                    Ok(true) => return Next::Again(Step::Stored(found)),
                    Ok(false) => Ok(Reply::Swapped(false)),
                    Err(error) => Err(error),
                },
            },
            (_, reply) => Err(unexpected_for(&reply, key)),
        };
        Next::Finish(outcome)
    }
}

/// One round of commands.
struct Round<'r, 'a> {
    answers: &'r mut [Result<Outcome, Lost>],
    again: &'r mut Vec<Item<'a>>,
    index: bool,
}

impl<'a> Round<'_, 'a> {
    fn take(&mut self, mut item: Item<'a>, result: Result<Value, Lost>) {
        let reply = match result {
            Ok(reply) => reply,
            Err(lost) => return self.answers[item.index] = Err(lost),
        };
        match item.read(reply, self.index) {
            Next::Finish(outcome) => self.answers[item.index] = Ok(outcome),
            Next::Again(step) => {
                item.step = step;
                self.again.push(item);
            }
            Next::Whole => {
                item.whole = true;
                self.again.push(item);
            }
        }
    }

    fn take_joint(&mut self, joint: Joint, items: Vec<Item<'a>>, result: Result<Value, Lost>) {
        match (joint, result) {
            (Joint::Get, Ok(Value::Array(values))) if values.len() == items.len() => {
                for (mut item, value) in items.into_iter().zip(values) {
                    if value == Value::Nil {
                        item.step = Step::Missed;
                        self.again.push(item);
                    } else {
                        self.take(item, Ok(value));
                    }
                }
            }
            // If one is there after all, it may be of another type.
            (Joint::Missed, Ok(Value::Int(0))) => {
                for item in items {
                    let none = Reply::Value(item.operation.key.clone(), None);
                    self.answers[item.index] = Ok(Ok(none));
                }
            }
            (Joint::Set | Joint::Delete, Ok(Value::Okay | Value::Int(_))) => {
                for item in items {
                    self.answers[item.index] = Ok(Ok(Reply::Done));
                }
            }
            // Nothing was carried out, perhaps because of one of them.
            (_, Ok(_) | Err(Lost::Undone(_))) => {
                self.again.extend(items.into_iter().map(|item| Item {
                    step: Step::Alone,
                    ..item
                }));
            }
            (_, Err(lost)) => {
                for item in items {
                    self.answers[item.index] = Err(lost.clone());
                }
            }
        }
    }
}

fn one(command: &str, name: &[u8]) -> Cmd {
    let mut command = cmd(command);
    command.arg(name);
    command
}

/// For Redis, an entry still exists during the last millisecond of its life; for us it
/// is gone then. Redis adds the ttl to the current time, which must not overflow.
fn millis(ttl: Ttl) -> i64 {
    (ttl.deadline(0) - 1).max(1)
}
