//! A promise that somebody waits for. Whatever becomes of the operation, and be
//! it that its worker panics, an outcome is delivered, once.

use crate::kv::{Error, Outbox, Outcome, Ticket};
use std::sync::Arc;

pub struct Pending(Option<(Ticket, Arc<dyn Outbox>)>);

impl Pending {
    pub fn new(ticket: Ticket, outbox: &Arc<dyn Outbox>) -> Self {
        Self(Some((ticket, Arc::clone(outbox))))
    }

    /// The ticket, for who delivers its outcome with others.
    pub fn take(&mut self) -> Option<Ticket> {
        self.0.take().map(|(ticket, _)| ticket)
    }

    pub fn deliver(mut self, outcome: Outcome) {
        if let Some((ticket, outbox)) = self.0.take() {
            outbox.deliver(vec![(ticket, outcome)]);
        }
    }

    pub fn outbox(&self) -> Option<&Arc<dyn Outbox>> {
        self.0.as_ref().map(|(_, outbox)| outbox)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some((ticket, outbox)) = self.0.take() {
            let error = Error::Backend("internal error in the store's worker; the outcome is unknown".into());
            outbox.deliver(vec![(ticket, Err(error))]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Reply;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Inbox(Mutex<Vec<(Ticket, Outcome)>>);

    impl Outbox for Inbox {
        fn deliver(&self, outcomes: Vec<(Ticket, Outcome)>) {
            self.0.lock().unwrap().extend(outcomes);
        }
    }

    #[test]
    fn an_outcome_is_delivered_once_whatever_happens() {
        let inbox = Arc::new(Inbox::default());
        let outbox: Arc<dyn Outbox> = inbox.clone();
        Pending::new(1, &outbox).deliver(Ok(Reply::Done));
        let lost = Pending::new(2, &outbox);
        let panicked = std::thread::spawn(move || {
            let _lost = lost;
            panic!("this is part of the test");
        });
        assert!(panicked.join().is_err());
        let mut taken = Pending::new(3, &outbox);
        assert_eq!(taken.take(), Some(3));
        drop(taken);
        let outcomes = inbox.0.lock().unwrap();
        assert_eq!(outcomes[0], (1, Ok(Reply::Done)));
        assert!(matches!(outcomes[1], (2, Err(Error::Backend(_)))));
        assert_eq!(outcomes.len(), 2);
    }
}
