//! The messages of KV Connect, and whether an answer belongs to its question.

use super::super::batch::{Change, Condition};
use super::super::row::{Row, Rows, Stored};
use denokv_proto::datapath::{
    AtomicWrite, AtomicWriteOutput, AtomicWriteStatus, Check, KvValue, Mutation, MutationType, ReadRange,
    ReadRangeOutput, SnapshotReadOutput, SnapshotReadStatus, ValueEncoding,
};

/// The protocol's limits of a read.
pub const MOST_RANGES: usize = 10;
pub const MOST_ENTRIES: u32 = 1000;

/// The protocol's limits of a write. That of bytes is 800 KiB with all that is
/// around keys and values.
pub const MOST_CHANGES: usize = 1000;
pub const MOST_BYTES: usize = 700_000;
pub const MOST_CHECKS: usize = 10;

/// The entries from a key to before another one, so many at most.
pub fn range(start: &[u8], end: &[u8], limit: u32) -> ReadRange {
    ReadRange {
        start: start.to_vec(),
        end: end.to_vec(),
        limit: i32::try_from(limit.min(MOST_ENTRIES)).unwrap_or(i32::MAX),
        reverse: false,
    }
}

/// Why an answer to a read can't be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The endpoint does not serve the database now.
    Elsewhere,
    /// It is not an answer to the question, in words that can follow "the answer".
    Wrong(&'static str),
}

/// What an answer has for each range that was asked for.
pub fn rows(answer: SnapshotReadOutput, has_status: bool, asked: &[ReadRange]) -> Result<Vec<Rows>, Unfit> {
    let disabled = if has_status {
        match answer.status() {
            SnapshotReadStatus::SrSuccess => false,
            SnapshotReadStatus::SrReadDisabled => true,
            SnapshotReadStatus::SrUnspecified => return Err(Unfit::Wrong("does not say whether it succeeded")),
        }
    } else {
        answer.read_disabled
    };
    if disabled || !answer.read_is_strongly_consistent {
        return Err(Unfit::Elsewhere);
    }
    if answer.ranges.len() != asked.len() {
        return Err(Unfit::Wrong("has another number of ranges than the request"));
    }
    let pairs = answer.ranges.into_iter().zip(asked);
    pairs.map(|(range, asked)| rows_of(range, asked)).collect()
}

fn rows_of(range: ReadRangeOutput, asked: &ReadRange) -> Result<Rows, Unfit> {
    if range.values.len() > usize::try_from(asked.limit).unwrap_or_default() {
        return Err(Unfit::Wrong("has more entries than were asked for"));
    }
    let within = |key: &Vec<u8>| asked.start <= *key && *key < asked.end;
    if !range.values.iter().all(|entry| within(&entry.key)) {
        return Err(Unfit::Wrong("has keys that were not asked for"));
    }
    if !range.values.is_sorted_by(|a, b| a.key < b.key) {
        return Err(Unfit::Wrong("has keys twice or out of order"));
    }
    let entries = range.values.into_iter().map(|entry| {
        let stamp = entry.versionstamp.try_into();
        let row = Row {
            value: Stored::from_encoding(entry.value, entry.encoding.into()),
            stamp: stamp.map_err(|_| Unfit::Wrong("has an entry without a valid versionstamp"))?,
            // The server doesn't say when it expires.
            live: true,
        };
        Ok((entry.key, row))
    });
    entries.collect()
}

/// A write of changes, all or none.
pub fn write<'a>(changes: impl IntoIterator<Item = Change<'a>>) -> AtomicWrite {
    let mut write = AtomicWrite::default();
    for change in changes {
        let versionstamp = match change.condition {
            Condition::Anything => None,
            Condition::NoEntry => Some(Vec::new()),
            Condition::Version(stamp) => Some(stamp.to_vec()),
        };
        write.checks.extend(versionstamp.map(|versionstamp| Check {
            key: change.key.to_vec(),
            versionstamp,
        }));
        let (kind, value, encoding) = match change.value {
            Some(value) => (MutationType::MSet, value, ValueEncoding::VeV8),
            None => (MutationType::MDelete, &[][..], ValueEncoding::VeBytes),
        };
        write.mutations.push(Mutation {
            key: change.key.to_vec(),
            value: Some(KvValue {
                data: value.to_vec(),
                encoding: encoding.into(),
            }),
            mutation_type: kind.into(),
            // 0 stands for never.
            expire_at_ms: change.expires.map_or(0, |millis| millis.max(1)),
            ..Mutation::default()
        });
    }
    write
}

/// What an answer says of a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    Yes,
    /// No: a check has failed.
    Conflict,
    /// No: the endpoint does not serve the database now.
    Elsewhere,
    /// It does not say.
    Unknown,
}

