//! The answer that a job owes its caller.
//!
//! A job owns its answer, and dropping it unanswered delivers an error: however
//! a store's worker ends, no promise stays pending.

use super::{Command, Error, Outcome, Reply};
use std::sync::Arc;

/// Identifies an operation in progress. The binding makes it, and gets it back with
/// the outcome.
pub type Ticket = usize;

/// Receives outcomes. One call delivers a whole batch, because each crossing to
/// JavaScript is expensive.
pub trait Outbox: Send + Sync {
    fn deliver(&self, outcomes: Vec<(Ticket, Outcome)>);
}

/// Delivers one outcome, once.
pub struct Answer(Option<Pending>);

struct Pending {
    ticket: Ticket,
    outbox: Arc<dyn Outbox>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Close,
}

impl Answer {
    pub fn new(ticket: Ticket, outbox: Arc<dyn Outbox>, command: &Command) -> Self {
        let kind = match command {
            Command::Get(_) => Kind::Read,
            Command::Close => Kind::Close,
            _ => Kind::Write,
        };
        Self(Some(Pending { ticket, outbox, kind }))
    }

    pub fn deliver(mut self, outcome: Outcome) {
        if let Some(Pending { ticket, outbox, .. }) = self.0.take() {
            outbox.deliver(vec![(ticket, outcome)]);
        }
    }

    /// The answer, for a caller that keeps the rest of the operation.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    #[cfg(test)]
    pub fn ticket(&self) -> Option<Ticket> {
        self.0.as_ref().map(|pending| pending.ticket)
    }

    /// Delivers outcomes: those in a row that have the same outbox as one batch.
    pub fn deliver_all(answered: impl IntoIterator<Item = (Self, Outcome)>) {
        let mut batch = Vec::new();
        let mut current: Option<Arc<dyn Outbox>> = None;
        for (mut answer, outcome) in answered {
            let Some(outbox) = answer.0.as_ref().map(|pending| Arc::clone(&pending.outbox)) else {
                continue;
            };
            if let Some(previous) = current.take_if(|current| !Arc::ptr_eq(current, &outbox)) {
                // If this panics, dropping this answer and the rest delivers errors.
                previous.deliver(std::mem::take(&mut batch));
            }
            let Some(Pending { ticket, .. }) = answer.0.take() else {
                continue;
            };
            current.get_or_insert(outbox);
            batch.push((ticket, outcome));
        }
        if let Some(outbox) = current {
            outbox.deliver(batch);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some(Pending { ticket, outbox, kind }) = self.0.take() else {
            return;
        };
        let internal = Error::Backend("internal error in the store's worker".into());
        let outcome = match kind {
            Kind::Read => Err(internal),
            Kind::Write => Err(internal.with_unknown_outcome()),
            // The worker has dropped all that it held.
            Kind::Close => Ok(Reply::Done),
        };
        outbox.deliver(vec![(ticket, outcome)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{KeyBuilder, Prefix};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Inbox(Mutex<Vec<Vec<(Ticket, Outcome)>>>);

    impl Outbox for Inbox {
        fn deliver(&self, outcomes: Vec<(Ticket, Outcome)>) {
            self.0.lock().unwrap().push(outcomes);
        }
    }

    fn answer(ticket: Ticket, inbox: &Arc<Inbox>, command: &Command) -> Answer {
        Answer::new(ticket, inbox.clone(), command)
    }

    #[test]
    fn a_dropped_answer_is_an_error_except_for_close() {
        let inbox = Arc::new(Inbox::default());
        let mut key = KeyBuilder::default();
        key.push("k");
        let get = Command::Get(key.key().unwrap());
        answer(1, &inbox, &Command::Initialize).deliver(Ok(Reply::Done));
        let lost = answer(2, &inbox, &Command::Clear(Prefix::ALL));
        let panicked = std::thread::spawn(move || {
            let _lost = lost;
            panic!("this is part of the test");
        });
        assert!(panicked.join().is_err());
        drop(answer(3, &inbox, &get));
        drop(answer(4, &inbox, &Command::Close));
        let outcomes = inbox.0.lock().unwrap().concat();
        assert_eq!(outcomes[0], (1, Ok(Reply::Done)));
        let message = |index: usize| outcomes[index].1.clone().unwrap_err().to_string();
        assert!(message(1).contains("the outcome is unknown"));
        assert!(!message(2).contains("unknown"));
        assert_eq!(outcomes[3], (4, Ok(Reply::Done)));
        assert_eq!(outcomes.len(), 4);
    }

    #[test]
    fn answers_are_delivered_together_to_each_outbox() {
        let (one, two) = (Arc::new(Inbox::default()), Arc::new(Inbox::default()));
        let answered = [(1, &one), (2, &one), (3, &two), (4, &one)]
            .map(|(ticket, inbox)| (answer(ticket, inbox, &Command::Drop), Ok(Reply::Done)));
        Answer::deliver_all(answered);
        let tickets = |inbox: &Arc<Inbox>| -> Vec<Vec<Ticket>> {
            let batches = inbox.0.lock().unwrap();
            batches
                .iter()
                .map(|batch| batch.iter().map(|(ticket, _)| *ticket).collect())
                .collect()
        };
        assert_eq!(tickets(&one), [vec![1, 2], vec![4]]);
        assert_eq!(tickets(&two), [vec![3]]);
    }
}
