//! Connections of the pool, and how they are opened.

use super::Settings;
use super::answer::Command;
use super::client::Client;
use super::failure::{Failure, WireError, refusal};
use super::login::Login;
use super::session::{Name, Session, Wanted, set_up};
use super::wire::Wire;
use crate::host::{Bulk, Socket, Task, Watch, on_loop, sleep, spawn, timeout, timeout_at};
use crate::kv::{Error, Result};
use crate::stores::served::{Connect, Fault, GRACE, Health, Pooled, Refusal, connect, contain};
use futures::future::{AbortHandle, BoxFuture, abortable};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long an orderly end of the connection may take.
const FAREWELL: Duration = Duration::from_millis(500);

pub struct Connection {
    /// Locked by the statements under way.
    session: Mutex<Session>,
    client: Client,
    name: Name,
    settings: Arc<Settings>,
    bulk: Bulk,
    watch: Arc<Watch>,
    health: Health,
    /// Whether it is not to be used any longer.
    ended: AtomicBool,
    /// Whether the event loop runs the task.
    on_loop: bool,
    task: Option<Task<()>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if (self.health.is_given_up() || self.health.is_busy())
            && let Some(task) = &self.task
        {
            // It would wait for an answer.
            task.abort();
        }
    }
}

impl Connection {
    /// The host that runs the caller also runs the connection's task.
    fn start(opened: Opened, settings: &Arc<Settings>, bulk: &Bulk) -> Self {
        let Opened {
            wire,
            watch,
            name,
            packet,
        } = opened;
        let (client, task) = Client::new(wire);
        Self {
            session: Mutex::new(Session::new(client.clone(), Arc::clone(&settings.statements), packet)),
            client,
            name,
            settings: Arc::clone(settings),
            bulk: bulk.clone(),
            watch,
            health: Health::default(),
            ended: AtomicBool::new(false),
            on_loop: on_loop(),
            task: Some(spawn(task)),
        }
    }

    /// The session, for statements. Their result goes through [`Self::end`].
    pub async fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().await
    }

    pub async fn end<T>(&self, mut session: MutexGuard<'_, Session>, result: Result<T, Failure>) -> Result<T, Fault> {
        match result {
            Ok(result) => Ok(result),
            Err(failure) => Err(self.fail(&mut session, failure).await),
        }
    }

    /// Says what a failure means.
    async fn fail(&self, session: &mut Session, failure: Failure) -> Fault {
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

    fn is_on_loop(&self) -> bool {
        self.on_loop
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn is_open(&self) -> bool {
        self.client.is_open() && !self.ended.load(Ordering::Relaxed)
    }

    fn refresh(&self) {
        self.watch.refresh();
    }

    /// By way of another connection.
    fn cancel(&self) -> Task<()> {
        let (settings, name) = (Arc::clone(&self.settings), self.name.clone());
        let told = async move { drop(contain(timeout(GRACE, kill_query(&settings, &name))).await) };
        let bulk = self.bulk.clone();
        spawn(async move { drop(bulk.run(told).await) })
    }

    async fn settle(&self) {
        let mut session = self.session().await;
        let settled = session.settle().await;
        // If it fails, the connection has ended.
        let _ = self.end(session, settled).await;
    }

    /// It may have left a transaction open.
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
            let killed = session.kill(id).await;
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

    async fn close(mut self) {
        let task = self.task.take();
        drop(self);
        if let Some(mut task) = task
            && timeout(FAREWELL, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

async fn kill_query(settings: &Settings, name: &Name) -> Result<(), WireError> {
    let Ok(access) = settings.access(Instant::now() + GRACE).await else {
        return Ok(());
    };
    let (mut wire, _) = settings.connect(access).await?;
    if Name::ask(&mut wire).await?.0.is_beside(name) {
        let kill = format!("KILL QUERY {}", name.id);
        Command::query(&kill).run(&mut wire).await?;
    }
    wire.quit().await;
    Ok(())
}

/// A connection that is set up, and whose task waits to be run.
struct Opened {
    wire: Wire,
    watch: Arc<Watch>,
    name: Name,
    packet: usize,
}

impl Opened {
    /// Must run on a thread: it takes long, and needs a runtime.
    async fn open(settings: Arc<Settings>, deadline: Instant) -> Result<Self, Refusal> {
        let place = &settings.target.place;
        let wanted = Wanted {
            query_timeout: settings.query_timeout,
            statement_log: settings.statement_log.load(Ordering::Relaxed),
        };
        let access = settings.access(deadline).await?;
        let opening = async {
            let (mut wire, watch) = settings.connect(access).await?;
            let (name, packet) = set_up(&mut wire, wanted).await?;
            Ok(Self {
                wire,
                watch,
                name,
                packet,
            })
        };
        let opened = timeout_at(deadline, opening).await.map_err(|_| Refusal {
            error: Error::Connection(format!("{place}: not connected in time")),
            lasting: false,
        })?;
        let may_change = settings.credentials.password.may_change();
        opened.map_err(|error| refusal(place, error, may_change))
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

    /// There is one address only: if the server behind it takes no writes, there is
    /// none to ask instead, and `get` goes on working.
    fn open(&self, deadline: Instant, _: bool) -> BoxFuture<'_, Result<Connection, Refusal>> {
        Box::pin(async move {
            let open = Box::pin(Opened::open(Arc::clone(&self.settings), deadline));
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

/// What a new connection needs.
struct Access {
    password: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Settings {
    async fn access(&self, deadline: Instant) -> Result<Access, Refusal> {
        let tls = self.tls().map_err(|error| Refusal { error, lasting: true })?;
        let password = self.credentials.password.get(&self.target.place, deadline).await;
        let password = password.map_err(|error| Refusal { error, lasting: false })?;
        Ok(Access {
            password: password.unwrap_or_else(|| self.target.password.clone()),
            tls,
        })
    }

    /// A connection that has logged in.
    async fn connect(&self, Access { password, tls }: Access) -> Result<(Wire, Arc<Watch>), WireError> {
        let socket = self.socket().await?;
        let watch = socket.watch();
        let target = &self.target;
        let login = Login {
            user: self.credentials.user.as_deref().unwrap_or(&target.user),
            password: &password,
            database: &target.database,
            tls,
            is_local: target.socket.is_some(),
            allows_key: self.allows_key,
        };
        Ok((Box::pin(login.log_in(Wire::new(socket))).await?, watch))
    }

    async fn socket(&self) -> io::Result<Socket> {
        let target = &self.target;
        if let Some(path) = &target.socket {
            #[cfg(unix)]
            return UnixStream::connect(path).await.map(Socket::unix);
            #[cfg(not(unix))]
            return Err(io::Error::other(format!("this system has no Unix socket {path}")));
        }
        let stream = connect(&target.host, target.port).await?;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
        Ok(Socket::tcp(stream))
    }

    /// How to encrypt, and the name that the server's certificate must have. Made when
    /// the first connection needs it, because that reads files. A socket of this
    /// machine is not encrypted.
    fn tls(&self) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>> {
        let Some(options) = self.tls.as_ref().filter(|_| self.target.socket.is_none()) else {
            return Ok(None);
        };
        let config = if let Some(config) = self.tls_config.get() {
            config
        } else {
            let config = options.config()?;
            self.tls_config.get_or_init(|| Arc::new(config))
        };
        let name = ServerName::try_from(self.target.host.clone()).map_err(|_| {
            let words = "the host's name can't be that of a certificate";
            Error::Connection(format!("{}: {words}", self.target.place))
        })?;
        Ok(Some((Arc::clone(config), name)))
    }
}
