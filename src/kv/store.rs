//! What every engine must be able to do.

use super::{Command, Outcome, PageLimits, Pages, Prefix};
use futures::future::BoxFuture;
use std::sync::Arc;

/// Names a command under way. The binding gives it out and gets it back.
pub type Ticket = usize;

/// A command on its way to a store's worker.
#[derive(Debug)]
pub struct Job {
    pub ticket: Ticket,
    pub command: Command,
}

/// Where a store's worker leaves outcomes. One call hands over a whole batch,
/// because what a call costs is the crossing.
pub trait Outbox: Send + Sync {
    fn deliver(&self, outcomes: Vec<(Ticket, Outcome)>);
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
    /// # Errors
    ///
    /// The command, for [`Store::submit`].
    fn answer(&self, command: Command) -> std::result::Result<Outcome, Command>;

    /// Queues a job. Jobs on one key take effect in the order of these calls,
    /// and every job's outcome is delivered exactly once.
    fn submit(&self, job: Job, outbox: &Arc<dyn Outbox>);

    /// How many bytes of this process's memory the entries take: 0 for stores
    /// that keep them elsewhere. Asked after every operation, so it must be
    /// cheap.
    fn memory(&self) -> usize {
        0
    }

    /// Prepares a list; nothing runs before its first page is asked for.
    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages>;

    /// Runs a list's task where its pages may be waited for. `None` says that
    /// pages come without waiting and may be asked for on the calling thread.
    fn reader(&self) -> Option<Arc<dyn Reader>>;
}

/// Where list tasks run.
pub trait Reader: Send + Sync {
    fn spawn(&self, task: Task);
}
