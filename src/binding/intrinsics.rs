//! JavaScript functions that the binding calls. They are compiled once for each
//! environment, when the addon is loaded, so that replacing `JSON.parse` later
//! does not change what is stored.
//!
//! Calls that may throw are made from JavaScript that catches, not from Rust.
//! Node-API reports the termination of a worker thread as an exception too, and
//! clearing that one would keep the thread running for ever.

use super::event_loop::EventLoop;
use super::js::{Js, Ref, Stopped, Value};
use super::text::Text;
use super::turns::Turns;
use crate::host::Host;
use napi::sys;
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

/// Evaluates to an array of the functions in [`Intrinsics`], in their order.
const SCRIPT: &str = include_str!("intrinsics.js");

/// Evaluates to the function that measures a ttl.
const TTL: &str = include_str!("ttl.js");

struct Intrinsics {
    stringify: Ref,
    parse: Ref,
    parse_page: Ref,
    get: Ref,
    apply: Ref,
    message: Ref,
    strings: Ref,
    names: Ref,
    set_immediate: Ref,
    microtask: Ref,
    resolve: Ref,
    resolve_parsed: Ref,
    entry: Ref,
    resolve_entry: Ref,
    step: Ref,
    end_with: Ref,
    prepare: Ref,
    is_instance: Ref,
    ask: Ref,
    after: Ref,
    ttl: Ref,
    turns: Rc<Turns>,
    /// The function that an immediate calls.
    begin_turn: Ref,
    event_loop: EventLoop,
}

/// Whether this is Node.js, and its event loop is libuv's alone. Bun and Deno
/// imitate it, and Electron runs it within another loop.
const IS_NODE: &str = "(({ node, bun, deno, electron } = {}) =>
  node !== undefined && (bun ?? deno ?? electron) === undefined)(globalThis.process?.versions)";

/// The message of an error that JavaScript code threw.
#[derive(Debug)]
pub struct Thrown(pub String);

pub type Result<T> = std::result::Result<T, Thrown>;

/// The length of a ttl.
pub enum Length {
    Millis(f64),
    /// Years and months, whose length depends on the date, and the rest.
    Calendar {
        years: f64,
        months: f64,
        millis: f64,
    },
}

/// The thread is being terminated, so the message will not be read.
impl From<Stopped> for Thrown {
    fn from(_: Stopped) -> Self {
        Self(String::new())
    }
}

impl Js {
    /// `JSON.stringify(value)`: text, or `undefined` for values that have no
    /// JSON form.
    pub fn stringify(self, value: Value) -> Result<Value> {
        let result = self.run(|it| &it.stringify, &[value])?;
        if self.is_object(result) {
            return Err(self.thrown(result));
        }
        Ok(result)
    }

    /// `JSON.parse(text)`; `None` if it is not JSON.
    pub fn parse(self, text: &str) -> Option<Value> {
        self.some(|it| &it.parse, &[self.string_of(text).ok()?])
    }

    /// The same, for text in the engine's form.
    pub fn parse_text(self, text: &Text) -> Option<Value> {
        self.some(|it| &it.parse, &[self.text(text).ok()?])
    }

    /// The array of a page; `None` if the text is not JSON or does not have this
    /// number of entries with the mark after each.
    pub fn parse_page(self, text: &Text, entries: u32, mark: u32) -> Option<Value> {
        let arguments = [self.text(text).ok()?, self.index(entries), self.index(mark)];
        self.some(|it| &it.parse_page, &arguments)
    }

    /// A promise that is resolved already. It costs half as much as making a
    /// promise and settling it.
    pub fn resolved(self, value: Value) -> Value {
        self.value(|it| &it.resolve, &[value])
    }

    /// A promise of the value of a JSON text; `None` if it is not JSON.
    pub fn resolved_parsed(self, text: &Text) -> Option<Value> {
        self.some(|it| &it.resolve_parsed, &[self.text(text).ok()?])
    }

    /// The iterator result for one entry of a page.
    pub fn entry(self, page: Value, index: u32) -> Value {
        self.value(|it| &it.entry, &[page, self.index(index)])
    }

    /// A promise of the same.
    pub fn resolved_entry(self, page: Value, index: u32) -> Value {
        self.value(|it| &it.resolve_entry, &[page, self.index(index)])
    }

    /// `{ value, done }`
    pub fn step(self, value: Value, done: bool) -> Value {
        self.value(|it| &it.step, &[value, self.boolean(done)])
    }

    /// A promise of an iterator's last result. The value is awaited.
    pub fn end_with(self, value: Value) -> Value {
        self.value(|it| &it.end_with, &[value])
    }

    /// A property, which may be a getter that throws.
    pub fn get(self, object: Value, name: &str) -> Result<Value> {
        let name = self.string(name);
        let result = self.run(|it| &it.get, &[object, name])?;
        self.attempted(result)
    }

    /// An array that should hold strings; `None` if `Array.isArray` says that it
    /// is none. A proxied array is copied, up to the first element that is not
    /// a string.
    pub fn array_of_strings(self, value: Value) -> Result<Option<Value>> {
        if self.is_array(value) {
            return Ok(Some(value));
        }
        if !self.is_object(value) {
            return Ok(None);
        }
        let result = self.run(|it| &it.strings, &[value])?;
        let copy = self.attempted(result)?;
        Ok((!self.is_undefined(copy)).then_some(copy))
    }

    /// Calls a function, and `done` when the promise that it may have returned is
    /// settled.
    pub fn ask(self, function: Value, argument: Value, done: impl Fn(Self, Result<Value>) + 'static) {
        let done = self.function_of_one(move |js, result| done(js, js.attempted(result)));
        self.value(|it| &it.ask, &[function, argument, done]);
    }

