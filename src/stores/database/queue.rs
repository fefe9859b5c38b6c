//! The work of a store's writer, in the order of the calls.

use crate::kv::{Answer, Command, Error, Job, Key, Outcome, Prefix, Reply, Result};
use crate::stores::pending_writes::{PendingJob, PendingWrites};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// In one transaction at most: jobs, and bytes of values, more or less.
pub const GROUP: usize = 1024;
const GROUP_BYTES: usize = 16 * 1024 * 1024;

/// Something to do, and when it was asked for.
pub struct Queued {
    /// Ends before the answer is delivered.
    pending: PendingJob,
    pub work: Work,
    called: Instant,
}

pub enum Work {
    Job(Job),
    Compact(Answer),
    /// Answered once the store is open and all earlier work is done.
    Ready(oneshot::Sender<Result<()>>),
}

impl Work {
    pub fn fail(self, error: Error) {
        match self {
            Self::Job(Job { answer, .. }) | Self::Compact(answer) => answer.deliver(Err(error)),
            // If the list is gone, it needs no answer.
            Self::Ready(answer) => drop(answer.send(Err(error))),
        }
    }

    pub fn command(&self) -> Option<&Command> {
        match self {
            Self::Job(job) => Some(&job.command),
            Self::Compact(_) | Self::Ready(_) => None,
        }
    }
}

impl Queued {
    pub fn new(work: Work, writes: &Arc<PendingWrites>) -> Self {
        Self {
            pending: writes.add(work.command()),
            work,
            called: Instant::now(),
        }
    }

    /// The command, if it concerns a single entry.
    pub fn entry_command(&self) -> Option<&Command> {
        self.work
            .command()
            .filter(|command| matches!(command, Command::Get(_) | Command::Put(..) | Command::Cas(..)))
    }

    /// About how many bytes it stores.
    pub fn size(&self) -> usize {
        self.work.command().map_or(0, Command::size)
    }

    /// The work, which is no longer pending.
    pub fn into_work(self) -> Work {
        drop(self.pending);
        self.work
    }

    pub fn fail(self, error: Error) {
        self.into_work().fail(error);
    }

    /// Whether it has waited long enough for a lock that has been held elsewhere
    /// since `blocked`.
    pub fn is_late(&self, blocked: Instant, patience: Duration) -> bool {
        self.called.max(blocked).elapsed() >= patience
    }
}

/// Delivers outcomes together.
pub fn deliver(answered: impl IntoIterator<Item = (Queued, Outcome)>) {
    // No write may seem pending to a caller that has its answer.
    let answered: Vec<_> = answered
        .into_iter()
        .map(|(queued, outcome)| (queued.into_work(), outcome))
        .collect();
    Answer::deliver_all(answered.into_iter().filter_map(|(work, outcome)| match work {
        Work::Job(Job { answer, .. }) | Work::Compact(answer) => Some((answer, outcome)),
        Work::Ready(answer) => {
            drop(answer.send(outcome.map(|_: Reply| ())));
            None
        }
    }));
}

#[derive(Default)]
pub struct Queue(VecDeque<Queued>);

impl Queue {
    pub fn push(&mut self, queued: Queued) {
        self.0.push_back(queued);
    }

