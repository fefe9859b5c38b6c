//! What `list()` returns.

#![expect(clippy::unused_self, reason = "a method in JavaScript has a receiver")]

use super::{Ready, ready};
use crate::binding::list::List;
use napi::bindgen_prelude::{Env, This, Unknown};
use napi_derive::napi;
use std::rc::Rc;

/// An async iterator over the entries of a store, from `list()`.
///
/// It reads a page of entries at a time, and at most a few pages ahead. Nothing
/// runs before the first `next()`. Leaving a `for await` loop early stops the
/// work in the store.
///
/// @example
/// ```ts
/// for await (const { key, value } of kv.list(["fedify", "traces", traceId])) {
///   console.log(key, value);
/// }
/// ```
#[napi(js_name = "KvListIterator")]
pub struct KvListIterator(pub(super) Rc<List>);

#[napi]
impl KvListIterator {
    /// The next entry. You may call it again before the last call has resolved;
    /// calls resolve in their order.
    ///
    /// @throws `ERR_KV_CLOSED` if the store was closed; the reason of an aborted
    ///         `signal`. See {@link KvErrorCode} for the others.
    #[napi(ts_return_type = "Promise<IteratorResult<KvStoreListEntry, undefined>>")]
    pub fn next(&self, env: Env) -> Ready {
        ready(env, |js| self.0.next(js))
    }

    /// Ends the iterator. Work in the store stops at once.
    ///
    /// @param value The value of the result; a promise is awaited.
    #[napi(
        js_name = "return",
        ts_args_type = "value?: unknown",
        ts_return_type = "Promise<IteratorResult<KvStoreListEntry, undefined>>"
    )]
    pub fn end(&self, env: Env, value: Unknown<'_>) -> Ready {
        ready(env, |js| {
            self.0.end(js);
            let promise = js.end_with(napi::JsValue::raw(&value));
            self.0.in_turn(js, promise)
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
            let promise = js.rejected(napi::JsValue::raw(&error));
            self.0.in_turn(js, promise)
        })
    }

    /// The number of unreadable entries that were skipped so far. `get` of their
    /// keys rejects with `ERR_KV_CORRUPT`.
    #[napi(getter)]
    pub fn skipped(&self) -> u32 {
        self.0.skipped()
    }

    /// Returns the iterator itself, for `for await`.
    #[napi(well_known_symbol = "asyncIterator", ts_return_type = "this")]
    pub fn async_iterator(&self, this: This<'_>) -> Ready {
        Ready(napi::JsValue::raw(&*this))
    }

    /// Ends the iterator at the end of an `await using` block.
    #[napi(well_known_symbol = "asyncDispose", ts_return_type = "Promise<void>")]
    pub fn async_dispose(&self, env: Env) -> Ready {
        ready(env, |js| {
            self.0.end(js);
            let promise = js.resolved(js.undefined());
            self.0.in_turn(js, promise)
        })
    }
}
