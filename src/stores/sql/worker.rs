//! The worker: takes all queued operations, forms groups of them, runs several
//! groups at once, and delivers the outcomes of a group together.

use super::Message;
use super::engine::{Action, Engine, Lost, Operation, Swept};
use super::order::{Caller, Op, Order, Wait};
use super::retry::{Repeat, persist, verdict};
use super::sweep::{SLICE, Sweeper};
use crate::host::{Bulk, sleep_until};
use crate::kv::{Answer, Command, Error, Job, Key, Outcome, Prefix, Reply, Result, Write};
use crate::stores::served::Generations;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

/// The most operations in one group, and about the most bytes.
const GROUP: usize = 512;
const GROUP_BYTES: usize = 512 * 1024;

/// While groups are under way, another one begins when this many operations
/// wait per group, or when one has waited this long. Large groups are cheap,
/// but no operation should wait for another group's round trip.
const WORTH: usize = 16;
const LINGER: Duration = Duration::from_millis(1);

/// The number of entries that a `clear` deletes at a time, so that other
/// operations get their turn.
const CLEAR_SLICE: u32 = 1000;

pub struct Worker<E> {
    engine: Arc<E>,
    bulk: Bulk,
    messages: UnboundedReceiver<Message>,
    order: Order,
    gets: Line,
    writes: Line,
    backlog: VecDeque<Work>,
    /// How many operations in the backlog concern more than one entry.
    broad: usize,
    running: Option<Running>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    generations: Generations,
    /// Operations that are queued or under way, without those in the backlog.
    outstanding: usize,
    sweeper: Sweeper,
    done: Vec<(Answer, Outcome)>,
    closed: Option<Answer>,
}

/// A queue of operations, and how many of its groups are under way. Gets have
/// their own queue, because they need not wait until writes are on disk.
#[derive(Default)]
struct Line {
    queue: VecDeque<Op>,
    flights: usize,
}

impl Line {
    fn is_worth_a_flight(&self, now: Instant) -> bool {
        self.queue.front().is_some_and(|first| {
            self.flights == 0 || self.queue.len() >= self.flights * WORTH || now >= first.wait.since + LINGER
        })
    }

    /// The next group.
    fn take(&mut self) -> impl Iterator<Item = Op> {
        let mut bytes = 0;
        let fits = |op: &&Op| {
            let fits = bytes < GROUP_BYTES;
            bytes += op.wait.caller.admission.weight();
            fits
        };
        let length = self.queue.iter().take(GROUP).take_while(fits).count();
        self.queue.drain(..length)
    }
}

/// An operation that waits for another one that concerns many entries.
enum Work {
    One(Operation, Caller),
    Broad(Broad),
}

struct Broad {
    caller: Caller,
    task: BroadTask,
}

enum BroadTask {
    Clear(Prefix),
    Initialize,
    Drop,
    Close,
}

struct Running {
    caller: Caller,
    /// Operations under this prefix wait for it.
    concerns: Option<Prefix>,
    closes: bool,
}

enum Event {
    Group {
        gets: bool,
        operations: Vec<Operation>,
        waits: Vec<Wait>,
        outcomes: Vec<Result<Outcome, Lost>>,
    },
    Broad(Outcome),
    Swept(Option<Swept>),
}

impl<E: Engine> Worker<E> {
    pub fn new(engine: Arc<E>, messages: UnboundedReceiver<Message>, bulk: Bulk) -> Self {
        Self {
            engine,
            bulk,
            messages,
            order: Order::default(),
            gets: Line::default(),
            writes: Line::default(),
            backlog: VecDeque::new(),
            broad: 0,
            running: None,
            events: FuturesUnordered::new(),
            generations: Generations::default(),
            outstanding: 0,
            sweeper: Sweeper::default(),
            done: Vec::new(),
            closed: None,
        }
    }

