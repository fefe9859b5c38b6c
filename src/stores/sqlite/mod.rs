//! One SQLite database, in the format of Fedify's own SQLite store.

mod entries;
mod format;
mod options;
mod schema;
mod statements;
pub(in crate::stores) mod url;

use super::database::queue::Work;
use super::database::{DatabaseStore, Location};
use crate::kv::{Answer, Result};
use format::SqliteFormat;

pub use options::SqliteOptions;

pub type SqliteStore = DatabaseStore<SqliteFormat>;

impl SqliteStore {
    /// A store on a file, which the first operation creates if it doesn't exist.
    /// With `:memory:`, a database in memory that lasts until the store is closed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`](crate::kv::Error::InvalidOption) for a path that
    /// cannot be a file's.
    pub fn at(path: &str, options: SqliteOptions) -> Result<Self> {
        let location = Location::parse(path)?;
        let of_database = options.of_database();
        Ok(Self::new(location, SqliteFormat::new(options), of_database))
    }

    /// Rewrites the file without the space that deleted entries have left.
    pub fn compact(&self, answer: Answer) {
        self.submit_work(Work::Compact(answer));
    }
}