pub fn written(answer: &AtomicWriteOutput, had_checks: bool) -> Written {
    match answer.status() {
        AtomicWriteStatus::AwSuccess if answer.versionstamp.len() == size_of_stamp() => Written::Yes,
        AtomicWriteStatus::AwCheckFailure if had_checks => Written::Conflict,
        AtomicWriteStatus::AwWriteDisabled => Written::Elsewhere,
        _ => Written::Unknown,
    }
}

const fn size_of_stamp() -> usize {
    size_of::<denokv_proto::Versionstamp>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use denokv_proto::datapath::KvEntry;

    fn entry(key: &[u8]) -> KvEntry {
        KvEntry {
            key: key.to_vec(),
            value: vec![0xff, 0x0f, b'0'],
            encoding: ValueEncoding::VeV8.into(),
            versionstamp: vec![1; 10],
        }
    }

    fn answer(ranges: &[&[KvEntry]]) -> SnapshotReadOutput {
        let range = |values: &&[KvEntry]| ReadRangeOutput {
            values: values.to_vec(),
        };
        SnapshotReadOutput {
            ranges: ranges.iter().map(range).collect(),
            read_disabled: false,
            read_is_strongly_consistent: true,
            status: SnapshotReadStatus::SrSuccess.into(),
        }
    }

    #[test]
    fn answers_belong_to_their_questions() {
        let asked = [range(b"b", b"d", 2), range(b"x", b"y", 2)];
        let check = |answer| rows(answer, true, &asked).map(|rows| rows.iter().map(Vec::len).collect::<Vec<_>>());
        let [b, c, d, x] = [b"b", b"c", b"d", b"x"].map(|key| entry(key));
        assert_eq!(check(answer(&[&[b.clone(), c.clone()], &[]])), Ok(vec![2, 0]));
        let mut unstamped = c.clone();
        unstamped.versionstamp.pop();
        let bc = entry(b"bc");
        let wrong: [&[&[KvEntry]]; 9] = [
            &[],
            &[&[]],
            &[&[], &[], &[]],
            &[&[d], &[]],
            &[&[x], &[]],
            &[&[entry(b"a")], &[]],
            &[&[c.clone(), b.clone()], &[]],
            &[&[b.clone(), b.clone()], &[]],
            &[&[unstamped], &[]],
        ];
        for ranges in wrong {
            assert!(matches!(check(answer(ranges)), Err(Unfit::Wrong(_))), "{ranges:?}");
        }
        assert!(matches!(check(answer(&[&[b, bc, c], &[]])), Err(Unfit::Wrong(_))));
    }

    #[test]
    fn reads_may_have_to_go_elsewhere() {
        let status = |change: fn(&mut SnapshotReadOutput), has_status| {
            let mut answer = answer(&[]);
            change(&mut answer);
            rows(answer, has_status, &[]).map(|rows| rows.len())
        };
        assert_eq!(status(|_| {}, true), Ok(0));
        assert_eq!(status(|answer| answer.status = 2, true), Err(Unfit::Elsewhere));
        assert!(matches!(status(|answer| answer.status = 0, true), Err(Unfit::Wrong(_))));
        assert!(matches!(status(|answer| answer.status = 9, true), Err(Unfit::Wrong(_))));
        assert_eq!(status(|answer| answer.status = 0, false), Ok(0));
        assert_eq!(
            status(|answer| answer.read_disabled = true, false),
            Err(Unfit::Elsewhere)
        );
        let stale = |answer: &mut SnapshotReadOutput| answer.read_is_strongly_consistent = false;
        assert_eq!(status(stale, true), Err(Unfit::Elsewhere));
        let empty = rows(SnapshotReadOutput::default(), true, &[]).map(|rows| rows.len());
        assert!(matches!(empty, Err(Unfit::Wrong(_))));
    }

    #[test]
    fn only_some_answers_say_whether_a_write_was_carried_out() {
        let says = |status: i32, stamp: usize, had_checks| {
            let answer = AtomicWriteOutput {
                status,
                versionstamp: vec![1; stamp],
                failed_checks: Vec::new(),
            };
            written(&answer, had_checks)
        };
        assert_eq!(says(1, 10, false), Written::Yes);
        assert_eq!(says(2, 0, true), Written::Conflict);
        assert_eq!(says(5, 0, true), Written::Elsewhere);
        for (status, stamp, had_checks) in [(0, 0, true), (1, 0, true), (1, 9, true), (2, 0, false), (3, 10, true)] {
            assert_eq!(says(status, stamp, had_checks), Written::Unknown, "{status} {stamp}");
        }
        assert_eq!(written(&AtomicWriteOutput::default(), true), Written::Unknown);
    }
}
