//! The `tls` option of the stores on servers.

use super::Given;
use crate::kv::Result;
use crate::stores::TlsOptions;

pub fn read(given: &Given) -> Result<TlsOptions> {
    let default = TlsOptions::default();
    Ok(TlsOptions {
        ca: given.bytes("ca")?,
        cert: given.bytes("cert")?,
        key: given.bytes("key")?,
        reject_unauthorized: given.boolean("rejectUnauthorized", default.reject_unauthorized)?,
        ..default
    })
}
