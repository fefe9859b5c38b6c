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

            /// Sets the value of a key and its time to live. Without `ttl` the
            /// entry lives until it is deleted, even if it had a `ttl` before.
            ///
            /// @param key One or more strings.
            /// @param value Any value with a JSON form, `null` included.
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
            /// what you expect. It is atomic with respect to all other writers,
            /// those in other processes included.
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
            /// itself, and all keys that extend it by whole parts.
            ///
            /// An entry that exists during the whole list is listed exactly once,
            /// even if others are written or deleted meanwhile. The order is
            /// that of the store's encoded keys, and is the same each time. You
            /// may delete entries while you list them.
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
            pub fn list(&self, env: Env, prefix: Arg<Request>) -> KvListIterator {
                KvListIterator(self.0.list(js(env), prefix))
            }

            /// Deletes a prefix and all keys under it.
            ///
            /// Large numbers of entries are deleted in several steps, so that
            /// other writes don't have to wait for all of them. An entry that
            /// is written meanwhile may remain.
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

            /// Connects, and creates the store's table if it needs one. Without
            /// this call the first operation does it.
            #[napi(ts_return_type = "Promise<void>")]
            pub fn initialize(&self, env: Env) -> Ready {
                ready(env, |js| self.0.run(js, Ok(Command::Initialize)))
            }

            /// Deletes all of the store's data. The next operation starts with an
            /// empty store.
            #[napi(ts_return_type = "Promise<void>")]
            pub fn drop(&self, env: Env) -> Ready {
                ready(env, |js| self.0.run(js, Ok(Command::Drop)))
            }

            /// Finishes all earlier writes, and then releases all files and
            /// connections. Open lists and later calls reject with
            /// `ERR_KV_CLOSED`. Calling `close()` again is harmless.
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
