//! Opens connections: reaches the server, logs in, and looks at what it is.

use super::Settings;
use super::connection::{Connection, Name};
use super::failure::words;
use super::url::Place;
use super::wire::{Batch, Stream, Wire, one};
use crate::host::{Bulk, Socket, Watch, timeout_at};
use crate::kv::Error;
use crate::stores::served::{Connect, Refusal, TlsRefusal, connect, contain};
use futures::future::{AbortHandle, BoxFuture, abortable};
use redis::{Value, cmd};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// After how much silence the system asks whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A connection that is logged in.
pub struct Opened {
    pub wire: Wire,
    pub watch: Arc<Watch>,
    pub name: Option<Name>,
}

/// Opens connections to one server, on the thread, because that takes long.
pub struct Connector {
    pub settings: Arc<Settings>,
    pub place: Place,
    pub words: Arc<str>,
    /// What the cluster calls the server, if that is known.
    pub id: Option<Arc<[u8]>>,
    pub bulk: Bulk,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connect for Connector {
    type Connection = Connection;

    fn place(&self) -> &str {
        &self.words
    }

    /// A server that takes no writes is asked again; the name may lead to another one
    /// by then.
    fn open(&self, deadline: Instant, _: bool) -> BoxFuture<'_, Result<Connection, Refusal>> {
        Box::pin(async move {
            let attempt = Attempt {
                settings: Arc::clone(&self.settings),
                place: self.place.clone(),
                words: Arc::clone(&self.words),
                id: self.id.clone(),
            };
            let late = attempt.passing("not connected in time");
            let open = contain(Box::pin(
                async move { timeout_at(deadline, attempt.open(deadline)).await },
            ));
            let (open, abort) = abortable(open);
            // Its socket is not to outlive this future.
            let _guard = AbortOnDrop(abort);
            let opened = self.bulk.run(open).await;
            let opened = opened.and_then(|opened| opened.unwrap_or(Err(Error::Closed)));
            let opened = opened.map_err(|error| Refusal { error, lasting: false })?;
            let opened = opened.unwrap_or(Err(late))?;
            Ok(Connection::start(opened, &self.settings, Arc::clone(&self.words)))
        })
    }
}

struct Attempt {
    settings: Arc<Settings>,
    place: Place,
    words: Arc<str>,
    /// What the cluster calls the server.
    id: Option<Arc<[u8]>>,
}

impl Attempt {
    fn passing(&self, why: impl Display) -> Refusal {
        Refusal {
            error: Error::Connection(format!("{}: {why}", self.words)),
            lasting: false,
        }
    }

    fn lasting(&self, why: impl Display) -> Refusal {
        Refusal {
            lasting: true,
            ..self.passing(why)
        }
    }

    async fn open(&self, deadline: Instant) -> Result<Opened, Refusal> {
        let passing = |error| Refusal { error, lasting: false };
        let password = &self.settings.password;
        let given = password.get(&self.words, deadline).await.map_err(passing)?;
        let socket = self.socket().await?;
        let watch = socket.watch();
        let mut wire = Wire::new(self.encrypt(socket).await?);
        let name = self.log_in(&mut wire, given).await?;
        Ok(Opened { wire, watch, name })
    }

    async fn socket(&self) -> Result<Socket, Refusal> {
        let opened = match &self.place {
            Place::Tcp(host, port) => match connect(host, *port).await {
                Ok(stream) => set_up(&stream, self.settings.connect_timeout).map(|()| Socket::tcp(stream)),
                Err(error) => Err(error),
            },
            #[cfg(unix)]
            Place::Unix(path) => tokio::net::UnixStream::connect(path).await.map(Socket::unix),
            #[cfg(not(unix))]
            Place::Unix(_) => return Err(self.lasting("this system has no Unix sockets")),
        };
        opened.map_err(|error| self.passing(error))
    }

    async fn encrypt(&self, socket: Socket) -> Result<Box<dyn Stream>, Refusal> {
        let Place::Tcp(host, _) = &self.place else {
            return Ok(Box::new(socket));
        };
        if !self.settings.target.tls {
            return Ok(Box::new(socket));
        }
        let name = ServerName::try_from(host.clone()).map_err(|error| self.lasting(error))?;
        let config = self.settings.tls_config();
        let config = config.map_err(|error| Refusal { error, lasting: true })?;
        let encrypted = TlsConnector::from(config).connect(name, socket).await;
        let encrypted = encrypted.map_err(|error| match TlsRefusal::find(&error) {
            Some(TlsRefusal { words, lasting: true }) => self.lasting(words),
            Some(TlsRefusal { words, .. }) => self.passing(words),
            None => self.passing(error),
        })?;
        Ok(Box::new(encrypted))
    }

