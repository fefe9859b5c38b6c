//! What was asked of a store, and who waits for the answer.

use super::Admission;
use crate::kv::{Answer, JsonText, Key, Ttl, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::Instant;

/// An operation on one entry.
#[derive(Debug)]
pub struct Operation {
    pub key: Key,
    pub action: Action,
    withdrawn: AtomicBool,
}

#[derive(Clone, Debug)]
pub enum Action {
    Get,
    Put(Write),
    /// Puts if the stored value equals the expected one as JSON. `None` stands
    /// for no live entry.
    Cas(Option<JsonText>, Write),
}

impl Operation {
    pub fn new(key: Key, action: Action) -> Self {
        Self {
            key,
            action,
            withdrawn: AtomicBool::new(false),
        }
    }

    /// All its callers were rejected before it was sent. It must not be sent any
    /// more.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Relaxed);
    }

    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }

    pub fn is_get(&self) -> bool {
        matches!(self.action, Action::Get)
    }

    /// The ttl that it may store.
    pub fn ttl(&self) -> Option<Ttl> {
        match &self.action {
            Action::Put(Write::Store { ttl, .. }) | Action::Cas(_, Write::Store { ttl, .. }) => *ttl,
            _ => None,
        }
    }
}

/// One who waits for an answer.
pub struct Caller {
    pub answer: Answer,
    pub admission: Admission,
    /// When it is rejected.
    pub deadline: Instant,
}
