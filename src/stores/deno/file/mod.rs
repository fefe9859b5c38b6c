//! A Deno KV database file, as Deno's own engine (`denokv_sqlite`) keeps it.
//!
//! We read and write it on connections of ours, not through that engine. The
//! engine's thread waits for locks without an end, answers with an error where
//! it commits a part of a write, and panics when the disk is full; an operation
//! could then keep neither its deadline nor its outcome. The format is what its
//! statements are; tests compare both.

mod entries;
mod format;
mod rows;
mod schema;

use crate::stores::database::{DatabaseStore, Durability, Location, Options};
use format::DenoFormat;
use std::time::Duration;

pub type FileStore = DatabaseStore<DenoFormat>;

/// How long to wait at most before looking for entries that have expired:
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
