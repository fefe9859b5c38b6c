//! `MemoryKvStore`.

use super::list::KvListIterator;
use super::methods::store_methods;
use super::{Ready, called_with_new, js, ready};
use crate::binding::args::{Arg, ClearPrefix, Json, SetOptions};
use crate::binding::handle::Handle;
use crate::binding::list::Request;
use crate::kv::{Command, Key};
use crate::stores::MemoryStore;
use napi::bindgen_prelude::{Env, This};
use napi_derive::napi;

/// Keeps entries in this process's memory. For tests, demos and caches that may
/// be lost.
///
/// Unlike Fedify's own `MemoryKvStore`, it removes expired entries, returns
/// copies instead of the objects that were passed in, and finds a prefix without
/// looking at every entry. It runs on the calling thread.
///
/// @example
/// ```ts
/// import { createFederation } from "@fedify/fedify";
/// import { MemoryKvStore } from "fedify-kv";
///
/// const federation = createFederation<void>({ kv: new MemoryKvStore() });
/// ```
#[napi]
pub struct MemoryKvStore(pub(in crate::binding) Handle);

#[napi]
impl MemoryKvStore {
    #[napi(constructor)]
    pub fn new(env: Env, this: This<'_>) -> napi::Result<Self> {
        called_with_new(env, &this, "MemoryKvStore")?;
        Ok(Self(Handle::new(js(env), MemoryStore::default())))
    }
}

store_methods!(MemoryKvStore);
