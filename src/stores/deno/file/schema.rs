//! Deno KV's tables, which are created or brought up to date as Deno does it.

use crate::kv::{Error, Result};
use crate::stores::database::{Connection, is_missing_table};
use rusqlite::OptionalExtension;

/// Deno's versions of the tables. The table `migration_state` has the number of
/// the last one that was applied.
pub const VERSIONS: [(u32, &str); 3] = [
    (
        1,
        "CREATE TABLE data_version (k INTEGER PRIMARY KEY, version INTEGER NOT NULL);
     INSERT INTO data_version (k, version) VALUES (0, 0);
     CREATE TABLE kv (
       k BLOB PRIMARY KEY,
       v BLOB NOT NULL,
       v_encoding INTEGER NOT NULL,
       version INTEGER NOT NULL
     ) WITHOUT ROWID;",
    ),
    (
        2,
        "CREATE TABLE queue (
       ts INTEGER NOT NULL,
       id TEXT NOT NULL,
       data BLOB NOT NULL,
       backoff_schedule TEXT NOT NULL,
       keys_if_undelivered BLOB NOT NULL,
       PRIMARY KEY (ts, id)
     );
     CREATE TABLE queue_running (
       deadline INTEGER NOT NULL,
       id TEXT NOT NULL,
       data BLOB NOT NULL,
       backoff_schedule TEXT NOT NULL,
       keys_if_undelivered BLOB NOT NULL,
       PRIMARY KEY (deadline, id)
     );",
    ),
    (
        3,
        "ALTER TABLE kv ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE data_version ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
     ALTER TABLE kv ADD COLUMN expiration_ms INTEGER NOT NULL DEFAULT -1;
     CREATE INDEX kv_expiration_ms_idx ON kv (expiration_ms);",
    ),
];

pub fn create(connection: &Connection) -> Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS migration_state (
           k INTEGER NOT NULL PRIMARY KEY,
           version INTEGER NOT NULL
         )",
    )?;
    for (version, statements) in later_versions(connection)? {
        connection.execute_batch(statements)?;
        connection.execute("REPLACE INTO migration_state (k, version) VALUES (0, ?1)", [version])?;
    }
    Ok(())
}

/// The versions that come after that of the tables.
pub fn later_versions(connection: &Connection) -> Result<&'static [(u32, &'static str)]> {
    let found = connection
        .query_row("SELECT version FROM migration_state WHERE k = 0", [], |row| {
            row.get::<_, u32>(0)
        })
        .optional()
        .map_err(Error::from);
    let version = match found {
        Err(error) if is_missing_table(&error) => 0,
        found => found?.unwrap_or_default(),
    };
    let first = VERSIONS.partition_point(|(number, _)| *number <= version);
    Ok(&VERSIONS[first..])
}
