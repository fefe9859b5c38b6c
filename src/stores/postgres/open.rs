//! Opens connections: finds the server, logs in, and makes sure that it is one of
//! the wanted kind.

use super::Settings;
use super::addresses::Address;
use super::failure::refusal;
use super::frames::{Encrypted, Frames, Traffic};
use super::server::Server;
use super::session::{Kind, Session};
use super::url::Login as Credentials;
use crate::host::{Socket, Watch, timeout};
use crate::kv::Error;
use crate::stores::served::Refusal;
use rand::seq::SliceRandom;
use rand::thread_rng;
use std::fmt::Display;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls};
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
    pub traffic: Arc<Traffic>,
}

pub type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why an address gave no connection.
struct Failure {
    refusal: Refusal,
    /// Whether others would fail too, so that they are not tried.
    last: bool,
}

impl Opened {
    /// A connection to the first server that accepts one and is of the wanted
    /// kind: the one that the URL wants, or if `writable`, a primary. Ends by the
    /// deadline.
    ///
    /// Must run on a thread: it takes long, and needs a runtime.
    pub async fn open(settings: Arc<Settings>, deadline: Instant, writable: bool) -> Result<Self, Refusal> {
        let target = &settings.target;
        // If the whole database is read-only, the server says so itself.
        let wanted = match target.session {
            Session::ReadWrite => Session::ReadWrite,
            _ if writable => Session::Primary,
            session => session,
        };
        let mut credentials = target.login().map_err(|error| Refusal { error, lasting: true })?;
        let password = settings.password.get(&target.place, deadline).await;
        if let Some(password) = password.map_err(|error| Refusal { error, lasting: false })? {
            credentials.set_password(&password);
        }
        let attempt = Attempt {
            settings: &settings,
            deadline,
            wanted,
            credentials,
        };
        let mut misses = Misses::default();
        let servers = shuffled(target.servers.clone(), target.random);
        for (index, server) in servers.iter().enumerate() {
            if let Some(opened) = attempt.server(server, servers.len() - index - 1, &mut misses).await? {
                return Ok(opened);
            }
        }
        let Misses { spare, failures } = misses;
        spare.ok_or_else(|| refusal_of(failures))
    }
}

/// The search for a server.
struct Attempt<'a> {
    settings: &'a Settings,
    deadline: Instant,
    wanted: Session,
    credentials: Credentials,
}

/// What has been tried in vain.
#[derive(Default)]
struct Misses {
    /// A server that will do if there is none of the preferred kind.
    spare: Option<Opened>,
    failures: Vec<Refusal>,
}

impl Misses {
    fn push(&mut self, refusal: Refusal) {
        // The addresses of one host often fail in the same way.
        if !self.failures.iter().any(|known| known.error == refusal.error) {
            self.failures.push(refusal);
        }
    }
}

