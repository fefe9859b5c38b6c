//! Groups: operations that run together, as a few statements on one connection.
//!
//! A statement about many keys fails or waits as a whole. If it does, because of a
//! value that can't be stored or a lock that another client holds, its operations
//! are divided until those are alone.

use super::attempt::Limits;
use super::cancel::within;
use super::engine::Lost;
use super::fault::{Fault, about};
use super::operation::Operation;
use super::pool::{Connect, Pool};
use super::worker::missing;
use crate::kv::{Error, Outcome, Reply};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::Instant;

/// A failed statement is divided into this many parts.
const PARTS: usize = 8;

/// A statement about many keys is late after one part in so many of the time that
/// is left.
const SHARE: u32 = 4;

/// Operations that an engine runs together, until a deadline.
pub struct Group {
    pub operations: Vec<Arc<Operation>>,
    pub deadline: Instant,
    sent: AtomicBool,
}

impl Group {
    pub fn new(operations: Vec<Arc<Operation>>, deadline: Instant) -> Self {
        Self {
            operations,
            deadline,
            sent: AtomicBool::new(false),
        }
    }

    /// From now on, the server may carry its operations out.
    pub fn send(&self) {
        self.sent.store(true, Ordering::Relaxed);
    }

    pub fn is_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }
}

type Answer = Result<Outcome, Lost>;

/// What an attempt has brought one of the operations.
pub type Attempt = Result<Reply, Fault>;

/// An engine that runs groups as statements on one connection of a pool.
pub trait PooledEngine: Sync {
    type Connect: Connect;

    fn pool(&self) -> &Arc<Pool<Self::Connect>>;

    /// The outcome of an operation that needs no server.
    fn refuse(&self, operation: &Operation) -> Option<Outcome>;

    /// Makes sure that the table can be used, unless that is known.
    fn check(&self, limits: Limits) -> impl Future<Output = Result<(), Fault>> + Send;

    /// The table has changed, or is `missing`: creates it, and looks at it again.
    /// Returns whether statements may succeed now.
    fn renew(&self, missing: bool, limits: Limits) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Runs the statements of some operations. The result has one attempt for each,
    /// in their order.
    fn attempt(
        &self,
        connection: &<Self::Connect as Connect>::Connection,
        operations: &[&Operation],
    ) -> impl Future<Output = Vec<Attempt>> + Send;
}

/// Runs a group. Returns an answer for each operation.
pub async fn run<E: PooledEngine>(engine: &E, group: &Group) -> Vec<Answer> {
    let refused = group
        .operations
        .iter()
        .map(|operation| engine.refuse(operation).map(Ok));
    let mut answers: Vec<Option<Answer>> = refused.collect();
    let some: Vec<usize> = (0..answers.len()).filter(|index| answers[*index].is_none()).collect();
    let operations: Vec<&Operation> = some.iter().map(|index| &*group.operations[*index]).collect();
    let found = if operations.is_empty() {
        Vec::new()
    } else if let Err(fault) = engine.check(Limits::until(group.deadline)).await {
        let failed = |operation| settle(Err(fault.clone()), operation);
        operations.into_iter().map(failed).collect()
    } else {
        divide(engine, group, operations).await
    };
    for (index, answer) in some.into_iter().zip(found) {
        answers[index] = Some(answer);
    }
    answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(|| Ok(Err(missing()))))
        .collect()
}

