//! Errors of statements, and what they mean to a caller.

use super::frames::TooLarge;
use crate::kv::Error;
use crate::stores::served::{Fault, Lost, Refusal, TlsRefusal};
use std::error::Error as StdError;
use tokio_postgres::error::{DbError, Severity, SqlState};

/// The C functions of the server that find a key too long for an index, in versions
/// 12 to 18. The code of such an error is also that of values that are too large.
const KEY_ROUTINES: [&str; 3] = ["_bt_check_third_page", "index_form_tuple", "index_form_tuple_context"];

/// The C function that finds out that a prepared statement doesn't fit to the table
/// any longer.
const STALE_ROUTINE: &str = "RevalidateCachedQuery";

/// The meaning of the error of a statement that was sent. Errors are recognised by
/// their codes: their words are in the server's language.
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
    if is_fatal(server) || code.code().starts_with("57P") {
        let why = format!("{place}: {}", server.message());
        return Fault::Lost(Lost::Unknown(Error::Connection(why)));
    }
    let said = words(error);
    let from = |routines: &[&str]| server.routine().is_some_and(|routine| routines.contains(&routine));
    match code {
        &SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE => Fault::Divide(Error::Timeout(said)),
        &SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE => {
            Fault::Lost(Lost::Undone(Error::Backend(said)))
        }
        &SqlState::READ_ONLY_SQL_TRANSACTION => Fault::Elsewhere(Error::Backend(said)),
        &SqlState::UNDEFINED_TABLE => Fault::NoTable(Error::Backend(said)),
        &SqlState::FEATURE_NOT_SUPPORTED if from(&[STALE_ROUTINE]) => Fault::Stale(Error::Backend(said)),
        &SqlState::INVALID_TEXT_REPRESENTATION | &SqlState::UNTRANSLATABLE_CHARACTER => {
            Fault::Divide(Error::InvalidValue(said))
        }
        &SqlState::PROGRAM_LIMIT_EXCEEDED if from(&KEY_ROUTINES) => Fault::Divide(Error::KeyTooLong(said)),
        &SqlState::DUPLICATE_TABLE | &SqlState::UNIQUE_VIOLATION | &SqlState::DUPLICATE_OBJECT => {
            Fault::Raced(Error::Backend(said))
        }
        &SqlState::INSUFFICIENT_PRIVILEGE => Fault::Denied(Error::Backend(said)),
        _ if code.code().starts_with("54") => Fault::Divide(Error::ValueTooLarge(said)),
        _ if code.code().starts_with("22") || code.code().starts_with("23") => Fault::Divide(Error::Backend(said)),
        _ => Fault::Final(Error::Backend(said)),
    }
}

/// Whether a prepared statement failed because a pooler has passed it to a session
/// that doesn't have it. Nothing was carried out then.
pub fn is_other_session(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|server| {
        let code = server.code();
        !is_fatal(server)
            && [
                SqlState::INVALID_SQL_STATEMENT_NAME,
                SqlState::DUPLICATE_PSTATEMENT,
                SqlState::PROTOCOL_VIOLATION,
            ]
            .contains(code)
    })
}

fn is_fatal(server: &DbError) -> bool {
    match server.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        // Poolers send it once only. They speak English.
        None => matches!(server.severity(), "FATAL" | "PANIC"),
    }
}

/// What an answer that is larger than allowed means. The connection has ended.
pub fn too_large(error: TooLarge, place: &str, reads: bool) -> Fault {
    let error = Error::Backend(format!("{place}: {error}"));
    if reads {
        // Each part of it may be small enough.
        Fault::Divide(error)
    } else {
        Fault::Lost(Lost::Unknown(error))
    }
}

/// The key is the only parameter, so that is what the server can't take.
pub fn blame_key(fault: Fault) -> Fault {
    match fault {
        Fault::Divide(Error::InvalidValue(words)) => Fault::Divide(Error::InvalidKey(words)),
        fault => fault,
    }
}

