//! Where a database is: a path, or this process's memory.

use crate::kv::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone)]
pub enum Location {
    File(PathBuf),
    /// A name that connections of this process share.
    Memory(String),
}

impl Location {
    /// A file's path, or `:memory:` for a database of its own.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for a path that cannot be a file's.
    pub fn parse(path: &str) -> Result<Self> {
        if path == ":memory:" {
            return Ok(Self::memory());
        }
        let invalid = |why: &str| Err(Error::InvalidOption(format!("{why}: {path:?}")));
        if path.is_empty() {
            return Err(Error::InvalidOption("the path must not be empty".into()));
        }
        if path.contains('\0') {
            return invalid("the path must not contain a NUL character");
        }
        if path.starts_with("file:") {
            return invalid("the path must not be a file: URL; convert it with fileURLToPath() of node:url");
        }
        // It is from a file with a secret, say, and would name another file.
        if path.starts_with(['\r', '\n']) || path.ends_with(['\r', '\n']) {
            return invalid("the path must not begin or end with a line break");
        }
        // Resolved now: the process may change its directory.
        match std::path::absolute(PathBuf::from(path)) {
            Ok(path) => Ok(Self::File(path)),
            Err(error) => invalid(&format!("the path can't be resolved ({error})")),
        }
    }

    pub fn memory() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self::Memory(format!("/fedify-kv-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Memory(_) => f.write_str(":memory:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_line_break_around_it_is_refused() {
        for bad in ["app.db\n", "app.db\r\n", "\napp.db", ":memory:\n"] {
            let error = Location::parse(bad).map(drop).unwrap_err().to_string();
            assert!(error.contains("line break"), "{error}");
        }
        assert!(Location::parse("my app .db").is_ok());
    }
}
