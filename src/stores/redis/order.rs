//! What has to wait for what: operations on one entry for an undecided `cas`,
//! all that a `clear` concerns for that, and lists for the writes before them.

use super::op::Op;
use std::collections::{BTreeMap, HashMap, VecDeque};
use tokio::sync::oneshot;

/// Operations that wait until the one before them on their entry is decided.
#[derive(Default)]
pub struct Held(HashMap<Vec<u8>, VecDeque<Op>>);

impl Held {
    /// Gives the operation back if it can go now.
    pub fn pass(&mut self, op: Op) -> Option<Op> {
        if !self.0.is_empty()
            && let Some(queue) = self.0.get_mut(&op.name)
        {
            queue.push_back(op);
            return None;
        }
        if op.holds() {
            self.0.insert(op.name.clone(), VecDeque::new());
        }
        Some(op)
    }

    /// What can go now that an operation is decided.
    pub fn release(&mut self, decided: &Op) -> Vec<Op> {
        let mut released = Vec::new();
        if !decided.holds() {
            return released;
        }
        let Some(queue) = self.0.get_mut(&decided.name) else {
            return released;
        };
        while let Some(op) = queue.pop_front() {
            let holds = op.holds();
            released.push(op);
            if holds {
                return released;
            }
        }
        self.0.remove(&decided.name);
        released
    }
}

/// Counts what is not done yet, by when it came.
#[derive(Default)]
pub struct Generations {
    current: u64,
    undone: BTreeMap<u64, usize>,
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
}

impl Generations {
    pub fn begin(&mut self) -> u64 {
        *self.undone.entry(self.current).or_default() += 1;
        self.current
    }

    pub fn end(&mut self, generation: u64) {
        let Some(count) = self.undone.get_mut(&generation) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.undone.remove(&generation);
        let first = self.undone.first_key_value().map_or(u64::MAX, |(first, _)| *first);
        while self.waiting.front().is_some_and(|(last, _)| *last < first) {
            if let Some((_, answer)) = self.waiting.pop_front() {
                let _ = answer.send(());
            }
        }
    }

    /// Answers once all that has begun is done.
    pub fn answer_after(&mut self, answer: oneshot::Sender<()>) {
        if self.undone.is_empty() {
            let _ = answer.send(());
            return;
        }
        self.waiting.push_back((self.current, answer));
        self.current += 1;
    }
}
