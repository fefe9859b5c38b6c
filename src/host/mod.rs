//! Where futures run: on Node.js' own event loop ([`Loop`]), or on a thread of the
//! store ([`thread`]).
//!
//! A call that comes alone is answered sooner on the event loop, because no other
//! thread has to be woken. What takes long runs on the thread, so that it never
//! holds up the event loop. Runtimes without libuv have only the thread.
//!
//! Code that may run on both uses the functions of this module: they take timers
//! and tasks from the host that runs the caller.

mod event_loop;
mod socket;
mod task;
pub mod thread;
mod time;
mod uv;

pub use event_loop::{Embedder, Loop};
pub use socket::{Socket, Watch};
pub use task::{Task, on_host, on_loop, spawn, yield_now};
pub use thread::Bulk;
pub use time::{sleep, sleep_until, timeout, timeout_at};
pub(crate) use uv::looked_up;
pub use uv::{LoopPointer, symbol};

use std::sync::Arc;

/// Where a store answers operations on single keys.
#[derive(Clone)]
pub enum Host {
    Loop(Arc<Loop>),
    Thread,
}

impl Host {
    /// Where a store on this host does what is too long for the event loop. The name
    /// is for the thread.
    pub fn bulk(&self, name: &'static str) -> Bulk {
        match self {
            Self::Loop(_) => Bulk::On(Arc::default(), name),
            Self::Thread => Bulk::Here,
        }
    }
}
