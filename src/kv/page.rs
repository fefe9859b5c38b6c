//! Pages: how a list leaves a store.

use super::{Result, key::is_key_json};
use futures::future::BoxFuture;
use std::hash::{BuildHasher, Hasher, RandomState};

/// The limits of one page. It ends at the first that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    pub entries: u32,
    pub bytes: usize,
}

impl Default for PageLimits {
    /// Larger pages were measured: they are no faster and take more memory.
    fn default() -> Self {
        Self {
            entries: 64,
            bytes: 32 * 1024,
        }
    }
}

/// Consecutive entries as one JSON array, so that a page is parsed with one
/// call. Each entry is three elements: its key, its value and the page's mark.
///
/// Values from an engine are not checked before the parse. The mark is a random
/// number that the writers of values cannot know, so values that are not JSON
/// cannot combine into other entries: after the parse, the array has the wrong
/// length, or something else where a mark should be. The reader of the page then
/// parses the texts of each entry separately.
#[derive(Debug)]
pub struct Page {
    text: String,
    mark: u32,
    /// Where each entry's key and value end in the text.
    ends: Vec<(usize, usize)>,
    skipped: u32,
    last: bool,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            text: String::new(),
            mark: random_mark(),
            ends: Vec::new(),
            skipped: 0,
            last: false,
        }
    }
}

/// Nine digits: JavaScript engines keep such a number without allocating.
fn random_mark() -> u32 {
    // A hasher's random keys, which the standard library draws once a thread
    // and changes for each hasher.
    let random = RandomState::new().build_hasher().finish() % 900_000_000;
    100_000_000 + u32::try_from(random).unwrap_or(0)
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
        self.text.push(',');
        self.text.push_str(itoa::Buffer::new().format(self.mark));
    }

    /// Adds an entry as an engine returned it. If its key is not the JSON of a key,
    /// or its value is not text, it is skipped and counted. Whether the value is
    /// JSON is found out when the page is parsed.
    pub fn push_unchecked(&mut self, key: Option<&str>, value: Option<&str>) {
        match (key, value) {
            (Some(key), Some(value)) if is_key_json(key) => self.push(key, value),
            _ => self.skipped += 1,
        }
    }

    /// Whether the page has reached a limit.
    pub fn is_full(&self, limits: PageLimits) -> bool {
        self.entries() + self.skipped >= limits.entries || self.text.len() >= limits.bytes
    }

    /// Marks the page as the last one.
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

    /// The number that follows each entry in the array.
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// Takes the JSON array out, without a copy.
    pub fn take_json(&mut self) -> String {
        let mut json = std::mem::take(&mut self.text);
        if json.is_empty() {
            json.push('[');
        }
        json.push(']');
        json
    }

    /// The texts of each entry's key and value in the array that
    /// [`Page::take_json`] returned.
    pub fn texts<'a>(&'a self, json: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let after_mark = ",".len() + itoa::Buffer::new().format(self.mark).len() + ",".len();
        let starts = self.ends.iter().map(move |(_, value_end)| value_end + after_mark);
        std::iter::once("[".len())
            .chain(starts)
            .zip(&self.ends)
            .map(|(start, (key_end, value_end))| (&json[start..*key_end], &json[key_end + 1..*value_end]))
    }
}

/// A list in progress, with its position. Dropping it ends the list.
pub trait Pages: Send {
    /// The first page, if reading it on the calling thread costs no more than a
    /// few reads of single keys. Called at most once, before anything else.
    fn first_page_now(&mut self) -> Option<Page> {
        None
    }

    /// The next page. Not called again after the last one or an error.
    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries of a page that parses, as the binding reads it: every third
    /// element is the mark.
    fn parsed(page: &mut Page) -> Option<Vec<serde_json::Value>> {
        let array: Vec<serde_json::Value> = serde_json::from_str(&page.take_json()).ok()?;
        let marked = array.iter().skip(2).step_by(3).all(|element| *element == page.mark());
        (array.len() == 3 * page.entries() as usize && marked).then_some(array)
    }

    #[test]
    fn keys_values_and_marks_are_one_json_array() {
        let mut page = Page::default();
        assert_eq!(page.take_json(), "[]");
        page.push(r#"["a"]"#, "1");
        page.push_unchecked(Some(r#"["é"]"#), Some("{}"));
        let mark = page.mark();
        let json = page.take_json();
        assert_eq!(json, format!(r#"[["a"],1,{mark},["é"],{{}},{mark}]"#));
        let texts: Vec<_> = page.texts(&json).collect();
        assert_eq!(texts, [(r#"["a"]"#, "1"), (r#"["é"]"#, "{}")]);
    }

    #[test]
    fn what_is_no_entry_is_skipped_and_counted() {
        let mut page = Page::default();
        page.push_unchecked(Some("a"), Some("1"));
        page.push_unchecked(None, Some("1"));
        page.push_unchecked(Some(r#"["a"]"#), None);
        let page = page.end();
        assert_eq!((page.entries(), page.skipped(), page.is_last()), (0, 3, true));
    }

    #[test]
    fn values_that_are_not_json_never_combine() {
        let pieces = [
            "",
            " ",
            "1",
            ",",
            "1,2",
            "[",
            "]",
            "1,[2",
            "3]",
            "],[",
            "] , [",
            "{",
            "}",
            "\"",
            "\\",
            "\"x",
            "x\"",
            "1],[[\"x\"],2",
            "1,[\"x\"],2",
            "1,100000000,[\"x\"],2",
            "{\"a\":1",
            "1}",
            "/*",
            "*/",
            "\0",
        ];
        for first in pieces {
            for second in pieces {
                for third in pieces {
                    let mut page = Page::default();
                    for value in [first, second, third] {
                        page.push(r#"["k"]"#, value);
                    }
                    let valid = [first, second, third].iter().all(|value| *value == "1");
                    assert_eq!(parsed(&mut page).is_some(), valid, "{first:?} {second:?} {third:?}");
                }
            }
        }
    }

    #[test]
    fn marks_differ() {
        let marks: std::collections::HashSet<u32> = (0..100).map(|_| Page::default().mark()).collect();
        assert!(marks.len() > 90);
        assert!(marks.iter().all(|mark| (100_000_000..1_000_000_000).contains(mark)));
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
