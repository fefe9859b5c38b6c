//! Opening: the database and Deno KV's tables in it, which are created or brought
//! up to date as Deno does it.

use super::reader::Reader;
use super::writer::{Open, Writer};
use super::{Connection, guard};
use crate::kv::Result;
use crate::stores::database::{self, Durability, WalIndex};
use rusqlite::OptionalExtension;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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

impl Writer {
    /// Opens the database, if that is still to be done.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`](crate::kv::Error::Timeout) while another process holds a
    /// lock that is needed.
    pub fn ready(&mut self) -> Result<()> {
        guard(|| self.make_ready())
    }

    fn make_ready(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let open = if let Some(open) = self.open.take() {
            open
        } else {
            Open {
                wal: None,
                connection: shared.file.open_for_writing(Durability::Full, shared.busy_timeout)?,
                tables: false,
            }
        };
        let open = self.open.insert(open);
        if !open.tables {
            create_tables(&open.connection)?;
            open.tables = true;
            open.wal = WalIndex::of(&open.connection);
            self.sweep_soon();
        }
        if !shared.open.load(Ordering::Acquire) {
            // Where that fails, the writer does the reading until it succeeds.
            if let Ok(reader) = Reader::open(&shared) {
                *shared.reader.lock() = Some(reader);
                shared.open.store(true, Ordering::Release);
            }
        }
        Ok(())
    }
}

fn create_tables(connection: &Connection) -> Result<()> {
    let create = || {
        // It takes no lock to find out that all is there.
        if later_versions(connection)?.is_empty() {
            return Ok(());
        }
        connection.execute_batch("BEGIN IMMEDIATE")?;
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
        connection.commit()
    };
    create().map_err(|error| {
        connection.roll_back();
        database::error(&error)
    })
}

/// The versions that come after that of the tables.
fn later_versions(connection: &Connection) -> rusqlite::Result<&'static [(u32, &'static str)]> {
    let found = connection
        .query_row("SELECT version FROM migration_state WHERE k = 0", [], |row| {
            row.get::<_, u32>(0)
        })
        .optional();
    let version = match found {
        Err(error) if database::is_missing_table(&error) => 0,
        found => found?.unwrap_or_default(),
    };
    let first = VERSIONS.partition_point(|(number, _)| *number <= version);
    Ok(&VERSIONS[first..])
}
