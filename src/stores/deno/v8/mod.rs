//! V8's serialization of values, which is what Deno KV stores: from JSON text
//! and back, in one pass each, on any thread.
//!
//! Deno programs may store values that JSON has no form for. Reading returns what
//! `JSON.stringify` would return, and refuses values whose content it would lose.

mod date;
mod read;
mod write;

pub use read::to_json;
pub use write::to_v8;

/// The version that is written. All versions of Deno that have KV read it.
const VERSION: u8 = 15;

/// The versions that are read. 13 is the oldest that Deno KV can have written.
/// Versions 14 and 16 changed binary data only.
const VERSIONS: std::ops::RangeInclusive<u32> = 13..=16;

/// The first byte of each kind of value.
mod tag {
    pub const VERSION: u8 = 0xff;
    pub const PADDING: u8 = 0;
    pub const OBJECT_COUNT: u8 = b'?';
    pub const HOLE: u8 = b'-';
    pub const UNDEFINED: u8 = b'_';
    pub const NULL: u8 = b'0';
    pub const TRUE: u8 = b'T';
    pub const FALSE: u8 = b'F';
    pub const INT32: u8 = b'I';
    pub const UINT32: u8 = b'U';
    pub const DOUBLE: u8 = b'N';
    pub const UTF8_STRING: u8 = b'S';
    pub const ONE_BYTE_STRING: u8 = b'"';
    pub const TWO_BYTE_STRING: u8 = b'c';
    pub const REFERENCE: u8 = b'^';
    pub const OBJECT: u8 = b'o';
    pub const OBJECT_END: u8 = b'{';
    pub const SPARSE_ARRAY: u8 = b'a';
    pub const SPARSE_ARRAY_END: u8 = b'@';
    pub const DENSE_ARRAY: u8 = b'A';
    pub const DENSE_ARRAY_END: u8 = b'$';
    pub const DATE: u8 = b'D';
    pub const TRUE_OBJECT: u8 = b'y';
    pub const FALSE_OBJECT: u8 = b'x';
    pub const NUMBER_OBJECT: u8 = b'n';
    pub const STRING_OBJECT: u8 = b's';
}

#[cfg(test)]
mod tests;
