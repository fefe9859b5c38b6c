//! One server, and the one connection that all requests to it share.

use super::Settings;
use super::failure::{Lost, Refusal};
use super::url::Place;
use crate::kv::{Error, Result};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Pipeline, Value, cmd, pipe};
use rustls::pki_types::ServerName;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsConnector;

/// Between two attempts to connect, about; doubled from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A connection that has kept silent for so many requests is given up.
const MOST_SILENT: u32 = 2;

/// Requests under way on one connection at most; more wait their turn, in
/// order.
const REQUESTS: usize = 64;

pub struct Server {
    pub place: Place,
    settings: Arc<Settings>,
    /// Held while connecting: all who need the connection wait for one attempt.
    slot: Mutex<Slot>,
    reached: AtomicBool,
    /// Why there is no connection, while there is none.
    refusal: std::sync::Mutex<Option<Error>>,
}

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    last: Option<Client>,
    failures: u32,
    not_before: Option<Instant>,
}

/// What a server calls a connection, until it is started anew.
#[derive(Clone, PartialEq, Eq)]
struct Client {
    run: Vec<u8>,
    id: i64,
}

#[derive(Clone)]
pub struct Connection {
    redis: MultiplexedConnection,
    state: Arc<State>,
    settings: Arc<Settings>,
    place: Arc<str>,
}

#[derive(Default)]
struct State {
    dead: AtomicBool,
    silent: AtomicU32,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Server {
    pub fn new(place: Place, settings: Arc<Settings>) -> Self {
        Self {
            place,
            settings,
            slot: Mutex::default(),
            reached: AtomicBool::new(false),
            refusal: std::sync::Mutex::default(),
        }
    }

    /// Whether there ever was a connection. Until then nobody waits for a
    /// server that may not be there at all.
    pub fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    fn refusal(&self) -> MutexGuard<'_, Option<Error>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an operation is told that has waited too long for a connection.
    pub fn why_not(&self) -> Error {
        self.refusal()
            .clone()
            .unwrap_or_else(|| Error::Timeout(format!("{} takes too long", self.place)))
    }

    /// The connection, or else one attempt at a new one, not too soon after
    /// the last.
    pub async fn connect(&self) -> Result<Connection, Refusal> {
        let mut slot = self.slot.lock().await;
        if let Some(connection) = &slot.connection
            && connection.is_alive()
        {
            return Ok(connection.clone());
        }
        slot.connection = None;
        if let Some(instant) = slot.not_before {
            sleep_until(instant).await;
        }
        let place: Arc<str> = self.place.to_string().into();
        let limit = self.settings.connect_timeout;
        let opened = timeout(limit, self.open(&place, slot.last.as_ref()))
            .await
            .unwrap_or_else(|_| {
                Err(Refusal::passing(
                    &place,
                    format!("no connection within {} ms", limit.as_millis()),
                ))
            });
        match opened {
            Ok((connection, last)) => {
                self.reached.store(true, Ordering::Relaxed);
                *self.refusal() = None;
                *slot = Slot {
                    connection: Some(connection.clone()),
                    last,
                    ..Slot::default()
                };
                Ok(connection)
            }
            Err(refusal) => {
                slot.not_before = Some(Instant::now() + pause(slot.failures));
                slot.failures += 1;
                *self.refusal() = Some(refusal.error.clone());
                Err(refusal)
            }
        }
    }

    async fn open(&self, place: &Arc<str>, last: Option<&Client>) -> Result<(Connection, Option<Client>), Refusal> {
        let stream = self.stream(place).await?;
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_connection_timeout(None)
            .set_pipeline_buffer_size(REQUESTS);
        let (mut redis, driver) = MultiplexedConnection::new_with_config(&self.settings.target.login, stream, config)
            .await
            .map_err(|error| Refusal::of_setup(place, &error))?;
        let state = Arc::new(State::default());
        let ended = Arc::clone(&state);
        tokio::spawn(async move {
            driver.await;
            ended.dead.store(true, Ordering::Release);
        });
        let client = introduce(&mut redis, last, place).await?;
        let connection = Connection {
            redis,
            state,
            settings: Arc::clone(&self.settings),
            place: Arc::clone(place),
        };
        Ok((connection, client))
    }

    async fn stream(&self, place: &Arc<str>) -> Result<Box<dyn Stream>, Refusal> {
        let passing = |error: std::io::Error| Refusal::passing(place, error);
        let (host, port) = match &self.place {
            #[cfg(unix)]
            Place::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await.map_err(passing)?;
                return Ok(Box::new(stream));
            }
            #[cfg(not(unix))]
            Place::Unix(_) => return Err(Refusal::lasting(place, "this system has no Unix sockets")),
            Place::Tcp(host, port) => (host, *port),
        };
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(passing)?;
        stream.set_nodelay(true).map_err(passing)?;
        if !self.settings.target.tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.clone()).map_err(|error| Refusal::lasting(place, error))?;
        let config = self
            .settings
            .tls_config()
            .map_err(|error| Refusal { error, lasting: true })?;
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                // Certificates don't get better by trying again.
                Some(error @ rustls::Error::InvalidCertificate(_)) => Refusal::lasting(place, error),
                _ => Refusal::passing(place, error),
            })?;
        Ok(Box::new(stream))
    }

    /// A connection, trying until patience ends.
    pub async fn reach(&self, patience: Instant) -> Result<Connection> {
        loop {
            match timeout_at(patience, self.connect()).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(refusal)) if refusal.lasting || !self.was_reached() => return Err(refusal.error),
                Ok(Err(_)) => {}
                Err(_) => return Err(self.why_not()),
            }
        }
    }

    /// Sends what may be sent twice, until it is answered or patience ends.
    pub async fn ask(&self, request: &Pipeline) -> Result<Vec<Value>> {
        let patience = Instant::now() + self.settings.command_timeout;
        loop {
            match self.reach(patience).await?.send(request).await {
                Ok(replies) => return Ok(replies),
                Err(Lost::Connection(_)) if Instant::now() < patience => {}
                Err(lost) => return Err(lost.error()),
            }
        }
    }

    /// Sends a request, again if need be and it may be repeated.
    pub async fn request(&self, request: &Pipeline, repeatable: bool) -> Result<Vec<Value>> {
        if repeatable {
            self.ask(request).await
        } else {
            self.tell(request).await
        }
    }

    /// Sends what may not be sent twice.
    pub async fn tell(&self, request: &Pipeline) -> Result<Vec<Value>> {
        let patience = Instant::now() + self.settings.command_timeout;
        let connection = self.reach(patience).await?;
        connection.send(request).await.map_err(|lost| lost.error())
    }
}

