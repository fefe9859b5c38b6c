//! Encrypted connections: which certificates to trust, and which one to
//! present.

use crate::kv::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
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
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            ca: None,
            cert: None,
            key: None,
            reject_unauthorized: true,
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
            builder.with_root_certificates(roots)
        } else {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        };
        match self.identity()? {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| Error::InvalidOption(format!("tls.cert and tls.key can't be used: {error}"))),
            None => Ok(builder.with_no_client_auth()),
        }
    }

    fn roots(&self) -> Result<Option<RootCertStore>> {
        let Some(ca) = &self.ca else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca, "tls.ca")? {
            roots.add(certificate).map_err(|error| {
                Error::InvalidOption(format!("tls.ca has a certificate that can't be used: {error}"))
            })?;
        }
        Ok(Some(roots))
    }

    fn identity(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>> {
        match (&self.cert, &self.key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| Error::InvalidOption("tls.key must be a private key in PEM".into()))?;
                Ok(Some((certificates(cert, "tls.cert")?, key)))
            }
            _ => Err(Error::InvalidOption(
                "tls.cert and tls.key must be given together".into(),
            )),
        }
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

/// Trusts any certificate: `rejectUnauthorized: false`.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
