//! How entries are read.

use super::super::row::{Row, Stored};
use crate::kv::{Millis, now};
use denokv_proto::Versionstamp;
use rusqlite::{OptionalExtension, Result, Statement, params};

/// Gets an entry by its key, given the time.
pub const GET: &str = "SELECT k, expiration_ms < 0 OR expiration_ms > ?2, v, v_encoding, version, expiration_ms \
    FROM kv WHERE k = ?1";

/// Gets the entries of a range: from, to before, how many at most, and the time.
pub const RANGE: &str = "SELECT k, expiration_ms < 0 OR expiration_ms > ?4, v, v_encoding, version \
    FROM kv WHERE k >= ?1 AND k < ?2 ORDER BY k LIMIT ?3";

/// Runs [`GET`]. Returns also when the entry expires; Deno writes a negative
/// number for never.
pub fn select(get: &mut Statement<'_>, key: &[u8]) -> Result<Option<(Row, Millis)>> {
    get.query_row(params![key, now()], |row| Ok((read(row)?, row.get(5)?)))
        .optional()
}

/// The key of a row of either statement. A range from blob to blob has no keys of
/// other types.
pub fn key<'r>(row: &'r rusqlite::Row<'_>) -> Result<&'r [u8]> {
    Ok(row.get_ref(0)?.as_blob().unwrap_or_default())
}

/// Whether a row's entry has not expired.
pub fn is_live(row: &rusqlite::Row<'_>) -> Result<bool> {
    row.get(1)
}

pub fn read(row: &rusqlite::Row<'_>) -> Result<Row> {
    Ok(Row {
        value: Stored::from_encoding(row.get_ref(2)?.as_blob().unwrap_or_default(), row.get(3)?),
        stamp: versionstamp(row.get(4)?),
        live: is_live(row)?,
    })
}

/// The form of a version that programs see.
fn versionstamp(version: i64) -> Versionstamp {
    let mut stamp = Versionstamp::default();
    stamp[..8].copy_from_slice(&version.to_be_bytes());
    stamp
}
