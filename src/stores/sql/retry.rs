//! Retries operations that have no outcome, for as long as their caller waits.

use super::engine::Lost;
use crate::kv::{Error, Result};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// Whether an operation may be carried out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    Freely,
    /// Only if it was certainly not carried out.
    IfUndone,
}

/// The error to give up with, or `None` to retry.
pub fn verdict(lost: Lost, repeat: Repeat, patience: Instant) -> Option<Error> {
    match lost {
        Lost::Refused { error, lasting: true } => Some(error),
        Lost::Unknown(error) if repeat == Repeat::IfUndone => Some(error),
        lost if Instant::now() >= patience => Some(lost.error()),
        _ => None,
    }
}

/// Calls until there is an outcome or `patience` is over.
///
/// # Errors
///
/// The last call's error.
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
