//! What every engine must be able to do.

use super::{Answer, Command, Outcome, PageLimits, Pages, Prefix, Result};
use futures::future::BoxFuture;
use std::sync::Arc;

/// A command on its way to a store's worker, and the answer that it owes.
pub struct Job {
    pub command: Command,
    pub answer: Answer,
}

pub type Task = BoxFuture<'static, ()>;

/// One engine behind the common behaviour.
///
/// Creating a store does no I/O and starts no thread; the first job does.
/// Dropping it lets its worker finish the jobs it has, and then end.
pub trait Store: Send + Sync {
    /// Answers on the calling thread if that is cheaper than two thread
    /// wake-ups and cannot block; otherwise gives the command back.
    ///
    /// `follows_write` says that a write was answered here just before, and that
    /// its caller has not awaited it. More writes may follow at once.
    ///
    /// # Errors
    ///
    /// The command, which must then be submitted.
    fn answer(&self, command: Command, follows_write: bool) -> std::result::Result<Outcome, Command>;

    /// Whether writes in a row are cheaper as one batch than one by one on the
    /// calling thread. Only then does [`Store::answer`] get `follows_write`.
    fn groups_writes(&self) -> bool {
        false
    }

    /// Queues a job. Jobs on one key take effect in the order of these calls.
    fn submit(&self, job: Job);

    /// How many bytes of this process's memory the entries take: 0 for stores
    /// that keep them elsewhere. Asked after every operation, so it must be
    /// cheap.
    fn memory(&self) -> usize {
        0
    }

    /// Prepares a list; nothing runs before its first page is asked for.
    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages>;

    /// Where the task that pulls a list's pages runs. `None` says that pages
    /// never wait and may be pulled on the calling thread.
    ///
    /// # Errors
    ///
    /// [`super::Error::Connection`] where a thread can't be started.
    fn list_executor(&self) -> Result<Option<Arc<dyn ListExecutor>>>;
}

/// Runs the tasks of lists on a thread of the store.
pub trait ListExecutor: Send + Sync {
    fn spawn(&self, task: Task);
}
