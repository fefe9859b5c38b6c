//! The classes that JavaScript sees. What is documented here is what users
//! read in their editors.

#![expect(clippy::unused_self, reason = "a method in JavaScript has a receiver")]

use super::args::{Arg, ClearPrefix, Json, SetOptions, Urls};
use super::handle::Handle;
use super::js::{Js, Value};
use super::list::{List, Request};
use crate::kv::{Command, Error, Key};
use crate::stores::{MemoryStore, RedisOptions, RedisStore, SqliteOptions, SqliteStore};
use napi::bindgen_prelude::{Env, This, ToNapiValue, Unknown, sys};
use napi_derive::napi;
use std::rc::Rc;

/// A promise, or another value that is ready for JavaScript.
pub struct Ready(Value);

impl ToNapiValue for Ready {
    unsafe fn to_napi_value(_: sys::napi_env, value: Self) -> napi::Result<Value> {
        Ok(value.0)
    }
}

pub fn js(env: Env) -> Js {
    // SAFETY: methods are given an Env for the callback that they run in.
    unsafe { Js::new(env.raw()) }
}

/// The result of a method body; a rejection if it panics.
fn ready(env: Env, body: impl FnOnce(Js) -> Value) -> Ready {
    let js = js(env);
    Ready(
        super::guard::guard(|| body(js))
            .unwrap_or_else(|| js.settled(Err(js.error(&Error::Backend("internal error in the binding".into()))))),
    )
}

/// What a constructor throws.
pub fn thrown(env: Env, error: &Error) -> napi::Error {
    let error = js(env).error(error);
    // SAFETY: the error was just made in this environment.
    napi::Error::from(unsafe { Unknown::from_raw_unchecked(env.raw(), error) })
}

/// An async iterator over the entries of a store, from `list()`.
///
/// It reads a page of entries at a time and stays at most a few pages ahead of
/// you. Nothing runs before the first `next()`. Leaving a `for await` loop
/// early stops the work in the store.
///
/// @example
/// ```ts
/// for await (const { key, value } of store.list(["traces", traceId])) {
///   console.log(key, value);
/// }
/// ```
#[napi(js_name = "KvListIterator")]
pub struct KvListIterator(Rc<List>);

#[napi]
impl KvListIterator {
    /// The next entry. Calls may overlap; they are answered in their order.
    #[napi(ts_return_type = "Promise<IteratorResult<KvStoreListEntry, undefined>>")]
    pub fn next(&self, env: Env) -> Ready {
        ready(env, |js| self.0.next(js))
    }

    /// Ends the iterator and stops its work, without waiting for it.
    #[napi(
        js_name = "return",
        ts_args_type = "value?: unknown",
        ts_return_type = "Promise<IteratorResult<KvStoreListEntry, undefined>>"
    )]
    pub fn end(&self, env: Env, value: Unknown<'_>) -> Ready {
        ready(env, |js| {
            self.0.end(js);
            js.settled(Ok(js.step(napi::JsValue::raw(&value), true)))
        })
    }

    /// Ends the iterator and rejects with the given error.
    #[napi(
        js_name = "throw",
        ts_args_type = "error?: unknown",
        ts_return_type = "Promise<IteratorResult<KvStoreListEntry, undefined>>"
    )]
    pub fn fail(&self, env: Env, error: Unknown<'_>) -> Ready {
        ready(env, |js| {
            self.0.end(js);
            js.settled(Err(napi::JsValue::raw(&error)))
        })
    }

    /// How many entries were stepped over so far because what is stored is not
    /// what the format says. `get` of their keys rejects with
    /// `ERR_KV_CORRUPT`.
    #[napi(getter)]
    pub fn skipped(&self) -> u32 {
        self.0.skipped()
    }

    #[napi(well_known_symbol = "asyncIterator", ts_return_type = "this")]
    pub fn async_iterator(&self, this: This<'_>) -> Ready {
        Ready(napi::JsValue::raw(&*this))
    }

    #[napi(well_known_symbol = "asyncDispose", ts_return_type = "Promise<void>")]
    pub fn async_dispose(&self, env: Env) -> Ready {
        ready(env, |js| {
            self.0.end(js);
            js.settled(Ok(js.undefined()))
        })
    }
}

