//! The statements of one transaction of the writer on single entries.

use super::super::batch::{Batch, Change, Op, keys_read};
use super::rows::{GET, select};
use crate::kv::{Command, Millis, Result};
use crate::stores::database::{Connection, Done};
use denokv_proto::VALUE_ENCODING_V8;
use rand::Rng;
use rusqlite::params;

/// Deno stores as an entry's version the number of the write that it comes from.
/// The numbers go up in steps of any size.
const NEXT_VERSION: &str = "UPDATE data_version SET version = version + ?1 WHERE k = 0 RETURNING version";

const PUT: &str = "INSERT INTO kv (k, v, v_encoding, version, expiration_ms) VALUES (?1, ?2, ?3, ?4, ?5) \
    ON CONFLICT (k) DO UPDATE SET v = ?2, v_encoding = ?3, version = ?4, expiration_ms = ?5";

const DELETE: &str = "DELETE FROM kv WHERE k = ?1";

pub fn run(connection: &Connection, commands: &[&Command]) -> Result<Done> {
    let ops: Vec<_> = commands.iter().map(|command| Op::new(command)).collect();
    let keys = keys_read(ops.iter().flatten());
    let mut get = connection.prepare_cached(GET)?;
    let rows = keys.iter().map(|key| Ok(select(&mut get, key)?.map(|(row, _)| row)));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let mut batch = Batch::new(keys.into_iter().zip(rows));
    let outcomes = batch.run_all(&ops);
    let first_expiry = apply(connection, batch.changes())?;
    Ok(Done { outcomes, first_expiry })
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
