//! What acknowledged writes survive. Stores run on a disk that records their
//! writes and syncs; from the record, the files are built as a power loss or a
//! kill would have left them, and compared with the history of operations.

use super::test_client::{Client, Folder, cas, delete, prefix, put, put_for, text};
use super::test_vfs::{Action, Call, Change, Disk, Event, Kind, Method, Replay};
use super::{DenoOptions, DenoStore, Durability, SqliteOptions, SqliteStore};
use crate::kv::{Command, Outcome, Reply, Store, Ticket};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// JSON keys and values.
type Entries = BTreeMap<String, String>;

/// What a key holds after an operation.
struct Version {
    ticket: Ticket,
    value: Option<String>,
    /// It may be gone at any time.
    expires: bool,
}

/// Random operations on a store, and what they must lead to. Operations on one
/// key take effect in the order of the calls, so the values are known when they
/// are called.
struct History<S> {
    client: Client<S>,
    random: StdRng,
    versions: BTreeMap<String, Vec<Version>>,
    /// By ticket.
    expected: Vec<Outcome>,
    /// Entries that never expire, after the last operation.
    state: Entries,
    clears: bool,
}

impl<S: Store> History<S> {
    fn new(disk: &Arc<Disk>, store: S, seed: u64) -> Self {
        let client = Client::new(disk, store);
        let mut history = Self {
            client,
            random: StdRng::seed_from_u64(seed),
            versions: BTreeMap::new(),
            expected: Vec::new(),
            state: Entries::new(),
            clears: true,
        };
        history.submit(Command::Initialize, Reply::Done, [], false);
        history.wait(0);
        history
    }

    fn submit(
        &mut self,
        command: Command,
        reply: Reply,
        writes: impl IntoIterator<Item = (String, Option<String>)>,
        expires: bool,
    ) -> Ticket {
        let ticket = self.client.submit(command);
        assert_eq!(ticket, self.expected.len());
        self.expected.push(Ok(reply));
        for (key, value) in writes {
            match &value {
                Some(value) if !expires => drop(self.state.insert(key.clone(), value.clone())),
                _ => drop(self.state.remove(&key)),
            }
            let version = Version { ticket, value, expires };
            self.versions.entry(key).or_default().push(version);
        }
        ticket
    }

    fn wait(&self, ticket: Ticket) {
        assert_eq!(self.client.wait_for(ticket), self.expected[ticket]);
    }

