//! The table: made when it is missing, looked at when it is there, dropped.

use super::writer::{Open, Writer};
use super::{Connection, Shared};
use crate::kv::{Error, Result};
use crate::stores::database::{self, Snapshot, WalIndex};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Writer {
    /// Makes sure that the path still names the file. Opens the database and makes
    /// sure of the table, if that is still to be done.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`]; [`Error::Timeout`] while another process holds a lock
    /// that is needed.
    pub fn ready(&mut self) -> Result<()> {
        guard(|| self.make_ready())
    }

    fn make_ready(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        shared.file.check()?;
        let open = self.opened()?;
        if !open.table {
            let needed = shared.creates() && !is_complete(&open.connection, &shared)?;
            if needed {
                open.connection
                    .execute_batch("BEGIN IMMEDIATE")
                    .map_err(|error| database::error(&error))?;
                let created = create_table(&open.connection, &shared)
                    .and_then(|()| open.connection.commit().map_err(|error| database::error(&error)));
                if created.is_err() {
                    open.connection.roll_back();
                }
                created?;
            }
            open.table = true;
            open.wal = WalIndex::of(&open.connection);
            self.sweep_soon();
        }
        if !shared.open.load(Ordering::Acquire) {
            self.open_snapshot();
        }
        Ok(())
    }

    fn opened(&mut self) -> Result<&mut Open> {
        let open = if let Some(open) = self.open.take() {
            open
        } else {
            let options = &self.shared.options;
            let connection = self
                .shared
                .file
                .open_for_writing(options.durability, options.busy_timeout)?;
            Open {
                wal: None,
                connection,
                table: false,
            }
        };
        Ok(self.open.insert(open))
    }

    /// Opens the calling thread's connection. Where that fails, the writer does
    /// the reading until it succeeds.
    fn open_snapshot(&mut self) {
        let shared = &self.shared;
        let opened = shared
            .file
            .open_for_reading(shared.options.busy_timeout)
            .and_then(|connection| {
                Snapshot::new(connection, &shared.sql.get)
                    .and_then(Snapshot::without_waiting)
                    .map_err(|error| database::error(&error))
            });
        if let Ok(snapshot) = opened {
            *shared.snapshot.lock() = Some(snapshot);
            shared.open.store(true, Ordering::Release);
        }
    }

    pub fn close_snapshot(&mut self) {
        self.shared.open.store(false, Ordering::Release);
        let snapshot = self.shared.snapshot.lock().take();
        drop(snapshot);
        self.shared.recent.clear();
        self.release_at = None;
    }

    /// # Errors
    ///
    /// [`Error::Timeout`] while another process holds the lock.
    pub fn drop_table(&mut self) -> Result<()> {
        guard(|| {
            self.close_snapshot();
            self.sweep_at = None;
            let shared = Arc::clone(&self.shared);
            let open = self.opened()?;
            shared.file.check()?;
            open.table = false;
            open.connection
                .execute_batch("BEGIN IMMEDIATE")
                .map_err(|error| database::error(&error))?;
            let dropped = open
                .connection
                .execute_batch(&shared.sql.drop_table)
                .map_err(|error| database::error(&error));
            let committed = dropped.and_then(|()| commit(&open.connection, &shared));
            if committed.is_err() {
                open.connection.roll_back();
            }
            committed?;
            shared.creates.store(true, Ordering::Release);
            Ok(())
        })
    }
}

/// Commits what is no group's. The error says whether it may have been done.
pub fn commit(connection: &Connection, shared: &Shared) -> Result<()> {
    match connection.commit() {
        Ok(()) => shared.file.check().map_err(Error::with_unknown_outcome),
        Err(error) if database::may_have_committed(&error) => Err(database::error(&error).with_unknown_outcome()),
        Err(error) => Err(database::error(&error)),
    }
}

impl Shared {
    pub fn creates(&self) -> bool {
        self.creates.load(Ordering::Acquire)
    }
}

/// Creates the table, within a transaction.
pub fn create_table(connection: &Connection, shared: &Shared) -> Result<()> {
    let run = |sql: &str| connection.execute_batch(sql).map_err(|error| database::error(&error));
    run(&shared.sql.create_table)?;
    check_columns(&columns(connection, shared)?, shared)?;
    run(&shared.sql.create_index)
}

/// Whether the table and its index are there, which takes no lock to find out.
fn is_complete(connection: &Connection, shared: &Shared) -> Result<bool> {
    let columns = columns(connection, shared)?;
    if columns.is_empty() {
        return Ok(false);
    }
    check_columns(&columns, shared)?;
    connection
        .query_row(&shared.sql.has_index, [], |row| row.get(0))
        .map_err(|error| database::error(&error))
}

fn columns(connection: &Connection, shared: &Shared) -> Result<Vec<String>> {
    let read = || {
        let mut statement = connection.prepare(&shared.sql.columns)?;
        let columns = statement.query_map([], |row| row.get(0))?;
        columns.collect::<rusqlite::Result<_>>()
    };
    read().map_err(|error| database::error(&error))
}

/// A table of that name may be another program's.
fn check_columns(columns: &[String], shared: &Shared) -> Result<()> {
    let missing: Vec<_> = ["key", "value", "created", "expires"]
        .into_iter()
        .filter(|needed| !columns.iter().any(|column| column.eq_ignore_ascii_case(needed)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Backend(format!(
        "the table {:?} in {} is not a key–value table of Fedify's: it lacks {}. Choose another tableName",
        shared.options.table,
        shared.file.location(),
        missing.join(", ")
    )))
}

pub fn internal() -> Error {
    Error::Backend("internal error in the SQLite store".into())
}

/// A panic is an outcome like any other: the thread must go on.
pub fn guard<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(internal()))
}
