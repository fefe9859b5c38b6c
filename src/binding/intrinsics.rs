//! JavaScript's own functions that the binding calls, looked up once for each
//! environment, so that nobody who replaces them later changes stored data.

use super::js::{Js, Ref, Result, Value};
use super::text::Text;
use napi::sys;
use std::ffi::c_void;
use std::ptr;

struct Intrinsics {
    json: Ref,
    parse: Ref,
    stringify: Ref,
    set_immediate: Ref,
}

impl Js {
    /// `JSON.stringify(value)`: text, or `undefined` for what it doesn't keep.
    pub fn stringify(self, value: Value) -> Result<Value> {
        let intrinsics = self.intrinsics()?;
        self.call(self.kept(&intrinsics.json), self.kept(&intrinsics.stringify), &[value])
    }

    /// `JSON.parse(text)`
    pub fn parse(self, text: &Text) -> Result<Value> {
        let intrinsics = self.intrinsics()?;
        let text = self.text(text)?;
        self.call(self.kept(&intrinsics.json), self.kept(&intrinsics.parse), &[text])
    }

    /// Runs `body` in a later turn of the event loop, after pending I/O.
    pub fn set_immediate<F: Fn(Js) + 'static>(self, body: F) -> Result<()> {
        let intrinsics = self.intrinsics()?;
        let function = self.function(body);
        self.call(self.undefined(), self.kept(&intrinsics.set_immediate), &[function])
            .map(|_| ())
    }

    fn intrinsics(self) -> Result<&'static Intrinsics> {
        let mut data = ptr::null_mut();
        // SAFETY: the environment is live, and the result is a local.
        unsafe { sys::napi_get_instance_data(self.env(), &raw mut data) };
        if data.is_null() {
            let json = self.global(c"JSON")?;
            let intrinsics = Box::new(Intrinsics {
                json: self.keep(json),
                parse: self.keep(self.get(json, c"parse")?),
                stringify: self.keep(self.get(json, c"stringify")?),
                set_immediate: self.keep(self.global(c"setImmediate")?),
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