    fn value(&mut self, most_bytes: usize) -> String {
        let length = self.random.gen_range(0..most_bytes);
        format!(r#""{} {}""#, self.expected.len(), "x".repeat(length))
    }

    /// Calls a random operation.
    fn random(&mut self) -> Ticket {
        let number = self.random.gen_range(0..12).to_string();
        let value = self.value(3000);
        let group = if self.random.gen_bool(0.5) { "a" } else { "b" };
        let parts = [group, number.as_str()];
        let key = format!(r#"["{group}","{number}"]"#);
        match self.random.gen_range(0..100) {
            0..50 => self.submit(put(&parts, &value), Reply::Done, [(key, Some(value))], false),
            50..62 => self.submit(delete(&parts), Reply::Done, [(key, None)], false),
            62..90 => {
                let current = self.state.get(&key).cloned();
                let expected = match self.random.gen_range(0..10) {
                    0..7 => current.clone(),
                    7 => None,
                    _ => Some("0".into()),
                };
                let swaps = expected == current;
                let command = cas(&parts, expected.as_deref(), &value);
                let write = swaps.then_some((key, Some(value)));
                self.submit(command, Reply::Swapped(swaps), write, false)
            }
            90..93 if self.clears => {
                let under = format!(r#"["{group}","#);
                let doomed: Vec<_> = self
                    .state
                    .keys()
                    .filter(|key| key.starts_with(&under))
                    .cloned()
                    .collect();
                let reply = Reply::Count(doomed.len() as u64);
                let writes = doomed.into_iter().map(|key| (key, None));
                self.submit(Command::Clear(prefix(&[group])), reply, writes, false)
            }
            _ => {
                let parts = ["ttl", number.as_str()];
                let key = format!(r#"["ttl","{number}"]"#);
                let command = put_for(&parts, &value, self.random.gen_range(1.0..50.0));
                self.submit(command, Reply::Done, [(key, Some(value))], true)
            }
        }
    }

    /// One operation after another.
    fn sequence(&mut self, operations: usize) {
        for _ in 0..operations {
            let ticket = self.random();
            self.wait(ticket);
        }
    }

    /// Many operations at once.
    fn burst(&mut self, operations: usize) {
        let tickets: Vec<_> = (0..operations).map(|_| self.random()).collect();
        for ticket in tickets {
            self.wait(ticket);
        }
    }

    /// Entries of so many bytes in all, which make the log long.
    fn large(&mut self, entries: usize, bytes: usize) {
        for number in 0..entries {
            let value = format!(r#""{}""#, "y".repeat(bytes / entries));
            let number = number.to_string();
            let key = format!(r#"["large","{number}"]"#);
            let ticket = self.submit(
                put(&["large", &number], &value),
                Reply::Done,
                [(key, Some(value))],
                false,
            );
            self.wait(ticket);
        }
    }

    /// Many keys at once, which make checkpoints due.
    fn many(&mut self, entries: usize) {
        let mut last = 0;
        for number in 0..entries {
            let number = number.to_string();
            let value = format!(r#""{}""#, self.expected.len());
            let write = (format!(r#"["many","{number}"]"#), Some(value.clone()));
            last = self.submit(put(&["many", &number], &value), Reply::Done, [write], false);
        }
        self.wait(last);
    }

    /// While the store is idle, waits for an event.
    fn idle_until(&self, is: impl Fn(&Event) -> bool) {
        self.client.disk.wait_for(self.client.disk.now(), is);
    }

    /// Entries that never expire, after each number of operations.
    fn states(&self) -> Vec<Entries> {
        let mut writes: BTreeMap<Ticket, Vec<_>> = BTreeMap::new();
        for (key, versions) in &self.versions {
            for version in versions.iter().filter(|version| !version.expires) {
                writes.entry(version.ticket).or_default().push((key, &version.value));
            }
        }
        let mut states = vec![Entries::new()];
        for ticket in 0..self.expected.len() {
            let mut state = states[ticket].clone();
            for (key, value) in writes.remove(&ticket).unwrap_or_default() {
                match value {
                    Some(value) => drop(state.insert(key.clone(), value.clone())),
                    None => drop(state.remove(key)),
                }
            }
            states.push(state);
        }
        states
    }

    /// Whether stored entries may be the result of the operations that were
    /// acknowledged, and of any number of later ones on each key.
    fn check(&self, acknowledged: &BTreeSet<Ticket>, found: &Entries) -> Result<(), String> {
        if let Some(unknown) = found.keys().find(|key| !self.versions.contains_key(*key)) {
            return Err(format!("{unknown} was never written"));
        }
        for (key, versions) in &self.versions {
            let last = versions
                .iter()
                .rposition(|version| acknowledged.contains(&version.ticket));
            let possible = &versions[last.unwrap_or(0)..];
            let value = found.get(key);
            let fits = |version: &Version| version.value.as_ref() == value || version.expires && value.is_none();
            if !(last.is_none() && value.is_none() || possible.iter().any(fits)) {
                return Err(format!("{key} lost operation {}", possible[0].ticket));
            }
        }
        Ok(())
    }

    /// Lets the power go off at each acknowledgement. How many that were.
    fn check_power_losses(&self, folder: &Folder, read: impl Fn(&Path) -> Entries) -> Result<usize, String> {
        let image = folder.path("image.db");
        let mut random = StdRng::seed_from_u64(1);
        let mut acknowledged = BTreeSet::new();
        let mut checked = 0;
        let mut skipped = 0;
        let mut replay = Replay::of(&self.client.disk);
        while let Some(event) = replay.peek() {
            let marked = if let Event::Mark(ticket) = event {
                acknowledged.insert(*ticket)
            } else {
                false
            };
            replay.advance();
            // A long log costs time.
            let rarely = replay.synced(Kind::Wal).len() > 1 << 20;
            skipped += usize::from(marked);
            if !marked || matches!(replay.peek(), Some(Event::Mark(_))) || rarely && skipped < 8 {
                continue;
            }
            skipped = 0;
            checked += 1;
            replay.power_loss(&image, || false);
            self.check(&acknowledged, &read(&image))?;
            if !rarely {
                replay.power_loss(&image, || random.gen_bool(0.5));
                self.check(&acknowledged, &read(&image))?;
            }
        }
        Ok(checked)
    }
}

/// Checks the order of checkpoints. What goes from the log into the database is
/// on the disk in the log before; and the log is not written over, truncated or
/// deleted before the database is on the disk.
fn check_checkpoints(disk: &Disk) -> Result<(), String> {
    let mut replay = Replay::of(disk);
    let mut logs = false;
    while let Some(event) = replay.peek() {
        match event {
            Event::File(Kind::Database, Change::Wrote { offset, bytes }) if logs => {
                let number = u32::try_from(offset / bytes.len() + 1).unwrap().to_be_bytes();
                let log = replay.synced(Kind::Wal);
                let mut frames = log.get(32..).unwrap_or_default().chunks_exact(24 + bytes.len());
                if !frames.any(|frame| frame[..4] == number && frame[24..] == *bytes) {
                    return Err(format!("the log has no synced frame of what is written at {offset}"));
                }
            }
            Event::File(Kind::Wal, Change::Wrote { offset: 0, .. } | Change::Resized(_) | Change::Deleted { .. }) => {
                logs = true;
                if !replay.is_synced(Kind::Database) {
                    return Err("the log is given up before the database is synced".into());
                }
            }
            Event::File(..) | Event::Mark(_) => {}
        }
        replay.advance();
    }
    Ok(())
}

/// Opens files as they are after a crash, and leaves them so.
fn open_image(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    connection
}

/// What SQLite makes of files after a crash.
fn recover(path: &Path) -> Entries {
    let connection = open_image(path);
    let sound: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sound, "ok");
    let Ok(mut statement) = connection.prepare("SELECT key, value FROM fedify_kv") else {
        return Entries::new();
    };
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// The same for Deno's format, with strings of ASCII as values.
fn recover_deno(path: &Path) -> Entries {
    let connection = open_image(path);
    let Ok(mut statement) = connection.prepare("SELECT k, v FROM kv") else {
        return Entries::new();
    };
    let ascii = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let rows = statement.query_map([], |row| {
        let (key, value): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
        // Each part is a 2, the text and a 0.
        let parts = key.split(|byte| *byte == 0).filter_map(|part| part.get(1..)).map(ascii);
        let key = serde_json::to_string(&parts.collect::<Vec<_>>()).unwrap();
        // Version 15, a one-byte string, and its length in groups of 7 bits.
        assert_eq!(value[..3], [0xff, 15, b'"']);
        let length = value[3..].iter().position(|byte| *byte < 0x80).unwrap() + 1;
        let value = serde_json::to_string(&ascii(&value[3 + length..])).unwrap();
        Ok((key, value))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn sqlite(disk: &Disk, durability: Durability) -> SqliteStore {
    let options = SqliteOptions {
        durability,
        ..SqliteOptions::default()
    };
    SqliteStore::at(text(disk.path()), options).unwrap()
}

fn sqlite_history(folder: &Folder, durability: Durability) -> History<SqliteStore> {
    let disk = Disk::watch(&folder.path("a.db"));
    History::new(&disk, sqlite(&disk, durability), 7)
}

fn synced(kind: Kind) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::File(of, Change::Synced { .. }) if *of == kind)
}

/// A sweep writes while no operation is under way. So does the start of a log,
/// but that is one page.
fn swept(event: &Event) -> bool {
    matches!(event, Event::File(Kind::Wal, Change::Wrote { offset, .. }) if *offset > 32 + 24 + 4096)
}

#[test]
fn sqlite_full_writes_survive_a_power_loss_once_acknowledged() {
    let folder = Folder::new();
    let mut history = sqlite_history(&folder, Durability::Full);
    history.sequence(100);
    for _ in 0..4 {
        history.burst(40);
    }
    history.idle_until(swept);
    history.sequence(20);
    // Checkpoints come in pauses, and when the log is long.
    history.idle_until(synced(Kind::Database));
    history.sequence(20);
    history.burst(40);
    history.large(20, 18 << 20);
    history.sequence(20);
    history.burst(20);
    let restarts = history.client.disk.events();
    let restarts = restarts
        .iter()
        .filter(|event| matches!(event, Event::File(Kind::Wal, Change::Wrote { offset: 0, .. })));
    assert!(restarts.count() > 1, "the log never started over");
    let last = history.submit(Command::Close, Reply::Done, [], false);
    history.wait(last);
    check_checkpoints(&history.client.disk).unwrap();
    let checked = history.check_power_losses(&folder, recover).unwrap();
    assert!(checked > 50, "{checked} moments");
}

#[test]
fn deno_writes_survive_a_power_loss_once_acknowledged() {
    let folder = Folder::new();
    let disk = Disk::watch(&folder.path("a.db"));
    let store = DenoStore::at(text(disk.path()), DenoOptions::default()).unwrap();
    let mut history = History::new(&disk, store, 8);
    history.sequence(40);
    for _ in 0..4 {
        history.burst(40);
    }
    history.many(500);
    history.idle_until(swept);
    history.sequence(20);
    history.idle_until(synced(Kind::Database));
    history.sequence(20);
    let last = history.submit(Command::Close, Reply::Done, [], false);
    history.wait(last);
    check_checkpoints(&history.client.disk).unwrap();
    let checked = history.check_power_losses(&folder, recover_deno).unwrap();
    assert!(checked > 50, "{checked} moments");
}

#[test]
fn a_write_is_acknowledged_after_its_sync() {
    let folder = Folder::new();
    let disk = Disk::watch(&folder.path("a.db"));
    let client = Client::new(&disk, sqlite(&disk, Durability::Full));
    client.run(Command::Initialize).unwrap();
    let before = disk.now();
    let (gate, _active) = disk.pause(|call| call.is(Kind::Wal, Method::Sync));
    let ticket = client.submit(put(&["a"], "1"));
    gate.wait_until_reached();
    let is_mark = |event: &Event| matches!(event, Event::Mark(_));
    assert!(!disk.events_from(before).iter().any(is_mark));
    gate.open();
    assert_eq!(client.wait_for(ticket), Ok(Reply::Done));
    assert!(is_synced_when_acknowledged(&disk.events()[before..], ticket, before));
}

/// Whether all that was written to the log before the acknowledgement of an
/// operation was synced then, given the events from a number on.
fn is_synced_when_acknowledged(events: &[Event], ticket: Ticket, from: usize) -> bool {
    let is_mark = |event: &Event| matches!(event, Event::Mark(marked) if *marked == ticket);
    let mark = events.iter().position(is_mark).unwrap();
    let wrote = |event: &Event| matches!(event, Event::File(Kind::Wal, Change::Wrote { .. }));
    let written = events[..mark].iter().rposition(wrote).unwrap();
    let synced = |event: &Event| matches!(event, Event::File(Kind::Wal, Change::Synced { before, .. }) if *before > from + written);
    events[written..mark].iter().any(synced)
}

#[test]
fn a_full_write_does_not_join_a_transaction_without_a_sync() {
    let folder = Folder::new();
    let client = warm(&folder, relaxed());
    let caller = std::thread::current().id();
    let before = client.disk.now();
    let (gate, _active) = client
        .disk
        .pause(move |call| call.method == Method::ShmLock && std::thread::current().id() != caller);
    // The first may be done on this thread, so the second is not.
    client.submit(put(&["a", "1"], "1"));
    let relaxed = client.submit(put(&["a", "2"], "2"));
    gate.wait_until_reached();
    let full = client.submit(put(&["b"], "3"));
    gate.open();
    for ticket in [relaxed, full] {
        assert_eq!(client.wait_for(ticket), Ok(Reply::Done));
    }
    let events = client.disk.events();
    assert!(is_synced_when_acknowledged(&events[before..], full, before));
    assert!(!is_synced_when_acknowledged(&events[before..], relaxed, before));
}

#[test]
fn a_closed_store_does_not_open_its_file_again() {
    let folder = Folder::new();
    let disk = Disk::watch(&folder.path("a.db"));
    let client = Client::new(&disk, sqlite(&disk, Durability::Full));
    client.run(put(&["a"], "1")).unwrap();
    let (gate, _active) = disk.pause(|call| call.is(Kind::Database, Method::Sync));
    let close = client.submit(Command::Close);
    gate.wait_until_reached();
    // A checkpoint becomes due meanwhile: 200 ms after the write.
    std::thread::sleep(Duration::from_millis(300));
    gate.open();
    assert_eq!(client.wait_for(close), Ok(Reply::Done));
    // There is no event that tells that none comes.
    std::thread::sleep(Duration::from_millis(100));
    let events = disk.events();
    let closed = events
        .iter()
        .position(|event| matches!(event, Event::Mark(ticket) if *ticket == close));
    let opened = |event: &Event| matches!(event, Event::File(_, Change::Opened));
    assert!(!events[closed.unwrap()..].iter().any(opened));
}

/// A disk that breaks its promises by a rule from now on: whether the check
/// fails.
fn is_detected(rule: impl Fn(&Call) -> Option<Action> + Send + Sync + 'static) -> bool {
    let folder = Folder::new();
    let mut history = sqlite_history(&folder, Durability::Full);
    history.sequence(5);
    history.check_power_losses(&folder, recover).unwrap();
    let _active = history.client.disk.rule(rule);
    history.sequence(20);
    history.check_power_losses(&folder, recover).is_err()
}

#[test]
fn the_check_detects_writes_after_the_sync() {
    // The header of the log is written and synced before any frames.
    assert!(is_detected(|call| {
        (call.is(Kind::Wal, Method::Write) && call.offset > 0).then_some(Action::Hold)
    }));
}

#[test]
fn the_check_detects_missing_syncs() {
    assert!(is_detected(|call| {
        call.is(Kind::Wal, Method::Sync).then_some(Action::Skip)
    }));
}

#[test]
fn the_check_of_checkpoints_detects_missing_syncs() {
    for skipped in [Kind::Wal, Kind::Database] {
        let folder = Folder::new();
        let mut history = sqlite_history(&folder, Durability::Normal);
        history.sequence(5);
        let disk = Arc::clone(&history.client.disk);
        let checkpointed = |event: &Event| matches!(event, Event::File(Kind::Database, Change::Closed));
        history.idle_until(checkpointed);
        history.sequence(5);
        check_checkpoints(&disk).unwrap();
        let _active = disk.rule(move |call| call.is(skipped, Method::Sync).then_some(Action::Skip));
        history.sequence(5);
        let last = history.submit(Command::Close, Reply::Done, [], false);
        history.wait(last);
        check_checkpoints(&disk).unwrap_err();
    }
}

/// The history of a store whose writes survive what its options say. In bursts
/// and pauses, with checkpoints.
fn unsynced_history(folder: &Folder, options: SqliteOptions) -> History<SqliteStore> {
    let disk = Disk::watch(&folder.path("a.db"));
    let store = SqliteStore::at(text(disk.path()), options).unwrap();
    let mut history = History::new(&disk, store, 7);
    history.clears = false;
    for _ in 0..3 {
        history.sequence(40);
        history.burst(40);
        history.idle_until(synced(Kind::Database));
    }
    history.sequence(20);
    check_checkpoints(&disk).unwrap();
    history
}

/// Everything is there after a kill; after a power loss, what the first
/// operations have led to, those included whose tickets `must_be_safe` at the
/// moment of their acknowledgement.
fn check_prefixes(history: &History<SqliteStore>, folder: &Folder, must_be_safe: impl Fn(Ticket) -> bool) {
    let states = history.states();
    let image = folder.path("image.db");
    let mut random = StdRng::seed_from_u64(2);
    let mut replay = Replay::of(&history.client.disk);
    // Operations that were acknowledged before each event; and of those, the
    // ones that a sync of the log has made safe.
    let mut acknowledged = vec![0];
    let mut safe = 0;
    let mut prefixes = BTreeSet::new();
    let read = |path: &Path| {
        let mut entries = recover(path);
        entries.retain(|key, _| !key.starts_with(r#"["ttl""#));
        entries
    };
    while let Some(event) = replay.peek() {
        let mut now = acknowledged[acknowledged.len() - 1];
        let mut is_full = false;
        match event {
            Event::Mark(ticket) => {
                now = ticket + 1;
                is_full = must_be_safe(*ticket);
                if is_full {
                    safe = now;
                }
            }
            Event::File(Kind::Wal, Change::Synced { before, .. }) => safe = safe.max(acknowledged[*before]),
            Event::File(..) => {}
        }
        acknowledged.push(now);
        let marked = matches!(event, Event::Mark(_));
        replay.advance();
        let is_last_mark = marked && !matches!(replay.peek(), Some(Event::Mark(_)));
        if is_last_mark {
            replay.kill(&image);
            assert_eq!(read(&image), states[now], "after {now} operations");
        }
        if is_last_mark && is_full || random.gen_bool(0.1) {
            replay.power_loss(&image, || random.gen_bool(0.7));
            let found = read(&image);
            let prefix = states.iter().rposition(|state| *state == found);
            let prefix = prefix.expect("the result of the first operations");
            assert!(prefix >= safe, "{prefix} of {safe} that are safe");
            prefixes.insert(prefix);
        }
    }
    assert!(prefixes.len() > 3, "{prefixes:?}");
}

#[test]
fn sqlite_normal_keeps_a_prefix_in_a_power_loss_and_everything_in_a_kill() {
    let folder = Folder::new();
    let options = SqliteOptions {
        durability: Durability::Normal,
        ..SqliteOptions::default()
    };
    let history = unsynced_history(&folder, options);
    check_prefixes(&history, &folder, |_| false);
}

#[test]
fn sqlite_relaxed_writes_are_safe_once_a_full_one_follows() {
    let folder = Folder::new();
    let options = SqliteOptions {
        relaxed: vec![prefix(&["a"]), prefix(&["ttl"])],
        ..SqliteOptions::default()
    };
    let history = unsynced_history(&folder, options);
    // A write that changes nothing needs no sync.
    let changes = |versions: &[Version], ticket| {
        let place = versions.iter().position(|version| version.ticket == ticket);
        place.is_some_and(|place| {
            let before = place.checked_sub(1).and_then(|before| versions[before].value.as_ref());
            versions[place].value.as_ref() != before
        })
    };
    let is_full = |ticket| {
        let mut full = history.versions.iter().filter(|(key, _)| key.starts_with(r#"["b""#));
        full.any(|(_, versions)| changes(versions, ticket))
    };
    check_prefixes(&history, &folder, is_full);
}

/// A store whose calling thread has a connection, and a log that is begun.
fn warm(folder: &Folder, options: SqliteOptions) -> Client<SqliteStore> {
    let disk = Disk::watch(&folder.path("a.db"));
    let client = Client::new(&disk, SqliteStore::at(text(disk.path()), options).unwrap());
    client.run(put(&["a"], "0")).unwrap();
    client
}

fn relaxed() -> SqliteOptions {
    SqliteOptions {
        relaxed: vec![prefix(&["a"])],
        ..SqliteOptions::default()
    }
}

fn normal() -> SqliteOptions {
    SqliteOptions {
        durability: Durability::Normal,
        ..SqliteOptions::default()
    }
}

/// Waits until the log was started over, in a pause.
fn wait_for_new_log(disk: &Disk, from: usize) {
    let header = |event: &Event| matches!(event, Event::File(Kind::Wal, Change::Wrote { offset: 0, .. }));
    let moved = disk.wait_for(from, synced(Kind::Database));
    let begun = disk.wait_for(moved, header);
    disk.wait_for(begun, synced(Kind::Wal));
}

#[test]
fn the_first_write_after_a_pause_does_not_start_the_log() {
    let folder = Folder::new();
    let client = warm(&folder, SqliteOptions::default());
    wait_for_new_log(&client.disk, 0);
    let before = client.disk.now();
    client.run(put(&["b"], "1")).unwrap();
    let events = client.disk.events();
    let syncs = events[before..].iter().filter(|event| synced(Kind::Wal)(event));
    assert_eq!(syncs.count(), 1);

    let folder = Folder::new();
    let client = warm(&folder, normal());
    wait_for_new_log(&client.disk, 0);
    // The writer may still hold the lock.
    while client.store.answer(put(&["b"], "1"), false).is_err() {
        std::thread::yield_now();
    }
}

#[test]
fn lone_writes_are_done_on_the_calling_thread_without_a_sync() {
    for options in [normal(), relaxed()] {
        let folder = Folder::new();
        let client = warm(&folder, options);
        let caller = std::thread::current().id();
        let syncs = client.disk.rule(move |call| {
            let is_sync = call.method == Method::Sync && std::thread::current().id() == caller;
            is_sync.then_some(Action::Skip)
        });
        let mut inline = 0;
        let mut counts = BTreeMap::new();
        for number in 0..5000 {
            let (part, value) = ((number % 700).to_string(), number.to_string());
            let expected = counts.insert(part.clone(), value.clone());
            let (command, reply) = match number % 3 {
                0 => (cas(&["a", &part], expected.as_deref(), &value), Reply::Swapped(true)),
                _ => (put(&["a", &part], &value), Reply::Done),
            };
            match client.store.answer(command, false) {
                Ok(outcome) => {
                    inline += 1;
                    assert_eq!(outcome, Ok(reply));
                }
                Err(command) => assert_eq!(client.run(command), Ok(reply)),
            }
            assert_eq!(client.get(&["a", &part]), Ok(Some(value)));
        }
        assert_eq!(syncs.hits(), 0);
        // The others came while the log was moved, or had to be begun.
        assert!(inline > 2500, "{inline} of 5000");
        assert_eq!(client.list(&["a"]).unwrap().len(), 701);
    }
}
