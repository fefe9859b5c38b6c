//! Errors of a server and of its connections, and what they mean to a caller.

use crate::kv::Error;
use crate::stores::served::{Fault, Lost, Refusal, TlsRefusal};
use mysql_async::ServerError;

/// Why a statement did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The server's error.
    Server(ServerError),
    /// The connection has ended.
    Ended(String),
}

impl From<mysql_async::Error> for Failure {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(error) if ends_connection(error.code) => Self::Ended(words(&error)),
            mysql_async::Error::Server(error) => Self::Server(error),
            mysql_async::Error::Io(error) => Self::Ended(error.to_string()),
            other => Self::Ended(other.to_string()),
        }
    }
}

impl Failure {
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Server(error) => Some(error.code),
            Self::Ended(_) => None,
        }
    }

    /// What it means. `at_risk` says that without an answer the statement may have
    /// changed something, `committing` that it was a commit.
    pub fn fault(self, at_risk: bool, committing: bool, place: &str) -> Fault {
        let lost = |why| Error::Connection(format!("{place}: {why}"));
        match self {
            Self::Ended(why) if at_risk => Fault::Lost(Lost::Unknown(lost(why))),
            Self::Ended(why) => Fault::Lost(Lost::Undone(lost(why))),
            Self::Server(error) => match (error.code, fault(&error)) {
                // ER_ERROR_DURING_COMMIT
                (1180, fault) => Fault::Lost(Lost::Unknown(fault.error())),
                // A commit that loses against another server's is undone.
                (1213 | 3101, fault) => Fault::Lost(Lost::Undone(fault.error())),
                (_, fault) if committing => Fault::Lost(Lost::Unknown(fault.error())),
                (_, fault) => fault,
            },
        }
    }
}

/// The meaning of the server's error about a statement. Errors are recognised by
/// their codes: their words are in the server's language.
fn fault(error: &ServerError) -> Fault {
    let words = words(error);
    match error.code {
        // The row, the table's definition or the prepared statement has changed.
        1020 | 1213 | 1412 | 1615 => Fault::Lost(Lost::Undone(Error::Backend(words))),
        // A lock was not free in time, or the statement was stopped.
        1205 | 1317 | 1969 | 3024 => Fault::Divide(Error::Timeout(words)),
        // A read-only server, and a read-only or demoted one in a group.
        1290 | 1792 | 1836 => Fault::Elsewhere(Error::Backend(words)),
        // The index in our hint is gone: another table has taken this one's place.
        1146 | 1176 => Fault::NoTable(Error::Backend(words)),
        // The server's log needs another isolation level than the one we prefer.
        1665 => Fault::Stale(Error::Backend(words)),
        1142 => Fault::Denied(Error::Backend(words)),
        1153 | 1301 | 1406 => Fault::Divide(Error::ValueTooLarge(words)),
        // The check of a JSON column in MariaDB, and the JSON parser's errors
        // in MySQL.
        4025 | 3140 | 3141 | 3157 | 3158 | 3819 => Fault::Divide(Error::InvalidValue(format!(
            "the server can't store it as JSON: {words}"
        ))),
        _ => Fault::Divide(Error::Backend(words)),
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

/// Why there is no connection. `may_change` says that the next one may have another
/// password.
pub fn refusal(place: &str, error: &mysql_async::Error, may_change: bool) -> Refusal {
    if let Some(TlsRefusal { words, lasting }) = TlsRefusal::find(error) {
        return Refusal {
            error: Error::Connection(format!("{place}: {words}")),
            lasting,
        };
    }
    let (why, passes) = match error {
        // Too many connections, or a server that is starting or stopping.
        mysql_async::Error::Server(error) => (
            words(error),
            matches!(error.code, 1040 | 1203 | 1226)
                || ends_connection(error.code)
                || (may_change && matches!(error.code, 1045 | 1698)),
        ),
        mysql_async::Error::Io(mysql_async::IoError::Io(error)) => (error.to_string(), true),
        mysql_async::Error::Io(mysql_async::IoError::Tls(error)) => (error.to_string(), false),
        mysql_async::Error::Driver(error) => (
            error.to_string(),
            matches!(error, mysql_async::DriverError::ConnectionClosed),
        ),
        other => (other.to_string(), false),
    };
    Refusal {
        error: Error::Connection(format!("{place}: {why}")),
        lasting: !passes,
    }
}
