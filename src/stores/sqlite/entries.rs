//! The statements of one transaction of the writer on single entries.

use super::Connection;
use super::keys::{Found, find};
use super::statements::Statements;
use super::value_reply;
use crate::kv::{Command, JsonText, Key, Millis, Outcome, Reply, Write, now};
use rusqlite::{CachedStatement, Result, params};

/// Each statement is prepared once a transaction: looking it up takes as long
/// as binding its parameters.
pub struct Entries<'d> {
    connection: &'d Connection,
    sql: &'d Statements,
    get: Option<CachedStatement<'d>>,
    overwrite: Option<CachedStatement<'d>>,
    put: Option<CachedStatement<'d>>,
    delete: Option<CachedStatement<'d>>,
    /// The earliest expiry of the entries that were written.
    pub deadline: Option<Millis>,
}

impl<'d> Entries<'d> {
    pub fn new(connection: &'d Connection, sql: &'d Statements) -> Self {
        Self {
            connection,
            sql,
            get: None,
            overwrite: None,
            put: None,
            delete: None,
            deadline: None,
        }
    }

    /// Runs a command that concerns one entry.
    pub fn run(&mut self, command: &Command) -> Result<Outcome> {
        match command {
            Command::Get(key) => self.find(key).map(|found| value_reply(found, key.clone())),
            Command::Put(key, write) => self.put(key, write).map(|()| Ok(Reply::Done)),
            Command::Cas(key, expected, write) => self.cas(key, expected.as_ref(), write),
            Command::Clear(_) | Command::Initialize | Command::Drop | Command::Close => {
                unreachable!("these join no group")
            }
        }
    }

    fn find(&mut self, key: &Key) -> Result<Found> {
        let get = prepared(&mut self.get, self.connection, &self.sql.get)?;
        find(get, key.as_json())
    }

    fn put(&mut self, key: &Key, write: &Write) -> Result<()> {
        let (connection, key) = (self.connection, key.as_json());
        let Write::Store { value, ttl } = write else {
            prepared(&mut self.delete, connection, &self.sql.delete)?.execute(params![key])?;
            return Ok(());
        };
        let (value, now) = (value.as_str(), now());
        let expires = ttl.map(|ttl| ttl.deadline(now));
        self.deadline = [self.deadline, expires].into_iter().flatten().min();
        // The common overwrite leaves the index of deadlines alone, and so
        // writes half as many pages.
        if expires.is_none() {
            let overwrite = prepared(&mut self.overwrite, connection, &self.sql.overwrite)?;
            if overwrite.execute(params![key, value])? > 0 {
                return Ok(());
            }
        }
        prepared(&mut self.put, connection, &self.sql.put)?.execute(params![key, value, now, expires])?;
        Ok(())
    }

    fn cas(&mut self, key: &Key, expected: Option<&JsonText>, write: &Write) -> Result<Outcome> {
        let matches = match (self.find(key)?, expected) {
            (Found::Nothing, None) => Ok(true),
            (Found::Text(stored), Some(expected)) => expected.means(&stored, key),
            (Found::NotText, Some(_)) => value_reply(Found::NotText, key.clone()).map(|_| false),
            _ => Ok(false),
        };
        if matches == Ok(true) {
            self.put(key, write)?;
        }
        Ok(matches.map(Reply::Swapped))
    }
}

fn prepared<'s, 'd>(
    statement: &'s mut Option<CachedStatement<'d>>,
    connection: &'d Connection,
    sql: &str,
) -> Result<&'s mut CachedStatement<'d>> {
    Ok(match statement {
        Some(statement) => statement,
        None => statement.insert(connection.prepare_cached(sql)?),
    })
}
