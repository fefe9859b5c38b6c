//! The servers that a URL names, in its order.

use super::parameters::{Given, Parameters, invalid};
use crate::kv::Result;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The port of a URL that names none.
const PORT: u16 = 5432;

/// The host of a URL that names none. PostgreSQL's own clients use the socket
/// directory that they were built with, which differs between systems.
const HOST: &str = "localhost";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub host: Host,
    /// What to connect to, without looking up the host.
    pub address: Option<IpAddr>,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or an address, which the server's certificate must have.
    Named(String),
    /// The directory of a Unix socket.
    #[cfg(unix)]
    Directory(PathBuf),
}

impl Server {
    /// # Errors
    ///
    /// [`Error::InvalidOption`](crate::kv::Error::InvalidOption) if the numbers of hosts, addresses and ports
    /// don't match.
    pub fn all(parameters: &Parameters) -> Result<Vec<Self>> {
        let hosts = List::of(parameters, "host");
        let addresses = List::of(parameters, "hostaddr");
        let ports = List::of(parameters, "port");
        let count = hosts.items.len().max(addresses.items.len()).max(1);
        if !hosts.has(&[0, count]) || !addresses.has(&[0, count]) {
            return Err(invalid("it must have as many hosts as hostaddrs"));
        }
        if !ports.has(&[0, 1, count]) {
            return Err(invalid("it must have one port, or one for each host"));
        }
        let server = |index: usize| {
            // A single port is for all hosts.
            let port = if ports.items.len() == 1 { 0 } else { index };
            let port = ports.read(port, "a number from 1 to 65535")?;
            let address = addresses.at(index);
            // An address makes a socket directory meaningless.
            let host = hosts
                .at(index)
                .filter(|host| address.is_none() || !host.starts_with('/'));
            Ok(Self {
                host: Host::of(host.or(address).unwrap_or(HOST))?,
                address: addresses.read(index, "an IP address")?,
                port: port.map_or(PORT, NonZeroU16::get),
            })
        };
        (0..count).map(server).collect()
    }
}

impl Host {
    #[cfg_attr(
        unix,
        expect(clippy::unnecessary_wraps, reason = "other systems have no socket directories")
    )]
    fn of(text: &str) -> Result<Self> {
        #[cfg(unix)]
        if text.starts_with('/') {
            return Ok(Self::Directory(text.into()));
        }
        #[cfg(not(unix))]
        if text.starts_with(['/', '\\']) {
            return Err(invalid("this system has no socket directories"));
        }
        Ok(Self::Named(text.to_owned()))
    }
}

impl Server {
    #[cfg(unix)]
    pub fn socket(&self, directory: &Path) -> PathBuf {
        directory.join(format!(".s.PGSQL.{}", self.port))
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Named(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Host::Named(host) => write!(f, "{host}:{}", self.port),
            #[cfg(unix)]
            Host::Directory(directory) => self.socket(directory).display().fmt(f),
        }
    }
}

/// A parameter that has an item for each host. An empty item has its default.
struct List<'a> {
    given: Option<Given<'a>>,
    items: Vec<&'a str>,
}

impl<'a> List<'a> {
    fn of(parameters: &'a Parameters, name: &'static str) -> Self {
        let text = parameters.text(name);
        Self {
            given: parameters.get(name),
            items: text.map_or(Vec::new(), |text| text.split(',').collect()),
        }
    }

    fn has(&self, counts: &[usize]) -> bool {
        counts.contains(&self.items.len())
    }

    fn at(&self, index: usize) -> Option<&'a str> {
        let item = self.items.get(index).map(|item| item.trim());
        item.filter(|item| !item.is_empty())
    }

    fn read<T: FromStr>(&self, index: usize, kind: &str) -> Result<Option<T>> {
        let (Some(item), Some(given)) = (self.at(index), &self.given) else {
            return Ok(None);
        };
        item.parse().map(Some).map_err(|_| given.must_be(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(url: &str) -> Result<Vec<String>> {
        let servers = Server::all(&Parameters::parse(url)?)?;
        let shown = |server: &Server| match server.address {
            Some(address) => format!("{server} at {address}"),
            None => server.to_string(),
        };
        Ok(servers.iter().map(shown).collect())
    }

    #[test]
    fn each_host_has_its_port_and_address() {
        assert_eq!(all("postgres://").unwrap(), ["localhost:5432"]);
        assert_eq!(all("postgres://?port=7").unwrap(), ["localhost:7"]);
        assert_eq!(
            all("postgres://a,[::1]:1,:2").unwrap(),
            ["a:5432", "[::1]:1", "localhost:2"]
        );
        assert_eq!(all("postgres://?host=a,b&port=7").unwrap(), ["a:7", "b:7"]);
        assert_eq!(all("postgres://?host=a,b&port=,8").unwrap(), ["a:5432", "b:8"]);
        // Without a host, the certificate must have the address.
        let addresses = all("postgres://?hostaddr=192.0.2.1,::1").unwrap();
        assert_eq!(addresses, ["192.0.2.1:5432 at 192.0.2.1", "[::1]:5432 at ::1"]);
        let some = all("postgres://a,b?hostaddr=192.0.2.1,").unwrap();
        assert_eq!(some, ["a:5432 at 192.0.2.1", "b:5432"]);
        #[cfg(unix)]
        for url in ["postgres://%2Frun%2Fpg:7/d", "postgres://:7/d?host=/run/pg"] {
            assert_eq!(all(url).unwrap(), ["/run/pg/.s.PGSQL.7"]);
        }
    }

    #[test]
    fn numbers_must_match() {
        for bad in [
            "postgres://a:99999",
            "postgres://a:0",
            "postgres://a:secret",
            "postgres://a,b?port=1,2,3",
            "postgres://a,b?hostaddr=192.0.2.1",
            "postgres://a?hostaddr=secret",
        ] {
            let error = all(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
