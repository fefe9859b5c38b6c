//! A panic must not unwind into JavaScript: the process would abort.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body`; `None` if it panicked. What it changed by then is left as it
/// is, which for everything here means an operation that never settles at worst.
pub fn guard<T>(body: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(body)).ok()
}
