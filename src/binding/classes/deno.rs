//! `DenoKvStore`.

use super::list::KvListIterator;
use super::methods::store_methods;
use super::{Ready, called_with_new, js, ready, thrown};
use crate::binding::args::{Arg, ClearPrefix, Json, SetOptions};
use crate::binding::handle::Handle;
use crate::binding::list::Request;
use crate::kv::{Command, Key};
use crate::stores::{DenoOptions, DenoStore};
use napi::bindgen_prelude::{Env, This};
use napi_derive::napi;

/// Keeps entries in a Deno KV database: in a file, which other processes may
/// have open with `Deno.openKv(path)` at the same time, or on a server for KV
/// Connect, such as `denokv`. It works in Node.js and Bun too.
///
/// In Deno programs a key is an array of strings, and a value is an ordinary
/// value. Values that Deno programs wrote are returned as JSON has them: a `Date`
/// as its ISO string. `get` of a value without a JSON form (a `BigInt`, a `Map`,
/// a `Deno.KvU64`, binary data) rejects with `ERR_KV_CORRUPT`. Lists skip such
/// values, and keys with parts that are not strings.
///
/// Writes that wait are committed together. An awaited write to a file survives a
/// power loss. This store does not see expired entries of a file;
/// Deno programs see them until they are removed, about a second later. Entries
/// on a server are visible until the server removes them.
///
/// A value may have 65,536 bytes when serialized (`ERR_KV_VALUE_TOO_LARGE`), and
/// a key about 2,040 (`ERR_KV_KEY_TOO_LONG`), as in Deno itself.
///
/// @example
/// ```ts
/// import { createFederation } from "@fedify/fedify";
/// import { DenoKvStore } from "fedify-kv";
///
/// const kv = new DenoKvStore("deno-kv.db");
/// await kv.initialize();
/// const federation = createFederation<void>({ kv });
/// ```
#[napi]
pub struct DenoKvStore(pub(in crate::binding) Handle);

#[napi]
impl DenoKvStore {
    /// @param place The file's path, or `":memory:"`, or the `http:` or `https:`
    ///              URL of a server. A missing file is created, a missing folder is
    ///              not. Nothing is opened before the first operation.
    /// @param options The options.
    /// @throws `ERR_KV_INVALID_OPTION`
    #[napi(constructor, ts_args_type = "place: string, options?: DenoKvStoreOptions")]
    pub fn new(env: Env, this: This<'_>, place: Arg<String>, options: Arg<DenoOptions>) -> napi::Result<Self> {
        called_with_new(env, &this, "DenoKvStore")?;
        let store = || DenoStore::at(&place.0?, options.0?);
        match store() {
            Ok(store) => Ok(Self(Handle::new(js(env), store))),
            Err(error) => Err(thrown(env, &error)),
        }
    }
}

store_methods!(DenoKvStore);
