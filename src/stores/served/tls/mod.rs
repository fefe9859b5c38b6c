//! Encrypted connections: which certificates to trust ([`trust`]), what to accept
//! of a server ([`verifier`]), and which certificate to present. What engines say
//! of failures is in [`refusal`].

mod refusal;
mod trust;
mod verifier;

use crate::kv::{Error, Result};
use refusal::Remedy;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use trust::{Trust, certificates};
use verifier::Verifier;

pub use refusal::TlsRefusal;

/// PEM texts. The fields have the names of Node.js' TLS options.
#[derive(Clone)]
pub struct TlsOptions {
    /// Trusted instead of the usual certificates.
    pub ca: Option<Vec<u8>>,
    pub cert: Option<Vec<u8>>,
    pub key: Option<Vec<u8>>,
    pub reject_unauthorized: bool,
    /// Whether a certificate must have the server's name.
    pub check_name: bool,
    pub names: TlsNames,
}

/// What messages call the PEM texts.
#[derive(Clone, Copy)]
pub struct TlsNames {
    pub ca: &'static str,
    pub cert: &'static str,
    pub key: &'static str,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            ca: None,
            cert: None,
            key: None,
            reject_unauthorized: true,
            check_name: true,
            names: TlsNames {
                ca: "tls.ca",
                cert: "tls.cert",
                key: "tls.key",
            },
        }
    }
}

impl TlsOptions {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if a text is not PEM.
    pub fn check(&self) -> Result<()> {
        self.given()?;
        self.identity()?;
        Ok(())
    }

    /// The configuration of connections. Reads the usual certificates if those are to
    /// be trusted.
    pub fn config(&self) -> Result<ClientConfig> {
        let remedy = match self.ca {
            Some(_) => Remedy::Change(self.names.ca),
            None => Remedy::Give(self.names.ca),
        };
        self.config_with(remedy)
    }

    /// The configuration of connections of a store without TLS options.
    pub fn default_config() -> Result<ClientConfig> {
        Self::default().config_with(Remedy::Environment)
    }

    fn config_with(&self, remedy: Remedy) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Connection(error.to_string()))?;
        let verifier = if self.reject_unauthorized {
            Verifier::new(self.trust()?, self.check_name, remedy, provider)
        } else {
            Verifier::lenient(provider)
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        match self.identity()? {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| self.wrong_identity(&format!("can't be used: {error}"))),
            None => Ok(builder.with_no_client_auth()),
        }
    }

    fn trust(&self) -> Result<Trust> {
        self.given()?.map_or_else(Trust::usual, Ok)
    }

    fn given(&self) -> Result<Option<Trust>> {
        self.ca.as_ref().map(|ca| Trust::given(ca, self.names.ca)).transpose()
    }

    fn identity(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>> {
        match (&self.cert, &self.key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| Error::InvalidOption(format!("{} must be a private key in PEM", self.names.key)))?;
                Ok(Some((certificates(cert, self.names.cert)?, key)))
            }
            _ => Err(self.wrong_identity("must be given together")),
        }
    }

    fn wrong_identity(&self, why: &str) -> Error {
        Error::InvalidOption(format!("{} and {} {why}", self.names.cert, self.names.key))
    }
}
