//! Where a Deno KV database is: a file, memory, or a server.

use crate::kv::{Error, Result};
use crate::stores::database::Location;
use crate::stores::trimmed;
use http::HeaderValue;
use url::Url;

#[derive(Clone)]
pub enum Target {
    File(Location),
    Server(Server),
}

#[derive(Clone)]
pub struct Server {
    pub url: Url,
    pub token: String,
}

/// The variable that Deno also reads the token from.
const TOKEN: &str = "DENO_KV_ACCESS_TOKEN";

impl Target {
    /// Whether it is a server's URL.
    pub fn is_remote(target: &str) -> bool {
        let scheme = target.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        scheme.is_some_and(|scheme| scheme == "http" || scheme == "https")
    }

    pub fn parse(target: &str, access_token: Option<String>) -> Result<Self> {
        let url = trimmed(target);
        if Self::is_remote(url) {
            return Server::parse(url, access_token).map(Self::Server);
        }
        Location::parse(target).map(Self::File)
    }
}

impl Server {
    /// Messages never show the URL: it may hold a secret by mistake.
    fn parse(url: &str, token: Option<String>) -> Result<Self> {
        let invalid = |why: &str| Err(Error::InvalidOption(why.into()));
        let Ok(url) = Url::parse(url) else {
            return invalid("the URL is invalid");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("the URL must not have a user name or password; use the option accessToken");
        }
        let Some(token) = token.or_else(|| std::env::var(TOKEN).ok()) else {
            return invalid("a server needs the option accessToken, or the environment variable DENO_KV_ACCESS_TOKEN");
        };
        if HeaderValue::from_str(&token).is_err() {
            return invalid("accessToken has a character that an HTTP header can't contain");
        }
        Ok(Self { url, token })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DenoOptions, DenoStore};

    #[test]
    fn targets_are_files_memory_or_servers() {
        let target = |rest| {
            let options = DenoOptions {
                access_token: Some("token".into()),
                ..DenoOptions::default()
            };
            Some(match DenoStore::at_url(rest, options).ok()? {
                DenoStore::File(store) => store.location().to_string(),
                DenoStore::Server(store) => store.url().to_string(),
            })
        };
        let here = |path: &str| std::path::absolute(path).unwrap().display().to_string();
        assert_eq!(target("kv.db"), Some(here("kv.db")));
        assert_eq!(target("///var/my%20app.db"), Some(here("/var/my app.db")));
        assert_eq!(target(":memory:"), Some(":memory:".into()));
        assert_eq!(target("HTTPS://host/a?b"), Some("https://host/a?b".into()));
        let server = DenoOptions {
            access_token: Some("token".into()),
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
