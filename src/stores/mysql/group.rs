//! A group of operations, in a few statements on one connection.
//!
//! Reads, writes and deletions of many entries are one statement each. All
//! compare-and-swaps are one transaction: it locks the existing entries,
//! compares them here as JSON, writes, and commits.

use super::connection::{Connection, bytes, flag, text};
use super::failure::{Failure, Verdict, verdict};
use super::statements::{MOST, Statement, padded, part};
use super::work::Work;
use crate::kv::{Error, JsonText, Key, Outcome, Reply, Ttl, Write};
use crate::stores::served::{Action, Lost, Operation};
use mysql_async::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// The longest key, in characters of its text.
const MOST_CHARACTERS: usize = 768;

/// The overhead of a row in a packet, and that of a packet.
const ROW_BYTES: usize = 32;
const PACKET_BYTES: usize = 1024;

/// Larger statements are not faster.
const ENOUGH_BYTES: usize = 4 * 1024 * 1024;

/// The server has no dates after the year 9999.
const LONGEST_MILLIS: i64 = 7_000 * 365 * 24 * 60 * 60 * 1000;

/// A group and its outcomes so far.
pub struct Group<'a> {
    operations: &'a [Arc<Operation>],
    outcomes: Vec<Option<Result<Outcome, Lost>>>,
}

/// A row to be written, and the index of its operation.
struct Row<'a> {
    operation: usize,
    key: &'a Key,
    value: &'a JsonText,
    ttl: Option<Ttl>,
}

impl Row<'_> {
    fn bytes(&self) -> usize {
        self.key.as_json().len() + self.value.as_str().len() + ROW_BYTES
    }
}

impl<'a> Group<'a> {
    pub fn new(operations: &'a [Arc<Operation>]) -> Self {
        let too_long = |operation: &Arc<Operation>| {
            let text = operation.key.as_json();
            // A character has at least one byte.
            (text.len() > MOST_CHARACTERS && text.chars().count() > MOST_CHARACTERS).then(|| {
                Ok(Err(Error::KeyTooLong(format!(
                    "a MySQL key may have {MOST_CHARACTERS} characters as JSON text: {text:.100}…"
                ))))
            })
        };
        Self {
            operations,
            outcomes: operations.iter().map(too_long).collect(),
        }
    }

    pub fn is_done(&self) -> bool {
        self.outcomes.iter().all(Option::is_some)
    }

    /// The outcomes; `because` gives those that are missing.
    pub fn finish(self, because: impl Fn(&Action) -> Result<Outcome, Lost>) -> Vec<Result<Outcome, Lost>> {
        self.outcomes
            .into_iter()
            .zip(self.operations)
            .map(|(outcome, operation)| outcome.unwrap_or_else(|| because(&operation.action)))
            .collect()
    }

    fn open(&self, wanted: impl Fn(&Action) -> bool) -> Vec<usize> {
        let open = |i: &usize| self.outcomes[*i].is_none() && wanted(&self.operations[*i].action);
        let mut open: Vec<usize> = (0..self.operations.len()).filter(open).collect();
        // All take locks in one order, which prevents deadlocks.
        open.sort_by_key(|i| self.operations[*i].key.as_json());
        open
    }

    fn settle(&mut self, operation: usize, outcome: Outcome) {
        self.outcomes[operation] = Some(Ok(outcome));
    }

    async fn get(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        let open = self.open(|action| matches!(action, Action::Get));
        if let [one] = open[..] {
            return self.get_one(connection, one).await;
        }
        for some in open.chunks(MOST) {
            let keys = self.keys(some);
            let rows = connection.rows(Statement::Get(keys.len()), keys).await?;
            let mut found = HashMap::with_capacity(rows.len());
            for mut row in rows {
                found.insert(bytes(&mut row, 0), text(&mut row, 1));
            }
            for i in some {
                let key = &self.operations[*i].key;
                let outcome = match found.remove(key.as_json().as_bytes()) {
                    Some(value) => value_of(key, value),
                    None => Ok(Reply::Value(key.clone(), None)),
                };
                self.settle(*i, outcome);
            }
        }
        Ok(())
    }

    async fn get_one(&mut self, connection: &mut Connection, operation: usize) -> Result<(), Failure> {
        let key = &self.operations[operation].key;
        let rows = connection
            .rows(Statement::GetOne, vec![Value::Bytes(key.as_json().into())])
            .await?;
        let mut row = rows.into_iter().next();
        let outcome = match row.as_mut().filter(|row| flag(row, 1)) {
            Some(row) => value_of(key, text(row, 0)),
            None => Ok(Reply::Value(key.clone(), None)),
        };
        self.settle(operation, outcome);
        Ok(())
    }

