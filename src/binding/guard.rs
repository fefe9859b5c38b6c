//! A panic must not unwind into JavaScript: the process would abort.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body`; `None` if it panicked. The caller then says what becomes of the
/// operation: every promise settles.
pub fn guard<T>(body: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(body)).ok()
}

/// Runs `body` for each item. One that panics takes no other along.
pub fn guard_each<T>(items: impl IntoIterator<Item = T>, mut body: impl FnMut(T)) {
    for item in items {
        guard(|| body(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_takes_no_other_item_along() {
        let mut done = Vec::new();
        guard_each(0..5, |item| {
            assert_ne!(item, 2, "this one panics");
            done.push(item);
        });
        assert_eq!(done, [0, 1, 3, 4]);
    }
}
