//! How entries are read, and the calling thread's connection.

use super::super::key;
use super::super::row::{Row, Stored, reply};
use super::{Connection, Shared};
use crate::kv::{Key, Millis, Outcome, Result, now};
use crate::stores::database::{self, Snapshot};
use denokv_proto::Versionstamp;
use rusqlite::{OptionalExtension, Statement, params};
use tokio::sync::Notify;

const GET: &str = "SELECT v, v_encoding, version, expiration_ms FROM kv WHERE k = ?1";

const RANGE: &str = "SELECT v, v_encoding, version, expiration_ms, k FROM kv \
    WHERE k >= ?1 AND k < ?2 ORDER BY k LIMIT ?3";

/// For the calling thread, which never waits for a lock.
pub struct Reader(Snapshot);

impl Reader {
    pub fn open(shared: &Shared) -> Result<Self> {
        let connection = shared.file.open_for_reading(shared.busy_timeout)?;
        let snapshot = Snapshot::new(connection, GET).and_then(Snapshot::without_waiting);
        snapshot.map(Self).map_err(|error| database::error(&error))
    }

    /// `get`, if it can be answered now. Notifies `held` when there is a
    /// transaction to [let go](Self::let_go).
    pub fn get(&mut self, key: &Key, held: &Notify) -> rusqlite::Result<Outcome> {
        let bytes = match key::encode(key) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error)),
        };
        let row = self.0.get(self.0.header(), held, |get| select(get, &bytes))?;
        Ok(reply(key.clone(), row.as_ref()))
    }

    /// Lets `body` read the latest state.
    pub fn read<T>(&mut self, body: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.0.read(body)
    }

    pub fn let_go(&mut self) {
        self.0.let_go();
    }
}

pub fn row(connection: &Connection, key: &[u8]) -> rusqlite::Result<Option<Row>> {
    select(&mut *connection.prepare_cached(GET)?, key)
}

/// Shows the rows from `start` to before `end` one by one, at most `limit`, until
/// `body` returns false.
pub fn range(
    connection: &Connection,
    (start, end): (&[u8], &[u8]),
    limit: u32,
    mut body: impl FnMut(&[u8], Row) -> bool,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(RANGE)?;
    let mut rows = statement.query(params![start, end, limit])?;
    let now = now();
    while let Some(row) = rows.next()? {
        // A range from blob to blob has no keys of other types.
        let key = row.get_ref(4)?.as_blob().unwrap_or_default();
        if !body(key, read(row, now)?) {
            break;
        }
    }
    Ok(())
}

fn select(get: &mut Statement<'_>, key: &[u8]) -> rusqlite::Result<Option<Row>> {
    let now = now();
    get.query_row([key], |row| read(row, now)).optional()
}

fn read(row: &rusqlite::Row<'_>, now: Millis) -> rusqlite::Result<Row> {
    let expires: Millis = row.get(3)?;
    Ok(Row {
        value: Stored::from_encoding(row.get_ref(0)?.as_blob().unwrap_or_default(), row.get(1)?),
        stamp: versionstamp(row.get(2)?),
        // Deno writes -1 for an entry that never expires.
        live: expires < 0 || expires > now,
    })
}

/// The form of a version that programs see.
fn versionstamp(version: i64) -> Versionstamp {
    let mut stamp = Versionstamp::default();
    stamp[..8].copy_from_slice(&version.to_be_bytes());
    stamp
}
