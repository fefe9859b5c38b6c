//! The writer thread: takes all queued work, commits it in one transaction, and
//! only then answers. While another process holds the lock, it goes on with what
//! needs none, and each job waits until its own deadline.

use super::clear::Clearing;
use super::queue::{GROUP, Incoming, Queued, Work, deliver};
use super::store::Shared;
use super::transaction::{Failure, guard, is_get, transaction};
use super::{Checkpoints, Connection, Format, HOLD, Location, WalIndex};
use crate::kv::{Command, Error, Outcome, Prefix, Reply, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

/// How long to wait before a lock is tried again: at first, and at most.
const FIRST_RETRY: Duration = Duration::from_millis(1);
const LONGEST_RETRY: Duration = Duration::from_millis(10);

pub struct Writer<F: Format> {
    pub shared: Arc<Shared<F>>,
    pub incoming: Incoming,
    /// So many jobs at the front of the queue have to be run one by one.
    apart: usize,
    pub clearing: Option<Clearing>,
    pub open: Option<Open>,
    blocked: Option<Blocked>,
    pub sweep_at: Option<Instant>,
    pub release_at: Option<Instant>,
    pub checkpoints: Checkpoints,
    closed: bool,
}

/// What there is while the database is open. It stays so after errors: for a
/// database in memory, the connections are the data.
pub struct Open {
    /// Dropped before the connection that maps it.
    pub wal: Option<WalIndex>,
    pub connection: Connection,
    /// Whether the tables were seen to exist.
    pub complete: bool,
}

/// Another process holds the lock.
struct Blocked {
    since: Instant,
    error: Error,
    retry_at: Instant,
    pause: Duration,
}

/// What became of the next piece of work.
pub enum Step {
    Done,
    /// It has to wait for another process.
    Locked(Error),
}

impl<F: Format> Writer<F> {
    pub fn new(shared: Arc<Shared<F>>, messages: UnboundedReceiver<Queued>) -> Self {
        let checkpoints = Checkpoints::new(&shared.file, shared.options.durability);
        Self {
            shared,
            incoming: Incoming::new(messages),
            apart: 0,
            clearing: None,
            open: None,
            blocked: None,
            sweep_at: None,
            release_at: None,
            checkpoints,
            closed: false,
        }
    }

    /// Until the store is closed or dropped, and what was queued before is done.
    pub async fn run(mut self) {
        while !self.closed {
            let is_idle = self.incoming.queue.is_empty() && self.clearing.is_none();
            if (is_idle || self.blocked.is_some()) && !self.wait(is_idle).await {
                break;
            }
            self.incoming.receive();
            let retries = self
                .blocked
                .as_ref()
                .is_none_or(|blocked| blocked.retry_at <= Instant::now());
            if retries {
                match self.step() {
                    Step::Done => self.blocked = None,
                    Step::Locked(error) => self.block(error),
                }
            }
            if self.blocked.is_some() {
                self.do_without_lock();
            }
            self.sweep_if_due();
            self.release_if_due();
            self.checkpoints.run_if_due();
        }
    }

    /// Waits for messages, or until something is due; false when no message can
    /// come any more and there is nothing left to do.
    async fn wait(&mut self, is_idle: bool) -> bool {
        let retry_at = self.blocked.as_ref().map(|blocked| blocked.retry_at);
        let checkpoint_at = self.checkpoints.due().map(Instant::from_std);
        let due = [self.sweep_at, self.release_at, checkpoint_at, retry_at]
            .into_iter()
            .flatten()
            .min();
        let is_open = self.incoming.is_open();
        if is_idle && !is_open {
            return false;
        }
        tokio::select! {
            biased;
            any = self.incoming.wait(), if is_open => return any || !is_idle,
            () = self.shared.held.notified() => self.release_at = Some(Instant::now() + HOLD),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        true
    }

    /// Does the next piece of what is queued.
    fn step(&mut self) -> Step {
        let mut group = Vec::new();
        let most = if self.apart > 0 { 1 } else { GROUP };
        let mut step = Step::Done;
        if self
            .incoming
            .queue
            .take_group(&mut group, most, clearing_prefix(self.clearing.as_ref()))
        {
            step = self.run_group(group);
        } else if self.clearing.is_none()
            && let Some(queued) = self.incoming.queue.pop()
        {
            step = self.run_alone(queued);
        }
        if self.clearing.is_some() && matches!(step, Step::Done) {
            step = self.clear_slice();
        }
        step
    }

    /// Opens the database and makes sure of its tables, if that is still to be
    /// done.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] where the path names another file now;
    /// [`Error::Timeout`] while another process holds a lock that is needed.
    pub fn ready(&mut self) -> Result<()> {
        guard(|| self.make_ready())
    }

    fn make_ready(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let (file, options) = (&shared.file, &shared.options);
        file.check()?;
        if self.open.is_none() {
            self.open = Some(Open {
                wal: None,
                connection: file.open_for_writing(options.durability, options.busy_timeout)?,
                complete: false,
            });
        }
        if let Some(open) = self.open.as_mut().filter(|open| !open.complete) {
            let connection = &open.connection;
            if !shared.format.is_complete(connection)? {
                transaction(connection, file, true, || shared.format.create(connection))
                    .map_err(Failure::into_error)?;
            }
            open.complete = true;
            open.wal = WalIndex::of(connection);
            self.sweep_soon();
        }
        if !shared.open.load(Ordering::Acquire) {
            // Where that fails, the writer does the reading until it succeeds.
            let _ = shared.open_snapshot();
        }
        Ok(())
    }

    /// Runs a group and delivers its outcomes.
    fn run_group(&mut self, mut group: Vec<Queued>) -> Step {
        let is_alone = self.apart > 0;
        let result = match self.ready() {
            Ok(()) => self.transact(&mut group, !is_alone),
            Err(Error::Timeout(why)) => Err(Failure::Locked(Error::Timeout(why))),
            Err(error) => Err(Failure::All(error)),
        };
        match result {
            Err(Failure::Locked(error)) => {
                self.incoming.queue.put_back(group.into_iter());
                return Step::Locked(error);
            }
            // One by one, so that only those fail that must.
            Err(Failure::Apart(_)) if group.len() > 1 => {
                self.apart = group.len();
                self.incoming.queue.put_back(group.into_iter());
                return Step::Done;
            }
            Ok(outcomes) => deliver(group.into_iter().zip(outcomes)),
            Err(Failure::Unknown(error, outcomes)) => self.settle_unknown(group, outcomes, &error),
            Err(Failure::Apart(error) | Failure::All(error)) => fail(group, &error),
        }
        self.apart = self.apart.saturating_sub(1);
        self.keep_log_short();
        Step::Done
    }

    /// After a commit that may be found done later: what wrote nothing is run
    /// again, what wrote has an unknown outcome.
    fn settle_unknown(&mut self, group: Vec<Queued>, outcomes: Vec<Outcome>, error: &Error) {
        let wrote = |(queued, outcome): &(Queued, Outcome)| {
            !is_get(queued) && !matches!(outcome, Ok(Reply::Swapped(false)) | Err(_))
        };
        let (written, others): (Vec<_>, Vec<_>) = group.into_iter().zip(outcomes).partition(wrote);
        self.incoming
            .queue
            .put_back(others.into_iter().map(|(queued, _)| queued));
        let unknown = error.clone().with_unknown_outcome();
        fail(written.into_iter().map(|(queued, _)| queued), &unknown);
    }

    /// Runs work that is not one entry's.
    fn run_alone(&mut self, queued: Queued) -> Step {
        let result = match &queued.work {
            Work::Compact(_) => self.compact(),
            Work::Ready(_) => self.ready(),
            Work::Job(job) => match &job.command {
                Command::Clear(prefix) => return self.begin_clear(prefix.clone(), queued),
                Command::Drop => return self.begin_clear(Prefix::ALL, queued),
                Command::Close => {
                    self.close();
                    Ok(())
                }
                Command::Initialize | Command::Get(_) | Command::Put(..) | Command::Cas(..) => self.ready(),
            },
        };
        if let Err(error @ Error::Timeout(_)) = result {
            self.incoming.queue.put_back([queued].into_iter());
            return Step::Locked(error);
        }
        deliver([(queued, result.map(|()| Reply::Done))]);
        Step::Done
    }

    fn begin_clear(&mut self, prefix: Prefix, queued: Queued) -> Step {
        match F::range(&prefix) {
            Ok(range) => self.clearing = Some(Clearing::new(prefix, range, queued)),
            Err(error) => queued.fail(error),
        }
        Step::Done
    }

    /// Another process holds the lock: the next step is tried a little later.
    fn block(&mut self, error: Error) {
        let now = Instant::now();
        let (since, pause) = match &self.blocked {
            Some(blocked) => (blocked.since, LONGEST_RETRY.min(blocked.pause * 2)),
            None => (now, FIRST_RETRY),
        };
        self.blocked = Some(Blocked {
            since,
            error,
            retry_at: now + pause,
            pause,
        });
    }

    /// Gives up what has waited too long, and reads what needs no lock.
    fn do_without_lock(&mut self) {
        let Some(Blocked { since, error, .. }) = &self.blocked else {
            return;
        };
        let (since, error, patience) = (*since, error.clone(), self.shared.options.busy_timeout);
        let reads = self.open.as_ref().is_some_and(|open| open.complete);
        fail(self.incoming.queue.take_late(since, patience, reads), &error);
        if let Some(clearing) = self.clearing.take_if(|clearing| clearing.is_late(since, patience)) {
            clearing.fail(error);
        }
        if reads {
            self.read_without_lock(since);
        }
        if self.incoming.queue.is_empty() && self.clearing.is_none() {
            self.blocked = None;
        }
    }

    fn read_without_lock(&mut self, since: Instant) {
        let prefix = clearing_prefix(self.clearing.as_ref());
        let mut reads = self.incoming.queue.take_reads(prefix);
        if reads.is_empty() {
            return;
        }
        let result = match self.shared.file.check() {
            Ok(()) => self.transact(&mut reads, false),
            Err(error) => Err(Failure::All(error)),
        };
        match result {
            Ok(outcomes) => deliver(reads.into_iter().zip(outcomes)),
            // Without a log, a lock can keep reads waiting too.
            Err(Failure::Locked(error)) => {
                let patience = self.shared.options.busy_timeout;
                let (late, rest): (Vec<_>, Vec<_>) =
                    reads.into_iter().partition(|queued| queued.is_late(since, patience));
                self.incoming.queue.put_back(rest.into_iter());
                fail(late, &error);
            }
            Err(failure) => fail(reads, &failure.into_error()),
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.shared.close();
        self.release();
    }

    /// Releases all that the store holds of the database.
    fn release(&mut self) {
        self.shared.release();
        // What it didn't move, closing the last connection does.
        self.checkpoints.wait();
        if let Some(Open { connection, .. }) = self.open.take() {
            self.shared.file.close(connection);
        }
    }
}

impl<F: Format> Drop for Writer<F> {
    /// After a panic, the next call starts a new writer. A database in memory
    /// stays for as long as the snapshot's connection to it.
    fn drop(&mut self) {
        let is_file = matches!(self.shared.file.location(), Location::File(_));
        if is_file || !thread::panicking() {
            self.release();
        }
    }
}

fn clearing_prefix(clearing: Option<&Clearing>) -> Option<&Prefix> {
    clearing.map(|clearing| &clearing.prefix)
}

fn fail(group: impl IntoIterator<Item = Queued>, error: &Error) {
    deliver(group.into_iter().map(|queued| (queued, Err(error.clone()))));
}