    async fn put(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        let open = self.open(|action| matches!(action, Action::Put(Write::Store { .. })));
        let operations = self.operations;
        let mut rows = Vec::with_capacity(open.len());
        for operation in open {
            if let Action::Put(Write::Store { value, ttl }) = &operations[operation].action {
                let key = &operations[operation].key;
                let row = Row {
                    operation,
                    key,
                    value,
                    ttl: *ttl,
                };
                match fits(&row, connection) {
                    Ok(()) => rows.push(row),
                    Err(error) => self.settle(operation, Err(error)),
                }
            }
        }
        let mut rows = rows.as_slice();
        while !rows.is_empty() {
            let (some, rest) = rows.split_at(fitting(rows, connection, MOST));
            rows = rest;
            match connection
                .change(Statement::Put(padded(some.len())), values(some, padded(some.len())))
                .await
            {
                Ok(_) => some.iter().for_each(|row| self.settle(row.operation, Ok(Reply::Done))),
                Err(failure) if some.len() == 1 => self.settle(some[0].operation, Err(refused(failure)?)),
                Err(failure) => {
                    // One of the rows is the cause.
                    refused(failure)?;
                    for row in some {
                        let one = std::slice::from_ref(row);
                        let outcome = match connection.change(Statement::Put(1), values(one, 1)).await {
                            Ok(_) => Ok(Reply::Done),
                            Err(failure) => Err(refused(failure)?),
                        };
                        self.settle(row.operation, outcome);
                    }
                }
            }
        }
        Ok(())
    }

    async fn delete(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        let open = self.open(|action| matches!(action, Action::Put(Write::Delete)));
        for some in open.chunks(MOST) {
            let keys = self.keys(some);
            let outcome = match connection.change(Statement::Delete(keys.len()), keys).await {
                Ok(_) => Ok(Reply::Done),
                Err(failure) => Err(refused(failure)?),
            };
            for i in some {
                self.settle(*i, outcome.clone());
            }
        }
        Ok(())
    }

