//! One connection. Its statements are prepared once, and cancelled on the
//! server when they take too long.

use super::Settings;
use super::addresses::Address;
use super::cancel::cancel;
use super::failure::{fault, is_other_session, too_large};
use super::frames::Traffic;
use super::open::{Backend, Login, Opened};
use super::sql::Sql;
use crate::host::{Bulk, Task, Watch, on_loop, sleep, spawn, timeout};
use crate::kv::Error;
use crate::stores::served::{Connect, Fault, GRACE, Health, Lost, Pooled, Refusal, contain};
use futures::future::{AbortHandle, BoxFuture, abortable};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long an orderly end of the connection may take.
const FAREWELL: Duration = Duration::from_millis(500);

pub type Parameter<'a> = &'a (dyn ToSql + Sync);

/// Ends another connection of the same user.
const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2";

pub struct Connection {
    client: Client,
    backend: Option<Backend>,
    traffic: Arc<Traffic>,
    address: Address,
    tls: Option<MakeRustlsConnect>,
    prepared: Mutex<HashMap<String, Statement>>,
    /// Held by each statement: together, or alone if statements must run one by one.
    turn: RwLock<()>,
    health: Health,
    /// How many bytes had been sent when the statements began.
    sent_before: AtomicU64,
    settings: Arc<Settings>,
    bulk: Bulk,
    watch: Arc<Watch>,
    /// There while the connection holds the lock of those that sweep.
    sweeper: Mutex<Option<Arc<()>>>,
    /// Whether the event loop runs the driver.
    on_loop: bool,
    driver: Option<Task<()>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if (self.health.is_given_up() || self.health.is_busy())
            && let Some(driver) = &self.driver
        {
            // It would wait for an answer.
            driver.abort();
        }
    }
}

impl Connection {
    /// The host that runs the caller also runs the connection's driver.
    fn start(opened: Opened, settings: &Arc<Settings>, bulk: &Bulk) -> Self {
        let Opened {
            login:
                Login {
                    client,
                    driver,
                    backend,
                    traffic,
                },
            watch,
            address,
            tls,
        } = opened;
        Self {
            client,
            backend,
            traffic,
            address,
            tls,
            prepared: Mutex::default(),
            turn: RwLock::default(),
            health: Health::default(),
            sent_before: AtomicU64::new(0),
            settings: Arc::clone(settings),
            bulk: bulk.clone(),
            watch,
            sweeper: Mutex::default(),
            on_loop: on_loop(),
            driver: Some(spawn(driver)),
        }
    }

    /// Whether the server's session is this connection's own, and no pooler's.
    pub fn has_session(&self) -> bool {
        self.backend.is_some()
    }

    pub fn is_sweeper(&self) -> bool {
        self.sweeper.lock().is_some()
    }

    /// Notes whether this connection holds the lock of those that sweep. The result
    /// lives as long as that.
    pub fn set_sweeper(&self, holds: bool) -> Weak<()> {
        let mut sweeper = self.sweeper.lock();
        *sweeper = holds.then(Arc::default);
        sweeper.as_ref().map(Arc::downgrade).unwrap_or_default()
    }

    fn fault(&self, error: &tokio_postgres::Error, reads: bool) -> Fault {
        match self.traffic.too_large() {
            // The driver keeps the reason to itself.
            Some(reason) if error.is_closed() => too_large(reason, self.place(), reads),
            _ => match fault(error, self.place()) {
                // The connection had ended before.
                Fault::Lost(Lost::Unknown(error))
                    if self.traffic.sent() == self.sent_before.load(Ordering::Relaxed) =>
                {
                    Fault::Lost(Lost::Undone(error))
                }
                fault => fault,
            },
        }
    }

