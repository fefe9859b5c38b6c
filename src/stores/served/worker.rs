//! The worker: takes all queued operations, forms groups of them, runs several
//! groups at once, and delivers the outcomes of a group together.

use super::Message;
use super::attempt::{guard, persist};
use super::engine::{Engine, Lost, Swept};
use super::operation::{Action, Operation};
use super::schedule::{Id, Progress, Schedule, Scope};
use super::sweep::{SLICE, Sweeper};
use crate::host::{Bulk, sleep_until};
use crate::kv::{Answer, Command, Error, Job, Outcome, Prefix, Reply, Result};
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

/// While groups are under way, another one begins when enough operations wait, or when
/// one has waited this long: none should wait for another group's round trip.
const LINGER: Duration = Duration::from_millis(1);

/// The number of entries that a `clear` deletes at a time, so that other
/// operations get their turn.
const CLEAR_SLICE: u32 = 1000;

/// How many operations on many entries may run at once.
const MOST_BROAD: usize = 4;

pub struct Worker<E> {
    engine: Arc<E>,
    bulk: Bulk,
    messages: UnboundedReceiver<Message>,
    schedule: Schedule<Broad>,
    lines: Vec<Line>,
    broads: usize,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    sweeper: Sweeper,
    /// When connections are looked after.
    tend: Option<Instant>,
    closing: Option<Answer>,
}

/// A queue of ready operations, since when they have been so, and how many of its
/// groups are under way.
#[derive(Default)]
struct Line {
    queue: VecDeque<(Id, Instant)>,
    flights: usize,
}

impl Line {
    fn is_worth_a_flight(&self, worth: usize, now: Instant) -> bool {
        self.queue.front().is_some_and(|(_, since)| {
            self.flights == 0 || self.queue.len() >= self.flights * worth || now >= *since + LINGER
        })
    }

    /// The next group.
    fn take(&mut self, schedule: &Schedule<Broad>) -> Vec<Id> {
        let mut ids = Vec::new();
        let mut bytes = 0;
        while ids.len() < GROUP
            && bytes < GROUP_BYTES
            && let Some((id, _)) = self.queue.pop_front()
        {
            // It may have been rejected meanwhile.
            if let Some((_, weight)) = schedule.ready_one(id) {
                bytes += weight;
                ids.push(id);
            }
        }
        ids
    }
}

/// What operations on many entries do.
enum Broad {
    Clear(Prefix),
    Initialize,
    Drop,
    Reindex,
}

enum Event {
    Group {
        line: usize,
        ids: Vec<Id>,
        outcomes: Result<Vec<Result<Outcome, Lost>>>,
    },
    Broad(Id, Outcome),
    Swept(Option<Swept>),
}

impl<E: Engine> Worker<E> {
    pub fn new(engine: Arc<E>, messages: UnboundedReceiver<Message>, bulk: Bulk) -> Self {
        Self {
            schedule: Schedule::new(engine.query_timeout(), engine.place().to_owned()),
            engine,
            bulk,
            messages,
            lines: Vec::new(),
            broads: 0,
            events: FuturesUnordered::new(),
            sweeper: Sweeper::default(),
            tend: None,
            closing: None,
        }
    }

    /// Runs until the store is closed or dropped and all earlier operations are
    /// answered. Returns the answer to `close`, which is due once all resources are
    /// released.
    pub async fn run(mut self) -> Option<Answer> {
        let mut batch = Vec::new();
        let mut gone = false;
        loop {
            self.work();
            Answer::deliver_all(self.schedule.take_answered());
            if (self.closing.is_some() || gone) && self.schedule.is_answered() {
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
                // Deadlines are over when this timer has fired, not when their time
                // has come: after the event loop was held up, there may be answers.
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.on_time(),
            }
        }
        self.engine.close().await;
        self.closing
    }

    fn take(&mut self, message: Message) {
        let (Job { command, answer }, admission) = match message {
            Message::Task(task) => return drop(tokio::spawn(task)),
            Message::List(prefix, answer) => return self.schedule.add_list(prefix, answer),
            Message::Job(job, admission) => (job, admission),
            // Each step of it is right whatever else happens.
            Message::Reindex(answer, admission) => {
                return self.schedule.add_broad(Scope::Table, Broad::Reindex, answer, admission);
            }
        };
        let (key, action) = match command {
            Command::Get(key) => (key, Action::Get),
            Command::Put(key, write) => (key, Action::Put(write)),
            Command::Cas(key, expected, write) => (key, Action::Cas(expected, write)),
            Command::Clear(prefix) => {
                let scope = Scope::Prefix(prefix.clone());
                return self.schedule.add_broad(scope, Broad::Clear(prefix), answer, admission);
            }
            Command::Initialize => {
                return self
                    .schedule
                    .add_broad(Scope::Table, Broad::Initialize, answer, admission);
            }
            Command::Drop => return self.schedule.add_broad(Scope::All, Broad::Drop, answer, admission),
            Command::Close => return self.closing = Some(answer),
        };
        let operation = Operation::new(key, action);
        if let Some(ttl) = operation.ttl()
            && self.engine.needs_sweeps()
        {
            self.sweeper.expect(ttl);
        }
        self.schedule.add(operation, answer, admission);
    }

