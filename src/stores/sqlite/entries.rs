//! The statements of one transaction of the writer on single entries.

use super::format::SqliteFormat;
use crate::kv::{Command, Error, JsonText, Key, Millis, Outcome, Reply, Result, Write, now};
use crate::stores::database::{Connection, Done, Format, Found};
use rusqlite::{CachedStatement, params};

/// Each statement is prepared once a transaction: looking it up takes as long
/// as binding its parameters.
pub struct Entries<'d> {
    format: &'d SqliteFormat,
    connection: &'d Connection,
    get: Option<CachedStatement<'d>>,
    overwrite: Option<CachedStatement<'d>>,
    put: Option<CachedStatement<'d>>,
    delete: Option<CachedStatement<'d>>,
    first_expiry: Option<Millis>,
}

impl<'d> Entries<'d> {
    pub fn new(format: &'d SqliteFormat, connection: &'d Connection) -> Self {
        Self {
            format,
            connection,
            get: None,
            overwrite: None,
            put: None,
            delete: None,
            first_expiry: None,
        }
    }

    pub fn run(&mut self, commands: &[&Command]) -> Result<Done> {
        let outcomes = commands.iter().map(|command| self.run_one(command));
        Ok(Done {
            outcomes: outcomes.collect::<Result<_>>()?,
            first_expiry: self.first_expiry,
        })
    }

    fn run_one(&mut self, command: &Command) -> Result<Outcome> {
        let mut result = self.try_one(command);
        if result.as_ref().is_err_and(|error| self.format.lacks_table(error)) {
            // A get need not make it again.
            if let Command::Get(key) = command {
                return Ok(Ok(Reply::Value(key.clone(), None)));
            }
            self.format.create(self.connection)?;
            result = self.try_one(command);
        }
        match result {
            // A statement that fails leaves no trace, unless it has ended the
            // transaction.
            Err(error) if !self.connection.is_autocommit() && !matches!(error, Error::Timeout(_)) => Ok(Err(error)),
            result => result,
        }
    }

    fn try_one(&mut self, command: &Command) -> Result<Outcome> {
        match command {
            Command::Get(key) => {
                let text = self.find(key)?.value;
                Ok(text.map(|text| Reply::Value(key.clone(), text.map(JsonText::new))))
            }
            Command::Put(key, write) => self.put(key, write).map(|()| Ok(Reply::Done)),
            Command::Cas(key, expected, write) => self.cas(key, expected.as_ref(), write),
            Command::Clear(_) | Command::Initialize | Command::Drop | Command::Close => {
                unreachable!("these join no group")
            }
        }
    }

    fn find(&mut self, key: &Key) -> Result<Found> {
        let get = prepared(&mut self.get, self.connection, &self.format.sql.get)?;
        SqliteFormat::find(get, key)
    }

    fn put(&mut self, key: &Key, write: &Write) -> Result<()> {
        let (connection, sql, key) = (self.connection, &self.format.sql, key.as_json());
        let Write::Store { value, ttl } = write else {
            prepared(&mut self.delete, connection, &sql.delete)?.execute(params![key])?;
            return Ok(());
        };
        let (value, now) = (value.as_str(), now());
        let expires = ttl.map(|ttl| ttl.deadline(now));
        self.first_expiry = self.first_expiry.into_iter().chain(expires).min();
        // The common overwrite leaves the index of deadlines alone, and so
        // writes half as many pages.
        if expires.is_none() {
            let overwrite = prepared(&mut self.overwrite, connection, &sql.overwrite)?;
            if overwrite.execute(params![key, value])? > 0 {
                return Ok(());
            }
        }
        prepared(&mut self.put, connection, &sql.put)?.execute(params![key, value, now, expires])?;
        Ok(())
    }

    fn cas(&mut self, key: &Key, expected: Option<&JsonText>, write: &Write) -> Result<Outcome> {
        let matches = match (self.find(key)?.value, expected) {
            (Ok(None), None) => Ok(true),
            (Ok(Some(stored)), Some(expected)) => expected.means(&stored, key),
            (Err(unreadable), Some(_)) => Err(unreadable),
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
