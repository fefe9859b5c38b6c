//! What one transaction of the writer does for a group of jobs. One sync to disk
//! serves the whole group.

use super::entries::Entries;
use super::queue::Queued;
use super::schema::{create_table, internal};
use super::writer::{Open, Writer};
use super::{Connection, Shared};
use crate::kv::{Command, Error, Key, Outcome, Reply, Result};
use crate::stores::database::{self, Header, WalIndex};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use tokio::time::Instant;

/// Jobs in one transaction at most.
pub const GROUP: usize = 1024;

/// For so long, jobs that arrive while a transaction is under way join it. The
/// first of the group waits no longer than for another sync.
const JOINING: Duration = Duration::from_millis(1);

/// Why a group has no outcomes.
pub enum Failure {
    /// Nothing was carried out: another process holds the lock.
    Locked(Error),
    /// Nothing was carried out, and none of it can be now.
    All(Error),
    /// Nothing was carried out, maybe because of one job of many.
    Apart(Error),
    /// The commit failed, and may be found done later. With what the outcomes
    /// would have been.
    Unknown(Error, Vec<Outcome>),
}

impl Failure {
    /// Of something that happens before a commit.
    pub fn before(error: &rusqlite::Error) -> Self {
        let is_busy = database::is_busy(error);
        let error = database::error(error);
        if is_busy {
            Self::Locked(error)
        } else {
            Self::Apart(error)
        }
    }
}

impl Writer {
    /// Runs a group, which jobs that arrive meanwhile may join if it `grows`.
    pub fn transact(&mut self, group: &mut Vec<Queued>, grows: bool) -> Result<Vec<Outcome>, Failure> {
        let open = self.open.take().ok_or(Failure::All(Error::Closed))?;
        let result = self.transact_on(&open, group, grows);
        self.open = Some(open);
        result
    }

    fn transact_on(&mut self, open: &Open, group: &mut Vec<Queued>, grows: bool) -> Result<Vec<Outcome>, Failure> {
        let writes = group.iter().any(|queued| !is_get(queued));
        let connection = &open.connection;
        connection
            .execute_batch(if writes { "BEGIN IMMEDIATE" } else { "BEGIN" })
            .map_err(|error| Failure::before(&error))?;
        let before = if writes { self.state(open) } else { None };
        let joining = Instant::now() + JOINING;
        let shared = self.shared.clone();
        let run = catch_unwind(AssertUnwindSafe(|| {
            let mut outcomes = Vec::with_capacity(group.len());
            let mut entries = Entries::new(connection, &shared.sql);
            loop {
                for queued in &group[outcomes.len()..] {
                    let command = queued.entry_command().ok_or_else(|| Failure::Apart(internal()))?;
                    outcomes.push(run(&mut entries, connection, &shared, command)?);
                }
                let grows = grows && writes && Instant::now() < joining;
                if !(grows && self.take_group(group)) {
                    return Ok((outcomes, entries.deadline));
                }
            }
        }));
        let run = run.unwrap_or_else(|_| Err(Failure::Apart(internal())));
        let (outcomes, deadline) = run.inspect_err(|_| connection.roll_back())?;
        if let Err(error) = connection.commit() {
            connection.roll_back();
            return Err(if database::may_have_committed(&error) {
                Failure::Unknown(database::error(&error), outcomes)
            } else {
                Failure::before(&error)
            });
        }
        if let Some(before) = before {
            let written = group.iter().filter_map(|queued| queued.entry_command()?.written());
            before.advance(connection, &shared, written);
        }
        if let Some(deadline) = deadline {
            self.sweep_by(deadline);
        }
        if writes && let Err(error) = shared.file.check() {
            return Err(Failure::Unknown(error, outcomes));
        }
        Ok(outcomes)
    }

    /// The state of the database, if values that were read in it are kept. No
    /// other connection commits between here, within a transaction, and its end.
    fn state<'o>(&self, open: &'o Open) -> Option<State<'o>> {
        let wal = open.wal.as_ref()?;
        let header = wal.header();
        self.shared.recent.is_of(&header).then(|| State {
            wal,
            header,
            version: data_version(&open.connection),
        })
    }
}

/// Runs one command within a transaction. If the command fails alone, it leaves
/// no trace; if it takes the transaction with it, that is a [`Failure`].
fn run(
    entries: &mut Entries<'_>,
    connection: &Connection,
    shared: &Shared,
    command: &Command,
) -> Result<Outcome, Failure> {
    let mut result = entries.run(command);
    if result.as_ref().is_err_and(database::is_missing_table) && shared.creates() {
        // Another process has dropped it. A get need not make it again.
        if let Command::Get(key) = command {
            return Ok(Ok(Reply::Value(key.clone(), None)));
        }
        create_table(connection, shared).map_err(Failure::Apart)?;
        result = entries.run(command);
    }
    match result {
        Ok(outcome) => Ok(outcome),
        Err(error) if connection.is_autocommit() => Err(Failure::before(&error)),
        Err(error) => Ok(Err(database::error(&error))),
    }
}

pub fn is_get(queued: &Queued) -> bool {
    matches!(queued.entry_command(), Some(Command::Get(_)))
}

struct State<'o> {
    wal: &'o WalIndex,
    header: Header,
    version: Option<i64>,
}

impl State<'_> {
    /// After a commit: the values that were kept in this state are still good in
    /// the new one, except those that were written.
    fn advance<'k>(self, connection: &Connection, shared: &Shared, written: impl Iterator<Item = &'k Key>) {
        let after = self.wal.header();
        // Another connection may have committed between the two.
        if self.version.is_some() && data_version(connection) == self.version {
            shared.recent.advance(&self.header, &after, written.map(Key::as_json));
        }
    }
}

/// Changes when another connection commits, and only then.
fn data_version(connection: &Connection) -> Option<i64> {
    let mut statement = connection.prepare_cached("PRAGMA data_version").ok()?;
    statement.query_row([], |row| row.get(0)).ok()
}
