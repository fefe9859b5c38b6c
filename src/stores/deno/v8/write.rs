//! From JSON text to V8's bytes.

use super::{VERSION, tag};
use encoding_rs::mem::{convert_utf8_to_latin1_lossy, is_str_latin1};

/// The bytes of a JSON text's value. The text must be JSON.
///
/// Works without recursion, because values may be nested to any depth.
pub fn to_v8(json: &str) -> Vec<u8> {
    let mut lengths = array_lengths(json.as_bytes()).into_iter();
    let mut out = Vec::with_capacity(json.len() + json.len() / 4 + 16);
    out.extend([tag::VERSION, VERSION]);
    let bytes = json.as_bytes();
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => {
                out.push(tag::OBJECT);
                open.push(Open::Object { members: 0 });
            }
            b'[' => {
                let length = lengths.next().unwrap_or(0);
                out.push(tag::DENSE_ARRAY);
                varint(&mut out, length);
                open.push(Open::Array { length });
            }
            b'}' | b']' => match open.pop() {
                Some(Open::Object { members }) => {
                    out.push(tag::OBJECT_END);
                    varint(&mut out, members);
                }
                Some(Open::Array { length }) => {
                    out.extend([tag::DENSE_ARRAY_END, 0]);
                    varint(&mut out, length);
                }
                None => {}
            },
            // The next character says what follows.
            b':' | b',' | b' ' | b'\t' | b'\n' | b'\r' => {}
            b'"' => {
                let end = string_end(bytes, at);
                let content = &json[at + 1..end - 1];
                at = end;
                let is_name = match open.last_mut() {
                    Some(Open::Object { members }) if follows(bytes, at) == Some(b':') => {
                        *members += 1;
                        true
                    }
                    _ => false,
                };
                match array_index(content).filter(|_| is_name) {
                    // V8 keeps these names as numbers, and writes them so.
                    Some(index) => number(&mut out, f64::from(index)),
                    None => string(&mut out, content),
                }
                continue;
            }
            b't' => {
                out.push(tag::TRUE);
                at += 4;
                continue;
            }
            b'f' => {
                out.push(tag::FALSE);
                at += 5;
                continue;
            }
            b'n' => {
                out.push(tag::NULL);
                at += 4;
                continue;
            }
            _ => {
                let end = bytes[at..]
                    .iter()
                    .position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
                    .map_or(bytes.len(), |length| at + length);
                number(&mut out, json[at..end].parse().unwrap_or(f64::NAN));
                at = end.max(at + 1);
                continue;
            }
        }
        at += 1;
    }
    out
}

enum Open {
    Object { members: u32 },
    Array { length: u32 },
}

/// How many elements each array has, in the order in which the arrays begin. V8's
/// format has this number before the first element.
fn array_lengths(json: &[u8]) -> Vec<u32> {
    let mut lengths: Vec<u32> = Vec::new();
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'[' => {
                open.push(Some(lengths.len()));
                lengths.push(u32::from(follows(json, at + 1) != Some(b']')));
            }
            b'{' => open.push(None),
            b']' | b'}' => {
                open.pop();
            }
            b',' => {
                if let Some(Some(index)) = open.last() {
                    lengths[*index] += 1;
                }
            }
            b'"' => {
                at = string_end(json, at);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    lengths
}

/// The next byte that is not a space.
fn follows(json: &[u8], at: usize) -> Option<u8> {
    json[at..].iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// One past the closing quote of the string that starts at `start`.
fn string_end(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < json.len() && json[at] != b'"' {
        at += if json[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(json.len())
}

/// A property's name as a number, if it is an array index.
fn array_index(name: &str) -> Option<u32> {
    let plain = name == "0" || (!name.starts_with('0') && name.bytes().all(|byte| byte.is_ascii_digit()));
    let index = if plain { name.parse().ok() } else { None };
    index.filter(|index| *index < u32::MAX)
}

fn number(out: &mut Vec<u8>, number: f64) {
    #[expect(clippy::cast_possible_truncation, reason = "checked by the way back")]
    let int = number as i32;
    if f64::from(int).to_bits() == number.to_bits() {
        out.push(tag::INT32);
        varint(out, (int << 1 ^ int >> 31).cast_unsigned());
    } else {
        out.push(tag::DOUBLE);
        out.extend(number.to_ne_bytes());
    }
}

/// A string, given the text between its quotes.
fn string(out: &mut Vec<u8>, content: &str) {
    if content.contains('\\') {
        let units = unescaped(content);
        let narrow: Option<Vec<u8>> = units.iter().map(|unit| u8::try_from(*unit).ok()).collect();
        match narrow {
            Some(bytes) => one_byte_string(out, &bytes),
            None => two_byte_string(out, &units),
        }
    } else if content.is_ascii() {
        one_byte_string(out, content.as_bytes());
    } else if is_str_latin1(content) {
        let mut latin1 = vec![0; content.len()];
        let length = convert_utf8_to_latin1_lossy(content.as_bytes(), &mut latin1);
        one_byte_string(out, &latin1[..length]);
    } else {
        two_byte_string(out, &content.encode_utf16().collect::<Vec<_>>());
    }
}

fn one_byte_string(out: &mut Vec<u8>, latin1: &[u8]) {
    out.push(tag::ONE_BYTE_STRING);
    varint(out, size(latin1.len()));
    out.extend_from_slice(latin1);
}

fn two_byte_string(out: &mut Vec<u8>, units: &[u16]) {
    let length = size(units.len() * 2);
    // The units must be at an even distance from the start.
    if (out.len() + 1 + varint_length(length)) % 2 == 1 {
        out.push(tag::PADDING);
    }
    out.push(tag::TWO_BYTE_STRING);
    varint(out, length);
    out.extend(units.iter().flat_map(|unit| unit.to_ne_bytes()));
}

/// The UTF-16 of a string with escapes, lone surrogates included.
fn unescaped(content: &str) -> Vec<u16> {
    let mut units = Vec::with_capacity(content.len());
    let mut chars = content.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            units.extend_from_slice(char.encode_utf16(&mut [0; 2]));
            continue;
        }
        units.push(match chars.next() {
            Some('b') => 8,
            Some('t') => 9,
            Some('n') => 10,
            Some('f') => 12,
            Some('r') => 13,
            Some('u') => {
                let digits = chars.as_str().get(..4).unwrap_or_default();
                chars = chars.as_str().get(4..).unwrap_or_default().chars();
                u16::from_str_radix(digits, 16).unwrap_or(0xfffd)
            }
            // A quote, a slash or a backslash.
            Some(other) => u16::try_from(u32::from(other)).unwrap_or(0xfffd),
            None => break,
        });
    }
    units
}

/// A length in bytes. Values are refused long before they reach the bound.
fn size(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn varint(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn varint_length(number: u32) -> usize {
    (32 - (number | 1).leading_zeros()).div_ceil(7) as usize
}
