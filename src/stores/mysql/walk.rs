//! Walks over many entries: a page of a list, a slice of a `clear`, a batch of
//! a sweep.

use super::connection::{Connection, bytes, flag, text};
use super::failure::Failure;
use super::statements::{Bound, MOST, Statement, padded};
use super::work::Work;
use crate::kv::Prefix;
use crate::stores::served::{Cleared, Cursor, Row, Rows};
use mysql_async::Value;

/// The greatest text, which sorts after every key.
const LAST: &str = "\u{10ffff}";

/// A range of consecutive keys.
pub struct Range {
    first: Vec<u8>,
    last: Vec<u8>,
    bound: Bound,
    entries: u32,
}

impl Range {
    /// Up to `entries` keys under a prefix, from the first one or after another.
    pub fn new(prefix: &Prefix, after: Option<&Cursor>, entries: u32) -> Self {
        let (first, last) = prefix.json_range().unwrap_or_else(|| (String::new(), LAST.into()));
        Self {
            first: after.map_or_else(|| first.into_bytes(), Clone::clone),
            last: last.into_bytes(),
            bound: if after.is_some() { Bound::After } else { Bound::From },
            entries,
        }
    }

    fn values(&self) -> Vec<Value> {
        vec![self.first.clone().into(), self.last.clone().into(), self.entries.into()]
    }
}

pub struct Read(pub Range);

impl Work for Read {
    type Answer = Rows;

    async fn attempt(&mut self, connection: &mut Connection) -> Result<Rows, Failure> {
        let found = connection.rows(Statement::Page(self.0.bound), self.0.values()).await?;
        let last = (found.len() == self.0.entries as usize).then(|| found.len() - 1);
        let mut rows = Rows {
            rows: Vec::with_capacity(found.len()),
            next: None,
        };
        for (i, mut row) in found.into_iter().enumerate() {
            let key = bytes(&mut row, 0);
            if last == Some(i) {
                rows.next = Some(key.clone());
            }
            if flag(&row, 2) {
                rows.rows.push(Row {
                    key: String::from_utf8(key).ok(),
                    value: text(&mut row, 1),
                });
            }
        }
        Ok(rows)
    }
}

pub struct Clear(pub Range);

impl Work for Clear {
    type Answer = Cleared;

    async fn attempt(&mut self, connection: &mut Connection) -> Result<Cleared, Failure> {
        connection.begin().await?;
        let rows = connection.rows(Statement::Slice(self.0.bound), self.0.values()).await?;
        let full = rows.len() == self.0.entries as usize;
        let mut live = 0;
        let mut keys = Vec::with_capacity(rows.len());
        for mut row in rows {
            keys.push(bytes(&mut row, 0));
            live += u64::from(flag(&row, 1));
        }
        let next = keys.last().filter(|_| full).cloned();
        change(connection, Statement::Delete, keys).await?;
        connection.commit().await?;
        Ok(Cleared { live, next })
    }
}

/// Deletes up to this many expired entries.
pub struct Sweep(pub u32);

impl Work for Sweep {
    type Answer = u64;

    async fn attempt(&mut self, connection: &mut Connection) -> Result<u64, Failure> {
        // Without a lock. An entry that is written meanwhile is kept.
        let rows = connection.rows(Statement::Expired, vec![self.0.into()]).await?;
        let mut keys: Vec<Vec<u8>> = rows.into_iter().map(|mut row| bytes(&mut row, 0)).collect();
        keys.sort_unstable();
        let mut count = 0;
        for some in keys.chunks(MOST) {
            connection.begin().await?;
            let some = filled(some);
            let rows = connection.rows(Statement::Claim(some.len()), some).await?;
            let claimed = rows.into_iter().map(|mut row| bytes(&mut row, 0)).collect();
            count += change(connection, Statement::Delete, claimed).await?;
            connection.commit().await?;
        }
        Ok(count)
    }
}

/// Runs a statement about keys, in as many parts as needed. Returns how many
/// rows it changed.
async fn change(
    connection: &mut Connection,
    statement: impl Fn(usize) -> Statement + Send,
    keys: Vec<Vec<u8>>,
) -> Result<u64, Failure> {
    let mut count = 0;
    for some in keys.chunks(MOST) {
        let values = filled(some);
        count += connection.change(statement(values.len()), values).await?;
    }
    Ok(count)
}

/// Keys for a statement of one of the usual sizes, with the last one repeated.
fn filled(keys: &[Vec<u8>]) -> Vec<Value> {
    let mut values: Vec<Value> = keys.iter().map(|key| Value::Bytes(key.clone())).collect();
    if let Some(last) = values.last().cloned() {
        values.resize(padded(keys.len()), last);
    }
    values
}
