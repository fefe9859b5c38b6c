//! What one transaction of the writer does for a group of jobs. One sync to disk
//! serves the whole group.

use super::super::batch::{Batch, Change, Op, keys_read};
use super::reader::row;
use super::writer::Writer;
use super::{Connection, Shared, internal};
use crate::kv::{Command, Error, Millis, Outcome, Result};
use crate::stores::database;
use crate::stores::database::queue::Queued;
use denokv_proto::VALUE_ENCODING_V8;
use rand::Rng;
use rusqlite::params;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Jobs in one transaction at most, and bytes of values, more or less.
pub const GROUP: usize = 1024;
pub const GROUP_BYTES: usize = 16 * 1024 * 1024;

/// Deno stores as an entry's version the number of the write that it comes from.
/// The numbers go up in steps of any size.
const NEXT_VERSION: &str = "UPDATE data_version SET version = version + ?1 WHERE k = 0 RETURNING version";

const PUT: &str = "INSERT INTO kv (k, v, v_encoding, version, expiration_ms) VALUES (?1, ?2, ?3, ?4, ?5) \
    ON CONFLICT (k) DO UPDATE SET v = ?2, v_encoding = ?3, version = ?4, expiration_ms = ?5";

const DELETE: &str = "DELETE FROM kv WHERE k = ?1";

/// Why a group has no outcomes.
pub enum Failure {
    /// Nothing was carried out: another process holds the lock.
    Locked(Error),
    /// Nothing was carried out, and none of it can be now.
    All(Error),
    /// Nothing was carried out, maybe because of one job of many.
    Apart(Error),
    /// The commit failed, and may be found done later. With what the outcomes
    /// would have been.
    Unknown(Error, Vec<Outcome>),
}

impl Failure {
    /// Of a transaction that is rolled back.
    fn before(error: &rusqlite::Error) -> Self {
        let is_busy = database::is_busy(error);
        let error = database::error(error);
        if is_busy {
            Self::Locked(error)
        } else {
            Self::Apart(error)
        }
    }

    /// For a job that is alone in its transaction.
    pub fn into_error(self) -> Error {
        match self {
            Self::Locked(error) | Self::All(error) | Self::Apart(error) => error,
            Self::Unknown(error, _) => error.with_unknown_outcome(),
        }
    }
}

impl Writer {
    pub fn transact(&mut self, group: &[Queued]) -> Result<Vec<Outcome>, Failure> {
        let shared = Arc::clone(&self.shared);
        let open = self.open.as_ref().ok_or(Failure::All(Error::Closed))?;
        let writes = !group.iter().all(is_get);
        let mut expires = None;
        let outcomes = transaction(&open.connection, &shared, writes, |connection| {
            let ops: Vec<_> = group
                .iter()
                .map(|queued| Op::new(queued.entry_command().ok_or_else(internal)?))
                .collect();
            let keys = keys_read(ops.iter().flatten());
            let rows = keys.iter().map(|key| row(connection, key));
            let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let mut batch = Batch::new(keys.into_iter().zip(rows));
            let outcomes = batch.run_all(&ops);
            expires = apply(connection, batch.changes())?;
            Ok(outcomes)
        })?;
        if let Some(deadline) = expires {
            self.sweep_by(deadline);
        }
        Ok(outcomes)
    }
}

pub fn is_get(queued: &Queued) -> bool {
    matches!(queued.entry_command(), Some(Command::Get(_)))
}

/// Runs `body`, whose outcomes are given back once it is committed.
pub fn transaction(
    connection: &Connection,
    shared: &Shared,
    writes: bool,
    body: impl FnOnce(&Connection) -> rusqlite::Result<Vec<Outcome>>,
) -> Result<Vec<Outcome>, Failure> {
    shared.file.check().map_err(Failure::All)?;
    connection
        .execute_batch(if writes { "BEGIN IMMEDIATE" } else { "BEGIN" })
        .map_err(|error| Failure::before(&error))?;
    let run = catch_unwind(AssertUnwindSafe(|| {
        body(connection).map_err(|error| Failure::before(&error))
    }));
    let outcomes = run
        .unwrap_or_else(|_| Err(Failure::Apart(internal())))
        .inspect_err(|_| connection.roll_back())?;
    if let Err(error) = connection.commit() {
        connection.roll_back();
        return Err(if database::may_have_committed(&error) {
            Failure::Unknown(database::error(&error), outcomes)
        } else {
            Failure::before(&error)
        });
    }
    match shared.file.check() {
        Err(error) if writes => Err(Failure::Unknown(error, outcomes)),
        _ => Ok(outcomes),
    }
}

/// Makes changes within a transaction. Returns when the first of the entries
/// expires that were written, if any does.
pub fn apply<'a>(
    connection: &Connection,
    changes: impl IntoIterator<Item = Change<'a>>,
) -> rusqlite::Result<Option<Millis>> {
    let mut changes = changes.into_iter().peekable();
    if changes.peek().is_none() {
        return Ok(None);
    }
    let version = next_version(connection)?;
    let mut put = connection.prepare_cached(PUT)?;
    let mut delete = connection.prepare_cached(DELETE)?;
    let mut first: Option<Millis> = None;
    for Change {
        key, value, expires, ..
    } in changes
    {
        match value {
            Some(value) => put.execute(params![key, value, VALUE_ENCODING_V8, version, expires.unwrap_or(-1)])?,
            None => delete.execute([key])?,
        };
        first = first.into_iter().chain(expires).min();
    }
    Ok(first)
}

pub fn next_version(connection: &Connection) -> rusqlite::Result<i64> {
    let step: i64 = rand::thread_rng().gen_range(1..10);
    connection
        .prepare_cached(NEXT_VERSION)?
        .query_row([step], |row| row.get(0))
}
