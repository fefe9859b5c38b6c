//! The options of `RedisKvStore`.

use super::{MOST_WAITING, bytes, option, timeout_millis, whole};
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::{Error, Result};
use crate::stores::{RedisOptions, TlsOptions};

impl Parse for RedisOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        let mut options = Self::default();
        if js.is_nullish(value) {
            return Ok(options);
        }
        if !js.is_object(value) {
            return Err(Error::InvalidOption("the options are not an object".into()));
        }
        let option = |name| option(js, value, name);
        if option("codec")?.is_some() {
            return Err(Error::InvalidOption(
                "there is no codec option: values are always JSON, as the official store's default codec writes them"
                    .into(),
            ));
        }
        if let Some(prefix) = option("keyPrefix")? {
            options.key_prefix = bytes(js, prefix, "keyPrefix")?;
        }
        if let Some(index) = option("index")? {
            options.index = js
                .to_bool(index)
                .ok_or_else(|| Error::InvalidOption("index must be a boolean".into()))?;
        }
        if let Some(timeout) = option("connectTimeout")? {
            options.connect_timeout = timeout_millis(js, timeout, "connectTimeout", 1.0)?;
        }
        if let Some(timeout) = option("commandTimeout")? {
            options.command_timeout = timeout_millis(js, timeout, "commandTimeout", 1.0)?;
        }
        if let Some(limit) = option("queueLimit")? {
            options.queue_limit = whole(js, limit, "queueLimit", MOST_WAITING)? as usize;
        }
        if let Some(tls) = option("tls")? {
            options.tls = Some(TlsOptions::parse(js, tls)?);
        }
        Ok(options)
    }
}
