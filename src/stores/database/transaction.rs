//! What one transaction of the writer does for a group of jobs. One sync to disk
//! serves the whole group.

use super::queue::Queued;
use super::recent::Recent;
use super::wal::{Header, WalIndex};
use super::writer::Writer;
use super::{Connection, DatabaseFile, Durability, Format, may_have_committed};
use crate::kv::{Command, Error, Key, Outcome, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use tokio::time::Instant;

/// Jobs that arrive within this time after a transaction's start join it. That
/// delays the first job of the group by no more than another sync would.
const JOINING: Duration = Duration::from_millis(1);

/// Why a transaction has no result.
pub enum Failure<T> {
    /// Nothing was carried out: another process holds the lock.
    Locked(Error),
    /// Nothing was carried out, and none of it can be now.
    All(Error),
    /// Nothing was carried out, maybe because of one job of many.
    Apart(Error),
    /// The commit failed, but may be found carried out after a crash. Has the
    /// result for that case.
    Unknown(Error, T),
}

impl<T> Failure<T> {
    /// For an error that happens before a commit.
    fn before(error: Error) -> Self {
        match error {
            Error::Timeout(_) => Self::Locked(error),
            _ => Self::Apart(error),
        }
    }

    /// For a job that is alone in its transaction.
    pub fn into_error(self) -> Error {
        match self {
            Self::Locked(error) | Self::All(error) | Self::Apart(error) => error,
            Self::Unknown(error, _) => error.with_unknown_outcome(),
        }
    }
}

/// Runs `body` in a transaction, and returns its result after the commit. If it
/// `writes`, the commit has that durability, and counts only if the path still
/// names the file.
pub fn transaction<T>(
    connection: &Connection,
    file: &DatabaseFile,
    writes: Option<Durability>,
    body: impl FnOnce() -> Result<T>,
) -> Result<T, Failure<T>> {
    connection
        .begin(writes)
        .map_err(|error| Failure::before(error.into()))?;
    let result = guard(body).map_err(|error| {
        connection.roll_back();
        Failure::before(error)
    })?;
    if let Err(error) = connection.commit() {
        connection.roll_back();
        return Err(if may_have_committed(&error) {
            Failure::Unknown(error.into(), result)
        } else {
            Failure::before(error.into())
        });
    }
    match file.check() {
        Err(error) if writes.is_some() => Err(Failure::Unknown(error, result)),
        _ => Ok(result),
    }
}

/// A panic becomes an error, because the thread must go on.
pub fn guard<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(internal()))
}

fn internal() -> Error {
    Error::Backend("internal error in the store's worker".into())
}

impl<F: Format> Writer<F> {
    /// Runs a group, which jobs that arrive meanwhile may join if it `grows`.
    pub fn transact(&mut self, group: &mut Vec<Queued>, grows: bool) -> Result<Vec<Outcome>, Failure<Vec<Outcome>>> {
        let Self {
            shared,
            open,
            incoming,
            clearing,
            ..
        } = self;
        let open = open.as_ref().ok_or(Failure::All(Error::Closed))?;
        let prefix = clearing.as_ref().map(|clearing| &clearing.prefix);
        let durability = |queued: &Queued| {
            queued
                .work
                .command()
                .map(|command| shared.options.durability_of(command))
        };
        let writes = !group.iter().all(is_get);
        let writes = writes.then(|| group.iter().filter_map(durability).max()).flatten();
        // Jobs that need a sync don't join jobs that need none.
        let joins = |queued: &Queued| durability(queued) <= writes;
        let mut kept = None;
        let mut first_expiry = None;
        let outcomes = transaction(&open.connection, &shared.file, writes, || {
            if writes.is_some() {
                kept = Kept::of(open.wal.as_ref(), &open.connection, &shared.recent);
            }
            let joining = Instant::now() + JOINING;
            let mut run = shared.format.entries(&open.connection);
            let mut outcomes = Vec::with_capacity(group.len());
            loop {
                let done = run(&commands(&group[outcomes.len()..])?)?;
                outcomes.extend(done.outcomes);
                first_expiry = first_expiry.into_iter().chain(done.first_expiry).min();
                let grows = grows && writes.is_some() && Instant::now() < joining;
                if !(grows && incoming.join(group, prefix, joins)) {
                    return Ok(outcomes);
                }
            }
        })?;
        if let Some(kept) = kept {
            let written = group.iter().filter_map(|queued| queued.entry_command()?.written());
            kept.advance(&open.connection, &shared.recent, written);
        }
        if let Some(first) = first_expiry {
            self.sweep_by(first);
        }
        Ok(outcomes)
    }
}

fn commands(group: &[Queued]) -> Result<Vec<&Command>> {
    let commands = group.iter().map(|queued| queued.entry_command().ok_or_else(internal));
    commands.collect()
}

pub fn is_get(queued: &Queued) -> bool {
    matches!(queued.entry_command(), Some(Command::Get(_)))
}

/// The state of the database that the cache's values belong to. No other
/// connection commits between here, within a transaction, and its end.
pub struct Kept<'w> {
    wal: &'w WalIndex,
    header: Header,
    version: Option<i64>,
}

impl<'w> Kept<'w> {
    /// `None` if no values of this state are kept.
    pub fn of(wal: Option<&'w WalIndex>, connection: &Connection, recent: &Recent) -> Option<Self> {
        let wal = wal?;
        let header = wal.header();
        recent.is_of(&header).then(|| Self {
            wal,
            header,
            version: data_version(connection),
        })
    }

    /// After a commit: the values that were kept in this state are still good in
    /// the new one, except those that were written.
    pub fn advance<'k>(self, connection: &Connection, recent: &Recent, written: impl Iterator<Item = &'k Key>) {
        let after = self.wal.header();
        // Another connection may have committed between the two.
        if self.version.is_some() && data_version(connection) == self.version {
            recent.advance(&self.header, &after, written.map(Key::as_json));
        }
    }
}

/// A number that changes only when another connection commits.
fn data_version(connection: &Connection) -> Option<i64> {
    let mut statement = connection.prepare_cached("PRAGMA data_version").ok()?;
    statement.query_row([], |row| row.get(0)).ok()
}
