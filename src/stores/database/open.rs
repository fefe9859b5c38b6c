//! Opening the database, and releasing it.

use super::transaction::{Failure, guard, transaction};
use super::writer::Writer;
use super::{Connection, Format, Location, WalIndex};
use crate::kv::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

/// What there is while the database is open. It stays so after errors: for a
/// database in memory, the connections are the data.
pub struct Open {
    /// Dropped before the connection that maps it.
    pub wal: Option<WalIndex>,
    pub connection: Connection,
    /// Whether the tables were seen to exist.
    pub complete: bool,
}

impl<F: Format> Writer<F> {
    /// Opens the database and makes sure of its tables, if that is still to be
    /// done.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] where the path names another file now;
    /// [`Error::Timeout`] while another process holds a lock that is needed.
    pub fn ready(&mut self) -> Result<(), Error> {
        guard(|| self.make_ready())
    }

    fn make_ready(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let (file, options) = (&shared.file, &shared.options);
        file.check()?;
        if self.open.is_none() {
            self.open = Some(Open {
                wal: None,
                connection: file.open_for_writing(options.durability, options.busy_timeout)?,
                complete: false,
            });
        }
        if let Some(open) = self.open.as_mut().filter(|open| !open.complete) {
            let connection = &open.connection;
            if !shared.format.is_complete(connection)? {
                transaction(connection, file, Some(options.durability), || {
                    shared.format.create(connection)
                })
                .map_err(|failure| {
                    match failure {
                        // It is done again with the next job; no job has run yet.
                        Failure::Unknown(error, ()) => error,
                        failure => failure.into_error(),
                    }
                })?;
            }
            open.complete = true;
            open.wal = WalIndex::of(connection);
            self.sweep_soon();
        }
        if !shared.open.load(Ordering::Acquire) {
            // Where that fails, the writer does the reading until it succeeds.
            shared.open_snapshot().unwrap_or_default();
        }
        Ok(())
    }

    /// Releases all that the store holds of the database.
    pub fn release(&mut self) {
        self.shared.release();
        // What it didn't move, closing the last connection does.
        self.checkpoints.wait();
        if let Some(Open { connection, .. }) = self.open.take() {
            self.shared.file.close(connection);
        }
    }
}

impl<F: Format> Drop for Writer<F> {
    /// After a panic, the next call starts a new writer. A database in memory
    /// stays for as long as the snapshot's connection to it.
    fn drop(&mut self) {
        let is_file = matches!(self.shared.file.location(), Location::File(_));
        if is_file || !thread::panicking() {
            self.release();
        }
    }
}
