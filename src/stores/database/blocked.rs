//! What the writer does while another connection holds the lock: it rejects
//! operations that have waited too long, and carries out reads, which need no
//! lock.

use super::Format;
use super::queue::deliver;
use super::transaction::Failure;
use super::writer::{Writer, clearing_prefix, fail};
use crate::kv::Error;
use std::time::Duration;
use tokio::time::Instant;

/// The first and the longest pause before a lock is tried again.
const FIRST_RETRY: Duration = Duration::from_millis(1);
const LONGEST_RETRY: Duration = Duration::from_millis(10);

/// Another process holds the lock.
pub struct Blocked {
    since: Instant,
    error: Error,
    pub retry_at: Instant,
    pause: Duration,
}

impl<F: Format> Writer<F> {
    /// Another process holds the lock. The next step is tried after a pause.
    pub fn block(&mut self, error: Error) {
        let now = Instant::now();
        let (since, pause) = match &self.blocked {
            Some(blocked) => (blocked.since, LONGEST_RETRY.min(blocked.pause * 2)),
            None => (now, FIRST_RETRY),
        };
        self.blocked = Some(Blocked {
            since,
            error,
            retry_at: now + pause,
            pause,
        });
    }

    /// Rejects operations that have waited too long, and carries out reads.
    pub fn do_without_lock(&mut self) {
        let Some(Blocked { since, error, .. }) = &self.blocked else {
            return;
        };
        let (since, error, patience) = (*since, error.clone(), self.shared.options.busy_timeout);
        let reads = self.open.as_ref().is_some_and(|open| open.complete);
        fail(self.incoming.queue.take_late(since, patience, reads), &error);
        if let Some(clearing) = self.clearing.take_if(|clearing| clearing.is_late(since, patience)) {
            clearing.fail(error.clone());
        }
        if reads {
            self.read_without_lock();
            // These wait behind a `clear` that has more time, or for the lock.
            fail(self.incoming.queue.take_late(since, patience, false), &error);
        }
        if self.incoming.queue.is_empty() && self.clearing.is_none() {
            self.blocked = None;
        }
    }

    fn read_without_lock(&mut self) {
        let prefix = clearing_prefix(self.clearing.as_ref());
        let mut reads = self.incoming.queue.take_reads(prefix);
        if reads.is_empty() {
            return;
        }
        let result = match self.shared.file.check() {
            Ok(()) => self.transact(&mut reads, false),
            Err(error) => Err(Failure::All(error)),
        };
        match result {
            Ok(outcomes) => deliver(reads.into_iter().zip(outcomes)),
            // Without a log, a lock can keep reads waiting too.
            Err(Failure::Locked(_)) => self.incoming.queue.put_back(reads.into_iter()),
            Err(failure) => fail(reads, &failure.into_error()),
        }
    }
}
