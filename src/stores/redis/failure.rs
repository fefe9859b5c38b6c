//! Errors of a server and of its connections, and what to do about them.

use crate::kv::{Error, Key};
use redis::{ErrorKind, RedisError, ServerError, Value};

/// Why a request brought no replies.
#[derive(Clone, Debug)]
pub enum Lost {
    /// The connection ended; whether the request was carried out is unknown.
    Connection(String),
    /// No answer in time; it may still be carried out.
    Timeout(String),
}

impl Lost {
    pub fn error(&self) -> Error {
        match self {
            Self::Connection(why) => Error::Connection(why.clone()),
            Self::Timeout(why) => Error::Timeout(why.clone()),
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub error: Error,
    /// Whether a retry can't help: a wrong password, say.
    pub lasting: bool,
}

impl Refusal {
    pub fn passing(place: &str, why: impl std::fmt::Display) -> Self {
        Self {
            error: Error::Connection(format!("{place}: {why}")),
            lasting: false,
        }
    }

    pub fn lasting(place: &str, why: impl std::fmt::Display) -> Self {
        Self {
            error: Error::Connection(format!("{place}: {why}")),
            lasting: true,
        }
    }

    /// An error that the server returned while a connection was being set up.
    pub fn of_setup(place: &str, error: &RedisError) -> Self {
        // A server that is loading its data will accept later; a wrong password
        // stays wrong.
        let lasting = matches!(
            error.kind(),
            ErrorKind::AuthenticationFailed
                | ErrorKind::UnexpectedReturnType
                | ErrorKind::Client
                | ErrorKind::Extension
                | ErrorKind::Server(redis::ServerErrorKind::ResponseError)
        );
        Self {
            error: Error::Connection(format!("{place}: {error}")),
            lasting,
        }
    }
}

/// What to do about an error reply.
pub enum Verdict {
    /// The operation has failed.
    Final(Error),
    /// Send it again, with the text of the script.
    NoScript,
    /// Send it again after a while.
    Later,
    /// The entry's slot has moved to another server.
    Moved,
    /// Send this one request to that server.
    Ask(String),
    /// The server no longer takes writes: another one is the master now.
    Demoted(Error),
}

pub fn verdict(reply: &ServerError, key: Option<&Key>) -> Verdict {
    let words = || match reply.details() {
        Some(details) => format!("{} {details}", reply.code()),
        None => reply.code().to_owned(),
    };
    match reply.code() {
        "NOSCRIPT" => Verdict::NoScript,
        "LOADING" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" => Verdict::Later,
        "MOVED" => Verdict::Moved,
        "ASK" => match reply.details().and_then(|details| details.split_whitespace().last()) {
            Some(place) => Verdict::Ask(place.to_owned()),
            None => Verdict::Final(Error::Backend(words())),
        },
        "READONLY" => Verdict::Demoted(Error::Backend(words())),
        _ if words().contains("WRONGTYPE") => Verdict::Final(match key {
            Some(key) => Error::Corrupt(format!("the value of {key} is not a string of Redis")),
            None => Error::Backend(words()),
        }),
        _ => Verdict::Final(Error::Backend(words())),
    }
}

/// Whether a command was refused because the server is still reading its data.
pub fn is_loading(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "LOADING")
}

pub fn unexpected(reply: &Value) -> Error {
    match reply {
        Value::ServerError(error) => match verdict(error, None) {
            Verdict::Final(error) | Verdict::Demoted(error) => error,
            _ => Error::Backend(error.to_string()),
        },
        _ => Error::Backend("the server sent an unexpected reply".into()),
    }
}
