//! MySQL and MariaDB, in the format of Fedify's own MySQL store.
//!
//! All SQL is what MySQL 8 and MariaDB 10.7 share. The worker that the stores on
//! servers share ([`super::served`]) gathers operations. This module turns a group
//! of them into few statements ([`statements`]), each on one connection of a pool.

mod answer;
mod catalogue;
mod client;
mod connection;
mod failure;
mod group;
mod login;
mod parts;
mod public_key;
mod session;
mod statements;
mod table;
mod url;
mod walk;
mod wire;

use super::check_table_name;
use super::served::{
    Cleared, Credentials, Cursor, Engine, Fault, Group, Limits, Lost, Pool, PoolOptions, Rows, ServedStore, Swept,
    TlsOptions, run,
};
use crate::host::{Bulk, Host};
use crate::kv::{Outcome, Prefix, Result};
use connection::Connector;
use futures::future::BoxFuture;
use rustls::ClientConfig;
use statements::Statements;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use table::Table;
use tokio::time::Instant;
use url::Target;
use walk::{Range, sweep};

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
    pub credentials: Credentials,
    pub tls: Option<TlsOptions>,
    /// Whether the password may be encrypted by a key that the server sends, on a
    /// connection that is not encrypted.
    pub allow_public_key_retrieval: bool,
    /// How old a connection may become.
    pub max_lifetime: Duration,
    /// How long a connection may be unused.
    pub idle_timeout: Duration,
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
            credentials: Credentials::default(),
            tls: None,
            allow_public_key_retrieval: false,
            max_lifetime: Duration::from_secs(30 * 60),
            idle_timeout: Duration::from_secs(10 * 60),
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

/// The settings.
pub struct Settings {
    target: Target,
    tls: Option<TlsOptions>,
    credentials: Credentials,
    tls_config: OnceLock<Arc<ClientConfig>>,
    allows_key: bool,
    statements: Arc<Statements>,
    query_timeout: Duration,
    /// The server logs statements, which needs a stricter isolation level than
    /// we prefer.
    statement_log: AtomicBool,
}

pub type MysqlStore = ServedStore<Mysql>;

impl MysqlStore {
    /// A store in the database that a URL names.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`](crate::kv::Error::InvalidOption) for invalid URLs
    /// and options.
    pub fn at(url: &str, options: &MysqlOptions, host: Host) -> Result<Self> {
        let target = Target::parse(url)?;
        let tls = target.encryption.with(options.tls.clone())?;
        let statements = Arc::new(Statements::new(&options.table));
        let settings = Arc::new(Settings {
            target,
            tls,
            credentials: options.credentials.clone(),
            tls_config: OnceLock::new(),
            allows_key: options.allow_public_key_retrieval,
            statements: Arc::clone(&statements),
            query_timeout: options.query_timeout,
            statement_log: AtomicBool::new(false),
        });
        let bulk = host.bulk(Mysql::NAME);
        let connector = Connector {
            settings: Arc::clone(&settings),
            bulk: bulk.clone(),
        };
        let pool = Arc::new(Pool::new(
            connector,
            PoolOptions {
                max_connections: options.max_connections,
                connect_timeout: options.connect_timeout,
                max_lifetime: options.max_lifetime,
                idle_timeout: options.idle_timeout,
                known: false,
            },
        ));
        // One connection is left to the thread.
        let groups = match host {
            Host::Loop(_) => options.max_connections.saturating_sub(1).max(1),
            Host::Thread => options.max_connections,
        };
        let engine = Mysql {
            groups,
            bulk: bulk.clone(),
            table: Table::new(Arc::clone(&pool), statements, options.initialized),
            settings,
            pool,
        };
        Ok(Self::new(engine, options.queue_limit, host, bulk))
    }
}

pub struct Mysql {
    /// How many groups may run at once.
    groups: usize,
    bulk: Bulk,
    settings: Arc<Settings>,
    pool: Arc<Pool<Connector>>,
    table: Table,
}

impl Mysql {
    /// What work on many entries has come to. If there is no table, there are none.
    fn result<T: Default>(&self, result: Result<T, Fault>) -> Result<T, Lost> {
        match result {
            Err(Fault::NoTable(_)) if self.table.creates() => Ok(T::default()),
            Err(fault) => {
                if matches!(fault, Fault::Elsewhere(_)) {
                    self.pool.demote();
                }
                Err(fault.lost())
            }
            Ok(result) => Ok(result),
        }
    }
}

impl Drop for Mysql {
    fn drop(&mut self) {
        // A connection may be being opened.
        self.pool.abandon();
    }
}

impl Engine for Mysql {
    const NAME: &'static str = "mysql";

    type Walk = ();

    fn place(&self) -> &str {
        self.pool.place()
    }

    fn connections(&self) -> usize {
        self.groups
    }

    fn query_timeout(&self) -> Duration {
        self.settings.query_timeout
    }

    fn run<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Vec<Result<Outcome, Lost>>> {
        Box::pin(run(self, group))
    }

    fn read<'a>(
        &'a self,
        (): &'a (),
        prefix: &'a Prefix,
        after: Option<&'a Cursor>,
        entries: u32,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Rows, Lost>> {
        Box::pin(async move {
            self.table.check(limits).await.map_err(Fault::lost)?;
            let range = Range::new(prefix, after, entries);
            let lease = self.pool.take(limits.deadline).await?;
            let read = async {
                let mut session = lease.session().await;
                let rows = range.read(&mut session).await;
                lease.end(session, rows).await
            };
            self.result(lease.one(limits, read).await)
        })
    }

    fn clear<'a>(
        &'a self,
        (): &'a (),
        prefix: &'a Prefix,
        after: Option<&'a Cursor>,
        slice: u32,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Cleared, Lost>> {
        Box::pin(async move {
            self.table.check(limits).await.map_err(Fault::lost)?;
            let range = Range::new(prefix, after, slice);
            let lease = self.pool.take(limits.deadline).await?;
            let clear = async {
                let mut session = lease.session().await;
                let cleared = range.clear(&mut session).await;
                lease.end(session, cleared).await
            };
            self.result(lease.one(limits, clear).await)
        })
    }

    fn create(&self, limits: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move { self.table.create(limits).await.map_err(Fault::lost) })
    }

    fn drop_table(&self, limits: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move { self.table.drop(limits).await.map_err(Fault::lost) })
    }

    fn sweep<'a>(&'a self, _: Option<&'a Cursor>, slice: u32) -> BoxFuture<'a, Result<Swept, Lost>> {
        Box::pin(async move {
            if !self.table.is_ready() {
                return Ok(Swept::default());
            }
            let limits = Limits::until(Instant::now() + self.settings.query_timeout);
            let lease = self.pool.take(limits.deadline).await?;
            let sweep = async {
                let mut session = lease.session().await;
                let removed = sweep(&mut session, slice).await;
                lease.end(session, removed).await
            };
            let removed = self.result(lease.one(limits, sweep).await)?;
            Ok(Swept { removed, next: None })
        })
    }

    fn tend(&self) -> Option<Instant> {
        self.pool.tend()
    }

    fn forget(&self) {
        self.settings.credentials.password.forget();
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.pool.close())
    }
}
