//! The options of `MysqlKvStore`.

use super::Given;
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::Result;
use crate::stores::MysqlOptions;

impl Parse for MysqlOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        Given::read(js, value, "MysqlKvStore", |given| {
            let mut options = Self::default();
            if let Some(name) = given.text("tableName")? {
                options = options.table(name)?;
            }
            options.initialized = given.boolean("initialized", options.initialized)?;
            options.max_connections = given.max_connections(options.max_connections)?;
            options.connect_timeout = given.timeout("connectTimeout", options.connect_timeout)?;
            options.query_timeout = given.timeout("queryTimeout", options.query_timeout)?;
            options.max_lifetime = given.timeout("maxLifetime", options.max_lifetime)?;
            options.idle_timeout = given.timeout("idleTimeout", options.idle_timeout)?;
            options.queue_limit = given.queue_limit(options.queue_limit)?;
            options.credentials = given.credentials()?;
            options.tls = given.tls()?;
            options.allow_public_key_retrieval = given.boolean("allowPublicKeyRetrieval", false)?;
            Ok(options)
        })
    }
}
