//! What errors of a server mean.

use crate::kv::{Error, Key};
use redis::{ServerError, Value};

/// What to do about an error reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is an outcome.
    Final,
    /// The slot has moved to the server at this place.
    Moved(String),
    /// For this once, the server at this place is to be asked.
    Ask(String),
    /// The server takes no writes: another one does now.
    Elsewhere,
    /// Nothing was carried out, for a reason that passes.
    Later,
}

pub fn verdict(error: &ServerError) -> Verdict {
    let place = || error.details().and_then(|details| details.split_whitespace().last());
    match error.code() {
        "MOVED" => place().map_or(Verdict::Final, |place| Verdict::Moved(place.to_owned())),
        "ASK" => place().map_or(Verdict::Final, |place| Verdict::Ask(place.to_owned())),
        "READONLY" => Verdict::Elsewhere,
        "LOADING" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "BUSY" | "NOREPLICAS" => Verdict::Later,
        _ => Verdict::Final,
    }
}

/// The error as the server wrote it.
pub fn words(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// The error of a reply that is no outcome of an operation.
pub fn unexpected(reply: &Value) -> Error {
    match reply {
        Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK") => Error::Backend(format!(
            "{}; the server is one of a cluster, which needs a URL that begins with redis+cluster:",
            words(error)
        )),
        Value::ServerError(error) => Error::Backend(words(error)),
        _ => Error::Backend("the server sent an unexpected reply".into()),
    }
}

/// The same for an operation on one key.
pub fn unexpected_for(reply: &Value, key: &Key) -> Error {
    match reply {
        Value::ServerError(error) if words(error).contains("WRONGTYPE") => {
            Error::Corrupt(format!("the value of {key} is not a string of Redis"))
        }
        Value::ServerError(error) if words(error).contains("executing the script") => {
            let rights = "the script needs the commands get, set, del, zadd and zrem";
            Error::Backend(format!("{}; {rights}", words(error)))
        }
        reply => unexpected(reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::parse_redis_value;

    fn error(text: &str) -> ServerError {
        match parse_redis_value(format!("-{text}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        for (text, expected) in [
            ("MOVED 12 127.0.0.1:7000", Verdict::Moved("127.0.0.1:7000".into())),
            ("ASK 12 :7000", Verdict::Ask(":7000".into())),
            (
                "READONLY You can't write against a read only replica.",
                Verdict::Elsewhere,
            ),
            ("LOADING Redis is loading the dataset in memory", Verdict::Later),
            ("BUSY Redis is busy running a script", Verdict::Later),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                Verdict::Final,
            ),
            ("MOVED", Verdict::Final),
        ] {
            assert_eq!(verdict(&error(text)), expected);
            assert_eq!(words(&error(text)), text);
        }
    }
}
