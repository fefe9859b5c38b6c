//! The writer thread: takes all queued work, commits it in one transaction, and
//! only then answers. While another process holds the lock, it goes on with what
//! needs none, and each job waits until its own deadline.

use super::super::key;
use super::clear::Clearing;
use super::transaction::{Failure, GROUP, GROUP_BYTES, is_get};
use super::{Connection, Shared};
use crate::kv::{Command, Error, Outcome, Prefix, Reply};
use crate::stores::database::queue::{Queue, Queued, deliver};
use crate::stores::database::{Checkpoints, Durability, HOLD, Location, WalIndex};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

/// How long to wait before a lock is tried again: at first, and at most.
const FIRST_RETRY: Duration = Duration::from_millis(1);
const LONGEST_RETRY: Duration = Duration::from_millis(10);

pub struct Writer {
    pub shared: Arc<Shared>,
    messages: UnboundedReceiver<Queued>,
    queue: Queue,
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
    pub tables: bool,
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

impl Writer {
    pub fn new(shared: Arc<Shared>, messages: UnboundedReceiver<Queued>) -> Self {
        let checkpoints = Checkpoints::new(&shared.file, Durability::Full);
        Self {
            shared,
            messages,
            queue: Queue::default(),
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
            let is_idle = self.queue.is_empty() && self.clearing.is_none();
            if (is_idle || self.blocked.is_some()) && !self.wait(is_idle).await {
                break;
            }
            while let Ok(queued) = self.messages.try_recv() {
                self.queue.push(queued);
            }
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
        let is_open = !self.messages.is_closed() || !self.messages.is_empty();
        if is_idle && !is_open {
            return false;
        }
        tokio::select! {
            biased;
            message = self.messages.recv(), if is_open => match message {
                Some(queued) => self.queue.push(queued),
                None => return !is_idle,
            },
            () = self.shared.held.notified() => self.release_at = Some(Instant::now() + HOLD),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        true
    }

    /// Does the next piece of what is queued.
    fn step(&mut self) -> Step {
        let group = self.next_group();
        let mut step = Step::Done;
        if !group.is_empty() {
            step = self.run_group(group);
        } else if self.clearing.is_none()
            && let Some(queued) = self.queue.pop()
        {
            step = self.run_alone(queued);
        }
        if self.clearing.is_some() && matches!(step, Step::Done) {
            step = self.clear_slice();
        }
        step
    }

    /// The work at the front that one transaction can do.
    fn next_group(&mut self) -> Vec<Queued> {
        let prefix = clearing_prefix(self.clearing.as_ref());
        let most = if self.apart > 0 { 1 } else { GROUP };
        let mut group = Vec::new();
        let mut bytes = 0;
        for length in 1..=most {
            if bytes >= GROUP_BYTES || !self.queue.take_group(&mut group, length, prefix) {
                break;
            }
            bytes += group.last().map_or(0, Queued::size);
        }
        group
    }

    /// Runs a group and delivers its outcomes.
    fn run_group(&mut self, group: Vec<Queued>) -> Step {
        let result = match self.ready() {
            Ok(()) => self.transact(&group),
            Err(Error::Timeout(why)) => Err(Failure::Locked(Error::Timeout(why))),
            Err(error) => Err(Failure::All(error)),
        };
        match result {
            Err(Failure::Locked(error)) => {
                self.queue.put_back(group.into_iter());
                return Step::Locked(error);
            }
            // One by one, so that only those fail that must.
            Err(Failure::Apart(_)) if group.len() > 1 => {
                self.apart = group.len();
                self.queue.put_back(group.into_iter());
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
        self.queue.put_back(others.into_iter().map(|(queued, _)| queued));
        let unknown = error.clone().with_unknown_outcome();
        fail(written.into_iter().map(|(queued, _)| queued), &unknown);
    }

    /// Runs work that is not one entry's.
    fn run_alone(&mut self, queued: Queued) -> Step {
        let prefix = match queued.work.command() {
            Some(Command::Clear(prefix)) => Some(prefix.clone()),
            Some(Command::Drop) => Some(Prefix::ALL),
            _ => None,
        };
        if let Some(prefix) = prefix {
            match key::range(&prefix) {
                Ok(range) => self.clearing = Some(Clearing::new(prefix, range, queued)),
                Err(error) => queued.fail(error),
            }
            return Step::Done;
        }
        let result = if matches!(queued.work.command(), Some(Command::Close)) {
            self.close();
            Ok(())
        } else {
            self.ready().and_then(|()| self.shared.file.check())
        };
        if let Err(error @ Error::Timeout(_)) = result {
            self.queue.put_back([queued].into_iter());
            return Step::Locked(error);
        }
        deliver([(queued, result.map(|()| Reply::Done))]);
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

    /// Gives up what has waited too long for the lock, and reads what may be read
    /// meanwhile.
    fn do_without_lock(&mut self) {
        let Some(Blocked { since, error, .. }) = &self.blocked else {
            return;
        };
        let (since, error, patience) = (*since, error.clone(), self.shared.busy_timeout);
        let is_open = self.open.as_ref().is_some_and(|open| open.tables);
        fail(self.queue.take_late(since, patience, is_open), &error);
        if let Some(clearing) = self.clearing.take_if(|clearing| clearing.is_late(since, patience)) {
            clearing.fail(error.clone());
        }
        if is_open {
            self.read_without_lock();
            // These wait behind work that has more time.
            fail(self.queue.take_late(since, patience, false), &error);
        }
        if self.queue.is_empty() && self.clearing.is_none() {
            self.blocked = None;
        }
    }

    /// Runs the gets that no earlier work concerns.
    fn read_without_lock(&mut self) {
        let reads = self.queue.take_reads(clearing_prefix(self.clearing.as_ref()));
        if reads.is_empty() {
            return;
        }
        match self.transact(&reads) {
            Ok(outcomes) => deliver(reads.into_iter().zip(outcomes)),
            Err(Failure::Locked(_)) => self.queue.put_back(reads.into_iter()),
            Err(failure) => fail(reads, &failure.into_error()),
        }
    }

    /// Releases all that the store holds of the file.
    fn close(&mut self) {
        self.closed = true;
        self.shared.close();
        // What it didn't move, closing the last connection does.
        self.checkpoints.wait();
        if let Some(Open { connection, .. }) = self.open.take() {
            self.shared.file.close(connection);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.close();
        } else if matches!(self.shared.file.location(), Location::File(_)) {
            // The next writer opens it again.
            self.shared.close_reader();
        }
        // In memory, the data stays for as long as the reader's connection to it.
    }
}

fn clearing_prefix(clearing: Option<&Clearing>) -> Option<&Prefix> {
    clearing.map(|clearing| &clearing.prefix)
}

fn fail(group: impl IntoIterator<Item = Queued>, error: &Error) {
    deliver(group.into_iter().map(|queued| (queued, Err(error.clone()))));
}
