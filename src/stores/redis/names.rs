//! Keys as Fedify's own Redis store writes them: a prefix, then the parts with
//! `_:` for each `:`, joined by `::`.

use crate::kv::{Key, KeyBuilder, Prefix};
use std::mem::take;

/// No key is encoded like this: a lone colon is neither an escape nor a
/// separator.
const INDEX: &[u8] = b":index";

/// Nor like this.
const TURN: &[u8] = b":sweep";

pub struct Names {
    prefix: Vec<u8>,
}

impl Names {
    pub fn new(prefix: Vec<u8>) -> Self {
        Self { prefix }
    }

    /// The name of a key in Redis.
    pub fn name(&self, key: &Key) -> Vec<u8> {
        let mut name = Vec::with_capacity(self.prefix.len() + key.as_json().len());
        name.extend_from_slice(&self.prefix);
        let mut first = true;
        key.each_part(|part| {
            if !first {
                name.extend_from_slice(b"::");
            }
            first = false;
            for piece in part.split_inclusive(':') {
                match piece.strip_suffix(':') {
                    Some(piece) => {
                        name.extend_from_slice(piece.as_bytes());
                        name.extend_from_slice(b"_:");
                    }
                    None => name.extend_from_slice(piece.as_bytes()),
                }
            }
        });
        name
    }

    /// A name without the prefix, as it is in the index.
    pub fn member<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        &name[self.prefix.len()..]
    }

    pub fn name_of_member(&self, member: &[u8]) -> Vec<u8> {
        [&self.prefix, member].concat()
    }

    /// The key of a Redis name; `None` if the name is not one of ours.
    pub fn key(&self, name: &[u8]) -> Option<Key> {
        key_of(name.strip_prefix(self.prefix.as_slice())?)
    }

    /// The name of the sorted set that indexes the keys.
    pub fn index(&self) -> Vec<u8> {
        [&self.prefix, INDEX].concat()
    }

    /// The name of the string that says whose turn it is to sweep the index.
    pub fn turn(&self) -> Vec<u8> {
        [&self.prefix, TURN].concat()
    }

    /// The key of a Redis name, if it is under the prefix.
    pub fn key_under(&self, name: &[u8], prefix: &Prefix) -> Option<Key> {
        self.key(name).filter(|key| prefix.contains_json(key.as_json()))
    }

    pub fn is_prefix_empty(&self) -> bool {
        self.prefix.is_empty()
    }

    /// A glob pattern that matches all names under a prefix, and perhaps
    /// others.
    pub fn pattern(&self, prefix: &Prefix) -> Vec<u8> {
        let literal = prefix.key().map_or_else(|| self.prefix.clone(), |key| self.name(key));
        let mut pattern = Vec::with_capacity(literal.len() + 8);
        for byte in literal {
            if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\') {
                pattern.push(b'\\');
            }
            pattern.push(byte);
        }
        pattern.push(b'*');
        pattern
    }

    /// The part of a key prefix in braces decides its slot in a cluster.
    pub fn is_in_one_slot(&self) -> bool {
        super::slots::tag(&self.prefix).is_some()
    }
}

/// Decodes a member. In a run of colons after `_`, an odd number of colons
/// means that the first one is escaped. All others are separators, two colons
/// each.
pub fn key_of(member: &[u8]) -> Option<Key> {
    let text = std::str::from_utf8(member).ok()?;
    let mut key = KeyBuilder::default();
    let mut part = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(':') {
        part.push_str(&rest[..at]);
        let run = rest[at..].bytes().take_while(|byte| *byte == b':').count();
        if run % 2 == 1 {
            // The escape must be right before this run, not before an earlier
            // one.
            if at == 0 || !part.ends_with('_') {
                return None;
            }
            part.pop();
            part.push(':');
        }
        for _ in 0..run / 2 {
            key.push(&take(&mut part));
        }
        rest = &rest[at + run..];
    }
    part.push_str(rest);
    key.push(&part);
    key.key().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[&str]) -> Key {
        let mut builder = KeyBuilder::default();
        for part in parts {
            builder.push(part);
        }
        builder.key().unwrap()
    }

    fn names() -> Names {
        Names::new(b"fedify::".into())
    }

    #[test]
    fn names_are_the_official_ones() {
        for (parts, name) in [
            (&["a", "b"][..], "fedify::a::b"),
            (&["https://x/"], "fedify::https_://x/"),
            (&["a:", "b"], "fedify::a_:::b"),
            (&["a", ":b"], "fedify::a::_:b"),
            (&["", ""], "fedify::::"),
            (&[""], "fedify::"),
            (&["\n\"é😀"], "fedify::\n\"é😀"),
        ] {
            assert_eq!(String::from_utf8(names().name(&key(parts))).unwrap(), name);
        }
    }

    #[test]
    fn every_key_comes_back() {
        let parts = ["", ":", "::", "a", "_", "a_", "_:", "a:", ":a", "_:_", ":::", "é"];
        for a in parts {
            assert_eq!(names().key(&names().name(&key(&[a]))), Some(key(&[a])));
            for b in parts {
                for c in parts {
                    let key = key(&[a, b, c]);
                    assert_eq!(names().key(&names().name(&key)), Some(key));
                }
            }
        }
    }

    #[test]
    fn other_names_are_no_keys() {
        for name in [
            &b"fedify::a:b"[..],
            b"fedify:::",
            b"fedify:::index",
            b"fedify::a_::::_a:::",
            b"fedify::a_::b:c",
            b"fedify::_:::_::b_::::::x:",
            b"fedify::\xff",
            b"fedif",
            b"other::a",
        ] {
            assert_eq!(names().key(name), None, "{}", String::from_utf8_lossy(name));
        }
        assert_eq!(names().key(&names().index()), None);
        assert_eq!(names().key(&names().turn()), None);
    }

    #[test]
    fn what_is_special_in_patterns_is_escaped() {
        let mut builder = KeyBuilder::default();
        builder.push("p*[a-z]?\\");
        assert_eq!(
            names().pattern(&builder.prefix()),
            b"fedify::p\\*\\[a-z\\]\\?\\\\*".to_vec()
        );
        assert_eq!(Names::new(b"a*".into()).pattern(&Prefix::ALL), b"a\\**".to_vec());
    }
}
