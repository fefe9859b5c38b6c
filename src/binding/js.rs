//! The parts of Node-API that the binding needs: one method for each call, which
//! returns the result instead of a status.
//!
//! It is raw Node-API instead of napi's value types, because most of an
//! operation's time is spent on strings, promises and JSON. Raw calls are in
//! this file only, and in `lane.rs` for its threadsafe function.

use super::text::Text;
use crate::kv::Error;
use napi::sys;
use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::ptr;

/// A JavaScript value. Valid until the callback that it was made in returns.
pub type Value = sys::napi_value;

/// A call failed: the thread is being terminated, or the value has another type
/// than was asked for. The functions called from here do not throw.
#[derive(Clone, Copy, Debug)]
pub struct Stopped;

pub type Result<T> = std::result::Result<T, Stopped>;

/// The environment, during a callback on its thread.
#[derive(Clone, Copy)]
pub struct Js(sys::napi_env);

/// Settles a promise. Used once, on the thread that made it.
#[derive(Debug)]
pub struct Deferred(sys::napi_deferred);

/// Keeps a value beyond its callback.
#[derive(Debug)]
pub struct Ref {
    env: sys::napi_env,
    raw: sys::napi_ref,
}

/// Why a value is not text.
pub enum NotText {
    NotString,
    LoneSurrogate,
}

/// Calls a Node-API function whose last parameter is a place for its result.
///
/// SAFETY, for every use: `Js` exists only during a callback on its thread, so
/// the environment is live; values and references passed come from it; and the
/// result is written to a local before it is read.
macro_rules! node {
    ($function:ident($js:expr $(, $argument:expr)*) -> $initial:expr) => {{
        let mut result = $initial;
        // SAFETY: see the macro.
        let status = unsafe { sys::$function($js.0 $(, $argument)*, &raw mut result) };
        if status == sys::Status::napi_ok { Ok(result) } else { Err(Stopped) }
    }};
}

impl Js {
    /// # Safety
    ///
    /// Only during a callback of this environment, on its thread, and not used
    /// after that.
    pub unsafe fn new(env: sys::napi_env) -> Self {
        Self(env)
    }

    pub fn env(self) -> sys::napi_env {
        self.0
    }

    pub fn undefined(self) -> Value {
        node!(napi_get_undefined(self) -> ptr::null_mut()).unwrap_or(ptr::null_mut())
    }

    pub fn boolean(self, value: bool) -> Value {
        node!(napi_get_boolean(self, value) -> ptr::null_mut()).unwrap_or(ptr::null_mut())
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn count(self, value: u64) -> Value {
        node!(napi_create_double(self, value as f64) -> ptr::null_mut()).unwrap_or(ptr::null_mut())
    }

    pub fn index(self, value: u32) -> Value {
        node!(napi_create_uint32(self, value) -> ptr::null_mut()).unwrap_or(ptr::null_mut())
    }

    /// Fails if the text is longer than a string can be.
    pub fn text(self, text: &Text) -> Result<Value> {
        match text {
            Text::Latin1(bytes) => {
                node!(napi_create_string_latin1(self, bytes.as_ptr().cast(), bytes.len().cast_signed()) -> ptr::null_mut())
            }
            Text::Utf16(units) => {
                node!(napi_create_string_utf16(self, units.as_ptr(), units.len().cast_signed()) -> ptr::null_mut())
            }
        }
    }

    /// The same for a `str`. ASCII is not copied before the engine copies it.
    pub fn string_of(self, text: &str) -> Result<Value> {
        if text.is_ascii() {
            let (start, length) = (text.as_ptr().cast(), text.len().cast_signed());
            return node!(napi_create_string_latin1(self, start, length) -> ptr::null_mut());
        }
        self.text(&Text::from(text))
    }

    pub fn string(self, text: &str) -> Value {
        self.string_of(text).unwrap_or_else(|_| self.undefined())
    }

    pub fn error(self, error: &Error) -> Value {
        let code = self.string(error.code());
        let message = self.string(&error.to_string());
        let made = match error {
            Error::InvalidKey(_) | Error::InvalidValue(_) | Error::InvalidOption(_) => {
                node!(napi_create_type_error(self, code, message) -> ptr::null_mut())
            }
            Error::OptionOutOfRange(_) | Error::InvalidTtl(_) | Error::KeyTooLong(_) | Error::ValueTooLarge(_) => {
                node!(napi_create_range_error(self, code, message) -> ptr::null_mut())
            }
            _ => node!(napi_create_error(self, code, message) -> ptr::null_mut()),
        };
        made.unwrap_or(message)
    }

    pub fn type_of(self, value: Value) -> sys::napi_valuetype {
        node!(napi_typeof(self, value) -> sys::ValueType::napi_undefined).unwrap_or(sys::ValueType::napi_undefined)
    }

    /// The type of a value, as it can follow "not" in a message.
    pub fn kind(self, value: Value) -> &'static str {
        match self.type_of(value) {
            sys::ValueType::napi_undefined => "undefined",
            sys::ValueType::napi_null => "null",
            sys::ValueType::napi_boolean => "a boolean",
            sys::ValueType::napi_number => "a number",
            sys::ValueType::napi_string => "a string",
            sys::ValueType::napi_symbol => "a symbol",
            sys::ValueType::napi_function => "a function",
            sys::ValueType::napi_bigint => "a BigInt",
            _ => "an object",
        }
    }

