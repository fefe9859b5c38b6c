//! Which certificates are trusted.

use crate::kv::{Error, Result};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::env;
use std::io;
use std::path::{Path, PathBuf};
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

/// Names a file whose certificates Node.js trusts in addition.
const EXTRA: &str = "NODE_EXTRA_CA_CERTS";

#[derive(Debug)]
pub struct Trust {
    pub certificates: Vec<CertificateDer<'static>>,
    /// Where they are from, for messages.
    pub source: String,
}

impl Trust {
    /// The certificates in an option that messages call `name`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the text is not PEM, or a certificate can't be used.
    pub fn given(pem: &[u8], name: &str) -> Result<Self> {
        let certificates = certificates(pem, name)?;
        for certificate in &certificates {
            RootCertStore::empty().add(certificate.clone()).map_err(|error| {
                Error::InvalidOption(format!("{name} has a certificate that can't be used: {error}"))
            })?;
        }
        Ok(Self {
            certificates,
            source: format!("only {name}"),
        })
    }

    /// What the system trusts, and what Node.js is told to trust in addition.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] if there are too few descriptors to read them. Other
    /// unreadable files are skipped.
    pub fn usual() -> Result<Self> {
        let loaded = rustls_native_certs::load_native_certs();
        if let Some(error) = loaded.errors.iter().find(|error| is_shortage_within(&error.kind)) {
            return Err(unreadable("the system's certificates", error));
        }
        let extra = env::var_os(EXTRA).filter(|path| !path.is_empty()).map(PathBuf::from);
        let extra = extra.map(|path| (std::fs::read(&path), path));
        if let Some((Err(error), _)) = &extra
            && is_shortage(error)
        {
            return Err(unreadable(EXTRA, error));
        }
        Ok(Self::combined(loaded.certs, extra))
    }

    fn combined(system: Vec<CertificateDer<'static>>, extra: Option<(io::Result<Vec<u8>>, PathBuf)>) -> Self {
        let mut certificates = usable(system);
        let mut source = if certificates.is_empty() {
            certificates.extend_from_slice(TLS_SERVER_ROOT_CERTS);
            "Mozilla's certificates, as the system has none".to_owned()
        } else {
            "the system's certificates".to_owned()
        };
        if let Some((pem, path)) = extra {
            match extra_certificates(pem, &path) {
                Ok(extra) => {
                    certificates.extend(extra);
                    source = format!("{source}, and {EXTRA}");
                }
                Err(why) => source = format!("{source}; {EXTRA} is ignored: {why}"),
            }
        }
        Self { certificates, source }
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.certificates.iter().cloned());
        roots
    }
}

/// The certificates in a text.
///
/// # Errors
///
/// [`Error::InvalidOption`] if there are none.
pub fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .filter_map(std::result::Result::ok)
        .collect();
    if all.is_empty() {
        return Err(Error::InvalidOption(format!("{name} must have a certificate in PEM")));
    }
    Ok(all)
}

fn extra_certificates(
    pem: io::Result<Vec<u8>>,
    path: &Path,
) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let pem = pem.map_err(|error| format!("the file {} can't be read: {error}", path.display()))?;
    let all = usable(CertificateDer::pem_slice_iter(&pem).filter_map(std::result::Result::ok));
    if all.is_empty() {
        return Err(format!("the file {} has no certificate in PEM", path.display()));
    }
    Ok(all)
}

/// Without the certificates that can't be parsed: a system's store often has some.
fn usable(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
    let mut usable: Vec<_> = certificates.into_iter().collect();
    usable.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    usable
}

fn unreadable(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Connection(format!("{what} can't be read: {error}"))
}

/// The result is kept for the life of the store, so a shortage must not count as a
/// missing file.
fn is_shortage_within(kind: &rustls_native_certs::ErrorKind) -> bool {
    match kind {
        rustls_native_certs::ErrorKind::Io { inner, .. } => is_shortage(inner),
        _ => false,
    }
}

fn is_shortage(error: &io::Error) -> bool {
    #[cfg(unix)]
    return matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM));
    // Other systems don't keep certificates in files.
    #[cfg(not(unix))]
    {
        let _ = error;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(range: std::ops::Range<usize>) -> Vec<CertificateDer<'static>> {
        TLS_SERVER_ROOT_CERTS[range].to_vec()
    }

    #[test]
    fn the_systems_certificates_come_first() {
        let trust = Trust::combined(some(0..2), None);
        assert_eq!(trust.certificates, some(0..2));
        assert_eq!(trust.source, "the system's certificates");
        assert_eq!(trust.roots().len(), 2);
    }

    #[test]
    fn a_system_without_certificates_has_those_built_in() {
        for system in [vec![], vec![CertificateDer::from(vec![1, 2, 3])]] {
            let trust = Trust::combined(system, None);
            assert_eq!(trust.certificates, TLS_SERVER_ROOT_CERTS);
            // All can be used.
            assert_eq!(trust.roots().len(), TLS_SERVER_ROOT_CERTS.len());
            assert!(trust.source.starts_with("Mozilla's"), "{}", trust.source);
        }
    }

    #[test]
    fn a_bad_extra_file_is_ignored_and_named() {
        let missing = Err(io::ErrorKind::NotFound.into());
        for (content, why) in [(missing, "can't be read"), (Ok(b"x".to_vec()), "no certificate in PEM")] {
            let trust = Trust::combined(some(0..1), Some((content, "/e.pem".into())));
            assert_eq!(trust.certificates, some(0..1));
            assert!(trust.source.contains("the file /e.pem"), "{}", trust.source);
            assert!(trust.source.contains(why), "{}", trust.source);
        }
    }
}
