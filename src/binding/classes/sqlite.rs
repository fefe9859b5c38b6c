//! `SqliteKvStore`.

use super::list::KvListIterator;
use super::methods::store_methods;
use super::{Ready, called_with_new, js, ready, thrown};
use crate::binding::args::{Arg, ClearPrefix, Json, SetOptions};
use crate::binding::handle::Handle;
use crate::binding::list::Request;
use crate::kv::{Command, Key};
use crate::stores::{SqliteOptions, SqliteStore};
use napi::bindgen_prelude::{Env, This};
use napi_derive::napi;

/// Keeps entries in a SQLite file, which other processes may use at the same
/// time, `@fedify/sqlite` among them: the format is the same.
///
/// All writes that wait are committed together, on a thread of the store. By
/// default an awaited write survives a power loss. Single keys are read on the
/// calling thread, lists on another one.
///
/// The database gets a write-ahead log (two files beside it, `-wal` and `-shm`,
/// while it is open), so it must be on a local disk. Values may be as large as
/// a string in JavaScript, and keys too.
///
/// @example
/// ```ts
/// import { createFederation } from "@fedify/fedify";
/// import { SqliteKvStore } from "fedify-kv";
///
/// const kv = new SqliteKvStore("fedify.db");
/// const federation = createFederation<void>({ kv });
/// ```
#[napi]
pub struct SqliteKvStore(pub(in crate::binding) Handle);

#[napi]
impl SqliteKvStore {
    /// @param path The file's path, which is created if there is none, or
    ///             `":memory:"`. Nothing is opened before the first operation.
    /// @param options The options.
    /// @throws `ERR_KV_INVALID_OPTION`
    #[napi(constructor, ts_args_type = "path: string, options?: SqliteKvStoreOptions")]
    pub fn new(env: Env, this: This<'_>, path: Arg<String>, options: Arg<SqliteOptions>) -> napi::Result<Self> {
        called_with_new(env, &this, "SqliteKvStore")?;
        let store = || SqliteStore::at(&path.0?, options.0?);
        match store() {
            Ok(store) => Ok(Self(Handle::new(js(env), store))),
            Err(error) => Err(thrown(env, &error)),
        }
    }
}

store_methods!(SqliteKvStore);