impl Attempt<'_> {
    /// Tries each address of a server. `later` servers come after it.
    ///
    /// # Errors
    ///
    /// If other servers would fail too.
    async fn server(&self, server: &Server, later: usize, misses: &mut Misses) -> Result<Option<Opened>, Refusal> {
        let share = self.share(later + 1);
        let addresses = match timeout(share, server.addresses()).await {
            Ok(Ok(addresses)) => shuffled(addresses, self.settings.target.random),
            Ok(Err(error)) => {
                misses.push(refused(server, &error));
                return Ok(None);
            }
            Err(_) => {
                misses.push(late(server, "its address was not found", share));
                return Ok(None);
            }
        };
        let count = addresses.len();
        for (index, address) in addresses.into_iter().enumerate() {
            let share = self.share(count - index + later);
            match timeout(share, Box::pin(self.address(server, address))).await {
                Ok(Ok((opened, None))) => return Ok(Some(opened)),
                Ok(Ok((opened, Some(_)))) if self.wanted == Session::PreferStandby => {
                    misses.spare.get_or_insert(opened);
                }
                Ok(Ok((_, Some(why)))) => misses.push(refused(server, &why)),
                Ok(Err(failure)) if failure.last && misses.spare.is_none() => return Err(failure.refusal),
                Ok(Err(failure)) => misses.push(failure.refusal),
                Err(_) => misses.push(late(server, "not connected", share)),
            }
        }
        Ok(None)
    }

    /// The time for one of the addresses that are left.
    fn share(&self, left: usize) -> Duration {
        let time = self.deadline.saturating_duration_since(Instant::now());
        // A server that is kept in reserve must be found before the deadline.
        let left = left + usize::from(self.wanted == Session::PreferStandby);
        let share = time / u32::try_from(left).unwrap_or(u32::MAX);
        let most = self.settings.target.address_timeout;
        most.map_or(share, |most| share.min(most))
    }

    /// Connects to an address. Returns why the server is of the wrong kind, if
    /// it is.
    async fn address(&self, server: &Server, address: Address) -> Result<(Opened, Option<&'static str>), Failure> {
        let config = self.credentials.at(server);
        let connected = address.connect(&config).await;
        let socket = connected.map_err(|error| Failure {
            refusal: refused(server, &format_args!("error connecting to server: {error}")),
            last: false,
        })?;
        let watch = socket.watch();
        let mut tls = None;
        let encrypted = match address.name() {
            Some(name) => self.tls()?.map(|tls| (name, tls)),
            None => None,
        };
        let logged_in = match encrypted {
            None => self.log_in(socket, NoTls, server, &config).await,
            Some((name, encrypted)) => {
                let encrypted = tls.insert(encrypted);
                let connect = match MakeTlsConnect::<Socket>::make_tls_connect(encrypted, name) {
                    Ok(connect) => connect,
                    Err(never) => match never {},
                };
                self.log_in(socket, Encrypted(connect), server, &config).await
            }
        };
        let (login, wrong) = logged_in.map_err(|failure| self.explain(failure, &config))?;
        let opened = Opened {
            login,
            watch,
            address,
            tls,
        };
        Ok((opened, wrong))
    }

    fn tls(&self) -> Result<Option<MakeRustlsConnect>, Failure> {
        self.settings.target.tls.connect().map_err(|error| Failure {
            refusal: Refusal { error, lasting: true },
            last: true,
        })
    }

    /// Adds why there may be no password.
    fn explain(&self, mut failure: Failure, config: &Config) -> Failure {
        if let (Error::Connection(words), Some(why)) = (&mut failure.refusal.error, self.credentials.missing(config)) {
            *words = format!("{words}; {why}");
        }
        failure
    }

    async fn log_in<T>(
        &self,
        socket: Socket,
        tls: T,
        server: &Server,
        config: &Config,
    ) -> Result<(Login, Option<&'static str>), Failure>
    where
        T: TlsConnect<Frames<Socket>>,
        T::Stream: Send + 'static,
    {
        let failed = |error: tokio_postgres::Error| {
            let is_login = error.code().is_some_and(|code| code.code().starts_with("28"));
            let mut refusal = refusal(&error, &server.to_string());
            refusal.lasting &= !(is_login && self.settings.password.may_change());
            Failure {
                refusal,
                // As in PostgreSQL's own clients.
                last: is_login,
            }
        };
        let traffic = Traffic::new(self.settings.max_answer_bytes);
        let frames = Frames::new(socket, Arc::clone(&traffic));
        let (client, mut connection) = config.connect_raw(frames, tls).await.map_err(failed)?;
        let (wrong, backend) = {
            let mut first = pin!(self.first_queries(&client, &traffic));
            let answers = tokio::select! {
                biased;
                answers = &mut first => answers,
                ended = &mut connection => {
                    ended.map_err(failed)?;
                    first.await
                }
            };
            answers.map_err(failed)?
        };
        let login = Login {
            client,
            driver: Box::pin(async move { drop(connection.await) }),
            backend,
            traffic,
        };
        Ok((login, wrong))
    }

    /// Returns why the server is of the wrong kind, if it is, and the
    /// connection's name.
    async fn first_queries(
        &self,
        client: &Client,
        traffic: &Traffic,
    ) -> Result<(Option<&'static str>, Option<Backend>), tokio_postgres::Error> {
        let wrong = if self.wanted == Session::Any {
            None
        } else {
            let answer = client.simple_query(Kind::QUERY).await?;
            self.wanted.refusal(Kind::of(&answer))
        };
        if !self.settings.prepared_statements.load(Ordering::Relaxed) {
            return Ok((wrong, None));
        }
        let row = client.query_typed_opt(SELF, &[]).await?;
        let backend = row.and_then(|row| {
            Some(Backend {
                pid: row.try_get(0).ok()?,
                started: row.try_get(1).ok()?,
            })
        });
        // A pooler's connection to the server may be another client's a moment later.
        Ok((wrong, backend.filter(|backend| backend.pid == traffic.process())))
    }
}

