//! `sqlite:` URLs.

use super::{SqliteOptions, SqliteStore};
use crate::kv::{Error, Result};
use percent_encoding::percent_decode_str;

impl SqliteStore {
    /// The store that a URL names, given the part after `sqlite:`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for hosts, queries and fragments, and for what
    /// [`SqliteStore::at`] refuses.
    pub fn at_url(rest: &str, options: SqliteOptions) -> Result<Self> {
        Self::at(&path_of(rest)?, options)
    }
}

/// The path in the part of a URL after its scheme.
pub fn path_of(rest: &str) -> Result<String> {
    if rest.contains(['?', '#']) {
        return Err(Error::InvalidOption(
            "the URL must not contain ? or #; pass options as the second argument, and write %3F and %23 in a path"
                .into(),
        ));
    }
    // `//` starts a host, which here can only be the empty one.
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => {
            return Err(Error::InvalidOption(
                "the URL of a file must not have a host: write sqlite:relative/path or sqlite:///absolute/path".into(),
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
    use super::*;

    #[test]
    fn paths_are_relative_absolute_or_in_memory() {
        let place =
            |rest| SqliteStore::at_url(rest, SqliteOptions::default()).map(|store| store.location().to_string());
        let here = |path: &str| std::path::absolute(path).unwrap().display().to_string();
        assert_eq!(place("fedify.db").unwrap(), here("fedify.db"));
        assert_eq!(place("/var/fedify.db").unwrap(), here("/var/fedify.db"));
        assert_eq!(place("///var/my%20app%3F.db").unwrap(), here("/var/my app?.db"));
        assert_eq!(place(":memory:").unwrap(), ":memory:");
        for bad in ["", "//host/fedify.db", "a?b", "a#b", "%ff"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
