//! What the embedded stores do when the system refuses something: a sync, a
//! write, or the opening of a file.

use super::test_client::{Client, Folder, cas, delete, key, put, text};
use super::test_vfs::{Call, Disk, Kind, Method, When};
use super::{DenoOptions, DenoStore, SqliteOptions, SqliteStore};
use crate::kv::{Command, JsonText, Outcome, Reply, Store, Write};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::ffi;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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
