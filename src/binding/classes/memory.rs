//! `MemoryKvStore`.

use super::list::KvListIterator;
use super::methods::store_methods;
use super::{Ready, called_with_new, js, ready, thrown};
use crate::binding::args::{Arg, ClearPrefix, Json, SetOptions};
use crate::binding::handle::Handle;
use crate::binding::list::Request;
use crate::binding::options::NoOptions;
use crate::kv::{Command, Key};
use crate::stores::MemoryStore;
use napi::bindgen_prelude::{Env, This};
use napi_derive::napi;

/// Keeps entries in this process's memory. For tests, demos and caches that may
/// be lost.
///
/// Unlike Fedify's own `MemoryKvStore`, it removes expired entries, returns
/// copies instead of the objects that were passed in, and finds the entries under
/// a prefix without looking at the others. All operations run on the calling
/// thread. Keys and values may be as long as a string in JavaScript.
///
/// @example
/// ```ts
/// import { createFederation } from "@fedify/fedify";
/// import { MemoryKvStore } from "fedify-kv";
///
/// const kv = new MemoryKvStore();
/// const federation = createFederation<void>({ kv });
/// ```
#[napi]
pub struct MemoryKvStore(pub(in crate::binding) Handle);

#[napi]
impl MemoryKvStore {
    /// @throws `ERR_KV_INVALID_OPTION`, because this store has no options.
    #[napi(constructor, ts_args_type = "")]
    pub fn new(env: Env, this: This<'_>, options: Arg<NoOptions>) -> napi::Result<Self> {
        called_with_new(env, &this, "MemoryKvStore")?;
        options.0.map_err(|error| thrown(env, &error))?;
        Ok(Self(Handle::new(js(env), MemoryStore::default())))
    }
}

store_methods!(MemoryKvStore);
