//! Encrypted connections: our options in the driver's form.

use crate::kv::Result;
use crate::stores::TlsOptions;
use mysql_async::{ClientIdentity, SslOpts};
use rustls::crypto::ring;

/// The driver's options.
///
/// # Errors
///
/// [`crate::kv::Error::InvalidOption`] if a text is not PEM;
/// [`crate::kv::Error::Connection`] if files with certificates can't be read.
pub fn ssl_opts(tls: &TlsOptions) -> Result<SslOpts> {
    tls.check()?;
    // The driver uses the process's default provider, and several may be
    // compiled in. If one is installed already, it stays.
    let _ = ring::default_provider().install_default();
    let mut opts = SslOpts::default();
    if tls.reject_unauthorized {
        let roots = tls.trusted()?.iter().map(|der| der.to_vec().into()).collect();
        opts = opts.with_root_certs(roots).with_disable_built_in_roots(true);
    } else {
        opts = opts.with_danger_accept_invalid_certs(true);
    }
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        let identity = ClientIdentity::new(cert.clone().into(), key.clone().into());
        opts = opts.with_client_identity(Some(identity));
    }
    Ok(opts)
}
