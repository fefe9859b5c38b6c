//! SQLite database files, for the stores that keep one: where a file is, which
//! file that is, connections to it, and the upkeep of its log.
//!
//! Nothing in here knows what the tables are.

mod checkpoint;
mod claim;
mod connection;
mod error;
mod file;
mod location;
pub mod queue;
mod snapshot;
mod wal;

pub use checkpoint::{Checkpoints, Log};
pub use connection::{Connection, Durability};
pub use error::{error, is_busy, is_missing_table, may_have_committed};
pub use file::DatabaseFile;
pub use location::Location;
pub use snapshot::{HOLD, Snapshot};
pub use wal::{Header, WalIndex};
