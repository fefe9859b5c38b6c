//! Keys as Deno KV stores them: a tuple, here of strings, in bytes whose order
//! is that of the tuples.

use crate::kv::{Error, Key, KeyBuilder, Prefix, Result};
use denokv_proto::{KeyPart, decode_key};

/// Deno KV's limit for keys that are written.
const MOST_BYTES: usize = 2048;

/// The tag of a string part, which ends with a NUL. A NUL within the string is
/// followed by `NUL_WITHIN`, which is no tag.
const STRING: u8 = 2;
const NUL_WITHIN: u8 = 0xff;

/// # Errors
///
/// [`Error::KeyTooLong`]
pub fn encode(key: &Key) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(key.as_json().len());
    key.each_part(|part| {
        bytes.push(STRING);
        for byte in part.bytes() {
            bytes.push(byte);
            if byte == 0 {
                bytes.push(NUL_WITHIN);
            }
        }
        bytes.push(0);
    });
    if bytes.len() > MOST_BYTES {
        return Err(Error::KeyTooLong(format!(
            "Deno KV allows keys of up to {MOST_BYTES} bytes; this one has {}",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// The key, if all its parts are strings. Deno programs may use others.
pub fn decode(bytes: &[u8]) -> Option<Key> {
    let mut builder = KeyBuilder::default();
    for part in decode_key(bytes).ok()?.0 {
        match part {
            KeyPart::String(part) => builder.push(&part),
            _ => return None,
        }
    }
    builder.key().ok()
}

/// The first key under a prefix, and what comes after the last. The prefix itself
/// is one of them, if it is a key.
///
/// # Errors
///
/// [`Error::KeyTooLong`]
pub fn range(prefix: &Prefix) -> Result<(Vec<u8>, Vec<u8>)> {
    let first = prefix.key().map_or(Ok(Vec::new()), encode)?;
    let mut end = first.clone();
    end.push(0xff);
    Ok((first, end))
}

/// The first key after this one.
pub fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use denokv_proto::encode_key;

    fn built(parts: &[&str]) -> KeyBuilder {
        let mut builder = KeyBuilder::default();
        for part in parts {
            builder.push(part);
        }
        builder
    }

    #[test]
    fn bytes_are_those_of_the_engine() {
        for parts in [&["a"][..], &["", ""], &["a\0b", "\0"], &["é😀", "\u{10ffff}"]] {
            let key = built(parts).key().unwrap();
            let engine = parts.iter().map(|part| KeyPart::String((*part).into())).collect();
            let bytes = encode(&key).unwrap();
            assert_eq!(bytes, encode_key(&denokv_proto::Key(engine)).unwrap());
            assert_eq!(decode(&bytes), Some(key));
        }
        let number = denokv_proto::Key(vec![KeyPart::String("a".into()), KeyPart::Float(1.0)]);
        assert_eq!(decode(&encode_key(&number).unwrap()), None);
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[STRING, b'a']), None);
    }

    #[test]
    fn a_prefix_holds_itself_and_whole_part_extensions() {
        let (first, end) = range(&built(&["a", "b"]).prefix()).unwrap();
        let holds = |parts: &[&str]| {
            let key = encode(&built(parts).key().unwrap()).unwrap();
            first <= key && key < end
        };
        assert!(holds(&["a", "b"]) && holds(&["a", "b", ""]) && holds(&["a", "b", "\u{10ffff}"]));
        assert!(!holds(&["a"]) && !holds(&["a", "bc"]) && !holds(&["a", "b\0c"]) && !holds(&["a", "c"]));
    }

    #[test]
    fn keys_have_a_limit() {
        let key = |length| built(&[&"x".repeat(length)]).key().unwrap();
        assert!(encode(&key(2046)).is_ok());
        assert!(matches!(encode(&key(2047)), Err(Error::KeyTooLong(_))));
    }
}