    pub fn is_undefined(self, value: Value) -> bool {
        self.type_of(value) == sys::ValueType::napi_undefined
    }

    pub fn is_nullish(self, value: Value) -> bool {
        matches!(
            self.type_of(value),
            sys::ValueType::napi_undefined | sys::ValueType::napi_null
        )
    }

    pub fn is_object(self, value: Value) -> bool {
        self.type_of(value) == sys::ValueType::napi_object
    }

    pub fn is_function(self, value: Value) -> bool {
        self.type_of(value) == sys::ValueType::napi_function
    }

    pub fn is_array(self, value: Value) -> bool {
        node!(napi_is_array(self, value) -> false).unwrap_or(false)
    }

    pub fn length(self, array: Value) -> u32 {
        node!(napi_get_array_length(self, array) -> 0).unwrap_or(0)
    }

    pub fn element(self, array: Value, index: u32) -> Result<Value> {
        node!(napi_get_element(self, array, index) -> ptr::null_mut())
    }

    /// An element of an array from a caller; `undefined` if reading it throws,
    /// as a getter may.
    pub fn element_given(self, array: Value, index: u32) -> Value {
        self.element(array, index).unwrap_or_else(|Stopped| {
            self.drop_exception();
            self.undefined()
        })
    }

    /// A property of an object that the binding made.
    pub fn property(self, object: Value, name: &CStr) -> Result<Value> {
        node!(napi_get_named_property(self, object, name.as_ptr()) -> ptr::null_mut())
    }

    pub fn array(self, elements: &[Value]) -> Result<Value> {
        let array = node!(napi_create_array(self) -> ptr::null_mut())?;
        for (index, element) in (0..).zip(elements) {
            // SAFETY: the environment is live and both values belong to it.
            unsafe { sys::napi_set_element(self.0, array, index, *element) };
        }
        Ok(array)
    }

    /// Runs a script; returns its value.
    pub fn evaluate(self, script: &str) -> Result<Value> {
        let script = self.string(script);
        node!(napi_run_script(self, script) -> ptr::null_mut())
    }

    pub fn to_number(self, value: Value) -> Option<f64> {
        (self.type_of(value) == sys::ValueType::napi_number)
            .then(|| node!(napi_get_value_double(self, value) -> f64::NAN).ok())
            .flatten()
    }

    pub fn to_bool(self, value: Value) -> Option<bool> {
        (self.type_of(value) == sys::ValueType::napi_boolean)
            .then(|| node!(napi_get_value_bool(self, value) -> false).ok())
            .flatten()
    }

    /// The content of a Buffer or any other `Uint8Array`.
    pub fn to_bytes(self, value: Value) -> Option<Vec<u8>> {
        let (mut kind, mut length, mut data) = (0, 0, ptr::null_mut());
        // SAFETY: the environment is live, and the results are locals; those
        // not asked for are null. A value that is no typed array gives an error
        // status.
        let status = unsafe {
            sys::napi_get_typedarray_info(
                self.0,
                value,
                &raw mut kind,
                &raw mut length,
                &raw mut data,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        if status != sys::Status::napi_ok || kind != sys::TypedarrayType::uint8_array {
            return None;
        }
        if length == 0 {
            return Some(Vec::new());
        }
        // SAFETY: the engine reports this length, and nothing changes the
        // bytes during this callback.
        Some(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) }.to_vec())
    }

    /// A string's content.
    #[expect(clippy::expect_used, reason = "the bytes are ASCII or converted to UTF-8")]
    pub fn to_text(self, value: Value) -> std::result::Result<String, NotText> {
        let mut length = 0;
        // SAFETY: without a buffer, the call only reports the string's length.
        // A value that is no string gives an error status, here and below.
        unsafe { sys::napi_get_value_string_utf16(self.0, value, ptr::null_mut(), 0, &raw mut length) };
        let mut units = vec![0; length + 1];
        let length = self.read_text(value, &mut units)?;
        let units = &units[..length];
        let bytes = if is_ascii(units) {
            let mut bytes = vec![0; length];
            narrow(units, &mut bytes);
            bytes
        } else {
            convert(units)?
        };
        Ok(String::from_utf8(bytes).expect("that is UTF-8"))
    }

