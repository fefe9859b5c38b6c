//! The environment variables that PostgreSQL's own clients read. They are read
//! here only.

use crate::kv::{Error, Result};
use std::collections::HashMap;
use std::env::VarError;
use std::path::PathBuf;

/// Each connection parameter that has a variable, and the variable.
pub const VARIABLES: &[(&str, &str)] = &[
    ("application_name", "PGAPPNAME"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("dbname", "PGDATABASE"),
    ("gssencmode", "PGGSSENCMODE"),
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("options", "PGOPTIONS"),
    ("passfile", "PGPASSFILE"),
    ("password", "PGPASSWORD"),
    ("port", "PGPORT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("user", "PGUSER"),
];

/// The variable with the folder of the user's own settings, and the password
/// file within.
const PASSWORD_FILE: (&str, &str) = if cfg!(windows) {
    ("APPDATA", "postgresql\\pgpass.conf")
} else {
    ("HOME", ".pgpass")
};

/// The variables that are set and not empty.
#[derive(Default)]
pub struct Environment(HashMap<&'static str, String>);

impl Environment {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if a variable is not UTF-8.
    pub fn of_process() -> Result<Self> {
        let mut all = HashMap::new();
        let names = VARIABLES.iter().map(|(_, variable)| *variable);
        for name in names.chain([PASSWORD_FILE.0]) {
            match std::env::var(name) {
                Ok(value) if !value.is_empty() => {
                    all.insert(name, value);
                }
                Ok(_) | Err(VarError::NotPresent) => {}
                Err(VarError::NotUnicode(_)) => {
                    return Err(Error::InvalidOption(format!(
                        "the environment variable {name} must be UTF-8"
                    )));
                }
            }
        }
        Ok(Self(all))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Where the user's password file would be.
    pub fn password_file(&self) -> Option<PathBuf> {
        let (folder, file) = PASSWORD_FILE;
        self.get(folder).map(|folder| PathBuf::from(folder).join(file))
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&'static str, &str); N]> for Environment {
    fn from(variables: [(&'static str, &str); N]) -> Self {
        Self(variables.map(|(name, value)| (name, value.to_owned())).into())
    }
}
