//! Operations on one entry wait for an earlier `cas` whose outcome isn't known.

use super::op::Op;
use std::collections::{HashMap, VecDeque};

/// Operations that wait for the one before them on their entry.
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

    /// The operations that can go now that this one is decided.
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
