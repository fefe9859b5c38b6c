//! What the writer does between jobs: removes expired entries, ends the
//! transaction that the calling thread's reads hold open, keeps the log short.

use super::clear::SLICE;
use super::schema::guard;
use super::writer::{Open, Writer};
use super::{Connection, Shared};
use crate::kv::{Millis, Result, now};
use crate::stores::database::{self, Durability, Log};
use rusqlite::{OptionalExtension, params};
use std::time::Duration;
use tokio::time::Instant;

/// Expired entries are invisible at once. Their rows are removed at least so much
/// later, so that many go together.
const SHORTEST_SWEEP_DELAY: Duration = Duration::from_secs(1);

enum Swept {
    More,
    /// When the next entry expires, if any does.
    Until(Option<Millis>),
}

impl Writer {
    pub fn sweep_soon(&mut self) {
        self.sweep_at = Some(Instant::now() + SHORTEST_SWEEP_DELAY);
    }

    /// Sees to it that a sweep follows a deadline.
    pub fn sweep_by(&mut self, deadline: Millis) {
        let wait = u64::try_from(deadline - now()).unwrap_or(0);
        let wait = Duration::from_millis(wait)
            .min(self.shared.options.sweep_interval)
            .max(SHORTEST_SWEEP_DELAY);
        let at = Instant::now() + wait;
        self.sweep_at = Some(self.sweep_at.map_or(at, |sweep_at| sweep_at.min(at)));
    }

    /// Removes a slice of what has expired. Never waits for a lock: what can't be
    /// done now is tried again later.
    pub fn sweep_if_due(&mut self) {
        if self.sweep_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.sweep_at = None;
        let Some(open) = self.open.as_ref().filter(|open| open.table) else {
            return;
        };
        let shared = self.shared.clone();
        let swept = guard(|| sweep(&open.connection, &shared));
        if open.connection.set_durability(shared.options.durability).is_err() {
            // No write may rely on this connection any more.
            self.open = None;
        }
        match swept {
            Ok(Swept::More) => self.sweep_at = Some(Instant::now()),
            Ok(Swept::Until(Some(deadline))) => self.sweep_by(deadline),
            Ok(Swept::Until(None)) => self.sweep_by(Millis::MAX),
            Err(_) => self.sweep_soon(),
        }
        self.keep_log_short();
    }

    /// Lets reads on the calling thread start a new transaction.
    pub fn release_if_due(&mut self) {
        if self.release_at.is_some_and(|at| at <= Instant::now()) {
            self.release_at = None;
            self.release_snapshot();
        }
    }

    pub fn release_snapshot(&self) {
        if let Some(snapshot) = self.shared.snapshot.lock().as_mut() {
            snapshot.let_go();
        }
    }

    /// Moves the log's content into the database beside the writes, and in their
    /// place only when that can't keep up.
    pub fn keep_log_short(&mut self) {
        let Some(Open { wal, connection, .. }) = &self.open else {
            return;
        };
        if self.checkpoints.wrote(wal.as_ref()) == Log::TooLong {
            // While a checkpoint is under way, SQLite refuses another one.
            self.checkpoints.wait();
            self.release_snapshot();
            // As far as it goes: a reader of another process may prevent some.
            connection
                .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
                .unwrap_or_default();
        }
    }
}

fn sweep(connection: &Connection, shared: &Shared) -> Result<Swept> {
    shared.file.check()?;
    let sweep = || {
        // A power loss may undo a sweep: it needs no sync of its own.
        connection.set_durability(Durability::Normal)?;
        let mut statement = connection.prepare_cached(&shared.sql.sweep)?;
        if statement.execute(params![now(), SLICE])? == SLICE as usize {
            return Ok(Swept::More);
        }
        let mut statement = connection.prepare_cached(&shared.sql.next_deadline)?;
        // Other writers may store fractions of a millisecond.
        let deadline: Option<f64> = statement.query_row([], |row| row.get(0)).optional()?.flatten();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it saturates, and only says when to look again"
        )]
        let deadline = deadline.map(|deadline| deadline as Millis);
        Ok(Swept::Until(deadline))
    };
    sweep().map_err(|error| database::error(&error))
}
