//! PostgreSQL, in the format of Fedify's own PostgreSQL store.
//!
//! The worker that the stores on servers share ([`super::served`]) gathers
//! operations. This module turns a group of them into statements.

mod addresses;
mod cancel;
mod connection;
mod environment;
mod failure;
mod frames;
mod group;
mod open;
mod parameters;
mod password_file;
mod server;
mod session;
mod shape;
mod sql;
mod table;
mod tls;
mod url;
mod wire;

use super::served::{
    Cleared, Credentials, Cursor, Engine, Fault, Group, Limits, Lost, Password, Pool, PoolOptions, Row, Rows,
    ServedStore, Swept, TlsOptions, run,
};
use crate::host::{Bulk, Host};
use crate::kv::{Error, Key, Outcome, Prefix, Result};
use connection::{Connector, Parameter};
use environment::Environment;
use failure::blame_key;
use futures::future::BoxFuture;
use sql::{Sql, Statements, Stretch, TableStatements};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use table::{Sweeper, Table, Wait};
use tokio::time::Instant;
use url::Target;
use wire::{TextArray, check_prefix};

#[derive(Clone)]
pub struct PostgresOptions {
    pub table_name: Option<String>,
    /// Whether the table exists and is never to be created.
    pub initialized: bool,
    /// Whether the table may be unlogged, and is created so.
    pub unlogged: bool,
    pub max_connections: Option<usize>,
    pub connect_timeout: Option<Duration>,
    pub query_timeout: Duration,
    /// The most operations that may be queued.
    pub queue_limit: usize,
    pub credentials: Credentials,
    pub tls: Option<TlsOptions>,
    pub prepared_statements: Option<bool>,
    /// How old a connection may become.
    pub max_lifetime: Duration,
    /// How long a connection may be unused.
    pub idle_timeout: Duration,
    /// Writes under these prefixes don't wait until they are on disk.
    pub relaxed: Vec<Prefix>,
    /// The most bytes of an answer to one statement.
    pub max_answer_bytes: usize,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            table_name: None,
            initialized: false,
            unlogged: false,
            max_connections: None,
            connect_timeout: None,
            query_timeout: Duration::from_secs(5),
            queue_limit: 100_000,
            credentials: Credentials::default(),
            tls: None,
            prepared_statements: None,
            max_lifetime: Duration::from_secs(30 * 60),
            idle_timeout: Duration::from_secs(10 * 60),
            relaxed: Vec::new(),
            // jsonb holds at most half as much.
            max_answer_bytes: 512 * 1024 * 1024,
        }
    }
}

/// What neither the options nor the URL say.
const TABLE_NAME: &str = "fedify_kv_v2";
const MAX_CONNECTIONS: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings.
pub struct Settings {
    target: Target,
    password: Password,
    initialized: bool,
    query_timeout: Duration,
    /// Until a pooler turns out not to keep them.
    prepared_statements: AtomicBool,
    max_answer_bytes: usize,
}

pub type PostgresStore = ServedStore<Postgres>;

impl PostgresStore {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for invalid URLs and options.
    pub fn at(url: &str, options: PostgresOptions, host: Host) -> Result<Self> {
        let Credentials { user, password } = options.credentials;
        let target = Target::parse(url, &Environment::of_process()?, options.tls)?;
        let target = target.with(user.as_deref(), password.is_said());
        let hints = &target.hints;
        let queue_limit = options.queue_limit;
        let table_name = hints.table(options.table_name.unwrap_or_else(|| TABLE_NAME.into()));
        let sql = Statements::new(&table_name, false)?;
        let relaxed_sql = Statements::new(&table_name, true)?;
        let table = TableStatements::new(&table_name, options.unlogged)?;
        // An option wins over the URL.
        let max_connections = options.max_connections.or(hints.max_connections);
        let max_connections = max_connections.unwrap_or(MAX_CONNECTIONS);
        let connect_timeout = options.connect_timeout.or(hints.connect_timeout);
        let connect_timeout = connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let prepared_statements = options.prepared_statements.or(hints.prepared_statements);
        let settings = Arc::new(Settings {
            target,
            password,
            initialized: options.initialized,
            query_timeout: options.query_timeout,
            prepared_statements: AtomicBool::new(prepared_statements.unwrap_or(true)),
            max_answer_bytes: options.max_answer_bytes,
        });
        let bulk = host.bulk(Postgres::NAME);
        let connector = Connector {
            settings: Arc::clone(&settings),
            bulk: bulk.clone(),
        };
        let pool = Arc::new(Pool::new(
            connector,
            PoolOptions {
                max_connections,
                connect_timeout,
                max_lifetime: options.max_lifetime,
                idle_timeout: options.idle_timeout,
                known: false,
            },
        ));
        let table = Table::new(Arc::clone(&settings), Arc::clone(&pool), table, options.unlogged);
        // One connection is left to the thread.
        let groups = match host {
            Host::Loop(_) => max_connections.saturating_sub(1).max(1),
            Host::Thread => max_connections,
        };
        let engine = Postgres {
            groups,
            bulk: bulk.clone(),
            settings,
            pool,
            table,
            sql,
            relaxed_sql,
            relaxed: options.relaxed,
        };
        Ok(Self::new(engine, queue_limit, host, bulk))
    }
}

