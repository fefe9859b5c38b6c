//! Where a server may be, and sockets to there. The driver is given an open socket,
//! because its own look-ups panic when no thread can be started for them, and
//! because it can't hand a socket over to the event loop.

use crate::host::Socket;
use crate::stores::served::look_up;
use rand::seq::SliceRandom;
use rand::thread_rng;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts};

/// The port of a URL that names none.
const PORT: u16 = 5432;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// With the name that the server's certificate must have.
    Tcp(SocketAddr, Option<String>),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Address {
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Tcp(_, name) => name.as_deref(),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    pub async fn connect(&self, config: &Config) -> io::Result<Socket> {
        let connect = async {
            match self {
                Self::Tcp(address, _) => {
                    let stream = TcpStream::connect(address).await?;
                    set_up(&stream, config)?;
                    Ok(Socket::tcp(stream))
                }
                #[cfg(unix)]
                Self::Unix(path) => UnixStream::connect(path).await.map(Socket::unix),
            }
        };
        match config.get_connect_timeout() {
            Some(limit) => timeout(*limit, connect).await?,
            None => connect.await,
        }
    }
}

fn set_up(stream: &TcpStream, config: &Config) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    if let Some(limit) = config.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(*limit))?;
    }
    if !config.get_keepalives() {
        return Ok(());
    }
    let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
    if let Some(interval) = config.get_keepalives_interval() {
        keepalive = keepalive.with_interval(interval);
    }
    #[cfg(not(windows))]
    if let Some(retries) = config.get_keepalives_retries() {
        keepalive = keepalive.with_retries(retries);
    }
    socket.set_tcp_keepalive(&keepalive)
}

/// The addresses, in the order in which to try them.
///
/// # Errors
///
/// If no host has an address, the error of the last one.
pub async fn addresses(config: &Config) -> io::Result<Vec<Address>> {
    let (hosts, fixed) = (config.get_hosts(), config.get_hostaddrs());
    let random = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
    let mut places: Vec<usize> = (0..hosts.len().max(fixed.len())).collect();
    if random {
        places.shuffle(&mut thread_rng());
    }
    let mut found = Vec::new();
    let mut failure = None;
    for place in places {
        let ports = config.get_ports();
        let port = ports.get(place).or_else(|| ports.first()).copied().unwrap_or(PORT);
        let host = hosts.get(place);
        let name = match host {
            Some(Host::Tcp(name)) => Some(name),
            _ => None,
        };
        let looked_up = match (fixed.get(place), host) {
            (Some(address), _) => Ok(vec![SocketAddr::new(*address, port)]),
            (None, Some(Host::Tcp(name))) => look_up(name, port).await,
            #[cfg(unix)]
            (None, Some(Host::Unix(path))) => {
                found.push(Address::Unix(path.join(format!(".s.PGSQL.{port}"))));
                continue;
            }
            (None, None) => continue,
        };
        match looked_up {
            Ok(mut addresses) => {
                if random {
                    addresses.shuffle(&mut thread_rng());
                }
                let address = |address| Address::Tcp(address, name.cloned());
                found.extend(addresses.into_iter().map(address));
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::Builder;

    fn found(url: &str) -> io::Result<Vec<String>> {
        let config = url.parse().unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let place = |address: &Address| match address {
            Address::Tcp(address, name) => format!("{address} {}", name.as_deref().unwrap_or("-")),
            #[cfg(unix)]
            Address::Unix(path) => path.display().to_string(),
        };
        let addresses = runtime.block_on(addresses(&config))?;
        Ok(addresses.iter().map(place).collect())
    }

    #[test]
    fn each_address_of_each_host_is_tried() {
        assert_eq!(found("postgres://192.0.2.1/db").unwrap(), ["192.0.2.1:5432 192.0.2.1"]);
        let several = found("postgres://192.0.2.1:1,192.0.2.2:2,%2Frun:3/db").unwrap();
        assert_eq!(
            several,
            ["192.0.2.1:1 192.0.2.1", "192.0.2.2:2 192.0.2.2", "/run/.s.PGSQL.3"]
        );
        let one_port = found("host=192.0.2.1,192.0.2.2 port=7").unwrap();
        assert_eq!(one_port, ["192.0.2.1:7 192.0.2.1", "192.0.2.2:7 192.0.2.2"]);
        let local = found("postgres://localhost:4/db").unwrap();
        assert!(
            local
                .iter()
                .any(|place| place == "127.0.0.1:4 localhost" || place == "[::1]:4 localhost")
        );
        // The name is for the certificate only.
        let fixed = found("host=db.example,- hostaddr=192.0.2.1,192.0.2.2 port=5,6").unwrap();
        assert_eq!(fixed, ["192.0.2.1:5 db.example", "192.0.2.2:6 -"]);
        assert_eq!(found("hostaddr=192.0.2.1").unwrap(), ["192.0.2.1:5432 -"]);
        // A name without an address doesn't prevent the other attempts.
        let rest = found("host=no*such*host,192.0.2.2").unwrap();
        assert_eq!(rest, ["192.0.2.2:5432 192.0.2.2"]);
        assert!(found("host=no*such*host").is_err());
    }
}
