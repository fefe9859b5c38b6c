//! The options of `RedisKvStore`.

use super::Given;
use crate::binding::args::Parse;
use crate::binding::js::{Js, Value};
use crate::binding::secret;
use crate::kv::{Error, Result};
use crate::stores::{NatMap, RedisOptions};

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
            options.nat_map = nat_map(given)?;
            options.queue_limit = given.queue_limit(options.queue_limit)?;
            options.credentials = given.credentials()?;
            options.tls = given.tls()?;
            Ok(options)
        })
    }
}

/// A record, or a function, from announced addresses to reachable ones.
fn nat_map(given: &Given) -> Result<NatMap> {
    const KIND: &str = "a record or a function from host:port to host:port";
    let js = given.js;
    let is_one = |value| js.is_object(value) || js.is_function(value);
    let Some(map) = given.option("natMap", KIND, |value| is_one(value).then_some(value))? else {
        return Ok(NatMap::default());
    };
    if js.is_function(map) {
        return Ok(NatMap::Function(secret::asked(js, "natMap", map, address)));
    }
    let unreadable = |words: &str| Error::InvalidOption(format!("natMap can't be read: {words}"));
    let names = js.names(map).map_err(|thrown| unreadable(&thrown.0))?;
    let pair = |announced: String| {
        let value = js.get(map, &announced).map_err(|thrown| unreadable(&thrown.0))?;
        let reached = address(js, value).ok().flatten();
        let wrong = || Error::InvalidOption(format!("natMap[{announced:?}] must be host:port, or {{ host, port }}"));
        Ok((announced.clone(), reached.ok_or_else(wrong)?))
    };
    NatMap::record(names.into_iter().map(pair).collect::<Result<_>>()?)
}

/// Reads `host:port` or `{ host, port }`; `None` stands for the announced address.
fn address(js: Js, value: Value) -> std::result::Result<Option<String>, String> {
    if js.is_nullish(value) {
        return Ok(None);
    }
    if !js.is_object(value) {
        return secret::text(js, value);
    }
    let read = |name| {
        js.get(value, name)
            .map_err(|thrown| format!("returned what can't be read: {}", thrown.0))
    };
    match (js.to_text(read("host")?), js.to_number(read("port")?)) {
        (Ok(host), Some(port)) if host.contains(':') => Ok(Some(format!("[{host}]:{port}"))),
        (Ok(host), Some(port)) => Ok(Some(format!("{host}:{port}"))),
        _ => Err("returned an object without host and port".into()),
    }
}
