//! Opens connections: finds the server, logs in, and makes sure that it is one of
//! the wanted kind.

use super::Settings;
use super::addresses::{Address, addresses};
use super::failure::refusal;
use super::url::Encryption;
use crate::host::{Socket, Watch};
use crate::kv::{Error, Result};
use crate::stores::TlsOptions;
use crate::stores::served::Refusal;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How the server names a connection. The process number alone may be reused.
#[derive(Clone, PartialEq, Eq)]
pub struct Backend {
    pub pid: i32,
    pub started: String,
}

/// Asks for the name of this connection.
const SELF: &str = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";

/// A connection that has logged in, and whose driver waits to be run.
pub struct Opened {
    pub login: Login,
    pub watch: Arc<Watch>,
    pub address: Address,
    pub tls: Option<MakeRustlsConnect>,
}

pub struct Login {
    pub client: Client,
    /// Reads from the socket and writes to it.
    pub driver: Driver,
    pub backend: Option<Backend>,
}

pub type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Opened {
    /// Must run on a thread: it takes long, and needs a runtime.
    pub async fn open(settings: Arc<Settings>, writable: bool) -> Result<Self, Refusal> {
        let place = &settings.target.place;
        let addresses = addresses(&settings.target.config)
            .await
            .map_err(|error| passing(Error::Connection(format!("{place}: {error}"))))?;
        let mut failure = None;
        for address in addresses {
            match Self::open_at(address, &settings, writable).await {
                Ok(opened) => return Ok(opened),
                Err(refusal) => failure = Some(refusal),
            }
        }
        Err(failure.unwrap_or_else(|| lasting(Error::Connection(format!("{place}: the URL names no host")))))
    }

    async fn open_at(address: Address, settings: &Settings, writable: bool) -> Result<Self, Refusal> {
        let refused = |error: io::Error| not_connected(settings, &error);
        let socket = address.connect(&settings.target.config).await.map_err(refused)?;
        let watch = socket.watch();
        let (login, tls) = if settings.target.encryption == Encryption::None {
            (log_in(socket, NoTls, settings, writable).await?, None)
        } else {
            let mut tls = settings.tls().map_err(lasting)?;
            let name = address.name().unwrap_or_default();
            let connect = match MakeTlsConnect::<Socket>::make_tls_connect(&mut tls, name) {
                Ok(connect) => connect,
                Err(never) => match never {},
            };
            (log_in(socket, connect, settings, writable).await?, Some(tls))
        };
        Ok(Self {
            login,
            watch,
            address,
            tls,
        })
    }
}

async fn log_in<T>(socket: Socket, tls: T, settings: &Settings, writable: bool) -> Result<Login, Refusal>
where
    T: TlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let refused = |error: tokio_postgres::Error| refusal(&error, &settings.target.place);
    let connect = settings.target.config.connect_raw(socket, tls);
    let (client, mut connection) = connect.await.map_err(refused)?;
    let backend = {
        let mut first = pin!(first_queries(&client, settings, writable));
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
async fn first_queries(client: &Client, settings: &Settings, writable: bool) -> Result<Option<Backend>, Refusal> {
    let refused = |error: tokio_postgres::Error| refusal(&error, &settings.target.place);
    if writable
        && client
            .query_typed_opt("SELECT 1 WHERE pg_is_in_recovery()", &[])
            .await
            .map_err(refused)?
            .is_some()
    {
        return Err(not_connected(settings, &io::Error::other("the server is a standby")));
    }
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
    passing(Error::Connection(words))
}

fn passing(error: Error) -> Refusal {
    Refusal { error, lasting: false }
}

fn lasting(error: Error) -> Refusal {
    Refusal { error, lasting: true }
}

/// The configuration of encrypted connections.
pub fn tls_connect(encryption: Encryption, tls: &TlsOptions) -> Result<MakeRustlsConnect> {
    let mut tls = tls.clone();
    tls.reject_unauthorized &= encryption == Encryption::Verified;
    Ok(MakeRustlsConnect::new(tls.config()?))
}