/// Why there is no connection.
pub fn refusal(error: &tokio_postgres::Error, place: &str) -> Refusal {
    if let Some(TlsRefusal { words, lasting }) = TlsRefusal::find(error) {
        return Refusal {
            error: Error::Connection(format!("{place}: {words}")),
            lasting,
        };
    }
    let lasting = error.code().is_some_and(|code| {
        // A refused login, or a missing database.
        code.code().starts_with("28") || code.code().starts_with("3D") || code.code() == "42501"
    });
    let error = match innermost(error).downcast_ref::<TooLarge>() {
        Some(error) => Error::Backend(format!("{place}: {error}")),
        None => Error::Connection(format!("{place}: {}", words(error))),
    };
    Refusal { error, lasting }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::runtime::Builder;
    use tokio_postgres::{Config, NoTls};

    /// The error that the driver makes of a server's answer with these fields.
    fn error(fields: &[(u8, &str)]) -> tokio_postgres::Error {
        let mut body = Vec::new();
        for (name, text) in fields {
            body.push(*name);
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        let length = u32::try_from(body.len() + 4).unwrap();
        let answer = [&b"E"[..], &length.to_be_bytes(), &body].concat();
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (client, mut server) = duplex(4096);
            let mut config = Config::new();
            config.user("me").ssl_mode(tokio_postgres::config::SslMode::Disable);
            let answers = async {
                server.read_u8().await.unwrap();
                server.write_all(&answer).await.unwrap();
            };
            let (connected, ()) = futures::join!(config.connect_raw(client, NoTls), answers);
            connected.err().unwrap()
        })
    }

    /// As a server with German messages sends it.
    fn german(code: &str, routine: &str) -> tokio_postgres::Error {
        error(&[
            (b'S', "FEHLER"),
            (b'V', "ERROR"),
            (b'C', code),
            (b'M', "das geht nicht"),
            (b'R', routine),
        ])
    }

    #[test]
    fn errors_are_known_in_any_language() {
        let stale = fault(&german("0A000", "RevalidateCachedQuery"), "");
        assert!(matches!(stale, Fault::Stale(_)), "{stale:?}");
        let other = fault(&german("0A000", "transformFromClause"), "");
        assert!(matches!(other, Fault::Final(Error::Backend(_))), "{other:?}");
        for routine in KEY_ROUTINES {
            let long = fault(&german("54000", routine), "");
            assert!(matches!(long, Fault::Divide(Error::KeyTooLong(_))), "{long:?}");
        }
        for routine in ["checkStringLen", "convertJsonbArray", "enlargeStringInfo"] {
            let large = fault(&german("54000", routine), "");
            assert!(matches!(large, Fault::Divide(Error::ValueTooLarge(_))), "{large:?}");
        }
        let standby = fault(&german("25006", "PreventCommandIfReadOnly"), "");
        assert!(matches!(standby, Fault::Elsewhere(_)), "{standby:?}");
    }

    #[test]
    fn poolers_are_known_by_errors_that_leave_the_connection_open() {
        for code in ["26000", "42P05", "08P01"] {
            assert!(is_other_session(&german(code, "FetchPreparedStatement")));
            for fields in [
                &[(b'S', "FATAL"), (b'C', code), (b'M', "no")][..],
                &[(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', "nein")],
            ] {
                let fatal = error(fields);
                assert!(!is_other_session(&fatal));
                let ended = fault(&fatal, "here");
                assert!(matches!(ended, Fault::Lost(Lost::Unknown(Error::Connection(_)))));
            }
        }
        assert!(!is_other_session(&german("42P01", "parserOpenTable")));
    }

    #[test]
    fn an_answer_that_is_too_large_is_told_by_its_type() {
        let limit = TooLarge::Answer(1000);
        let Fault::Divide(Error::Backend(words)) = too_large(limit, "here", true) else {
            panic!("reads are divided");
        };
        assert!(words.contains("1000 bytes"), "{words}");
        let unknown = too_large(limit, "here", false);
        assert!(matches!(unknown, Fault::Lost(Lost::Unknown(Error::Backend(_)))));
    }
}
