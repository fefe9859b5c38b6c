//! JavaScript that the binding calls, compiled once for each environment.
//!
//! Whatever may throw is called from JavaScript that catches. Node-API shows
//! the end of a worker thread as an exception too, and that one must be left
//! alone: who clears it keeps the thread running for ever.

use super::js::{Js, Ref, Stopped, Value};
use super::text::Text;
use napi::sys;
use std::ffi::c_void;
use std::ptr;

/// An attempt returns its result, or an object with the error in a list of one.
/// The originals are taken here, so that nobody who replaces them later changes
/// stored data.
const SCRIPT: &str = "(() => {
  const { parse, stringify } = JSON;
  const { apply, get } = Reflect;
  const resolve = Promise.resolve.bind(Promise);
  const attempt = (run) => (...args) => {
    try {
      return [run(...args)];
    } catch (error) {
      return { error };
    }
  };
  return [
    (value) => {
      try {
        return stringify(value);
      } catch (error) {
        return { error };
      }
    },
    (text) => {
      try {
        return parse(text);
      } catch {
        return undefined;
      }
    },
    attempt(get),
    attempt(apply),
    attempt((error) => String(error?.message ?? error)),
    setImmediate,
    resolve,
    (text) => {
      try {
        return resolve(parse(text));
      } catch {
        return undefined;
      }
    },
    (page, i) => ({ value: { key: page[2 * i], value: page[2 * i + 1] }, done: false }),
    (page, i) => resolve({ value: { key: page[2 * i], value: page[2 * i + 1] }, done: false }),
  ];
})()";

struct Intrinsics {
    stringify: Ref,
    parse: Ref,
    get: Ref,
    apply: Ref,
    message: Ref,
    set_immediate: Ref,
    resolve: Ref,
    resolve_parsed: Ref,
    entry: Ref,
    resolve_entry: Ref,
}

/// What JavaScript code threw, in words.
#[derive(Debug)]
pub struct Thrown(pub String);

pub type Result<T> = std::result::Result<T, Thrown>;

/// Nothing can be said any more, and nobody hears it.
impl From<Stopped> for Thrown {
    fn from(_: Stopped) -> Self {
        Self(String::new())
    }
}

impl Js {
    /// `JSON.stringify(value)`: text, or `undefined` for what it doesn't keep.
    pub fn stringify(self, value: Value) -> Result<Value> {
        let result = self.run(|it| &it.stringify, &[value])?;
        if self.is_object(result) {
            return Err(self.thrown(result));
        }
        Ok(result)
    }

    /// `JSON.parse(text)`; `None` for what is not JSON.
    pub fn parse(self, text: &Text) -> Option<Value> {
        let text = self.text(text).ok()?;
        let value = self.run(|it| &it.parse, &[text]).ok()?;
        (!self.is_undefined(value)).then_some(value)
    }

    /// A promise of a value that is there, at half the cost of making one and
    /// then settling it.
    pub fn resolved(self, value: Value) -> Value {
        self.run(|it| &it.resolve, &[value])
            .unwrap_or_else(|_| self.undefined())
    }

    /// A promise of what a text means; `None` for what is not JSON.
    pub fn resolved_parsed(self, text: &Text) -> Option<Value> {
        let text = self.text(text).ok()?;
        let promise = self.run(|it| &it.resolve_parsed, &[text]).ok()?;
        (!self.is_undefined(promise)).then_some(promise)
    }

    /// The iterator result for one entry of a page.
    pub fn entry(self, page: Value, index: u32) -> Value {
        self.run(|it| &it.entry, &[page, self.index(index)])
            .unwrap_or_else(|_| self.undefined())
    }

    /// A promise of that.
    pub fn resolved_entry(self, page: Value, index: u32) -> Value {
        self.run(|it| &it.resolve_entry, &[page, self.index(index)])
            .unwrap_or_else(|_| self.undefined())
    }

    /// A property, which may be a getter that throws.
    pub fn get(self, object: Value, name: &str) -> Result<Value> {
        let name = self.string(name);
        let result = self.run(|it| &it.get, &[object, name])?;
        self.attempted(result)
    }

    pub fn call(self, this: Value, function: Value, arguments: &[Value]) -> Result<Value> {
        let arguments = self.array(arguments)?;
        let result = self.run(|it| &it.apply, &[function, this, arguments])?;
        self.attempted(result)
    }

    pub fn call_method(self, object: Value, name: &str, arguments: &[Value]) -> Result<Value> {
        let method = self.get(object, name)?;
        self.call(object, method, arguments)
    }

    /// Runs `body` in a later turn of the event loop, after pending I/O.
    pub fn set_immediate<F: Fn(Js) + 'static>(self, body: F) -> Result<()> {
        let function = self.function(body);
        self.run(|it| &it.set_immediate, &[function])?;
        Ok(())
    }

    fn attempted(self, result: Value) -> Result<Value> {
        if self.is_array(result) {
            Ok(self.element(result, 0)?)
        } else {
            Err(self.thrown(result))
        }
    }

    fn thrown(self, result: Value) -> Thrown {
        let words = || {
            let error = self.property(result, c"error").ok()?;
            let message = self.run(|it| &it.message, &[error]).ok()?;
            self.to_text(self.element(message, 0).ok()?).ok()
        };
        Thrown(words().unwrap_or_default())
    }

    fn run(self, function: impl Fn(&Intrinsics) -> &Ref, arguments: &[Value]) -> std::result::Result<Value, Stopped> {
        let function = self.kept(function(self.intrinsics()?));
        self.call_safe(function, arguments)
    }

    fn intrinsics(self) -> std::result::Result<&'static Intrinsics, Stopped> {
        let mut data = ptr::null_mut();
        // SAFETY: the environment is live, and the result is a local.
        unsafe { sys::napi_get_instance_data(self.env(), &raw mut data) };
        if data.is_null() {
            let functions = self.evaluate(SCRIPT)?;
            let function = |index| self.element(functions, index).map(|function| self.keep(function));
            let intrinsics = Box::new(Intrinsics {
                stringify: function(0)?,
                parse: function(1)?,
                get: function(2)?,
                apply: function(3)?,
                message: function(4)?,
                set_immediate: function(5)?,
                resolve: function(6)?,
                resolve_parsed: function(7)?,
                entry: function(8)?,
                resolve_entry: function(9)?,
            });
            data = Box::into_raw(intrinsics).cast();
            // SAFETY: this addon's instance data is set here and nowhere else;
            // the finalizer frees it.
            unsafe { sys::napi_set_instance_data(self.env(), data, Some(finalize), ptr::null_mut()) };
        }
        // SAFETY: set above, freed when the environment ends. `'static` stands
        // for that: callers use it within their callback only.
        Ok(unsafe { &*data.cast::<Intrinsics>() })
    }
}

unsafe extern "C" fn finalize(_: sys::napi_env, data: *mut c_void, _: *mut c_void) {
    // SAFETY: the data is the box made above; a finalizer runs once.
    drop(unsafe { Box::from_raw(data.cast::<Intrinsics>()) });
}
