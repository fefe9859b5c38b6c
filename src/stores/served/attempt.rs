//! Attempts: what follows from one that brought no outcome.

use super::backoff;
use super::engine::Lost;
use crate::host::{sleep, timeout_at};
use crate::kv::{Error, Result};
use futures::FutureExt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::time::Instant;

/// How long before its deadline a statement is cancelled at the latest, so that the
/// server has time to say that it was.
const GRACE: Duration = Duration::from_secs(1);

/// The time that an attempt has.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// When the server is told to cancel it.
    pub late: Instant,
    /// When the connection is given up if the server has not answered.
    pub deadline: Instant,
}

impl Limits {
    pub fn until(deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        Self {
            late: deadline - GRACE.min(left / 4),
            deadline,
        }
    }

    /// For an attempt that may be followed by others: one part in so many of the
    /// time that is left.
    pub fn share(deadline: Instant, parts: u32) -> Self {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / parts;
        Self {
            late: Self::until(deadline).late.min(now + share),
            deadline,
        }
    }
}

/// What follows from an attempt without an outcome.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Reject(Error),
    /// The error is for when time runs out.
    Repeat(Error),
}

/// What the attempts at an operation have come to so far.
#[derive(Debug, Default)]
pub struct Attempts {
    /// How many have brought no outcome.
    pub failures: u32,
    /// Why one of them brought no outcome: the last reason that tells more than
    /// that time ran out.
    pub trouble: Option<Error>,
}

impl Attempts {
    /// Takes an attempt's failure. What was certainly not carried out is repeated,
    /// and what may have been only if it is `repeatable`: a write that is carried
    /// out twice may undo another client's in between.
    pub fn fail(&mut self, lost: Lost, repeatable: bool) -> Next {
        self.failures += 1;
        match lost {
            Lost::Refused { error, lasting: true } => Next::Reject(self.rather_trouble(error)),
            Lost::Unknown(error) if !repeatable => Next::Reject(self.rather_trouble(error).with_unknown_outcome()),
            Lost::Refused { error, .. } | Lost::Undone(error) | Lost::Unknown(error) => {
                let error = self.rather_trouble(error);
                self.trouble = Some(error.clone());
                Next::Repeat(error)
            }
        }
    }

    pub fn rather_trouble(&self, error: Error) -> Error {
        match (&self.trouble, error) {
            (Some(trouble), Error::Timeout(_)) => trouble.clone(),
            (_, error) => error,
        }
    }

    /// How long to wait before the next attempt.
    pub fn pause(&self) -> Duration {
        backoff::pause(self.failures)
    }
}

/// Tries until there is an outcome or time runs out.
///
/// # Errors
///
/// Those of the last attempt.
pub async fn persist<T, F: Future<Output = Result<T, Lost>>>(
    limit: Duration,
    repeatable: bool,
    mut attempt: impl FnMut(Limits) -> F,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    // Later there is no time to cancel another attempt.
    let late = Limits::until(deadline).late;
    let mut attempts = Attempts::default();
    loop {
        let error = match attempt(Limits::until(deadline)).await {
            Ok(outcome) => return Ok(outcome),
            Err(lost) => match attempts.fail(lost, repeatable) {
                Next::Reject(error) => return Err(error),
                Next::Repeat(error) => error,
            },
        };
        let pause = attempts.pause();
        if timeout_at(late, sleep(pause)).await.is_err() || Instant::now() >= late {
            return Err(error);
        }
    }
}

/// Runs a part of a store's work. If it panics, that part alone has failed.
///
/// # Errors
///
/// [`Error::Backend`] after a panic.
pub async fn guard<T>(work: impl Future<Output = T>) -> Result<T> {
    // All state that the work shares with others is behind locks that a panic
    // does not break.
    catch(work).await.map_err(|words| {
        let words = words.as_deref().unwrap_or("without words");
        Error::Backend(format!("internal error: {words}"))
    })
}

/// Catches a panic, and returns its words if it has some.
pub async fn catch<T>(work: impl Future<Output = T>) -> Result<T, Option<String>> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned())
    })
}
