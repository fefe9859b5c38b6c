//! A panic must not unwind into JavaScript: the process would abort.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body`; `None` if it panicked. The caller must then settle the
/// operation's promise.
pub fn guard<T>(body: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(body)).ok()
}

/// Runs `body` for each item. If it panics for one, the others still run.
pub fn guard_each<T>(items: impl IntoIterator<Item = T>, mut body: impl FnMut(T)) {
    for item in items {
        guard(|| body(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_items_run_after_a_panic() {
        let mut done = Vec::new();
        guard_each(0..5, |item| {
            assert_ne!(item, 2, "this one panics");
            done.push(item);
        });
        assert_eq!(done, [0, 1, 3, 4]);
    }
}
