//! The options of `DenoKvStore`.

use super::{option, timeout_millis};
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::{Error, Result};
use crate::stores::DenoOptions;

impl Parse for DenoOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        let mut options = Self::default();
        if js.is_nullish(value) {
            return Ok(options);
        }
        if !js.is_object(value) {
            return Err(Error::InvalidOption("the options are not an object".into()));
        }
        let option = |name| option(js, value, name);
        if let Some(token) = option("accessToken")? {
            let token = js.to_text(token).ok().filter(|token| !token.is_empty());
            options.access_token =
                Some(token.ok_or_else(|| Error::InvalidOption("accessToken must be a string".into()))?);
        }
        if let Some(timeout) = option("busyTimeout")? {
            options.busy_timeout = timeout_millis(js, timeout, "busyTimeout", 0.0)?;
        }
        if let Some(timeout) = option("commandTimeout")? {
            options.command_timeout = timeout_millis(js, timeout, "commandTimeout", 1.0)?;
        }
        Ok(options)
    }
}
