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

/// Keeps entries in a Deno KV database: a file that `Deno.openKv(path)` may
/// have open at the same time in other processes, or a server that speaks KV
/// Connect, such as `denokv`. Works in Node.js and Bun too.
///
/// For Deno programs a key is an array of strings, and a value is an ordinary
/// value. Values that they wrote come back as JSON has them (a `Date` as its ISO
/// string). `get` of a value without a JSON form (a `BigInt`, a `Map`, a
/// `Deno.KvU64`, binary data) rejects with `ERR_KV_CORRUPT`. Lists skip such
/// values, and keys with parts that are not strings.
///
/// Values may have 65,536 bytes when serialized, and keys about 2,040, as in Deno
/// itself. All writes that wait are committed together; an awaited write to a
/// file survives a power loss. This store does not see expired entries of a
/// file; Deno programs see them until they are removed, about a second later.
///
/// @example
/// ```ts
/// import { createFederation } from "@fedify/fedify";
/// import { DenoKvStore } from "fedify-kv";
///
/// const kv = new DenoKvStore("deno-kv.db");
/// const federation = createFederation<void>({ kv });
/// ```
#[napi]
pub struct DenoKvStore(pub(in crate::binding) Handle);

#[napi]
impl DenoKvStore {
    /// @param place The file's path, which is created if there is none, or
    ///              `":memory:"`, or the `http:` or `https:` URL of a server.
    ///              Nothing is opened before the first operation.
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
