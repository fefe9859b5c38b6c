//! The page at hand: an array of a key, a value and the page's mark for each
//! entry, and how far it has been given out.

use crate::binding::js::{Js, Ref, Value};
use crate::binding::text::Text;
use crate::kv::Page;

pub struct Entries {
    page: Ref,
    next: u32,
    length: u32,
}

impl Entries {
    /// Parses a page; `None` if it has no entries. Also returns how many
    /// entries it had that could not be read.
    pub fn read(js: Js, page: &Page, text: Text) -> (Option<Self>, u32) {
        if page.entries() == 0 {
            return (None, page.skipped());
        }
        if let Some(array) = js.parse_page(&text, page.entries(), page.mark()) {
            return (Some(Self::new(js, array, page.entries())), page.skipped());
        }
        // An entry that is not JSON must not hide the others, and the whole
        // page may be longer than a string can be.
        let text = text.into_string();
        let mut elements = Vec::new();
        let mut unread = 0;
        for (key, value) in page.texts(&text) {
            match (js.parse(key), js.parse(value)) {
                (Some(key), Some(value)) => elements.extend([key, value, js.undefined()]),
                _ => unread += 1,
            }
        }
        let length = page.entries() - unread;
        let array = js.array(&elements).ok().filter(|_| length > 0);
        let entries = array.map(|array| Self::new(js, array, length));
        (entries, page.skipped() + unread)
    }

    fn new(js: Js, array: Value, length: u32) -> Self {
        Self {
            page: js.keep(array),
            next: 0,
            length,
        }
    }

    /// The page and the index of its next entry. There must be one.
    pub fn take(&mut self, js: Js) -> (Value, u32) {
        let index = self.next;
        self.next += 1;
        (js.kept(&self.page), index)
    }

    pub fn is_empty(&self) -> bool {
        self.next == self.length
    }
}
