//! What a Deno KV file promises beyond what all stores do. Deno's own engine is
//! compared with.

use super::FileStore;
use super::schema::VERSIONS;
use crate::kv::{
    Answer, Command, Error, Job, JsonText, Key, KeyBuilder, Lifetime, Outbox, Outcome, PageLimits, Prefix, Reply,
    Store, Ticket, Ttl, Write, now,
};
use crate::stores::database::{Connection, Location};
use denokv_proto::{AtomicWrite, Consistency, KvValue, Mutation, MutationKind, ReadRange, SnapshotReadOptions};
use denokv_sqlite::{Sqlite, SqliteConfig, SqliteNotifier};
use futures::executor::block_on;
use parking_lot::Mutex;
use rand::SeedableRng;
use rusqlite::ffi;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

struct Inbox(Mutex<Sender<Outcome>>);

impl Outbox for Inbox {
    fn deliver(&self, outcomes: Vec<(Ticket, Outcome)>) {
        for (_, outcome) in outcomes {
            self.0.lock().send(outcome).unwrap();
        }
    }
}

fn submit(store: &FileStore, outbox: Arc<dyn Outbox>, command: Command) {
    let answer = Answer::new(0, outbox, &command);
    store.submit(Job { command, answer });
}

fn start(store: &FileStore, command: Command) -> Receiver<Outcome> {
    let (sender, outcome) = channel();
    submit(store, Arc::new(Inbox(Mutex::new(sender))), command);
    outcome
}

fn run(store: &FileStore, command: Command) -> Outcome {
    start(store, command).recv_timeout(Duration::from_secs(60)).unwrap()
}

fn key(part: &str) -> Key {
    let mut builder = KeyBuilder::default();
    builder.push(part);
    builder.key().unwrap()
}

fn put(part: &str, text: &str) -> Command {
    Command::Put(key(part), Write::new(JsonText::new(text.into()), Lifetime::Unlimited))
}

/// By the writer, which is where a `get` goes that can't be answered at once.
fn get(store: &FileStore, part: &str) -> Option<String> {
    match run(store, Command::Get(key(part))).unwrap() {
        Reply::Value(_, value) => value.map(JsonText::into_string),
        other => panic!("{other:?}"),
    }
}

fn get_at_once(store: &FileStore, part: &str) -> Option<String> {
    match store.answer(Command::Get(key(part)), false) {
        Ok(Ok(Reply::Value(_, value))) => value.map(JsonText::into_string),
        other => panic!("{other:?}"),
    }
}

fn count(store: &FileStore) -> u32 {
    let mut pages = store.pages(Prefix::ALL, PageLimits::default());
    let mut count = 0;
    loop {
        let page = block_on(pages.next_page()).unwrap();
        count += page.entries();
        if page.is_last() {
            return count;
        }
    }
}

fn in_memory() -> FileStore {
    FileStore::at(Location::memory(), Duration::from_secs(5))
}

/// A path of a test's own, whose files are gone when it is over.
struct Path(PathBuf);

impl Path {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "fedify-kv-deno-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        Self(std::env::temp_dir().join(name))
    }

    fn store(&self) -> FileStore {
        FileStore::at(Location::File(self.0.clone()), Duration::from_secs(5))
    }

    fn connection(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.0).unwrap()
    }

    /// Lets Deno's engine work on the file.
    fn with_engine<T>(&self, body: impl FnOnce(&Sqlite) -> T) -> T {
        let connect = || {
            let rng = Box::new(rand::rngs::StdRng::from_entropy());
            Ok((self.connection(), rng as Box<_>))
        };
        let config = SqliteConfig {
            num_workers: 1,
            batch_timeout: None,
        };
        let engine = Sqlite::new(connect, SqliteNotifier::default(), config).unwrap();
        let result = body(&engine);
        engine.close();
        result
    }

    /// The tables with their columns, the indexes, and the tables' version.
    fn schema(&self) -> Vec<String> {
        let connection = self.connection();
        let mut statement = connection
            .prepare(
                "SELECT format('%s %s %s', s.name, s.type, (SELECT group_concat(format('%s %s %d %Q %d', \
                   c.name, lower(c.type), c.\"notnull\", c.dflt_value, c.pk)) FROM pragma_table_xinfo(s.name) AS c)) \
                 FROM sqlite_schema AS s \
                 UNION ALL SELECT format('%d %d', k, version) FROM migration_state ORDER BY 1",
            )
            .unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<rusqlite::Result<_>>().unwrap()
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut path = self.0.clone().into_os_string();
            path.push(suffix);
            drop(std::fs::remove_file(path));
        }
    }
}

