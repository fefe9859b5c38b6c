//! The classes that JavaScript sees. Their doc comments are what users read in
//! their editors.

pub mod deno;
mod list;
pub mod memory;
mod methods;
pub mod mysql;
pub mod postgres;
pub mod redis;
pub mod sqlite;

use super::js::{Js, Value};
use crate::kv::Error;
use napi::bindgen_prelude::{Env, JsValue, This, ToNapiValue, Unknown, sys};

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
            .unwrap_or_else(|| js.rejected(js.error(&Error::Backend("internal error in the binding".into())))),
    )
}

/// Refuses a constructor's call without `new`: `this` is then another object,
/// the global one for example.
fn called_with_new(env: Env, this: &This<'_>, class: &str) -> napi::Result<()> {
    if js(env).is_instance(this.raw(), class) {
        return Ok(());
    }
    let words = format!("{class} must be called with new");
    Err(thrown(env, &Error::InvalidOption(words)))
}

/// What a constructor throws.
pub fn thrown(env: Env, error: &Error) -> napi::Error {
    let error = js(env).error(error);
    // SAFETY: the error was just made in this environment.
    napi::Error::from(unsafe { Unknown::from_raw_unchecked(env.raw(), error) })
}
