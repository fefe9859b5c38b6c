//! Redis URLs: where servers are, and how to log in.

use crate::kv::{Error, Result};
use redis::{ConnectionAddr, ConnectionInfo, RedisConnectionInfo};
use std::fmt;
use std::path::PathBuf;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Place {
    /// Reads `host:port`. An IPv6 address is in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = match host.strip_prefix('[') {
            Some(address) => address.strip_suffix(']')?,
            None => Some(host).filter(|host| !host.contains(':'))?,
        };
        (!host.is_empty()).then(|| Self::Tcp(host.to_owned(), port))
    }
}

/// The content of one or several URLs.
#[derive(Clone, Debug)]
pub struct Target {
    pub places: Vec<Place>,
    pub login: RedisConnectionInfo,
    pub tls: bool,
    pub cluster: bool,
}

impl Target {
    /// Several URLs name nodes of one cluster.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if a URL names no server. The message never
    /// shows the URL, which may hold a password.
    pub fn parse(urls: &[String]) -> Result<Self> {
        let targets = urls
            .iter()
            .map(|url| Self::parse_one(url))
            .collect::<Result<Vec<_>>>()?;
        let mut targets = targets.into_iter();
        let mut target = targets
            .next()
            .ok_or_else(|| Error::InvalidOption("the array of URLs must not be empty".into()))?;
        for another in targets {
            if another.tls != target.tls {
                return Err(invalid("all URLs of a cluster must be encrypted (rediss:), or none"));
            }
            target.cluster = true;
            target.places.extend(another.places);
        }
        if target.cluster && target.places.iter().any(|place| matches!(place, Place::Unix(_))) {
            return Err(invalid("a cluster can't be reached through a Unix socket"));
        }
        if target.cluster && target.login.db() != 0 {
            return Err(invalid("a cluster has only database 0"));
        }
        Ok(target)
    }

    fn parse_one(url: &str) -> Result<Self> {
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(invalid(WRONG_SCHEME));
        };
        let (tls, cluster, plain) = match scheme {
            "redis" | "valkey" => (false, false, "redis"),
            "rediss" | "valkeys" => (true, false, "redis"),
            "redis+cluster" | "valkey+cluster" => (false, true, "redis"),
            "rediss+cluster" | "valkeys+cluster" => (true, true, "redis"),
            "unix" | "redis+unix" | "valkey+unix" => (false, false, "unix"),
            _ => return Err(invalid(WRONG_SCHEME)),
        };
        if rest.contains('#') || (plain == "redis" && rest.contains('?')) {
            return Err(invalid(
                "it must not contain ? or #; pass options as the second argument, and write %3F and %23 in names and \
                passwords",
            ));
        }
        let info: ConnectionInfo = format!("{plain}:{rest}")
            .parse()
            // The message is about the address, never the password.
            .map_err(|error: redis::RedisError| invalid(error))?;
        let place = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Place::Tcp(host.clone(), *port),
            ConnectionAddr::Unix(path) => Place::Unix(path.clone()),
            _ => return Err(invalid("it has no host")),
        };
        Ok(Self {
            places: vec![place],
            login: info
                .redis_settings()
                .clone()
                .set_lib_name("fedify-kv", env!("CARGO_PKG_VERSION")),
            tls,
            cluster,
        })
    }
}

const WRONG_SCHEME: &str = "it must start with redis:, rediss:, redis+cluster:, rediss+cluster: or unix:";

fn invalid(why: impl fmt::Display) -> Error {
    Error::InvalidOption(format!("the Redis URL is invalid: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(urls: &[&str]) -> Result<Target> {
        Target::parse(&urls.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn urls_say_where_and_how() {
        let target = parse(&["rediss://user:p%40ss@[::1]:7/3"]).unwrap();
        assert_eq!(target.places, [Place::Tcp("::1".into(), 7)]);
        assert_eq!(target.places[0].to_string(), "[::1]:7");
        assert_eq!(target.login.username(), Some("user"));
        assert_eq!(target.login.password(), Some("p@ss"));
        assert_eq!(target.login.db(), 3);
        assert!(target.tls && !target.cluster);
        let target = parse(&["redis://a", "redis://b:1"]).unwrap();
        assert_eq!(target.places.len(), 2);
        assert!(target.cluster && !target.tls);
        assert!(parse(&["redis+cluster://a"]).unwrap().cluster);
        let target = parse(&["unix:///run/redis.sock?db=2"]).unwrap();
        assert_eq!(target.places, [Place::Unix("/run/redis.sock".into())]);
        assert_eq!(target.login.db(), 2);
    }

    #[test]
    fn others_are_refused_without_telling_secrets() {
        for bad in [
            "",
            "secret",
            "http://user:secret@host",
            "redis:",
            "redis://user:secret@",
            "redis://user:secret@host/x",
            "redis://user:secret@host:99999",
            "redis://user:secret@host?db=1",
            "redis+cluster://user:secret@host/1",
            "redis://user:secret@host#x",
        ] {
            let error = parse(&[bad]).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(parse(&[]).is_err());
        assert!(parse(&["redis://a", "rediss://b"]).is_err());
        assert!(parse(&["redis://a", "unix:///b"]).is_err());
    }
}
