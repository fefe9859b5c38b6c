//! The writer thread: takes all queued work, commits it in one transaction, and
//! only then answers. While another process holds the lock, it goes on with
//! reads, and each job waits until its own deadline.

use super::blocked::Blocked;
use super::clear::Clearing;
use super::open::Open;
use super::queue::{GROUP, Incoming, Queued, Work, deliver};
use super::store::Shared;
use super::transaction::{Failure, is_get};
use super::{Checkpoints, Format};
use crate::kv::{Command, Error, Outcome, Prefix, Reply};
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

pub struct Writer<F: Format> {
    pub shared: Arc<Shared<F>>,
    pub incoming: Incoming,
    /// How many jobs at the front of the queue must be run one by one.
    apart: usize,
    pub clearing: Option<Clearing>,
    pub open: Option<Open>,
    pub blocked: Option<Blocked>,
    pub sweep_at: Option<Instant>,
    pub release_at: Option<Instant>,
    pub checkpoints: Checkpoints,
    closed: bool,
}

/// The result of the next piece of work.
pub enum Step {
    Done,
    /// It has to wait for another process.
    Locked(Error),
}

impl<F: Format> Writer<F> {
    pub fn new(shared: Arc<Shared<F>>, messages: UnboundedReceiver<Queued>) -> Self {
        let checkpoints = Checkpoints::new(&shared.file, &shared.notes, shared.options.durability);
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

    /// Runs until the store is closed or dropped, and all work queued before is
    /// done.
    pub async fn run(mut self) {
        loop {
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
            // A closed store must not open its file again.
            if self.closed {
                break;
            }
            self.sweep_if_due();
            self.release_if_due();
            self.checkpoint_if_due();
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
            () = self.shared.notes.bell.notified() => self.hear(),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        true
    }

    /// Does the next piece of what is queued.
    fn step(&mut self) -> Step {
        let mut group = Vec::new();
        let most = if self.apart > 0 { 1 } else { GROUP };
        let mut step = Step::Done;
        let prefix = clearing_prefix(self.clearing.as_ref());
        if self.incoming.queue.take_group(&mut group, most, prefix, |_| true) {
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
            // One by one, so that only those fail that can't succeed.
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

    /// After a commit whose outcome is unknown: jobs that wrote nothing are run
    /// again, and writes reject with an unknown outcome.
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

    /// Runs work that is not on a single entry.
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

    fn close(&mut self) {
        self.closed = true;
        self.shared.close();
        self.release();
    }
}

pub fn clearing_prefix(clearing: Option<&Clearing>) -> Option<&Prefix> {
    clearing.map(|clearing| &clearing.prefix)
}

pub fn fail(group: impl IntoIterator<Item = Queued>, error: &Error) {
    deliver(group.into_iter().map(|queued| (queued, Err(error.clone()))));
}