/// The methods that all stores have.
macro_rules! store_methods {
    ($store:ident) => {
        #[napi]
        impl $store {
            /// Gets the value of a key.
            ///
            /// @param key One or more strings.
            /// @returns The value, or `undefined` if there is none or it has
            ///          expired.
            /// @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if what is
            ///         stored is not JSON.
            #[napi(
                ts_generic_types = "T = unknown",
                ts_args_type = "key: KvKey",
                ts_return_type = "Promise<T | undefined>"
            )]
            pub fn get(&self, env: Env, key: Arg<Key>) -> Ready {
                ready(env, |js| self.0.get(js, key))
            }

            /// Sets the value of a key, and its time to live: without `ttl` the
            /// entry lives until it is deleted, whatever it had before.
            ///
            /// @param key One or more strings.
            /// @param value Whatever `JSON.stringify` keeps, `null` included.
            ///              `undefined` does nothing.
            /// @param options The time to live.
            /// @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for
            ///         BigInts, cycles, functions and symbols;
            ///         `ERR_KV_INVALID_TTL`. The store is unchanged then.
            #[napi(
                ts_args_type = "key: KvKey, value: unknown, options?: SetOptions",
                ts_return_type = "Promise<void>"
            )]
            pub fn set(&self, env: Env, key: Arg<Key>, value: Arg<Json>, options: Arg<SetOptions>) -> Ready {
                ready(env, |js| self.0.set(js, key, value, options))
            }

            /// Deletes the entry of a key, if there is one.
            ///
            /// @param key One or more strings.
            #[napi(ts_args_type = "key: KvKey", ts_return_type = "Promise<void>")]
            pub fn delete(&self, env: Env, key: Arg<Key>) -> Ready {
                ready(env, |js| self.0.delete(js, key))
            }

            /// Compares and swaps: sets the value only if the present one is
            /// what you expect, with no other writer in between, in whatever
            /// process it is.
            ///
            /// Values are compared deeply as JSON; the order of an object's
            /// keys doesn't count.
            ///
            /// @param key One or more strings.
            /// @param expectedValue The value you expect; `undefined` for none,
            ///                      missing or expired.
            /// @param newValue The new value; `undefined` deletes the entry.
            /// @param options The time to live.
            /// @returns Whether it was swapped. A lost race is `false`.
            ///
            /// @example
            /// ```ts
            /// const first = await store.cas(["seen", id], undefined, true);
            /// ```
            #[napi(
                ts_args_type = "key: KvKey, expectedValue: unknown, newValue: unknown, options?: SetOptions",
                ts_return_type = "Promise<boolean>"
            )]
            pub fn cas(
                &self,
                env: Env,
                key: Arg<Key>,
                expected_value: Arg<Json>,
                new_value: Arg<Json>,
                options: Arg<SetOptions>,
            ) -> Ready {
                ready(env, |js| self.0.cas(js, key, expected_value, new_value, options))
            }

            /// Lists the entries whose keys start with a prefix: the prefix
            /// itself, and all that extend it by whole parts.
            ///
            /// An entry that is there all the while is listed exactly once,
            /// whatever is written or deleted meanwhile. The order is that of
            /// the store's encoded keys, the same each time. Deleting while
            /// listing is safe.
            ///
            /// @param prefix A prefix; missing or `[]` for all entries. Or
            ///               options.
            /// @throws Nothing. The first `next()` rejects with
            ///         `ERR_KV_INVALID_KEY` or `ERR_KV_INVALID_OPTION`.
            ///
            /// @example
            /// ```ts
            /// for await (const { key, value } of store.list(["traces"])) {
            ///   console.log(key, value);
            /// }
            /// ```
            #[napi(ts_args_type = "prefix?: KvKey | readonly [] | ListOptions")]
            pub fn list(&self, prefix: Arg<Request>) -> KvListIterator {
                KvListIterator(self.0.list(prefix))
            }

            /// Deletes a prefix and all under it.
            ///
            /// Entries go in slices, so that other writes don't wait for all
            /// of them; one that is written meanwhile may stay.
            ///
            /// @param prefix One or more strings. `[]` is refused; `drop()`
            ///               deletes everything.
            /// @returns How many entries were deleted.
            ///
            /// @example
            /// ```ts
            /// await store.clear(["_fedify", "remoteDocument"]);
            /// ```
            #[napi(ts_args_type = "prefix: KvKey", ts_return_type = "Promise<number>")]
            pub fn clear(&self, env: Env, prefix: Arg<ClearPrefix>) -> Ready {
                ready(env, |js| self.0.clear(js, prefix))
            }

            /// Connects and creates what the store needs, which otherwise the
            /// first operation does.
            #[napi(ts_return_type = "Promise<void>")]
            pub fn initialize(&self, env: Env) -> Ready {
                ready(env, |js| self.0.run(js, Ok(Command::Initialize)))
            }

            /// Leaves nothing of the store. The next operation starts afresh.
            #[napi(ts_return_type = "Promise<void>")]
            pub fn drop(&self, env: Env) -> Ready {
                ready(env, |js| self.0.run(js, Ok(Command::Drop)))
            }

            /// Finishes the writes that were called before, and releases all
            /// files and connections. Lists under way reject with
            /// `ERR_KV_CLOSED`, and so does everything called later, except
            /// `close()` itself.
            #[napi(ts_return_type = "Promise<void>")]
            pub fn close(&self, env: Env) -> Ready {
                ready(env, |js| self.0.close(js))
            }

            /// Closes the store at the end of an `await using` block.
            #[napi(well_known_symbol = "asyncDispose", ts_return_type = "Promise<void>")]
            pub fn async_dispose(&self, env: Env) -> Ready {
                ready(env, |js| self.0.close(js))
            }
        }
    };
}

