//! `sqlite:` URLs.

use crate::kv::{Error, Result};
use percent_encoding::percent_decode_str;

/// The path in what follows `sqlite:` in a URL.
///
/// # Errors
///
/// [`Error::InvalidOption`] for hosts, queries and fragments.
pub fn sqlite_path(rest: &str) -> Result<String> {
    if rest.contains(['?', '#']) {
        return Err(Error::InvalidOption(
            "options go into the second argument, not into the URL; write %3F and %23 for ? and # in a path".into(),
        ));
    }
    // `//` starts a host, which here can only be the empty one.
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => {
            return Err(Error::InvalidOption(
                "a sqlite: URL has no host: write sqlite:relative/path or sqlite:///absolute/path".into(),
            ));
        }
        None => rest,
    };
    let path = percent_decode_str(path).decode_utf8();
    path.map(Into::into)
        .map_err(|_| Error::InvalidOption("the path in the URL is not UTF-8".into()))
}

#[cfg(test)]
mod tests {
    use super::sqlite_path;

    #[test]
    fn paths_are_relative_absolute_or_in_memory() {
        assert_eq!(sqlite_path("fedify.db").unwrap(), "fedify.db");
        assert_eq!(sqlite_path("/var/fedify.db").unwrap(), "/var/fedify.db");
        assert_eq!(sqlite_path("///var/my%20app%3F.db").unwrap(), "/var/my app?.db");
        assert_eq!(sqlite_path(":memory:").unwrap(), ":memory:");
        for bad in ["//host/fedify.db", "a?b", "a#b", "%ff"] {
            assert!(sqlite_path(bad).is_err(), "{bad}");
        }
    }
}
