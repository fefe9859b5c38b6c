//! `clear`: deletes a prefix slice by slice, so that other writes don't wait for
//! all of it. Each slice is a transaction of its own, and has a lock's deadline
//! of its own.

use super::queue::{Queued, deliver};
use super::schema::{commit, create_table, guard};
use super::statements::Cursor;
use super::writer::{Step, Writer};
use super::{Connection, Shared};
use crate::kv::{Error, Prefix, Reply, Result, now};
use crate::stores::database;
use rusqlite::params;
use std::time::Duration;
use tokio::time::Instant;

/// Entries that are removed in one transaction, here and by expiry.
pub const SLICE: u32 = 256;

/// A `clear` under way.
pub struct Clearing {
    queued: Queued,
    pub prefix: Prefix,
    after: Cursor,
    last: Cursor,
    count: u64,
    /// When the last slice was deleted.
    progress: Option<Instant>,
}

/// What became of a slice.
struct Slice {
    live: u64,
    /// The last key of a full slice.
    next: Option<Cursor>,
}

impl Clearing {
    pub fn new(prefix: Prefix, queued: Queued) -> Self {
        let (after, last) = prefix.json_range().unwrap_or_default();
        Self {
            queued,
            prefix,
            after: Cursor::from(after),
            last: Cursor::from(last),
            count: 0,
            progress: None,
        }
    }

    /// Whether its next slice has waited long enough for a lock.
    pub fn is_late(&self, blocked: Instant, patience: Duration) -> bool {
        match self.progress {
            Some(progress) => progress.max(blocked).elapsed() >= patience,
            None => self.queued.is_late(blocked, patience),
        }
    }

    pub fn fail(self, error: Error) {
        let error = match (error, self.count) {
            (error, 0) => error,
            (Error::Timeout(why), count) => Error::Timeout(already(&why, count)),
            (Error::Connection(why), count) => Error::Connection(already(&why, count)),
            (Error::Backend(why), count) => Error::Backend(already(&why, count)),
            (error, _) => error,
        };
        self.queued.fail(error);
    }
}

fn already(why: &str, count: u64) -> String {
    format!("{why}; {count} entries were deleted before")
}

impl Writer {
    /// Deletes the next slice of the `clear` under way.
    pub fn clear_slice(&mut self) -> Step {
        let Some(mut clearing) = self.clearing.take() else {
            return Step::Done;
        };
        match guard(|| self.delete_slice(&clearing)) {
            Ok(Slice { live, next }) => {
                clearing.count += live;
                clearing.progress = Some(Instant::now());
                match next {
                    Some(next) => {
                        clearing.after = next;
                        self.clearing = Some(clearing);
                    }
                    None => deliver([(clearing.queued, Ok(Reply::Count(clearing.count)))]),
                }
            }
            Err(error @ Error::Timeout(_)) => {
                self.clearing = Some(clearing);
                return Step::Locked(error);
            }
            Err(error) => clearing.fail(error),
        }
        self.keep_log_short();
        Step::Done
    }

    fn delete_slice(&mut self, clearing: &Clearing) -> Result<Slice> {
        self.ready()?;
        let shared = self.shared.clone();
        let Some(open) = &self.open else {
            return Err(Error::Closed);
        };
        let connection = &open.connection;
        connection
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|error| database::error(&error))?;
        let slice = delete(connection, &shared, clearing).and_then(|slice| {
            commit(connection, &shared)?;
            Ok(slice)
        });
        if slice.is_err() {
            connection.roll_back();
        }
        slice
    }
}

fn delete(connection: &Connection, shared: &Shared, clearing: &Clearing) -> Result<Slice> {
    match delete_rows(connection, &shared.sql.clear, clearing) {
        // Another process has dropped the table.
        Err(error) if database::is_missing_table(&error) && shared.creates() => {
            create_table(connection, shared)?;
            Ok(Slice { live: 0, next: None })
        }
        slice => slice.map_err(|error| database::error(&error)),
    }
}

fn delete_rows(connection: &Connection, sql: &str, clearing: &Clearing) -> rusqlite::Result<Slice> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![clearing.after, clearing.last, SLICE, now()])?;
    let (mut deleted, mut live) = (0, 0);
    // RETURNING gives the rows in no particular order.
    let mut last = None;
    while let Some(row) = rows.next()? {
        last = last.max(Some(Cursor::from(row.get_ref(0)?)));
        live += u64::from(row.get::<_, bool>(1)?);
        deleted += 1;
    }
    Ok(Slice {
        live,
        next: last.filter(|_| deleted == SLICE),
    })
}
