//! `PostgresKvStore`.

use super::list::KvListIterator;
use super::methods::store_methods;
use super::{Ready, called_with_new, js, ready, thrown};
use crate::binding::args::{Arg, ClearPrefix, Json, SetOptions, UrlText};
use crate::binding::handle::Handle;
use crate::binding::list::Request;
use crate::kv::{Command, Key};
use crate::stores::{PostgresOptions, PostgresStore};
use napi::bindgen_prelude::{Env, This};
use napi_derive::napi;

/// Keeps entries in a PostgreSQL table. Other processes may use it at the same
/// time, also with `@fedify/postgres`: the format is the same.
///
/// Waiting operations are sent together, gets in one statement and writes in
/// another, over a few connections. After a connection is lost, what was not
/// carried out is repeated; a write whose outcome is unknown rejects and says so.
/// Lists read a range of the primary key, a page at a time.
///
/// Values are stored as `jsonb`, which allows neither NUL characters nor lone
/// surrogates: such values reject with `ERR_KV_INVALID_VALUE`. Parts of keys
/// must not contain NUL either (`ERR_KV_INVALID_KEY`). A key may have about 2,700
/// bytes after compression (`ERR_KV_KEY_TOO_LONG`).
///
/// @example
/// ```ts
/// import { createFederation } from "@fedify/fedify";
/// import { PostgresKvStore } from "fedify-kv";
///
/// const kv = new PostgresKvStore("postgres://user:password@localhost/app");
/// await kv.initialize();
/// const federation = createFederation<void>({ kv });
/// ```
#[napi]
pub struct PostgresKvStore(pub(in crate::binding) Handle);

#[napi]
impl PostgresKvStore {
    /// @param url The database's URL, such as
    ///            `postgres://user:password@host:5432/database`, with
    ///            `?sslmode=require` for an encrypted connection, or
    ///            `postgres://user@%2Frun%2Fpostgresql/database` for a Unix
    ///            socket. It may name several hosts. What it leaves out comes
    ///            from the variables of PostgreSQL's own clients (`PGHOST`,
    ///            `PGPASSWORD` and so on) and from `~/.pgpass`. Nothing is
    ///            connected before the first operation.
    /// @param options The options.
    /// @throws `ERR_KV_INVALID_OPTION`
    #[napi(constructor, ts_args_type = "url: string, options?: PostgresKvStoreOptions")]
    pub fn new(env: Env, this: This<'_>, url: Arg<UrlText>, options: Arg<PostgresOptions>) -> napi::Result<Self> {
        called_with_new(env, &this, "PostgresKvStore")?;
        let store = || PostgresStore::at(&url.0?.0, options.0?, js(env).host());
        match store() {
            Ok(store) => Ok(Self(Handle::new(js(env), store))),
            Err(error) => Err(thrown(env, &error)),
        }
    }
}

store_methods!(PostgresKvStore);
