//! Errors of statements, and what they mean to a caller.

use crate::kv::{Error, Key};
use crate::stores::served::{Lost, Refusal};
use std::error::Error as StdError;
use tokio_postgres::error::{Severity, SqlState};

/// Why a statement brought no result.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The statement has failed.
    Final(Error),
    /// It may concern one key or value among many: they are to be tried
    /// separately.
    Divide(Error),
    /// There is no table.
    NoTable(Error),
    /// The table has changed since the statement was prepared.
    Stale(Error),
    /// Another client has just created the same object.
    Raced(Error),
    /// The user lacks a right.
    Denied(Error),
    /// This server takes no writes.
    Elsewhere(Error),
    Lost(Lost),
}

impl Fault {
    /// For callers that can't retry by themselves.
    pub fn lost(self) -> Lost {
        match self {
            Self::Lost(lost) => lost,
            // It was cancelled, or asked of the wrong server.
            Self::Divide(error @ Error::Timeout(_)) | Self::Elsewhere(error) => Lost::Undone(error),
            // A retry would fail in the same way.
            fault => Lost::Refused {
                error: fault.error(),
                lasting: true,
            },
        }
    }
}

impl Fault {
    pub fn error(self) -> Error {
        match self {
            Self::Final(error)
            | Self::Divide(error)
            | Self::NoTable(error)
            | Self::Stale(error)
            | Self::Raced(error)
            | Self::Denied(error)
            | Self::Elsewhere(error) => error,
            Self::Lost(lost) => lost.error(),
        }
    }
}

/// The meaning of the error of a statement that was sent.
pub fn fault(error: &tokio_postgres::Error, place: &str) -> Fault {
    let Some(server) = error.as_db_error() else {
        let words = words(error);
        let io = error.source().is_some_and(<dyn StdError>::is::<std::io::Error>);
        return if io || error.is_closed() {
            Fault::Lost(Lost::Unknown(Error::Connection(format!("{place}: {words}"))))
        } else {
            Fault::Final(Error::Backend(words))
        };
    };
    let code = server.code();
    // These errors end the connection, at any moment.
    let ends = matches!(server.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    if ends || code.code().starts_with("57P") {
        let why = format!("{place}: {}{}", server.message(), advice(code));
        return Fault::Lost(Lost::Unknown(Error::Connection(why)));
    }
    let said = || format!("{}{}", words(error), advice(code));
    match code {
        &SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE => Fault::Divide(Error::Timeout(said())),
        &SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE => {
            Fault::Lost(Lost::Undone(Error::Backend(said())))
        }
        &SqlState::UNDEFINED_TABLE => Fault::NoTable(Error::Backend(said())),
        &SqlState::FEATURE_NOT_SUPPORTED if server.message().contains("cached plan") => {
            Fault::Stale(Error::Backend(said()))
        }
        &SqlState::INVALID_SQL_STATEMENT_NAME | &SqlState::DUPLICATE_PSTATEMENT => Fault::Stale(Error::Backend(said())),
        &SqlState::INVALID_TEXT_REPRESENTATION | &SqlState::UNTRANSLATABLE_CHARACTER => {
            Fault::Divide(Error::InvalidValue(said()))
        }
        // A key that is too long for an index, or a value that is too large for
        // jsonb.
        &SqlState::PROGRAM_LIMIT_EXCEEDED if server.message().contains("index row") => {
            Fault::Divide(Error::KeyTooLong(said()))
        }
        &SqlState::DUPLICATE_TABLE | &SqlState::UNIQUE_VIOLATION | &SqlState::DUPLICATE_OBJECT => {
            Fault::Raced(Error::Backend(said()))
        }
        &SqlState::INSUFFICIENT_PRIVILEGE => Fault::Denied(Error::Backend(said())),
        &SqlState::READ_ONLY_SQL_TRANSACTION => Fault::Elsewhere(Error::Backend(said())),
        _ if code.code().starts_with("54") => Fault::Divide(Error::ValueTooLarge(said())),
        _ if code.code().starts_with("22") || code.code().starts_with("23") => Fault::Divide(Error::Backend(said())),
        _ => Fault::Final(Error::Backend(said())),
    }
}

/// Advice for errors that poolers cause.
fn advice(code: &SqlState) -> &'static str {
    match code {
        &SqlState::INVALID_SQL_STATEMENT_NAME | &SqlState::DUPLICATE_PSTATEMENT | &SqlState::PROTOCOL_VIOLATION => {
            "; behind a pooler that gives each transaction another connection, use preparedStatements: false"
        }
        _ => "",
    }
}

/// Adds the key to the message where it helps.
pub fn about(error: Error, key: &Key) -> Error {
    match error {
        Error::KeyTooLong(words) => Error::KeyTooLong(format!("{words}, for {}", shortened(key))),
        Error::InvalidValue(words) => Error::InvalidValue(format!("{words}, for {}", shortened(key))),
        Error::ValueTooLarge(words) => Error::ValueTooLarge(format!("{words}, for {}", shortened(key))),
        error => error,
    }
}

fn shortened(key: &Key) -> String {
    let json = key.as_json();
    if json.chars().count() <= 100 {
        return json.to_owned();
    }
    json.chars().take(100).chain(['…']).collect()
}

/// Why there is no connection.
pub fn refusal(error: &tokio_postgres::Error, place: &str) -> Refusal {
    let lasting = match error.as_db_error() {
        Some(server) => {
            let code = server.code().code();
            // A refused login, or a missing database.
            code.starts_with("28") || code.starts_with("3D") || code == "42501"
        }
        // A retry doesn't make a certificate valid.
        None => matches!(
            innermost(error).downcast_ref(),
            Some(rustls::Error::InvalidCertificate(_))
        ),
    };
    Refusal {
        error: Error::Connection(format!("{place}: {}", words(error))),
        lasting,
    }
}

/// The server's message, or that of the innermost cause.
fn words(error: &tokio_postgres::Error) -> String {
    if let Some(server) = error.as_db_error() {
        return match server.detail() {
            Some(detail) if server.code() != &SqlState::UNIQUE_VIOLATION => format!("{} ({detail})", server.message()),
            _ => server.message().to_owned(),
        };
    }
    let inner = innermost(error).to_string();
    let outer = error.to_string();
    if outer.contains(&inner) {
        outer
    } else {
        format!("{outer}: {inner}")
    }
}

fn innermost(error: &tokio_postgres::Error) -> &(dyn StdError + 'static) {
    let mut inner: &(dyn StdError + 'static) = error;
    loop {
        // `source` of an io::Error skips the error that it wraps.
        let hidden = inner
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .map(|hidden| hidden as &(dyn StdError + 'static));
        match hidden.or_else(|| inner.source()) {
            Some(next) => inner = next,
            None => return inner,
        }
    }
}
