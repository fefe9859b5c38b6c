//! Tests of the embedded stores without JavaScript. The suite in
//! `__test__/contract` tests what users may expect.

use super::{DenoOptions, DenoStore, Durability, MemoryStore, SqliteOptions, SqliteStore};
use crate::kv::{
    Answer, Command, Error, Job, JsonText, Key, KeyBuilder, Lifetime, Outbox, Outcome, PageLimits, Prefix, Reply,
    Store, Ticket, Ttl, Write,
};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Collects outcomes, for tests that wait for them.
#[derive(Default)]
struct Inbox {
    outcomes: Mutex<Vec<(Ticket, Outcome)>>,
    batches: AtomicUsize,
    more: Condvar,
}

impl Outbox for Inbox {
    fn deliver(&self, outcomes: Vec<(Ticket, Outcome)>) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.outcomes.lock().unwrap().extend(outcomes);
        self.more.notify_all();
    }
}

impl Inbox {
    fn job(self: &Arc<Self>, ticket: Ticket, command: Command) -> Job {
        let answer = Answer::new(ticket, self.clone(), &command);
        Job { command, answer }
    }

    fn wait_for(&self, count: usize) -> Vec<(Ticket, Outcome)> {
        let outcomes = self.outcomes.lock().unwrap();
        let wait = self
            .more
            .wait_timeout_while(outcomes, Duration::from_secs(60), |it| it.len() < count);
        let (mut outcomes, timeout) = wait.unwrap();
        assert!(!timeout.timed_out(), "{} of {count} outcomes", outcomes.len());
        std::mem::take(&mut *outcomes)
    }
}

fn run(store: &impl Store, command: Command) -> Outcome {
    match store.answer(command, false) {
        Ok(outcome) => outcome,
        Err(command) => {
            let inbox = Arc::new(Inbox::default());
            store.submit(inbox.job(7, command));
            let (ticket, outcome) = inbox.wait_for(1).remove(0);
            assert_eq!(ticket, 7);
            outcome
        }
    }
}

fn built(parts: &[&str]) -> KeyBuilder {
    let mut builder = KeyBuilder::default();
    for part in parts {
        builder.push(part);
    }
    builder
}

fn key(parts: &[&str]) -> Key {
    built(parts).key().unwrap()
}

fn prefix(parts: &[&str]) -> Prefix {
    built(parts).prefix()
}

fn json(text: &str) -> JsonText {
    JsonText::new(text.into())
}

fn put(parts: &[&str], text: &str) -> Command {
    Command::Put(key(parts), Write::new(json(text), Lifetime::Unlimited))
}

fn put_for(parts: &[&str], text: &str, millis: f64) -> Command {
    let lifetime = Ttl::from_millis(millis).map_or(Lifetime::Over, Lifetime::For);
    Command::Put(key(parts), Write::new(json(text), lifetime))
}

fn get(store: &impl Store, parts: &[&str]) -> Option<String> {
    match run(store, Command::Get(key(parts))).unwrap() {
        Reply::Value(of, value) => {
            assert_eq!(of, key(parts));
            value.map(JsonText::into_string)
        }
        other => panic!("{other:?}"),
    }
}

/// All entries of a list, read page by page.
fn list(store: &impl Store, parts: &[&str], entries: u32) -> Vec<String> {
    let mut pages = store.pages(
        prefix(parts),
        PageLimits {
            entries,
            ..PageLimits::default()
        },
    );
    let mut seen = Vec::new();
    loop {
        let mut page = futures::executor::block_on(pages.next_page()).unwrap();
        assert!(page.entries() <= entries);
        let last = page.is_last();
        let json = page.take_json();
        seen.extend(page.texts(&json).map(|(key, value)| format!("{key} {value}")));
        if last {
            return seen;
        }
    }
}

/// Runs a function when it is dropped, also after a failed assertion.
struct Finally<F: Fn()>(F);

impl<F: Fn()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A file that is deleted when this is dropped.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "fedify-kv-{}-{}.db",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        Self(std::env::temp_dir().join(name))
    }

    fn open(&self) -> SqliteStore {
        let options = SqliteOptions {
            durability: Durability::Normal,
            ..SqliteOptions::default()
        };
        SqliteStore::at(self.0.to_str().unwrap(), options).unwrap()
    }

    fn open_deno(&self) -> DenoStore {
        DenoStore::at(self.0.to_str().unwrap(), DenoOptions::default()).unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut path = self.0.clone().into_os_string();
            path.push(suffix);
            let _ = std::fs::remove_file(path);
        }
    }
}

