//! The `tls` option of the stores on servers.

use super::Given;
use crate::binding::js::{Js, Value};
use crate::kv::Result;
use crate::stores::TlsOptions;

pub fn parse(js: Js, value: Value) -> Result<TlsOptions> {
    let given = Given::within(js, value, "tls.")?;
    let default = TlsOptions::default();
    Ok(TlsOptions {
        ca: given.bytes("ca")?,
        cert: given.bytes("cert")?,
        key: given.bytes("key")?,
        reject_unauthorized: given.boolean("rejectUnauthorized", default.reject_unauthorized)?,
    })
}
