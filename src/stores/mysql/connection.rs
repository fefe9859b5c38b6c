//! Connections of the pool, and how they are opened.

use super::Settings;
use super::failure::{Failure, refusal};
use super::session::{MOST_STATEMENTS, Name, Session, Wanted, Wire};
use super::tls::ssl_opts;
use crate::host::{Task, sleep, spawn, timeout};
use crate::kv::{Error, Result};
use crate::stores::served::{Connect, Fault, GRACE, Health, Pooled, Refusal, contain, look_up};
use futures::future::BoxFuture;
use mysql_async::prelude::Queryable;
use mysql_async::{Opts, OptsBuilder};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout_at};

/// The driver is not to limit what a server sends. The server's own limit is
/// looked up.
const ANY_PACKET: usize = 1 << 30;

/// The driver is not to give up idle connections. If the server ends one, we
/// notice it.
const ANY_WAIT: usize = 28_800;

const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long an orderly end of the connection may take.
const FAREWELL: Duration = Duration::from_millis(500);

pub struct Connection {
    /// Locked by the statements under way.
    session: Mutex<Session>,
    name: Name,
    settings: Arc<Settings>,
    health: Health,
    ended: AtomicBool,
}

impl Connection {
    /// The session, for statements. Their result goes through [`Self::end`].
    pub async fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().await
    }

    pub async fn end<T>(&self, mut session: MutexGuard<'_, Session>, result: Result<T, Failure>) -> Result<T, Fault> {
        match result {
            Ok(result) => {
                if session.spent {
                    self.ended.store(true, Ordering::Relaxed);
                }
                session.end();
                Ok(result)
            }
            Err(failure) => Err(self.fail(&mut session, failure).await),
        }
    }

    /// Says what a failure means.
    async fn fail(&self, session: &mut Session, failure: Failure) -> Fault {
        if matches!(failure, Failure::Ended(_)) {
            self.ended.store(true, Ordering::Relaxed);
        }
        let fault = session.fail(failure, self.place()).await;
        if matches!(fault, Fault::Stale(_)) {
            // New ones suit the server.
            self.settings.statement_log.store(true, Ordering::Relaxed);
            self.ended.store(true, Ordering::Relaxed);
        }
        fault
    }
}

impl Pooled for Connection {
    type Name = Name;

    fn place(&self) -> &str {
        &self.settings.target.place
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn is_open(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    /// By way of another connection.
    fn cancel(&self) -> Task<()> {
        let (settings, name) = (Arc::clone(&self.settings), self.name.clone());
        let told = async move { kill_query(&settings, &name).await };
        spawn(async move { drop(contain(timeout(GRACE, told)).await) })
    }

    async fn settle(&self) {
        let mut session = self.session().await;
        let settled = session.settle().await;
        // If it fails, the connection has ended.
        let _ = self.end(session, settled).await;
    }

    /// The driver can't go on after a statement that was abandoned.
    fn outlives_abandoned(&self) -> bool {
        false
    }

    fn name(&self) -> Option<Name> {
        Some(self.name.clone())
    }

    async fn end(&self, other: &Name) -> bool {
        // Behind a balancer it may be another server's.
        if !self.name.is_beside(other) {
            return true;
        }
        let id = other.id;
        let mut pause = Duration::from_millis(1);
        loop {
            let mut session = self.session().await;
            let killed = session.kill("CONNECTION", id).await;
            match self.end(session, killed).await {
                // It may be carrying out its last statement.
                Ok(()) => sleep(pause).await,
                Err(Fault::Lost(_)) => return false,
                // It is gone, or not every user may do that.
                Err(_) => return true,
            }
            pause *= 2;
        }
    }

    async fn close(self) {
        let _ = timeout(FAREWELL, self.session.into_inner().disconnect()).await;
    }
}

async fn kill_query(settings: &Settings, name: &Name) -> mysql_async::Result<()> {
    let Ok(opts) = settings.opts_by(Instant::now() + GRACE).await else {
        return Ok(());
    };
    let mut conn = Wire::connect(addressed(opts).await?).await?;
    if Name::ask(&mut conn).await?.0.is_beside(name) {
        conn.query_drop(format!("KILL QUERY {}", name.id)).await?;
    }
    conn.disconnect().await
}

/// Opens connections.
pub struct Connector(pub Arc<Settings>);

impl Connect for Connector {
    type Connection = Connection;

    fn place(&self) -> &str {
        &self.0.target.place
    }

    /// There is one address only: if the server behind it takes no writes, there is
    /// none to ask instead, and `get` goes on working.
    fn open(&self, deadline: Instant, _: bool) -> BoxFuture<'_, Result<Connection, Refusal>> {
        Box::pin(async move {
            let settings = &self.0;
            let place = &settings.target.place;
            let passing = |error| Refusal { error, lasting: false };
            let opts = settings.opts_by(deadline).await?;
            let wanted = Wanted {
                query_timeout: settings.query_timeout,
                statement_log: settings.statement_log.load(Ordering::Relaxed),
            };
            let opening = async {
                let conn = Wire::connect(addressed(opts).await?).await?;
                Session::set_up(conn, Arc::clone(&settings.statements), wanted).await
            };
            let opened = contain(timeout_at(deadline, opening)).await.map_err(passing)?;
            let opened = opened.map_err(|_| passing(Error::Connection(format!("{place}: not connected in time"))))?;
            let may_change = settings.credentials.password.may_change();
            let (session, name) = opened.map_err(|error| refusal(place, &error, may_change))?;
            Ok(Connection {
                session: Mutex::new(session),
                name,
                settings: Arc::clone(settings),
                health: Health::default(),
                ended: AtomicBool::new(false),
            })
        })
    }
}

impl Settings {
    /// The options of a new connection, with its own password if there is one.
    async fn opts_by(&self, deadline: Instant) -> Result<Opts, Refusal> {
        let opts = self.opts().map_err(|error| Refusal { error, lasting: true })?;
        let password = self.credentials.password.get(&self.target.place, deadline).await;
        Ok(match password.map_err(|error| Refusal { error, lasting: false })? {
            Some(password) => OptsBuilder::from_opts(opts).pass(Some(password)).into(),
            None => opts,
        })
    }

    /// The driver's options. They are made when the first connection needs them,
    /// because that reads files.
    fn opts(&self) -> Result<Opts> {
        if let Some(opts) = self.opts.get() {
            return Ok(opts.clone());
        }
        let opts = OptsBuilder::from_opts(self.target.opts.clone())
            .user(self.credentials.user.as_deref().or(self.target.opts.user()))
            .stmt_cache_size(MOST_STATEMENTS)
            .max_allowed_packet(Some(ANY_PACKET))
            .wait_timeout(Some(ANY_WAIT))
            .tcp_keepalive(Some(KEEPALIVE))
            .ssl_opts(self.tls.as_ref().map(ssl_opts).transpose()?);
        Ok(self.opts.get_or_init(|| opts.into()).clone())
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
