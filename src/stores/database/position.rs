//! Positions in the order of keys, and the ranges between them.

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

/// A key's column may hold texts, which need not be UTF-8, and blobs. Texts come
/// first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Position {
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

/// From a position to before another one.
#[derive(Clone, Debug)]
pub struct Range {
    pub start: Position,
    pub end: Position,
}

impl Position {
    /// The first position after a key.
    pub fn after(key: ValueRef<'_>) -> Self {
        let next = |bytes: &[u8]| [bytes, &[0]].concat();
        match key {
            ValueRef::Text(bytes) => Self::Text(next(bytes)),
            ValueRef::Blob(bytes) => Self::Blob(next(bytes)),
            // NULL and numbers come before texts.
            _ => Self::Text(Vec::new()),
        }
    }
}

impl ToSql for Position {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}
