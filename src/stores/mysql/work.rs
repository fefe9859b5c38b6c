//! Work on a connection that can be tried and retried.

use super::connection::Connection;
use super::failure::Failure;
use std::future::Future;

pub trait Work: Send {
    type Answer: Send;

    /// Does the rest of the work. If an attempt fails, its transaction is
    /// rolled back before the next attempt.
    fn attempt(&mut self, connection: &mut Connection) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;
}
