//! Where a Deno KV database is: a file, memory, or a server.

use super::server::check_token;
use crate::kv::{Error, Result};
use crate::stores::database::Location;
use crate::stores::served::Password;
use crate::stores::trimmed;
use url::Url;

#[derive(Clone)]
pub enum Target {
    File(Location),
    Server(Server),
}

#[derive(Clone)]
pub struct Server {
    pub url: Url,
    pub token: Password,
    /// Host and port, for messages.
    pub place: String,
}

/// The variable that Deno also reads the token from.
const TOKEN: &str = "DENO_KV_ACCESS_TOKEN";

impl Target {
    /// Whether it is a server's URL.
    pub fn is_remote(target: &str) -> bool {
        let scheme = target.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        scheme.is_some_and(|scheme| scheme == "http" || scheme == "https")
    }

    pub fn parse(target: &str, access_token: Password) -> Result<Self> {
        let url = trimmed(target);
        if Self::is_remote(url) {
            return Server::parse(url, access_token).map(Self::Server);
        }
        Location::parse(target).map(Self::File)
    }
}

impl Server {
    /// Messages never show the URL: it may hold a secret by mistake.
    fn parse(url: &str, token: Password) -> Result<Self> {
        let invalid = |why: &str| Err(Error::InvalidOption(why.into()));
        let Ok(url) = Url::parse(url) else {
            return invalid("the URL is invalid");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("the URL must not have a user name or password; use the option accessToken");
        }
        let (token, from) = match token {
            Password::Unsaid => match std::env::var(TOKEN) {
                Ok(token) if !token.is_empty() => {
                    (Password::Text(token), "the environment variable DENO_KV_ACCESS_TOKEN")
                }
                _ => {
                    return invalid(
                        "a server needs the option accessToken, or the environment variable DENO_KV_ACCESS_TOKEN",
                    );
                }
            },
            token => (token, "accessToken"),
        };
        if let Password::Text(token) = &token {
            check_token(token).map_err(|why| Error::InvalidOption(format!("{from} {why}")))?;
        }
        let host = url.host_str().unwrap_or_default();
        let place = match url.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Ok(Self { url, token, place })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DenoOptions, DenoStore};
    use crate::stores::served::Password;

    #[test]
    fn targets_are_files_memory_or_servers() {
        let target = |rest| {
            let options = DenoOptions {
                access_token: Password::Text("token".into()),
                ..DenoOptions::default()
            };
            Some(match DenoStore::at_url(rest, options).ok()? {
                DenoStore::File(store) => store.location().to_string(),
                DenoStore::Server(_) => "a server".into(),
            })
        };
        let here = |path: &str| std::path::absolute(path).unwrap().display().to_string();
        assert_eq!(target("kv.db"), Some(here("kv.db")));
        assert_eq!(target("///var/my%20app.db"), Some(here("/var/my app.db")));
        assert_eq!(target(":memory:"), Some(":memory:".into()));
        assert_eq!(target("HTTPS://host/a?b"), Some("a server".into()));
        let server = DenoOptions {
            access_token: Password::Text("token".into()),
            ..DenoOptions::default()
        };
        assert!(matches!(
            DenoStore::at("\u{feff} https://host\n", server),
            Ok(DenoStore::Server(_))
        ));
        for bad in [
            "",
            "//host/kv.db",
            "file:kv.db",
            "%00",
            "https://",
            "http://user:pass@host",
        ] {
            assert_eq!(target(bad), None, "{bad}");
        }
    }
}
