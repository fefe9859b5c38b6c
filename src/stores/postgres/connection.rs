//! One connection. Its statements are prepared once, and cancelled on the
//! server when they take too long.

use super::Settings;
use super::addresses::{Address, addresses};
use super::cancel::cancel;
use super::failure::{Fault, fault, refusal};
use super::sql::Sql;
use super::url::Encryption;
use crate::host::{Bulk, Elapsed, Socket, Task, Watch, on_loop, sleep, spawn, timeout};
use crate::kv::{Error, Result};
use crate::stores::TlsOptions;
use crate::stores::sql::Lost;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Row, SimpleQueryMessage, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long a server may take to cancel a statement. After that the connection
/// is given up.
const GRACE: Duration = Duration::from_secs(1);
const BETWEEN_CANCELS: Duration = Duration::from_millis(50);

/// How long an orderly end of the connection may take.
const FAREWELL: Duration = Duration::from_millis(500);

/// The texts of list statements vary. When there are more prepared statements
/// than this, all are forgotten.
const MOST_PREPARED: usize = 64;

pub type Parameter<'a> = &'a (dyn ToSql + Sync);

/// How the server names a connection. The process number alone may be reused.
#[derive(Clone, PartialEq, Eq)]
pub struct Backend {
    pid: i32,
    started: String,
}

/// Asks for the name of this connection.
const SELF: &str = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";

/// Ends another connection of the same user.
const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2";

/// A connection that has logged in, and whose driver waits to be run.
pub struct Opened {
    login: Login,
    watch: Arc<Watch>,
    address: Address,
    tls: Option<MakeRustlsConnect>,
}

struct Login {
    client: Client,
    /// Reads from the socket and writes to it.
    driver: Driver,
    backend: Option<Backend>,
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An error, and whether a retry can't help.
type Refusal = (Error, bool);

pub struct Connection {
    client: Client,
    backend: Option<Backend>,
    address: Address,
    tls: Option<MakeRustlsConnect>,
    /// `None` if statements are not to be prepared.
    prepared: Option<Mutex<HashMap<String, Statement>>>,
    /// Held by the current statement, if statements must run one by one.
    turn: tokio::sync::Mutex<()>,
    given_up: AtomicBool,
    /// Whether statements are under way.
    busy: AtomicBool,
    settings: Arc<Settings>,
    bulk: Bulk,
    watch: Arc<Watch>,
    /// Whether the event loop runs the driver.
    on_loop: bool,
    driver: Option<Task<()>>,
    _counted: Counted,
}

/// Counts the connections that exist.
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.given_up.load(Ordering::Relaxed)
            && let Some(driver) = &self.driver
        {
            // It would wait for an answer.
            driver.abort();
        }
    }
}

impl Opened {
    /// Must run on a thread: it takes long, and needs a runtime.
    pub async fn open(settings: Arc<Settings>) -> Result<Self, Refusal> {
        let place = &settings.target.place;
        let addresses = addresses(&settings.target.config)
            .await
            .map_err(|error| (Error::Connection(format!("{place}: {error}")), false))?;
        let mut failure = None;
        for address in addresses {
            match Self::open_at(address, &settings).await {
                Ok(opened) => return Ok(opened),
                Err(refusal) => failure = Some(refusal),
            }
        }
        Err(failure.unwrap_or_else(|| (Error::Connection(format!("{place}: the URL names no host")), true)))
    }

    async fn open_at(address: Address, settings: &Settings) -> Result<Self, Refusal> {
        let refused = |error: io::Error| not_connected(settings, &error);
        let socket = address.connect(&settings.target.config).await.map_err(refused)?;
        let watch = socket.watch();
        let (login, tls) = if settings.target.encryption == Encryption::None {
            (log_in(socket, NoTls, settings).await?, None)
        } else {
            let mut tls = settings.tls().map_err(|error| (error, true))?;
            let name = address.name().unwrap_or_default();
            let connect = match MakeTlsConnect::<Socket>::make_tls_connect(&mut tls, name) {
                Ok(connect) => connect,
                Err(never) => match never {},
            };
            (log_in(socket, connect, settings).await?, Some(tls))
        };
        Ok(Self {
            login,
            watch,
            address,
            tls,
        })
    }
}

async fn log_in<T>(socket: Socket, tls: T, settings: &Settings) -> Result<Login, Refusal>
where
    T: TlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let refused = |error: tokio_postgres::Error| refusal(&error, &settings.target.place);
    let connect = settings.target.config.connect_raw(socket, tls);
    let (client, mut connection) = connect.await.map_err(refused)?;
    let backend = {
        let mut first = pin!(first_queries(&client, settings));
        tokio::select! {
            biased;
            backend = &mut first => backend?,
            ended = &mut connection => {
                ended.map_err(refused)?;
                first.await?
            }
        }
    };
    Ok(Login {
        client,
        driver: Box::pin(async move { drop(connection.await) }),
        backend,
    })
}

