//! `SqliteKvStore`.

use super::list::KvListIterator;
use super::methods::store_methods;
use super::{Ready, called_with_new, js, ready, thrown};
use crate::binding::args::{Arg, ClearPrefix, Json, SetOptions};
use crate::binding::handle::Handle;
use crate::binding::js::Js;
use crate::binding::list::Request;
use crate::kv::{Command, Key};
use crate::stores::{SqliteOptions, SqliteStore};
use napi::bindgen_prelude::{Env, This};
use napi_derive::napi;

/// Keeps entries in a SQLite file. Other processes may use the file at the same
/// time, also with `@fedify/sqlite`: the format is the same.
///
/// By default an awaited write survives a power loss; see
/// {@link SqliteKvStoreOptions.durability}. All waiting writes are committed
/// together, on a thread of the store. Single keys are read on the calling
/// thread, lists on another one. A lone write that needs no sync is done on the
/// calling thread too.
///
/// The file must be on a local disk, because the database gets a write-ahead
/// log: two files beside it, `-wal` and `-shm`, while it is open. Don't open the
/// file in the same process with another SQLite library, such as `node:sqlite`;
/// the store refuses a file that is open in that way already.
///
/// Keys and values may be as long as a string in JavaScript. A `":memory:"`
/// database may have up to 1 GiB.
///
/// @example
/// ```ts
/// import { createFederation } from "@fedify/fedify";
/// import { SqliteKvStore } from "fedify-kv";
///
/// const kv = new SqliteKvStore("fedify.db");
/// await kv.initialize();
/// const federation = createFederation<void>({ kv });
/// ```
#[napi]
pub struct SqliteKvStore(Handle, SqliteStore);

#[napi]
impl SqliteKvStore {
    /// @param path The file's path, or `":memory:"`. A missing file is created, a
    ///             missing folder is not. Nothing is opened before the first
    ///             operation.
    /// @param options The options.
    /// @throws `ERR_KV_INVALID_OPTION`
    #[napi(constructor, ts_args_type = "path: string, options?: SqliteKvStoreOptions")]
    pub fn new(env: Env, this: This<'_>, path: Arg<String>, options: Arg<SqliteOptions>) -> napi::Result<Self> {
        called_with_new(env, &this, "SqliteKvStore")?;
        let store = || SqliteStore::at(&path.0?, options.0?);
        match store() {
            Ok(store) => Ok(Self::of(js(env), store)),
            Err(error) => Err(thrown(env, &error)),
        }
    }

    pub(in crate::binding) fn of(js: Js, store: SqliteStore) -> Self {
        Self(Handle::new(js, store.clone()), store)
    }

    /// Gives the space of deleted and expired entries back to the file system.
    /// Without it, a file never shrinks, and new entries use the free space.
    ///
    /// It rewrites the whole file (SQLite's `VACUUM`). If the file was made with
    /// `auto_vacuum = INCREMENTAL`, it only moves the end of the file. It runs off
    /// the event loop and reads go on, but writes wait: about a second for 200 MB
    /// on a fast disk. It needs up to twice the file's size of free disk space.
    /// Call it when few writes are expected.
    ///
    /// @throws `ERR_KV_TIMEOUT` if another process holds its lock for longer
    ///         than `busyTimeout`; `ERR_KV_BACKEND` if the disk is full. No
    ///         entry is changed then.
    ///
    /// @example
    /// ```ts
    /// await kv.clear(["fedify", "traces"]);
    /// await kv.compact();
    /// ```
    #[napi(ts_return_type = "Promise<void>")]
    pub fn compact(&self, env: Env) -> Ready {
        ready(env, |js| {
            self.0.start(js, &Command::Initialize, |answer| self.1.compact(answer))
        })
    }
}

store_methods!(SqliteKvStore);
