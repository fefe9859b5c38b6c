//! `mysql:` URLs: where a server is, how to log in, and to which database.

use crate::kv::{Error, Result};
use crate::stores::TlsOptions;
use ::url::Url;
use percent_encoding::percent_decode_str;
use std::fmt;

const PORT: u16 = 3306;

/// The content of a URL.
pub struct Target {
    pub host: String,
    pub port: u16,
    /// The path of a Unix socket, in place of the host.
    pub socket: Option<String>,
    pub user: String,
    pub password: String,
    pub database: String,
    /// For messages: `host:port` or a socket's path, without the login.
    pub place: String,
    pub encryption: Encryption,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Only if the options ask for it.
    Unsaid,
    /// `ssl-mode=DISABLED`
    Disabled,
    /// `ssl-mode=REQUIRED`: encrypted, without verifying the server.
    Required,
    /// `ssl-mode=VERIFY_IDENTITY`: encrypted, and the server's identity is
    /// verified.
    Verified,
}

impl Encryption {
    /// What the URL and the options say together.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if they contradict each other, or a text of the
    /// options is not PEM.
    pub fn with(self, options: Option<TlsOptions>) -> Result<Option<TlsOptions>> {
        if let Some(options) = options {
            if self == Self::Disabled {
                let words = "the option tls can't be used with ssl-mode=DISABLED in the URL";
                return Err(Error::InvalidOption(words.into()));
            }
            options.check()?;
            return Ok(Some(options));
        }
        Ok(match self {
            Self::Unsaid | Self::Disabled => None,
            Self::Required => Some(TlsOptions {
                reject_unauthorized: false,
                ..TlsOptions::default()
            }),
            Self::Verified => Some(TlsOptions::default()),
        })
    }
}

impl Target {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the URL names no server or no database. The
    /// message never shows the URL, which may hold a password.
    pub fn parse(url: &str) -> Result<Self> {
        let Some((scheme, rest)) = url.split_once(':') else {
            return Err(invalid("it must start with mysql: or mariadb:"));
        };
        if !matches!(scheme.to_ascii_lowercase().as_str(), "mysql" | "mariadb") {
            return Err(invalid("it must start with mysql: or mariadb:"));
        }
        if rest.contains('#') {
            return Err(invalid("it must not contain #; write %23 in names and passwords"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // The parser's message could show parts of the URL.
        let parsed = Url::parse(&format!("mysql:{rest}"))
            .ok()
            .filter(Url::has_host)
            .ok_or_else(|| invalid("it must look like mysql://user:password@host:port/database"))?;
        let host = parsed.host_str().unwrap_or_default();
        if host.is_empty() {
            return Err(invalid("it has no host"));
        }
        let mut segments = parsed.path_segments().into_iter().flatten();
        let database = decoded(segments.next().unwrap_or_default());
        if database.is_empty() {
            return Err(invalid("it has no database name; write mysql://host/database"));
        }
        if segments.next().is_some() {
            return Err(invalid(
                "it must have only one / after the host; write %2F in names and passwords",
            ));
        }
        let mut socket = None;
        let mut encryption = Encryption::Unsaid;
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| invalid("a parameter is not UTF-8"))?;
            match name {
                "socket" => socket = Some(value.into_owned()),
                "ssl-mode" | "sslmode" => {
                    encryption = match value.to_ascii_uppercase().as_str() {
                        "DISABLED" => Encryption::Disabled,
                        "REQUIRED" => Encryption::Required,
                        "VERIFY_IDENTITY" => Encryption::Verified,
                        _ => return Err(invalid("ssl-mode must be DISABLED, REQUIRED or VERIFY_IDENTITY")),
                    };
                }
                _ => {
                    return Err(invalid(
                        "its only parameters are socket and ssl-mode; pass options as the second argument, and write \
                        %3F for ? in names and passwords",
                    ));
                }
            }
        }
        if query.split('&').any(|pair| !pair.is_empty() && !pair.contains('=')) {
            return Err(invalid("a parameter has no value"));
        }
        // In a URL, a literal IPv6 address is in brackets.
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = parsed.port().unwrap_or(PORT);
        let place = match &socket {
            Some(path) => path.clone(),
            None if host.contains(':') => format!("[{host}]:{port}"),
            None => format!("{host}:{port}"),
        };
        Ok(Self {
            host,
            port,
            socket,
            user: decoded(parsed.username()),
            password: decoded(parsed.password().unwrap_or_default()),
            database,
            place,
            encryption,
        })
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn invalid(why: impl fmt::Display) -> Error {
    Error::InvalidOption(format!("the MySQL URL is invalid: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_how() {
        let target = Target::parse("mysql://us%40er:p%40%2Fss@db.example:3307/fed%20i?ssl-mode=required").unwrap();
        assert_eq!(target.place, "db.example:3307");
        assert_eq!(target.user, "us@er");
        assert_eq!(target.password, "p@/ss");
        assert_eq!(target.database, "fed i");
        assert_eq!(target.encryption, Encryption::Required);
        let target = Target::parse("MariaDB://root@[::1]/kv").unwrap();
        assert_eq!(target.place, "[::1]:3306");
        assert_eq!(target.host, "::1");
        assert_eq!(target.password, "");
        assert_eq!(target.encryption, Encryption::Unsaid);
        let target = Target::parse("mysql://root@localhost/kv?socket=%2Frun%2Fmysqld.sock").unwrap();
        assert_eq!(target.socket.as_deref(), Some("/run/mysqld.sock"));
        assert_eq!(target.place, "/run/mysqld.sock");
    }

    #[test]
    fn others_are_refused_without_telling_secrets() {
        for bad in [
            "",
            "secret",
            "mysql:",
            "mysql://",
            "mysql:///kv",
            "http://user:secret@host/kv",
            "mysql://user:secret@host",
            "mysql://user:secret@host/",
            "mysql://user:secret@host/a/b",
            "mysql://user:secret@host:port/kv",
            "mysql://user:secret@host:99999/kv",
            "mysql://user:secret@host/kv#x",
            "mysql://user:secret@host/kv?pool_max=1",
            "mysql://user:secret@host/kv?socket",
            "mysql://user:secret@host/kv?ssl-mode=VERIFY_CA",
            "mysql://user:secret?@host/kv",
        ] {
            let error = Target::parse(bad).err().unwrap().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