/// Makes sure that the server is one of the wanted kind; returns the connection's
/// name.
async fn first_queries(client: &Client, settings: &Settings) -> Result<Option<Backend>, Refusal> {
    let refused = |error: tokio_postgres::Error| refusal(&error, &settings.target.place);
    let wanted = settings.target.config.get_target_session_attrs();
    if wanted != TargetSessionAttrs::Any {
        let messages = client.simple_query("SHOW transaction_read_only").await;
        let read_only = messages.map_err(refused)?.iter().any(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0) == Some("on"),
            _ => false,
        });
        let why = match wanted {
            TargetSessionAttrs::ReadWrite if read_only => Some("the database does not allow writes"),
            TargetSessionAttrs::ReadOnly if !read_only => Some("the database is not read-only"),
            _ => None,
        };
        if let Some(why) = why {
            return Err(not_connected(settings, &io::Error::other(why)));
        }
    }
    // Behind a pooler it would be the name of any of its connections.
    if !settings.prepared_statements {
        return Ok(None);
    }
    let row = client.query_typed_opt(SELF, &[]).await.map_err(refused)?;
    Ok(row.and_then(|row| {
        Some(Backend {
            pid: row.try_get(0).ok()?,
            started: row.try_get(1).ok()?,
        })
    }))
}

fn not_connected(settings: &Settings, error: &io::Error) -> Refusal {
    let words = format!("{}: error connecting to server: {error}", settings.target.place);
    (Error::Connection(words), false)
}

impl Connection {
    /// The host that runs the caller also runs the connection's driver.
    pub fn start(opened: Opened, settings: &Arc<Settings>, bulk: &Bulk, counted: Counted) -> Self {
        let Opened {
            login: Login {
                client,
                driver,
                backend,
            },
            watch,
            address,
            tls,
        } = opened;
        Self {
            client,
            backend,
            address,
            tls,
            prepared: settings.prepared_statements.then(Mutex::default),
            turn: tokio::sync::Mutex::default(),
            given_up: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            settings: Arc::clone(settings),
            bulk: bulk.clone(),
            watch,
            on_loop: on_loop(),
            driver: Some(spawn(driver)),
            _counted: counted,
        }
    }

    pub fn is_on_loop(&self) -> bool {
        self.on_loop
    }

    /// Has the driver look whether the connection has ended.
    pub fn refresh(&self) {
        self.watch.refresh();
    }

