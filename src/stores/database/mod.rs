//! Stores that keep a SQLite database: [`DatabaseStore`], in any [`Format`].
//!
//! This module has all that they share: the order of operations, transactions,
//! deadlines, unknown outcomes, the upkeep of the log. It does not know the
//! tables.

mod blocked;
mod checkpoint;
mod claim;
mod clear;
mod connection;
mod error;
mod file;
mod format;
mod inline;
mod list;
mod location;
mod notes;
mod open;
mod position;
pub mod queue;
mod recent;
mod snapshot;
mod store;
mod transaction;
mod upkeep;
mod wal;
mod writer;

pub use connection::{Connection, Durability};
pub use error::is_missing_table;
pub use format::{Done, Expiry, Format, Found, Slice};
pub use list::read_page;
pub use location::Location;
pub use position::{Position, Range};
pub use store::{DatabaseStore, Options};

use checkpoint::{Checkpoints, Log};
use error::may_have_committed;
use file::DatabaseFile;
use notes::Notes;
use snapshot::{HOLD, Snapshot};
use wal::WalIndex;
