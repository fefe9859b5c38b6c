//! PostgreSQL URLs: where a server is, how to log in, and whether to encrypt.

use crate::kv::{Error, Result};
use std::fmt;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// How connections are encrypted, and whether the server must prove who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    None,
    /// If the server supports it, without verifying the server.
    IfPossible,
    Unverified,
    Verified,
}

/// The content of a URL.
#[derive(Clone, Debug)]
pub struct Target {
    pub config: Config,
    pub encryption: Encryption,
    /// Whether the URL forbids encryption.
    plain: bool,
    /// For messages, without the password.
    pub place: String,
}

impl Target {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the URL names no server. The message never
    /// shows the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<Self> {
        let Some(("postgres" | "postgresql", rest)) = url.split_once("://") else {
            return Err(invalid("it must start with postgres:// or postgresql://"));
        };
        let (rest, mode) = take_ssl_mode(rest)?;
        let encryption = mode.unwrap_or(Encryption::None);
        // The message may name a parameter, but never a value.
        let mut config: Config = format!("postgres://{rest}").parse().map_err(invalid)?;
        config.ssl_mode(match encryption {
            Encryption::None => SslMode::Disable,
            Encryption::IfPossible => SslMode::Prefer,
            Encryption::Unverified | Encryption::Verified => SslMode::Require,
        });
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host("localhost");
        }
        let hosts = config.get_hosts().len().max(config.get_hostaddrs().len());
        let fits = |count: usize, few: usize| count <= few || count == hosts;
        if !fits(config.get_ports().len(), 1) {
            return Err(invalid("it must have one port, or one for each host"));
        }
        if !fits(config.get_hosts().len(), 0) || !fits(config.get_hostaddrs().len(), 0) {
            return Err(invalid("it must have as many hosts as hostaddrs"));
        }
        if config.get_application_name().is_none() {
            config.application_name("fedify-kv");
        }
        // To notice while idle that a server has vanished.
        config.keepalives_idle(Duration::from_secs(60));
        Ok(Self {
            place: place(&config),
            config,
            encryption,
            plain: mode == Some(Encryption::None),
        })
    }

    /// Requires encryption, because there are options for it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the URL forbids encryption.
    pub fn encrypt(&mut self) -> Result<()> {
        match self.encryption {
            Encryption::None if self.plain => Err(Error::InvalidOption("tls contradicts sslmode=disable".into())),
            Encryption::Unverified => Ok(()),
            _ => {
                self.encryption = Encryption::Verified;
                self.config.ssl_mode(SslMode::Require);
                Ok(())
            }
        }
    }
}

/// Takes `sslmode` out of a URL: the driver knows fewer modes than libpq.
fn take_ssl_mode(url: &str) -> Result<(String, Option<Encryption>)> {
    let mut encryption = None;
    let Some((before, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), encryption));
    };
    let mut others = Vec::new();
    for parameter in query.split('&') {
        let Some(mode) = parameter.strip_prefix("sslmode=") else {
            others.push(parameter);
            continue;
        };
        encryption = Some(match mode {
            "disable" => Encryption::None,
            "allow" | "prefer" => Encryption::IfPossible,
            "no-verify" => Encryption::Unverified,
            "require" | "verify-ca" | "verify-full" => Encryption::Verified,
            _ => {
                return Err(invalid(
                    "sslmode must be disable, prefer, no-verify, require, verify-ca or verify-full",
                ));
            }
        });
    }
    if others.is_empty() {
        return Ok((before.to_owned(), encryption));
    }
    Ok((format!("{before}?{}", others.join("&")), encryption))
}

fn place(config: &Config) -> String {
    let ports = config.get_ports();
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
    let named = config.get_hosts().iter().enumerate().map(|(index, host)| match host {
        Host::Tcp(host) if host.contains(':') => format!("[{host}]:{}", port(index)),
        Host::Tcp(host) => format!("{host}:{}", port(index)),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    });
    let places: Vec<_> = named.collect();
    if places.is_empty() {
        let numbered = config.get_hostaddrs().iter().map(ToString::to_string);
        return numbered.collect::<Vec<_>>().join(", ");
    }
    places.join(", ")
}

fn invalid(why: impl fmt::Display) -> Error {
    Error::InvalidOption(format!("not a PostgreSQL URL: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_how() {
        let target = Target::parse("postgres://user:p%40ss@[::1]:7/app?sslmode=require&application_name=x").unwrap();
        assert_eq!(target.place, "[::1]:7");
        assert_eq!(target.encryption, Encryption::Verified);
        assert_eq!(target.config.get_user(), Some("user"));
        assert_eq!(target.config.get_password(), Some(&b"p@ss"[..]));
        assert_eq!(target.config.get_dbname(), Some("app"));
        assert_eq!(target.config.get_application_name(), Some("x"));
        assert_eq!(target.config.get_ssl_mode(), SslMode::Require);
        let target = Target::parse("postgresql://a,b:1/x").unwrap();
        assert_eq!(target.place, "a:5432, b:1");
        assert_eq!(target.encryption, Encryption::None);
        assert_eq!(Target::parse("postgres://").unwrap().place, "localhost:5432");
        #[cfg(unix)]
        assert_eq!(Target::parse("postgres://u@%2Frun%2Fpg/x").unwrap().place, "/run/pg");
    }

    #[test]
    fn others_are_refused_without_telling_secrets() {
        for bad in [
            "",
            "secret",
            "postgres:secret",
            "http://user:secret@host",
            "host=x password=secret",
            "postgres://user:secret@host:99999",
            "postgres://user:secret@host:x/d",
            "postgres://user:secret@host?sslmode=secret",
            "postgres://user:secret@host?connect_timeout=secret",
            "postgres://user:secret@host?nonsense=secret",
            "postgres://user:secret@host,other?port=1,2,3",
            "postgres://user:secret@host,other?hostaddr=192.0.2.1",
        ] {
            let error = Target::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
