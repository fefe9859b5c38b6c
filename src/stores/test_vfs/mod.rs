//! A SQLite VFS for tests. It stands before the native one and passes each call
//! on. For the databases that a test watches it also records writes and syncs,
//! and lets the test make a call fail or wait ([`Disk`]). From the record, the
//! files can be built as a power loss or a kill would have left them
//! ([`Replay`]).

mod disk;
mod replay;
mod vfs;

pub use disk::{Action, Active, Call, Change, Disk, Event, Kind, Method, When};
pub use replay::Replay;
