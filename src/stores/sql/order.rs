//! Operations on one key take effect in the order of their calls. Consecutive
//! gets of one key share one read.

use super::engine::{Action, Operation};
use crate::kv::{Answer, Key};
use crate::stores::served::Admission;
use std::collections::{HashMap, VecDeque};
use tokio::time::Instant;

/// An operation and the callers that wait for it.
pub struct Op {
    pub operation: Operation,
    pub wait: Wait,
}

pub struct Wait {
    pub caller: Caller,
    /// Other callers of the same get.
    pub more: Vec<Caller>,
    /// Since when it could be sent.
    pub since: Instant,
    /// Until when it is retried.
    pub patience: Instant,
}

pub struct Caller {
    pub answer: Answer,
    pub admission: Admission,
    /// For writes: lists of this generation or a later one wait for it.
    pub generation: Option<u64>,
}

impl Op {
    pub fn is_get(&self) -> bool {
        matches!(self.operation.action, Action::Get)
    }
}

/// The keys that have an operation queued or under way, and the operations that
/// wait behind it.
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

    /// The operation that can go now that the one before it on this key is
    /// done.
    pub fn release(&mut self, key: &Key) -> Option<Op> {
        let next = self.0.get_mut(key)?.pop_front();
        if next.is_none() {
            self.0.remove(key);
        }
        next
    }
}