    /// Runs until the store is closed or dropped and all earlier operations are
    /// done. Returns the answer to `close`, which is due once all resources are
    /// released.
    pub async fn run(mut self) -> Option<Answer> {
        let mut batch = Vec::new();
        let mut gone = false;
        loop {
            self.work();
            self.deliver();
            let idle = self.outstanding == 0 && self.backlog.is_empty() && self.running.is_none();
            if self.closed.is_some() {
                break;
            }
            if gone && idle {
                self.engine.close().await;
                break;
            }
            let due = self.due();
            tokio::select! {
                biased;
                Some(event) = self.events.next(), if !self.events.is_empty() => self.on(event),
                count = self.messages.recv_many(&mut batch, GROUP), if !gone => {
                    gone = count == 0;
                    for message in batch.drain(..) {
                        self.take(message);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
        self.closed
    }

    fn take(&mut self, message: Message) {
        let (Job { command, answer }, admission) = match message {
            Message::Task(task) => return drop(tokio::spawn(task)),
            Message::Ready(answer) => return self.generations.answer_after(answer),
            Message::Job(job, admission) => (job, admission),
        };
        let writes = !matches!(command, Command::Get(_));
        let caller = Caller {
            answer,
            admission,
            generation: writes.then(|| self.generations.begin()),
        };
        let (key, action) = match command {
            Command::Get(key) => (key, Action::Get),
            Command::Put(key, write) => (key, Action::Put(write)),
            Command::Cas(key, expected, write) => (key, Action::Cas(expected, write)),
            Command::Clear(prefix) => return self.take_broad(caller, BroadTask::Clear(prefix)),
            Command::Initialize => return self.take_broad(caller, BroadTask::Initialize),
            Command::Drop => return self.take_broad(caller, BroadTask::Drop),
            Command::Close => return self.take_broad(caller, BroadTask::Close),
        };
        let operation = Operation { key, action };
        if self.is_concerned(&operation.key) || self.broad > 0 {
            self.backlog.push_back(Work::One(operation, caller));
        } else {
            self.admit(operation, caller);
        }
    }

    fn take_broad(&mut self, caller: Caller, task: BroadTask) {
        self.broad += 1;
        self.backlog.push_back(Work::Broad(Broad { caller, task }));
    }

    fn admit(&mut self, operation: Operation, caller: Caller) {
        self.outstanding += 1;
        if let Action::Put(Write::Store { ttl: Some(ttl), .. }) | Action::Cas(_, Write::Store { ttl: Some(ttl), .. }) =
            &operation.action
        {
            self.sweeper.expect(*ttl);
        }
        let now = Instant::now();
        let op = Op {
            operation,
            wait: Wait {
                caller,
                more: Vec::new(),
                since: now,
                patience: now + self.engine.query_timeout(),
            },
        };
        if let Some(op) = self.order.pass(op) {
            self.line(op.is_get()).queue.push_back(op);
        }
    }

    fn line(&mut self, gets: bool) -> &mut Line {
        if gets { &mut self.gets } else { &mut self.writes }
    }

    /// Does all that can be done now.
    fn work(&mut self) {
        self.work_off_backlog();
        let now = Instant::now();
        self.send(now);
        if self.running.is_none() && self.sweeper.is_due(now) {
            let from = self.sweeper.start(now);
            let (engine, bulk) = (Arc::clone(&self.engine), self.bulk.clone());
            let sweep = async move { engine.sweep(from.as_ref(), SLICE).await.ok() };
            self.events.push(Box::pin(
                async move { Event::Swept(bulk.run(sweep).await.ok().flatten()) },
            ));
        }
    }

    fn work_off_backlog(&mut self) {
        while let Some(first) = self.backlog.front() {
            let may_start = match first {
                Work::One(operation, _) => !self.is_concerned(&operation.key),
                Work::Broad(_) => self.running.is_none() && self.outstanding == 0,
            };
            if !may_start {
                return;
            }
            match self.backlog.pop_front() {
                Some(Work::One(operation, caller)) => self.admit(operation, caller),
                Some(Work::Broad(broad)) => {
                    self.broad -= 1;
                    self.start(broad);
                }
                None => return,
            }
        }
    }

    /// Whether an operation must wait for the running one.
    fn is_concerned(&self, key: &Key) -> bool {
        self.running
            .as_ref()
            .and_then(|running| running.concerns.as_ref())
            .is_some_and(|prefix| prefix.contains_json(key.as_json()))
    }

    fn start(&mut self, Broad { caller, task }: Broad) {
        let engine = Arc::clone(&self.engine);
        let patience = engine.query_timeout();
        let closes = matches!(task, BroadTask::Close);
        let bulk = self.bulk.clone();
        let (concerns, task): (_, BoxFuture<'static, Outcome>) = match task {
            BroadTask::Clear(prefix) => {
                let concerns = Some(prefix.clone());
                let clear = async move { clear(&*engine, &prefix).await.map(Reply::Count) };
                (concerns, Box::pin(clear))
            }
            BroadTask::Initialize => {
                let create = async move {
                    persist(patience, Repeat::Freely, || engine.create())
                        .await
                        .map(|()| Reply::Done)
                };
                (None, Box::pin(create))
            }
            BroadTask::Drop => {
                let drop = async move {
                    persist(patience, Repeat::Freely, || engine.drop_table())
                        .await
                        .map(|()| Reply::Done)
                };
                (Some(Prefix::ALL), Box::pin(drop))
            }
            BroadTask::Close => {
                let close = async move {
                    engine.close().await;
                    Ok(Reply::Done)
                };
                (Some(Prefix::ALL), Box::pin(close))
            }
        };
        self.running = Some(Running {
            caller,
            concerns,
            closes,
        });
        self.events.push(Box::pin(async move {
            // Closing needs no thread, which might not be had.
            let outcome = if closes {
                task.await
            } else {
                bulk.run(task).await.unwrap_or_else(Err)
            };
            Event::Broad(outcome)
        }));
    }

    /// Sends queued operations, if it is worth it.
    fn send(&mut self, now: Instant) {
        let most = self.engine.connections();
        for gets in [true, false] {
            // Writes may wait for a lock; one connection is left to gets.
            let most = if gets { most } else { (most - 1).max(1) };
            while self.gets.flights + self.writes.flights < most && self.line(gets).is_worth_a_flight(now) {
                let line = self.line(gets);
                let (operations, waits): (Vec<_>, _) = line.take().map(|op| (op.operation, op.wait)).unzip();
                line.flights += 1;
                let engine = Arc::clone(&self.engine);
                self.events.push(Box::pin(async move {
                    let outcomes = engine.run(&operations).await;
                    Event::Group {
                        gets,
                        operations,
                        waits,
                        outcomes,
                    }
                }));
            }
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Group {
                gets,
                operations,
                waits,
                outcomes,
            } => {
                self.line(gets).flights -= 1;
                let ops = operations
                    .into_iter()
                    .zip(waits)
                    .map(|(operation, wait)| Op { operation, wait });
                self.on_group(gets, ops, outcomes);
            }
            Event::Swept(swept) => self.sweeper.on(swept),
            Event::Broad(outcome) => {
                if let Some(Running { caller, closes, .. }) = self.running.take() {
                    if closes {
                        self.closed = Some(caller.answer);
                    } else {
                        self.finish_caller(caller, outcome);
                    }
                }
            }
        }
    }

    fn on_group(&mut self, gets: bool, ops: impl Iterator<Item = Op>, outcomes: Vec<Result<Outcome, Lost>>) {
        let mut outcomes = outcomes.into_iter();
        let mut again = Vec::new();
        for op in ops {
            let outcome = outcomes.next().unwrap_or_else(|| {
                Ok(Err(Error::Backend(
                    "internal error: an operation without outcome".into(),
                )))
            });
            match outcome {
                Ok(outcome) => {
                    if outcome.is_ok() {
                        self.sweeper.begin();
                    }
                    self.finish(op, outcome);
                }
                Err(lost) => match give_up(lost, &op) {
                    Some(error) => self.finish(op, Err(error)),
                    None => again.push(op),
                },
            }
        }
        let queue = &mut self.line(gets).queue;
        for op in again.into_iter().rev() {
            queue.push_front(op);
        }
    }

    fn due(&self) -> Option<Instant> {
        let linger = |line: &Line| {
            let lingers = line.flights > 0 && self.gets.flights + self.writes.flights + 1 < self.engine.connections();
            line.queue
                .front()
                .filter(|_| lingers)
                .map(|first| first.wait.since + LINGER)
        };
        let sweep = self.sweeper.due().filter(|_| self.running.is_none());
        linger(&self.gets)
            .into_iter()
            .chain(linger(&self.writes))
            .chain(sweep)
            .min()
    }

    fn finish(&mut self, op: Op, outcome: Outcome) {
        if let Some(mut next) = self.order.release(&op.operation.key) {
            next.wait.since = Instant::now();
            next.wait.patience = next.wait.since + self.engine.query_timeout();
            self.line(next.is_get()).queue.push_back(next);
        }
        self.outstanding -= 1 + op.wait.more.len();
        for caller in op.wait.more {
            self.finish_caller(caller, outcome.clone());
        }
        self.finish_caller(op.wait.caller, outcome);
    }

    fn finish_caller(&mut self, caller: Caller, outcome: Outcome) {
        if let Some(generation) = caller.generation {
            self.generations.end(generation);
        }
        self.done.push((caller.answer, outcome));
    }

    fn deliver(&mut self) {
        Answer::deliver_all(self.done.drain(..));
    }
}

/// The error to give an operation up with, or `None` to retry it.
fn give_up(lost: Lost, op: &Op) -> Option<Error> {
    if !matches!(op.operation.action, Action::Cas(..)) {
        return verdict(lost, Repeat::Freely, op.wait.patience);
    }
    let unknown = matches!(lost, Lost::Unknown(_));
    verdict(lost, Repeat::IfUndone, op.wait.patience).map(|error| match error {
        Error::Connection(why) if unknown => Error::Connection(format!("{why}; the outcome is unknown")),
        error => error,
    })
}

/// Deletes a prefix and all under it, a slice at a time.
async fn clear<E: Engine>(engine: &E, prefix: &Prefix) -> Result<u64> {
    let mut count = 0;
    let mut after = None;
    loop {
        let slice = || engine.clear(prefix, after.as_ref(), CLEAR_SLICE);
        // If a slice were repeated, the count would be too small.
        let cleared = persist(engine.query_timeout(), Repeat::IfUndone, slice).await?;
        count += cleared.live;
        match cleared.next {
            Some(next) => after = Some(next),
            None => return Ok(count),
        }
    }
}
