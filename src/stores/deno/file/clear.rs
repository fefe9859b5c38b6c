//! `clear` and `drop`: delete a range slice by slice, so that other writes don't
//! wait for all of it. Each slice is a transaction of its own, and has a lock's
//! deadline of its own.

use super::super::batch::{Change, Condition};
use super::super::key::{self, after};
use super::reader;
use super::transaction::{Failure, apply, transaction};
use super::writer::{Step, Writer};
use super::{Connection, guard};
use crate::kv::{Command, Error, Outcome, Prefix, Reply, Result};
use crate::stores::database::queue::{Queued, deliver};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Entries that are removed in one transaction, here and by expiry.
pub const SLICE: u32 = 256;

/// A `clear` or `drop` under way.
pub struct Clearing {
    queued: Queued,
    pub prefix: Prefix,
    start: Vec<u8>,
    end: Vec<u8>,
    count: u64,
    /// When the last slice was deleted.
    progress: Option<Instant>,
}

/// What became of a slice.
struct Slice {
    live: u64,
    /// Where the next one starts, if there is any.
    next: Option<Vec<u8>>,
}

impl Clearing {
    pub fn new(prefix: Prefix, (start, end): (Vec<u8>, Vec<u8>), queued: Queued) -> Self {
        Self {
            queued,
            prefix,
            start,
            end,
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

    fn succeed(self) {
        let reply = if self.is_drop() {
            Reply::Done
        } else {
            Reply::Count(self.count)
        };
        deliver([(self.queued, Ok(reply))]);
    }
}

fn already(why: &str, count: u64) -> String {
    format!("{why}; {count} entries were deleted before")
}

impl Writer {
    /// Deletes the next slice of the `clear` under way.
    pub fn clear_slice(&mut self) -> Step {
        let Some(mut clearing) = self.clearing.take() else {
            return Step::Done;
        };
        match guard(|| self.delete_slice(&clearing)) {
            Ok(Slice { live, next }) => {
                clearing.count += live;
                clearing.progress = Some(Instant::now());
                match next {
                    Some(next) => {
                        clearing.start = next;
                        self.clearing = Some(clearing);
                    }
                    None => clearing.succeed(),
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
        let shared = Arc::clone(&self.shared);
        let open = self.open.as_ref().ok_or(Error::Closed)?;
        let mut slice = Slice { live: 0, next: None };
        transaction(&open.connection, &shared, true, |connection| {
            slice = delete(connection, clearing)?;
            Ok::<Vec<Outcome>, _>(Vec::new())
        })
        .map_err(Failure::into_error)?;
        Ok(slice)
    }
}

fn delete(connection: &Connection, clearing: &Clearing) -> rusqlite::Result<Slice> {
    let mut slice = Slice { live: 0, next: None };
    let mut keys = Vec::new();
    let mut read = 0;
    let range = (&*clearing.start, &*clearing.end);
    reader::range(connection, range, SLICE, |key, row| {
        read += 1;
        if read == SLICE {
            slice.next = Some(after(key));
        }
        // Keys with other parts than strings are no entries of the store.
        if clearing.is_drop() || key::decode(key).is_some() {
            slice.live += u64::from(row.live);
            keys.push(key.to_vec());
        }
        true
    })?;
    let deletion = |key| Change {
        key,
        value: None,
        expires: None,
        condition: Condition::Anything,
    };
    apply(connection, keys.iter().map(|key| deletion(&**key)))?;
    Ok(slice)
}