#[test]
fn tables_are_those_of_denos_engine() {
    let theirs = Path::new();
    theirs.with_engine(|_| ());
    let expected = theirs.schema();
    assert!(expected.len() > 6, "{expected:?}");
    for old in 0..=VERSIONS.len() {
        let ours = Path::new();
        if old > 0 {
            let connection = ours.connection();
            connection
                .execute_batch(
                    "CREATE TABLE migration_state (k INTEGER NOT NULL PRIMARY KEY, version INTEGER NOT NULL)",
                )
                .unwrap();
            for (version, statements) in &VERSIONS[..old] {
                connection.execute_batch(statements).unwrap();
                connection
                    .execute("REPLACE INTO migration_state VALUES (0, ?1)", [version])
                    .unwrap();
            }
        }
        let store = ours.store();
        run(&store, Command::Initialize).unwrap();
        run(&store, Command::Close).unwrap();
        assert_eq!(ours.schema(), expected, "from version {old}");
    }
}

#[test]
fn denos_engine_and_ours_go_on_with_each_others_entries() {
    let path = Path::new();
    let store = path.store();
    let ttl = Ttl::from_millis(3_600_000.0).map_or(Lifetime::Over, Lifetime::For);
    let expires = Command::Put(key("expires"), Write::new(JsonText::new("1".into()), ttl));
    run(&store, expires).unwrap();
    run(&store, put("a", r#"{"from":"us"}"#)).unwrap();
    run(&store, put("a", r#"{"from":"us","again":true}"#)).unwrap();
    run(&store, Command::Close).unwrap();
    let bytes = |part: &str| super::super::key::encode(&key(part)).unwrap();
    let versions = path.with_engine(|engine| {
        let range = ReadRange {
            start: bytes("a"),
            end: bytes("z"),
            limit: NonZeroU32::MAX,
            reverse: false,
        };
        let options = SnapshotReadOptions {
            consistency: Consistency::Strong,
        };
        let mut ranges = block_on(engine.snapshot_read(vec![range], options)).unwrap();
        let entries = ranges.remove(0).entries;
        assert_eq!(entries.len(), 2);
        assert!(entries[0].versionstamp > entries[1].versionstamp);
        let KvValue::V8(value) = &entries[0].value else {
            panic!("we write no other values");
        };
        assert!(super::super::v8::to_json(value).unwrap().unwrap().contains("again"));
        let set = |part: &str, value| Mutation {
            key: bytes(part),
            kind: MutationKind::Set(value),
            expire_at: chrono::DateTime::from_timestamp_millis(now() + 3_600_000),
        };
        let write = AtomicWrite {
            checks: Vec::new(),
            mutations: vec![set("b", KvValue::V8(value.clone()))],
            enqueues: Vec::new(),
        };
        match block_on(engine.atomic_write(write)).unwrap() {
            denokv_proto::AtomicWriteOutcome::Committed(result) => (entries[0].versionstamp, result.versionstamp),
            denokv_proto::AtomicWriteOutcome::CheckFailed { .. } => panic!("there is no check"),
        }
    });
    assert!(versions.0 < versions.1);
    let store = path.store();
    assert_eq!(get(&store, "b"), Some(r#"{"from":"us","again":true}"#.into()));
    assert_eq!(count(&store), 3);
    run(&store, Command::Close).unwrap();
}

#[test]
fn memory_that_is_full_keeps_its_entries() {
    let store = in_memory();
    let value = format!("\"{}\"", "x".repeat(50_000));
    run(&store, put("first", "0")).unwrap();
    // The limit of the database itself, which is 1 GiB otherwise.
    let other = Connection::open(store.location(), false).unwrap();
    let mut limit: i64 = 1024 * 1024;
    // SAFETY: the handle is open, and SQLITE_FCNTL_SIZE_LIMIT reads and writes an
    // integer of 64 bits.
    let status = unsafe {
        ffi::sqlite3_file_control(
            other.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_SIZE_LIMIT,
            (&raw mut limit).cast(),
        )
    };
    assert_eq!(status, ffi::SQLITE_OK);
    drop(other);
    let mut stored = 1;
    let error = loop {
        match run(&store, put(&format!("k{stored}"), &value)) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(stored > 10, "{stored}");
    assert!(
        matches!(&error, Error::Backend(why) if why.contains("full") && !why.contains("unknown")),
        "{error}"
    );
    // Together with what fits, and again and again.
    for round in 1..=5 {
        let round = round.to_string();
        let full = start(&store, put("more", &value));
        assert_eq!(run(&store, put("first", &round)), Ok(Reply::Done));
        assert_eq!(full.recv().unwrap().unwrap_err(), error);
        let write = Write::new(JsonText::new(value.clone()), Lifetime::Unlimited);
        assert_eq!(run(&store, Command::Cas(key("more"), None, write)), Err(error.clone()));
        assert_eq!(get_at_once(&store, "first"), Some(round));
    }
    assert_eq!(get(&store, "k1"), Some(value.clone()));
    assert_eq!(count(&store), stored);
    assert_eq!(
        run(&store, Command::Clear(Prefix::ALL)),
        Ok(Reply::Count(u64::from(stored)))
    );
    run(&store, put("after", &value)).unwrap();
    assert_eq!(get_at_once(&store, "after"), Some(value));
}
