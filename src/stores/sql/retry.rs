//! What has no outcome is tried again, for as long as a caller waits.

use super::engine::Lost;
use crate::kv::{Error, Result};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// Whether something may be done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    Freely,
    /// Not when nobody knows whether it was done.
    IfUndone,
}

/// The error to give up with, or `None` to try again.
pub fn verdict(lost: Lost, repeat: Repeat, patience: Instant) -> Option<Error> {
    match lost {
        Lost::Refused { error, lasting: true } => Some(error),
        Lost::Unknown(error) if repeat == Repeat::IfUndone => Some(error),
        lost if Instant::now() >= patience => Some(lost.error()),
        _ => None,
    }
}

/// Calls until there is an outcome or patience ends.
///
/// # Errors
///
/// What the last call met.
pub async fn persist<T, F: Future<Output = Result<T, Lost>>>(
    patience: Duration,
    repeat: Repeat,
    mut call: impl FnMut() -> F,
) -> Result<T> {
    let patience = Instant::now() + patience;
    loop {
        match call().await {
            Ok(outcome) => return Ok(outcome),
            Err(lost) => {
                if let Some(error) = verdict(lost, repeat, patience) {
                    return Err(error);
                }
            }
        }
    }
}
