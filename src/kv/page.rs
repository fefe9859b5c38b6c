//! Pages: how a list leaves a store.

use super::{JsonText, Result, key::is_key_json};
use futures::future::BoxFuture;

/// Bounds of one page. Whichever is reached first ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    pub entries: u32,
    pub bytes: usize,
}

impl Default for PageLimits {
    /// Measured: larger pages stream no faster and cost memory.
    fn default() -> Self {
        Self {
            entries: 64,
            bytes: 32 * 1024,
        }
    }
}

/// Consecutive entries as one JSON array of the steps that an async iterator
/// yields: a page is parsed once, and its elements are handed out as they are.
#[derive(Debug, Default)]
pub struct Page {
    steps: String,
    entries: u32,
    skipped: u32,
    last: bool,
}

impl Page {
    /// Adds an entry whose texts are known to be JSON.
    pub fn push(&mut self, key: &str, value: &str) {
        self.steps.push(if self.entries == 0 { '[' } else { ',' });
        self.steps.push_str(r#"{"value":{"key":"#);
        self.steps.push_str(key);
        self.steps.push_str(r#","value":"#);
        self.steps.push_str(value);
        self.steps.push_str(r#"},"done":false}"#);
        self.entries += 1;
    }

    /// Adds an entry as an engine returned it. One that is not what the format
    /// says is skipped and counted: it must not hide the others, and unchecked
    /// text could pass for entries that were never stored.
    pub fn push_unchecked(&mut self, key: Option<&str>, value: Option<&str>) {
        match (key, value) {
            (Some(key), Some(value)) if is_key_json(key) && JsonText::is_valid(value) => self.push(key, value),
            _ => self.skipped += 1,
        }
    }

    /// Whether the page has reached a limit.
    pub fn is_full(&self, limits: PageLimits) -> bool {
        self.entries + self.skipped >= limits.entries || self.steps.len() >= limits.bytes
    }

    /// Says that no page follows.
    pub fn end(mut self) -> Self {
        self.last = true;
        self
    }

    pub fn entries(&self) -> u32 {
        self.entries
    }

    pub fn skipped(&self) -> u32 {
        self.skipped
    }

    pub fn is_last(&self) -> bool {
        self.last
    }

    /// The JSON array; empty text for no entries.
    pub fn into_steps(mut self) -> String {
        if self.entries > 0 {
            self.steps.push(']');
        }
        self.steps
    }
}

/// A list under way: it remembers where it is. Dropping it ends the list.
pub trait Pages: Send {
    /// The first page, if it can be had on the calling thread at the cost of a
    /// few single reads. Called at most once, before anything else.
    fn first_page_now(&mut self) -> Option<Page> {
        None
    }

    /// The next page. Not called again after the last one or an error.
    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_one_json_array() {
        let mut page = Page::default();
        assert_eq!(Page::default().into_steps(), "");
        page.push(r#"["a"]"#, "1");
        page.push_unchecked(Some(r#"["b"]"#), Some("{}"));
        assert_eq!(
            page.into_steps(),
            r#"[{"value":{"key":["a"],"value":1},"done":false},{"value":{"key":["b"],"value":{}},"done":false}]"#
        );
    }

    #[test]
    fn what_is_not_json_is_counted_not_forged() {
        let mut page = Page::default();
        for value in [
            "",
            "1,2",
            r#"1},"done":false},{"value":{"key":["x"],"value":2"#,
            r#"1,"x":2"#,
        ] {
            page.push_unchecked(Some(r#"["a"]"#), Some(value));
        }
        page.push_unchecked(Some("a"), Some("1"));
        page.push_unchecked(None, Some("1"));
        assert_eq!((page.entries(), page.skipped()), (0, 6));
    }

    #[test]
    fn a_page_is_bounded_by_count_and_by_bytes() {
        let limits = PageLimits { entries: 2, bytes: 100 };
        let mut page = Page::default();
        assert!(!page.is_full(limits));
        page.push(r#"["a"]"#, "1");
        assert!(!page.is_full(limits));
        page.push_unchecked(Some(""), None);
        assert!(page.is_full(limits));
        let mut page = Page::default();
        page.push(r#"["a"]"#, &format!("\"{}\"", "x".repeat(100)));
        assert!(page.is_full(limits));
    }
}
