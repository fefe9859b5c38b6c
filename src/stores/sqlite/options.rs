//! The options of a SQLite store.

use crate::kv::{Prefix, Result};
use crate::stores::check_table_name;
use crate::stores::database::{Durability, Options};
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct SqliteOptions {
    pub table: String,
    /// The table exists: never create it.
    pub initialized: bool,
    pub durability: Durability,
    /// Writes under these prefixes need no sync to disk.
    pub relaxed: Vec<Prefix>,
    /// How long to wait for a lock that another process holds.
    pub busy_timeout: Duration,
    /// The longest pause between two searches for expired entries:
    /// another process may have written some.
    pub sweep_interval: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            table: "fedify_kv".into(),
            initialized: false,
            durability: Durability::Full,
            relaxed: Vec::new(),
            busy_timeout: Duration::from_secs(5),
            sweep_interval: Duration::from_secs(60),
        }
    }
}

impl SqliteOptions {
    /// Sets the table's name, by the rule of Fedify's own store.
    ///
    /// # Errors
    ///
    /// [`Error::OptionOutOfRange`](crate::kv::Error::OptionOutOfRange) for what is not a
    /// plain SQL identifier.
    pub fn table(mut self, name: String) -> Result<Self> {
        check_table_name(&name, 64)?;
        self.table = name;
        Ok(self)
    }

    pub(super) fn of_database(&self) -> Options {
        Options {
            durability: self.durability,
            relaxed: self.relaxed.clone(),
            busy_timeout: self.busy_timeout,
            sweep_interval: self.sweep_interval,
        }
    }
}
