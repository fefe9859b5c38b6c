//! The options of `DenoKvStore`.

use super::Given;
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::{Error, Result};
use crate::stores::DenoOptions;

impl Parse for DenoOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        Given::read(js, value, "DenoKvStore", |given| {
            let default = Self::default();
            let access_token = given.text("accessToken")?;
            if access_token.as_deref() == Some("") {
                return Err(Error::InvalidOption("accessToken must not be empty".into()));
            }
            Ok(Self {
                access_token,
                busy_timeout: given.millis("busyTimeout", 0.0, default.busy_timeout)?,
                command_timeout: given.timeout("commandTimeout", default.command_timeout)?,
                queue_limit: given.queue_limit(default.queue_limit)?,
            })
        })
    }
}
