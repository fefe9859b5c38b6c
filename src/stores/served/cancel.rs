//! Statements that are late: the server is told to cancel them, and only if it does
//! not answer that either, the connection is given up.

use super::attempt::Limits;
use super::pool::Pooled;
use crate::host::{Task, sleep, timeout_at};
use crate::kv::{Error, Result};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The pause before the server is told again, doubled each time.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the server may take for what a store does on its own account.
pub const GRACE: Duration = Duration::from_secs(1);

/// What is known of a connection's statements.
#[derive(Debug, Default)]
pub struct Health {
    busy: AtomicBool,
    given_up: AtomicBool,
}

impl Health {
    /// Whether statements are under way. If nobody waits for them any more, they
    /// were abandoned.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

/// Waits for statements on a connection, and has the server cancel them when they
/// are late. A cancelled statement returns its own error.
///
/// # Errors
///
/// [`Error::Timeout`] if the server has not answered at the deadline. The
/// connection is given up, and the outcome is unknown.
pub async fn within<C: Pooled, T>(connection: &C, limits: Limits, statements: impl Future<Output = T>) -> Result<T> {
    let health = connection.health();
    health.busy.store(true, Ordering::Relaxed);
    connection.begin();
    let result = until(connection, limits, statements).await;
    health.busy.store(false, Ordering::Relaxed);
    result
}

/// For statements that the caller has given up: has the server cancel them. If that
/// fails, the connection is given up.
pub async fn end_abandoned<C: Pooled>(connection: &C) {
    let now = Instant::now();
    let limits = Limits {
        late: now + PAUSE,
        deadline: now + GRACE,
    };
    let _ = within(connection, limits, connection.settle()).await;
}

async fn until<C: Pooled, T>(
    connection: &C,
    Limits { late, deadline }: Limits,
    statements: impl Future<Output = T>,
) -> Result<T> {
    let mut statements = pin!(statements);
    if let Ok(result) = timeout_at(late, &mut statements).await {
        return Ok(result);
    }
    let mut pause = PAUSE;
    let mut cancels = Vec::new();
    let in_time = timeout_at(deadline, async {
        loop {
            // Each statement that was sent ahead has to be cancelled. A task of its
            // own, which continues after the statement has ended; see `outlast`.
            cancels.push(connection.cancel());
            tokio::select! {
                biased;
                result = &mut statements => return result,
                () = sleep(pause) => pause *= 2,
            }
        }
    });
    if let Ok(result) = in_time.await {
        outlast(connection, cancels, deadline).await;
        return Ok(result);
    }
    connection.health().give_up();
    Err(Error::Timeout(format!("{}: no answer in time", connection.place())))
}

/// Waits until all requests to cancel have arrived: a late one would cancel the
/// next statement instead.
async fn outlast<C: Pooled>(connection: &C, cancels: Vec<Task<()>>, deadline: Instant) {
    let arrived = async {
        for cancel in cancels {
            let _ = cancel.await;
        }
        // What arrives late hits this empty statement.
        connection.settle().await;
    };
    if timeout_at(deadline, arrived).await.is_err() {
        connection.health().give_up();
    }
}
