//! The event loop of an environment, for the stores that run on it.
//!
//! Its functions are those of Node.js only, so they are looked up; see
//! [`crate::host`].

use super::guard::guard;
use super::js::Js;
use super::lane::Lane;
use super::text::Text;
use crate::host::{Embedder, Host, Loop, LoopPointer, looked_up};
use napi::sys;
use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Set to `thread`, it keeps all stores off the event loop.
const VARIABLE: &str = "FEDIFY_KV_HOST";

/// Deliveries that take longer than this go on after other events.
const TURN: Duration = Duration::from_millis(1);

/// How many promises are settled before their continuations run. The time that
/// those take counts, too.
const SCOPE: usize = 64;

/// The environment's loop, made when the first store asks for it.
#[derive(Default)]
pub struct EventLoop {
    host: OnceCell<Option<Arc<Loop>>>,
    lanes: Rc<RefCell<Vec<Weak<Lane>>>>,
}

impl EventLoop {
    /// Where stores of this environment answer operations on single keys.
    pub fn host(&self, js: Js) -> Host {
        let event_loop = self.host.get_or_init(|| {
            let wanted = std::env::var_os(VARIABLE).is_none_or(|host| host != "thread");
            (wanted && js.is_node()).then(|| self.begin(js)).flatten()
        });
        event_loop.clone().map_or(Host::Thread, Host::Loop)
    }

    /// Has news of this lane delivered after turns of the loop.
    pub fn add(&self, lane: &Rc<Lane>) {
        let mut lanes = self.lanes.borrow_mut();
        lanes.retain(|lane| lane.strong_count() > 0);
        lanes.push(Rc::downgrade(lane));
    }

    fn begin(&self, js: Js) -> Option<Arc<Loop>> {
        let node = Node::find()?;
        let at = LoopPointer(node.event_loop(js)?);
        let scope = CallbackScope::new(js)?;
        let lanes = Rc::clone(&self.lanes);
        let deliver = move || {
            let begin = Instant::now();
            let with_news = || -> Vec<_> {
                let lanes = lanes.borrow();
                lanes
                    .iter()
                    .filter_map(Weak::upgrade)
                    .filter(|lane| lane.has_news())
                    .collect()
            };
            let mut waiting = with_news();
            while !waiting.is_empty() {
                for lane in waiting {
                    if begin.elapsed() >= TURN {
                        return true;
                    }
                    scope.run(|js| {
                        guard(|| lane.take_news(js, SCOPE));
                    });
                }
                waiting = with_news();
            }
            false
        };
        let hook: Rc<Cell<HookHandle>> = Rc::new(Cell::new(ptr::null_mut()));
        let (added, remove) = (Rc::clone(&hook), node.remove_hook);
        let closed = move || {
            if !hook.get().is_null() {
                // SAFETY: Node.js waits for this call, which comes once, and
                // removes the hook.
                unsafe { remove(hook.get()) };
            }
        };
        let embedder = Embedder {
            deliver: Box::new(deliver),
            closed: Box::new(closed),
        };
        // SAFETY: it is the loop of this environment, on its thread. The hook
        // below ends it before the environment ends.
        let event_loop = unsafe { Loop::new(at, embedder) }?;
        let context = Box::into_raw(Box::new(Arc::clone(&event_loop)));
        let mut handle = ptr::null_mut();
        // SAFETY: the environment is live. The context is freed by the hook, which
        // runs once.
        unsafe { (node.add_hook)(js.env(), on_environment_end, context.cast(), &raw mut handle) };
        added.set(handle);
        Some(event_loop)
    }
}

type HookHandle = *mut c_void;
type Hook = unsafe extern "C" fn(HookHandle, *mut c_void);

looked_up! {
    /// What only Node.js has of Node-API.
    struct Node {
        get_loop: fn(sys::napi_env, *mut *mut c_void) -> sys::napi_status = c"napi_get_uv_event_loop",
        add_hook: fn(sys::napi_env, Hook, *mut c_void, *mut HookHandle) -> sys::napi_status =
            c"napi_add_async_cleanup_hook",
        remove_hook: fn(HookHandle) -> sys::napi_status = c"napi_remove_async_cleanup_hook",
    }
}

impl Node {
    fn event_loop(&self, js: Js) -> Option<NonNull<c_void>> {
        let mut event_loop = ptr::null_mut();
        // SAFETY: the environment is live, and the result is a local.
        unsafe { (self.get_loop)(js.env(), &raw mut event_loop) };
        NonNull::new(event_loop)
    }
}

/// The environment's cleanup hook. Node.js goes on when all handles are closed.
unsafe extern "C" fn on_environment_end(_: HookHandle, context: *mut c_void) {
    // SAFETY: the box that `begin` gave to this hook, which runs once.
    let event_loop = unsafe { Box::from_raw(context.cast::<Arc<Loop>>()) };
    guard(|| event_loop.end());
}

/// Runs code outside of any JavaScript. Afterwards the continuations of promises
/// that were settled run.
struct CallbackScope {
    env: sys::napi_env,
    context: sys::napi_async_context,
}

impl CallbackScope {
    fn new(js: Js) -> Option<Self> {
        let name = js.text(&Text::from("fedify-kv")).ok()?;
        let mut context = ptr::null_mut();
        // SAFETY: the environment is live. Without an object, Node.js makes one.
        unsafe { sys::napi_async_init(js.env(), ptr::null_mut(), name, &raw mut context) };
        (!context.is_null()).then_some(Self { env: js.env(), context })
    }

    fn run(&self, body: impl FnOnce(Js)) {
        // SAFETY: called by the event loop of this environment, which is live until
        // the loop has ended, on its thread.
        let js = unsafe { Js::new(self.env) };
        js.scoped(|| {
            let mut scope = ptr::null_mut();
            // SAFETY: the environment and the context are live.
            unsafe { sys::napi_open_callback_scope(self.env, js.undefined(), self.context, &raw mut scope) };
            body(js);
            js.drop_exception();
            if !scope.is_null() {
                // SAFETY: it was opened above, and is closed once.
                unsafe { sys::napi_close_callback_scope(self.env, scope) };
            }
        });
    }
}

impl Drop for CallbackScope {
    fn drop(&mut self) {
        // SAFETY: the loop drops this at its end, which is before that of the
        // environment.
        unsafe { sys::napi_async_destroy(self.env, self.context) };
    }
}
