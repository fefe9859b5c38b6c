//! The options of `MysqlKvStore`.

use super::{MOST_WAITING, option, timeout_millis, whole};
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::{Error, Result};
use crate::stores::{MysqlOptions, TlsOptions};

/// More connections than any server would give to one store.
const MOST_CONNECTIONS: u32 = 1_000;

impl Parse for MysqlOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        let mut options = Self::default();
        if js.is_nullish(value) {
            return Ok(options);
        }
        if !js.is_object(value) {
            return Err(Error::InvalidOption("the options are not an object".into()));
        }
        let option = |name| option(js, value, name);
        if let Some(name) = option("tableName")? {
            let name = js
                .to_text(name)
                .map_err(|_| Error::InvalidOption("tableName must be a string".into()))?;
            options = options.table(name)?;
        }
        if let Some(initialized) = option("initialized")? {
            options.initialized = js
                .to_bool(initialized)
                .ok_or_else(|| Error::InvalidOption("initialized must be a boolean".into()))?;
        }
        if let Some(most) = option("maxConnections")? {
            options.max_connections = whole(js, most, "maxConnections", MOST_CONNECTIONS)? as usize;
        }
        if let Some(timeout) = option("connectTimeout")? {
            options.connect_timeout = timeout_millis(js, timeout, "connectTimeout", 1.0)?;
        }
        if let Some(timeout) = option("queryTimeout")? {
            options.query_timeout = timeout_millis(js, timeout, "queryTimeout", 1.0)?;
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
