//! The engines, one room each. None of them knows JavaScript.

mod memory;
mod redis;
mod sqlite;
mod worker;

pub use memory::MemoryStore;
pub use redis::{RedisOptions, RedisStore, TlsOptions};
pub use sqlite::{Durability, SqliteOptions, SqliteStore};

#[cfg(test)]
mod tests;
