//! A connection of ours to the engine's database, which only reads. It sees
//! what the engine's own reads don't tell: when an entry expires.

use super::key;
use super::row::{Row, Stored, reply};
use crate::kv::{Error, Key, Millis, Outcome, Result, now};
use crate::stores::database::{self, DatabaseFile, Snapshot};
use denokv_proto::Versionstamp;
use parking_lot::Mutex;
use rusqlite::{OptionalExtension, Statement, params};
use std::time::Duration;
use tokio::sync::Notify;

const GET: &str = "SELECT v, v_encoding, version, expiration_ms FROM kv WHERE k = ?1";

const RANGE: &str = "SELECT v, v_encoding, version, expiration_ms, k FROM kv \
    WHERE k >= ?1 AND k < ?2 ORDER BY k LIMIT ?3";

pub struct Reader(Snapshot);

impl Reader {
    pub fn open(file: &DatabaseFile, busy_timeout: Duration) -> Result<Self> {
        let snapshot = Snapshot::new(file.open_for_reading(busy_timeout)?, GET);
        snapshot.map(Self).map_err(|error| database::error(&error))
    }

    /// For the calling thread, where nobody waits.
    pub fn without_waiting(self) -> Result<Self> {
        let snapshot = self.0.without_waiting();
        snapshot.map(Self).map_err(|error| database::error(&error))
    }

    /// `get`, where it can be answered here and now. Tells when there is a
    /// transaction to [let go](Self::let_go).
    pub fn get(&mut self, key: &Key, held: &Notify) -> rusqlite::Result<Outcome> {
        let bytes = match key::encode(key) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error)),
        };
        let row = self.0.get(self.0.header(), held, |get| select(get, &bytes))?;
        Ok(reply(key.clone(), row.as_ref()))
    }

    pub fn let_go(&mut self) {
        self.0.let_go();
    }

    pub fn row(&mut self, key: &[u8]) -> rusqlite::Result<Option<Row>> {
        self.0.read(|database| select(&mut *database.prepare_cached(GET)?, key))
    }

    /// Shows the rows from `start` to before `end` one by one, at most `limit`,
    /// until `body` has had enough.
    pub fn range(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: u32,
        mut body: impl FnMut(&[u8], Row) -> bool,
    ) -> rusqlite::Result<()> {
        self.0.read(|database| {
            let mut statement = database.prepare_cached(RANGE)?;
            let mut rows = statement.query(params![start, end, limit])?;
            let now = now();
            while let Some(row) = rows.next()? {
                // No other type of key is ever in a range of keys.
                let key = row.get_ref(4)?.as_blob().unwrap_or_default();
                if !body(key, read(row, now)?) {
                    break;
                }
            }
            Ok(())
        })
    }
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
        // As the engine has it: what is negative never expires.
        live: expires < 0 || expires > now,
    })
}

/// The engine numbers its writes, and calls the number so.
fn versionstamp(version: i64) -> Versionstamp {
    let mut stamp = Versionstamp::default();
    stamp[..8].copy_from_slice(&version.to_be_bytes());
    stamp
}

/// Reads with a connection that may be gone.
pub fn with<T>(reader: &Mutex<Option<Reader>>, body: impl FnOnce(&mut Reader) -> rusqlite::Result<T>) -> Result<T> {
    match reader.lock().as_mut() {
        Some(reader) => body(reader).map_err(|error| database::error(&error)),
        None => Err(Error::Closed),
    }
}