/// Runs operations together, and separately those that fail so.
fn divide<'a, E: PooledEngine>(
    engine: &'a E,
    group: &'a Group,
    operations: Vec<&'a Operation>,
) -> BoxFuture<'a, Vec<Answer>> {
    async move {
        let mut attempts = attempt(engine, group, &operations).await;
        let faulty = |wanted: fn(&Fault) -> bool, attempts: &[Attempt]| -> Vec<usize> {
            let found = |index: &usize| attempts[*index].as_ref().is_err_and(wanted);
            (0..attempts.len()).filter(found).collect()
        };
        // With a new table, plan or session, once more.
        let again = faulty(|fault| matches!(fault, Fault::NoTable(_) | Fault::Stale(_)), &attempts);
        if !again.is_empty() && renew(engine, &mut attempts, &again, group.deadline).await {
            let operations: Vec<_> = again.iter().map(|index| operations[*index]).collect();
            let renewed = attempt(engine, group, &operations).await;
            for (index, attempt) in again.into_iter().zip(renewed) {
                attempts[index] = attempt.map_err(|fault| match fault {
                    // Other clients drop it at the same time.
                    Fault::NoTable(error) => Fault::Lost(Lost::Undone(error)),
                    fault => fault,
                });
            }
        }
        let mut parts: Vec<Vec<usize>> = Vec::new();
        if operations.len() > 1 {
            let apart = faulty(|fault| matches!(fault, Fault::Divide(_)), &attempts);
            let size = apart.len().div_ceil(PARTS).max(1);
            parts = apart.chunks(size).map(<[usize]>::to_vec).collect();
        }
        let answers = join_all(parts.iter().map(|part| {
            let operations = part.iter().map(|index| operations[*index]).collect();
            divide(engine, group, operations)
        }))
        .await;
        let mut all: Vec<Answer> = attempts
            .into_iter()
            .zip(&operations)
            .map(|(attempt, operation)| settle(attempt, operation))
            .collect();
        for (index, answer) in parts.into_iter().flatten().zip(answers.into_iter().flatten()) {
            all[index] = answer;
        }
        all
    }
    .boxed()
}

/// Looks at the table again; whether to retry.
async fn renew<E: PooledEngine>(engine: &E, attempts: &mut [Attempt], again: &[usize], deadline: Instant) -> bool {
    let is_missing = |index: &usize| matches!(attempts[*index], Err(Fault::NoTable(_)));
    let missing = again.iter().any(is_missing);
    match engine.renew(missing, Limits::until(deadline)).await {
        Ok(renewed) => renewed,
        Err(fault) => {
            for index in again {
                attempts[*index] = Err(fault.clone());
            }
            false
        }
    }
}

/// One attempt, on one connection.
async fn attempt<E: PooledEngine>(engine: &E, group: &Group, operations: &[&Operation]) -> Vec<Attempt> {
    let pool = engine.pool();
    let lease = match pool.take(group.deadline).await {
        Ok(lease) => lease,
        Err(lost) => return vec![Err(Fault::Lost(lost)); operations.len()],
    };
    let limits = match operations.len() {
        1 => Limits::until(group.deadline),
        _ => Limits::share(group.deadline, SHARE),
    };
    let withdrawn = || {
        Err(Fault::Lost(Lost::Undone(Error::Timeout(
            "rejected before it was sent".into(),
        ))))
    };
    let mut attempts: Vec<Attempt> = operations.iter().map(|_| withdrawn()).collect();
    let wanted = |index: &usize| !operations[*index].is_withdrawn();
    let wanted: Vec<usize> = (0..operations.len()).filter(wanted).collect();
    let some: Vec<&Operation> = wanted.iter().map(|index| operations[*index]).collect();
    group.send();
    let made = match within(&*lease, limits, Box::pin(engine.attempt(&lease, &some))).await {
        Ok(made) => made,
        Err(error) => vec![Err(Fault::Lost(Lost::Unknown(error))); some.len()],
    };
    let elsewhere = |attempt: &Attempt| matches!(attempt, Err(Fault::Elsewhere(_)));
    let written = |(operation, attempt): (&&Operation, &Attempt)| attempt.is_ok() && !operation.is_get();
    if made.iter().any(elsewhere) {
        pool.demote();
    } else if some.iter().zip(&made).any(written) {
        pool.note_write();
    }
    for (index, attempt) in wanted.into_iter().zip(made) {
        attempts[index] = attempt;
    }
    attempts
}

fn settle(attempt: Attempt, operation: &Operation) -> Answer {
    match attempt {
        Ok(reply) => Ok(Ok(reply)),
        Err(fault @ (Fault::Lost(_) | Fault::Elsewhere(_))) => Err(fault.lost()),
        Err(fault) => Ok(Err(about(fault.error(), &operation.key))),
    }
}
