//! Values: JSON text that is stored as it is, and compared by meaning.

use super::{Error, Key, Result};
use serde::de::{Deserializer as _, IgnoredAny, Visitor};

/// A value as JSON text. It comes from `JSON.stringify` or from an engine; in
/// the second case it may not be JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(String);

impl JsonText {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0
    }

    /// Whether both are the same value. The order of an object's keys and the
    /// spelling of numbers and strings do not count.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] naming `key` when `stored` is not JSON.
    pub fn means(&self, stored: &str, key: &Key) -> Result<bool> {
        if self.0 == stored {
            return Ok(true);
        }
        if serde_json::from_str::<IgnoredAny>(stored).is_err() {
            return Err(Error::Corrupt(format!("the value of {key} is not JSON")));
        }
        Ok(canonical(&self.0) == canonical(stored))
    }
}

/// Bytes that are equal if and only if the values are.
///
/// The text must be valid. There is no recursion, because other writers may
/// store values of any depth. It does not use `serde_json::Value`, because
/// strings may contain lone surrogates.
#[expect(clippy::expect_used, reason = "the text is valid JSON")]
fn canonical(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut open: Vec<Container> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => {
                open.push(Container {
                    start: out.len(),
                    object: bytes[at] == b'{',
                    members: Vec::new(),
                });
                out.push(bytes[at]);
                if bytes[at] == b'{' {
                    open.last_mut().expect("just pushed").members.push(out.len());
                }
            }
            b'}' | b']' => {
                let container = open.pop().expect("valid JSON closes what it opened");
                if container.object {
                    sort_members(&mut out, &container);
                }
                out.push(bytes[at]);
            }
            b',' => {
                if let Some(container) = open.last_mut().filter(|container| container.object) {
                    container.members.push(out.len());
                }
            }
            b':' | b' ' | b'\t' | b'\n' | b'\r' => {}
            b'"' => {
                let end = string_end(bytes, at);
                let content = string_content(&text[at..end]);
                out.push(b'"');
                out.extend_from_slice(&(content.len() as u64).to_be_bytes());
                out.extend_from_slice(&content);
                at = end;
                continue;
            }
            first @ (b't' | b'f' | b'n') => {
                out.push(first);
                at += if first == b'f' { 5 } else { 4 };
                continue;
            }
            _ => {
                let end = bytes[at..]
                    .iter()
                    .position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
                    .map_or(bytes.len(), |length| at + length);
                // As JavaScript reads it: a double, infinite when too large.
                let number: f64 = text[at..end].parse().expect("valid JSON numbers are Rust's too");
                out.push(b'#');
                // Adding zero makes -0 equal to 0.
                out.extend_from_slice(&(number + 0.0).to_bits().to_be_bytes());
                at = end;
                continue;
            }
        }
        at += 1;
    }
    out
}

struct Container {
    start: usize,
    object: bool,
    /// Where each member starts in the output.
    members: Vec<usize>,
}

/// Sorts an object's members by name. Of equal names the last one counts.
fn sort_members(out: &mut Vec<u8>, object: &Container) {
    let ends = object.members.iter().skip(1).copied().chain([out.len()]);
    let mut members: Vec<&[u8]> = object
        .members
        .iter()
        .zip(ends)
        .filter(|(start, end)| *start < end)
        .map(|(start, end)| &out[*start..end])
        .collect();
    if members.is_sorted_by(|a, b| member_name(a) < member_name(b)) {
        return;
    }
    members.sort_by_key(|member| member_name(member));
    let kept: Vec<&[u8]> = members
        .chunk_by(|a, b| member_name(a) == member_name(b))
        .filter_map(|same| same.last().copied())
        .collect();
    let sorted = kept.concat();
    out.truncate(object.start + 1);
    out.extend_from_slice(&sorted);
}

#[expect(clippy::expect_used, reason = "`canonical` wrote the name and its length")]
fn member_name(member: &[u8]) -> &[u8] {
    let (length, rest) = member[1..].split_first_chunk().expect("a name starts with its length");
    let length = usize::try_from(u64::from_be_bytes(*length)).expect("it was a length in memory");
    &rest[..length]
}

/// The index after the closing quote of the string that starts at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// The content of a string literal. A lone surrogate becomes three bytes.
#[expect(clippy::expect_used, reason = "the text is valid JSON")]
fn string_content(literal: &str) -> Vec<u8> {
    struct Content;
    impl Visitor<'_> for Content {
        type Value = Vec<u8>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a string")
        }
        fn visit_bytes<E>(self, content: &[u8]) -> std::result::Result<Vec<u8>, E> {
            Ok(content.to_vec())
        }
    }
    if !literal.contains('\\') {
        return literal[1..literal.len() - 1].into();
    }
    serde_json::Deserializer::from_str(literal)
        .deserialize_bytes(Content)
        .expect("the text is valid JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KeyBuilder;

    fn key() -> Key {
        let mut builder = KeyBuilder::default();
        builder.push("k");
        builder.key().unwrap()
    }

    fn same(a: &str, b: &str) -> bool {
        let key = key();
        let answer = JsonText::new(a.into()).means(b, &key).unwrap();
        assert_eq!(answer, JsonText::new(b.into()).means(a, &key).unwrap(), "{a} {b}");
        answer
    }

    #[test]
    fn spelling_and_order_do_not_count() {
        for (a, b) in [
            (
                r#"{"a":1,"b":[{"c":null,"d":2}]}"#,
                r#" { "b" : [ {"d":2.0,"c":null} ], "a":1e0 } "#,
            ),
            (r#""é\n\ud83d\ude00/""#, r#""\u00e9\u000a😀\/""#),
            ("0", "-0"),
            ("9007199254740993", "9007199254740992"),
            ("1e400", "2e999"),
            (r#""\ud800""#, r#""\uD800""#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{"":{"b":1,"a":{}}}"#, r#"{"":{"a":{},"b":1}}"#),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn different_values_differ() {
        let values = [
            "null",
            "true",
            "false",
            "0",
            "1",
            "\"\"",
            "\"0\"",
            "\"null\"",
            "[]",
            "{}",
            "[[]]",
            "[{}]",
            "[1,2]",
            "[2,1]",
            "[12]",
            "[1,[2]]",
            "[[1],2]",
            "[[1,2]]",
            r#"{"a":1}"#,
            r#"{"b":1}"#,
            r#"{"a":{}}"#,
            r#"{"a":[]}"#,
            r#"{"a":null}"#,
            r#"["a",1]"#,
            r#"[["a",1]]"#,
            r#"{"a":1,"b":2}"#,
            r#"{"a":2,"b":1}"#,
            r#"{"a":{"b":2}}"#,
            r#""\ud800""#,
            r#""\udfff""#,
            "\"\u{fffd}\"",
            r#""\"""#,
            r#""\\""#,
            "[null]",
            "[\"\"]",
            "[\"\",\"\"]",
        ];
        for (i, a) in values.iter().enumerate() {
            for (j, b) in values.iter().enumerate() {
                assert_eq!(same(a, b), i == j, "{a} {b}");
            }
        }
    }

    #[test]
    fn depth_is_no_limit() {
        let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(same(&deep("1"), &deep("1.0")));
        assert!(!same(&deep("1"), &deep("2")));
    }

    #[test]
    fn what_is_not_json_is_corrupt() {
        let key = key();
        for text in ["", "{", "1,2", "[1]]", "nul", "\"\u{1}\"", "01", "'a'"] {
            let error = JsonText::new("1".into()).means(text, &key).unwrap_err();
            assert!(error.to_string().contains(r#"["k"]"#));
        }
    }
}
