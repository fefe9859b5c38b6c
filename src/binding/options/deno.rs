//! The options of `DenoKvStore`.

use super::Given;
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::Result;
use crate::stores::DenoOptions;

impl Parse for DenoOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        Given::read(js, value, "DenoKvStore", |given| {
            let default = Self::default();
            Ok(Self {
                access_token: given.secret("accessToken")?,
                busy_timeout: given.millis("busyTimeout", 0.0, default.busy_timeout)?,
                command_timeout: given.timeout("commandTimeout", default.command_timeout)?,
                queue_limit: given.queue_limit(default.queue_limit)?,
            })
        })
    }
}
