//! Errors of a server and of its connections, and what they mean to a caller.

use crate::kv::Error;
use crate::stores::served::Lost;
use mysql_async::ServerError;

/// Why work on a connection did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The server's error.
    Server(ServerError),
    /// The connection ended.
    Broken(String),
    /// It was not done in time. `stopped` means that the server has confirmed
    /// that it stopped.
    Late { stopped: bool },
}

impl From<mysql_async::Error> for Failure {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(error) if ends_connection(error.code) => Self::Broken(words(&error)),
            mysql_async::Error::Server(error) => Self::Server(error),
            mysql_async::Error::Io(error) => Self::Broken(error.to_string()),
            other => Self::Broken(other.to_string()),
        }
    }
}

/// The meaning of a server's error.
pub enum Verdict {
    /// The operation has failed.
    Final(Error),
    /// It was not carried out, for a temporary reason such as a deadlock.
    Passing(Error),
    /// There is no such table.
    NoTable(Error),
    /// The statement was stopped, by an administrator or by a time limit.
    Stopped(Error),
    /// This server takes no writes.
    Elsewhere(Error),
    /// The server's log needs another isolation level than the one we prefer.
    StatementLog(Error),
}

pub fn verdict(error: &ServerError) -> Verdict {
    let words = words(error);
    match error.code {
        // A duplicate key means that another client has just created the entry.
        1020 | 1062 | 1205 | 1213 | 1412 | 1615 => Verdict::Passing(Error::Backend(words)),
        // A read-only server, and a read-only or demoted one in a group.
        1290 | 1792 | 1836 => Verdict::Elsewhere(Error::Backend(words)),
        // The index in our hint is gone: another table has taken this one's place.
        1146 | 1176 => Verdict::NoTable(Error::Backend(words)),
        1317 => Verdict::Stopped(Error::Backend(words)),
        1969 | 3024 => Verdict::Stopped(Error::Timeout(words)),
        1665 => Verdict::StatementLog(Error::Backend(words)),
        1153 | 1301 | 1406 => Verdict::Final(Error::ValueTooLarge(words)),
        // The check of a JSON column in MariaDB, and the JSON parser's errors
        // in MySQL.
        4025 | 3140 | 3141 | 3157 | 3158 | 3819 => Verdict::Final(Error::InvalidValue(format!(
            "the server can't store it as JSON: {words}"
        ))),
        _ => Verdict::Final(Error::Backend(words)),
    }
}

/// Whether this error ends the connection.
fn ends_connection(code: u16) -> bool {
    matches!(
        code,
        1053 | 1077 | 1079 | 1080 | 1152 | 1158..=1161 | 1927 | 3169 | 4031
    )
}

fn words(error: &ServerError) -> String {
    format!("{} ({})", error.message, error.code)
}

/// Why there is no connection.
pub fn refusal(place: &str, error: &mysql_async::Error, reached_before: bool) -> Lost {
    let (why, passes) = match error {
        // Too many connections, or a server that is starting or stopping.
        mysql_async::Error::Server(error) => (
            words(error),
            matches!(error.code, 1040 | 1203 | 1226) || ends_connection(error.code),
        ),
        mysql_async::Error::Io(mysql_async::IoError::Io(error)) => (error.to_string(), true),
        mysql_async::Error::Io(mysql_async::IoError::Tls(error)) => (error.to_string(), false),
        mysql_async::Error::Driver(error) => (
            error.to_string(),
            matches!(error, mysql_async::DriverError::ConnectionClosed),
        ),
        other => (other.to_string(), false),
    };
    Lost::Refused {
        error: Error::Connection(format!("{place}: {why}")),
        lasting: !(passes && reached_before),
    }
}
