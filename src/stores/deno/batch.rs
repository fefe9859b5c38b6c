//! Operations that are answered together: one read of their entries, and one atomic
//! write of the changes.
//!
//! The operations take effect one after the other in memory. The write fails if an
//! entry that a `cas` depends on has changed since it was read.

use super::row::{Row, reply};
use super::{key, v8};
use crate::kv::{Command, Error, JsonText, Key, Millis, Outcome, Reply, Result, Write, now};
use chrono::{DateTime, Utc};
use denokv_proto::Versionstamp;
use std::collections::BTreeMap;

/// The limit of Deno KV.
const MOST_VALUE_BYTES: usize = 65_536;

/// An operation on one entry, with key and value as they are stored.
pub struct Op<'a> {
    command: &'a Command,
    key: Vec<u8>,
    /// The value that it writes, if any.
    value: Option<Vec<u8>>,
}

impl<'a> Op<'a> {
    /// # Errors
    ///
    /// [`Error::KeyTooLong`] and [`Error::ValueTooLarge`]
    pub fn new(command: &'a Command) -> Result<Self> {
        let (key, write) = match command {
            Command::Get(key) => (key, None),
            Command::Put(key, write) | Command::Cas(key, _, write) => (key, Some(write)),
            _ => return Err(Error::Backend("internal error: not an operation on one entry".into())),
        };
        let value = match write {
            Some(Write::Store { value, .. }) => Some(encode_value(value)?),
            Some(Write::Delete) | None => None,
        };
        let key = key::encode(key)?;
        Ok(Self { command, key, value })
    }

    /// Whether its outcome depends on what is stored.
    fn reads(&self) -> bool {
        !matches!(self.command, Command::Put(..))
    }

    fn write(&self) -> Option<&Write> {
        match self.command {
            Command::Put(_, write) | Command::Cas(_, _, write) => Some(write),
            _ => None,
        }
    }

    fn expires(&self, now: Millis) -> Option<Millis> {
        self.write().and_then(|write| expiry(write, now))
    }
}

/// When what is written expires.
pub fn expiry(write: &Write, now: Millis) -> Option<Millis> {
    match write {
        Write::Store { ttl, .. } => ttl.map(|ttl| ttl.deadline(now).min(last_expiry())),
        Write::Delete => None,
    }
}

/// # Errors
///
/// [`Error::ValueTooLarge`]
pub fn encode_value(value: &JsonText) -> Result<Vec<u8>> {
    let bytes = v8::to_v8(value.as_str());
    if bytes.len() > MOST_VALUE_BYTES {
        return Err(Error::ValueTooLarge(format!(
            "Deno KV allows values of up to {MOST_VALUE_BYTES} bytes; this one has {}",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// The latest date of Deno's calendar. Deno fails at an entry that expires later.
fn last_expiry() -> Millis {
    DateTime::<Utc>::MAX_UTC.timestamp_millis()
}

/// The keys that operations read, without duplicates.
pub fn keys_read<'a>(ops: impl IntoIterator<Item = &'a Op<'a>>) -> Vec<&'a [u8]> {
    let reading = ops.into_iter().filter(|op| op.reads());
    let mut keys: Vec<&[u8]> = reading.map(|op| &*op.key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The change of an entry.
pub struct Change<'a> {
    pub key: &'a [u8],
    /// `None` if it is deleted.
    pub value: Option<&'a [u8]>,
    pub expires: Option<Millis>,
    pub condition: Condition,
}

/// What must still be stored when a change is made.
pub enum Condition {
    Anything,
    NoEntry,
    Version(Versionstamp),
}

/// The entries of a group of operations, with the changes of those that have run.
pub struct Batch<'a>(BTreeMap<&'a [u8], Entry<'a>>);

#[derive(Default)]
struct Entry<'a> {
    stored: Option<Row>,
    /// The last operation that wrote it.
    written: Option<&'a Op<'a>>,
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

    /// Runs operations; an operation that is an error already keeps it. The
    /// outcomes hold if the batch is then written.
    pub fn run_all(&mut self, ops: impl IntoIterator<Item = &'a Result<Op<'a>>>) -> Vec<Outcome> {
        ops.into_iter()
            .map(|op| match op {
                Ok(op) => self.run(op),
                Err(error) => Err(error.clone()),
            })
            .collect()
    }

    fn run(&mut self, op: &'a Op<'a>) -> Outcome {
        let entry = self.0.entry(&op.key).or_default();
        match op.command {
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

    /// The changes to write.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let now = now();
        self.0.iter().filter_map(move |(key, entry)| {
            let op = entry.written?;
            Some(Change {
                key,
                value: op.value.as_deref(),
                expires: op.expires(now),
                condition: match &entry.stored {
                    _ if !entry.check => Condition::Anything,
                    None => Condition::NoEntry,
                    Some(row) => Condition::Version(row.stamp),
                },
            })
        })
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
