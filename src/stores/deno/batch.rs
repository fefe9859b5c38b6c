//! Operations that are answered together: from one read of the entries that
//! they concern, with one atomic write of what becomes of them.
//!
//! They take effect one after the other in memory. What the engine then has to
//! check is only that those entries are still as they were read, on whose value
//! a `cas` depends.

use super::row::{Row, reply};
use super::{key, v8};
use crate::kv::{Answer, Command, Error, Job, JsonText, Key, Millis, Outcome, Reply, Result, Write, now};
use crate::stores::pending_writes::PendingWrite;
use chrono::{DateTime, Utc};
use denokv_proto::{AtomicWrite, Check, KvValue, Mutation, MutationKind};
use std::collections::BTreeMap;

/// The engine's limit, as Deno enforces it.
const MOST_VALUE_BYTES: usize = 65_536;

/// An operation on one entry.
pub struct Op {
    /// Ends before the answer is delivered.
    pending: Option<PendingWrite>,
    answer: Answer,
    pub command: Command,
    pub key: Vec<u8>,
    /// The value that it writes, if any.
    value: Option<Vec<u8>>,
}

impl Op {
    pub fn new(job: Job, pending: Option<PendingWrite>, Encoded { key, value }: Encoded) -> Self {
        Self {
            pending,
            answer: job.answer,
            command: job.command,
            key,
            value,
        }
    }

    /// The answer, once the operation is no longer pending.
    pub fn into_answer(self) -> Answer {
        drop(self.pending);
        self.answer
    }

    /// About how many bytes of an atomic write it is.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }

    /// Whether its outcome depends on what is stored.
    pub fn reads(&self) -> bool {
        !matches!(self.command, Command::Put(..))
    }

    fn write(&self) -> Option<&Write> {
        match &self.command {
            Command::Put(_, write) | Command::Cas(_, _, write) => Some(write),
            _ => None,
        }
    }
}

/// A command's key and value, as the engine takes them.
pub struct Encoded {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Encoded {
    /// # Errors
    ///
    /// [`Error::KeyTooLong`] and [`Error::ValueTooLarge`]
    pub fn new(key: &Key, write: Option<&Write>) -> Result<Self> {
        let value = match write {
            Some(Write::Store { value, .. }) => Some(encode_value(value)?),
            Some(Write::Delete) | None => None,
        };
        Ok(Self {
            key: key::encode(key)?,
            value,
        })
    }
}

fn encode_value(value: &JsonText) -> Result<Vec<u8>> {
    let bytes = v8::to_v8(value.as_str());
    if bytes.len() > MOST_VALUE_BYTES {
        return Err(Error::ValueTooLarge(format!(
            "Deno KV takes values of up to {MOST_VALUE_BYTES} bytes; this one has {}",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// The entries of a batch, as they are in the middle of it.
pub struct Batch<'a>(BTreeMap<&'a [u8], Entry<'a>>);

#[derive(Default)]
struct Entry<'a> {
    stored: Option<Row>,
    /// The last operation that wrote it.
    written: Option<&'a Op>,
    /// Whether it must still be as it was read.
    check: bool,
}

impl<'a> Batch<'a> {
    /// With what is stored of the entries that are read.
    pub fn new(rows: impl IntoIterator<Item = (&'a [u8], Option<Row>)>) -> Self {
        let entry = |(key, stored)| {
            let entry = Entry {
                stored,
                ..Entry::default()
            };
            (key, entry)
        };
        Self(rows.into_iter().map(entry).collect())
    }

    /// Takes the next operation and says its outcome, provided that the batch
    /// is written.
    pub fn run(&mut self, op: &'a Op) -> Outcome {
        let entry = self.0.entry(&op.key).or_default();
        match &op.command {
            Command::Get(key) => match entry.written {
                None => reply(key.clone(), entry.stored.as_ref()),
                Some(_) => Ok(Reply::Value(key.clone(), entry.text(key)?.map(JsonText::new))),
            },
            Command::Cas(key, expected, _) => {
                let matches = match (entry.text(key)?, expected) {
                    (None, None) => true,
                    (Some(text), Some(expected)) => expected.means(&text, key)?,
                    _ => false,
                };
                if matches {
                    entry.check |= entry.written.is_none();
                    entry.written = Some(op);
                }
                Ok(Reply::Swapped(matches))
            }
            _ => {
                entry.written = Some(op);
                Ok(Reply::Done)
            }
        }
    }

    /// What has to be written, if anything.
    pub fn write(&self) -> Option<AtomicWrite> {
        let now = now();
        let mut write = AtomicWrite {
            checks: Vec::new(),
            mutations: Vec::new(),
            enqueues: Vec::new(),
        };
        for (key, entry) in &self.0 {
            let Some(op) = entry.written else {
                continue;
            };
            if entry.check {
                write.checks.push(Check {
                    key: key.to_vec(),
                    versionstamp: entry.stored.as_ref().map(|row| row.stamp),
                });
            }
            write.mutations.push(op.mutation(now));
        }
        (!write.mutations.is_empty()).then_some(write)
    }
}

impl Entry<'_> {
    fn text(&self, key: &Key) -> Result<Option<String>> {
        match self.written.and_then(Op::write) {
            Some(Write::Store { value, .. }) => Ok(Some(value.as_str().to_owned())),
            Some(Write::Delete) => Ok(None),
            None => match self.stored.as_ref().filter(|row| row.live) {
                Some(row) => row.value.text(key),
                None => Ok(None),
            },
        }
    }
}

impl Op {
    fn mutation(&self, now: Millis) -> Mutation {
        let ttl = match self.write() {
            Some(Write::Store { ttl, .. }) => *ttl,
            _ => None,
        };
        Mutation {
            key: self.key.clone(),
            kind: match &self.value {
                Some(value) => MutationKind::Set(KvValue::V8(value.clone())),
                None => MutationKind::Delete,
            },
            expire_at: ttl.map(|ttl| instant(ttl.deadline(now))),
        }
    }
}

/// As far as the engine's calendar goes.
fn instant(millis: Millis) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
