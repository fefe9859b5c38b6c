//! Deno's engine in its two forms, behind what the worker needs of it.

use super::reader::{self, Reader};
use super::remote::Remote;
use super::row::{Row, Rows};
use super::{Shared, Target};
use crate::kv::{Error, Result};
use crate::stores::database::{self, Checkpoints, Claim, DatabaseFile, Durability};
use deno_error::JsErrorBox;
use denokv_proto::{AtomicWrite, AtomicWriteOutcome};
use denokv_sqlite::{Sqlite, SqliteBackendError, SqliteConfig, SqliteCreateError, SqliteNotifier};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A log of so many pages (of 4 KiB) is more than checkpoints keep up with: the
/// engine helps.
const MOST_PAGES: u32 = 10_000;

pub enum Engine {
    Local(Local),
    Remote(Remote),
}

/// What became of a write.
pub enum Written {
    Done,
    /// Nothing: an entry is not what it was.
    Conflict,
    /// Nothing: another process is writing.
    Busy,
}

/// What fits into one atomic write.
#[derive(Clone, Copy)]
pub struct Limits {
    pub operations: usize,
    /// Of those, how many may depend on what is stored.
    pub checks: usize,
    pub bytes: usize,
}

impl Engine {
    pub async fn open(shared: &Arc<Shared>) -> Result<Self> {
        match &shared.target {
            Target::Local(file) => Local::open(shared, file).map(Self::Local),
            Target::Remote(server) => {
                let remote = Remote::new(server, shared.options.command_timeout)?;
                remote.reach().await?;
                Ok(Self::Remote(remote))
            }
        }
    }

    pub fn limits(target: &Target) -> Limits {
        match target {
            Target::Local(_) => Limits {
                operations: 1000,
                checks: 1000,
                bytes: 16 * 1024 * 1024,
            },
            // The protocol's, less what surrounds a value.
            Target::Remote(_) => Limits {
                operations: 1000,
                checks: 10,
                bytes: 700_000,
            },
        }
    }

    /// What is stored under each of the keys.
    pub async fn rows(&self, keys: &[&[u8]]) -> Result<Vec<Option<Row>>> {
        match self {
            Self::Local(local) => local.rows(keys),
            Self::Remote(remote) => remote.rows(keys).await,
        }
    }

    pub async fn range(&self, start: &[u8], end: &[u8], limit: u32) -> Result<Rows> {
        match self {
            Self::Local(local) => local.range(start, end, limit),
            Self::Remote(remote) => remote.range(start, end, limit).await,
        }
    }

    pub async fn write(&self, write: AtomicWrite) -> Result<Written> {
        match self {
            Self::Local(local) => local.write(write).await,
            Self::Remote(remote) => Ok(if remote.write(write).await? {
                Written::Done
            } else {
                Written::Conflict
            }),
        }
    }
}

/// A file, or memory.
pub struct Local {
    shared: Arc<Shared>,
    sqlite: Sqlite,
    checkpoints: Mutex<Checkpoints>,
    /// Given up after the engine's connection is closed.
    claim: Option<Claim>,
}

impl Local {
    fn open(shared: &Arc<Shared>, file: &Arc<DatabaseFile>) -> Result<Self> {
        let busy_timeout = shared.options.busy_timeout;
        let database = file.open_for_writing(Durability::Full, busy_timeout)?;
        database
            .pragma_update(None, "wal_autocheckpoint", MOST_PAGES)
            .map_err(|error| database::error(&error))?;
        let (connection, claim) = database.into_parts();
        let mut connection = Some(connection);
        let sqlite = Sqlite::new(
            || {
                let connection = connection
                    .take()
                    .ok_or_else(|| JsErrorBox::generic("there is one connection"))?;
                Ok((connection, Box::new(StdRng::from_entropy())))
            },
            SqliteNotifier::default(),
            SqliteConfig {
                num_workers: 1,
                batch_timeout: None,
            },
        )
        .map_err(|error| match error {
            SqliteCreateError::SqliteBackend(SqliteBackendError::SqliteError(error)) => match database::error(&error) {
                Error::Backend(why) => Error::Connection(format!("{}: {why}", file.location())),
                other => other,
            },
            other => Error::Connection(format!("{}: {other}", file.location())),
        })?;
        let engine = Self {
            shared: Arc::clone(shared),
            sqlite,
            checkpoints: Checkpoints::new(file, Durability::Full).into(),
            claim,
        };
        *shared.list_reader.lock() = Some(Reader::open(file, busy_timeout)?);
        *shared.reader.lock() = Some(Reader::open(file, busy_timeout)?.without_waiting()?);
        Ok(engine)
    }

    fn rows(&self, keys: &[&[u8]]) -> Result<Vec<Option<Row>>> {
        reader::with(&self.shared.list_reader, |reader| {
            keys.iter().map(|key| reader.row(key)).collect()
        })
    }

    fn range(&self, start: &[u8], end: &[u8], limit: u32) -> Result<Rows> {
        let mut rows = Vec::new();
        reader::with(&self.shared.list_reader, |reader| {
            reader.range(start, end, limit, |key, row| {
                rows.push((key.to_vec(), row));
                true
            })
        })?;
        Ok(rows)
    }

    async fn write(&self, write: AtomicWrite) -> Result<Written> {
        match self.sqlite.atomic_write(write).await {
            Ok(AtomicWriteOutcome::Committed(_)) => Ok(Written::Done),
            Ok(AtomicWriteOutcome::CheckFailed { .. }) => Ok(Written::Conflict),
            Err(SqliteBackendError::SqliteError(error)) if database::is_busy(&error) => Ok(Written::Busy),
            Err(SqliteBackendError::SqliteError(error)) => Err(database::error(&error)),
            Err(other) => Err(Error::Backend(other.to_string())),
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        *self.shared.reader.lock() = None;
        *self.shared.list_reader.lock() = None;
        self.checkpoints.lock().wait();
        // It waits for its thread, and panics if that did.
        let _ = catch_unwind(AssertUnwindSafe(|| self.sqlite.close()));
        self.claim = None;
    }
}
