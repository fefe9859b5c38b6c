//! The writer thread: takes all that waits, commits it in one transaction, and
//! only then says that it is done. One sync to disk serves the whole batch.

use super::database::{self, Database};
use super::entries::Entries;
use super::list::ListConnection;
use super::log::Log;
use super::snapshot::{HOLD, Snapshot};
use super::wal::{Header, WalIndex};
use super::{Durability, Message, Shared, lock, worker};
use crate::kv::{Command, Error, Job, Key, Millis, Outbox, Outcome, Prefix, Reply, Result, Ticket, now};
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, params};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

/// Jobs in one transaction at most.
const GROUP: usize = 1024;

/// For so long, what comes while a transaction is under way joins it. Whoever
/// waits for the first of them waits no longer than for another sync.
const JOINING: Duration = Duration::from_millis(1);

/// Entries removed in one transaction by expiry and by `clear`, so that no
/// write waits long behind them.
const SLICE: u32 = 256;

/// Expired entries are invisible at once; their rows go this much later, or
/// more, and never later than `SWEEP_AT_LEAST` if another process wrote them.
const SWEEP_AT_MOST: Duration = Duration::from_secs(1);
const SWEEP_AT_LEAST: Duration = Duration::from_secs(60);

/// Frames in the log from which its content is moved into the database, beside
/// the writes; and from which writes wait until that is done.
const CHECKPOINT_FRAMES: u32 = 1000;
const MOST_FRAMES: u32 = 4000;

/// When writes pause for so long, the rest of the log is moved too: reads that
/// need not look into the log are faster.
const PAUSE: Duration = Duration::from_millis(200);

type Group = Vec<(Job, Arc<dyn Outbox>)>;
type Done = Vec<(Ticket, Outcome)>;

pub struct Writer {
    shared: Arc<Shared>,
    messages: UnboundedReceiver<Message>,
    queue: VecDeque<Message>,
    clearing: Option<Clearing>,
    open: Option<Open>,
    sweep_at: Option<Instant>,
    release_at: Option<Instant>,
    checkpoint_at: Option<Instant>,
    checkpointing: Option<JoinHandle<()>>,
    closed: bool,
}

/// What there is while the database is open.
struct Open {
    /// Dropped before the connection that maps it.
    wal: Option<WalIndex>,
    database: Database,
    /// Whether the table was seen to exist.
    table: bool,
}

/// A `clear` under way.
struct Clearing {
    job: Job,
    outbox: Arc<dyn Outbox>,
    prefix: Prefix,
    after: Value,
    last: Value,
    count: u64,
}

