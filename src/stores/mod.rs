//! The engines, one folder each. None of them knows JavaScript.

mod database;
mod deno;
mod memory;
mod mysql;
mod pending_writes;
mod postgres;
mod redis;
mod served;
mod sqlite;
mod table_faults;
mod worker;

use crate::kv::{Error, Result};

pub use database::Durability;
pub use deno::{DenoOptions, DenoStore};
pub use memory::MemoryStore;
pub use mysql::{MysqlOptions, MysqlStore};
pub use postgres::{PostgresOptions, PostgresStore};
pub use redis::{NatMap, RedisOptions, RedisStore};
pub use served::{Asked, Credentials, MOST_CONNECTIONS, Password, TlsOptions};
pub use sqlite::{SqliteOptions, SqliteStore};

/// A URL without white space around it: a file with a secret often ends with a
/// line break.
pub fn trimmed(url: &str) -> &str {
    // As `trim` in JavaScript, which includes the byte order mark.
    url.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// Whether a table's name follows the rule of Fedify's own stores, and has so
/// many bytes at most.
fn check_table_name(name: &str, most: usize) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts_well = |c: char| !c.is_ascii_digit();
    if name.len() <= most && name.chars().all(plain) && name.chars().next().is_some_and(starts_well) {
        return Ok(());
    }
    Err(Error::OptionOutOfRange(format!(
        "tableName must match /^[A-Za-z_][A-Za-z0-9_]{{0,{}}}$/, not {name:?}",
        most - 1
    )))
}

#[cfg(test)]
#[cfg(unix)]
mod durability_tests;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod fault_tests;
#[cfg(test)]
#[cfg(unix)]
mod test_client;
#[cfg(test)]
#[cfg(unix)]
mod test_vfs;
#[cfg(test)]
mod tests;
