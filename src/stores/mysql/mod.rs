//! MySQL and MariaDB, in the format of Fedify's own MySQL store.
//!
//! All SQL is what MySQL 8 and MariaDB 10.7 share. One engine ([`engine`])
//! answers the common worker's requests: it turns groups of operations
//! ([`group`]) into few statements ([`statements`]), each on one connection
//! ([`connection`]) of a pool ([`pool`]).

mod catalogue;
mod connection;
mod engine;
mod failure;
mod group;
mod pool;
mod statements;
mod table;
mod tls;
mod url;
mod walk;
mod work;

use super::check_table_name;
use super::served::{ServedStore, TlsOptions};
use crate::host::{Bulk, Host};
use crate::kv::Result;
use engine::MysqlEngine;
use std::time::Duration;

#[derive(Clone)]
pub struct MysqlOptions {
    pub table: String,
    /// The table exists: never create it.
    pub initialized: bool,
    pub max_connections: usize,
    pub connect_timeout: Duration,
    pub query_timeout: Duration,
    /// The most operations that may be queued.
    pub queue_limit: usize,
    pub tls: Option<TlsOptions>,
}

impl Default for MysqlOptions {
    fn default() -> Self {
        Self {
            table: "fedify_kv".into(),
            initialized: false,
            max_connections: 4,
            connect_timeout: Duration::from_secs(5),
            query_timeout: Duration::from_secs(5),
            queue_limit: 100_000,
            tls: None,
        }
    }
}

impl MysqlOptions {
    /// Sets the table's name, by the rules of Fedify's own store.
    ///
    /// # Errors
    ///
    /// [`Error::OptionOutOfRange`] if it is not a plain identifier, or leaves no
    /// room for the index's name.
    pub fn table(mut self, name: String) -> Result<Self> {
        check_table_name(&name, 50)?;
        self.table = name;
        Ok(self)
    }
}

pub type MysqlStore = ServedStore<MysqlEngine>;

impl MysqlStore {
    /// A store in the database that a URL names.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for invalid URLs and options.
    pub fn at(url: &str, options: &MysqlOptions) -> Result<Self> {
        let engine = MysqlEngine::new(url, options)?;
        // The driver owns its socket.
        Ok(Self::new(engine, options.queue_limit, Host::Thread, Bulk::Here))
    }
}