/// Why all addresses failed.
fn refusal_of(mut failures: Vec<Refusal>) -> Refusal {
    if failures.len() == 1 {
        return failures.swap_remove(0);
    }
    let lasting = failures.iter().all(|refusal| refusal.lasting);
    let words = failures.into_iter().map(|refusal| match refusal.error {
        Error::Connection(words) => words,
        error => error.to_string(),
    });
    Refusal {
        error: Error::Connection(words.collect::<Vec<_>>().join("; ")),
        lasting,
    }
}

/// A failure that a retry may overcome.
fn refused(server: &Server, why: &dyn Display) -> Refusal {
    Refusal {
        error: Error::Connection(format!("{server}: {why}")),
        lasting: false,
    }
}

fn late(server: &Server, what: &str, limit: Duration) -> Refusal {
    refused(server, &format_args!("{what} within {} ms", limit.as_millis()))
}

fn shuffled<T>(mut items: Vec<T>, random: bool) -> Vec<T> {
    if random {
        items.shuffle(&mut thread_rng());
    }
    items
}

#[cfg(test)]
mod tests {
    use super::super::environment::Environment;
    use super::super::url::Target;
    use super::*;
    use crate::stores::served::Password;
    use std::net::TcpListener;
    use std::sync::atomic::AtomicBool;
    use tokio::runtime::Builder;

    /// Why no server is found, and the ports of two servers that accept
    /// connections and say nothing.
    fn refusal_of_silent(query: &str, time: Duration, address_timeout: Option<Duration>) -> (Refusal, [u16; 2]) {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap().port());
        let [first, second] = ports;
        let url = format!("postgres://user@127.0.0.1:{first},127.0.0.1:{second}/app?{query}");
        let mut target = Target::parse(&url, &Environment::default(), None).unwrap();
        target.address_timeout = address_timeout;
        let settings = Arc::new(Settings {
            target,
            password: Password::default(),
            initialized: false,
            query_timeout: time,
            prepared_statements: AtomicBool::new(true),
            max_answer_bytes: 1_000_000,
        });
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let open = async { Opened::open(settings, Instant::now() + time, false).await };
        let refusal = runtime.block_on(open).map(drop).unwrap_err();
        (refusal, ports)
    }

    #[test]
    fn a_silent_server_has_its_share_only() {
        let limit = Duration::from_millis(30);
        let (refusal, [first, second]) = refusal_of_silent("", Duration::from_secs(60), Some(limit));
        let words =
            format!("127.0.0.1:{first}: not connected within 30 ms; 127.0.0.1:{second}: not connected within 30 ms");
        assert_eq!(refusal.error, Error::Connection(words));
        assert!(!refusal.lasting);
        for query in ["", "target_session_attrs=prefer-standby", "load_balance_hosts=random"] {
            let begin = Instant::now();
            let (refusal, ports) = refusal_of_silent(query, Duration::from_millis(300), None);
            assert!(begin.elapsed() >= Duration::from_millis(100));
            let words = refusal.error.to_string();
            for port in ports {
                assert!(words.contains(&format!(":{port}: not connected within")), "{words}");
            }
        }
    }
}