enum Wake {
    Message(Option<Message>),
    Held,
    Due,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, messages: UnboundedReceiver<Message>) -> Self {
        Self {
            shared,
            messages,
            queue: VecDeque::new(),
            clearing: None,
            open: None,
            sweep_at: None,
            release_at: None,
            checkpoint_at: None,
            checkpointing: None,
            closed: false,
        }
    }

    /// Until the store is closed or gone, and what was queued before is done.
    pub async fn run(mut self) {
        while !self.closed {
            if self.queue.is_empty() && self.clearing.is_none() {
                match self.wait().await {
                    Wake::Message(Some(message)) => self.queue.push_back(message),
                    Wake::Message(None) => break,
                    Wake::Held => self.release_at = Some(Instant::now() + HOLD),
                    Wake::Due => {}
                }
            }
            self.work();
            self.sweep_if_due();
            self.release_if_due();
            self.checkpoint_if_due();
        }
        self.close();
    }

    async fn wait(&mut self) -> Wake {
        let due = [self.sweep_at, self.release_at, self.checkpoint_at]
            .into_iter()
            .flatten()
            .min();
        let far = Instant::now() + Duration::from_secs(3600);
        tokio::select! {
            biased;
            message = self.messages.recv() => Wake::Message(message),
            () = self.shared.held.notified() => Wake::Held,
            () = tokio::time::sleep_until(due.unwrap_or(far)) => Wake::Due,
        }
    }

    /// Does the next piece of what waits.
    fn work(&mut self) {
        let mut group = Group::new();
        if self.join(&mut group) {
            self.commit(group);
        } else if self.clearing.is_none()
            && let Some(message) = self.queue.pop_front()
        {
            match message {
                Message::Job(job, outbox) => self.run_alone(job, outbox),
                // Nobody listens any more: then nobody needs to know.
                Message::Ready(answer) => drop(answer.send(guard(|| self.ready()))),
            }
        }
        if self.clearing.is_some() {
            self.clear_slice();
        }
    }

    /// Lets the jobs at the front that can share a transaction join a group;
    /// whether there were any. A `clear` under way holds back what concerns its
    /// keys, and all that follows.
    fn join(&mut self, group: &mut Group) -> bool {
        while let Ok(message) = self.messages.try_recv() {
            self.queue.push_back(message);
        }
        let clearing = self.clearing.as_ref();
        let fits = |job: &Job| match &job.command {
            Command::Get(key) | Command::Put(key, _) | Command::Cas(key, ..) => {
                clearing.is_none_or(|clearing| !clearing.prefix.contains_json(key.as_json()))
            }
            _ => false,
        };
        let before = group.len();
        while group.len() < GROUP {
            match self.queue.pop_front() {
                Some(Message::Job(job, outbox)) if fits(&job) => group.push((job, outbox)),
                Some(other) => {
                    self.queue.push_front(other);
                    break;
                }
                None => break,
            }
        }
        group.len() > before
    }

    /// Runs a group and delivers its outcomes.
    fn commit(&mut self, mut group: Group) {
        let outcomes = self.run_group(&mut group, true);
        for (job, _) in &group {
            self.shared.pending.remove(&job.command);
        }
        let outboxes = group.into_iter().map(|(_, outbox)| outbox);
        let mut rest = outcomes.into_iter().zip(outboxes).peekable();
        while let Some((first, outbox)) = rest.next() {
            let mut batch = vec![first];
            while let Some((next, _)) = rest.next_if(|(_, other)| Arc::ptr_eq(other, &outbox)) {
                batch.push(next);
            }
            outbox.deliver(batch);
        }
        self.checkpoint_if_long();
    }

    /// Runs a group, which others may join meanwhile if it `grows`.
    fn run_group(&mut self, group: &mut Group, grows: bool) -> Done {
        let all = |group: &Group, error: &Error| {
            let outcome = |(job, _): &(Job, _)| (job.ticket, Err(error.clone()));
            group.iter().map(outcome).collect()
        };
        if let Err(error) = guard(|| self.ready()) {
            return all(group, &error);
        }
        let mut result = self.attempt(group, grows);
        if matches!(&result, Err(Failure::NoTable(_))) && self.creates() {
            if let Err(error) = guard(|| self.renew_table()) {
                return all(group, &error);
            }
            result = self.attempt(group, grows);
        }
        match result {
            Ok(done) => done,
            // Each on its own, so that only those fail that must.
            Err(Failure::Transaction(_)) if group.len() > 1 => {
                let mut done = Done::new();
                for one in std::mem::take(group) {
                    let mut alone = vec![one];
                    done.append(&mut self.run_group(&mut alone, false));
                    group.append(&mut alone);
                }
                done
            }
            Err(Failure::NoTable(error) | Failure::Transaction(error) | Failure::Locked(error)) => all(group, &error),
        }
    }

    fn attempt(&mut self, group: &mut Group, grows: bool) -> Result<Done, Failure> {
        let open = self.open.take().ok_or(Failure::Locked(Error::Closed))?;
        let result = self.attempt_on(&open, group, grows);
        self.open = Some(open);
        result
    }

    /// One transaction; on failure nothing of it has happened.
    fn attempt_on(&mut self, open: &Open, group: &mut Group, grows: bool) -> Result<Done, Failure> {
        let writes = group.iter().any(|(job, _)| !matches!(job.command, Command::Get(_)));
        open.database
            .execute_batch(if writes { "BEGIN IMMEDIATE" } else { "BEGIN" })
            .map_err(|error| Failure::Locked(database::error(&error)))?;
        let before = if writes { self.state(open) } else { None };
        let joining = Instant::now() + JOINING;
        let shared = Arc::clone(&self.shared);
        let done = catch_unwind(AssertUnwindSafe(|| {
            let mut done = Done::with_capacity(group.len());
            let mut entries = Entries::new(&open.database, &shared.sql);
            loop {
                for (job, _) in &group[done.len()..] {
                    let outcome = run_in(&mut entries, &open.database, &job.command)?;
                    done.push((job.ticket, outcome));
                }
                // One sync serves what has come meanwhile, too.
                let grows = grows && writes && Instant::now() < joining;
                if !(grows && self.join(group)) {
                    break;
                }
            }
            let deadline = entries.deadline;
            drop(entries);
            open.database.commit().map_err(|error| Failure::of(&error))?;
            Ok((done, deadline))
        }));
        let done = done.unwrap_or_else(|_| Err(Failure::Transaction(internal())));
        if let (Ok(_), Some(before)) = (&done, before) {
            let after = before.wal.header();
            // It may be somebody else's commit too that led there.
            if before.version.is_some() && data_version(&open.database) == before.version {
                let written = group.iter().filter_map(|(job, _)| job.command.written());
                self.shared
                    .recent
                    .advance(&before.header, &after, written.map(Key::as_json));
            }
        }
        if done.is_err() && !open.database.is_autocommit() {
            // Whatever broke the transaction has been told already.
            let _ = open.database.execute_batch("ROLLBACK");
        }
        let (done, deadline) = done?;
        if let Some(deadline) = deadline {
            self.sweep_by(deadline);
        }
        Ok(done)
    }

    /// The state of the database, if values that were read in it are kept. Nobody
    /// else commits between here, within a transaction, and its end.
    fn state<'o>(&self, open: &'o Open) -> Option<State<'o>> {
        let wal = open.wal.as_ref()?;
        let header = wal.header();
        self.shared.recent.is_of(&header).then(|| State {
            wal,
            header,
            version: data_version(&open.database),
        })
    }

    /// A job that is not one entry's.
    fn run_alone(&mut self, job: Job, outbox: Arc<dyn Outbox>) {
        let outcome = match &job.command {
            Command::Clear(prefix) => {
                let (after, last) = prefix.json_range().unwrap_or_default();
                let prefix = prefix.clone();
                let (after, last) = (Value::Text(after), Value::Text(last));
                self.clearing = Some(Clearing {
                    job,
                    outbox,
                    prefix,
                    after,
                    last,
                    count: 0,
                });
                return;
            }
            Command::Initialize => guard(|| self.ready()),
            Command::Drop => guard(|| self.drop_table()),
            Command::Close => {
                self.close();
                Ok(())
            }
            Command::Get(_) | Command::Put(..) | Command::Cas(..) => unreachable!("these join a group"),
        };
        self.shared.pending.remove(&job.command);
        outbox.deliver(vec![(job.ticket, outcome.map(|()| Reply::Done))]);
    }

    fn clear_slice(&mut self) {
        let Some(mut clearing) = self.clearing.take() else {
            return;
        };
        let outcome = match guard(|| self.clear_some(&mut clearing)) {
            Ok(true) => {
                self.clearing = Some(clearing);
                self.checkpoint_if_long();
                return;
            }
            Ok(false) => Ok(Reply::Count(clearing.count)),
            Err(error) => Err(error),
        };
        self.shared.pending.remove(&clearing.job.command);
        clearing.outbox.deliver(vec![(clearing.job.ticket, outcome)]);
    }

    /// Deletes a slice; whether there may be more.
    fn clear_some(&mut self, clearing: &mut Clearing) -> Result<bool> {
        self.ready()?;
        let mut result = self.delete_slice(clearing);
        if result.as_ref().is_err_and(database::is_missing_table) && self.creates() {
            self.renew_table()?;
            result = self.delete_slice(clearing);
        }
        result.map_err(|error| database::error(&error))
    }

    fn delete_slice(&self, clearing: &mut Clearing) -> rusqlite::Result<bool> {
        let Some(Open { database, .. }) = &self.open else {
            return Ok(false);
        };
        let mut statement = database.prepare_cached(&self.shared.sql.clear)?;
        let mut rows = statement.query(params![clearing.after, clearing.last, SLICE, now()])?;
        let mut deleted = 0;
        // RETURNING gives the rows in no particular order.
        let mut last = None;
        while let Some(row) = rows.next()? {
            let key: String = row.get(0)?;
            last = last.max(Some(key));
            clearing.count += u64::from(row.get::<_, bool>(1)?);
            deleted += 1;
        }
        if let Some(key) = last {
            clearing.after = Value::Text(key);
        }
        Ok(deleted == SLICE)
    }

    fn creates(&self) -> bool {
        self.shared.creates.load(Ordering::Acquire)
    }

    /// Another process has dropped the table.
    fn renew_table(&mut self) -> Result<()> {
        self.close_snapshot();
        if let Some(open) = &mut self.open {
            open.table = false;
        }
        self.ready()
    }

    /// Opens the database and makes sure of the table, where that is still to
    /// be done.
    fn ready(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let open = self.opened()?;
        if !open.table {
            if shared.creates.load(Ordering::Acquire) {
                let create = || {
                    open.database.execute_batch("BEGIN IMMEDIATE")?;
                    open.database.execute_batch(&shared.sql.create_table)?;
                    check_columns(&open.database, &shared.sql.columns)?;
                    open.database.execute_batch(&shared.sql.create_index)?;
                    open.database.execute_batch("COMMIT").map_err(SchemaError::from)
                };
                if let Err(error) = create() {
                    if !open.database.is_autocommit() {
                        let _ = open.database.execute_batch("ROLLBACK");
                    }
                    return Err(error.into_error(&shared.options.table, &shared.place));
                }
            }
            open.table = true;
            open.wal = WalIndex::of(&open.database);
            if open.wal.is_some() && open.database.log.is_none() && shared.options.durability == Durability::Full {
                open.database.log = Log::of(&open.database);
            }
            self.sweep_at = Some(Instant::now() + SWEEP_AT_MOST);
        }
        if !shared.open.load(Ordering::Acquire) {
            let reading = Database::open_for_reading(&shared.place, shared.options.busy_timeout)?;
            let snapshot = Snapshot::new(reading, &shared.sql.get)
                .and_then(Snapshot::without_waiting)
                .map_err(|error| database::error(&error))?;
            *lock(&shared.snapshot) = Some(snapshot);
            shared.open.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn opened(&mut self) -> Result<&mut Open> {
        if self.open.is_none() {
            let database = Database::open_for_writing(&self.shared.place, &self.shared.options)?;
            self.open = Some(Open {
                wal: None,
                database,
                table: false,
            });
        }
        Ok(self.open.as_mut().expect("just opened"))
    }

    fn drop_table(&mut self) -> Result<()> {
        self.close_snapshot();
        self.sweep_at = None;
        let shared = Arc::clone(&self.shared);
        let open = self.opened()?;
        open.table = false;
        open.database
            .execute_batch(&shared.sql.drop_table)
            .map_err(|error| database::error(&error))?;
        shared.creates.store(true, Ordering::Release);
        Ok(())
    }

    fn close_snapshot(&mut self) {
        self.shared.open.store(false, Ordering::Release);
        let snapshot = lock(&self.shared.snapshot).take();
        drop(snapshot);
        self.shared.recent.clear();
        self.release_at = None;
    }

    /// Releases all that the store holds of the file.
    fn close(&mut self) {
        self.close_snapshot();
        *lock(&self.shared.list) = ListConnection {
            database: None,
            closed: true,
        };
        if let Some(thread) = self.checkpointing.take() {
            // What it didn't do, closing the last connection does.
            let _ = thread.join();
        }
        self.sweep_at = None;
        self.checkpoint_at = None;
        self.open = None;
        self.closed = true;
    }

    fn release_if_due(&mut self) {
        if self.release_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.release_at = None;
        if let Some(snapshot) = lock(&self.shared.snapshot).as_mut() {
            snapshot.let_go();
        }
    }

    /// Sees to it that a sweep follows a deadline.
    fn sweep_by(&mut self, deadline: Millis) {
        let wait = u64::try_from(deadline - now()).unwrap_or(0);
        let wait = Duration::from_millis(wait).clamp(SWEEP_AT_MOST, SWEEP_AT_LEAST);
        let at = Instant::now() + wait;
        self.sweep_at = Some(self.sweep_at.map_or(at, |sweep_at| sweep_at.min(at)));
    }

    /// Removes a slice of what has expired. Never waits for anybody, and tries
    /// again later instead.
    fn sweep_if_due(&mut self) {
        if self.sweep_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.sweep_at = None;
        let Some(open) = self.open.as_ref().filter(|open| open.table) else {
            return;
        };
        let swept = catch_unwind(AssertUnwindSafe(|| self.sweep(&open.database)));
        let options = &self.shared.options;
        if open.database.commits(options.durability, options.busy_timeout).is_err() {
            // No write may rely on it any more.
            self.open = None;
        }
        match swept {
            Ok(Ok(Sweep::More)) => self.sweep_at = Some(Instant::now()),
            Ok(Ok(Sweep::Next(deadline))) => self.sweep_by(deadline),
            Ok(Ok(Sweep::Nothing)) => {}
            Ok(Err(_)) | Err(_) => self.sweep_by(now()),
        }
        self.checkpoint_if_long();
    }

    fn sweep(&self, database: &Database) -> rusqlite::Result<Sweep> {
        // A power loss may undo a sweep: it needs no sync of its own.
        database.commits(Durability::Normal, Duration::ZERO)?;
        let mut statement = database.prepare_cached(&self.shared.sql.sweep)?;
        if statement.execute(params![now(), SLICE])? == SLICE as usize {
            return Ok(Sweep::More);
        }
        let mut statement = database.prepare_cached(&self.shared.sql.next_deadline)?;
        // Other writers may store fractions of a millisecond.
        let deadline: Option<f64> = statement.query_row([], |row| row.get(0)).optional()?.flatten();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it saturates, and only says when to look again"
        )]
        Ok(deadline.map_or(Sweep::Nothing, |deadline| Sweep::Next(deadline as Millis)))
    }

    /// Keeps the log short: its content goes into the database beside the
    /// writes, and in their place only when that can't keep up.
    fn checkpoint_if_long(&mut self) {
        let Some(open) = &self.open else { return };
        let Some((frames, backfilled)) = open.wal.as_ref().map(WalIndex::frames) else {
            return;
        };
        if frames >= MOST_FRAMES {
            // While that one is at it, SQLite refuses another.
            if let Some(thread) = self.checkpointing.take() {
                let _ = thread.join();
            }
            let mut snapshot = lock(&self.shared.snapshot);
            if let Some(snapshot) = snapshot.as_mut() {
                snapshot.let_go();
            }
            // As far as it goes: a reader of another process may be in the way.
            let _ = open.database.busy_timeout(Duration::ZERO);
            let _ = open
                .database
                .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
            let _ = open.database.busy_timeout(self.shared.options.busy_timeout);
        } else if frames.saturating_sub(backfilled) >= CHECKPOINT_FRAMES {
            self.checkpoint();
        }
        self.checkpoint_at = (frames > backfilled).then(|| Instant::now() + PAUSE);
    }

    fn checkpoint_if_due(&mut self) {
        if self.checkpoint_at.is_some_and(|at| at <= Instant::now()) {
            self.checkpoint_at = None;
            self.checkpoint();
        }
    }

    /// Moves what is in the log into the database, on a thread of its own.
    fn checkpoint(&mut self) {
        if self.checkpointing.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        self.checkpointing = Some(worker::spawn("sqlite-checkpoint", move || async move {
            if let Ok(database) = Database::open_for_checkpoints(&shared.place) {
                let _ = database.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            }
        }));
    }
}

