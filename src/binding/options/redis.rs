//! The options of `RedisKvStore`.

use super::Given;
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::Result;
use crate::stores::RedisOptions;

impl Parse for RedisOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        Given::read(js, value, "RedisKvStore", |given| {
            let mut options = Self::default();
            given.refuse(
                "codec",
                "values are always JSON, as with the default codec of @fedify/redis",
            )?;
            if let Some(prefix) = given.bytes("keyPrefix")? {
                options.key_prefix = prefix;
            }
            options.index = given.boolean("index", options.index)?;
            options.max_connections = given.max_connections(options.max_connections)?;
            options.connect_timeout = given.timeout("connectTimeout", options.connect_timeout)?;
            options.command_timeout = given.timeout("commandTimeout", options.command_timeout)?;
            options.max_lifetime = given.timeout("maxLifetime", options.max_lifetime)?;
            options.idle_timeout = given.timeout("idleTimeout", options.idle_timeout)?;
            options.nat_map = given.texts_by_name("natMap")?;
            options.queue_limit = given.queue_limit(options.queue_limit)?;
            options.credentials = given.credentials()?;
            options.tls = given.tls()?;
            Ok(options)
        })
    }
}
