//! The worker: takes all queued operations, sends them as one request to each
//! server concerned, and delivers the outcomes of a request together.
//!
//! Operations on one entry take effect in the order of their calls. On one
//! connection the protocol guarantees that. Operations that have to be sent
//! again wait until nothing is under way on their server, and are then put in
//! order with newer ones.

use super::connection::Connection;
use super::failure::{Lost, Refusal, Verdict, verdict};
use super::flight::{Dealt, Flight};
use super::link::Link;
use super::many::Kind;
use super::op::{Action, Next, Op};
use super::order::Held;
use super::resp::Replies;
use super::slots::{SLOTS, slot};
use super::{Hub, Message};
use crate::kv::{Answer, Command, Error, Job, Outcome, Prefix, Reply, Result};
use crate::stores::served::{Admission, Generations};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use redis::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// The most operations in one request, and about the most bytes.
const GROUP: usize = 512;
const GROUP_BYTES: usize = 512 * 1024;

/// The most requests under way to one server. More would only make requests
/// smaller.
const FLIGHTS: usize = 8;

/// The pause before a server that is loading, or a cluster that is changing, is
/// asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Marks a slot whose server is unknown.
const NO_LINK: usize = usize::MAX;

pub struct Worker {
    hub: Arc<Hub>,
    messages: UnboundedReceiver<Message>,
    links: Vec<Link>,
    /// The link that serves each slot, and the link that should, by the
    /// cluster's latest map. A slot changes its link when nothing is under way
    /// at the old one.
    owners: Vec<usize>,
    wanted: Vec<usize>,
    unrouted: VecDeque<Op>,
    mapping: bool,
    held: Held,
    backlog: VecDeque<Work>,
    /// How many operations in the backlog concern more than one entry.
    broad: usize,
    running: Option<Running>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
    generations: Generations,
    /// Operations that are queued or under way.
    outstanding: usize,
    number: u64,
    done: Vec<(Answer, Outcome)>,
    closed: Option<Answer>,
    /// Whether operations may share commands: their entries must be in one
    /// slot.
    joins: bool,
    /// Whether an operation came that must not be sent on a connection that has
    /// ended unnoticed.
    look_first: bool,
}

/// An operation that waits for another one that concerns many entries.
enum Work {
    One(Op),
    Broad(Broad),
}

struct Broad {
    answer: Answer,
    task: BroadTask,
    generation: u64,
    /// Counts until the task has ended.
    _admission: Option<Admission>,
}

enum BroadTask {
    Clear(Prefix),
    Initialize,
    Drop,
    Reindex(Arc<AtomicU64>),
    Close,
}

struct Running {
    broad: Broad,
    /// Operations under this prefix wait for it.
    concerns: Option<Prefix>,
}

enum Event {
    Replies {
        link: usize,
        flight: Flight,
        result: Result<Replies, Lost>,
    },
    Connected {
        link: usize,
        result: Result<Connection, Refusal>,
    },
    Mapped(Result<()>),
    Broad(Outcome),
}

impl Worker {
    pub fn new(hub: Arc<Hub>, messages: UnboundedReceiver<Message>) -> Self {
        Self {
            joins: !hub.topology.is_cluster() || hub.wire.is_in_one_slot(),
            hub,
            messages,
            links: Vec::new(),
            owners: vec![NO_LINK; usize::from(SLOTS)],
            wanted: vec![NO_LINK; usize::from(SLOTS)],
            unrouted: VecDeque::new(),
            mapping: false,
            held: Held::default(),
            backlog: VecDeque::new(),
            broad: 0,
            running: None,
            events: FuturesUnordered::new(),
            generations: Generations::default(),
            outstanding: 0,
            number: 0,
            done: Vec::new(),
            closed: None,
            look_first: false,
        }
    }

