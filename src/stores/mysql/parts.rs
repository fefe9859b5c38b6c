//! Statements about many entries, in parts that the server accepts.

use super::answer::Parameter;
use super::session::Session;
use super::statements::{MOST, padded, part};

/// The overhead of an entry in a packet, and that of a packet.
const ENTRY_BYTES: usize = 32;
pub const PACKET_BYTES: usize = 1024;

/// Larger statements are not faster.
const ENOUGH_BYTES: usize = 4 * 1024 * 1024;

/// What a statement is about, with a size in bytes.
pub trait Entry {
    fn bytes(&self) -> usize;
}

/// A key as JSON text.
impl<T: AsRef<[u8]>> Entry for T {
    fn bytes(&self) -> usize {
        self.as_ref().len()
    }
}

/// Splits off the entries that fit in one statement, repetitions of the last one
/// included. There is at least one.
pub fn split<'a, T: Entry>(entries: &'a [T], session: &Session) -> (&'a [T], &'a [T]) {
    let packet = session.packet.saturating_sub(PACKET_BYTES).max(session.packet / 2);
    let room = packet.min(ENOUGH_BYTES);
    let size = |entry: &T| entry.bytes() + ENTRY_BYTES;
    let mut bytes = 0;
    let fitting = entries.iter().take(MOST).take_while(|entry| {
        bytes += size(entry);
        bytes <= room
    });
    let count = fitting.count().max(1).min(entries.len());
    let bytes: usize = entries[..count].iter().map(size).sum();
    let repeated = (padded(count) - count) * entries.get(count - 1).map_or(0, size);
    let count = if bytes + repeated <= room || count == 1 {
        count
    } else {
        part(count)
    };
    entries.split_at(count)
}

/// Keys for a statement of one of the usual sizes, with the last one repeated.
pub fn filled<T: AsRef<[u8]>>(keys: &[T]) -> Vec<Parameter<'_>> {
    let mut values: Vec<_> = keys.iter().map(|key| Parameter::Text(key.as_ref())).collect();
    if let Some(last) = values.last().copied() {
        values.resize(padded(keys.len()), last);
    }
    values
}