pub struct Postgres {
    /// How many groups may run at once.
    groups: usize,
    bulk: Bulk,
    settings: Arc<Settings>,
    pool: Arc<Pool<Connector>>,
    table: Arc<Table>,
    sql: Statements,
    /// For writes that don't wait until they are on disk.
    relaxed_sql: Statements,
    relaxed: Vec<Prefix>,
}

impl Postgres {
    /// Runs a statement of which there are many. A missing table has no rows.
    async fn query(
        &self,
        sql: &Sql,
        parameters: &[Parameter<'_>],
        limits: Limits,
    ) -> Result<Vec<tokio_postgres::Row>, Fault> {
        let lease = self.pool.take(limits.deadline).await.map_err(Fault::Lost)?;
        match lease.one(limits, lease.rows_once(sql, parameters)).await {
            Err(fault @ Fault::NoTable(_)) => {
                self.table.forget();
                if self.settings.initialized {
                    Err(fault)
                } else {
                    Ok(Vec::new())
                }
            }
            Err(fault @ Fault::Elsewhere(_)) => {
                self.pool.demote();
                Err(fault)
            }
            // Keys are the only parameters.
            result => result.map_err(blame_key),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A connection may be being opened.
        self.pool.abandon();
    }
}

impl Engine for Postgres {
    const NAME: &'static str = "postgres";

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

    fn is_relaxed(&self, key: &Key) -> bool {
        self.relaxed.iter().any(|prefix| prefix.contains_json(key.as_json()))
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
            check_prefix(prefix).map_err(lasting)?;
            self.check(limits).await?;
            let sql = self.sql.read(stretch(prefix, after), entries);
            let bounds = bounds(prefix, after);
            let rows = self.query(&sql, &parameters(&bounds), limits).await;
            let rows = rows.map_err(|fault| match fault {
                // Fewer entries may have an answer that is short enough.
                Fault::Divide(error) if entries > 1 => Lost::Undone(error),
                fault => fault.lost(),
            })?;
            // How many there were before those were left out that make it too long.
            let found = rows.first().map(|row| row.try_get::<_, i64>(2)).transpose();
            let found = found.map_err(unexpected)?.unwrap_or_default().unsigned_abs();
            let full = found == u64::from(entries) || found > rows.len() as u64;
            let mut next = None;
            let mut live = Vec::with_capacity(rows.len());
            for row in rows {
                let key: TextArray = row.try_get(0).map_err(unexpected)?;
                if let Some(value) = row.try_get::<_, Option<String>>(1).map_err(unexpected)? {
                    live.push(Row {
                        key: key.key_json(),
                        value: Some(value),
                    });
                }
                next = Some(key);
            }
            Ok(Rows {
                rows: live,
                next: next.filter(|_| full).map(TextArray::into_bytes),
            })
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
            check_prefix(prefix).map_err(lasting)?;
            self.check(limits).await?;
            let sql = self.sql.clear(stretch(prefix, after), slice);
            let (found, live, last) = self.slice(&sql, prefix, after, limits).await?;
            Ok(Cleared {
                live,
                next: last.filter(|_| found >= u64::from(slice)),
            })
        })
    }

