//! Keys and prefixes, and their text in stores that use JSON for keys.

use super::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer as _, SeqAccess, Visitor};
use std::fmt;

/// One or more parts. Two keys are equal if all their parts are.
///
/// It holds exactly the text that `JSON.stringify` makes of the parts: the form
/// of keys in several stores, and in messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Calls `body` with each part, for stores that don't use JSON for keys.
    pub fn each_part(&self, body: impl FnMut(&str)) {
        if self.0.contains('\\') {
            each_part(&self.0, body);
        } else {
            // Without escapes, no part contains a quote.
            self.0[2..self.0.len() - 2].split("\",\"").for_each(body);
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Builds a key from its parts.
#[derive(Debug)]
pub struct KeyBuilder(String);

impl Default for KeyBuilder {
    fn default() -> Self {
        // Enough for most of Fedify's keys.
        let mut json = String::with_capacity(96);
        json.push('[');
        Self(json)
    }
}

impl KeyBuilder {
    #[expect(clippy::expect_used, reason = "a string is always JSON")]
    pub fn push(&mut self, part: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        // No early exit, so that the compiler can vectorize the loop.
        let escapes = part.bytes().filter(|byte| *byte < b' ' || matches!(byte, b'"' | b'\\'));
        if escapes.count() > 0 {
            self.0
                .push_str(&serde_json::to_string(part).expect("a string is always JSON"));
        } else {
            self.0.push('"');
            self.0.push_str(part);
            self.0.push('"');
        }
    }

    /// # Errors
    ///
    /// [`Error::InvalidKey`] if there are no parts.
    pub fn key(self) -> Result<Key> {
        self.some()
            .ok_or_else(|| Error::InvalidKey("it must have at least one part".into()))
    }

    /// A prefix of no parts holds all keys.
    pub fn prefix(self) -> Prefix {
        Prefix(self.some())
    }

    fn some(mut self) -> Option<Key> {
        if self.0.len() == 1 {
            return None;
        }
        self.0.push(']');
        Some(Key(self.0))
    }
}

/// Whether a stored text is that of a key.
pub fn is_key_json(text: &str) -> bool {
    each_part(text, |_| {})
}

/// Calls `body` with each part in a key's text, and returns whether the text is
/// a key's. If it is not, `body` may have been called for some parts.
fn each_part(text: &str, body: impl FnMut(&str)) -> bool {
    struct Part<'b, B>(&'b mut B);
    impl<'de, B: FnMut(&str)> DeserializeSeed<'de> for Part<'_, B> {
        type Value = ();
        fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
            d.deserialize_str(self)
        }
    }
    impl<B: FnMut(&str)> Visitor<'_> for Part<'_, B> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_str<E>(self, part: &str) -> std::result::Result<(), E> {
            (self.0)(part);
            Ok(())
        }
    }
    struct Parts<B>(B);
    impl<'de, B: FnMut(&str)> Visitor<'de> for Parts<B> {
        type Value = bool;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of strings")
        }
        fn visit_seq<A: SeqAccess<'de>>(mut self, mut parts: A) -> std::result::Result<bool, A::Error> {
            let mut some = false;
            while parts.next_element_seed(Part(&mut self.0))?.is_some() {
                some = true;
            }
            Ok(some)
        }
    }
    let mut parser = serde_json::Deserializer::from_str(text);
    parser.deserialize_seq(Parts(body)).unwrap_or(false) && parser.end().is_ok()
}

/// The keys that start with some parts, or all keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(Option<Key>);

impl From<Key> for Prefix {
    fn from(key: Key) -> Self {
        Self(Some(key))
    }
}

impl Prefix {
    pub const ALL: Self = Self(None);

    /// The parts as a key, or `None` for all keys.
    pub fn key(&self) -> Option<&Key> {
        self.0.as_ref()
    }

    /// The first and last text of any key under this prefix, or `None` for all.
    ///
    /// Under `["a"]`, a key's text continues after `["a"` with `,` or `]`, and
    /// `,` sorts before `]`. So one range holds the children and then the key
    /// itself, and nothing else.
    pub fn json_range(&self) -> Option<(String, String)> {
        let last = self.0.as_ref()?.as_json();
        let first = format!("{},", &last[..last.len() - 1]);
        Some((first, last.to_owned()))
    }

    /// Whether a key's text falls under this prefix.
    pub fn contains_json(&self, key: &str) -> bool {
        let Some(parts) = &self.0 else { return true };
        let parts = parts.as_json();
        let rest = key.strip_prefix(&parts[..parts.len() - 1]);
        rest.is_some_and(|rest| rest.starts_with([',', ']']))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(parts: &[&str]) -> KeyBuilder {
        let mut builder = KeyBuilder::default();
        for part in parts {
            builder.push(part);
        }
        builder
    }

    fn key(parts: &[&str]) -> Key {
        built(parts).key().unwrap()
    }

    #[test]
    fn no_parts_are_no_key() {
        assert!(built(&[]).key().is_err());
        assert_eq!(built(&[]).prefix(), Prefix::ALL);
    }

    #[test]
    fn text_is_what_json_stringify_writes() {
        assert_eq!(
            key(&["a", "\"\\\n\u{1f}\u{7f}é😀"]).as_json(),
            "[\"a\",\"\\\"\\\\\\n\\u001f\u{7f}é😀\"]"
        );
        assert_eq!(key(&["\u{8}\u{c}\r\t/"]).as_json(), r#"["\b\f\r\t/"]"#);
    }

    #[test]
    fn parts_come_back_as_they_were() {
        let parts = ["", "a,b", "\"\\\n\u{1f}é😀", "[\"x\"]"];
        let mut shown = Vec::new();
        key(&parts).each_part(|part| shown.push(part.to_owned()));
        assert_eq!(shown, parts);
    }

    #[test]
    fn a_prefix_holds_itself_and_whole_part_extensions() {
        let prefix = built(&["a", "b"]).prefix();
        for inside in [
            &["a", "b"][..],
            &["a", "b", ""],
            &["a", "b", "c", "d"],
            &["a", "b", "\u{10ffff}"],
        ] {
            assert!(prefix.contains_json(key(inside).as_json()), "{inside:?}");
        }
        for outside in [
            &["a"][..],
            &["a", "bc"],
            &["a", "b,"],
            &["a", "b\""],
            &["A", "b"],
            &["a", ""],
            &["a,b"],
        ] {
            assert!(!prefix.contains_json(key(outside).as_json()), "{outside:?}");
        }
    }

    #[test]
    fn stored_keys_are_recognized() {
        for good in [r#"["a"]"#, r#"["",""]"#, r#"["\u00e9\n"]"#] {
            assert!(is_key_json(good), "{good}");
        }
        for bad in [
            "",
            "[]",
            "null",
            r#"["a",1]"#,
            r#""a""#,
            r#"["a"]x"#,
            r#"["a"#,
            r#"[["a"]]"#,
        ] {
            assert!(!is_key_json(bad), "{bad}");
        }
    }
}
