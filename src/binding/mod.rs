//! The way between JavaScript and the stores. It decides nothing: arguments
//! become commands, outcomes become settled promises, pages become steps.

mod args;
mod classes;
mod guard;
mod handle;
mod intrinsics;
mod js;
mod lane;
mod list;
// Nothing is exported from a test binary.
#[cfg(not(test))]
mod open;
mod options;
mod text;
