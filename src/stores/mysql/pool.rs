//! The store's connections: opened when needed, kept while they work, and given
//! up after any failure.
//!
//! We don't use the driver's own pool: there, a connection whose statement
//! never ends keeps its place until it does.

use super::MysqlOptions;
use super::connection::{Connection, MOST_STATEMENTS};
use super::failure::{Failure, Verdict, refusal, verdict};
use super::statements::Statements;
use super::tls::ssl_opts;
use super::url::{Encryption, Target};
use crate::kv::{Error, Result};
use crate::stores::TlsOptions;
use crate::stores::served::Lost;
use crate::stores::served::{contain, look_up};
use futures::future::join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use parking_lot::{Mutex, MutexGuard};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// The driver is not to limit what a server sends. The server's own limit is
/// looked up.
const ANY_PACKET: usize = 1 << 30;

/// The driver is not to give up idle connections. If the server ends one, we
/// notice it.
const ANY_WAIT: usize = 28_800;

/// The pause before a server that refused is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// How long an orderly end of all connections may take.
const FAREWELL: Duration = Duration::from_millis(500);

pub struct Pool {
    target: Target,
    tls: Option<TlsOptions>,
    opts: OnceLock<Opts>,
    statements: Arc<Statements>,
    connect_timeout: Duration,
    query_timeout: Duration,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
    /// Whether there ever was a connection.
    reached: AtomicBool,
    /// The server logs statements, which needs a stricter isolation level than
    /// we prefer.
    statement_log: AtomicBool,
}

/// A connection on loan. If it is dropped instead of given back, it is closed.
pub struct Loan<'a> {
    pool: &'a Pool,
    pub connection: Connection,
    /// Whether it was idle before, and so may have been ended by the server.
    pub reused: bool,
    _place: SemaphorePermit<'a>,
}

impl Loan<'_> {
    pub fn give_back(self) {
        self.pool.idle().push(self.connection);
    }
}

impl Pool {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for invalid TLS options.
    pub fn new(target: Target, options: &MysqlOptions, statements: Arc<Statements>) -> Result<Self> {
        if let Some(tls) = &options.tls {
            tls.check()?;
        }
        Ok(Self {
            tls: match (target.encryption, &options.tls) {
                (_, Some(tls)) => Some(tls.clone()),
                (Encryption::Unsaid, None) => None,
                (Encryption::Verified, None) => Some(TlsOptions::default()),
                (Encryption::Required, None) => Some(TlsOptions {
                    reject_unauthorized: false,
                    ..TlsOptions::default()
                }),
            },
            target,
            opts: OnceLock::new(),
            statements,
            connect_timeout: options.connect_timeout,
            query_timeout: options.query_timeout,
            idle: Mutex::default(),
            places: Semaphore::new(options.max_connections),
            reached: AtomicBool::new(false),
            statement_log: AtomicBool::new(false),
        })
    }

