//! What the embedded stores do when the system refuses something: a sync, a
//! write, or the opening of a file.

use super::test_client::{Client, Folder, cas, delete, key, put, text};
use super::test_vfs::{Active, Call, Change, Disk, Event, Kind, Method, Replay, When};
use super::{DenoOptions, DenoStore, SqliteOptions, SqliteStore};
use crate::kv::{Command, JsonText, Outcome, Reply, Store, Write};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::ffi;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A checkpoint comes before the log has grown by so much (4000 pages of 4 KiB).
/// Deno's engine would make one of its own, but later.
const MOST_LOG_BYTES: usize = 4000 * 4120;

fn sqlite(path: &Path) -> SqliteStore {
    SqliteStore::at(text(path), SqliteOptions::default()).unwrap()
}

fn deno(path: &Path) -> DenoStore {
    DenoStore::at(text(path), DenoOptions::default()).unwrap()
}

/// A store on a new file, which is open.
fn opened<S: Store>(folder: &Folder, open: impl Fn(&Path) -> S) -> Client<S> {
    let disk = Disk::watch(&folder.path("a.db"));
    let client = Client::new(&disk, open(disk.path()));
    client.run(Command::Initialize).unwrap();
    client
}

fn wal(method: Method) -> impl Fn(&Call) -> bool + Send + Sync + 'static {
    move |call| call.is(Kind::Wal, method)
}

fn is_unknown(outcome: &Outcome) -> bool {
    matches!(outcome, Err(error) if error.to_string().contains("outcome is unknown"))
}

fn assert_holds<S: Store>(client: &Client<S>, key: &str, value: &str) {
    assert_eq!(client.get(&[key]).unwrap().as_deref(), Some(value), "{key}");
}

/// How many descriptors of a file and its log this process has.
fn descriptors(path: &Path) -> usize {
    let inodes: BTreeSet<_> = [Kind::Database, Kind::Wal]
        .iter()
        .filter_map(|kind| fs::metadata(kind.path(path)).ok())
        .map(|metadata| (metadata.dev(), metadata.ino()))
        .collect();
    let open = fs::read_dir("/proc/self/fd").unwrap();
    open.filter_map(|entry| fs::metadata(entry.unwrap().path()).ok())
        .filter(|metadata| inodes.contains(&(metadata.dev(), metadata.ino())))
        .count()
}