/// Runs one command within a transaction. One that fails alone leaves no trace;
/// one that takes the transaction with it is a [`Failure`].
fn run_in(entries: &mut Entries<'_>, database: &Database, command: &Command) -> Result<Outcome, Failure> {
    match entries.run(command) {
        Ok(outcome) => Ok(outcome),
        Err(error) if database.is_autocommit() || database::is_missing_table(&error) => Err(Failure::of(&error)),
        Err(error) => Ok(Err(database::error(&error))),
    }
}

struct State<'o> {
    wal: &'o WalIndex,
    header: Header,
    version: Option<i64>,
}

/// Changes when another connection commits, and only then.
fn data_version(database: &Database) -> Option<i64> {
    let mut statement = database.prepare_cached("PRAGMA data_version").ok()?;
    statement.query_row([], |row| row.get(0)).ok()
}

enum Sweep {
    More,
    Next(Millis),
    Nothing,
}

/// Why a whole transaction did not happen.
enum Failure {
    /// It never began.
    Locked(Error),
    NoTable(Error),
    /// The engine gave it up.
    Transaction(Error),
}

impl Failure {
    fn of(error: &rusqlite::Error) -> Self {
        if database::is_missing_table(error) {
            Self::NoTable(database::error(error))
        } else {
            Self::Transaction(database::error(error))
        }
    }
}

enum SchemaError {
    Missing(String),
    Engine(rusqlite::Error),
}

impl From<rusqlite::Error> for SchemaError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Engine(error)
    }
}

impl SchemaError {
    fn into_error(self, table: &str, place: &super::Place) -> Error {
        match self {
            Self::Engine(error) => database::error(&error),
            Self::Missing(columns) => Error::Backend(format!(
                "the table {table:?} in {place} is not a key–value table of Fedify's: it lacks {columns}. Choose \
                another tableName"
            )),
        }
    }
}

/// A table of that name may be somebody else's.
fn check_columns(database: &Database, sql: &str) -> Result<(), SchemaError> {
    let mut statement = database.prepare(sql)?;
    let columns: Vec<String> = statement
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let missing: Vec<_> = ["key", "value", "created", "expires"]
        .into_iter()
        .filter(|needed| !columns.iter().any(|column| column.eq_ignore_ascii_case(needed)))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(SchemaError::Missing(missing.join(", ")))
    }
}

fn internal() -> Error {
    Error::Backend("internal error in the SQLite store".into())
}

/// A panic is an outcome like any other: the thread must go on.
fn guard<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(internal()))
}