    /// Does all that can be done now.
    fn work(&mut self) {
        let now = Instant::now();
        while self.broads < MOST_BROAD.min(self.engine.connections())
            && let Some((id, broad, progress)) = self.schedule.start_broad()
        {
            self.broads += 1;
            self.start(id, broad, progress);
        }
        let ready: Vec<Id> = self.schedule.take_ready().collect();
        for id in ready {
            let Some((operation, _)) = self.schedule.ready_one(id) else {
                continue;
            };
            let line = self.engine.line(operation);
            if line >= self.lines.len() {
                self.lines.resize_with(line + 1, Line::default);
            }
            self.lines[line].queue.push_back((id, now));
        }
        self.send(now);
        if self.sweeper.is_due(now) {
            let from = self.sweeper.start(now);
            let (engine, bulk) = (Arc::clone(&self.engine), self.bulk.clone());
            let sweep = guard(async move { engine.sweep(from.as_ref(), SLICE).await.ok() });
            self.events.push(Box::pin(async move {
                let swept = bulk.run(sweep).await.and_then(|swept| swept);
                Event::Swept(swept.ok().flatten())
            }));
        }
    }

    fn flights(&self) -> usize {
        self.lines.iter().map(|line| line.flights).sum()
    }

    /// Whether another group of a line may begin.
    fn may_send(&self, line: usize) -> bool {
        self.engine.may_begin(line, self.lines[line].flights, self.flights())
    }

    /// Sends ready operations, if it is worth it.
    fn send(&mut self, now: Instant) {
        for line in 0..self.lines.len() {
            while self.may_send(line) && self.lines[line].is_worth_a_flight(E::WORTH, now) {
                let ids = self.lines[line].take(&self.schedule);
                if ids.is_empty() {
                    continue;
                }
                self.lines[line].flights += 1;
                let group = self.schedule.start(&ids);
                let engine = Arc::clone(&self.engine);
                self.events.push(Box::pin(async move {
                    let outcomes = guard(async { engine.run(&group).await }).await;
                    Event::Group { line, ids, outcomes }
                }));
            }
        }
    }

    fn start(&mut self, id: Id, broad: Broad, progress: Progress) {
        let engine = Arc::clone(&self.engine);
        let limit = engine.query_timeout();
        let task = guard(async move {
            match broad {
                Broad::Clear(prefix) => clear(&*engine, &prefix, &progress).await.map(Reply::Count),
                Broad::Initialize => {
                    let create = persist(limit, true, |limits| engine.create(limits));
                    create.await.map(|()| Reply::Done)
                }
                Broad::Drop if !E::HAS_TABLE => {
                    let cleared = clear(&*engine, &Prefix::ALL, &progress).await;
                    cleared.map(|_| Reply::Done)
                }
                Broad::Reindex => engine.reindex(&progress).await.map(Reply::Count),
                Broad::Drop => {
                    let drop = persist(limit, false, |limits| engine.drop_table(limits));
                    drop.await.map(|()| Reply::Done)
                }
            }
        });
        let bulk = self.bulk.clone();
        self.events.push(Box::pin(async move {
            let panicked = |error: Error| Err(error.with_unknown_outcome());
            let outcome = bulk.run(task).await;
            Event::Broad(id, outcome.and_then(|outcome| outcome.unwrap_or_else(panicked)))
        }));
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Group { line, ids, outcomes } => {
                self.lines[line].flights -= 1;
                self.on_group(ids, outcomes);
            }
            Event::Swept(swept) => self.sweeper.on(swept),
            Event::Broad(id, outcome) => {
                self.broads -= 1;
                self.schedule.end_broad(id, &outcome);
            }
        }
    }

    fn on_group(&mut self, ids: Vec<Id>, outcomes: Result<Vec<Result<Outcome, Lost>>>) {
        let mut outcomes = outcomes.map(Vec::into_iter);
        for id in ids {
            let result = match &mut outcomes {
                Ok(outcomes) => outcomes.next().unwrap_or_else(|| Ok(Err(missing()))),
                // A panic, which would come again.
                Err(error) => Ok(Err(error.clone().with_unknown_outcome())),
            };
            if matches!(result, Ok(Ok(_))) && self.engine.needs_sweeps() {
                self.sweeper.begin();
            }
            self.schedule.end(id, result);
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        self.schedule.on_time(now);
        if self.tend.is_some_and(|tend| tend <= now) {
            self.tend = None;
        }
    }

    /// When there is something to do without an event.
    fn due(&mut self) -> Option<Instant> {
        let flights = self.flights();
        let linger = |(index, line): (usize, &Line)| {
            let lingers = line.flights > 0 && self.may_send(index);
            let first = line.queue.front().filter(|_| lingers);
            first.map(|(_, since)| *since + LINGER)
        };
        let linger = self.lines.iter().enumerate().filter_map(linger).min();
        if flights == 0 && self.tend.is_none() {
            self.tend = self.engine.tend();
        }
        let due = [linger, self.schedule.due(), self.sweeper.due(), self.tend];
        due.into_iter().flatten().min()
    }
}

/// For an operation that an engine has left out.
pub fn missing() -> Error {
    Error::Backend("internal error: an operation without an outcome".into())
}

/// Deletes a prefix and all under it, a slice at a time.
async fn clear<E: Engine>(engine: &E, prefix: &Prefix, progress: &Progress) -> Result<u64> {
    let mut count = 0;
    let mut after = None;
    let walk = E::Walk::default();
    loop {
        let slice = |limits| engine.clear(&walk, prefix, after.as_ref(), CLEAR_SLICE, limits);
        // If a slice were repeated, the count would be too small.
        let cleared = persist(engine.query_timeout(), false, slice).await;
        let cleared = cleared.map_err(|error| match after {
            Some(_) => error.with_unknown_outcome(),
            None => error,
        })?;
        progress.make();
        count += cleared.live;
        match cleared.next {
            Some(next) => after = Some(next),
            None => return Ok(count),
        }
    }
}

#[cfg(test)]
mod tests;
