//! Connects JavaScript and the stores: arguments become commands, outcomes settle
//! promises, pages become iterator results. It makes no decisions of its own.

mod args;
mod classes;
mod event_loop;
mod guard;
mod handle;
mod intrinsics;
mod js;
mod lane;
mod list;
// A test binary exports nothing.
#[cfg(not(test))]
mod open;
mod options;
mod secret;
mod text;
mod turns;
