//! Encrypted connections: which certificates to trust, and which one to
//! present.

use crate::kv::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// PEM texts. The fields have the names of Node.js' TLS options.
#[derive(Clone)]
pub struct TlsOptions {
    /// Trusted instead of the system's certificates.
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
        self.roots()?;
        self.identity()?;
        Ok(())
    }

    /// The configuration of connections. Reads the system's certificates if
    /// those are to be trusted.
    pub fn config(&self) -> Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Connection(error.to_string()))?;
        let builder = if self.reject_unauthorized {
            let roots = match self.roots()? {
                Some(roots) => roots,
                None => system_roots()?,
            };
            if self.check_name {
                builder.with_root_certificates(roots)
            } else {
                let verifier = Lenient {
                    roots: Some(roots),
                    provider,
                };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        } else {
            let verifier = Lenient { roots: None, provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        };
        match self.identity()? {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| self.wrong_identity(&format!("can't be used: {error}"))),
            None => Ok(builder.with_no_client_auth()),
        }
    }

    fn roots(&self) -> Result<Option<RootCertStore>> {
        let Some(ca) = &self.ca else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        let name = self.names.ca;
        for certificate in certificates(ca, name)? {
            roots.add(certificate).map_err(|error| {
                Error::InvalidOption(format!("{name} has a certificate that can't be used: {error}"))
            })?;
        }
        Ok(Some(roots))
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

fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .filter_map(std::result::Result::ok)
        .collect();
    if all.is_empty() {
        return Err(Error::InvalidOption(format!("{name} must have a certificate in PEM")));
    }
    Ok(all)
}

fn system_roots() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // A system's store often has certificates that can't be parsed.
    roots.add_parsable_certificates(load_system_certificates()?);
    Ok(roots)
}

/// Unreadable files are skipped, unless there were no descriptors left: the
/// result is kept for the life of the store.
fn load_system_certificates() -> Result<Vec<CertificateDer<'static>>> {
    let loaded = rustls_native_certs::load_native_certs();
    match loaded.errors.iter().find(|error| is_shortage(&error.kind)) {
        Some(error) => Err(Error::Connection(format!(
            "the system's certificates can't be read: {error}"
        ))),
        None => Ok(loaded.certs),
    }
}

fn is_shortage(kind: &rustls_native_certs::ErrorKind) -> bool {
    #[cfg(unix)]
    if let rustls_native_certs::ErrorKind::Io { inner, .. } = kind {
        return matches!(inner.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM));
    }
    // Other systems don't keep certificates in files.
    let _ = kind;
    false
}

/// The certificates that the system trusts, for a driver that sets up TLS
/// itself and refuses certificates that it can't parse.
///
/// # Errors
///
/// [`Error::Connection`] if there are too few descriptors to read them.
pub fn system_certificates() -> Result<Vec<CertificateDer<'static>>> {
    let readable = |certificate: &CertificateDer<'static>| RootCertStore::empty().add(certificate.clone()).is_ok();
    let mut certificates = load_system_certificates()?;
    certificates.retain(readable);
    Ok(certificates)
}

/// Doesn't look at the name in a certificate, and without roots trusts any
/// certificate: `rejectUnauthorized: false`.
#[derive(Debug)]
struct Lenient {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(certificate)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
