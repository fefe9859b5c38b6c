//! Operations on one key take effect one after another, in the order of their
//! calls. Gets of one key that wait together share one read.

use super::engine::{Action, Operation};
use crate::kv::{Answer, Key};
use crate::stores::served::Admission;
use std::collections::{HashMap, VecDeque};
use tokio::time::Instant;

/// An operation with those who wait for it.
pub struct Op {
    pub operation: Operation,
    pub wait: Wait,
}

pub struct Wait {
    pub caller: Caller,
    /// More callers of the same get.
    pub more: Vec<Caller>,
    /// When it could have been sent first.
    pub since: Instant,
    /// Until when it is tried again.
    pub patience: Instant,
}

pub struct Caller {
    pub answer: Answer,
    pub admission: Admission,
    /// The lists that wait for it, if it writes, have this number or more.
    pub generation: Option<u64>,
}

impl Op {
    pub fn is_get(&self) -> bool {
        matches!(self.operation.action, Action::Get)
    }
}

/// The keys that have an operation waiting to be sent or under way, and what
/// waits behind it.
#[derive(Default)]
pub struct Order(HashMap<Key, VecDeque<Op>>);

impl Order {
    /// Gives the operation back if it can go now.
    pub fn pass(&mut self, op: Op) -> Option<Op> {
        let Some(queue) = self.0.get_mut(&op.operation.key) else {
            self.0.insert(op.operation.key.clone(), VecDeque::new());
            return Some(op);
        };
        match queue.back_mut() {
            Some(last) if last.is_get() && op.is_get() => last.wait.more.push(op.wait.caller),
            _ => queue.push_back(op),
        }
        None
    }

    /// What can go now that the operation on a key is done.
    pub fn release(&mut self, key: &Key) -> Option<Op> {
        let next = self.0.get_mut(key)?.pop_front();
        if next.is_none() {
            self.0.remove(key);
        }
        next
    }
}