fn works(store: &impl Store) {
    assert_eq!(get(store, &["a"]), None);
    assert_eq!(run(store, put(&["a"], "1")), Ok(Reply::Done));
    assert_eq!(get(store, &["a"]), Some("1".into()));

    let swap = |expected: Option<&str>, text: &str| {
        let write = Write::new(json(text), Lifetime::Unlimited);
        run(store, Command::Cas(key(&["a"]), expected.map(json), write))
    };
    assert_eq!(swap(None, "2"), Ok(Reply::Swapped(false)));
    assert_eq!(swap(Some("1.0"), r#"{"x":1,"y":2}"#), Ok(Reply::Swapped(true)));
    assert_eq!(swap(Some(r#"{"y":2,"x":1}"#), "3"), Ok(Reply::Swapped(true)));

    for i in 0..600 {
        run(store, put(&["p", &i.to_string()], "0")).unwrap();
    }
    run(store, put(&["p"], "0")).unwrap();
    run(store, put(&["pp"], "0")).unwrap();
    run(store, put_for(&["p", "gone"], "0", 0.0)).unwrap();
    let all = list(store, &["p"], 1000);
    assert_eq!(all.len(), 601);
    assert_eq!(list(store, &["p"], 7), all);
    assert_eq!(list(store, &[], 64).len(), 603);
    assert_eq!(run(store, Command::Clear(prefix(&["p"]))), Ok(Reply::Count(601)));
    assert_eq!(list(store, &[], 64).len(), 2);

    let start = Instant::now();
    run(store, put_for(&["short"], "1", 20.0)).unwrap();
    while get(store, &["short"]).is_some() {
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert!(start.elapsed() > Duration::from_millis(10));

    run(store, Command::Drop).unwrap();
    assert_eq!(list(store, &[], 64), Vec::<String>::new());
    assert_eq!(run(store, Command::Close), Ok(Reply::Done));
}

#[test]
fn a_memory_store_works() {
    works(&MemoryStore::default());
}

#[test]
fn a_sqlite_store_works() {
    works(&File::new().open());
    works(&SqliteStore::at(":memory:", SqliteOptions::default()).unwrap());
}

#[test]
fn queued_writes_share_transactions() {
    let file = File::new();
    let store = file.open();
    run(&store, Command::Initialize).unwrap();
    let inbox = Arc::new(Inbox::default());
    for ticket in 0..5000 {
        let command = put(&["k", &ticket.to_string()], "1");
        store.submit(inbox.job(ticket, command));
    }
    let outcomes = inbox.wait_for(5000);
    assert!(
        outcomes
            .iter()
            .enumerate()
            .all(|(i, (ticket, outcome))| i == *ticket && *outcome == Ok(Reply::Done))
    );
    let batches = inbox.batches.load(Ordering::Relaxed);
    assert!(batches < 500, "{batches} transactions");
}

#[test]
fn a_get_in_a_burst_sees_what_another_store_has_written() {
    let file = File::new();
    sees_what_another_has_written(&file.open(), &file.open());
    let file = File::new();
    sees_what_another_has_written(&file.open_deno(), &file.open_deno());
}

fn sees_what_another_has_written(reader: &impl Store, writer: &impl Store) {
    let mut at_once = 0;
    for i in 0..300 {
        run(writer, put(&["k"], &i.to_string())).unwrap();
        // The second read starts a transaction that is held open.
        for _ in 0..3 {
            assert_eq!(get(reader, &["k"]), Some(i.to_string()));
        }
        let mut pages = reader.pages(prefix(&["k"]), PageLimits::default());
        let now = pages.first_page_now();
        at_once += usize::from(now.is_some());
        // The writer may be ending the transaction at this moment.
        let mut page = now.unwrap_or_else(|| futures::executor::block_on(pages.next_page()).unwrap());
        let json = page.take_json();
        let texts: Vec<_> = page.texts(&json).collect();
        assert!(page.is_last() && texts == [(r#"["k"]"#, i.to_string().as_str())]);
    }
    assert!(at_once > 150, "{at_once} of 300 first pages");
}

#[test]
fn a_value_read_twice_is_cached_until_it_is_written_or_another_store_commits() {
    let file = File::new();
    let (ours, theirs) = (file.open(), file.open());
    let kept = |value: &str| {
        // A read keeps nothing while the writer is ending the transaction.
        while !ours.keeps(&key(&["k"])) {
            assert_eq!(get(&ours, &["k"]), Some(value.into()));
        }
    };
    run(&ours, put(&["k"], "1")).unwrap();
    kept("1");
    for i in 0..50 {
        run(&ours, put(&["other"], &i.to_string())).unwrap();
        assert!(ours.keeps(&key(&["k"])), "commit {i}");
    }
    run(&ours, put(&["k"], "2")).unwrap();
    assert!(!ours.keeps(&key(&["k"])));
    kept("2");
    run(&theirs, put(&["other"], "2")).unwrap();
    assert!(!ours.keeps(&key(&["k"])));
    kept("2");
}

#[test]
fn a_get_after_writes_of_ours_sees_what_another_store_has_written() {
    let file = File::new();
    sees_what_another_has_written_meanwhile(&file.open(), &file.open(), 3000);
    let file = File::new();
    sees_what_another_has_written_meanwhile(&file.open_deno(), &file.open_deno(), 300);
}

fn sees_what_another_has_written_meanwhile(ours: &impl Store, theirs: &impl Store, writes: u32) {
    run(theirs, put(&["counter"], "0")).unwrap();
    let resolved = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let next = resolved.load(Ordering::Relaxed) + 1;
                run(theirs, put(&["counter"], &next.to_string())).unwrap();
                resolved.store(next, Ordering::Release);
            }
        });
        let _ends_with_this = Finally(|| over.store(true, Ordering::Relaxed));
        for i in 0..writes {
            // Values stay valid through our commits, and through transactions
            // that write nothing, unless the other store commits in between.
            let command = match i % 3 {
                0 => put(&["k"], &i.to_string()),
                1 => put(&["k"], "\"same\""),
                _ => Command::Cas(key(&["k"]), None, Write::Delete),
            };
            run(ours, command).unwrap();
            for _ in 0..3 {
                let least = resolved.load(Ordering::Acquire);
                let seen = get(ours, &["counter"]).unwrap().parse::<usize>().unwrap();
                assert!(seen >= least, "{seen} after {least}");
            }
        }
    });
}

#[test]
fn a_get_does_not_overtake_a_put() {
    let file = File::new();
    let store = file.open();
    let inbox = Arc::new(Inbox::default());
    for i in 0..200 {
        store.submit(inbox.job(i, put(&["k"], &i.to_string())));
        assert_eq!(get(&store, &["k"]), Some(i.to_string()));
    }
}

#[test]
fn a_clear_and_a_put_keep_their_order() {
    let file = File::new();
    let store = file.open();
    let inbox = Arc::new(Inbox::default());
    let submit = |ticket, command| store.submit(inbox.job(ticket, command));
    for i in 0..2000 {
        submit(i, put(&["p", &i.to_string()], "0"));
    }
    submit(2000, Command::Clear(prefix(&["p"])));
    submit(2001, put(&["p", "1999"], "1"));
    submit(2002, put(&["other"], "1"));
    let mut outcomes = inbox.wait_for(2003);
    outcomes.sort_by_key(|(ticket, _)| *ticket);
    assert_eq!(outcomes[2000].1, Ok(Reply::Count(2000)));
    assert_eq!(list(&store, &["p"], 64).len(), 1);
}

#[test]
fn a_closed_store_has_released_its_file() {
    let file = File::new();
    let store = file.open();
    run(&store, put(&["k"], "1")).unwrap();
    assert_eq!(list(&store, &[], 64).len(), 1);
    run(&store, Command::Close).unwrap();
    let log = format!("{}-wal", file.0.display());
    assert!(!std::path::Path::new(&log).exists());
    let mut pages = store.pages(Prefix::ALL, PageLimits::default());
    assert_eq!(
        futures::executor::block_on(pages.next_page()).unwrap_err(),
        Error::Closed
    );
}

#[test]
#[cfg(unix)]
fn a_file_that_other_code_of_the_process_has_open_is_refused() {
    let file = File::new();
    std::fs::write(&file.0, "").unwrap();
    let other = std::fs::File::open(&file.0).unwrap();
    let store = file.open();
    assert!(matches!(run(&store, put(&["k"], "1")), Err(Error::Connection(_))));
    drop(other);
    assert_eq!(run(&store, put(&["k"], "1")), Ok(Reply::Done));
    // Another store of ours may open it.
    assert_eq!(get(&file.open(), &["k"]), Some("1".into()));
}

#[test]
fn expired_entries_of_another_process_are_removed() {
    let file = File::new();
    let options = SqliteOptions {
        sweep_interval: Duration::from_secs(1),
        ..SqliteOptions::default()
    };
    let store = SqliteStore::at(file.0.to_str().unwrap(), options).unwrap();
    run(&store, put(&["lasting"], "1")).unwrap();
    let other = rusqlite::Connection::open(&file.0).unwrap();
    let rows = || other.query_row("SELECT count(*) FROM fedify_kv", [], |row| row.get::<_, u32>(0));
    // The second comes after a sweep that found nothing.
    for _ in 0..2 {
        let insert = r#"INSERT INTO fedify_kv VALUES ('["short"]', '1', 1, 1)"#;
        assert_eq!(other.execute(insert, []), Ok(1));
        let start = Instant::now();
        while rows().unwrap() > 1 {
            assert!(start.elapsed() < Duration::from_secs(30), "it is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    drop(other);
}

/// An outbox that panics, on the thread of the store.
struct Broken;

impl Outbox for Broken {
    fn deliver(&self, _: Vec<(Ticket, Outcome)>) {
        panic!("this is part of the test");
    }
}

#[test]
fn a_writer_that_panics_costs_only_what_it_did() {
    survives_panics(&SqliteStore::at(":memory:", SqliteOptions::default()).unwrap());
    survives_panics(&DenoStore::at(":memory:", DenoOptions::default()).unwrap());
    let (sqlite, deno) = (File::new(), File::new());
    survives_panics(&sqlite.open());
    survives_panics(&deno.open_deno());
    // Another store may have the file: nothing is left open.
    assert_eq!(get(&sqlite.open(), &["before"]), Some("1".into()));
    assert_eq!(get(&deno.open_deno(), &["before"]), Some("1".into()));
    for file in [sqlite, deno] {
        let other = rusqlite::Connection::open(&file.0).unwrap();
        other.execute_batch("PRAGMA integrity_check").unwrap();
    }
}

fn survives_panics(store: &impl Store) {
    let submit = |command: Command| {
        let inbox = Arc::new(Inbox::default());
        store.submit(inbox.job(0, command));
        inbox.wait_for(1).remove(0).1
    };
    let value = |outcome| match outcome {
        Ok(Reply::Value(_, value)) => value.map(JsonText::into_string),
        other => panic!("{other:?}"),
    };
    let get_by_writer = |part: &str| value(submit(Command::Get(key(&[part]))));
    // The writer may be ending the transaction of such reads at this moment.
    let get_at_once = |part: &str| {
        let mut tries = (0..1_000_000).map(|_| store.answer(Command::Get(key(&[part])), false));
        value(tries.find_map(Result::ok).unwrap())
    };
    let break_writer = |text: &str| {
        let command = put(&["broken"], text);
        let answer = Answer::new(0, Arc::new(Broken), &command);
        store.submit(Job { command, answer });
    };
    submit(put(&["before"], "1")).unwrap();
    for round in 0..3 {
        break_writer(&round.to_string());
        // What reaches the writer before it has ended is rejected too.
        while submit(put(&["behind"], "1")).is_err() {}
        assert_eq!(get_by_writer("before"), Some("1".into()));
        assert_eq!(get_at_once("before"), Some("1".into()));
        submit(put(&["after"], &round.to_string())).unwrap();
        assert_eq!(get_by_writer("after"), Some(round.to_string()));
        assert!(list(store, &[], 64).len() >= 2);
    }
    break_writer("last");
    assert_eq!(submit(Command::Close), Ok(Reply::Done));
    assert_eq!(submit(put(&["late"], "1")), Err(Error::Closed));
}
