//! The engines, one room each. None of them knows JavaScript.

mod memory;
mod mysql;
mod postgres;
mod redis;
mod served;
mod sql;
mod sqlite;
mod worker;

pub use memory::MemoryStore;
pub use mysql::{MysqlOptions, MysqlStore};
pub use postgres::{PostgresOptions, PostgresStore};
pub use redis::{RedisOptions, RedisStore};
pub use served::TlsOptions;
pub use sqlite::{Durability, SqliteOptions, SqliteStore};

#[cfg(test)]
mod tests;