    pub fn pop(&mut self) -> Option<Queued> {
        self.0.pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts work back that was taken from the front.
    pub fn put_back(&mut self, group: impl DoubleEndedIterator<Item = Queued>) {
        for queued in group.rev() {
            self.0.push_front(queued);
        }
    }

    /// Moves work on single entries from the front to a group, until that has so
    /// many or is large, or something else comes. What a `clear` under way concerns
    /// waits, and so does what may not join. Returns whether there was any.
    pub fn take_group(
        &mut self,
        group: &mut Vec<Queued>,
        most: usize,
        clearing: Option<&Prefix>,
        joins: impl Fn(&Queued) -> bool,
    ) -> bool {
        let before = group.len();
        let mut bytes: usize = group.iter().map(Queued::size).sum();
        let fits = |queued: &Queued| {
            let key = queued.entry_command().and_then(key_of);
            let free = key.is_some_and(|key| clearing.is_none_or(|prefix| !prefix.contains_json(key.as_json())));
            free && joins(queued)
        };
        while group.len() < most
            && bytes < GROUP_BYTES
            && self.0.front().is_some_and(fits)
            && let Some(queued) = self.0.pop_front()
        {
            bytes += queued.size();
            group.push(queued);
        }
        group.len() > before
    }

    /// Takes out the gets that no earlier work concerns: they need no lock.
    pub fn take_reads(&mut self, clearing: Option<&Prefix>) -> Vec<Queued> {
        let mut written = HashSet::new();
        let mut prefixes: Vec<&Prefix> = clearing.into_iter().collect();
        let mut all = false;
        let mut free = Vec::with_capacity(self.0.len());
        for queued in &self.0 {
            let command = queued.work.command();
            free.push(command.is_some_and(|command| {
                matches!(command, Command::Get(key) if !all
                    && !written.contains(key.as_json())
                    && !prefixes.iter().any(|prefix| prefix.contains_json(key.as_json())))
            }));
            match command {
                Some(Command::Put(key, _) | Command::Cas(key, ..)) => drop(written.insert(key.as_json())),
                Some(Command::Clear(prefix)) => prefixes.push(prefix),
                Some(Command::Drop | Command::Close) => all = true,
                Some(Command::Get(_) | Command::Initialize) | None => {}
            }
        }
        if !free.contains(&true) {
            return Vec::new();
        }
        let (reads, rest): (Vec<_>, Vec<_>) = self.0.drain(..).zip(free).partition(|(_, free)| *free);
        self.0 = rest.into_iter().map(|(queued, _)| queued).collect();
        reads.into_iter().map(|(queued, _)| queued).collect()
    }

    /// Removes and returns the work that has waited too long for a lock. Such work
    /// is at the front, because it was called first. `close` stays: it waits for
    /// all other work. Gets stay if `reads_stay`: they don't need the lock.
    pub fn take_late(&mut self, blocked: Instant, patience: Duration, reads_stay: bool) -> Vec<Queued> {
        let late = self.0.iter().take_while(|queued| queued.is_late(blocked, patience));
        let late = late.count();
        let stays = |queued: &Queued| match queued.work.command() {
            Some(Command::Get(_)) => reads_stay,
            Some(Command::Close) => true,
            _ => false,
        };
        let (stay, late): (Vec<_>, _) = self.0.drain(..late).partition(stays);
        self.put_back(stay.into_iter());
        late
    }
}

/// A queue with the messages that fill it.
pub struct Incoming {
    messages: UnboundedReceiver<Queued>,
    pub queue: Queue,
}

impl Incoming {
    pub fn new(messages: UnboundedReceiver<Queued>) -> Self {
        let queue = Queue::default();
        Self { messages, queue }
    }

    /// Whether there may be more messages.
    pub fn is_open(&self) -> bool {
        !self.messages.is_closed() || !self.messages.is_empty()
    }

    /// Waits for a message; false where none can come any more.
    pub async fn wait(&mut self) -> bool {
        match self.messages.recv().await {
            Some(queued) => self.queue.push(queued),
            None => return false,
        }
        true
    }

    /// Queues the messages that have come.
    pub fn receive(&mut self) {
        while let Ok(queued) = self.messages.try_recv() {
            self.queue.push(queued);
        }
    }

    /// Lets jobs that have come, and may, join a group; whether there were any.
    pub fn join(
        &mut self,
        group: &mut Vec<Queued>,
        clearing: Option<&Prefix>,
        joins: impl Fn(&Queued) -> bool,
    ) -> bool {
        self.receive();
        self.queue.take_group(group, GROUP, clearing, joins)
    }
}

fn key_of(command: &Command) -> Option<&Key> {
    match command {
        Command::Get(key) => Some(key),
        command => command.written(),
    }
}
