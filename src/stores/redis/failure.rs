//! What can go wrong with a server, and what that means to a caller.

use crate::kv::{Error, Key};
use redis::{ErrorKind, RedisError, ServerError, Value};

/// Why a request brought no replies.
#[derive(Clone, Debug)]
pub enum Lost {
    /// The connection went away; whether the request was carried out is unknown.
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
    /// Whether trying again can't help: a wrong password, say.
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

    /// What the server says to a connection that is being set up.
    pub fn of_setup(place: &str, error: &RedisError) -> Self {
        // An error while loading its data passes; a refused password doesn't.
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
    /// It stands.
    Final(Error),
    /// Send it again, with the script's text.
    NoScript,
    /// Send it again after a while.
    Later,
    /// The entry's slot is another server's now.
    Moved,
    /// Ask that server, this once.
    Ask(String),
    /// The server doesn't take writes any more: somebody else does.
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
            Some(key) => Error::Corrupt(format!("what is stored under {key} is not a string")),
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
        _ => Error::Backend("the server's reply is not what the command answers".into()),
    }
}
