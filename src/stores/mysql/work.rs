//! Work on a connection: what can be tried, and tried again.

use super::connection::Connection;
use super::failure::Failure;
use std::future::Future;

pub trait Work: Send {
    type Answer: Send;

    /// Does it, as far as it is not done yet. What an attempt that failed has
    /// left in a transaction is rolled back before the next.
    fn attempt(&mut self, connection: &mut Connection) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;
}