    /// Calls `body` with a string's content. Short ASCII is not allocated.
    #[expect(clippy::expect_used, reason = "the bytes are ASCII")]
    pub fn with_text<T>(self, value: Value, body: impl FnOnce(&str) -> T) -> std::result::Result<T, NotText> {
        const SHORT: usize = 128;
        let mut units = [0; SHORT];
        let length = self.read_text(value, &mut units)?;
        let units = &units[..length];
        // A string that fills the buffer may be longer than it.
        if length == SHORT - 1 || !is_ascii(units) {
            return self.to_text(value).map(|text| body(&text));
        }
        let mut bytes = [0; SHORT];
        narrow(units, &mut bytes);
        Ok(body(str::from_utf8(&bytes[..length]).expect("that is UTF-8")))
    }

    /// Copies a string's content into `units`, as much as fits; returns the
    /// number of units. UTF-16 needs no conversion by the engine.
    fn read_text(self, value: Value, units: &mut [u16]) -> std::result::Result<usize, NotText> {
        let mut length = 0;
        // SAFETY: the buffer has room for as many units as it says. A value
        // that is no string gives an error status.
        let status = unsafe {
            sys::napi_get_value_string_utf16(self.0, value, units.as_mut_ptr(), units.len(), &raw mut length)
        };
        (status == sys::Status::napi_ok)
            .then_some(length)
            .ok_or(NotText::NotString)
    }

    /// Calls a function that doesn't throw.
    pub fn call_safe(self, function: Value, arguments: &[Value]) -> Result<Value> {
        let this = self.undefined();
        node!(napi_call_function(self, this, function, arguments.len(), arguments.as_ptr()) -> ptr::null_mut())
    }

    pub fn promise(self) -> (Deferred, Value) {
        let mut promise = ptr::null_mut();
        let mut deferred = ptr::null_mut();
        // SAFETY: the environment is live, and both results are locals. They
        // stay null if the thread is being terminated.
        unsafe { sys::napi_create_promise(self.0, &raw mut deferred, &raw mut promise) };
        (Deferred(deferred), promise)
    }

    #[expect(clippy::needless_pass_by_value, reason = "a deferred is used once")]
    pub fn settle(self, deferred: Deferred, result: std::result::Result<Value, Value>) {
        if deferred.0.is_null() {
            return;
        }
        // SAFETY: the environment is live; a deferred is consumed here, so it
        // is used once.
        unsafe {
            match result {
                Ok(value) => sys::napi_resolve_deferred(self.0, deferred.0, value),
                Err(reason) => sys::napi_reject_deferred(self.0, deferred.0, reason),
            };
        }
    }

    pub fn rejected(self, reason: Value) -> Value {
        let (deferred, promise) = self.promise();
        self.settle(deferred, Err(reason));
        promise
    }

    pub fn keep(self, value: Value) -> Ref {
        let raw = node!(napi_create_reference(self, value, 1) -> ptr::null_mut());
        Ref {
            env: self.0,
            raw: raw.unwrap_or(ptr::null_mut()),
        }
    }

    pub fn kept(self, reference: &Ref) -> Value {
        node!(napi_get_reference_value(self, reference.raw) -> ptr::null_mut()).unwrap_or_else(|_| self.undefined())
    }

