//! Walks over many entries: a page of a list, a slice of a `clear`, a batch of
//! a sweep.

use super::answer::Parameter;
use super::failure::Failure;
use super::parts::{filled, split};
use super::session::Session;
use super::statements::{Bound, Statement, padded};
use crate::kv::Prefix;
use crate::stores::served::{Cleared, Cursor, Row, Rows};

/// The greatest text, which sorts after every key.
const LAST: &str = "\u{10ffff}";

/// Where a page ends, in bytes, if the entries are much larger than those before.
const MOST_BYTES: usize = 4 * 1024 * 1024;

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

    fn values(&self) -> [Parameter<'_>; 3] {
        [
            Parameter::Text(&self.first),
            Parameter::Text(&self.last),
            Parameter::Number(self.entries.into()),
        ]
    }

    /// Reads entries, fewer if these have many bytes.
    pub async fn read(&self, session: &mut Session) -> Result<Rows, Failure> {
        let statement = Statement::Page(self.bound);
        let (found, all) = session.rows_until(statement, &self.values(), MOST_BYTES).await?;
        let more = !all || found.len() == self.entries as usize;
        let mut rows = Rows {
            rows: Vec::with_capacity(found.len()),
            next: None,
        };
        for mut row in found {
            let key = row.bytes(0);
            if row.flag(2) {
                rows.rows.push(Row {
                    key: String::from_utf8(key.clone()).ok(),
                    value: row.text(1),
                });
            }
            rows.next = Some(key).filter(|_| more);
        }
        Ok(rows)
    }

    /// Deletes entries.
    pub async fn clear(&self, session: &mut Session) -> Result<Cleared, Failure> {
        session.begin().await?;
        let rows = session.rows(Statement::Slice(self.bound), &self.values()).await?;
        let full = rows.len() == self.entries as usize;
        let mut live = 0;
        let mut keys = Vec::with_capacity(rows.len());
        for mut row in rows {
            keys.push(row.bytes(0));
            live += u64::from(row.flag(1));
        }
        let next = keys.last().filter(|_| full).cloned();
        delete(session, &keys).await?;
        session.commit().await?;
        Ok(Cleared { live, next })
    }
}

/// Deletes up to so many expired entries.
pub async fn sweep(session: &mut Session, entries: u32) -> Result<u64, Failure> {
    // Without a lock. An entry that is written meanwhile is kept.
    let rows = session
        .rows(Statement::Expired, &[Parameter::Number(entries.into())])
        .await?;
    let mut keys: Vec<Vec<u8>> = rows.into_iter().map(|mut row| row.bytes(0)).collect();
    keys.sort_unstable();
    let mut count = 0;
    let mut rest = &keys[..];
    while !rest.is_empty() {
        let (some, more) = split(rest, session);
        rest = more;
        session.begin().await?;
        let rows = session
            .rows(Statement::Claim(padded(some.len())), &filled(some))
            .await?;
        let claimed: Vec<Vec<u8>> = rows.into_iter().map(|mut row| row.bytes(0)).collect();
        count += delete(session, &claimed).await?;
        session.commit().await?;
    }
    Ok(count)
}

/// Deletes entries. Returns how many there were.
async fn delete(session: &mut Session, keys: &[Vec<u8>]) -> Result<u64, Failure> {
    let mut count = 0;
    let mut rest = keys;
    while !rest.is_empty() {
        let (some, more) = split(rest, session);
        rest = more;
        count += session
            .change(Statement::Delete(padded(some.len())), &filled(some))
            .await?;
    }
    Ok(count)
}
