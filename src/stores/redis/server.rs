//! One server and the connection to it.

use super::Settings;
use super::connection::{Connection, Stream};
use super::failure::{Lost, Refusal, is_loading};
use super::login::log_in;
use super::many::PAUSE;
use super::url::Place;
use crate::kv::{Error, Result};
use crate::stores::served::{TlsRefusal, connect, contain};
use parking_lot::MutexGuard;
use redis::{Pipeline, Value, pipe};
use rustls::pki_types::ServerName;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_rustls::TlsConnector;

/// About the pause between two attempts to connect, doubled after each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub struct Server {
    pub place: Place,
    settings: Arc<Settings>,
    /// Held while connecting, so that all requests wait for one attempt.
    slot: Mutex<Slot>,
    reached: AtomicBool,
    /// Why there is no connection, if there is none.
    refusal: parking_lot::Mutex<Option<Error>>,
}

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    last: Option<Client>,
    failures: u32,
    not_before: Option<Instant>,
}

/// How a server names a connection, until the server is restarted.
#[derive(Clone, PartialEq, Eq)]
struct Client {
    run: Vec<u8>,
    id: i64,
}

impl Server {
    pub fn new(place: Place, settings: Arc<Settings>) -> Self {
        Self {
            place,
            settings,
            slot: Mutex::default(),
            reached: AtomicBool::new(false),
            refusal: parking_lot::Mutex::default(),
        }
    }

    /// Whether there ever was a connection. Until then operations fail at once,
    /// because the server may not exist.
    pub fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    fn refusal(&self) -> MutexGuard<'_, Option<Error>> {
        self.refusal.lock()
    }

    /// The error of an operation that has waited too long for a connection.
    pub fn last_error(&self) -> Error {
        self.refusal()
            .clone()
            .unwrap_or_else(|| Error::Timeout(format!("{}: no connection within commandTimeout", self.place)))
    }

    /// The connection, or one attempt at a new one, not too soon after the last
    /// attempt.
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
        let deadline = Instant::now() + limit;
        let opened = contain(timeout_at(deadline, self.open(&place, slot.last.as_ref(), deadline))).await;
        let opened = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => Err(Refusal::passing(
                &place,
                format!("not connected within {} ms", limit.as_millis()),
            )),
            Err(error) => Err(Refusal { error, lasting: false }),
        };
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
                slot.not_before = Some(Instant::now() + pause(slot.failures, self.settings.command_timeout));
                slot.failures += 1;
                *self.refusal() = Some(refusal.error.clone());
                Err(refusal)
            }
        }
    }

    async fn open(
        &self,
        place: &Arc<str>,
        last: Option<&Client>,
        deadline: Instant,
    ) -> Result<(Connection, Option<Client>), Refusal> {
        let password = &self.settings.password;
        let mut login = self.settings.target.login.clone();
        let asked = password.get(place, deadline).await;
        if let Some(password) = asked.map_err(|error| Refusal { error, lasting: false })? {
            login = login.set_password(password);
        }
        let stream = self.stream(place).await?;
        let stream = log_in(stream, &login).await.map_err(|error| {
            let mut refusal = Refusal::of_setup(place, &error);
            refusal.lasting &= !password.may_change();
            refusal
        })?;
        let connection = Connection::new(stream, &self.settings, place);
        let client = introduce(&connection, last, place).await?;
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
        let stream = connect(host, port).await.map_err(passing)?;
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
            .map_err(|error| match TlsRefusal::find(&error) {
                Some(TlsRefusal { words, lasting: true }) => Refusal::lasting(place, words),
                Some(TlsRefusal { words, .. }) => Refusal::passing(place, words),
                None => Refusal::passing(place, error),
            })?;
        Ok(Box::new(stream))
    }

    /// A connection, trying until `patience` is over.
    pub async fn reach(&self, patience: Instant) -> Result<Connection> {
        loop {
            match timeout_at(patience, self.connect()).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(refusal)) if refusal.lasting || !self.was_reached() => return Err(refusal.error),
                Ok(Err(_)) => {}
                Err(_) => return Err(self.last_error()),
            }
        }
    }

    /// Sends a request that may be carried out twice, until it is answered or
    /// the time is over.
    pub async fn ask(&self, request: &Pipeline) -> Result<Vec<Value>> {
        let patience = Instant::now() + self.settings.command_timeout;
        loop {
            match self.reach(patience).await?.send(request.into()).await {
                Ok(replies) => {
                    let replies: Vec<Value> = replies.collect();
                    if !replies.iter().any(is_loading) || Instant::now() >= patience {
                        return Ok(replies);
                    }
                    sleep(PAUSE).await;
                }
                Err(Lost::Connection(_)) if Instant::now() < patience => {}
                Err(lost) => return Err(lost.error()),
            }
        }
    }

    /// Sends a request, repeatedly if that is allowed.
    pub async fn request(&self, request: &Pipeline, repeatable: bool) -> Result<Vec<Value>> {
        if repeatable {
            self.ask(request).await
        } else {
            self.ask_once(request).await
        }
    }

    /// Sends a request that may not be carried out twice.
    pub async fn ask_once(&self, request: &Pipeline) -> Result<Vec<Value>> {
        let patience = Instant::now() + self.settings.command_timeout;
        loop {
            let connection = self.reach(patience).await?;
            let replies = connection.send(request.into()).await.map_err(|lost| lost.error())?;
            let replies: Vec<Value> = replies.collect();
            // If all commands were refused, none was carried out.
            if !replies.iter().all(is_loading) || Instant::now() >= patience {
                return Ok(replies);
            }
            sleep(PAUSE).await;
        }
    }
}

/// Asks for the server's name of this connection, and has the server close the
/// last one: requests that it may not have read yet must not be carried out
/// after newer ones.
async fn introduce(connection: &Connection, last: Option<&Client>, place: &str) -> Result<Option<Client>, Refusal> {
    let mut request = pipe();
    request.cmd("CLIENT").arg("ID").cmd("INFO").arg("server");
    let passing = |lost: Lost| Refusal {
        error: lost.error(),
        lasting: false,
    };
    let replies: Vec<Value> = connection.send((&request).into()).await.map_err(passing)?.collect();
    let client = match &replies[..] {
        [Value::Int(id), Value::BulkString(info)] => run_of(info).map(|run| Client { run, id: *id }),
        [Value::ServerError(error), _] if error.code() == "NOAUTH" => {
            return Err(Refusal::lasting(
                place,
                error
                    .details()
                    .unwrap_or("the server requires a password; add it to the URL"),
            ));
        }
        // Not every user may do that.
        _ => None,
    };
    if let Some(last) = last
        && client.as_ref().is_some_and(|client| client.run == last.run)
    {
        let mut kill = pipe();
        kill.cmd("CLIENT").arg("KILL").arg("ID").arg(last.id);
        connection.send((&kill).into()).await.map_err(passing)?;
    }
    Ok(client)
}

fn run_of(info: &[u8]) -> Option<Vec<u8>> {
    let line = info
        .split(|byte| *byte == b'\n')
        .find(|line| line.starts_with(b"run_id:"));
    line.map(<[u8]>::to_vec)
}

/// With jitter, because many processes lose a server at the same moment. Always
/// shorter than `patience`, so that an attempt falls into each operation's time.
fn pause(failures: u32, patience: Duration) -> Duration {
    let longest = LONGEST_PAUSE.min(patience / 4);
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(longest);
    let random = RandomState::new().hash_one(failures) % 1000;
    pause.mul_f64(0.5 + f64::from(u32::try_from(random).unwrap_or(0)) / 1000.0)
}
