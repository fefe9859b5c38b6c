//! The engines, one room each. None of them knows JavaScript.

mod deno;
mod files;
mod memory;
mod mysql;
mod pending;
mod postgres;
mod redis;
mod served;
mod sql;
mod sqlite;
mod worker;

pub use deno::{DenoOptions, DenoStore};
pub use memory::MemoryStore;
pub use mysql::{MysqlOptions, MysqlStore};
pub use postgres::{PostgresOptions, PostgresStore};
pub use redis::{RedisOptions, RedisStore};
pub use served::TlsOptions;
pub use sqlite::{Durability, SqliteOptions, SqliteStore};

#[cfg(test)]
mod tests;
