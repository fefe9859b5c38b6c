//! What the error of a statement means.

use super::engine::Lost;
use crate::kv::{Error, Key};

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
    /// The table has changed since the statement was prepared, or the session's
    /// settings don't suit the server.
    Stale(Error),
    /// Another client has just created the same thing.
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
    /// For statements that come before those of an operation, which can be repeated.
    pub fn undone(self) -> Self {
        match self {
            Self::Lost(Lost::Unknown(error)) => Self::Lost(Lost::Undone(error)),
            fault => fault,
        }
    }

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

/// Adds the key to the message where it helps.
pub fn about(error: Error, key: &Key) -> Error {
    match error {
        Error::InvalidKey(words) => Error::InvalidKey(format!("{words}, for {}", shortened(key))),
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