    pub fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.given_up.load(Ordering::Relaxed)
    }

    /// Whether the caller has given up the statement under way, as when a list
    /// is abandoned.
    pub fn is_abandoned(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// If this connection was given up, the name by which to end it before
    /// anything else is done: a statement that it has not begun yet must not be
    /// carried out after newer ones.
    pub fn take_given_up(&mut self) -> Option<Backend> {
        self.backend.take().filter(|_| self.given_up.load(Ordering::Relaxed))
    }

    /// Ends another connection. Returns whether this one answers.
    pub async fn end(&self, other: &Backend) -> bool {
        let parameters: [(Parameter<'_>, Type); 2] = [(&other.pid, Type::INT4), (&other.started, Type::TEXT)];
        match timeout(GRACE, self.client.query_typed(END, &parameters)).await {
            // Not every user may do that.
            Ok(Err(error)) => error.as_db_error().is_some(),
            Ok(Ok(_)) => true,
            Err(_) => {
                self.given_up.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    /// Closes the connection and waits until the socket is closed.
    pub async fn close(mut self) {
        self.given_up.store(false, Ordering::Relaxed);
        let driver = self.driver.take();
        drop(self);
        if let Some(mut driver) = driver
            && timeout(FAREWELL, &mut driver).await.is_err()
        {
            driver.abort();
        }
    }

    fn place(&self) -> &str {
        &self.settings.target.place
    }

    fn fault(&self, error: &tokio_postgres::Error) -> Fault {
        fault(error, self.place())
    }

    /// The rows of a statement.
    pub async fn rows(&self, sql: &Sql, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Fault> {
        let result = if let Some(statement) = self.prepare(sql).await? {
            self.client.query(&statement, parameters).await
        } else {
            let _turn = self.turn().await;
            self.client.query_typed(&sql.text, &typed(sql, parameters)).await
        };
        result.map_err(|error| self.failed(sql, &error))
    }

    /// How many rows a statement changed.
    pub async fn count(&self, sql: &Sql, parameters: &[Parameter<'_>]) -> Result<u64, Fault> {
        let result = if let Some(statement) = self.prepare(sql).await? {
            self.client.execute(&statement, parameters).await
        } else {
            let _turn = self.turn().await;
            self.client.execute_typed(&sql.text, &typed(sql, parameters)).await
        };
        result.map_err(|error| self.failed(sql, &error))
    }

    /// Waits until earlier statements are answered.
    ///
    /// If nothing is prepared, there may be a pooler in between. PgBouncer
    /// (1.18, for one) gives the server's connection to another client once all
    /// complete requests are answered, even if it has already passed on half of
    /// the next one.
    async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Runs statements without parameters.
    pub async fn run(&self, text: &str) -> Result<(), Fault> {
        self.client
            .batch_execute(text)
            .await
            .map_err(|error| self.fault(&error))
    }

    /// The first row's text, of a query without parameters.
    pub async fn text(&self, query: &str) -> Result<Option<String>, Fault> {
        let rows = self
            .client
            .query_typed(query, &[])
            .await
            .map_err(|error| self.fault(&error))?;
        Ok(rows.first().and_then(|row| row.try_get(0).ok()))
    }

    /// The statement, prepared; `None` if statements are not to be prepared.
    pub async fn prepare(&self, sql: &Sql) -> Result<Option<Statement>, Fault> {
        let Some(prepared) = &self.prepared else {
            return Ok(None);
        };
        if let Some(statement) = lock(prepared).get(&sql.text) {
            return Ok(Some(statement.clone()));
        }
        let statement = self
            .client
            .prepare_typed(&sql.text, sql.types)
            .await
            .map_err(|error| self.fault(&error))?;
        let mut prepared = lock(prepared);
        if prepared.len() >= MOST_PREPARED {
            prepared.clear();
        }
        prepared.insert(sql.text.clone(), statement.clone());
        Ok(Some(statement))
    }

    fn failed(&self, sql: &Sql, error: &tokio_postgres::Error) -> Fault {
        let fault = self.fault(error);
        if matches!(fault, Fault::Stale(_))
            && let Some(prepared) = &self.prepared
        {
            lock(prepared).remove(&sql.text);
        }
        fault
    }

    /// Waits for statements of this connection, and has the server cancel them
    /// after `limit`. A cancelled statement returns its own error.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if the server doesn't answer even then. The
    /// connection is given up, and the outcome is unknown.
    pub async fn within<T>(&self, limit: Duration, statements: impl Future<Output = T>) -> Result<T> {
        self.busy.store(true, Ordering::Relaxed);
        let result = self.until(limit, statements).await;
        self.busy.store(false, Ordering::Relaxed);
        result
    }

    /// Has the server cancel an abandoned statement, unless it ends by itself.
    pub async fn end_abandoned(&self) {
        let ended = async { self.client.batch_execute("").await };
        // After a timeout the connection is given up.
        let _ = self.within(BETWEEN_CANCELS, ended).await;
    }

    async fn until<T>(&self, limit: Duration, statements: impl Future<Output = T>) -> Result<T> {
        let mut statements = pin!(statements);
        if let Ok(result) = timeout(limit, &mut statements).await {
            return Ok(result);
        }
        let end = Instant::now() + GRACE;
        let mut pause = BETWEEN_CANCELS;
        let mut cancels = Vec::new();
        while Instant::now() < end {
            // Each statement that was sent ahead has to be cancelled.
            let told = cancel(
                self.client.cancel_token(),
                self.address.clone(),
                Arc::clone(&self.settings),
                self.tls.clone(),
            );
            // A task of its own, which continues after the statement has ended;
            // see `outlast`.
            let bulk = self.bulk.clone();
            cancels.push(spawn(async move { bulk.run(timeout(GRACE, told)).await }));
            tokio::select! {
                biased;
                result = &mut statements => {
                    self.outlast(cancels).await;
                    return Ok(result);
                }
                () = sleep(pause) => pause *= 2,
            }
        }
        self.given_up.store(true, Ordering::Relaxed);
        Err(Error::Timeout(format!(
            "{} did not answer within {} ms",
            self.place(),
            limit.as_millis()
        )))
    }

    /// Waits until all requests to cancel have arrived: a late one would cancel
    /// the next statement instead.
    async fn outlast(&self, cancels: Vec<Task<Result<std::result::Result<(), Elapsed>>>>) {
        let arrived = async {
            for cancel in cancels {
                let _ = cancel.await;
            }
            // A cancellation that arrives late hits this empty statement.
            self.client.batch_execute("").await
        };
        if timeout(2 * GRACE, arrived).await.is_err() {
            self.given_up.store(true, Ordering::Relaxed);
        }
    }

    /// [`Self::within`] for one statement that isn't divided further.
    pub async fn one<T>(
        &self,
        limit: Duration,
        statement: impl Future<Output = std::result::Result<T, Fault>>,
    ) -> std::result::Result<T, Fault> {
        match self.within(limit, statement).await {
            Ok(result) => result,
            Err(error) => Err(Fault::Lost(Lost::Unknown(error))),
        }
    }
}

fn typed<'a>(sql: &Sql, parameters: &[Parameter<'a>]) -> Vec<(Parameter<'a>, Type)> {
    parameters.iter().copied().zip(sql.types.iter().cloned()).collect()
}

fn lock(prepared: &Mutex<HashMap<String, Statement>>) -> MutexGuard<'_, HashMap<String, Statement>> {
    prepared.lock()
}

/// The configuration of encrypted connections.
pub fn tls_connect(encryption: Encryption, tls: &TlsOptions) -> Result<MakeRustlsConnect> {
    let mut tls = tls.clone();
    tls.reject_unauthorized &= encryption == Encryption::Verified;
    Ok(MakeRustlsConnect::new(tls.config()?))
}
