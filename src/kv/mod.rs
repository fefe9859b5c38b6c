//! The domain: keys, values, ttls, pages, and the trait of all stores.
//!
//! It depends on neither JavaScript nor any engine. Stores implement [`Store`],
//! and the binding calls it.

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
