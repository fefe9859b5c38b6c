//! Verifies servers. Beside certificates that a trusted one has signed, it accepts
//! those that are trusted themselves, as OpenSSL does: a server's self-signed
//! certificate says of itself that it is an authority, and others refuse it then.

use super::refusal::{Remedy, refused};
use super::trust::Trust;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use webpki::{RawPublicKeyEntity, anchor_from_trusted_cert, spki_for_anchor};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::time::Time;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

#[derive(Debug)]
pub struct Verifier {
    /// `None`: any certificate will do.
    trusted: Option<Trusted>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Trusted {
    trust: Trust,
    roots: RootCertStore,
    check_name: bool,
    remedy: Remedy,
}

impl Verifier {
    pub fn new(trust: Trust, check_name: bool, remedy: Remedy, provider: Arc<CryptoProvider>) -> Self {
        let roots = trust.roots();
        let trusted = Trusted {
            trust,
            roots,
            check_name,
            remedy,
        };
        Self {
            trusted: Some(trusted),
            provider,
        }
    }

    /// Accepts any certificate: `rejectUnauthorized: false`.
    pub fn lenient(provider: Arc<CryptoProvider>) -> Self {
        Self {
            trusted: None,
            provider,
        }
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

impl Trusted {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        let name = self.check_name.then_some(name);
        let result = ParsedCertificate::try_from(certificate).and_then(|parsed| {
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms.all)?;
            name.map_or(Ok(()), |name| verify_server_name(&parsed, name))
        });
        match result {
            Err(_) if self.trust.certificates.contains(certificate) => verify_trusted(certificate, name, now),
            result => result,
        }
    }
}

/// Verifies a certificate that is trusted itself.
fn verify_trusted(certificate: &CertificateDer<'_>, name: Option<&ServerName<'_>>, now: UnixTime) -> Result<(), Error> {
    let content = Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = &content.tbs_certificate.validity;
    let time = |time: &Time| UnixTime::since_unix_epoch(time.to_unix_duration());
    let (not_before, not_after) = (time(&validity.not_before), time(&validity.not_after));
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    match name {
        Some(name) => verify_name_of_trusted(certificate, &content, name),
        None => Ok(()),
    }
}

/// As other clients do, looks at the subject's common name if the certificate has
/// no other names.
fn verify_name_of_trusted(
    certificate: &CertificateDer<'_>,
    content: &Certificate,
    name: &ServerName<'_>,
) -> Result<(), Error> {
    // One of version 1 can't be parsed here, and has no other names.
    if let Ok(parsed) = ParsedCertificate::try_from(certificate) {
        match verify_server_name(&parsed, name) {
            Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }))
                if presented.is_empty() => {}
            result => return result,
        }
    }
    let presented = common_names(content);
    if presented.iter().any(|presented| matches(presented, &name.to_str())) {
        return Ok(());
    }
    let expected = name.to_owned();
    Err(CertificateError::NotValidForNameContext { expected, presented }.into())
}

fn common_names(content: &Certificate) -> Vec<String> {
    let subject = &content.tbs_certificate.subject;
    let attributes = subject.0.iter().flat_map(|part| part.0.iter());
    attributes
        .filter(|attribute| attribute.oid == COMMON_NAME)
        .filter_map(|attribute| String::from_utf8(attribute.value.value().to_vec()).ok())
        .collect()
}

/// Whether a name in a certificate, which may begin with `*.`, is the host's.
fn matches(presented: &str, host: &str) -> bool {
    let any_label = presented.strip_prefix("*.").zip(host.split_once('.'));
    presented.eq_ignore_ascii_case(host) || any_label.is_some_and(|(rest, (_, host))| rest.eq_ignore_ascii_case(host))
}

/// The key of a certificate of version 1, which the usual functions can't parse.
fn key_of_version_1(certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    if ParsedCertificate::try_from(certificate).is_ok() {
        return None;
    }
    anchor_from_trusted_cert(certificate)
        .ok()
        .map(|anchor| spki_for_anchor(&anchor))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(trusted) = &self.trusted {
            let verified = trusted.verify(certificate, intermediates, name, now, self.algorithms());
            verified.map_err(|error| refused(error, &trusted.trust, trusted.remedy))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(key) = key_of_version_1(certificate) else {
            return verify_tls12_signature(message, certificate, signed, self.algorithms());
        };
        let key = RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
        let schemes = self.algorithms().mapping.iter();
        let mut possible = schemes
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, algorithms)| *algorithms);
        if possible.any(|algorithm| key.verify_signature(*algorithm, message, signed.signature()).is_ok()) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match key_of_version_1(certificate) {
            None => verify_tls13_signature(message, certificate, signed, self.algorithms()),
            Some(key) => verify_tls13_signature_with_raw_key(message, &key, signed, self.algorithms()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_certificate_may_stand_for_several_hosts() {
        assert!(matches("db.example", "DB.example"));
        assert!(matches("*.example", "db.example"));
        assert!(!matches("*.example", "a.db.example"));
        assert!(!matches("*.example", "example"));
        assert!(!matches("*", "db"));
        assert!(!matches("db.example", "example"));
    }
}
