//! The options of `SqliteKvStore`.

use super::{option, timeout_millis};
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::{Error, Result};
use crate::stores::{Durability, SqliteOptions};

impl Parse for SqliteOptions {
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
        if let Some(durability) = option("durability")? {
            options.durability = match js.to_text(durability).as_deref() {
                Ok("full") => Durability::Full,
                Ok("normal") => Durability::Normal,
                _ => return Err(Error::InvalidOption(r#"durability must be "full" or "normal""#.into())),
            };
        }
        if let Some(timeout) = option("busyTimeout")? {
            options.busy_timeout = timeout_millis(js, timeout, "busyTimeout", 0.0)?;
        }
        Ok(options)
    }
}