    /// The names of an object's own enumerable properties, without symbols.
    pub fn names(self, object: Value) -> Result<Vec<String>> {
        let result = self.run(|it| &it.names, &[object])?;
        let names = self.attempted(result)?;
        // No option has a name with a lone surrogate, so "" may stand for it.
        let name = |index| Ok(self.to_text(self.element(names, index)?).unwrap_or_default());
        (0..self.length(names)).map(name).collect()
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

    /// A promise that settles like another one, but not before `turn` has
    /// resolved.
    pub fn after(self, turn: Value, promise: Value) -> Value {
        self.value(|it| &it.after, &[turn, promise])
    }

    /// The turns of the event loop.
    pub fn turns(self) -> std::result::Result<Rc<Turns>, Stopped> {
        Ok(Rc::clone(&self.intrinsics()?.turns))
    }

    pub fn event_loop(self) -> std::result::Result<&'static EventLoop, Stopped> {
        Ok(&self.intrinsics()?.event_loop)
    }

    pub fn is_node(self) -> bool {
        self.evaluate(IS_NODE).ok().and_then(|it| self.to_bool(it)) == Some(true)
    }

    /// Where stores answer operations on single keys.
    pub fn host(self) -> Host {
        self.event_loop()
            .map_or(Host::Thread, |event_loop| event_loop.host(self))
    }

    /// Calls [`Turns::begin`] in the next turn of the event loop, after pending
    /// I/O.
    pub fn ask_for_turn(self) -> std::result::Result<(), Stopped> {
        let function = self.kept(&self.intrinsics()?.begin_turn);
        self.run(|it| &it.set_immediate, &[function])?;
        Ok(())
    }

    /// Calls a function as a microtask: after the JavaScript code that runs now,
    /// and before the code that awaits a promise resolved later.
    pub fn microtask(self, function: &Ref) {
        let function = self.kept(function);
        self.value(|it| &it.microtask, &[function]);
    }

    /// Wraps the methods of the classes, so that they reject instead of throwing
    /// when they are called on something that is not an instance.
    pub fn prepare_classes(self, exports: Value) {
        self.value(|it| &it.prepare, &[exports]);
    }

    /// Whether a value is an instance of a class of this addon, or of a subclass.
    pub fn is_instance(self, value: Value, class: &str) -> bool {
        let answer = self.value(|it| &it.is_instance, &[value, self.string(class)]);
        self.to_bool(answer) == Some(true)
    }

    /// The length of the `ttl` in the options of a write; `None` without one.
    pub fn ttl(self, options: Value) -> Result<Option<Length>> {
        let result = self.run(|it| &it.ttl, &[options])?;
        if let Some(millis) = self.to_number(result) {
            return Ok(Some(Length::Millis(millis)));
        }
        if self.is_undefined(result) {
            return Ok(None);
        }
        if !self.is_array(result) {
            return Err(self.thrown(result));
        }
        let number = |index| self.to_number(self.element(result, index)?).ok_or(Stopped);
        Ok(Some(Length::Calendar {
            years: number(0)?,
            months: number(1)?,
            millis: number(2)?,
        }))
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

    /// The result of a function that does not throw.
    fn value(self, function: impl Fn(&Intrinsics) -> &Ref, arguments: &[Value]) -> Value {
        self.run(function, arguments).unwrap_or_else(|_| self.undefined())
    }

    /// The same; `None` for `undefined`.
    fn some(self, function: impl Fn(&Intrinsics) -> &Ref, arguments: &[Value]) -> Option<Value> {
        let value = self.run(function, arguments).ok()?;
        (!self.is_undefined(value)).then_some(value)
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
            let mut indexes = 0..;
            let mut next = || {
                self.element(functions, indexes.next().unwrap_or_default())
                    .map(|function| self.keep(function))
            };
            let turns = Rc::new(Turns::default());
            let begin_turn = Rc::clone(&turns);
            let begin_turn = self.function(move |js| begin_turn.begin(js));
            let intrinsics = Box::new(Intrinsics {
                stringify: next()?,
                parse: next()?,
                parse_page: next()?,
                get: next()?,
                apply: next()?,
                message: next()?,
                strings: next()?,
                names: next()?,
                set_immediate: next()?,
                microtask: next()?,
                resolve: next()?,
                resolve_parsed: next()?,
                entry: next()?,
                resolve_entry: next()?,
                step: next()?,
                end_with: next()?,
                prepare: next()?,
                is_instance: next()?,
                ask: next()?,
                after: next()?,
                ttl: self.keep(self.evaluate(TTL)?),
                turns,
                begin_turn: self.keep(begin_turn),
                event_loop: EventLoop::default(),
            });
            data = Box::into_raw(intrinsics).cast();
            // SAFETY: this addon's instance data is set here and nowhere else;
            // the finalizer frees it.
            unsafe { sys::napi_set_instance_data(self.env(), data, Some(finalize), ptr::null_mut()) };
        }
        // SAFETY: set above, and freed when the environment ends. Callers use it
        // within their callback only, so it lives long enough to be `'static`.
        Ok(unsafe { &*data.cast::<Intrinsics>() })
    }
}

unsafe extern "C" fn finalize(_: sys::napi_env, data: *mut c_void, _: *mut c_void) {
    // SAFETY: the data is the box made above; a finalizer runs once.
    let intrinsics = unsafe { Box::from_raw(data.cast::<Intrinsics>()) };
    intrinsics.turns.end();
}
