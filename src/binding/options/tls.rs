//! The `tls` option of the stores on servers.

use super::{bytes, option};
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::{Error, Result};
use crate::stores::TlsOptions;

impl Parse for TlsOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        let mut options = Self::default();
        if !js.is_object(value) {
            return Err(Error::InvalidOption("tls is not an object".into()));
        }
        let pem = |name: &str| {
            let value = option(js, value, name)?;
            let name = format!("tls.{name}");
            value.map(|value| bytes(js, value, &name)).transpose()
        };
        options.ca = pem("ca")?;
        options.cert = pem("cert")?;
        options.key = pem("key")?;
        if let Some(reject) = option(js, value, "rejectUnauthorized")? {
            options.reject_unauthorized = js
                .to_bool(reject)
                .ok_or_else(|| Error::InvalidOption("tls.rejectUnauthorized must be a boolean".into()))?;
        }
        Ok(options)
    }
}
