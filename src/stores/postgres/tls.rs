//! Encrypted connections: what the URL, the environment and the option `tls` say.

use super::parameters::{Parameters, invalid};
use crate::kv::{Error, Result};
use crate::stores::served::TlsOptions;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How connections are encrypted, and whether the server must prove who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    None,
    /// If the server supports it, without verifying the server.
    IfPossible,
    Unverified,
    /// Of a certificate by an authority that the user has named, the name is
    /// not verified.
    Authority,
    Verified,
}

const MODES: &[(&str, Encryption)] = &[
    ("disable", Encryption::None),
    ("allow", Encryption::IfPossible),
    ("prefer", Encryption::IfPossible),
    ("no-verify", Encryption::Unverified),
    ("require", Encryption::Verified),
    ("verify-ca", Encryption::Authority),
    ("verify-full", Encryption::Verified),
];

/// The value of `sslrootcert` for the certificates that the system trusts.
const SYSTEM: &str = "system";

pub struct Tls {
    encryption: Encryption,
    direct: bool,
    options: TlsOptions,
    /// Files for what the option `tls` leaves out.
    root: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    /// Kept only if it doesn't depend on files, which may be replaced.
    connect: OnceLock<MakeRustlsConnect>,
}

impl Tls {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for invalid parameters, and for those that the
    /// option contradicts.
    pub fn new(parameters: &Parameters, option: Option<TlsOptions>) -> Result<Self> {
        let given = parameters.get("sslmode");
        let mode = given.as_ref().map(|given| given.one_of(MODES)).transpose()?;
        let root = parameters.text("sslrootcert");
        let file = |name| parameters.text(name).map(PathBuf::from);
        let (cert, key) = (file("sslcert"), file("sslkey"));
        let wanted = option.is_some() || root.is_some() || cert.is_some();
        let encryption = match mode {
            Some(Encryption::None) if option.is_some() && given.is_some_and(|given| given.is_in_url()) => {
                return Err(Error::InvalidOption(
                    "the option tls can't be used with sslmode=disable in the URL".into(),
                ));
            }
            Some(Encryption::None | Encryption::IfPossible) if option.is_some() => Encryption::Verified,
            Some(Encryption::None | Encryption::IfPossible | Encryption::Unverified) if root == Some(SYSTEM) => {
                return Err(invalid("sslrootcert=system needs sslmode=verify-full"));
            }
            Some(mode) => mode,
            None if wanted => Encryption::Verified,
            None => Encryption::None,
        };
        let negotiation = parameters.get("sslnegotiation");
        let direct = match negotiation {
            Some(given) => given.one_of(&[("postgres", false), ("direct", true)])?,
            None => false,
        };
        if direct && matches!(encryption, Encryption::None | Encryption::IfPossible) {
            return Err(invalid(
                "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full",
            ));
        }
        let mut options = option.unwrap_or_default();
        options.check()?;
        let identified = options.cert.is_some();
        let root = root
            .filter(|root| options.ca.is_none() && *root != SYSTEM)
            .map(PathBuf::from);
        let (cert, key) = if identified { (None, None) } else { (cert, key) };
        if cert.is_some() != key.is_some() {
            return Err(invalid("sslcert and sslkey must be given together"));
        }
        options.reject_unauthorized &= matches!(encryption, Encryption::Authority | Encryption::Verified);
        let own_authority = options.ca.is_some() || root.is_some();
        options.check_name = !(encryption == Encryption::Authority && own_authority);
        Ok(Self {
            encryption,
            direct,
            options,
            root,
            cert,
            key,
            connect: OnceLock::new(),
        })
    }

    pub fn mode(&self) -> SslMode {
        match self.encryption {
            Encryption::None => SslMode::Disable,
            Encryption::IfPossible => SslMode::Prefer,
            Encryption::Unverified | Encryption::Authority | Encryption::Verified => SslMode::Require,
        }
    }

    pub fn negotiation(&self) -> SslNegotiation {
        if self.direct {
            SslNegotiation::Direct
        } else {
            SslNegotiation::Postgres
        }
    }

