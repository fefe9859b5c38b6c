//! The worker: takes all that waits, and does it in the order of the calls.

use super::batch::{Batch, Encoded, Op};
use super::engine::{Engine, Written};
use super::key::{self, after};
use super::row::Row;
use super::{Message, Shared};
use crate::kv::{Answer, Command, Error, Job, Outcome, Prefix, Reply, Result};
use crate::stores::database::HOLD;
use crate::stores::pending_writes::PendingWrite;
use denokv_proto::{AtomicWrite, Check, Mutation, MutationKind};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until};

/// Entries that `clear` and `drop` delete in one atomic write.
const SLICE: u32 = 256;

/// How often a group is tried as one while others write what it depends on.
const ATTEMPTS: u32 = 4;

/// Before a database is tried again that another process is writing.
const PAUSE: Duration = Duration::from_millis(1);

pub struct Worker {
    shared: Arc<Shared>,
    messages: UnboundedReceiver<Message>,
    queue: VecDeque<Work>,
    engine: Option<Engine>,
    release_at: Option<Instant>,
    closed: Option<Answer>,
}

/// Why a group has no outcomes.
enum Failed {
    /// Nothing was written, maybe because of one operation among many.
    Apart(Error),
    /// It is not to be tried again: there is no database, or no time.
    All(Error),
    /// It may have been written, and may be tried again where that does no harm.
    Unknown(Error),
}

impl Failed {
    fn of_read(error: Error) -> Self {
        match error {
            Error::Connection(_) | Error::Timeout(_) => Self::All(error),
            error => Self::Apart(error),
        }
    }

    fn of_write(error: Error, is_remote: bool) -> Self {
        match error {
            Error::Connection(_) if is_remote => Self::Unknown(error),
            // The time for another attempt is over.
            Error::Timeout(_) => Self::All(error),
            error => Self::Apart(error),
        }
    }

    fn error(self) -> Error {
        match self {
            Self::Apart(error) | Self::All(error) | Self::Unknown(error) => error,
        }
    }
}

enum Work {
    One(Op),
    /// What concerns many entries.
    Broad(Job, Option<PendingWrite>),
    Ready(oneshot::Sender<Result<()>>),
}

impl Worker {
    pub fn new(shared: Arc<Shared>, messages: UnboundedReceiver<Message>) -> Self {
        Self {
            shared,
            messages,
            queue: VecDeque::new(),
            engine: None,
            release_at: None,
            closed: None,
        }
    }

    /// Until the store is closed or gone, and what was queued before is done.
    /// Returns what to tell once all is released.
    pub async fn run(mut self) -> Option<Answer> {
        while self.closed.is_none() {
            if self.queue.is_empty() {
                match self.next_message().await {
                    Some(message) => self.take(message),
                    None => break,
                }
            }
            while let Ok(message) = self.messages.try_recv() {
                self.take(message);
            }
            self.work().await;
        }
        self.closed
    }

