//! The domain: what a key, a value, a ttl, a page and a store are.
//!
//! Nothing in here knows JavaScript or any engine. Stores implement [`Store`],
//! the binding calls it.

mod answer;
mod command;
mod error;
mod json;
mod key;
mod page;
mod store;
mod ttl;

pub use answer::{Answer, Outbox, Ticket};
pub use command::{Command, Reply, Write};
pub use error::{Error, Outcome, Result};
pub use json::JsonText;
pub use key::{Key, KeyBuilder, Prefix};
pub use page::{Page, PageLimits, Pages};
pub use store::{Job, ListExecutor, Store, Task};
pub use ttl::{Lifetime, Millis, Ttl, now};
