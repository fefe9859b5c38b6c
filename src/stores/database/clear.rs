//! `clear` and `drop` delete in slices, so that other writes don't wait for the
//! whole deletion. Each slice is a separate transaction, and has its own deadline
//! for getting the lock.

use super::queue::{Queued, deliver};
use super::transaction::{Failure, guard, transaction};
use super::writer::{Step, Writer};
use super::{Format, Range, Slice};
use crate::kv::{Command, Error, Prefix, Reply, Result};
use std::time::Duration;
use tokio::time::Instant;

/// Entries that are removed in one transaction, here and by expiry.
pub const SLICE: u32 = 256;

/// A `clear` or `drop` under way.
pub struct Clearing {
    queued: Queued,
    pub prefix: Prefix,
    range: Range,
    count: u64,
    /// When the last slice was deleted.
    progress: Option<Instant>,
}

impl Clearing {
    pub fn new(prefix: Prefix, range: Range, queued: Queued) -> Self {
        Self {
            queued,
            prefix,
            range,
            count: 0,
            progress: None,
        }
    }

    /// Whether its next slice has waited long enough for a lock.
    pub fn is_late(&self, blocked: Instant, patience: Duration) -> bool {
        match self.progress {
            Some(progress) => progress.max(blocked).elapsed() >= patience,
            None => self.queued.is_late(blocked, patience),
        }
    }

    pub fn fail(self, error: Error) {
        let error = match (error, self.count) {
            (error, 0) => error,
            (Error::Timeout(why), count) => Error::Timeout(already(&why, count)),
            (Error::Connection(why), count) => Error::Connection(already(&why, count)),
            (Error::Backend(why), count) => Error::Backend(already(&why, count)),
            (error, _) => error,
        };
        self.queued.fail(error);
    }

    fn is_drop(&self) -> bool {
        matches!(self.queued.work.command(), Some(Command::Drop))
    }
}

fn already(why: &str, count: u64) -> String {
    format!("{why}; {count} entries were deleted before")
}

impl<F: Format> Writer<F> {
    /// Deletes the next slice of the `clear` under way.
    pub fn clear_slice(&mut self) -> Step {
        let Some(mut clearing) = self.clearing.take() else {
            return Step::Done;
        };
        match guard(|| self.delete_slice(&clearing)) {
            Ok(Slice { live, next }) => {
                clearing.count += live;
                clearing.progress = Some(Instant::now());
                if let Some(next) = next {
                    clearing.range.start = next;
                    self.clearing = Some(clearing);
                } else {
                    self.finish(clearing);
                }
            }
            Err(error @ Error::Timeout(_)) => {
                self.clearing = Some(clearing);
                return Step::Locked(error);
            }
            Err(error) => clearing.fail(error),
        }
        self.keep_log_short();
        Step::Done
    }

    fn delete_slice(&mut self, clearing: &Clearing) -> Result<Slice> {
        self.ready()?;
        let durability = match clearing.queued.work.command() {
            Some(command) => self.shared.options.durability_of(command),
            None => self.shared.options.durability,
        };
        let Self { shared, open, .. } = self;
        let connection = &open.as_ref().ok_or(Error::Closed)?.connection;
        let delete = || {
            if clearing.is_drop() {
                shared.format.drop(connection, &clearing.range, SLICE)
            } else {
                shared.format.clear(connection, &clearing.range, SLICE)
            }
        };
        transaction(connection, &shared.file, Some(durability), delete).map_err(Failure::into_error)
    }

    fn finish(&mut self, clearing: Clearing) {
        let reply = if clearing.is_drop() {
            // The next operation looks at the tables again.
            if let Some(open) = &mut self.open {
                open.complete = false;
            }
            Reply::Done
        } else {
            Reply::Count(clearing.count)
        };
        deliver([(clearing.queued, Ok(reply))]);
    }
}
