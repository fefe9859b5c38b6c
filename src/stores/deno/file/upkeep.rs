//! What the writer does between jobs: removes expired entries, ends the
//! transaction that the calling thread's reads hold open, keeps the log short.

use super::clear::SLICE;
use super::transaction::{Failure, next_version, transaction};
use super::writer::{Open, Writer};
use super::{Connection, Shared, guard};
use crate::kv::{Millis, Result, now};
use crate::stores::database::{self, Log};
use rusqlite::{OptionalExtension, params};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Expired entries are invisible at once. Their rows are removed so much later:
/// at least, so that many go together, and at most, because another process may
/// have written entries that expire earlier than those known here.
const SHORTEST_SWEEP_DELAY: Duration = Duration::from_secs(1);
const LONGEST_SWEEP_DELAY: Duration = Duration::from_secs(60);

const FIRST_EXPIRY: &str = "SELECT expiration_ms FROM kv WHERE expiration_ms >= 0 ORDER BY expiration_ms LIMIT 1";

const SWEEP: &str = "DELETE FROM kv WHERE k IN (\
    SELECT k FROM kv WHERE expiration_ms >= 0 AND expiration_ms <= ?1 ORDER BY expiration_ms LIMIT ?2)";

enum Swept {
    More,
    /// When the next entry expires, if any does.
    Until(Option<Millis>),
}

impl Writer {
    pub fn sweep_soon(&mut self) {
        self.sweep_at = Some(Instant::now() + SHORTEST_SWEEP_DELAY);
    }

    /// Makes sure that a sweep follows a deadline.
    pub fn sweep_by(&mut self, deadline: Millis) {
        let wait = u64::try_from(deadline - now()).unwrap_or(0);
        let wait = Duration::from_millis(wait).clamp(SHORTEST_SWEEP_DELAY, LONGEST_SWEEP_DELAY);
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
        let Some(open) = self.open.as_ref().filter(|open| open.tables) else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        match guard(|| sweep(&open.connection, &shared)) {
            Ok(Swept::More) => self.sweep_at = Some(Instant::now()),
            Ok(Swept::Until(next)) => self.sweep_by(next.unwrap_or(Millis::MAX)),
            Err(_) => self.sweep_soon(),
        }
        self.keep_log_short();
    }

    /// Lets reads on the calling thread start a new transaction.
    pub fn release_if_due(&mut self) {
        if self.release_at.is_some_and(|at| at <= Instant::now()) {
            self.release_at = None;
            self.release_reader();
        }
    }

    fn release_reader(&self) {
        if let Some(reader) = self.shared.reader.lock().as_mut() {
            reader.let_go();
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
            self.release_reader();
            // As far as it goes: a reader of another process may prevent some.
            connection
                .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
                .unwrap_or_default();
        }
    }
}

fn sweep(connection: &Connection, shared: &Shared) -> Result<Swept> {
    let first_expiry = || connection.query_row(FIRST_EXPIRY, [], |row| row.get(0)).optional();
    let first: Option<Millis> = first_expiry().map_err(|error| database::error(&error))?;
    let now = now();
    if first.is_none_or(|first| first > now) {
        return Ok(Swept::Until(first));
    }
    let mut removed = 0;
    let remove = |connection: &Connection| {
        // Deno, too, counts it as a write.
        next_version(connection)?;
        removed = connection.prepare_cached(SWEEP)?.execute(params![now, SLICE])?;
        Ok(Vec::new())
    };
    transaction(connection, shared, true, remove).map_err(Failure::into_error)?;
    if removed == SLICE as usize {
        return Ok(Swept::More);
    }
    first_expiry()
        .map(Swept::Until)
        .map_err(|error| database::error(&error))
}