    /// A JavaScript function that runs `body`. It owns `body`.
    pub fn function<F: Fn(Js) + 'static>(self, body: F) -> Value {
        self.function_of_one(move |js, _| body(js))
    }

    /// The same, with the first argument.
    pub fn function_of_one<F: Fn(Js, Value) + 'static>(self, body: F) -> Value {
        unsafe extern "C" fn run<F: Fn(Js, Value)>(env: sys::napi_env, info: sys::napi_callback_info) -> Value {
            let mut data = ptr::null_mut();
            let mut count = 1;
            let mut argument = ptr::null_mut();
            // SAFETY: called by Node-API with a live environment. There is room for
            // as many arguments as `count` says; one that is missing is `undefined`.
            unsafe {
                sys::napi_get_cb_info(
                    env,
                    info,
                    &raw mut count,
                    &raw mut argument,
                    ptr::null_mut(),
                    &raw mut data,
                );
            }
            // SAFETY: the data is the body below, which lives as long as the
            // function that is being called.
            let body = unsafe { &*data.cast::<F>() };
            // SAFETY: this is a callback of the environment.
            let js = unsafe { Js::new(env) };
            super::guard::guard(|| body(js, argument));
            js.undefined()
        }
        unsafe extern "C" fn finalize<F>(_: sys::napi_env, data: *mut c_void, _: *mut c_void) {
            // SAFETY: the data is the box below; a finalizer runs once.
            drop(unsafe { Box::from_raw(data.cast::<F>()) });
        }
        let data = Box::into_raw(Box::new(body)).cast::<c_void>();
        let name = c"fedifyKv";
        let function = node!(napi_create_function(self, name.as_ptr(), 8, Some(run::<F>), data) -> ptr::null_mut());
        let Ok(function) = function else {
            return self.undefined();
        };
        // SAFETY: the function was just made; the finalizer frees its data.
        unsafe {
            sys::napi_add_finalizer(
                self.0,
                function,
                data,
                Some(finalize::<F>),
                ptr::null_mut(),
                ptr::null_mut(),
            );
        }
        function
    }

    /// Drops an exception that no JavaScript will catch, such as that of a worker
    /// being terminated: libraries look for one when the environment ends.
    pub fn drop_exception(self) {
        let mut exception = ptr::null_mut();
        let pending = node!(napi_is_exception_pending(self) -> false).unwrap_or(false);
        if pending {
            // SAFETY: the environment is live, and the result is a local.
            unsafe { sys::napi_get_and_clear_last_exception(self.0, &raw mut exception) };
        }
    }

    /// Runs `body` in a handle scope of its own, so that its values can be
    /// collected before the callback returns.
    pub fn scoped(self, body: impl FnOnce()) {
        struct Scope(Js, sys::napi_handle_scope);
        impl Drop for Scope {
            fn drop(&mut self) {
                // SAFETY: opened below, and closed once, by a panic too.
                unsafe { sys::napi_close_handle_scope(self.0.0, self.1) };
            }
        }
        let scope = node!(napi_open_handle_scope(self) -> ptr::null_mut());
        let _scope = scope.map(|scope| Scope(self, scope));
        body();
    }
}

/// Memory outside the JavaScript engine's heap that belongs to a JavaScript
/// object. Its size is reported to the engine, which otherwise would collect
/// garbage too late.
pub struct External {
    env: sys::napi_env,
    reported: Cell<usize>,
}

impl External {
    /// Smaller changes are not worth the cost of the call.
    const SMALLEST_CHANGE: usize = 16 * 1024;

    pub fn new(js: Js) -> Self {
        Self {
            env: js.env(),
            reported: Cell::new(0),
        }
    }

    /// Reports the current size to the engine.
    pub fn report(&self, _: Js, bytes: usize) {
        let reported = self.reported.get();
        if bytes.abs_diff(reported) >= Self::SMALLEST_CHANGE || (bytes == 0 && reported > 0) {
            self.adjust(bytes);
        }
    }

    fn adjust(&self, bytes: usize) {
        let change = bytes
            .cast_signed()
            .wrapping_sub(self.reported.replace(bytes).cast_signed());
        let mut all = 0;
        // SAFETY: the environment is live: this is called during a callback on
        // its thread, or when an object of its thread is dropped, which is
        // before it ends. Node-API allows the call in finalizers.
        unsafe { sys::napi_adjust_external_memory(self.env, change as i64, &raw mut all) };
    }
}

impl Drop for External {
    fn drop(&mut self) {
        if self.reported.get() > 0 {
            self.adjust(0);
        }
    }
}

impl Drop for Ref {
    fn drop(&mut self) {
        // SAFETY: references are kept only by objects of their environment's
        // thread, and go when those do. Deleting is allowed in finalizers.
        unsafe { sys::napi_delete_reference(self.env, self.raw) };
    }
}

fn is_ascii(units: &[u16]) -> bool {
    // No early exit, so that the compiler can vectorize the loop.
    units.iter().fold(0, |all, unit| all | unit) < 0x80
}

/// Writes ASCII as bytes. For short strings this is faster than the converter.
fn narrow(units: &[u16], bytes: &mut [u8]) {
    for (byte, unit) in bytes.iter_mut().zip(units) {
        #[expect(clippy::cast_possible_truncation, reason = "it is ASCII")]
        let ascii = *unit as u8;
        *byte = ascii;
    }
}

/// Converts any text to UTF-8.
fn convert(units: &[u16]) -> std::result::Result<Vec<u8>, NotText> {
    if encoding_rs::mem::utf16_valid_up_to(units) != units.len() {
        return Err(NotText::LoneSurrogate);
    }
    // The converter needs room for three bytes a unit.
    let mut bytes = vec![0; 3 * units.len()];
    let length = encoding_rs::mem::convert_utf16_to_utf8(units, &mut bytes);
    bytes.truncate(length);
    // A store may keep it for a long time.
    bytes.shrink_to_fit();
    Ok(bytes)
}