    /// The rows of a statement.
    pub async fn rows(&self, sql: &Sql, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Fault> {
        if let Some((statement, turn)) = self.prepared(sql).await? {
            let result = self.client.query(&statement, parameters).await;
            drop(turn);
            if let Some(result) = self.kept(result) {
                return result.map_err(|error| self.failed(sql, &error));
            }
        }
        let _turn = self.turn.write().await;
        let result = self.client.query_typed(&sql.text, &typed(sql, parameters)).await;
        result.map_err(|error| self.failed(sql, &error))
    }

    /// The rows of a statement whose text varies: it is not prepared, so that it
    /// doesn't need a place among the statements that are.
    pub async fn rows_once(&self, sql: &Sql, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Fault> {
        let _turn = self.turn.write().await;
        let rows = self.client.query_typed(&sql.text, &typed(sql, parameters)).await;
        rows.map_err(|error| self.fault(&error, sql.only_reads()))
    }

    /// How many rows a statement changed.
    pub async fn count(&self, sql: &Sql, parameters: &[Parameter<'_>]) -> Result<u64, Fault> {
        if let Some((statement, turn)) = self.prepared(sql).await? {
            let result = self.client.execute(&statement, parameters).await;
            drop(turn);
            if let Some(result) = self.kept(result) {
                return result.map_err(|error| self.failed(sql, &error));
            }
        }
        let _turn = self.turn.write().await;
        let result = self.client.execute_typed(&sql.text, &typed(sql, parameters)).await;
        result.map_err(|error| self.failed(sql, &error))
    }

    /// The result of a prepared statement; `None` if it was passed to a session that
    /// doesn't have it. The store then goes on without prepared statements.
    fn kept<T>(&self, result: Result<T, tokio_postgres::Error>) -> Option<Result<T, tokio_postgres::Error>> {
        let lost = matches!(&result, Err(error) if is_other_session(error));
        if lost {
            self.settings.prepared_statements.store(false, Ordering::Relaxed);
        }
        (!lost).then_some(result)
    }

    /// Waits until a prepared statement may be sent. They are sent without waiting
    /// for earlier answers, except through a pooler; others always wait.
    ///
    /// PgBouncer (1.18, for one) gives the server's connection to another client once
    /// all complete requests are answered, even if it has already passed on half of
    /// the next one.
    async fn turn(&self) -> Turn<'_> {
        if self.has_session() {
            Turn::Together(self.turn.read().await)
        } else {
            Turn::Alone(self.turn.write().await)
        }
    }

    /// Runs statements without parameters.
    pub async fn run(&self, text: &str) -> Result<(), Fault> {
        self.client
            .batch_execute(text)
            .await
            .map_err(|error| self.fault(&error, false))
    }

    /// The first row's text, of a query without parameters.
    pub async fn text(&self, query: &str) -> Result<Option<String>, Fault> {
        let rows = self
            .client
            .query_typed(query, &[])
            .await
            .map_err(|error| self.fault(&error, true))?;
        Ok(rows.first().and_then(|row| row.try_get(0).ok()))
    }

    /// Prepares a statement, so that several which need it don't.
    pub async fn prepare(&self, sql: &Sql) -> Result<(), Fault> {
        self.prepared(sql).await.map(drop)
    }

    /// The statement, prepared; `None` if statements are not to be prepared.
    async fn prepared(&self, sql: &Sql) -> Result<Option<(Statement, Turn<'_>)>, Fault> {
        if !self.settings.prepared_statements.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let turn = self.turn().await;
        if let Some(statement) = self.prepared.lock().get(&sql.text) {
            return Ok(Some((statement.clone(), turn)));
        }
        let result = self.client.prepare_typed(&sql.text, sql.types).await;
        let Some(result) = self.kept(result) else {
            return Ok(None);
        };
        let statement = result.map_err(|error| self.fault(&error, true))?;
        self.prepared.lock().insert(sql.text.clone(), statement.clone());
        Ok(Some((statement, turn)))
    }

    fn failed(&self, sql: &Sql, error: &tokio_postgres::Error) -> Fault {
        let fault = self.fault(error, sql.only_reads());
        if matches!(fault, Fault::Stale(_)) {
            self.prepared.lock().remove(&sql.text);
        }
        fault
    }
}

impl Pooled for Connection {
    type Name = Backend;

    fn place(&self) -> &str {
        &self.settings.target.place
    }

    fn is_on_loop(&self) -> bool {
        self.on_loop
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn is_open(&self) -> bool {
        !self.client.is_closed()
    }

    fn refresh(&self) {
        self.watch.refresh();
    }

    fn begin(&self) {
        self.sent_before.store(self.traffic.sent(), Ordering::Relaxed);
    }

    fn cancel(&self) -> Task<()> {
        let told = cancel(
            self.client.cancel_token(),
            self.address.clone(),
            Arc::clone(&self.settings),
            self.tls.clone(),
        );
        let bulk = self.bulk.clone();
        spawn(async move { drop(bulk.run(timeout(GRACE, told)).await) })
    }

    async fn settle(&self) {
        // If it fails, the connection has ended.
        let _ = self.client.batch_execute("").await;
    }

    fn outlives_abandoned(&self) -> bool {
        true
    }

    fn name(&self) -> Option<Backend> {
        self.backend.clone()
    }

    async fn end(&self, other: &Backend) -> bool {
        let parameters: [(Parameter<'_>, Type); 2] = [(&other.pid, Type::INT4), (&other.started, Type::TEXT)];
        let mut pause = Duration::from_millis(1);
        loop {
            match self.client.query_typed(END, &parameters).await {
                Ok(rows) if rows.is_empty() => return true,
                // It may be carrying out its last statement.
                Ok(_) => sleep(pause).await,
                // Not every user may do that.
                Err(error) => return error.as_db_error().is_some(),
            }
            pause *= 2;
        }
    }

    async fn close(mut self) {
        let driver = self.driver.take();
        drop(self);
        if let Some(mut driver) = driver
            && timeout(FAREWELL, &mut driver).await.is_err()
        {
            driver.abort();
        }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Opens connections on the thread, because that takes long.
pub struct Connector {
    pub settings: Arc<Settings>,
    pub bulk: Bulk,
}

impl Connect for Connector {
    type Connection = Connection;

    fn place(&self) -> &str {
        &self.settings.target.place
    }

    fn open(&self, deadline: Instant, writable: bool) -> BoxFuture<'_, Result<Connection, Refusal>> {
        Box::pin(async move {
            let settings = Arc::clone(&self.settings);
            let open = Box::pin(Opened::open(settings, deadline, writable));
            let (open, abort) = abortable(contain(open));
            // Its socket is not to outlive this future.
            let _guard = AbortOnDrop(abort);
            let opened = self.bulk.run(open).await;
            let opened = opened.and_then(|opened| opened.unwrap_or(Err(Error::Closed)));
            let opened = opened.map_err(|error| Refusal { error, lasting: false })?;
            Ok(Connection::start(opened?, &self.settings, &self.bulk))
        })
    }
}

/// Held while a statement runs.
enum Turn<'a> {
    Together(#[expect(dead_code, reason = "it is held")] RwLockReadGuard<'a, ()>),
    Alone(#[expect(dead_code, reason = "it is held")] RwLockWriteGuard<'a, ()>),
}

fn typed<'a>(sql: &Sql, parameters: &[Parameter<'a>]) -> Vec<(Parameter<'a>, Type)> {
    parameters.iter().copied().zip(sql.types.iter().cloned()).collect()
}