    /// Runs until the store is closed or dropped and all earlier operations are
    /// done. Returns the answer to `close`, which is due once all resources are
    /// released.
    pub async fn run(mut self) -> Option<Answer> {
        let mut batch = Vec::new();
        let mut gone = false;
        self.adopt_map();
        loop {
            self.work();
            self.deliver();
            let idle = self.outstanding == 0 && self.backlog.is_empty() && self.running.is_none();
            if self.closed.is_some() || (gone && idle) {
                break;
            }
            let due = self.due();
            tokio::select! {
                biased;
                Some(event) = self.events.next(), if !self.events.is_empty() => self.on(event),
                count = self.messages.recv_many(&mut batch, GROUP), if !gone => {
                    gone = count == 0;
                    let quiet = self.links.iter().all(|link| link.flights == 0);
                    let patience = Instant::now() + self.hub.settings.command_timeout;
                    for message in batch.drain(..) {
                        self.take(message, patience);
                    }
                    if quiet && std::mem::take(&mut self.look_first) {
                        // Lets the runtime poll the sockets and then run the
                        // connections' tasks, so that a connection that has
                        // ended is noticed.
                        yield_now().await;
                        yield_now().await;
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
        self.closed
    }

    fn take(&mut self, message: Message, patience: Instant) {
        match message {
            Message::Task(task) => drop(tokio::spawn(task)),
            Message::Ready(answer) => self.generations.answer_after(answer),
            Message::Reindex(answer, progress) => self.take_broad(answer, BroadTask::Reindex(progress), None),
            Message::Job(Job { command, answer }, admission) => {
                let (key, action) = match command {
                    Command::Get(key) => (key, Action::Get),
                    Command::Put(key, write) => (key, Action::Put(write)),
                    Command::Cas(key, expected, write) => (
                        key,
                        Action::Cas {
                            expected,
                            stored: None,
                            write,
                        },
                    ),
                    Command::Clear(prefix) => {
                        return self.take_broad(answer, BroadTask::Clear(prefix), Some(admission));
                    }
                    Command::Initialize => return self.take_broad(answer, BroadTask::Initialize, Some(admission)),
                    Command::Drop => return self.take_broad(answer, BroadTask::Drop, Some(admission)),
                    Command::Close => return self.take_broad(answer, BroadTask::Close, Some(admission)),
                };
                let name = self.hub.wire.name(&key);
                self.number += 1;
                self.look_first |= matches!(action, Action::Cas { .. });
                let op = Op {
                    number: self.number,
                    generation: self.generations.begin(),
                    answer,
                    slot: if self.hub.topology.is_cluster() { slot(&name) } else { 0 },
                    key,
                    name,
                    action,
                    admission,
                    patience,
                    whole: false,
                    alone: false,
                    ask: None,
                };
                let concerned = self
                    .running
                    .as_ref()
                    .and_then(|running| running.concerns.as_ref())
                    .is_some_and(|prefix| prefix.contains_json(op.key.as_json()));
                if concerned || self.broad > 0 {
                    self.backlog.push_back(Work::One(op));
                } else {
                    self.admit(op);
                }
            }
        }
    }

    fn take_broad(&mut self, answer: Answer, task: BroadTask, admission: Option<Admission>) {
        let generation = self.generations.begin();
        self.broad += 1;
        self.backlog.push_back(Work::Broad(Broad {
            answer,
            task,
            generation,
            _admission: admission,
        }));
    }

    fn admit(&mut self, op: Op) {
        self.outstanding += 1;
        if let Some(op) = self.held.pass(op) {
            self.route(op);
        }
    }

    fn route(&mut self, mut op: Op) {
        let link = match op.ask.take() {
            Some(server) => {
                let link = self.link_of(&server);
                op.ask = Some(server);
                link
            }
            None => self.owners[usize::from(op.slot)],
        };
        if let Some(link) = self.links.get_mut(link) {
            link.queue.push_back(op);
        } else {
            self.unrouted.push_back(op);
            self.ask_for_map();
        }
    }

    /// Does all that can be done now.
    fn work(&mut self) {
        self.work_off_backlog();
        let now = Instant::now();
        self.expire(now);
        let mut link = 0;
        while link < self.links.len() {
            if self.settle(link, now) {
                // It may have queued operations at any link.
                link = 0;
                continue;
            }
            link += 1;
        }
        for link in 0..self.links.len() {
            self.send(link);
        }
    }

    fn work_off_backlog(&mut self) {
        while self.running.is_none() {
            match self.backlog.pop_front() {
                None => return,
                Some(Work::One(op)) => self.admit(op),
                Some(Work::Broad(broad)) if self.outstanding == 0 => {
                    self.broad -= 1;
                    self.start(broad);
                }
                Some(waiting) => {
                    self.backlog.push_front(waiting);
                    return;
                }
            }
        }
    }

    fn start(&mut self, broad: Broad) {
        let hub = Arc::clone(&self.hub);
        let (concerns, task): (_, BoxFuture<'static, Outcome>) = match &broad.task {
            BroadTask::Close => {
                self.closed = Some(broad.answer);
                return;
            }
            BroadTask::Initialize => (
                None,
                Box::pin(async move { hub.reach_all().await.map(|()| Reply::Done) }),
            ),
            BroadTask::Clear(prefix) => {
                let prefix = prefix.clone();
                let concerns = Some(prefix.clone());
                (
                    concerns,
                    Box::pin(async move { hub.clear(&prefix).await.map(Reply::Count) }),
                )
            }
            BroadTask::Drop => {
                let task = async move {
                    let names = hub.scan(&Prefix::ALL, Kind::Anything).await?;
                    hub.unlink(&names).await.map(|_| Reply::Done)
                };
                (Some(Prefix::ALL), Box::pin(task))
            }
            BroadTask::Reindex(progress) => {
                let progress = Arc::clone(progress);
                // Other writers go on: each step reads what is stored at that
                // moment.
                (
                    None,
                    Box::pin(async move { hub.reindex(&progress).await.map(Reply::Count) }),
                )
            }
        };
        self.running = Some(Running { broad, concerns });
        self.events.push(Box::pin(async move { Event::Broad(task.await) }));
    }

    /// Sends the queued operations of a link, if possible.
    fn send(&mut self, index: usize) {
        let link = &mut self.links[index];
        while !link.stalled && link.flights < FLIGHTS && !link.queue.is_empty() {
            let Some(connection) = link.live() else {
                if link.flights > 0 {
                    // In-flight operations may need resending before anything
                    // newer.
                    link.stalled = true;
                } else if !link.connecting {
                    link.connecting = true;
                    let server = Arc::clone(&link.server);
                    self.events.push(Box::pin(async move {
                        Event::Connected {
                            link: index,
                            result: server.connect().await,
                        }
                    }));
                }
                return;
            };
            let mut bytes = 0;
            let fits = |op: &&Op| {
                let fits = bytes < GROUP_BYTES;
                bytes += op.admission.weight();
                fits
            };
            let length = link.queue.iter().take(GROUP).take_while(fits).count();
            let ops = link.queue.drain(..length).collect();
            let may_join = |joint| self.joins && link.sharing.allows(joint);
            let (flight, request) = Flight::new(ops, &self.hub, may_join, bytes + 128 * length);
            link.flights += 1;
            let replies = connection.send(request);
            self.events.push(Box::pin(async move {
                Event::Replies {
                    link: index,
                    flight,
                    result: replies.await,
                }
            }));
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Replies { link, flight, result } => self.on_replies(link, flight, result),
            Event::Connected { link: index, result } => {
                let link = &mut self.links[index];
                link.connecting = false;
                match result {
                    Ok(connection) => {
                        link.connection = Some(connection);
                    }
                    Err(refusal) => self.on_refusal(index, &refusal),
                }
            }
            Event::Mapped(result) => {
                self.mapping = false;
                for link in &mut self.links {
                    link.wants_map = false;
                }
                match result {
                    Ok(()) => self.adopt_map(),
                    Err(error) => self.on_no_map(&error),
                }
            }
            Event::Broad(outcome) => {
                if let Some(Running { broad, .. }) = self.running.take() {
                    self.generations.end(broad.generation);
                    self.done.push((broad.answer, outcome));
                }
            }
        }
    }

    fn on_replies(&mut self, index: usize, flight: Flight, result: Result<Replies, Lost>) {
        self.links[index].flights -= 1;
        let cluster = self.hub.topology.is_cluster();
        match result {
            Ok(replies) => {
                let (mut gets, mut missed) = (0, 0);
                flight.deal(replies, |dealt| match dealt {
                    Dealt::Reply(op, reply) => {
                        if matches!(op.action, Action::Get) {
                            gets += 1;
                            missed += usize::from(reply == Value::Nil);
                        }
                        self.on_reply(index, op, reply);
                    }
                    Dealt::Missed(mut op) => {
                        gets += 1;
                        missed += 1;
                        if self.links[index].is_overtaken(&op) {
                            self.links[index].again(op);
                        } else {
                            op.action = Action::Missed;
                            self.route(op);
                        }
                    }
                    Dealt::Refused(mut op, error) => {
                        let link = &mut self.links[index];
                        link.sharing.refused(&error);
                        op.alone = true;
                        link.again(op);
                    }
                });
                self.links[index].sharing.answered(gets, missed);
            }
            Err(Lost::Timeout(why)) => {
                for mut op in flight.ops {
                    let words = if matches!(op.action, Action::Get | Action::Missed) {
                        why.clone()
                    } else {
                        format!("{why}; the outcome is unknown")
                    };
                    self.finish(&mut op, Err(Error::Timeout(words)));
                }
                if cluster {
                    self.ask_for_map();
                }
            }
            Err(Lost::Connection(why)) => {
                let link = &mut self.links[index];
                link.stalled = true;
                for mut op in flight.ops {
                    if op.may_repeat() {
                        self.links[index].again(op);
                    } else {
                        let words = format!("{why}; the outcome is unknown");
                        self.finish(&mut op, Err(Error::Connection(words)));
                    }
                }
                if cluster {
                    self.links[index].wants_map = true;
                    self.ask_for_map();
                }
            }
        }
    }

    fn on_reply(&mut self, index: usize, mut op: Op, reply: Value) {
        if self.links[index].is_overtaken(&op) {
            self.links[index].again(op);
            return;
        }
        let Value::ServerError(error) = reply else {
            match op.read(reply, self.hub.settings.index) {
                Next::Finish(outcome) => self.finish(&mut op, outcome),
                // Its entry is held, so nothing can overtake it.
                Next::Again => self.route(op),
            }
            return;
        };
        let cluster = self.hub.topology.is_cluster();
        let impatient = op.patience <= Instant::now();
        match verdict(&error, Some(&op.key)) {
            Verdict::Final(error) => self.finish(&mut op, Err(error)),
            _ if impatient => self.finish(&mut op, Err(super::failure::unexpected(&Value::ServerError(error)))),
            Verdict::NoScript => {
                op.whole = true;
                self.links[index].again(op);
            }
            Verdict::Later => {
                let link = &mut self.links[index];
                link.not_before = Some(Instant::now() + PAUSE);
                link.again(op);
            }
            Verdict::Moved if cluster => {
                let link = &mut self.links[index];
                link.wants_map = true;
                link.again(op);
                self.ask_for_map();
            }
            Verdict::Ask(place) if cluster => {
                op.ask = self.hub.topology.server_at(&place);
                self.links[index].again(op);
            }
            Verdict::Demoted(_) if cluster => {
                let link = &mut self.links[index];
                link.not_before = Some(Instant::now() + PAUSE);
                link.wants_map = true;
                link.again(op);
                self.ask_for_map();
            }
            Verdict::Demoted(error) => {
                // The same name may lead to another server now.
                let link = &mut self.links[index];
                if let Some(connection) = &link.connection {
                    connection.give_up();
                }
                link.stalled = true;
                self.finish(&mut op, Err(error));
            }
            Verdict::Moved | Verdict::Ask(_) => {
                let words =
                    format!("the server is part of a cluster: use a redis+cluster: URL or an array of URLs ({error})");
                self.finish(&mut op, Err(Error::Backend(words)));
            }
        }
    }

    fn on_refusal(&mut self, index: usize, refusal: &Refusal) {
        let link = &mut self.links[index];
        let cluster = self.hub.topology.is_cluster();
        // Operations fail at once, because the server may not exist.
        if refusal.lasting || (!cluster && !link.server.was_reached()) {
            for mut op in link.take_all() {
                self.finish(&mut op, Err(refusal.error.clone()));
            }
        } else if cluster {
            link.stalled = true;
            link.wants_map = true;
            self.ask_for_map();
        }
    }

    /// Puts the operations of a link in order again, once nothing is under way.
    fn settle(&mut self, index: usize, now: Instant) -> bool {
        let link = &mut self.links[index];
        let waits = link.flights > 0 || link.wants_map || link.not_before.is_some_and(|instant| now < instant);
        if !link.stalled || waits {
            return false;
        }
        let ops = link.take_all();
        for slot in 0..usize::from(SLOTS) {
            if self.owners[slot] == index && self.wanted[slot] != NO_LINK {
                self.owners[slot] = self.wanted[slot];
            }
        }
        for op in ops {
            self.route(op);
        }
        true
    }

    fn ask_for_map(&mut self) {
        if self.mapping {
            return;
        }
        self.mapping = true;
        let hub = Arc::clone(&self.hub);
        self.events.push(Box::pin(async move {
            let patience = Instant::now() + hub.settings.command_timeout;
            let result = timeout_at(patience, hub.topology.refresh())
                .await
                .unwrap_or_else(|_| Err(Error::Timeout("no server of the cluster answered".into())));
            if result.is_err() {
                sleep(PAUSE).await;
            }
            Event::Mapped(result)
        }));
    }

    fn adopt_map(&mut self) {
        for slot in 0..SLOTS {
            let link = match self.hub.topology.owner(slot) {
                Some(server) => self.link_of(&server),
                None => NO_LINK,
            };
            let slot = usize::from(slot);
            self.wanted[slot] = link;
            let owner = self.owners[slot];
            if owner == NO_LINK {
                self.owners[slot] = link;
            } else if link != NO_LINK && owner != link {
                self.links[owner].stalled = true;
            }
        }
        for op in std::mem::take(&mut self.unrouted) {
            self.route(op);
        }
    }

    fn on_no_map(&mut self, error: &Error) {
        if self.links.is_empty() {
            for mut op in std::mem::take(&mut self.unrouted) {
                self.finish(&mut op, Err(error.clone()));
            }
        } else if !self.unrouted.is_empty() {
            self.ask_for_map();
        }
    }

    fn link_of(&mut self, server: &Arc<super::server::Server>) -> usize {
        if let Some(index) = self.links.iter().position(|link| Arc::ptr_eq(&link.server, server)) {
            return index;
        }
        self.links.push(Link::new(Arc::clone(server)));
        self.links.len() - 1
    }

    /// Gives up operations that have waited too long for a server.
    fn expire(&mut self, now: Instant) {
        let mut expired = Vec::new();
        for link in &mut self.links {
            if link.due().is_none_or(|due| due > now) {
                continue;
            }
            let error = link.server.last_error();
            let late = |op: &Op| op.patience <= now;
            expired.extend(link.redo.extract_if(.., |op| late(op)).map(|op| (op, error.clone())));
            while link.queue.front().is_some_and(late) {
                expired.extend(link.queue.pop_front().map(|op| (op, error.clone())));
            }
        }
        while self.unrouted.front().is_some_and(|op| op.patience <= now) {
            let error = Error::Timeout("no server of the cluster has the key's slot".into());
            expired.extend(self.unrouted.pop_front().map(|op| (op, error)));
        }
        for (mut op, error) in expired {
            self.finish(&mut op, Err(error));
        }
    }

    fn due(&self) -> Option<Instant> {
        let links = self.links.iter().filter_map(Link::due);
        links.chain(self.unrouted.front().map(|op| op.patience)).min()
    }

    fn finish(&mut self, op: &mut Op, outcome: Outcome) {
        self.outstanding -= 1;
        self.generations.end(op.generation);
        for next in self.held.release(op) {
            self.route(next);
        }
        self.done.push((op.answer.take(), outcome));
    }

    fn deliver(&mut self) {
        Answer::deliver_all(self.done.drain(..));
    }
}

impl Hub {
    async fn reach_all(&self) -> Result<()> {
        for master in self.topology.masters().await? {
            master.reach(Instant::now() + self.settings.command_timeout).await?;
        }
        Ok(())
    }

    async fn clear(&self, prefix: &Prefix) -> Result<u64> {
        if self.settings.index {
            return self.clear_indexed(prefix).await;
        }
        let names = self.scan(prefix, Kind::Entries).await?;
        self.unlink(&names).await
    }
}