    /// The configuration of encrypted connections; `None` if they are not
    /// encrypted. Reads files.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] for files that can't be read, [`Error::InvalidOption`]
    /// for those that aren't PEM.
    pub fn connect(&self) -> Result<Option<MakeRustlsConnect>> {
        if self.encryption == Encryption::None {
            return Ok(None);
        }
        if let Some(connect) = self.connect.get() {
            return Ok(Some(connect.clone()));
        }
        let mut options = self.options.clone();
        let mut files = false;
        for (path, name, pem, named) in [
            (&self.root, "sslrootcert", &mut options.ca, &mut options.names.ca),
            (&self.cert, "sslcert", &mut options.cert, &mut options.names.cert),
            (&self.key, "sslkey", &mut options.key, &mut options.names.key),
        ] {
            if let Some(path) = path {
                *pem = Some(read(path, name)?);
                *named = name;
                files = true;
            }
        }
        let mut config = options.config()?;
        if self.direct {
            config.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        let connect = MakeRustlsConnect::new(config);
        if !files {
            return Ok(Some(self.connect.get_or_init(|| connect).clone()));
        }
        Ok(Some(connect))
    }
}

fn read(path: &Path, name: &str) -> Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| Error::Connection(format!("the file {} of {name} can't be read: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::super::environment::Environment;
    use super::*;

    fn tls(query: &str, environment: &Environment, option: Option<TlsOptions>) -> Result<Tls> {
        let mut parameters = Parameters::parse(&format!("postgres://h?{query}"))?;
        parameters.fill(environment);
        Tls::new(&parameters, option)
    }

    fn encryption(query: &str, option: bool) -> Option<Encryption> {
        let option = option.then(TlsOptions::default);
        tls(query, &Environment::default(), option)
            .ok()
            .map(|tls| tls.encryption)
    }

    #[test]
    fn modes_say_how_to_encrypt() {
        use Encryption::{Authority, IfPossible, None as Plain, Unverified, Verified};
        for (query, alone, with_option) in [
            ("", Some(Plain), Some(Verified)),
            ("sslmode=disable", Some(Plain), None),
            ("ssl=false", Some(Plain), None),
            ("sslmode=allow", Some(IfPossible), Some(Verified)),
            ("sslmode=prefer", Some(IfPossible), Some(Verified)),
            ("sslmode=no-verify", Some(Unverified), Some(Unverified)),
            ("sslmode=require", Some(Verified), Some(Verified)),
            ("ssl=true", Some(Verified), Some(Verified)),
            ("sslmode=verify-ca", Some(Authority), Some(Authority)),
            ("sslmode=verify-full", Some(Verified), Some(Verified)),
            ("sslmode=secret", None, None),
            ("sslrootcert=/ca", Some(Verified), Some(Verified)),
            ("sslrootcert=/ca&sslmode=prefer", Some(IfPossible), Some(Verified)),
            ("sslrootcert=system", Some(Verified), Some(Verified)),
            ("sslrootcert=system&sslmode=no-verify", None, None),
            ("sslcert=/c&sslkey=/k", Some(Verified), Some(Verified)),
            ("sslcert=/c", None, None),
            ("sslkey=/k", None, None),
            ("sslnegotiation=direct", None, Some(Verified)),
            ("sslnegotiation=direct&sslmode=require", Some(Verified), Some(Verified)),
            ("sslnegotiation=postgres", Some(Plain), Some(Verified)),
        ] {
            assert_eq!(encryption(query, false), alone, "{query}");
            assert_eq!(encryption(query, true), with_option, "{query} with the option");
        }
    }

    #[test]
    fn the_option_wins_over_the_environment() {
        let disabled = [("PGSSLMODE", "disable")].into();
        let encrypted = tls("", &disabled, Some(TlsOptions::default())).unwrap();
        assert_eq!(encrypted.encryption, Encryption::Verified);
        assert_eq!(tls("", &disabled, None).unwrap().mode(), SslMode::Disable);
        let required = [("PGSSLMODE", "require"), ("PGSSLROOTCERT", "/ca")].into();
        let from_environment = tls("", &required, None).unwrap();
        assert_eq!(from_environment.mode(), SslMode::Require);
        assert_eq!(from_environment.root.as_deref(), Some(Path::new("/ca")));
    }

    #[test]
    fn only_an_authority_of_the_users_own_may_omit_the_name() {
        let none = Environment::default();
        let checks = |query| tls(query, &none, None).unwrap().options.check_name;
        assert!(!checks("sslmode=verify-ca&sslrootcert=/ca"));
        assert!(checks("sslmode=verify-ca"));
        assert!(checks("sslmode=verify-ca&sslrootcert=system"));
        assert!(checks("sslmode=verify-full&sslrootcert=/ca"));
        assert!(checks("sslmode=require&sslrootcert=/ca"));
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let missing = tls("sslrootcert=/no/such/file", &Environment::default(), None).unwrap();
        let error = missing.connect().map(drop).unwrap_err().to_string();
        assert!(error.contains("the file /no/such/file of sslrootcert"), "{error}");
    }
}