    async fn log_in(&self, wire: &mut Wire, password: Option<String>) -> Result<Option<Name>, Refusal> {
        let login = &self.settings.target.login;
        let user = login.username();
        let mut first = Batch::default();
        if let Some(password) = password.as_deref().or(login.password()) {
            first.add(cmd("AUTH").arg(user).arg(password));
        }
        let authenticates = first.commands > 0;
        let selects = login.db() != 0;
        if selects {
            first.add(cmd("SELECT").arg(login.db()));
        }
        first.add(cmd("CLIENT").arg("ID"));
        first.add(cmd("INFO").arg("server"));
        for (field, value) in [("LIB-NAME", "fedify-kv"), ("LIB-VER", env!("CARGO_PKG_VERSION"))] {
            first.add(cmd("CLIENT").arg("SETINFO").arg(field).arg(value));
        }
        let mut replies = self.exchange(wire, &first).await?.into_iter();
        // A server that has too many clients says so and ends the connection.
        if replies.len() < first.commands
            && let Some(Value::ServerError(error)) = replies.as_slice().first()
        {
            return Err(self.passing(words(error)));
        }
        if authenticates {
            self.check_login(&replies.next().unwrap_or_default())?;
        }
        if selects && let Some(Value::ServerError(error)) = replies.next() {
            let passes = matches!(error.code(), "LOADING" | "BUSY");
            let why = words(&error);
            return Err(if passes { self.passing(why) } else { self.lasting(why) });
        }
        let (id, info) = (replies.next().unwrap_or_default(), replies.next().unwrap_or_default());
        for reply in [&id, &info] {
            if let Value::ServerError(error) = reply {
                match error.code() {
                    "NOAUTH" => {
                        return Err(self.lasting(format!("{}; add the password to the URL", words(error))));
                    }
                    "LOADING" | "BUSY" | "MASTERDOWN" => return Err(self.passing(words(error))),
                    // Not every user may ask.
                    _ => {}
                }
            }
        }
        if let Some(id) = &self.id {
            self.check_id(wire, id).await?;
        }
        if self.settings.index {
            self.check_eviction(wire).await?;
        }
        Ok(match (id, field(&info, "run_id")) {
            (Value::Int(id), Some(run)) => Some(Name { run, id }),
            _ => None,
        })
    }

    async fn exchange(&self, wire: &mut Wire, batch: &Batch) -> Result<Vec<Value>, Refusal> {
        wire.exchange(batch).await.map_err(|error| self.passing(error))
    }

    fn check_login(&self, reply: &Value) -> Result<(), Refusal> {
        let Value::ServerError(error) = reply else {
            return Ok(());
        };
        let why = words(error);
        let is_refused = matches!(error.code(), "WRONGPASS" | "NOAUTH" | "NOPERM") || why.contains("AUTH");
        let lasting = is_refused && !self.settings.password.may_change();
        Err(if lasting { self.lasting(why) } else { self.passing(why) })
    }

    /// The address may be another server's by now, even another cluster's.
    async fn check_id(&self, wire: &mut Wire, id: &[u8]) -> Result<(), Refusal> {
        let replies = self.exchange(wire, &one(cmd("CLUSTER").arg("MYID"))).await?;
        match replies.first() {
            Some(Value::BulkString(other)) if other != id => {
                Err(self.passing("another server of a cluster has this address now"))
            }
            // Not every user may ask.
            _ => Ok(()),
        }
    }

    /// A server that evicts keys of its own choice would evict parts of the index.
    async fn check_eviction(&self, wire: &mut Wire) -> Result<(), Refusal> {
        let info = self.exchange(wire, &one(cmd("INFO").arg("memory"))).await?;
        let info = info.into_iter().next().unwrap_or_default();
        let (mut limit, mut policy) = (field(&info, "maxmemory"), field(&info, "maxmemory_policy"));
        if policy.is_none() {
            // Not every user may ask for both.
            let config = self
                .exchange(wire, &one(cmd("CONFIG").arg("GET").arg("maxmemory*")))
                .await?;
            let config = config.into_iter().next().unwrap_or_default();
            (limit, policy) = (setting(&config, "maxmemory"), setting(&config, "maxmemory-policy"));
        }
        let limit = limit.filter(|limit| limit != b"0");
        let policy = policy.filter(|policy| policy.starts_with(b"allkeys"));
        let (Some(_), Some(policy)) = (limit, policy) else {
            return Ok(());
        };
        Err(Refusal {
            error: Error::InvalidOption(format!(
                "index: true needs a server that does not evict parts of the index: {} has the maxmemory-policy {}; \
                noeviction and volatile-* are safe",
                self.words,
                String::from_utf8_lossy(&policy)
            )),
            lasting: true,
        })
    }
}

fn set_up(stream: &TcpStream, unanswered: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(unanswered))?;
    #[cfg(not(target_os = "linux"))]
    let _ = unanswered;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3))
}

/// A field of what INFO has answered.
fn field(info: &Value, name: &str) -> Option<Vec<u8>> {
    let Value::BulkString(info) = info else {
        return None;
    };
    info.split(|byte| *byte == b'\n').find_map(|line| {
        let value = line.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
        Some(value.to_vec())
    })
}

/// A setting that CONFIG GET has answered.
fn setting(config: &Value, name: &str) -> Option<Vec<u8>> {
    let Value::Array(config) = config else {
        return None;
    };
    config.chunks(2).find_map(|pair| match pair {
        [Value::BulkString(key), Value::BulkString(value)] if key == name.as_bytes() => Some(value.clone()),
        _ => None,
    })
}