/// Keeps entries in this process's memory, in order, until they expire or the
/// process ends. For tests, demos and caches that may be lost.
///
/// Unlike Fedify's own `MemoryKvStore` it removes what has expired, never
/// returns the object that was passed in, and finds a prefix without looking
/// at every entry. It answers at once, on the calling thread.
///
/// @example
/// ```ts
/// import { createFederation } from "@fedify/fedify";
/// import { MemoryKvStore } from "fedify-kv";
///
/// const federation = createFederation<void>({ kv: new MemoryKvStore() });
/// ```
#[napi]
pub struct MemoryKvStore(pub(super) Handle);

#[napi]
impl MemoryKvStore {
    #[napi(constructor)]
    pub fn new(env: Env) -> Self {
        Self(Handle::new(js(env), MemoryStore::default()))
    }
}

store_methods!(MemoryKvStore);

/// Keeps entries in a SQLite file, which other processes may use at the same
/// time, `@fedify/sqlite` among them: the format is the same.
///
/// All writes that wait are committed together, on a thread of the store's own.
/// By default a resolved write has reached the disk. Single keys are read on
/// the calling thread, lists on another one.
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
pub struct SqliteKvStore(pub(super) Handle);

#[napi]
impl SqliteKvStore {
    /// @param path The file's path, which is created if there is none, or
    ///             `":memory:"`. Nothing is opened before the first operation.
    /// @param options What to do differently.
    /// @throws `ERR_KV_INVALID_OPTION`
    #[napi(constructor, ts_args_type = "path: string, options?: SqliteKvStoreOptions")]
    pub fn new(env: Env, path: Arg<String>, options: Arg<SqliteOptions>) -> napi::Result<Self> {
        let store = || SqliteStore::at(&path.0?, options.0?);
        match store() {
            Ok(store) => Ok(Self(Handle::new(js(env), store))),
            Err(error) => Err(thrown(env, &error)),
        }
    }
}

store_methods!(SqliteKvStore);

/// Keeps entries in Redis or Valkey (6.0 or later), on one server or in a
/// cluster, where other processes may use them at the same time,
/// `@fedify/redis` among them: the format is the same.
///
/// Operations that wait go out together, over one connection to each server.
/// A connection that is lost is made again: what may safely be repeated is, and
/// a `cas` whose outcome nobody knows rejects. Values may be as large as Redis
/// takes them (512 MB).
///
/// Redis keeps its keys in no order, so by default `list` and `clear` scan the
/// whole database, which takes a second for some million keys, and `list` holds
/// the keys that match (never their values). With `index: true` they don't; see
/// {@link RedisKvStoreOptions.index}.
///
/// @example
/// ```ts
/// import { createFederation } from "@fedify/fedify";
/// import { RedisKvStore } from "fedify-kv";
///
/// const kv = new RedisKvStore("redis://localhost");
/// const federation = createFederation<void>({ kv });
/// ```
#[napi]
pub struct RedisKvStore(pub(super) Handle, RedisStore);

#[napi]
impl RedisKvStore {
    /// @param url The server's URL, such as `redis://user:password@host:6379/0`,
    ///            `rediss://host` (encrypted) or `unix:///run/redis.sock?db=0`.
    ///            Several URLs, or one like `redis+cluster://host`, name nodes
    ///            of a cluster, the rest of which is found. Nothing is
    ///            connected before the first operation.
    /// @param options What to do differently.
    /// @throws `ERR_KV_INVALID_OPTION`
    #[napi(
        constructor,
        ts_args_type = "url: string | readonly string[], options?: RedisKvStoreOptions"
    )]
    pub fn new(env: Env, url: Arg<Urls>, options: Arg<RedisOptions>) -> napi::Result<Self> {
        let store = || RedisStore::at(&url.0?.0, options.0?);
        match store() {
            Ok(store) => Ok(Self::of(js(env), store)),
            Err(error) => Err(thrown(env, &error)),
        }
    }

    pub(super) fn of(js: Js, store: RedisStore) -> Self {
        Self(Handle::new(js, store.clone()), store)
    }

    /// Makes the index agree with what is stored, for data from before
    /// `index: true` and from writers without it. Others may write meanwhile.
    ///
    /// @returns How many entries there are.
    /// @throws `ERR_KV_INVALID_OPTION` if the store has no index.
    #[napi(ts_return_type = "Promise<number>")]
    pub fn reindex(&self, env: Env) -> Ready {
        ready(env, |js| {
            self.0.start(js, |ticket, outbox| self.1.reindex(ticket, outbox))
        })
    }

    /// How many entries the present call of `reindex`, or the last one, has
    /// dealt with.
    #[napi(getter)]
    pub fn reindexed(&self) -> u32 {
        self.1.reindexed().try_into().unwrap_or(u32::MAX)
    }
}

store_methods!(RedisKvStore);