    /// An idle connection, or a new one.
    pub async fn take(&self, deadline: Instant) -> Result<Loan<'_>, Lost> {
        let place = timeout_at(deadline, self.places.acquire()).await;
        let Ok(Ok(place)) = place else {
            return Err(Lost::Refused {
                error: Error::Timeout("no connection became free in time; see maxConnections and queryTimeout".into()),
                lasting: true,
            });
        };
        let idle = self.idle().pop();
        let reused = idle.is_some();
        let connection = match idle {
            Some(connection) => connection,
            None => match self.connect(deadline).await {
                Ok(connection) => connection,
                Err(lost) => {
                    if matches!(lost, Lost::Refused { lasting: false, .. }) {
                        // So that a caller that retries does not do so all the
                        // time.
                        sleep_until(deadline.min(Instant::now() + PAUSE)).await;
                    }
                    return Err(lost);
                }
            },
        };
        Ok(Loan {
            pool: self,
            connection,
            reused,
            _place: place,
        })
    }

    async fn connect(&self, deadline: Instant) -> Result<Connection, Lost> {
        let reached = self.reached.load(Ordering::Relaxed);
        let place = &self.target.place;
        let opts = self.opts().map_err(|error| Lost::Refused { error, lasting: true })?;
        let statement_log = self.statement_log.load(Ordering::Relaxed);
        let connecting = async {
            let conn = Conn::new(addressed(opts).await?).await?;
            Connection::set_up(conn, Arc::clone(&self.statements), self.query_timeout, statement_log).await
        };
        let until = deadline.min(Instant::now() + self.connect_timeout);
        let passing = |error| Lost::Refused {
            error,
            lasting: !reached,
        };
        match contain(timeout_at(until, connecting)).await {
            Ok(Ok(Ok(connection))) => {
                self.reached.store(true, Ordering::Relaxed);
                Ok(connection)
            }
            Ok(Ok(Err(error))) => Err(refusal(place, &error, reached)),
            Ok(Err(_)) => Err(passing(Error::Connection(format!("{place}: not connected in time")))),
            Err(error) => Err(passing(error)),
        }
    }

    fn opts(&self) -> Result<Opts> {
        if let Some(opts) = self.opts.get() {
            return Ok(opts.clone());
        }
        let opts = OptsBuilder::from_opts(self.target.opts.clone())
            .stmt_cache_size(MOST_STATEMENTS)
            .max_allowed_packet(Some(ANY_PACKET))
            .wait_timeout(Some(ANY_WAIT))
            .tcp_keepalive(Some(Duration::from_secs(60)))
            .ssl_opts(self.tls.as_ref().map(ssl_opts).transpose()?);
        Ok(self.opts.get_or_init(|| opts.into()).clone())
    }

    /// Waits for work on a connection. At the deadline, the server is told to
    /// stop, and its answer tells the outcome.
    pub async fn watch<T>(
        &self,
        connection: u32,
        deadline: Instant,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut work = pin!(work);
        if let Ok(result) = timeout_at(deadline, &mut work).await {
            return result;
        }
        let patience = self
            .query_timeout
            .clamp(Duration::from_millis(250), Duration::from_secs(1));
        // If this fails, the session's own limits stop the statement a little
        // later.
        let _ = contain(timeout(patience, self.kill_query(connection))).await;
        match timeout(patience, work).await {
            Ok(Err(Failure::Server(error))) if matches!(verdict(&error), Verdict::Stopped(_)) => {
                Err(Failure::Late { stopped: true })
            }
            Ok(result) => result,
            Err(_) => Err(Failure::Late { stopped: false }),
        }
    }

    async fn kill_query(&self, connection: u32) -> mysql_async::Result<()> {
        let Ok(opts) = self.opts() else { return Ok(()) };
        let mut conn = Conn::new(addressed(opts).await?).await?;
        conn.query_drop(format!("KILL QUERY {connection}")).await?;
        conn.disconnect().await
    }

    /// Closes all idle connections: the server may have ended them all.
    pub fn forget_idle(&self) {
        self.idle().clear();
    }

    /// From now on, new connections suit a server that logs statements.
    pub fn suit_statement_log(&self) {
        self.statement_log.store(true, Ordering::Relaxed);
        self.forget_idle();
    }

    pub fn query_timeout(&self) -> Duration {
        self.query_timeout
    }

    /// The error when the time is over.
    pub fn too_late(&self, undone: bool) -> Error {
        let what = if undone {
            "it was stopped and undone"
        } else {
            "the outcome is unknown"
        };
        Error::Timeout(format!(
            "{}: not finished within {} ms; {what}",
            self.target.place,
            self.query_timeout.as_millis()
        ))
    }

    pub fn place(&self) -> &str {
        &self.target.place
    }

    /// Closes all idle connections in an orderly way.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle());
        let _ = timeout(FAREWELL, join_all(idle.into_iter().map(Connection::disconnect))).await;
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Nothing panics while it holds this lock.
        self.idle.lock()
    }
}

/// Adds the addresses of the host to the options: the driver's own look-ups
/// panic when no thread can be started for them.
async fn addressed(opts: Opts) -> mysql_async::Result<Opts> {
    if opts.socket().is_some() {
        return Ok(opts);
    }
    let addresses = look_up(opts.ip_or_hostname(), opts.tcp_port()).await?;
    let addresses: Vec<_> = addresses.iter().map(SocketAddr::ip).collect();
    Ok(OptsBuilder::from_opts(opts).resolved_ips(Some(addresses)).into())
}
