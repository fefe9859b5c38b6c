//! `openKvStore`: one URL chooses the store.

use super::args::{Arg, Parse, UrlText};
use super::classes::deno::DenoKvStore;
use super::classes::memory::MemoryKvStore;
use super::classes::mysql::MysqlKvStore;
use super::classes::postgres::PostgresKvStore;
use super::classes::redis::RedisKvStore;
use super::classes::sqlite::SqliteKvStore;
use super::classes::{js, thrown};
use super::handle::Handle;
use super::js::{Js, Value};
use super::options::NoOptions;
use crate::kv::{Error, Result};
use crate::stores::{
    DenoOptions, DenoStore, MemoryStore, MysqlOptions, MysqlStore, PostgresOptions, PostgresStore, RedisOptions,
    RedisStore, SqliteOptions, SqliteStore,
};
use napi::bindgen_prelude::{Either6, Env, JsValue, Object, Unknown};
use napi_derive::napi;

type Stores = Either6<MemoryKvStore, SqliteKvStore, RedisKvStore, PostgresKvStore, MysqlKvStore, DenoKvStore>;

/// Opens the store that a URL names, so that an app can take its store from
/// one environment variable. Like the constructors, it does no I/O.
///
/// - `memory:` — {@link MemoryKvStore}
/// - `sqlite:fedify.db`, `sqlite:///var/lib/app/fedify.db`,
///   `sqlite::memory:` — {@link SqliteKvStore}. In the path, `%20` stands for a
///   space, `%3F` for a question mark and so on.
/// - `redis://host:6379/0`, `rediss:` (encrypted), `redis+cluster:`,
///   `rediss+cluster:`, `redis+unix:///run/redis.sock` — {@link RedisKvStore}
/// - `postgres://host:5432/database`, `postgresql:` — {@link PostgresKvStore}
/// - `mysql://host:3306/database`, `mariadb:` — {@link MysqlKvStore}
/// - `denokv:deno-kv.db`, `denokv::memory:` (paths as after `sqlite:`),
///   `denokv:https://host` — {@link DenoKvStore}
///
/// @param url The URL. Percent-encode special characters in user names,
///            passwords and paths. White space around it is ignored.
/// @param options The options of that store's constructor. An option of another
///                store is refused.
/// @returns The store.
/// @throws `ERR_KV_INVALID_OPTION` for a URL that names no store, and for
///         invalid options.
///
/// @example
/// ```ts
/// import { openKvStore } from "fedify-kv";
///
/// const kv = openKvStore(process.env.KV_URL ?? "sqlite:fedify.db");
/// await kv.initialize();
/// ```
#[napi(
    js_name = "openKvStore",
    ts_args_type = "url: string, options?: SqliteKvStoreOptions | RedisKvStoreOptions | PostgresKvStoreOptions | MysqlKvStoreOptions | DenoKvStoreOptions",
    ts_return_type = "MemoryKvStore | SqliteKvStore | RedisKvStore | PostgresKvStore | MysqlKvStore | DenoKvStore"
)]
pub fn open_kv_store(env: Env, url: Arg<UrlText>, options: Unknown<'_>) -> napi::Result<Stores> {
    let js = js(env);
    let options = napi::JsValue::raw(&options);
    url.0
        .and_then(|url| open(js, &url.0, options))
        .map_err(|error| thrown(env, &error))
}

/// Runs when an environment loads the addon, after its classes are made.
#[napi(module_exports)]
pub fn prepare(exports: Object<'_>, env: Env) {
    js(env).prepare_classes(exports.raw());
}

fn open(js: Js, url: &str, options: Value) -> Result<Stores> {
    let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
    match scheme.to_ascii_lowercase().as_str() {
        "memory" if rest.is_empty() => {
            NoOptions::parse(js, options)?;
            Ok(Either6::A(MemoryKvStore(Handle::new(js, MemoryStore::default()))))
        }
        "memory" => Err(Error::InvalidOption(
            "the URL of a memory store must be memory: alone".into(),
        )),
        "sqlite" => {
            let store = SqliteStore::at_url(rest, SqliteOptions::parse(js, options)?)?;
            Ok(Either6::B(SqliteKvStore::of(js, store)))
        }
        other if other == "unix" || other.starts_with("redis") || other.starts_with("valkey") => {
            let store = RedisStore::at(
                &[format!("{other}:{rest}")],
                RedisOptions::parse(js, options)?,
                js.host(),
            )?;
            Ok(Either6::C(RedisKvStore::of(js, store)))
        }
        scheme @ ("postgres" | "postgresql") => {
            let store = PostgresStore::at(
                &format!("{scheme}:{rest}"),
                PostgresOptions::parse(js, options)?,
                js.host(),
            )?;
            Ok(Either6::D(PostgresKvStore(Handle::new(js, store))))
        }
        "mysql" | "mariadb" => {
            let store = MysqlStore::at(url, &MysqlOptions::parse(js, options)?, js.host())?;
            Ok(Either6::E(MysqlKvStore(Handle::new(js, store))))
        }
        "denokv" => {
            let store = DenoStore::at_url(rest, DenoOptions::parse(js, options)?)?;
            Ok(Either6::F(DenoKvStore(Handle::new(js, store))))
        }
        // The rest may contain a password.
        other => Err(Error::InvalidOption(format!(
            "the URL must start with memory:, sqlite:, redis:, postgres:, mysql: or denokv:, not with {:?}; for a SQLite \
            file, write sqlite:path",
            other.chars().take(20).collect::<String>()
        ))),
    }
}
