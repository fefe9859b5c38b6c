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

/// Consecutive entries as one JSON array of keys and values in turn: a page is
/// parsed once.
///
/// Values from an engine are not checked before that. One that is not JSON
/// shows: the page has no parse, or another length than it should. Then, and
/// only then, [`Page::checked`] looks at each.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    /// Where each entry's key and value end.
    ends: Vec<(usize, usize)>,
    skipped: u32,
    last: bool,
}

impl Page {
    /// Adds an entry whose texts are known to be JSON.
    pub fn push(&mut self, key: &str, value: &str) {
        self.text.push(if self.text.is_empty() { '[' } else { ',' });
        self.text.push_str(key);
        let key_end = self.text.len();
        self.text.push(',');
        self.text.push_str(value);
        self.ends.push((key_end, self.text.len()));
    }

    /// Adds an entry as an engine returned it. One that is not what the format
    /// says is skipped and counted, here or after the parse: it must not hide
    /// the others.
    pub fn push_unchecked(&mut self, key: Option<&str>, value: Option<&str>) {
        match (key, value) {
            (Some(key), Some(value)) if is_key_json(key) => self.push(key, value),
            _ => self.skipped += 1,
        }
    }

    /// The page without the entries whose values are not JSON.
    pub fn checked(&self) -> Self {
        let mut checked = Self {
            skipped: self.skipped,
            last: self.last,
            ..Self::default()
        };
        let mut start = 1;
        for (key_end, value_end) in &self.ends {
            let (key, value) = (&self.text[start..*key_end], &self.text[key_end + 1..*value_end]);
            if JsonText::is_valid(value) {
                checked.push(key, value);
            } else {
                checked.skipped += 1;
            }
            start = value_end + 1;
        }
        checked
    }

    /// Whether the page has reached a limit.
    pub fn is_full(&self, limits: PageLimits) -> bool {
        self.entries() + self.skipped >= limits.entries || self.text.len() >= limits.bytes
    }

    /// Says that no page follows.
    pub fn end(mut self) -> Self {
        self.last = true;
        self
    }

    pub fn entries(&self) -> u32 {
        u32::try_from(self.ends.len()).unwrap_or(u32::MAX)
    }

    pub fn skipped(&self) -> u32 {
        self.skipped
    }

    pub fn is_last(&self) -> bool {
        self.last
    }

    /// The JSON array.
    pub fn json(&self) -> String {
        let mut json = String::with_capacity(self.text.len() + 2);
        json.push_str(if self.text.is_empty() { "[" } else { &self.text });
        json.push(']');
        json
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
    fn keys_and_values_are_one_json_array() {
        let mut page = Page::default();
        assert_eq!(page.json(), "[]");
        page.push(r#"["a"]"#, "1");
        page.push_unchecked(Some(r#"["b"]"#), Some("{}"));
        assert_eq!(page.json(), r#"[["a"],1,["b"],{}]"#);
        assert_eq!(page.checked().json(), page.json());
    }

    #[test]
    fn what_is_not_json_is_counted_not_forged() {
        let mut page = Page::default();
        page.push_unchecked(Some("a"), Some("1"));
        page.push_unchecked(None, Some("1"));
        page.push_unchecked(Some(r#"["é"]"#), Some(r#""é""#));
        for value in ["", "1,2", r#"1],[["x"],2"#, r#"1,["x"],2"#, "\"x"] {
            page.push_unchecked(Some(r#"["a"]"#), Some(value));
        }
        page.push_unchecked(Some(r#"["z"]"#), Some("0"));
        let checked = page.end().checked();
        assert_eq!(checked.json(), r#"[["é"],"é",["z"],0]"#);
        assert_eq!((checked.entries(), checked.skipped(), checked.is_last()), (2, 7, true));
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
