//! How all stores connect: name look-ups that fail instead of panicking, and
//! attempts whose panics fail that attempt alone.
//!
//! The runtime looks names up on threads of its own, and panics when it can't
//! start one. So does a driver that leaves its look-ups to the runtime.

use super::attempt::catch;
use crate::host::thread::spawn;
use crate::kv::{Error, Result};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// The addresses of a host, which may be a name or an address itself.
///
/// # Errors
///
/// If there is no such host, or no thread for the look-up.
pub async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (sender, addresses) = oneshot::channel();
    let host = host.to_owned();
    spawn("look-up", move || {
        let addresses = (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
        // The receiver may be gone; its answer is then not needed.
        drop(sender.send(addresses));
    })?;
    addresses
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the look-up of the host's name gave no result")))
}

/// A connection to the first address of a host that accepts one.
///
/// # Errors
///
/// If no address accepts one.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(&look_up(host, port).await?[..]).await
}

/// Awaits an attempt to connect. If it panics, that attempt alone has failed.
///
/// # Errors
///
/// [`Error::Connection`] after a panic.
pub async fn contain<T>(attempt: impl Future<Output = T>) -> Result<T> {
    // All state that the attempt can see is dropped with it.
    catch(attempt).await.map_err(|words| {
        let words = words.as_deref().unwrap_or("internal error");
        Error::Connection(format!("connecting failed: {words}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::Builder;

    fn run<T>(future: impl Future<Output = T>) -> T {
        Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        run(async {
            let v4 = look_up("192.0.2.1", 5).await.unwrap();
            assert_eq!(v4, ["192.0.2.1:5".parse().unwrap()]);
            let v6 = look_up("::1", 5).await.unwrap();
            assert_eq!(v6, ["[::1]:5".parse().unwrap()]);
            let local = look_up("localhost", 5).await.unwrap();
            assert!(!local.is_empty());
            assert!(
                local
                    .iter()
                    .all(|address| address.ip().is_loopback() && address.port() == 5)
            );
            assert!(look_up("no such host", 5).await.is_err());
        });
    }

    #[test]
    fn a_panic_is_an_error_of_its_attempt() {
        run(async {
            assert_eq!(contain(async { 1 }).await, Ok(1));
            let count = 5;
            let error = contain(async { panic!("no thread for {count}") })
                .await
                .map(|(): ()| ());
            assert_eq!(
                error,
                Err(Error::Connection("connecting failed: no thread for 5".into()))
            );
        });
    }
}
