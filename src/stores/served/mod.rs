//! What the stores on servers share. One task does all the work ([`worker`]): it
//! takes all queued operations, sees which may run ([`schedule`]), forms groups of
//! them, and runs several groups at once, each on a connection of its own
//! ([`pool`]). What was not carried out is tried again until its deadline
//! ([`attempt`]). Only the [`engine`] knows the kind of server.

mod asked;
mod attempt;
mod backoff;
mod cancel;
mod connect;
mod credentials;
mod engine;
mod fault;
mod group;
mod load;
mod operation;
mod pages;
mod pool;
mod schedule;
mod store;
mod sweep;
mod tls;
mod worker;

use crate::kv::{Answer, Job, Prefix, Task};
pub use asked::Asked;
pub use attempt::{Attempts, Limits, Next};
pub use backoff::pause;
pub use cancel::{GRACE, Health};
pub use connect::{connect, contain, look_up};
pub use credentials::{Credentials, Password};
pub use engine::{Cleared, Cursor, Engine, Lost, Row, Rows, Swept};
pub use fault::Fault;
pub use group::{Attempt, Group, PooledEngine, run};
pub use load::{Admission, Load};
pub use operation::{Action, Operation};
pub use pool::{Connect, Lease, Pool, PoolOptions, Pooled, Refusal};
pub use schedule::Progress;
pub use store::ServedStore;
pub use tls::{TlsOptions, TlsRefusal};
use tokio::sync::oneshot;

/// The largest number of connections that a caller may ask for.
pub const MOST_CONNECTIONS: u32 = 1_000;

/// Messages to the worker.
enum Message {
    Job(Job, Admission),
    /// Of a list. Answered once all earlier writes under its prefix are done.
    List(Prefix, oneshot::Sender<()>),
    Task(Task),
    Reindex(Answer, Admission),
}

impl From<Task> for Message {
    fn from(task: Task) -> Self {
        Self::Task(task)
    }
}
