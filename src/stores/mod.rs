//! The engines, one room each. None of them knows JavaScript.

mod memory;
mod sqlite;
mod worker;

pub use memory::MemoryStore;
pub use sqlite::{Durability, SqliteOptions, SqliteStore};

#[cfg(test)]
mod tests;
