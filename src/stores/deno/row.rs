//! An entry as it is stored.

use super::{key, v8};
use crate::kv::{Error, JsonText, Key, Outcome, Page, Reply, Result};
use denokv_proto::{VALUE_ENCODING_BYTES, VALUE_ENCODING_LE64, VALUE_ENCODING_V8, Versionstamp};

pub struct Row {
    pub value: Stored,
    pub stamp: Versionstamp,
    /// Whether it has not expired. A server doesn't say when entries expire.
    pub live: bool,
}

/// Keys with what is stored under them.
pub type Rows = Vec<(Vec<u8>, Row)>;

/// A value in one of Deno KV's encodings.
pub enum Stored {
    V8(Vec<u8>),
    /// A value without a JSON form, in words that can follow "it is".
    Other(&'static str),
}

impl Stored {
    /// From a column of the database, or an answer of a server.
    pub fn from_encoding(value: impl Into<Vec<u8>>, encoding: i64) -> Self {
        match encoding {
            VALUE_ENCODING_V8 => Self::V8(value.into()),
            VALUE_ENCODING_BYTES => Self::BYTES,
            VALUE_ENCODING_LE64 => Self::U64,
            _ => Self::Other("in an unknown encoding"),
        }
    }

    const BYTES: Self = Self::Other("binary data, which has no JSON form");
    const U64: Self = Self::Other("a Deno.KvU64, which has no JSON form");

    /// The value as JSON text; `None` for `undefined`, which a Deno program may
    /// have stored, and which here is no entry.
    ///
    /// # Errors
    ///
    /// A value without a JSON form, in words that can follow "it is".
    pub fn json(&self) -> std::result::Result<Option<String>, &'static str> {
        match self {
            Self::V8(bytes) => v8::to_json(bytes).map_err(|unreadable| unreadable.0),
            Self::Other(what) => Err(what),
        }
    }

    /// # Errors
    ///
    /// [`Error::Corrupt`] naming the key.
    pub fn text(&self, key: &Key) -> Result<Option<String>> {
        self.json()
            .map_err(|what| Error::Corrupt(format!("the value of {key} is {what}")))
    }
}

/// Adds an entry to a page. Expired entries and `undefined` are left out. Values
/// without a JSON form are counted as skipped.
pub fn add_to_page(page: &mut Page, key: &[u8], row: &Row) {
    if !row.live {
        return;
    }
    let key = key::decode(key);
    let value = row.value.json();
    match (&key, &value) {
        (Some(key), Ok(Some(value))) => page.push(key.as_json(), value),
        (Some(_), Ok(None)) => {}
        _ => page.push_unchecked(key.as_ref().map(Key::as_json), None),
    }
}

/// The outcome of a `get` that found this row.
pub fn reply(key: Key, row: Option<&Row>) -> Outcome {
    let text = match row.filter(|row| row.live) {
        Some(row) => row.value.text(&key)?,
        None => None,
    };
    Ok(Reply::Value(key, text.map(JsonText::new)))
}