fn a_failed_sync_leaves_the_outcome_unknown<S: Store>(open: impl Fn(&Path) -> S) {
    let folder = Folder::new();
    let client = opened(&folder, &open);
    for round in 0..3 {
        let mine = format!(r#""mine {round}""#);
        let y = format!("y{round}");
        let groups = [
            vec![put(&["set"], &mine)],
            vec![delete(&["kept"])],
            vec![cas(&[&y], None, &mine)],
            // In one transaction, or in few.
            vec![
                put(&["set"], &format!(r#""{round} in a group""#)),
                delete(&["kept"]),
                cas(&["in a group", &y], None, &mine),
                put(&["other"], &mine),
            ],
        ];
        for group in groups {
            client.run(put(&["kept"], "1")).unwrap();
            let failing = client
                .disk
                .fail(ffi::SQLITE_IOERR_FSYNC, When::Always, wal(Method::Sync));
            for outcome in client.run_all(group) {
                assert!(is_unknown(&outcome), "{outcome:?}");
            }
            assert!(failing.hits() > 0);
        }
        // It is ours, or there is none.
        for parts in [&[&*y][..], &["in a group", &y]] {
            let found = client.get(parts).unwrap();
            assert!(found.is_none() || found.as_deref() == Some(&*mine), "{found:?}");
            let swapped = client.run(cas(parts, found.as_deref(), "4"));
            assert_eq!(swapped, Ok(Reply::Swapped(true)));
        }
        assert_eq!(client.run(put(&["kept"], "1")), Ok(Reply::Done));
        assert_holds(&client, "kept", "1");
    }
    client.run(Command::Close).unwrap();
}

#[test]
fn sqlite_says_that_the_outcome_is_unknown_after_a_failed_sync() {
    a_failed_sync_leaves_the_outcome_unknown(sqlite);
}

#[test]
fn deno_says_that_the_outcome_is_unknown_after_a_failed_sync() {
    a_failed_sync_leaves_the_outcome_unknown(deno);
}

/// Each second sync fails: an operation whose outcome is unknown is not repeated.
fn a_cas_is_not_repeated<S: Store>(open: impl Fn(&Path) -> S) {
    let folder = Folder::new();
    let client = opened(&folder, &open);
    let failing = client
        .disk
        .fail(ffi::SQLITE_IOERR_FSYNC, When::Every(2), wal(Method::Sync));
    for round in 0..20 {
        let name = round.to_string();
        let group: Vec<_> = (0..10)
            .map(|number| cas(&[&name, &number.to_string()], None, r#""mine""#))
            .collect();
        for (number, outcome) in client.run_all(group).into_iter().enumerate() {
            let found = client.get(&[&name, &number.to_string()]).unwrap();
            match outcome {
                Ok(Reply::Swapped(true)) => assert_eq!(found.as_deref(), Some(r#""mine""#)),
                outcome => assert!(is_unknown(&outcome), "{outcome:?}, and it is {found:?}"),
            }
        }
    }
    assert!(failing.hits() > 5);
    drop(failing);
    client.run(Command::Close).unwrap();
}

#[test]
fn sqlite_does_not_repeat_a_cas_after_a_failed_sync() {
    a_cas_is_not_repeated(sqlite);
}

#[test]
fn deno_does_not_repeat_a_cas_after_a_failed_sync() {
    a_cas_is_not_repeated(deno);
}

/// What a key may hold, as far as outcomes tell. `None`: no entry.
struct Possible(BTreeSet<Option<String>>);

impl Possible {
    fn read(&self, found: Option<&str>) -> Result<(), String> {
        if self.0.iter().any(|possible| possible.as_deref() == found) {
            Ok(())
        } else {
            Err(format!("{found:?} is none of {:?}", self.0))
        }
    }

    /// Takes the outcome of the next operation on the key.
    fn take(&mut self, command: &Command, outcome: &Outcome) -> Result<(), String> {
        let text = |write: &Write| match write {
            Write::Store { value, .. } => Some(value.as_str().to_owned()),
            Write::Delete => None,
        };
        match (command, outcome) {
            (Command::Get(_), Ok(Reply::Value(_, found))) => self.read(found.as_ref().map(JsonText::as_str)),
            (Command::Put(_, write), Ok(Reply::Done)) => {
                self.0 = [text(write)].into();
                Ok(())
            }
            (Command::Put(_, write), Err(_)) => {
                if is_unknown(outcome) {
                    self.0.insert(text(write));
                }
                Ok(())
            }
            (Command::Cas(_, expected, write), outcome) => {
                let expected = expected.as_ref().map(JsonText::as_str).map(str::to_owned);
                match outcome {
                    Ok(Reply::Swapped(true)) if self.0.contains(&expected) => self.0 = [text(write)].into(),
                    Ok(Reply::Swapped(false)) if self.0.len() > 1 || !self.0.contains(&expected) => {}
                    Err(_) if is_unknown(outcome) && self.0.contains(&expected) => {
                        self.0.insert(text(write));
                    }
                    Err(_) => {}
                    other => return Err(format!("{other:?} of {expected:?}, where it was {:?}", self.0)),
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn outcomes_agree_with_what_is_read<S: Store>(open: impl Fn(&Path) -> S) {
    let folder = Folder::new();
    let client = opened(&folder, &open);
    let mut random = StdRng::seed_from_u64(3);
    let keys: Vec<_> = ["x", "y", "z", "w", "v", "u"].to_vec();
    let mut possible: BTreeMap<_, _> = keys.iter().map(|key| (*key, Possible([None].into()))).collect();
    let mut contradictions = Vec::new();
    let failing = client
        .disk
        .fail(ffi::SQLITE_IOERR_FSYNC, When::Chance(0.2, 4), wal(Method::Sync));
    for batch in 0..300 {
        let commands: Vec<_> = (0..10)
            .map(|number| {
                let of = keys[random.gen_range(0..keys.len())];
                let value = format!(r#""{batch} {number}""#);
                let expected = possible[of].0.first().unwrap().clone();
                let command = match random.gen_range(0..10) {
                    0..3 => put(&[of], &value),
                    3..5 => delete(&[of]),
                    5..9 => cas(&[of], expected.as_deref(), &value),
                    _ => Command::Get(key(&[of])),
                };
                (of, command)
            })
            .collect();
        let outcomes = client.run_all(commands.iter().map(|(_, command)| command.clone()));
        for ((of, command), outcome) in commands.iter().zip(&outcomes) {
            if let Err(why) = possible.get_mut(of).unwrap().take(command, outcome) {
                contradictions.push(why);
            }
        }
        for (of, possible) in &mut possible {
            let found = client.get(&[*of]).unwrap();
            if let Err(why) = possible.read(found.as_deref()) {
                contradictions.push(why);
                possible.0 = [found].into();
            }
        }
    }
    assert!(failing.hits() > 20);
    let first = contradictions.first();
    assert_eq!(first, None, "the first of {} contradictions", contradictions.len());
    drop(failing);
    client.run(Command::Close).unwrap();
}

#[test]
fn sqlite_outcomes_agree_with_what_is_read_while_syncs_fail() {
    outcomes_agree_with_what_is_read(sqlite);
}

#[test]
fn deno_outcomes_agree_with_what_is_read_while_syncs_fail() {
    outcomes_agree_with_what_is_read(deno);
}

fn a_full_disk_rejects_writes_and_stops_no_reads<S: Store>(open: impl Fn(&Path) -> S) {
    let folder = Folder::new();
    let client = opened(&folder, &open);
    client.run(put(&["a"], "1")).unwrap();
    for _ in 0..3 {
        let full = client.disk.fail(ffi::SQLITE_FULL, When::Always, wal(Method::Write));
        for command in [
            put(&["a"], "2"),
            delete(&["a"]),
            cas(&["a"], Some("1"), "2"),
            put(&["b"], "2"),
        ] {
            let outcome = client.run(command);
            assert!(outcome.is_err() && !is_unknown(&outcome), "{outcome:?}");
            assert_holds(&client, "a", "1");
            assert_eq!(client.list(&[]), Ok([(r#"["a"]"#.into(), "1".into())].into()));
        }
        assert!(full.hits() >= 4);
        drop(full);
        assert_eq!(client.run(put(&["a"], "2")), Ok(Reply::Done));
        assert_holds(&client, "a", "2");
        assert_eq!(client.run(cas(&["a"], Some("2"), "1")), Ok(Reply::Swapped(true)));
    }
    client.run(Command::Close).unwrap();
}

#[test]
fn sqlite_on_a_full_disk_rejects_writes_and_stops_no_reads() {
    a_full_disk_rejects_writes_and_stops_no_reads(sqlite);
}

#[test]
fn deno_on_a_full_disk_rejects_writes_and_stops_no_reads() {
    a_full_disk_rejects_writes_and_stops_no_reads(deno);
}

/// If any call of a commit fails, a rejected write has not happened, neither now
/// nor after a kill, or its message says that the outcome is unknown.
fn a_rejected_write_has_not_happened_or_says_so<S: Store>(open: impl Fn(&Path) -> S) {
    let faults = [
        (Kind::Wal, Method::Write, ffi::SQLITE_FULL),
        (Kind::Wal, Method::Write, ffi::SQLITE_IOERR_WRITE),
        (Kind::Wal, Method::Sync, ffi::SQLITE_IOERR_FSYNC),
        (Kind::Database, Method::ShmLock, ffi::SQLITE_IOERR_SHMLOCK),
        (Kind::Database, Method::Read, ffi::SQLITE_IOERR_READ),
        (Kind::Database, Method::Read, ffi::SQLITE_IOERR_NOMEM),
    ];
    for (kind, method, code) in faults {
        let once = (1..=4).map(When::Nth);
        for when in once.chain([When::Always]) {
            let folder = Folder::new();
            let client = opened(&folder, &open);
            let killed = folder.path("killed.db");
            for name in ["set", "delete", "cas"] {
                client.run(put(&[name], "1")).unwrap();
                let command = match name {
                    "set" => put(&[name], "2"),
                    "delete" => delete(&[name]),
                    _ => cas(&[name], Some("1"), "2"),
                };
                let fault = client.disk.fail(code, when, move |call| call.is(kind, method));
                let outcome = client.run(command);
                drop(fault);
                let replay = Replay::of(&client.disk).finish();
                let what = format!("{name} with {method:?} failing {when:?} by {code}: {outcome:?}");
                let expected = match &outcome {
                    Err(_) if is_unknown(&outcome) => continue,
                    Err(_) => Some("1".to_owned()),
                    Ok(_) => (name != "delete").then(|| "2".to_owned()),
                };
                assert_eq!(client.get(&[name]), Ok(expected.clone()), "{what}");
                replay.kill(&killed);
                let disk = Disk::watch(&killed);
                let after = Client::new(&disk, open(&killed));
                assert_eq!(after.get(&[name]), Ok(expected), "after a kill, {what}");
                after.run(Command::Close).unwrap();
            }
            client.run(Command::Close).unwrap();
        }
    }
}

#[test]
fn a_rejected_sqlite_write_has_not_happened_or_says_so() {
    a_rejected_write_has_not_happened_or_says_so(sqlite);
}

#[test]
fn a_rejected_deno_write_has_not_happened_or_says_so() {
    a_rejected_write_has_not_happened_or_says_so(deno);
}

/// Changes many entries.
fn fill<S: Store>(client: &Client<S>) {
    let value = format!(r#""{} {}""#, client.disk.now(), "x".repeat(1000));
    let group = (0..500).map(|number| put(&["filler", &number.to_string()], &value));
    assert!(client.run_all(group).iter().all(Result::is_ok));
}

/// Writes until a connection that the store opens by itself has failed.
fn fill_until_hit<S: Store>(client: &Client<S>, failing: &Active) {
    let mut groups = 0;
    while failing.hits() == 0 {
        fill(client);
        groups += 1;
        assert!(groups < 40, "the store opens no connection for checkpoints");
    }
}

/// The store works in every way, and the log does not grow without bound.
fn works<S: Store>(client: &Client<S>, open: impl Fn(&Path) -> S) {
    let other = Client::new(&client.disk, open(client.disk.path()));
    for (one, another) in [(client, &other), (&other, client)] {
        assert_eq!(one.run(put(&["works"], "1")), Ok(Reply::Done));
        assert_holds(another, "works", "1");
        let listed = another.list(&["works"]);
        assert_eq!(listed, Ok([(r#"["works"]"#.into(), "1".into())].into()));
        assert_eq!(another.run(delete(&["works"])), Ok(Reply::Done));
    }
    assert_eq!(other.run(Command::Close), Ok(Reply::Done));
    let before = client.disk.now();
    let checkpointed = |event: &Event| matches!(event, Event::File(Kind::Database, Change::Wrote { .. }));
    loop {
        fill(client);
        let events = client.disk.events_from(before);
        if events.iter().any(checkpointed) {
            return;
        }
        let in_log = |event: &Event| match event {
            Event::File(Kind::Wal, Change::Wrote { offset, .. }) => Some(*offset),
            _ => None,
        };
        let mut log = events.iter().filter_map(in_log);
        let begin = log.next().unwrap();
        let grown = log.next_back().unwrap().saturating_sub(begin);
        assert!(grown < MOST_LOG_BYTES, "no checkpoint for {grown} bytes of the log");
    }
}

fn later_connections_fail<S: Store>(client: &Client<S>, open: impl Fn(&Path) -> S) {
    // One for a checkpoint may be open just then, and SQLite
    // keeps a descriptor that it can't close yet for the next connection.
    let before = descriptors(client.disk.path());
    for _ in 0..6 {
        fill_until_hit(
            client,
            &client
                .disk
                .fail(ffi::SQLITE_IOERR_READ, When::Nth(1), Call::reads_header),
        );
    }
    works(client, &open);
    let after = descriptors(client.disk.path());
    assert!(after <= before + 3, "{before} descriptors, then {after}");
}

fn one_failed_read_does_not_close_the_file<S: Store>(open: impl Fn(&Path) -> S) {
    let folder = Folder::new();
    let disk = Disk::watch(&folder.path("a.db"));
    // The first connection of each kind: to write, to get, to list, and for
    // checkpoints.
    for nth in 1..=5 {
        let failing = disk.fail(ffi::SQLITE_IOERR_READ, When::Nth(nth), Call::reads_header);
        let client = Client::new(&disk, open(disk.path()));
        let first = client.run(put(&["a"], "1"));
        let listed = client.list(&[]);
        if first.is_ok() && listed.is_ok() {
            fill_until_hit(&client, &failing);
        }
        drop(failing);
        assert_eq!(client.run(put(&["a"], "1")), Ok(Reply::Done), "connection {nth}");
        let listed = client.list(&["a"]);
        assert_eq!(listed, Ok([(r#"["a"]"#.into(), "1".into())].into()), "connection {nth}");
        works(&client, &open);
        if nth == 5 {
            later_connections_fail(&client, &open);
        }
        assert_eq!(client.run(Command::Drop), Ok(Reply::Done), "connection {nth}");
        assert_eq!(client.list(&[]), Ok(BTreeMap::new()), "connection {nth}");
        assert_eq!(client.run(Command::Close), Ok(Reply::Done));
        assert_eq!(descriptors(disk.path()), 0, "connection {nth}");
    }
}

#[test]
fn one_failed_read_does_not_close_a_sqlite_file() {
    one_failed_read_does_not_close_the_file(sqlite);
}

#[test]
fn one_failed_read_does_not_close_a_deno_file() {
    one_failed_read_does_not_close_the_file(deno);
}

fn a_file_that_cannot_be_opened_is_opened_later<S: Store>(open: impl Fn(&Path) -> S) {
    let faults = [
        (Kind::Database, ffi::SQLITE_CANTOPEN),
        (Kind::Database, ffi::SQLITE_IOERR),
        (Kind::Wal, ffi::SQLITE_CANTOPEN),
        (Kind::Database, ffi::SQLITE_NOMEM),
    ];
    for (kind, code) in faults {
        for nth in 1..=3 {
            let folder = Folder::new();
            let disk = Disk::watch(&folder.path("a.db"));
            let failing = disk.fail(code, When::Nth(nth), move |call| call.is(kind, Method::Open));
            let client = Client::new(&disk, open(disk.path()));
            let _ = client.run(put(&["a"], "1"));
            let _ = client.list(&[]);
            drop(failing);
            assert_eq!(client.run(put(&["a"], "1")), Ok(Reply::Done));
            assert_holds(&client, "a", "1");
            assert_eq!(client.list(&[]), Ok([(r#"["a"]"#.into(), "1".into())].into()));
            assert_eq!(client.run(Command::Close), Ok(Reply::Done));
            assert_eq!(descriptors(disk.path()), 0);
        }
    }
}

#[test]
fn a_sqlite_file_that_cannot_be_opened_is_opened_later() {
    a_file_that_cannot_be_opened_is_opened_later(sqlite);
}

#[test]
fn a_deno_file_that_cannot_be_opened_is_opened_later() {
    a_file_that_cannot_be_opened_is_opened_later(deno);
}
