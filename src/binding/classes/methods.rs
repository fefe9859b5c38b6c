//! The methods that all stores have, written once. The file of each class
//! imports the names that the macro uses.

/// The methods that all stores have.
macro_rules! store_methods {
    ($store:ident) => {
        #[napi]
        impl $store {
            /// Gets the value of a key.
            ///
            /// @param key One or more strings.
            /// @returns A copy of the value, or `undefined` if there is no entry or
            ///          it has expired.
            /// @throws `ERR_KV_INVALID_KEY`; `ERR_KV_CORRUPT` if the stored value is
            ///         not JSON. See {@link KvErrorCode} for the others.
            ///
            /// @example
            /// ```ts
            /// const actor = await kv.get<{ name: string }>(["actors", "alice"]);
            /// ```
            #[napi(
                ts_generic_types = "T = unknown",
                ts_args_type = "key: KvKey",
                ts_return_type = "Promise<T | undefined>"
            )]
            pub fn get(&self, env: Env, key: Arg<Key>) -> Ready {
                ready(env, |js| self.0.get(js, key))
            }

            /// Sets the value of a key and its time to live. Without `ttl` the entry
            /// stays until it is deleted, even if it had a `ttl` before.
            ///
            /// @param key One or more strings.
            /// @param value Anything that `JSON.stringify` can represent, `null`
            ///              included. If it is `undefined`, nothing happens.
            /// @param options The time to live.
            /// @throws `ERR_KV_INVALID_KEY`; `ERR_KV_INVALID_VALUE` for BigInts,
            ///         cycles, functions and symbols; `ERR_KV_INVALID_TTL`;
            ///         `ERR_KV_KEY_TOO_LONG`; `ERR_KV_VALUE_TOO_LARGE`. See
            ///         {@link KvErrorCode} for the others.
            ///
            /// @example
            /// ```ts
            /// await kv.set(["actors", "alice"], { name: "Alice" }, { ttl: { days: 1 } });
            /// ```
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
            /// @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
            #[napi(ts_args_type = "key: KvKey", ts_return_type = "Promise<void>")]
            pub fn delete(&self, env: Env, key: Arg<Key>) -> Ready {
                ready(env, |js| self.0.delete(js, key))
            }

            /// Compares and swaps: sets the value only if the current one equals the
            /// expected one. It is atomic with respect to all other writers, in other
            /// processes too.
            ///
            /// Values are compared deeply as JSON; the order of an object's keys
            /// doesn't count.
            ///
            /// @param key One or more strings.
            /// @param expectedValue The expected value; `undefined` if there should be
            ///                      no entry, or an expired one.
            /// @param newValue The new value; `undefined` deletes the entry.
            /// @param options The time to live.
            /// @returns Whether the value was swapped. If another writer was first, it
            ///          is `false`.
            /// @throws The same as `set`. If a connection is lost, it may reject with
            ///         `ERR_KV_CONNECTION` and say that the outcome is unknown.
            ///
            /// @example
            /// ```ts
            /// const isFirst = await kv.cas(["seen", id], undefined, true);
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

            /// Lists the entries under a prefix: the entry of the prefix itself, and
            /// all entries whose keys extend it by whole parts.
            ///
            /// An entry that exists during the whole list is listed exactly once,
            /// even if others are written or deleted meanwhile. You may delete
            /// entries while you list them.
            ///
            /// Entries come in key order: in the order of the keys as the store
            /// encodes them, which is the same each time. Keys that differ only
            /// in timestamps of equal length come in the order of time.
            /// PostgreSQL compares by the database's collation.
            ///
            /// @param prefix A prefix, or options. Without it, or with `[]`, all
            ///               entries are listed.
            /// @returns An async iterator. Nothing is read before its first `next()`.
            /// @throws Nothing. The first `next()` rejects with `ERR_KV_INVALID_KEY`
            ///         or `ERR_KV_INVALID_OPTION`.
            ///
            /// @example
            /// ```ts
            /// for await (const { key, value } of kv.list(["fedify", "traces"])) {
            ///   console.log(key, value);
            /// }
            /// ```
            #[napi(ts_args_type = "prefix?: KvKey | readonly [] | ListOptions")]
            pub fn list(&self, env: Env, prefix: Arg<Request>) -> KvListIterator {
                KvListIterator(self.0.list(js(env), prefix))
            }

            /// Deletes all entries under a prefix: the entry of the prefix itself, and
            /// all entries whose keys extend it by whole parts.
            ///
            /// Large numbers of entries are deleted in several steps, so that other
            /// writes don't have to wait for all of them. An entry that is written
            /// meanwhile may remain. If a step fails, earlier steps are not undone.
            ///
            /// @param prefix One or more strings. `[]` is refused; `drop()` deletes
            ///               everything.
            /// @returns The number of deleted entries.
            /// @throws `ERR_KV_INVALID_KEY`. See {@link KvErrorCode} for the others.
            ///
            /// @example
            /// ```ts
            /// await kv.clear(["_fedify", "remoteDocument"]);
            /// ```
            #[napi(ts_args_type = "prefix: KvKey", ts_return_type = "Promise<number>")]
            pub fn clear(&self, env: Env, prefix: Arg<ClearPrefix>) -> Ready {
                ready(env, |js| self.0.clear(js, prefix))
            }

            /// Opens the file or connects to the server, and creates the table if it
            /// doesn't exist. Without this call the first operation does it. Call it at
            /// start-up, so that a wrong path or URL is noticed at once.
            ///
            /// @throws `ERR_KV_CONNECTION`; `ERR_KV_TIMEOUT`; `ERR_KV_BACKEND` if the
            ///         table can't be created or has other columns.
            #[napi(ts_return_type = "Promise<void>")]
            pub fn initialize(&self, env: Env) -> Ready {
                ready(env, |js| self.0.run(js, Ok(Command::Initialize)))
            }

            /// Deletes all of the store's data: its table, all keys with its
            /// `keyPrefix` in Redis, all entries of the database in Deno KV. The next
            /// operation starts with an empty store.
            #[napi(ts_return_type = "Promise<void>")]
            pub fn drop(&self, env: Env) -> Ready {
                ready(env, |js| self.0.run(js, Ok(Command::Drop)))
            }

            /// Finishes all earlier writes, and then releases all files and
            /// connections. Open lists and later calls reject with `ERR_KV_CLOSED`.
            /// Calling `close()` again is harmless.
            ///
            /// An open store does not keep the process alive.
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

pub(super) use store_methods;
