//! The statements of a group.
//!
//! Reads, writes and deletions of many entries are one statement each. All
//! compare-and-swaps are one transaction: it locks the existing entries,
//! compares them here as JSON, writes, and commits.

use super::Mysql;
use super::answer::Parameter;
use super::connection::{Connection, Connector};
use super::failure::Failure;
use super::parts::{Entry, PACKET_BYTES, filled, split};
use super::session::Session;
use super::statements::{Statement, padded, part};
use crate::host::Bulk;
use crate::kv::{Error, JsonText, Key, Outcome, Reply, Ttl, Write};
use crate::stores::served::{Action, Attempt, Fault, Limits, Lost, Operation, Pool, PooledEngine};
use std::collections::HashMap;
use std::sync::Arc;

/// The longest key, in characters of its text.
const MOST_CHARACTERS: usize = 768;

/// The most bytes of values in one transaction.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The server has no dates after the year 9999.
const LONGEST_MILLIS: i64 = 7_000 * 365 * 24 * 60 * 60 * 1000;

/// Values with so many bytes together take long to compare.
const LARGE: usize = 64 * 1024;

/// The error of a server that has such an entry already.
const DUPLICATE: u16 = 1062;

impl PooledEngine for Mysql {
    type Connect = Connector;

    fn pool(&self) -> &Arc<Pool<Connector>> {
        &self.pool
    }

    fn refuse(&self, operation: &Operation) -> Option<Outcome> {
        let text = operation.key.as_json();
        // A character has at least one byte.
        (text.len() > MOST_CHARACTERS && text.chars().count() > MOST_CHARACTERS).then(|| {
            Err(Error::KeyTooLong(format!(
                "a MySQL key may have {MOST_CHARACTERS} characters as JSON text: {text:.100}…"
            )))
        })
    }

    async fn check(&self, limits: Limits) -> Result<(), Fault> {
        self.table.check(limits).await
    }

    async fn renew(&self, missing: bool, limits: Limits) -> Result<bool, Fault> {
        // Otherwise the next session suits the server.
        if missing {
            self.table.renew(limits).await
        } else {
            Ok(true)
        }
    }

    async fn attempt(&self, connection: &Connection, operations: &[&Operation]) -> Vec<Attempt> {
        let mut session = connection.session().await;
        let mut group = Group::new(operations, &self.bulk);
        let result = group.run(&mut session).await;
        group.finish(connection.end(session, result).await.err())
    }
}

/// A group and what its statements have brought so far.
struct Group<'a> {
    operations: &'a [&'a Operation],
    bulk: &'a Bulk,
    attempts: Vec<Option<Attempt>>,
    /// The operations of the statement under way.
    current: Vec<usize>,
}

/// A row to be written, and the index of its operation.
struct Row<'a> {
    operation: usize,
    key: &'a Key,
    value: &'a JsonText,
    ttl: Option<Ttl>,
}

impl Entry for Row<'_> {
    fn bytes(&self) -> usize {
        self.key.as_json().len() + self.value.as_str().len()
    }
}

/// The value of an entry, `None` if it is not text; whether the entry is live.
type Stored = (Option<String>, bool);

/// Entries by their keys.
type Found = HashMap<Vec<u8>, Stored>;

/// A key, and the index of its operation.
struct Wanted<'a> {
    operation: usize,
    key: &'a Key,
}

impl AsRef<[u8]> for Wanted<'_> {
    fn as_ref(&self) -> &[u8] {
        self.key.as_json().as_bytes()
    }
}