    fn create(&self, limits: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move { self.table.create(limits, Wait::Patiently).await.map_err(Fault::lost) })
    }

    fn drop_table(&self, limits: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move {
            // Another program's table stays.
            self.table.look(limits).await.map_err(Fault::lost)?;
            let lease = self.pool.take(limits.deadline).await?;
            lease
                .one(limits, lease.run(&self.sql.drop))
                .await
                .map_err(Fault::lost)?;
            self.table.forget();
            Ok(())
        })
    }

    fn sweep<'a>(&'a self, after: Option<&'a Cursor>, slice: u32) -> BoxFuture<'a, Result<Swept, Lost>> {
        Box::pin(async move {
            if !self.table.is_checked() {
                // It may be another program's.
                return Ok(Swept::default());
            }
            let limits = Limits::until(Instant::now() + self.settings.query_timeout);
            let lease = match self.table.sweeper(limits).await? {
                Sweeper::This(lease) => lease,
                Sweeper::Busy => {
                    return Ok(Swept {
                        removed: 0,
                        next: Some(after.cloned().unwrap_or_default()),
                    });
                }
                Sweeper::Another => return Ok(Swept::default()),
            };
            let after = after.filter(|after| !after.is_empty());
            let sql = self.sql.sweep(stretch(&Prefix::ALL, after), slice);
            let bounds = bounds(&Prefix::ALL, after);
            let rows = lease.one(limits, lease.rows_once(&sql, &parameters(&bounds))).await;
            let (found, removed, last) = totals(&rows.map_err(Fault::lost)?)?;
            let next = last.filter(|_| found >= u64::from(slice));
            if next.is_none() {
                self.table.end_sweep(&lease, limits).await?;
            }
            Ok(Swept { removed, next })
        })
    }

    fn tend(&self) -> Option<Instant> {
        self.pool.tend()
    }

    fn forget(&self) {
        self.settings.password.forget();
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.pool.close())
    }
}

impl Postgres {
    /// Checks the table before an operation on many entries.
    async fn check(&self, limits: Limits) -> Result<(), Lost> {
        self.table.check(limits).await.map_err(Fault::lost)
    }

    /// Runs a statement that returns two numbers and the last key it saw.
    async fn slice(
        &self,
        sql: &Sql,
        prefix: &Prefix,
        after: Option<&Cursor>,
        limits: Limits,
    ) -> Result<(u64, u64, Option<Cursor>), Lost> {
        let bounds = bounds(prefix, after);
        let rows = self.query(sql, &parameters(&bounds), limits).await;
        totals(&rows.map_err(Fault::lost)?)
    }
}

/// The two numbers and the key in a row.
fn totals(rows: &[tokio_postgres::Row]) -> Result<(u64, u64, Option<Cursor>), Lost> {
    let Some(row) = rows.first() else {
        return Ok((0, 0, None));
    };
    let number = |index| row.try_get::<_, i64>(index).map(i64::unsigned_abs).map_err(unexpected);
    let last: Option<TextArray> = row.try_get(2).map_err(unexpected)?;
    Ok((number(0)?, number(1)?, last.map(TextArray::into_bytes)))
}

fn stretch(prefix: &Prefix, after: Option<&Cursor>) -> Stretch {
    Stretch::new(prefix.key().is_some(), after.is_some())
}

/// The bounds of the next entries. After a cursor the first bound is exclusive.
fn bounds(prefix: &Prefix, after: Option<&Cursor>) -> Vec<TextArray> {
    let first = match (after, prefix.key()) {
        (Some(after), _) => Some(TextArray::from_bytes(after.clone())),
        (None, key) => key.map(TextArray::of),
    };
    first.into_iter().chain(prefix.key().map(TextArray::end_of)).collect()
}

fn parameters(bounds: &[TextArray]) -> Vec<Parameter<'_>> {
    bounds.iter().map(|bound| bound as Parameter<'_>).collect()
}

fn lasting(error: Error) -> Lost {
    Lost::Refused { error, lasting: true }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn unexpected(error: tokio_postgres::Error) -> Lost {
    lasting(Error::Backend(error.to_string()))
}
