//! Errors of a server and of its connections, and what they mean to a caller.

use super::wire::ERROR;
use crate::kv::Error;
use crate::stores::served::{Fault, Lost, Refusal, TlsRefusal};
use std::io;

/// An error that the server has returned.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerError {
    pub code: u16,
    pub message: String,
}

impl ServerError {
    /// `None` if the packet is no error.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let [ERROR, low, high, words @ ..] = packet else {
            return None;
        };
        // A state of five characters comes first, except before the login.
        let words = match words {
            [b'#', state_and_words @ ..] => state_and_words.get(5..).unwrap_or(words),
            _ => words,
        };
        Some(Self {
            code: u16::from_le_bytes([*low, *high]),
            message: String::from_utf8_lossy(words).into_owned(),
        })
    }

    pub fn words(&self) -> String {
        format!("{} ({})", self.message, self.code)
    }
}

/// Why an exchange with a server has failed.
#[derive(Debug)]
pub enum WireError {
    Server(ServerError),
    Io(io::Error),
    /// The answer has more bytes than it may have.
    TooLong,
    /// The client ends it. A retry would end in the same way.
    Refused(String),
}

impl From<ServerError> for WireError {
    fn from(error: ServerError) -> Self {
        Self::Server(error)
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Why a statement did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The server's error.
    Server(ServerError),
    /// The connection has ended. `sent` says that the server may have the statement.
    Ended { why: String, sent: bool },
    /// It has ended, because the answer has more bytes than it may have.
    TooLong,
}

const TOO_LONG: &str = "the server's answer is too long";

impl Failure {
    pub fn of(error: WireError, sent: bool) -> Self {
        match error {
            WireError::Server(error) if ends_connection(error.code) => Self::Ended {
                why: error.words(),
                sent,
            },
            WireError::Server(error) => Self::Server(error),
            WireError::Io(error) => Self::Ended {
                why: error.to_string(),
                sent,
            },
            WireError::TooLong => Self::TooLong,
            WireError::Refused(why) => Self::Ended { why, sent },
        }
    }

    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Server(error) => Some(error.code),
            Self::Ended { .. } | Self::TooLong => None,
        }
    }

    /// What it means. `at_risk` says that the statement changes something if it is
    /// carried out, `committing` that it was a commit.
    pub fn fault(self, at_risk: bool, committing: bool, place: &str) -> Fault {
        let lost = |why| Error::Connection(format!("{place}: {why}"));
        match self {
            Self::Ended { why, sent: true } if at_risk => Fault::Lost(Lost::Unknown(lost(why))),
            Self::Ended { why, .. } => Fault::Lost(Lost::Undone(lost(why))),
            Self::TooLong if at_risk => Fault::Lost(Lost::Unknown(lost(TOO_LONG.into()))),
            // One alone may have a shorter answer.
            Self::TooLong => Fault::Divide(Error::Backend(TOO_LONG.into())),
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
    let words = error.words();
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

/// Why there is no connection. `may_change` says that the next one may have another
/// password.
pub fn refusal(place: &str, error: WireError, may_change: bool) -> Refusal {
    let (why, passes) = match error {
        // Too many connections, or a server that is starting or stopping.
        WireError::Server(error) => (
            error.words(),
            matches!(error.code, 1040 | 1203 | 1226)
                || ends_connection(error.code)
                || (may_change && matches!(error.code, 1045 | 1698)),
        ),
        WireError::Io(error) => match TlsRefusal::find(&error) {
            Some(TlsRefusal { words, lasting }) => (words, !lasting),
            None => (error.to_string(), error.kind() != io::ErrorKind::InvalidData),
        },
        WireError::TooLong => (format!("{TOO_LONG}; it may not be MySQL"), false),
        WireError::Refused(why) => (why, false),
    };
    Refusal {
        error: Error::Connection(format!("{place}: {why}")),
        lasting: !passes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_state_or_none() {
        let of = |packet: &[u8]| ServerError::of(packet).map(|error| (error.code, error.message));
        assert_eq!(of(b"\xff\x15\x04#28000denied"), Some((1045, "denied".into())));
        assert_eq!(of(b"\xff\x10\x04Too many"), Some((1040, "Too many".into())));
        assert_eq!(of(b"\xff\x10\x04#280"), Some((1040, "#280".into())));
        assert_eq!(of(b"\xff\x10"), None);
        assert_eq!(of(b"\0\x10\x04Too many"), None);
    }

    #[test]
    fn only_a_statement_that_was_sent_may_have_changed_something() {
        let fault = |at_risk, sent| {
            let failure = Failure::Ended {
                why: "gone".into(),
                sent,
            };
            matches!(failure.fault(at_risk, false, "here"), Fault::Lost(Lost::Unknown(_)))
        };
        assert!(fault(true, true));
        assert!(!fault(true, false) && !fault(false, true));
    }
}