impl<'a> Group<'a> {
    fn new(operations: &'a [&'a Operation], bulk: &'a Bulk) -> Self {
        Self {
            operations,
            bulk,
            attempts: vec![None; operations.len()],
            current: Vec::new(),
        }
    }

    async fn run(&mut self, session: &mut Session) -> Result<(), Failure> {
        self.get(session).await?;
        self.put(session).await?;
        self.delete(session).await?;
        self.swap(session).await
    }

    /// What the operations have come to. The fault is that of the current ones; the
    /// later ones were not sent.
    fn finish(self, fault: Option<Fault>) -> Vec<Attempt> {
        let fault = fault.unwrap_or_else(|| Fault::Final(Error::Backend("internal error: no outcome".into())));
        let rest = match &fault {
            Fault::Lost(Lost::Unknown(error)) => Fault::Lost(Lost::Undone(error.clone())),
            // Their own statements may succeed.
            Fault::Final(error) | Fault::Denied(error) => Fault::Divide(error.clone()),
            fault => fault.clone(),
        };
        let missing = |index| Err(if self.current.contains(&index) { &fault } else { &rest }.clone());
        let attempts = self.attempts.into_iter().enumerate();
        attempts
            .map(|(index, attempt)| attempt.unwrap_or_else(|| missing(index)))
            .collect()
    }

    /// The operations of a kind, in the order of their keys: if all take locks in
    /// one order, that prevents deadlocks.
    fn wanted(&self, which: impl Fn(&Action) -> bool) -> Vec<Wanted<'a>> {
        let all = self.operations.iter().enumerate();
        let mut wanted: Vec<Wanted> = all
            .filter(|(_, operation)| which(&operation.action))
            .map(|(operation, Operation { key, .. })| Wanted { operation, key })
            .collect();
        wanted.sort_by_key(|wanted| wanted.key.as_json());
        wanted
    }

    fn begin(&mut self, operations: impl Iterator<Item = usize>) {
        self.current = operations.collect();
    }

    fn settle(&mut self, operation: usize, attempt: Attempt) {
        self.attempts[operation] = Some(attempt);
    }

    /// The current operations are done.
    fn done(&mut self) {
        for operation in std::mem::take(&mut self.current) {
            self.settle(operation, Ok(Reply::Done));
        }
    }

    async fn get(&mut self, session: &mut Session) -> Result<(), Failure> {
        let wanted = self.wanted(|action| matches!(action, Action::Get));
        if let [one] = &wanted[..] {
            return self.get_one(session, one).await;
        }
        let mut rest = &wanted[..];
        while !rest.is_empty() {
            let (some, more) = split(rest, session);
            rest = more;
            self.begin(some.iter().map(|wanted| wanted.operation));
            let rows = session.rows(Statement::Get(padded(some.len())), &filled(some)).await?;
            let mut found = HashMap::with_capacity(rows.len());
            for mut row in rows {
                found.insert(row.bytes(0), row.text(1));
            }
            for Wanted { operation, key } in some {
                let attempt = match found.remove(key.as_json().as_bytes()) {
                    Some(value) => value_of(key, value),
                    None => Ok(Reply::Value((*key).clone(), None)),
                };
                self.settle(*operation, attempt);
            }
        }
        Ok(())
    }

    async fn get_one(&mut self, session: &mut Session, Wanted { operation, key }: &Wanted<'_>) -> Result<(), Failure> {
        self.begin([*operation].into_iter());
        let rows = session
            .rows(Statement::GetOne, &[Parameter::Text(key.as_json().as_bytes())])
            .await?;
        let mut row = rows.into_iter().next();
        let attempt = match row.as_mut().filter(|row| row.flag(1)) {
            Some(row) => value_of(key, row.text(0)),
            None => Ok(Reply::Value((*key).clone(), None)),
        };
        self.settle(*operation, attempt);
        Ok(())
    }

    async fn put(&mut self, session: &mut Session) -> Result<(), Failure> {
        let wanted = self.wanted(|action| matches!(action, Action::Put(Write::Store { .. })));
        let mut rows = Vec::with_capacity(wanted.len());
        for Wanted { operation, key } in wanted {
            if let Action::Put(Write::Store { value, ttl }) = &self.operations[operation].action {
                rows.extend(self.row(operation, key, value, *ttl, session));
            }
        }
        let mut rest = &rows[..];
        while !rest.is_empty() {
            let (some, more) = split(rest, session);
            rest = more;
            self.begin(some.iter().map(|row| row.operation));
            let size = padded(some.len());
            session.change(Statement::Put(size), &values(some, size)).await?;
            self.done();
        }
        Ok(())
    }

    /// A row to be written, unless it doesn't fit in a packet.
    fn row(
        &mut self,
        operation: usize,
        key: &'a Key,
        value: &'a JsonText,
        ttl: Option<Ttl>,
        session: &Session,
    ) -> Option<Row<'a>> {
        let row = Row {
            operation,
            key,
            value,
            ttl,
        };
        if row.bytes() + PACKET_BYTES <= session.packet {
            return Some(row);
        }
        let error = Error::ValueTooLarge(format!(
            "the value of {key} has {} bytes, but the server's max_allowed_packet is {}",
            value.as_str().len(),
            session.packet
        ));
        self.settle(operation, Err(Fault::Final(error)));
        None
    }

    async fn delete(&mut self, session: &mut Session) -> Result<(), Failure> {
        let wanted = self.wanted(|action| matches!(action, Action::Put(Write::Delete)));
        let mut rest = &wanted[..];
        while !rest.is_empty() {
            let (some, more) = split(rest, session);
            rest = more;
            self.begin(some.iter().map(|wanted| wanted.operation));
            session
                .change(Statement::Delete(padded(some.len())), &filled(some))
                .await?;
            self.done();
        }
        Ok(())
    }

    /// All compare-and-swaps, in transactions of a bounded size.
    async fn swap(&mut self, session: &mut Session) -> Result<(), Failure> {
        let wanted = self.wanted(|action| matches!(action, Action::Cas(..)));
        let mut rest = &wanted[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|wanted| {
                bytes += bytes_of(&self.operations[wanted.operation].action);
                bytes <= MOST_BYTES
            });
            let (some, _) = split(&rest[..fitting.count().max(1)], session);
            rest = &rest[some.len()..];
            self.begin(some.iter().map(|wanted| wanted.operation));
            match self.swap_some(session, some).await {
                // Another client has just created the entry.
                Err(failure) if some.len() == 1 && failure.code() == Some(DUPLICATE) => {
                    session.roll_back().await?;
                    self.settle(some[0].operation, Ok(Reply::Swapped(false)));
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Whether each entry is the expected one. Many large values are compared where
    /// that does not hold up others.
    async fn compare(&self, some: &[Wanted<'a>], there: &Found) -> Vec<Result<bool, Error>> {
        let mut size = 0;
        let mut pairs = Vec::with_capacity(some.len());
        for Wanted { operation, key } in some {
            let stored = there.get(key.as_json().as_bytes()).filter(|(_, live)| *live);
            let expected = match &self.operations[*operation].action {
                Action::Cas(expected, _) => expected.as_ref(),
                _ => None,
            };
            size += expected.map_or(0, |text| text.as_str().len());
            size += stored.map_or(0, |(text, _)| text.as_ref().map_or(0, String::len));
            pairs.push((expected, stored, *key));
        }
        if size < LARGE {
            return pairs
                .into_iter()
                .map(|(expected, stored, key)| is_met(expected, stored, key))
                .collect();
        }
        let owned = |(expected, stored, key): (Option<&JsonText>, Option<&Stored>, &Key)| {
            (expected.cloned(), stored.cloned(), key.clone())
        };
        let pairs: Vec<_> = pairs.into_iter().map(owned).collect();
        let compare = async move {
            let met = pairs
                .iter()
                .map(|(expected, stored, key)| is_met(expected.as_ref(), stored.as_ref(), key));
            met.collect()
        };
        let met = self.bulk.run(compare).await;
        met.unwrap_or_else(|error| vec![Err(error); some.len()])
    }

    async fn swap_some(&mut self, session: &mut Session, some: &[Wanted<'a>]) -> Result<(), Failure> {
        session.begin().await?;
        let mut there = Found::new();
        for mut row in session.rows(Statement::Lock(padded(some.len())), &filled(some)).await? {
            there.insert(row.bytes(0), (row.text(1), row.flag(2)));
        }
        let mut met = self.compare(some, &there).await.into_iter();
        let (mut create, mut put, mut delete) = (Vec::new(), Vec::new(), Vec::new());
        // The operations that change something.
        let mut changing = Vec::new();
        for Wanted { operation, key } in some {
            let (Action::Cas(_, write), Some(met)) = (&self.operations[*operation].action, met.next()) else {
                continue;
            };
            let stored = there.get(key.as_json().as_bytes());
            match (met, write) {
                (Ok(true), Write::Delete) if stored.is_some() => {
                    delete.push(Wanted {
                        operation: *operation,
                        key,
                    });
                }
                (Ok(true), Write::Store { value, ttl }) => {
                    let Some(row) = self.row(*operation, key, value, *ttl, session) else {
                        continue;
                    };
                    if stored.is_some() { &mut put } else { &mut create }.push(row);
                }
                (met, _) => {
                    self.settle(*operation, met.map(Reply::Swapped).map_err(Fault::Final));
                    continue;
                }
            }
            changing.push(*operation);
        }
        if changing.is_empty() {
            return session.roll_back().await;
        }
        let mut rest = &create[..];
        while !rest.is_empty() {
            // Without repetitions, which would be there already.
            let (some, _) = split(rest, session);
            let (some, more) = rest.split_at(part(some.len()));
            rest = more;
            let size = some.len();
            session.change(Statement::Create(size), &values(some, size)).await?;
        }
        let mut rest = &put[..];
        while !rest.is_empty() {
            let (some, more) = split(rest, session);
            rest = more;
            let size = padded(some.len());
            session.change(Statement::Put(size), &values(some, size)).await?;
        }
        let mut rest = &delete[..];
        while !rest.is_empty() {
            let (some, more) = split(rest, session);
            rest = more;
            session
                .change(Statement::Delete(padded(some.len())), &filled(some))
                .await?;
        }
        session.commit().await?;
        for operation in changing {
            self.settle(operation, Ok(Reply::Swapped(true)));
        }
        Ok(())
    }
}

/// Whether an entry is the expected one.
fn is_met(expected: Option<&JsonText>, stored: Option<&Stored>, key: &Key) -> Result<bool, Error> {
    match (stored, expected) {
        (None, expected) => Ok(expected.is_none()),
        (Some(_), None) => Ok(false),
        (Some((Some(stored), _)), Some(expected)) => expected.means(stored, key),
        (Some((None, _)), Some(_)) => Err(Error::Corrupt(format!("the value of {key} is not text"))),
    }
}

/// What a get of a live entry brings.
fn value_of(key: &Key, stored: Option<String>) -> Attempt {
    match stored {
        Some(value) => Ok(Reply::Value(key.clone(), Some(JsonText::new(value)))),
        None => Err(Fault::Final(Error::Corrupt(format!("the value of {key} is not text")))),
    }
}

fn bytes_of(action: &Action) -> usize {
    match action {
        Action::Put(Write::Store { value, .. }) | Action::Cas(_, Write::Store { value, .. }) => value.as_str().len(),
        _ => 0,
    }
}

/// Three values for each row, with the last row repeated to fill the statement.
fn values<'a>(rows: &'a [Row<'a>], size: usize) -> Vec<Parameter<'a>> {
    let mut values = Vec::with_capacity(size * 3);
    for i in 0..size {
        let row = &rows[i.min(rows.len() - 1)];
        values.push(Parameter::Text(row.key.as_json().as_bytes()));
        values.push(Parameter::Text(row.value.as_str().as_bytes()));
        values.push(row.ttl.map_or(Parameter::Null, |ttl| {
            Parameter::Number(ttl.deadline(0).min(LONGEST_MILLIS) * 1000)
        }));
    }
    values
}
