//! A Deno KV database file, as Deno's own engine (`denokv_sqlite`) keeps it.
//!
//! We read and write it on connections of our own, not through that engine. The
//! engine's thread waits for locks without a time limit, can report an error
//! after it has committed a part of a write, and panics when the disk is full. An
//! operation then could keep neither its deadline nor say what has happened. Our
//! statements follow the engine's; tests compare the results of both.

mod entries;
mod format;
mod rows;
mod schema;

use crate::stores::database::{DatabaseStore, Durability, Location, Options};
use format::DenoFormat;
use std::time::Duration;

pub type FileStore = DatabaseStore<DenoFormat>;

/// The longest pause between two searches for expired entries:
/// another process may have written some.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

impl FileStore {
    pub fn at(location: Location, busy_timeout: Duration) -> Self {
        let options = Options {
            durability: Durability::Full,
            relaxed: Vec::new(),
            busy_timeout,
            sweep_interval: SWEEP_INTERVAL,
        };
        Self::new(location, DenoFormat, options)
    }
}

#[cfg(test)]
mod tests;