    /// All compare-and-swaps, in transactions of a bounded size.
    async fn swap(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        let open = self.open(|action| matches!(action, Action::Cas(..)));
        let mut open = open.as_slice();
        while !open.is_empty() {
            let mut size = 0;
            let count = open
                .iter()
                .take(MOST)
                .take_while(|i| {
                    size += bytes_of(&self.operations[**i].action);
                    size <= ENOUGH_BYTES
                })
                .count()
                .max(1);
            let (some, rest) = open.split_at(count);
            open = rest;
            match self.swap_in_one(connection, some).await {
                Ok(outcomes) => {
                    for (i, outcome) in outcomes {
                        self.settle(i, outcome);
                    }
                }
                Err(failure) => {
                    let refusal = refused(failure)?;
                    connection.roll_back().await?;
                    if let [one] = some {
                        self.settle(*one, Err(refusal));
                        continue;
                    }
                    // One of them is the cause.
                    for i in some {
                        let outcome = match self.swap_in_one(connection, std::slice::from_ref(i)).await {
                            Ok(outcomes) => outcomes.into_iter().next().map(|(_, outcome)| outcome),
                            Err(failure) => {
                                let refusal = refused(failure)?;
                                connection.roll_back().await?;
                                Some(Err(refusal))
                            }
                        };
                        if let Some(outcome) = outcome {
                            self.settle(*i, outcome);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn swap_in_one(&self, connection: &mut Connection, some: &[usize]) -> Result<Vec<(usize, Outcome)>, Failure> {
        let operations = self.operations;
        connection.begin().await?;
        let keys = self.keys(some);
        let mut there = HashMap::new();
        for mut row in connection.rows(Statement::Lock(keys.len()), keys).await? {
            there.insert(bytes(&mut row, 0), (text(&mut row, 1), flag(&row, 2)));
        }
        let mut outcomes = Vec::with_capacity(some.len());
        let (mut create, mut put, mut delete) = (Vec::new(), Vec::new(), Vec::new());
        for operation in some {
            let Operation {
                key,
                action: Action::Cas(expected, write),
                ..
            } = &*operations[*operation]
            else {
                continue;
            };
            let stored = there.get(key.as_json().as_bytes());
            let met = match (stored.filter(|(_, live)| *live), expected) {
                (None, expected) => Ok(expected.is_none()),
                (Some(_), None) => Ok(false),
                (Some((Some(stored), _)), Some(expected)) => expected.means(stored, key),
                (Some((None, _)), Some(_)) => Err(Error::Corrupt(format!("the value of {key} is not text"))),
            };
            let mut outcome = met.map(Reply::Swapped);
            if matches!(outcome, Ok(Reply::Swapped(true))) {
                match write {
                    Write::Delete if stored.is_some() => delete.push(*operation),
                    Write::Delete => {}
                    Write::Store { value, ttl } => {
                        let row = Row {
                            operation: *operation,
                            key,
                            value,
                            ttl: *ttl,
                        };
                        match fits(&row, connection) {
                            Ok(()) if stored.is_some() => put.push(row),
                            Ok(()) => create.push(row),
                            Err(error) => outcome = Err(error),
                        }
                    }
                }
            }
            outcomes.push((*operation, outcome));
        }
        let nothing = create.is_empty() && put.is_empty() && delete.is_empty();
        let mut create = create.as_slice();
        while !create.is_empty() {
            let (some, rest) = create.split_at(part(fitting(create, connection, MOST)));
            create = rest;
            connection
                .change(Statement::Create(some.len()), values(some, some.len()))
                .await?;
        }
        let mut put = put.as_slice();
        while !put.is_empty() {
            let (some, rest) = put.split_at(fitting(put, connection, MOST));
            put = rest;
            let size = padded(some.len());
            connection.change(Statement::Put(size), values(some, size)).await?;
        }
        if !delete.is_empty() {
            let keys = self.keys(&delete);
            connection.change(Statement::Delete(keys.len()), keys).await?;
        }
        if nothing {
            connection.roll_back().await?;
        } else {
            connection.commit().await?;
        }
        Ok(outcomes)
    }

    /// Keys for a statement of one of the usual sizes.
    fn keys(&self, some: &[usize]) -> Vec<Value> {
        filled(some.iter().map(|i| &self.operations[*i].key), padded(some.len()))
    }
}

/// The outcome of a get of a live entry.
fn value_of(key: &Key, stored: Option<String>) -> Outcome {
    match stored {
        Some(value) => Ok(Reply::Value(key.clone(), Some(JsonText::new(value)))),
        None => Err(Error::Corrupt(format!("the value of {key} is not text"))),
    }
}

fn bytes_of(action: &Action) -> usize {
    match action {
        Action::Put(Write::Store { value, .. }) | Action::Cas(_, Write::Store { value, .. }) => value.as_str().len(),
        _ => 0,
    }
}

impl Work for Group<'_> {
    type Answer = ();

    /// Runs the operations that have no outcome yet. An operation that the
    /// server has refused for good gets one; any other failure ends this
    /// attempt.
    async fn attempt(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        self.get(connection).await?;
        self.put(connection).await?;
        self.delete(connection).await?;
        self.swap(connection).await
    }
}

/// Keys, with the last one repeated to fill the statement.
fn filled<'a>(keys: impl ExactSizeIterator<Item = &'a Key>, size: usize) -> Vec<Value> {
    let mut values: Vec<Value> = keys.map(|key| Value::Bytes(key.as_json().into())).collect();
    if let Some(last) = values.last().cloned() {
        values.resize(size, last);
    }
    values
}

/// Three values for each row, with the last row repeated to fill the statement.
fn values(rows: &[Row<'_>], size: usize) -> Vec<Value> {
    let mut values = Vec::with_capacity(size * 3);
    for i in 0..size {
        let row = &rows[i.min(rows.len() - 1)];
        values.push(Value::Bytes(row.key.as_json().into()));
        values.push(Value::Bytes(row.value.as_str().into()));
        values.push(row.ttl.map_or(Value::NULL, |ttl| {
            Value::Int(ttl.deadline(0).min(LONGEST_MILLIS) * 1000)
        }));
    }
    values
}

/// How many rows fit in one statement, including repetitions.
fn fitting(rows: &[Row<'_>], connection: &Connection, most: usize) -> usize {
    let room = connection.packet.min(ENOUGH_BYTES).saturating_sub(PACKET_BYTES);
    let mut bytes = 0;
    let count = rows
        .iter()
        .take(most)
        .take_while(|row| {
            bytes += row.bytes();
            bytes <= room
        })
        .count()
        .max(1);
    let repeated = |count: usize| (padded(count) - count) * rows[count - 1].bytes();
    if bytes.min(room) + repeated(count) <= room || count == 1 {
        return count;
    }
    part(count)
}

fn fits(row: &Row<'_>, connection: &Connection) -> Result<(), Error> {
    if row.bytes() + PACKET_BYTES <= connection.packet {
        return Ok(());
    }
    Err(Error::ValueTooLarge(format!(
        "the value of {} has {} bytes, but the server's max_allowed_packet is {}",
        row.key,
        row.value.as_str().len(),
        connection.packet
    )))
}

/// The error, if the server has refused for good.
fn refused(failure: Failure) -> Result<Error, Failure> {
    match failure {
        Failure::Server(error) => match verdict(&error) {
            Verdict::Final(error) => Ok(error),
            _ => Err(Failure::Server(error)),
        },
        other => Err(other),
    }
}
