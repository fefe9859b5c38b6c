//! Keys and values in PostgreSQL's formats.

use crate::kv::{Error, JsonText, Key, KeyBuilder, Prefix, Result};
use bytes::{BufMut, BytesMut};
use std::error::Error as StdError;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// `text[]` in its binary format, exactly as it is stored: keys that other
/// programs wrote go back to the server unchanged.
#[derive(Debug)]
pub struct TextArray(Vec<u8>);

impl TextArray {
    pub fn of(key: &Key) -> Self {
        Self::with(key, false)
    }

    /// The array that sorts after all keys that extend this one, and before all
    /// others: in the order of arrays, NULL comes after every string.
    pub fn end_of(key: &Key) -> Self {
        Self::with(key, true)
    }

    fn with(key: &Key, null: bool) -> Self {
        let mut bytes = Vec::with_capacity(key.as_json().len() + 32);
        bytes.put_i32(1);
        bytes.put_i32(i32::from(null));
        bytes.put_u32(Type::TEXT.oid());
        bytes.put_i32(0);
        bytes.put_i32(1);
        let mut count = i32::from(null);
        key.each_part(|part| {
            bytes.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
            bytes.extend_from_slice(part.as_bytes());
            count += 1;
        });
        if null {
            bytes.put_i32(-1);
        }
        bytes[12..16].copy_from_slice(&count.to_be_bytes());
        Self(bytes)
    }

    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The key, if it is a valid one.
    pub fn key_json(&self) -> Option<String> {
        let mut rest = self.0.as_slice();
        let mut number = || -> Option<i32> {
            let (number, after) = rest.split_first_chunk()?;
            rest = after;
            Some(i32::from_be_bytes(*number))
        };
        // There is one dimension. NULLs are found below, the element type is
        // known, and the lower bound doesn't matter.
        let (dimensions, _, _, count, _) = (number()?, number()?, number()?, number()?, number()?);
        if dimensions != 1 {
            return None;
        }
        let mut builder = KeyBuilder::default();
        for _ in 0..count {
            let (length, after) = rest.split_first_chunk()?;
            // NULL has a length of -1.
            let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
            builder.push(std::str::from_utf8(after.get(..length)?).ok()?);
            rest = &after[length..];
        }
        Some(builder.key().ok()?.as_json().to_owned())
    }
}

impl ToSql for TextArray {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }

    to_sql_checked!();
}

impl FromSql<'_> for TextArray {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }
}

/// A key in the text format of an array. This way, many keys of different
/// lengths fit into one parameter; an array of arrays would have to be
/// rectangular.
pub fn array_text(key: &Key) -> String {
    let mut text = String::with_capacity(key.as_json().len() + 8);
    text.push('{');
    key.each_part(|part| {
        if text.len() > 1 {
            text.push(',');
        }
        text.push('"');
        for character in part.chars() {
            if matches!(character, '"' | '\\') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push('"');
    });
    text.push('}');
    text
}

/// # Errors
///
/// [`Error::InvalidKey`] for NUL, which PostgreSQL's text can't hold.
pub fn check_key(key: &Key) -> Result<()> {
    let mut null = false;
    // In JSON it is an escape.
    if key.as_json().contains("\\u0000") {
        key.each_part(|part| null |= part.contains('\0'));
    }
    if null {
        return Err(Error::InvalidKey(format!("PostgreSQL can't store the NUL in {key}")));
    }
    Ok(())
}

pub fn check_prefix(prefix: &Prefix) -> Result<()> {
    prefix.key().map_or(Ok(()), check_key)
}

/// Whether `jsonb` can hold a value. It can't hold NUL and lone surrogates,
/// which `JSON.stringify` always writes as escapes.
pub fn is_storable(value: &JsonText) -> bool {
    let text = value.as_str().as_bytes();
    let mut at = 0;
    while let Some(found) = text[at..].iter().position(|byte| *byte == b'\\') {
        at += found + 2;
        if text.get(at - 1) == Some(&b'u') {
            let code = text.get(at..at + 4).unwrap_or_default();
            let high = code.get(1).copied().unwrap_or_default().to_ascii_lowercase();
            let surrogate = matches!(code.first(), Some(b'd' | b'D')) && matches!(high, b'8'..=b'9' | b'a'..=b'f');
            if surrogate || code == b"0000" {
                return false;
            }
        }
    }
    true
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

    #[test]
    fn keys_come_back_from_their_binary_form() {
        for parts in [&["a"][..], &["", "\"\\", "é😀"], &["NULL", "{}", ","]] {
            let key = key(parts);
            assert_eq!(TextArray::of(&key).key_json().as_deref(), Some(key.as_json()));
            assert_eq!(TextArray::end_of(&key).key_json(), None);
        }
    }

    #[test]
    fn what_is_no_key_is_told() {
        let whole = TextArray::of(&key(&["abc", "d"])).into_bytes();
        for length in 0..whole.len() {
            assert_eq!(TextArray::from_bytes(whole[..length].to_vec()).key_json(), None);
        }
        let empty = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25].to_vec();
        assert_eq!(TextArray::from_bytes(empty).key_json(), None);
    }

    #[test]
    fn array_texts_quote_all() {
        assert_eq!(
            array_text(&key(&["a", "", "\"\\,{}", "NULL"])),
            r#"{"a","","\"\\,{}","NULL"}"#
        );
    }

    #[test]
    fn what_jsonb_cannot_hold_is_told() {
        let storable = |text: &str| is_storable(&JsonText::new(text.into()));
        for good in [
            "null",
            r#""\\u0000""#,
            r#""\\\\ud800""#,
            r#""\u0001\n\"""#,
            r#""\ud7ff""#,
            r#""\udG""#,
            r#""x\\""#,
        ] {
            assert!(storable(good), "{good}");
        }
        for bad in [r#""\u0000""#, r#"{"\\\u0000":1}"#, r#"["\ud83d"]"#, r#""\uDE00""#] {
            assert!(!storable(bad), "{bad}");
        }
        assert!(check_key(&key(&["a\0"])).is_err());
        assert!(check_key(&key(&["\\u0000"])).is_ok());
    }
}