impl Connection {
    pub fn is_alive(&self) -> bool {
        !self.state.dead.load(Ordering::Acquire)
    }

    /// Makes everybody take a new one.
    pub fn give_up(&self) {
        self.state.dead.store(true, Ordering::Release);
    }

    /// The replies to all commands of a request, errors among them. Requests
    /// are carried out in the order in which these futures are first polled.
    pub async fn send(&self, request: &Pipeline) -> Result<Vec<Value>, Lost> {
        let limit = self.settings.command_timeout;
        let mut redis = self.redis.clone();
        let replies = timeout(limit, redis.req_packed_commands(request, 0, request.len()));
        match replies.await {
            Ok(Ok(replies)) => {
                self.state.silent.store(0, Ordering::Relaxed);
                Ok(replies)
            }
            Ok(Err(error)) => {
                self.give_up();
                Err(Lost::Connection(format!("{}: {error}", self.place)))
            }
            Err(_) => {
                if self.state.silent.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_SILENT {
                    self.give_up();
                }
                Err(Lost::Timeout(format!(
                    "{} did not answer within {} ms",
                    self.place,
                    limit.as_millis()
                )))
            }
        }
    }
}

/// Asks what the server calls this connection, and has it close the last one:
/// requests that it may not have read yet must not be carried out after those
/// that follow here.
async fn introduce(
    redis: &mut MultiplexedConnection,
    last: Option<&Client>,
    place: &str,
) -> Result<Option<Client>, Refusal> {
    let mut request = pipe();
    request.cmd("CLIENT").arg("ID").cmd("INFO").arg("server");
    let replies = redis
        .req_packed_commands(&request, 0, request.len())
        .await
        .map_err(|error| Refusal::passing(place, error))?;
    let client = match &replies[..] {
        [Value::Int(id), Value::BulkString(info)] => run_of(info).map(|run| Client { run, id: *id }),
        [Value::ServerError(error), _] if error.code() == "NOAUTH" => {
            return Err(Refusal::lasting(
                place,
                error.details().unwrap_or("it wants a password"),
            ));
        }
        // Not every user may ask.
        _ => None,
    };
    if let Some(last) = last
        && client.as_ref().is_some_and(|client| client.run == last.run)
    {
        let mut kill = cmd("CLIENT");
        kill.arg("KILL").arg("ID").arg(last.id);
        redis
            .req_packed_command(&kill)
            .await
            .map_err(|error| Refusal::passing(place, error))?;
    }
    Ok(client)
}

fn run_of(info: &[u8]) -> Option<Vec<u8>> {
    let line = info
        .split(|byte| *byte == b'\n')
        .find(|line| line.starts_with(b"run_id:"));
    line.map(<[u8]>::to_vec)
}

/// With jitter: many processes lose one server at the same moment.
fn pause(failures: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
    let random = RandomState::new().hash_one(failures) % 1000;
    pause.mul_f64(0.5 + f64::from(u32::try_from(random).unwrap_or(0)) / 1000.0)
}
