//! The options of `PostgresKvStore`.

use super::Given;
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::kv::Result;
use crate::stores::PostgresOptions;

impl Parse for PostgresOptions {
    fn parse(js: Js, value: Value) -> Result<Self> {
        Given::read(js, value, "PostgresKvStore", |given| {
            let mut options = Self::default();
            options.table_name = given.text("tableName")?;
            options.initialized = given.boolean("initialized", options.initialized)?;
            options.unlogged = given.boolean("unlogged", options.unlogged)?;
            options.prepared_statements = given.boolean_given("preparedStatements")?;
            options.max_connections = given.max_connections_given()?;
            options.connect_timeout = given.timeout_given("connectTimeout")?;
            let most = given.count_given("maxAnswerBytes", u32::MAX)?;
            options.max_answer_bytes = most.unwrap_or(options.max_answer_bytes);
            options.query_timeout = given.timeout("queryTimeout", options.query_timeout)?;
            options.max_lifetime = given.timeout("maxLifetime", options.max_lifetime)?;
            options.idle_timeout = given.timeout("idleTimeout", options.idle_timeout)?;
            options.relaxed = given.prefixes("relaxed")?;
            options.queue_limit = given.queue_limit(options.queue_limit)?;
            options.credentials = given.credentials()?;
            options.tls = given.tls()?;
            Ok(options)
        })
    }
}
