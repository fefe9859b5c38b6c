//! What was asked of a store, and who waits for the answer.

use super::Admission;
use crate::kv::{Answer, JsonText, Key, Ttl, Write};
use tokio::time::Instant;

/// An operation on one entry.
#[derive(Clone, Debug)]
pub struct Operation {
    pub key: Key,
    pub action: Action,
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
    pub fn is_get(&self) -> bool {
        matches!(self.action, Action::Get)
    }

    /// Whether it may be carried out twice.
    pub fn is_repeatable(&self) -> bool {
        !matches!(self.action, Action::Cas(..))
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
    /// For writes: lists of this generation or a later one wait for it.
    pub generation: Option<u64>,
    /// When it is rejected.
    pub deadline: Instant,
}
