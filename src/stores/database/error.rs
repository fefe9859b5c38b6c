//! What SQLite's errors mean to a caller.

use crate::kv::Error;
use rusqlite::{ErrorCode, ffi};

/// SQLite's message with our code.
impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let words = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Timeout(format!(
                "another process kept its lock for longer than busyTimeout ({words})"
            )),
            Some(ErrorCode::CannotOpen | ErrorCode::NotADatabase) => Self::Connection(words),
            Some(ErrorCode::TooBig) => Self::ValueTooLarge(words),
            _ => Self::Backend(words),
        }
    }
}

/// SQLite has no error code for a missing table.
pub fn is_missing_table(error: &Error) -> bool {
    matches!(error, Error::Backend(words) if words.contains("no such table"))
}

/// Whether a transaction whose COMMIT failed with this error may be found
/// committed later. If the commit's last frame was written, but its sync failed,
/// recovery after a crash finds a whole commit. On a full disk that frame is
/// certainly incomplete.
pub fn may_have_committed(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|failure| {
        failure.code == ErrorCode::SystemIoFailure
            && !matches!(
                failure.extended_code,
                ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ
            )
    })
}
