//! libuv's functions and handles.
//!
//! The functions are looked up when they are needed. Only Node.js exports all of
//! them: Deno would refuse to load an addon that needs them, and Bun ends the
//! process when one is called.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

/// Functions of C that are looked up in the process, with the types that their
/// documentation gives.
macro_rules! looked_up {
    ($(#[$about:meta])* $visibility:vis struct $name:ident {
        $($function:ident: fn($($argument:ty),*) -> $result:ty = $symbol:literal,)*
    }) => {
        $(#[$about])*
        $visibility struct $name {
            $($function: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl $name {
            /// `None` if the process does not export all of them.
            fn find() -> Option<Self> {
                Some(Self {
                    $($function: {
                        let found = $crate::host::symbol($symbol)?.as_ptr();
                        // SAFETY: the function has this type.
                        unsafe {
                            std::mem::transmute::<*mut std::ffi::c_void, unsafe extern "C" fn($($argument),*) -> $result>(
                                found,
                            )
                        }
                    },)*
                })
            }
        }
    };
}

pub(crate) use looked_up;

/// A `uv_loop_t`.
#[derive(Clone, Copy)]
pub struct LoopPointer(pub NonNull<c_void>);

type Raw = *mut c_void;
type OnEvent = unsafe extern "C" fn(Raw);
type OnPoll = unsafe extern "C" fn(Raw, c_int, c_int);

/// Values of `uv_handle_type`.
const ASYNC: c_int = 1;
const IDLE: c_int = 6;
const POLL: c_int = 8;
const TIMER: c_int = 13;

/// Values of `uv_poll_event`.
const READABLE: c_int = 1;
const WRITABLE: c_int = 2;

looked_up! {
    pub struct Uv {
        handle_size: fn(c_int) -> usize = c"uv_handle_size",
        set_data: fn(Raw, *mut c_void) -> () = c"uv_handle_set_data",
        get_data: fn(Raw) -> *mut c_void = c"uv_handle_get_data",
        unref: fn(Raw) -> () = c"uv_unref",
        close: fn(Raw, OnEvent) -> () = c"uv_close",
        async_init: fn(Raw, Raw, OnEvent) -> c_int = c"uv_async_init",
        async_send: fn(Raw) -> c_int = c"uv_async_send",
        idle_init: fn(Raw, Raw) -> c_int = c"uv_idle_init",
        idle_start: fn(Raw, OnEvent) -> c_int = c"uv_idle_start",
        idle_stop: fn(Raw) -> c_int = c"uv_idle_stop",
        timer_init: fn(Raw, Raw) -> c_int = c"uv_timer_init",
        timer_start: fn(Raw, OnEvent, u64, u64) -> c_int = c"uv_timer_start",
        poll_init: fn(Raw, Raw, c_int) -> c_int = c"uv_poll_init",
        poll_start: fn(Raw, c_int, OnPoll) -> c_int = c"uv_poll_start",
        version: fn() -> c_uint = c"uv_version",
    }
}

impl Uv {
    /// The functions; `None` if this process does not export them.
    pub fn get() -> Option<&'static Self> {
        static UV: OnceLock<Option<Uv>> = OnceLock::new();
        UV.get_or_init(|| Self::find().filter(Self::is_version_1)).as_ref()
    }

    fn is_version_1(&self) -> bool {
        // SAFETY: it only returns a number: major, minor and patch.
        unsafe { (self.version)() >> 16 == 1 }
    }
}

/// A function that the process exports.
///
/// Windows would need `GetProcAddress`, and sockets a different call. Neither
/// could be tried, so stores use the thread there.
pub fn symbol(name: &CStr) -> Option<NonNull<c_void>> {
    #[cfg(unix)]
    {
        // SAFETY: the name ends with a NUL.
        NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
    }
    #[cfg(not(unix))]
    {
        let _ = name;
        None
    }
}

/// Runs its closure when the last handle that has it is closed.
pub struct Closed(Option<Box<dyn FnOnce()>>);

impl Closed {
    pub fn new(done: impl FnOnce() + 'static) -> Rc<Self> {
        Rc::new(Self(Some(Box::new(done))))
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done();
        }
    }
}

/// A handle, unreferenced: it does not keep the process alive. Dropping it closes
/// it; libuv needs its memory until then, and a turn longer.
///
/// The pointer makes it `!Send`, so it stays on its loop's thread.
struct Handle {
    uv: &'static Uv,
    raw: Raw,
}

/// A handle's memory, and what its events call. It is freed when the handle is
/// closed.
struct Memory {
    handle: Box<[u64]>,
    on_event: Box<dyn Fn(c_int, c_int)>,
    _closed: Rc<Closed>,
}

impl Handle {
    /// `init` must initialize the handle for this thread's loop, or fail.
    fn new(
        uv: &'static Uv,
        kind: c_int,
        closed: &Rc<Closed>,
        on_event: impl Fn(c_int, c_int) + 'static,
        init: impl FnOnce(Raw) -> c_int,
    ) -> io::Result<Self> {
        // SAFETY: it only returns a number.
        let size = unsafe { (uv.handle_size)(kind) };
        let mut memory = Box::new(Memory {
            handle: vec![0; size.div_ceil(size_of::<u64>())].into_boxed_slice(),
            on_event: Box::new(on_event),
            _closed: Rc::clone(closed),
        });
        let raw: Raw = memory.handle.as_mut_ptr().cast();
        check(init(raw))?;
        // SAFETY: the handle is initialized. Its data is this memory, which
        // `on_closed` frees.
        unsafe {
            (uv.set_data)(raw, Box::into_raw(memory).cast());
            (uv.unref)(raw);
        }
        Ok(Self { uv, raw })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is open: only its one owner closes it, here.
        unsafe { (self.uv.close)(self.raw, on_closed) };
    }
}

/// The memory of an open handle.
///
/// # Safety
///
/// `raw` is a handle that `Handle::new` made and whose `on_closed` has not run.
unsafe fn memory_of(raw: Raw) -> *mut Memory {
    let get_data = Uv::get().map(|uv| uv.get_data);
    // SAFETY: the handle exists, by this function's condition.
    get_data.map_or(std::ptr::null_mut(), |get_data| unsafe { get_data(raw) }.cast())
}

unsafe extern "C" fn on_closed(raw: Raw) {
    // SAFETY: libuv calls this once, and does not use the handle afterwards.
    unsafe { drop(Box::from_raw(memory_of(raw))) };
}

unsafe extern "C" fn on_event(raw: Raw) {
    // SAFETY: libuv calls this for an open handle, with nothing else.
    unsafe { on_poll(raw, 0, 0) };
}

unsafe extern "C" fn on_poll(raw: Raw, status: c_int, events: c_int) {
    // SAFETY: libuv calls this for an open handle. If the closure closes it, its
    // memory is freed in a later turn. The closure does not unwind: see
    // `event_loop`, whose closures catch panics.
    unsafe { ((*memory_of(raw)).on_event)(status, events) };
}

fn check(status: c_int) -> io::Result<()> {
    // libuv's errors are negated error numbers on Unix.
    if status < 0 {
        return Err(io::Error::from_raw_os_error(-status));
    }
    Ok(())
}

/// Calls back before the loop waits for events, in this turn or the next, and in
/// each turn until it is stopped. Meanwhile the loop does not wait.
pub struct Soon(Handle);

impl Soon {
    pub fn new(uv: &'static Uv, at: LoopPointer, closed: &Rc<Closed>, run: impl Fn() + 'static) -> io::Result<Self> {
        // SAFETY: a live loop of this thread, and memory of the handle's size.
        let init = |raw| unsafe { (uv.idle_init)(at.0.as_ptr(), raw) };
        Handle::new(uv, IDLE, closed, move |_, _| run(), init).map(Self)
    }

    pub fn start(&self) {
        // SAFETY: the handle is open, as long as it has an owner.
        unsafe { (self.0.uv.idle_start)(self.0.raw, on_event) };
    }

    pub fn stop(&self) {
        // SAFETY: as above.
        unsafe { (self.0.uv.idle_stop)(self.0.raw) };
    }
}

/// Calls back once after a time.
pub struct Timer(Handle);

impl Timer {
    pub fn new(uv: &'static Uv, at: LoopPointer, closed: &Rc<Closed>, run: impl Fn() + 'static) -> io::Result<Self> {
        // SAFETY: a live loop of this thread, and memory of the handle's size.
        let init = |raw| unsafe { (uv.timer_init)(at.0.as_ptr(), raw) };
        Handle::new(uv, TIMER, closed, move |_, _| run(), init).map(Self)
    }

    /// Replaces the earlier time, if it has not come yet.
    pub fn start(&self, after: Duration) {
        let millis = u64::try_from(after.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        // SAFETY: the handle is open, as long as it has an owner.
        unsafe { (self.0.uv.timer_start)(self.0.raw, on_event, millis, 0) };
    }
}

/// Calls back on the loop's thread when another thread asks for it.
pub struct Alarm(Handle);

/// Asks for it. It must not be used after its [`Alarm`] was dropped.
pub struct Bell {
    uv: &'static Uv,
    raw: Raw,
}

// SAFETY: `uv_async_send` may be called on any thread.
unsafe impl Send for Bell {}

impl Alarm {
    pub fn new(uv: &'static Uv, at: LoopPointer, closed: &Rc<Closed>, run: impl Fn() + 'static) -> io::Result<Self> {
        // SAFETY: a live loop of this thread, and memory of the handle's size.
        let init = |raw| unsafe { (uv.async_init)(at.0.as_ptr(), raw, on_event) };
        Handle::new(uv, ASYNC, closed, move |_, _| run(), init).map(Self)
    }

    pub fn bell(&self) -> Bell {
        Bell {
            uv: self.0.uv,
            raw: self.0.raw,
        }
    }
}

impl Bell {
    /// # Safety
    ///
    /// The [`Alarm`] exists.
    pub unsafe fn ring(&self) {
        // SAFETY: the handle is open, by this function's condition.
        unsafe { (self.uv.async_send)(self.raw) };
    }
}

/// Calls back when a socket can be read from or written to, as long as that is so.
pub struct Poll(Handle);

/// What a [`Poll`] has seen.
#[derive(Clone, Copy)]
pub struct Readiness {
    pub readable: bool,
    pub writable: bool,
}

impl Poll {
    /// The descriptor must stay open until this is dropped.
    pub fn new(
        uv: &'static Uv,
        at: LoopPointer,
        closed: &Rc<Closed>,
        descriptor: c_int,
        run: impl Fn(Readiness) + 'static,
    ) -> io::Result<Self> {
        // SAFETY: a live loop of this thread, and memory of the handle's size.
        let init = |raw| unsafe { (uv.poll_init)(at.0.as_ptr(), raw, descriptor) };
        let on_event = move |status: c_int, events: c_int| {
            // A failed poll is stopped. Reading and writing then show why.
            let failed = status < 0;
            run(Readiness {
                readable: failed || events & READABLE != 0,
                writable: failed || events & WRITABLE != 0,
            });
        };
        Handle::new(uv, POLL, closed, on_event, init).map(Self)
    }

    /// Watches for data, for room to write, for both or for nothing.
    pub fn watch(&self, readable: bool, writable: bool) -> io::Result<()> {
        let events = if readable { READABLE } else { 0 } | if writable { WRITABLE } else { 0 };
        // SAFETY: the handle is open, as long as it has an owner.
        check(unsafe { (self.0.uv.poll_start)(self.0.raw, events, on_poll) })
    }
}