    async fn next_message(&mut self) -> Option<Message> {
        loop {
            self.release_if_due();
            let due = self.release_at.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                message = self.messages.recv() => return message,
                () = self.shared.held.notified() => self.release_at = Some(Instant::now() + HOLD),
                () = sleep_until(due), if self.release_at.is_some() => {}
            }
        }
    }

    /// Ends the transaction that the calling thread's reader holds.
    fn release_if_due(&mut self) {
        if self.release_at.is_some_and(|at| at <= Instant::now()) {
            self.release_at = None;
            if let Some(reader) = self.shared.reader.lock().as_mut() {
                reader.let_go();
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Task(task) => drop(tokio::spawn(task)),
            Message::Ready(answer) => self.queue.push_back(Work::Ready(answer)),
            Message::Range(start, end, limit, answer) => match &self.engine {
                Some(Engine::Remote(remote)) => {
                    let remote = remote.clone();
                    spawn_local(async move {
                        // Nobody listens any more: then nobody needs to know.
                        let _ = answer.send(remote.range(&start, &end, limit).await);
                    });
                }
                // It comes after `Ready`, so there is one.
                _ => drop(answer),
            },
            Message::Job(job, pending) => {
                let (key, write) = match &job.command {
                    Command::Get(key) => (key, None),
                    Command::Put(key, write) | Command::Cas(key, _, write) => (key, Some(write)),
                    Command::Clear(_) | Command::Initialize | Command::Drop | Command::Close => {
                        return self.queue.push_back(Work::Broad(job, pending));
                    }
                };
                match Encoded::new(key, write) {
                    Ok(encoded) => self.queue.push_back(Work::One(Op::new(job, pending, encoded))),
                    Err(error) => {
                        drop(pending);
                        job.answer.deliver(Err(error));
                    }
                }
            }
        }
    }

    /// Does the next piece of what waits.
    async fn work(&mut self) {
        let group = self.next_group();
        if !group.is_empty() {
            self.commit(group).await;
            return;
        }
        match self.queue.pop_front() {
            Some(Work::Broad(job, _)) if matches!(job.command, Command::Close) => self.closed = Some(job.answer),
            Some(Work::Broad(job, pending)) => {
                let outcome = self.run_broad(&job.command).await;
                drop(pending);
                job.answer.deliver(outcome);
            }
            Some(Work::Ready(answer)) => {
                // Nobody listens any more: then nobody needs to know.
                let _ = answer.send(self.engine().await.map(|_| ()));
            }
            Some(Work::One(_)) | None => {}
        }
    }

    /// The operations at the front that can be done together.
    fn next_group(&mut self) -> Vec<Op> {
        let limits = Engine::limits(&self.shared.target);
        let mut group = Vec::new();
        let (mut checks, mut bytes) = (0, 0);
        while group.len() < limits.operations && checks < limits.checks && bytes < limits.bytes {
            match self.queue.pop_front() {
                Some(Work::One(op)) => {
                    checks += usize::from(matches!(op.command, Command::Cas(..)));
                    bytes += op.size();
                    group.push(op);
                }
                Some(other) => {
                    self.queue.push_front(other);
                    break;
                }
                None => break,
            }
        }
        group
    }

    /// Runs a group and delivers its outcomes.
    async fn commit(&mut self, group: Vec<Op>) {
        let outcomes = match self.attempt(&group).await {
            Ok(outcomes) => outcomes,
            Err(Failed::Apart(_)) if group.len() > 1 => {
                // Each on its own, so that only those fail that must.
                let mut outcomes = Vec::with_capacity(group.len());
                for op in group.chunks(1) {
                    outcomes.push(match self.attempt(op).await {
                        Ok(mut alone) => alone.pop().unwrap_or(Err(Error::Closed)),
                        Err(failed) => Err(failed.error()),
                    });
                }
                outcomes
            }
            Err(Failed::Unknown(error)) => self.repeat(&group, &error).await,
            Err(failed) => vec![Err(failed.error()); group.len()],
        };
        let answers: Vec<_> = group.into_iter().map(Op::into_answer).collect();
        Answer::deliver_all(answers.into_iter().zip(outcomes));
    }

    /// Once more what may be done twice, after a group that may have been
    /// written.
    async fn repeat(&mut self, group: &[Op], error: &Error) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(group.len());
        let may_repeat = |op: &Op| !matches!(op.command, Command::Cas(..));
        for run in group.chunk_by(|a, b| may_repeat(a) == may_repeat(b)) {
            let repeated = if may_repeat(&run[0]) {
                self.attempt(run).await.map_err(Failed::error)
            } else {
                Err(error.clone())
            };
            match repeated {
                Ok(some) => outcomes.extend(some),
                Err(error) => outcomes.extend(run.iter().map(|_| Err(error.clone()))),
            }
        }
        outcomes
    }

    async fn attempt(&mut self, group: &[Op]) -> Result<Vec<Outcome>, Failed> {
        let start = Instant::now();
        let mut conflicts = 0;
        let mut keys: Vec<&[u8]> = group.iter().filter(|op| op.reads()).map(|op| &*op.key).collect();
        keys.sort_unstable();
        keys.dedup();
        loop {
            let engine = self.engine().await.map_err(Failed::All)?;
            let is_remote = matches!(engine, Engine::Remote(_));
            let rows = engine.rows(&keys).await.map_err(Failed::of_read)?;
            let mut batch = Batch::new(keys.iter().copied().zip(rows));
            let outcomes = group.iter().map(|op| batch.run(op)).collect();
            let Some(write) = batch.write() else {
                return Ok(outcomes);
            };
            let written = engine.write(write).await;
            let settled = self.settle(written, start).await;
            match settled.map_err(|error| Failed::of_write(error, is_remote))? {
                Written::Done => return Ok(outcomes),
                Written::Conflict if conflicts == ATTEMPTS && group.len() > 1 => {
                    let why = "others write the same entries all the time";
                    return Err(Failed::Apart(Error::Timeout(why.into())));
                }
                Written::Conflict => conflicts += 1,
                Written::Busy => {}
            }
        }
    }

    /// Waits before a busy database is tried again, and lets go of an engine
    /// that has failed: the next operation opens it anew.
    async fn settle(&mut self, written: Result<Written>, start: Instant) -> Result<Written> {
        match written {
            Ok(Written::Busy) => {
                if start.elapsed() >= self.shared.options.busy_timeout {
                    return Err(Error::Timeout("another process is writing the database".into()));
                }
                sleep(PAUSE).await;
                Ok(Written::Busy)
            }
            Err(error) => {
                self.engine.take_if(|engine| matches!(engine, Engine::Local(_)));
                Err(error)
            }
            done => done,
        }
    }

    async fn engine(&mut self) -> Result<&Engine> {
        match &mut self.engine {
            Some(engine) => Ok(engine),
            none => Ok(none.insert(Engine::open(&self.shared).await?)),
        }
    }

    async fn run_broad(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Clear(prefix) => self.delete_all(prefix, false).await.map(Reply::Count),
            Command::Drop => self.delete_all(&Prefix::ALL, true).await.map(|_| Reply::Done),
            _ => self.engine().await.map(|_| Reply::Done),
        }
    }

    /// Deletes what is under a prefix, slice by slice; how many entries that
    /// were. Keys that have other parts than strings are no entries, and are
    /// passed over unless `anything` is to go.
    async fn delete_all(&mut self, prefix: &Prefix, anything: bool) -> Result<u64> {
        let (mut start, end) = key::range(prefix)?;
        let mut count = 0;
        let begun = Instant::now();
        loop {
            let engine = self.engine().await?;
            let rows = engine.range(&start, &end, SLICE).await?;
            let Some((last, _)) = rows.last() else {
                return Ok(count);
            };
            let last = last.clone();
            let doomed: Vec<_> = rows
                .into_iter()
                .filter(|(key, _)| anything || key::decode(key).is_some())
                .collect();
            if !doomed.is_empty() {
                // What changes meanwhile is looked at again, and counted right,
                // where that many checks are possible.
                let checks = Engine::limits(&self.shared.target).checks >= doomed.len();
                let engine = self.engine().await?;
                let written = engine.write(deletion(&doomed, checks)).await;
                match self.settle(written, begun).await? {
                    Written::Done => {}
                    Written::Conflict | Written::Busy => continue,
                }
            }
            count += doomed.iter().filter(|(_, row)| row.live).count() as u64;
            start = after(&last);
        }
    }
}

fn deletion(doomed: &[(Vec<u8>, Row)], checks: bool) -> AtomicWrite {
    AtomicWrite {
        checks: doomed
            .iter()
            .filter(|_| checks)
            .map(|(key, row)| Check {
                key: key.clone(),
                versionstamp: Some(row.stamp),
            })
            .collect(),
        mutations: doomed
            .iter()
            .map(|(key, _)| Mutation {
                key: key.clone(),
                kind: MutationKind::Delete,
                expire_at: None,
            })
            .collect(),
        enqueues: Vec::new(),
    }
}
