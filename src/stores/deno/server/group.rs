//! Operations that are answered together: one read and one atomic write. They are
//! tried again if other programs have changed the same entries.

use super::super::batch::{Batch, Change, Condition, Op, keys_read};
use super::worker::Worker;
use crate::kv::{Command, Error, Outcome, Result};
use crate::stores::database::queue::{Queued, deliver};
use chrono::{DateTime, Utc};
use denokv_proto::{AtomicWrite, Check, KvValue, Mutation, MutationKind};

/// The protocol's limits of an atomic write, less the overhead of each value.
const MOST_OPERATIONS: usize = 1000;
const MOST_BYTES: usize = 700_000;
pub const MOST_CHECKS: usize = 10;

/// How often a group is tried as one, if other programs keep changing its entries.
const ATTEMPTS: u32 = 4;

/// Why operations have no outcomes.
enum Failed {
    /// Nothing was written, maybe because of one operation among many.
    Apart(Error),
    /// Nothing was written, and another attempt would fail too.
    All(Error),
    /// It may have been written.
    Unknown(Error),
}

impl Failed {
    fn of_read(error: Error) -> Self {
        match error {
            Error::Connection(_) | Error::Timeout(_) => Self::All(error),
            error => Self::Apart(error),
        }
    }

    fn of_write(error: Error) -> Self {
        match error {
            Error::Connection(_) => Self::Unknown(error),
            // There is no time for another attempt.
            Error::Timeout(_) => Self::All(error),
            error => Self::Apart(error),
        }
    }

    fn into_error(self) -> Error {
        match self {
            Self::Apart(error) | Self::All(error) | Self::Unknown(error) => error,
        }
    }
}

/// A job with its operation, or why it has none.
type Encoded<'a> = (&'a Queued, Result<Op<'a>>);

impl Worker {
    /// Runs operations on single entries, as many as fit at a time, and delivers
    /// their outcomes.
    pub async fn run_group(&mut self, mut jobs: Vec<Queued>) {
        while !jobs.is_empty() {
            let (mut checks, mut bytes) = (0, 0);
            let mut group: Vec<Encoded<'_>> = Vec::new();
            for queued in &jobs {
                if group.len() == MOST_OPERATIONS || checks == MOST_CHECKS || bytes >= MOST_BYTES {
                    break;
                }
                let Some(command) = queued.entry_command() else { break };
                let op = Op::new(command);
                checks += usize::from(matches!(command, Command::Cas(..)));
                bytes += op.as_ref().map_or(0, Op::size);
                group.push((queued, op));
            }
            let outcomes = self.settle(&group).await;
            let rest = jobs.split_off(outcomes.len().clamp(1, jobs.len()));
            deliver(std::mem::replace(&mut jobs, rest).into_iter().zip(outcomes));
        }
    }

    /// An outcome for each job of a group.
    async fn settle(&mut self, group: &[Encoded<'_>]) -> Vec<Outcome> {
        match self.attempt(group).await {
            Ok(outcomes) => outcomes,
            Err(Failed::Apart(_)) if group.len() > 1 => {
                // One by one, so that only those fail that can't succeed.
                let mut outcomes = Vec::with_capacity(group.len());
                for one in group.chunks(1) {
                    let alone = self.attempt(one).await.map_err(Failed::into_error);
                    outcomes.push(alone.and_then(|mut alone| alone.pop().unwrap_or(Err(Error::Closed))));
                }
                outcomes
            }
            Err(Failed::Unknown(error)) => self.repeat(group, &error).await,
            Err(failed) => vec![Err(failed.into_error()); group.len()],
        }
    }

    /// After a group that may have been written: runs the operations again that may
    /// be carried out twice.
    async fn repeat(&mut self, group: &[Encoded<'_>], error: &Error) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(group.len());
        let may_repeat = |(job, _): &Encoded<'_>| !matches!(job.entry_command(), Some(Command::Cas(..)));
        for run in group.chunk_by(|a, b| may_repeat(a) == may_repeat(b)) {
            let repeated = if may_repeat(&run[0]) {
                self.attempt(run).await.map_err(Failed::into_error)
            } else {
                Err(error.clone())
            };
            match repeated {
                Ok(some) => outcomes.extend(some),
                Err(error) => outcomes.extend(run.iter().map(|_| Err(error.clone()))),
            }
        }
        outcomes
    }

    async fn attempt(&mut self, group: &[Encoded<'_>]) -> Result<Vec<Outcome>, Failed> {
        let timeout = self.timeout;
        let mut conflicts = 0;
        let keys = keys_read(group.iter().flat_map(|(_, op)| op));
        loop {
            let remote = self.remote().await.map_err(Failed::All)?;
            let rows = remote.rows(&keys).await.map_err(Failed::of_read)?;
            let mut batch = Batch::new(keys.iter().copied().zip(rows));
            let outcomes = batch.run_all(group.iter().map(|(_, op)| op));
            let write = atomic_write(batch.changes());
            if write.mutations.is_empty() || remote.write(write).await.map_err(Failed::of_write)? {
                return Ok(outcomes);
            }
            conflicts += 1;
            let error = || Error::Timeout("other programs kept changing the same entries".into());
            if group.len() > 1 && conflicts > ATTEMPTS {
                return Err(Failed::Apart(error()));
            }
            if group.iter().all(|(job, _)| job.age() >= timeout) {
                return Err(Failed::All(error()));
            }
        }
    }
}

pub fn atomic_write<'a>(changes: impl IntoIterator<Item = Change<'a>>) -> AtomicWrite {
    let mut write = AtomicWrite {
        checks: Vec::new(),
        mutations: Vec::new(),
        enqueues: Vec::new(),
    };
    for Change {
        key,
        value,
        expires,
        condition,
    } in changes
    {
        let versionstamp = match condition {
            Condition::Anything => None,
            Condition::NoEntry => Some(None),
            Condition::Version(stamp) => Some(Some(stamp)),
        };
        write.checks.extend(versionstamp.map(|versionstamp| Check {
            key: key.to_vec(),
            versionstamp,
        }));
        write.mutations.push(Mutation {
            key: key.to_vec(),
            kind: match value {
                Some(value) => MutationKind::Set(KvValue::V8(value.to_vec())),
                None => MutationKind::Delete,
            },
            expire_at: expires
                .map(|millis| DateTime::from_timestamp_millis(millis).unwrap_or(DateTime::<Utc>::MAX_UTC)),
        });
    }
    write
}
