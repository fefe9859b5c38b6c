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

/// Keeps entries in a SQLite file, which other processes may use at the same
/// time, `@fedify/sqlite` among them: the format is the same.
///
/// All writes that wait are committed together, on a thread of the store. By
/// default an awaited write survives a power loss; the options `durability` and
/// `relaxed` choose less, and a lone write is then done on the calling thread.
/// Single keys are read on the calling thread, lists on another one.
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
pub struct SqliteKvStore(Handle, SqliteStore);

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
            Ok(store) => Ok(Self::of(js(env), store)),
            Err(error) => Err(thrown(env, &error)),
        }
    }

    pub(in crate::binding) fn of(js: Js, store: SqliteStore) -> Self {
        Self(Handle::new(js, store.clone()), store)
    }

    /// Gives the space that deleted and expired entries have left back to the
    /// file system. Without it, a file keeps the largest size that it ever had,
    /// and reuses the space for new entries.
    ///
    /// It rewrites the whole file (SQLite's `VACUUM`), or only moves what is at
    /// its end where the file was made with `auto_vacuum = INCREMENTAL`. It runs
    /// off the event loop and reads go on, but writes wait for it: about a second
    /// for 200 MB on a fast disk. It needs up to twice the file's size of free
    /// space meanwhile. A pause in the night is a good time.
    ///
    /// @throws `ERR_KV_TIMEOUT` if another process holds its lock for longer
    ///         than `busyTimeout`; `ERR_KV_BACKEND` if the disk is full. No
    ///         entry is changed then.
    ///
    /// @example
    /// ```ts
    /// await store.clear(["fedify", "traces"]);
    /// await store.compact();
    /// ```
    #[napi(ts_return_type = "Promise<void>")]
    pub fn compact(&self, env: Env) -> Ready {
        ready(env, |js| {
            self.0.start(js, &Command::Initialize, |answer| self.1.compact(answer))
        })
    }
}

store_methods!(SqliteKvStore);
