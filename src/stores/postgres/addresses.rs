//! Where a server may be, and sockets to there. The driver is given an open socket,
//! because its own look-ups panic when no thread can be started for them, and
//! because it can't hand a socket over to the event loop.

use super::server::{Host, Server};
use crate::host::Socket;
use crate::stores::served::look_up;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio_postgres::Config;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// With the name that the server's certificate must have.
    Tcp(SocketAddr, String),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Address {
    /// The name that the server's certificate must have; `None` if connections
    /// are never encrypted.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Tcp(_, name) => Some(name),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    pub async fn connect(&self, config: &Config) -> io::Result<Socket> {
        match self {
            Self::Tcp(address, _) => {
                let stream = TcpStream::connect(address).await?;
                set_up(&stream, config)?;
                Ok(Socket::tcp(stream))
            }
            #[cfg(unix)]
            Self::Unix(path) => UnixStream::connect(path).await.map(Socket::unix),
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

impl Server {
    /// The addresses, in the order in which to try them.
    ///
    /// # Errors
    ///
    /// If the host has no address.
    pub async fn addresses(&self) -> io::Result<Vec<Address>> {
        let name = match &self.host {
            Host::Named(name) => name,
            #[cfg(unix)]
            Host::Directory(directory) => return Ok(vec![Address::Unix(self.socket(directory))]),
        };
        let addresses = match self.address {
            Some(address) => vec![SocketAddr::new(address, self.port)],
            None => look_up(name, self.port).await?,
        };
        let address = |address| Address::Tcp(address, name.clone());
        Ok(addresses.into_iter().map(address).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::parameters::Parameters;
    use super::*;
    use tokio::runtime::Builder;

    fn found(url: &str) -> io::Result<Vec<Address>> {
        let servers = Server::all(&Parameters::parse(url).unwrap()).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(servers[0].addresses())
    }

    #[test]
    fn hosts_are_names_addresses_or_directories() {
        let tcp = |address: &str, name: &str| Address::Tcp(address.parse().unwrap(), name.to_owned());
        assert_eq!(
            found("postgres://192.0.2.1").unwrap(),
            [tcp("192.0.2.1:5432", "192.0.2.1")]
        );
        let local = found("postgres://localhost:4").unwrap();
        let possible = [tcp("127.0.0.1:4", "localhost"), tcp("[::1]:4", "localhost")];
        assert!(!local.is_empty() && local.iter().all(|address| possible.contains(address)));
        // The name is for the certificate only.
        let fixed = found("postgres://db.example?hostaddr=192.0.2.1").unwrap();
        assert_eq!(fixed, [tcp("192.0.2.1:5432", "db.example")]);
        assert!(found("postgres://no*such*host").is_err());
        #[cfg(unix)]
        {
            let socket = Address::Unix("/run/pg/.s.PGSQL.7".into());
            assert_eq!(found("postgres://%2Frun%2Fpg:7").unwrap(), [socket]);
            let address = found("postgres://%2Frun%2Fpg:7?hostaddr=::1").unwrap();
            assert_eq!(address, [tcp("[::1]:7", "::1")]);
        }
    }
}
