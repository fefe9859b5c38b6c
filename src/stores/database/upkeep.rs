//! What the writer does between jobs: removes expired entries, ends the
//! transaction that the calling thread's reads hold open, keeps the log short.

use super::clear::SLICE;
use super::open::Open;
use super::transaction::{Failure, Kept, guard, transaction};
use super::writer::Writer;
use super::{Durability, Format, HOLD, Log};
use crate::kv::{Error, Millis, Result, now};
use std::time::Duration;
use tokio::time::Instant;

/// Expired entries are invisible at once. Their rows are removed at least this much
/// later, so that many are removed together.
const SHORTEST_SWEEP_DELAY: Duration = Duration::from_secs(1);

impl<F: Format> Writer<F> {
    pub fn sweep_soon(&mut self) {
        self.sweep_at = Some(Instant::now() + SHORTEST_SWEEP_DELAY);
    }

    /// Schedules a sweep for after a deadline.
    pub fn sweep_by(&mut self, deadline: Millis) {
        let wait = u64::try_from(deadline - now()).unwrap_or(0);
        let wait = Duration::from_millis(wait)
            .min(self.shared.options.sweep_interval)
            .max(SHORTEST_SWEEP_DELAY);
        let at = Instant::now() + wait;
        self.sweep_at = Some(self.sweep_at.map_or(at, |sweep_at| sweep_at.min(at)));
    }

    /// Removes a slice of the expired entries. Never waits for a lock: if it is
    /// taken, the sweep is tried again later.
    pub fn sweep_if_due(&mut self) {
        if self.sweep_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.sweep_at = None;
        let Some(open) = self.open.as_ref().filter(|open| open.complete) else {
            return;
        };
        match guard(|| self.sweep(open)) {
            Ok(Some(next)) if next <= now() => self.sweep_at = Some(Instant::now()),
            Ok(next) => self.sweep_by(next.unwrap_or(Millis::MAX)),
            Err(_) => self.sweep_soon(),
        }
        self.keep_log_short();
    }

    /// Returns when the next entry expires, if any does.
    fn sweep(&self, Open { connection, .. }: &Open) -> Result<Option<Millis>> {
        let format = &self.shared.format;
        self.shared.file.check()?;
        let now = now();
        let first = format.first_expiry(connection)?;
        if first.is_none_or(|first| first > now) {
            return Ok(first);
        }
        let sweep = || format.sweep(connection, now, SLICE);
        // A power loss may undo a sweep, which is harmless, so it needs no sync.
        transaction(connection, &self.shared.file, Some(Durability::Normal), sweep).map_err(Failure::into_error)?;
        format.first_expiry(connection)
    }

    /// Lets reads on the calling thread start a new transaction.
    pub fn release_if_due(&mut self) {
        if self.release_at.is_some_and(|at| at <= Instant::now()) {
            self.release_at = None;
            self.shared.release_snapshot();
        }
    }

    /// Reacts to events of other threads: reads keep a transaction open, there was
    /// a write, or a checkpoint has ended.
    pub fn hear(&mut self) {
        self.release_at = Some(Instant::now() + HOLD);
        if let Some(first) = self.shared.notes.take_first_expiry() {
            self.sweep_by(first);
        }
        let moved = self.checkpoints.have_moved_all();
        let wal = self.open.as_ref().and_then(|open| open.wal.as_ref());
        if self.checkpoints.have_news(wal) {
            self.keep_log_short();
        } else if moved {
            self.begin_log();
        }
    }

    pub fn checkpoint_if_due(&mut self) {
        if !self.checkpoints.are_due() {
            return;
        }
        self.shared.notes.listen();
        if let Some(first) = self.shared.notes.take_first_expiry() {
            self.sweep_by(first);
        }
        self.checkpoints
            .run(self.open.as_ref().and_then(|open| open.wal.as_ref()));
    }

    /// Starts the log over once all of it was moved. The first commit to a log
    /// syncs its header. That commit should be this one, not one that a caller
    /// waits for.
    fn begin_log(&mut self) {
        let Some(Open {
            connection,
            wal: Some(wal),
            ..
        }) = &self.open
        else {
            return;
        };
        if self.shared.file.check().is_err() {
            return;
        }
        self.shared.release_snapshot();
        let mut kept = None;
        let begun = transaction(connection, &self.shared.file, Some(Durability::Normal), || {
            kept = Kept::of(Some(wal), connection, &self.shared.recent);
            // Writes a page without changing it.
            let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            Ok(connection.pragma_update(None, "user_version", version)?)
        });
        // If this fails, the next write does it.
        if begun.is_ok() {
            self.checkpoints.begun(wal);
            if let Some(kept) = kept {
                kept.advance(connection, &self.shared.recent, [].into_iter());
            }
        }
    }

    /// Moves the log's content into the database while writes go on. If that can't
    /// keep up, writes wait.
    pub fn keep_log_short(&mut self) {
        let Some(Open { wal, connection, .. }) = &self.open else {
            return;
        };
        if self.checkpoints.wrote(wal.as_ref()) == Log::TooLong {
            // While a checkpoint is under way, SQLite refuses another one.
            self.checkpoints.wait();
            self.shared.release_snapshot();
            // As far as possible: a reader of another process may prevent some of it.
            connection
                .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
                .unwrap_or_default();
        }
    }

    /// Gives the space that deleted entries have left back to the file system.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] while another process holds the lock.
    pub fn compact(&mut self) -> Result<()> {
        self.ready()?;
        let connection = &self.open.as_ref().ok_or(Error::Closed)?.connection;
        guard(|| {
            connection.set_durability(self.shared.options.durability)?;
            let mode: i64 = connection.query_row("PRAGMA auto_vacuum", [], |row| row.get(0))?;
            if mode != INCREMENTAL {
                return Ok(connection.execute_batch("VACUUM")?);
            }
            // Such a file can shrink without being rewritten. Each step frees a page.
            let mut statement = connection.prepare("PRAGMA incremental_vacuum")?;
            let mut steps = statement.query([])?;
            while steps.next()?.is_some() {}
            Ok(())
        })?;
        // The file itself shrinks when the log's content is moved into it.
        self.checkpoints.wait();
        self.shared.release_snapshot();
        if !connection.checkpoint_and_truncate() {
            self.keep_log_short();
        }
        Ok(())
    }
}

/// SQLite's number for `auto_vacuum = INCREMENTAL`.
const INCREMENTAL: i64 = 2;
