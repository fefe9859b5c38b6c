//! `RedisKvStore`.

use super::list::KvListIterator;
use super::methods::store_methods;
use super::{Ready, called_with_new, js, ready, thrown};
use crate::binding::args::{Arg, ClearPrefix, Json, SetOptions, Urls};
use crate::binding::handle::Handle;
use crate::binding::js::Js;
use crate::binding::list::Request;
use crate::kv::{Command, Key};
use crate::stores::{RedisOptions, RedisStore};
use napi::bindgen_prelude::{Env, This};
use napi_derive::napi;

/// Keeps entries in Redis or Valkey (6.0 or later), on one server or in a
/// cluster. Other processes may use them at the same time, also with
/// `@fedify/redis`: the format is the same.
///
/// What is called together is sent together, over a few connections to each
/// server. What was certainly not carried out is repeated; a write whose outcome
/// is unknown rejects and says so. The server's configuration (`appendfsync`)
/// decides what a crash of the server loses.
///
/// Redis does not keep keys in order, so by default `list` and `clear` scan the
/// whole database, which takes a second for some million keys, and `list` holds
/// all matching keys in memory (never their values). With `index: true` their
/// cost depends only on the number of matches; see
/// {@link RedisKvStoreOptions.index}.
///
/// Keys and values may have up to 512 MB, the limit of Redis.
///
/// @example
/// ```ts
/// import { createFederation } from "@fedify/fedify";
/// import { RedisKvStore } from "fedify-kv";
///
/// const kv = new RedisKvStore("redis://localhost");
/// await kv.initialize();
/// const federation = createFederation<void>({ kv });
/// ```
#[napi]
pub struct RedisKvStore(pub(in crate::binding) Handle, RedisStore);

#[napi]
impl RedisKvStore {
    /// @param url The server's URL, such as `redis://user:password@host:6379/0`,
    ///            `rediss://host` (encrypted) or `unix:///run/redis.sock?db=0`.
    ///            Several URLs, or one like `redis+cluster://host`, name nodes
    ///            of a cluster; the other nodes are found. Nothing is
    ///            connected before the first operation.
    /// @param options The options.
    /// @throws `ERR_KV_INVALID_OPTION`
    #[napi(
        constructor,
        ts_args_type = "url: string | readonly string[], options?: RedisKvStoreOptions"
    )]
    pub fn new(env: Env, this: This<'_>, url: Arg<Urls>, options: Arg<RedisOptions>) -> napi::Result<Self> {
        called_with_new(env, &this, "RedisKvStore")?;
        let js = js(env);
        let store = || RedisStore::at(&url.0?.0, options.0?, js.host());
        match store() {
            Ok(store) => Ok(Self::of(js, store)),
            Err(error) => Err(thrown(env, &error)),
        }
    }

    pub(in crate::binding) fn of(js: Js, store: RedisStore) -> Self {
        Self(Handle::new(js, store.clone()), store)
    }

    /// Rebuilds the index, so that it has the entries from before `index: true`,
    /// and those of writers that do not maintain it. Others may write meanwhile.
    /// It scans the whole database.
    ///
    /// @returns The number of entries.
    /// @throws `ERR_KV_INVALID_OPTION` if the store was made without
    ///         `index: true`.
    ///
    /// @example
    /// ```ts
    /// const kv = new RedisKvStore("redis://localhost", { index: true });
    /// await kv.reindex();
    /// ```
    #[napi(ts_return_type = "Promise<number>")]
    pub fn reindex(&self, env: Env) -> Ready {
        ready(env, |js| {
            self.0.start(js, &Command::Initialize, |answer| self.1.reindex(answer))
        })
    }

    /// The number of entries that the running or the last `reindex()` has processed.
    #[napi(getter)]
    pub fn reindexed(&self) -> u32 {
        self.1.reindexed().try_into().unwrap_or(u32::MAX)
    }
}

store_methods!(RedisKvStore);
