//! Which operations may run now, and which are too late.
//!
//! Operations on one key take effect in the order of their calls, and so do an
//! operation on many entries (a broad one) and those that it concerns. All others
//! pass each other. Consecutive gets of one key that wait share one read.
//!
//! Each caller has a deadline, and is rejected when it is over, whatever the
//! operation is waiting for. While a broad operation makes progress, those that it
//! holds back keep their patience.

use super::Admission;
use super::attempt::{Attempts, Next};
use super::engine::Lost;
use super::group::Group;
use super::operation::{Caller, Operation};
use crate::kv::{Answer, Error, Key, Outcome, Prefix};
use parking_lot::Mutex;
use slab::Slab;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// An operation of a schedule. It names no other one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// The place in the order of the calls.
    number: u64,
    slot: usize,
}

/// What a broad operation concerns.
#[derive(Clone, Debug)]
pub enum Scope {
    /// The table, but no entry.
    Table,
    Prefix(Prefix),
    All,
}

impl Scope {
    fn concerns(&self, key: &Key) -> bool {
        match self {
            Self::Table => false,
            Self::Prefix(prefix) => prefix.contains_json(key.as_json()),
            Self::All => true,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => true,
            (Self::Prefix(one), Self::Prefix(other)) => {
                let within = |outer: &Prefix, inner: &Prefix| match inner.key() {
                    Some(key) => outer.contains_json(key.as_json()),
                    None => true,
                };
                within(one, other) || within(other, one)
            }
            _ => false,
        }
    }
}

/// When a broad operation has last got further.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub fn make(&self) {
        *self.0.lock() = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock()
    }
}

/// The operations of a store. `B` is what a broad one does.
pub struct Schedule<B> {
    timeout: Duration,
    place: String,
    last: u64,
    ops: Slab<Op>,
    /// The keys that have an operation that is ready or under way, and those that
    /// wait behind it.
    keys: HashMap<Key, VecDeque<Id>>,
    /// Held back by broad operations, in the order of the calls.
    held: Vec<Id>,
    ready: Vec<Id>,
    /// Those that failed and pause before the next attempt.
    paused: BinaryHeap<Reverse<(Instant, Id)>>,
    broads: BTreeMap<u64, Broad<B>>,
    progress: Progress,
    /// When which operation has a caller that is to be rejected. Some are done
    /// already.
    deadlines: BinaryHeap<Reverse<(Instant, Id)>>,
    /// Lists that wait for earlier writes.
    lists: BTreeMap<u64, List>,
    /// Why there is no connection, if that was so the last time.
    trouble: Option<Error>,
    /// How many callers have no answer yet.
    waiting: usize,
    answered: Vec<(Answer, Outcome)>,
}

struct Op {
    id: Id,
    operation: Arc<Operation>,
    /// None of them are left if all were rejected.
    callers: Vec<Caller>,
    state: State,
    attempts: Attempts,
    /// The last group that it was in.
    group: Option<Arc<Group>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Behind a broad operation.
    Held,
    /// Behind another one on the same key.
    Queued,
    Ready,
    Running,
}

struct Broad<B> {
    scope: Scope,
    /// How many earlier operations it waits for.
    blockers: usize,
    /// `None` once it has started.
    task: Option<B>,
    /// `None` once it is rejected.
    caller: Option<Caller>,
}

/// A list sees the writes that were called before it. It holds nothing back.
struct List {
    scope: Scope,
    /// How many earlier writes it waits for.
    blockers: usize,
    answer: oneshot::Sender<()>,
}

/// The slot in the [`Id`] of a broad operation.
const BROAD: usize = usize::MAX;

impl<B> Schedule<B> {
    /// The place is for messages.
    pub fn new(timeout: Duration, place: String) -> Self {
        Self {
            timeout,
            place,
            last: 0,
            ops: Slab::new(),
            keys: HashMap::new(),
            held: Vec::new(),
            ready: Vec::new(),
            paused: BinaryHeap::new(),
            broads: BTreeMap::new(),
            progress: Progress::new(),
            deadlines: BinaryHeap::new(),
            lists: BTreeMap::new(),
            trouble: None,
            waiting: 0,
            answered: Vec::new(),
        }
    }

    fn id(&mut self, slot: usize) -> Id {
        self.last += 1;
        Id {
            number: self.last,
            slot,
        }
    }

    fn caller(&mut self, answer: Answer, admission: Admission) -> Caller {
        self.waiting += 1;
        Caller {
            answer,
            admission,
            deadline: Instant::now() + self.timeout,
        }
    }

    /// Takes a call.
    pub fn add(&mut self, operation: Operation, answer: Answer, admission: Admission) {
        let caller = self.caller(answer, admission);
        let id = self.id(self.ops.vacant_key());
        let deadline = caller.deadline;
        let held = self.is_held(&operation.key, id);
        self.ops.insert(Op {
            id,
            operation: Arc::new(operation),
            callers: vec![caller],
            state: State::Held,
            attempts: Attempts::default(),
            group: None,
        });
        let answered_with = if held {
            self.held.push(id);
            id
        } else {
            self.admit(id)
        };
        self.deadlines.push(Reverse((deadline, answered_with)));
    }

    /// Takes the call of a broad operation.
    pub fn add_broad(&mut self, scope: Scope, task: B, answer: Answer, admission: Admission) {
        let caller = self.caller(answer, admission);
        let id = self.id(BROAD);
        let ops = self.ops.iter().filter(|(_, op)| scope.concerns(&op.operation.key));
        let broads = self.broads.values().filter(|broad| broad.scope.overlaps(&scope));
        let blockers = ops.count() + broads.count();
        self.deadlines.push(Reverse((caller.deadline, id)));
        let broad = Broad {
            scope,
            blockers,
            task: Some(task),
            caller: Some(caller),
        };
        self.broads.insert(id.number, broad);
    }

    fn op(&self, id: Id) -> Option<&Op> {
        self.ops.get(id.slot).filter(|op| op.id == id)
    }

    fn op_mut(&mut self, id: Id) -> Option<&mut Op> {
        self.ops.get_mut(id.slot).filter(|op| op.id == id)
    }

    /// Whether an operation on a key waits for an earlier broad one.
    fn is_held(&self, key: &Key, id: Id) -> bool {
        let mut earlier = self.broads.range(..id.number);
        earlier.any(|(_, broad)| broad.scope.concerns(key))
    }

    /// Puts an operation behind those on the same key. Returns the one that will
    /// answer it.
    fn admit(&mut self, id: Id) -> Id {
        let Some(op) = self.op(id) else { return id };
        let operation = Arc::clone(&op.operation);
        let (key, is_get) = (operation.key.clone(), operation.is_get());
        let Some(queue) = self.keys.get_mut(&key) else {
            self.keys.insert(key, VecDeque::new());
            self.make_ready(id);
            return id;
        };
        let last = queue.back().copied();
        let joins = last.filter(|_| is_get).and_then(|last| self.op(last));
        if let Some(last) = joins.filter(|last| last.operation.is_get()).map(|last| last.id) {
            let callers = self.ops.try_remove(id.slot).map(|op| op.callers);
            self.unblock(id, &operation);
            if let Some(last) = self.op_mut(last) {
                last.callers.extend(callers.into_iter().flatten());
            }
            return last;
        }
        if let Some(op) = self.op_mut(id) {
            op.state = State::Queued;
        }
        if let Some(queue) = self.keys.get_mut(&key) {
            queue.push_back(id);
        }
        id
    }

    fn make_ready(&mut self, id: Id) {
        if let Some(op) = self.op_mut(id) {
            op.state = State::Ready;
            self.ready.push(id);
        }
    }

    /// The operations that have become ready.
    pub fn take_ready(&mut self) -> std::vec::Drain<'_, Id> {
        self.ready.drain(..)
    }

    /// An operation that is still ready, and how many bytes it has about.
    pub fn ready_one(&self, id: Id) -> Option<(&Operation, usize)> {
        let op = self.op(id).filter(|op| op.state == State::Ready)?;
        let weight = op.callers.first().map_or(0, |caller| caller.admission.weight());
        Some((&op.operation, weight))
    }

    /// Starts operations that are ready, as a group.
    pub fn start(&mut self, ids: &[Id]) -> Arc<Group> {
        let mut operations = Vec::with_capacity(ids.len());
        let mut deadline = Instant::now();
        for id in ids {
            if let Some(op) = self.op(*id) {
                operations.push(Arc::clone(&op.operation));
                deadline = op
                    .callers
                    .iter()
                    .map(|caller| caller.deadline)
                    .fold(deadline, Instant::max);
            }
        }
        let group = Arc::new(Group::new(operations, deadline));
        for id in ids {
            if let Some(op) = self.op_mut(*id) {
                op.state = State::Running;
                op.group = Some(Arc::clone(&group));
            }
        }
        group
    }

    /// The attempt at an operation has ended.
    pub fn end(&mut self, id: Id, result: Result<Outcome, Lost>) {
        if matches!(result, Ok(Ok(_))) {
            self.trouble = None;
        }
        let trouble = self.trouble.clone();
        let Some(op) = self.op_mut(id) else { return };
        if op.attempts.trouble.is_none() {
            op.attempts.trouble = trouble;
        }
        let outcome = match result {
            Ok(outcome) => outcome.map_err(|error| op.attempts.rather_trouble(error)),
            Err(lost) => match op.attempts.fail(lost, op.operation.is_get()) {
                Next::Reject(error) => Err(error),
                Next::Repeat(error) if op.callers.is_empty() => Err(error),
                Next::Repeat(error) => return self.repeat(id, error),
            },
        };
        let callers = self.remove(id);
        self.answer_all(callers, &outcome);
    }

    fn repeat(&mut self, id: Id, error: Error) {
        if matches!(error, Error::Connection(_)) {
            self.trouble = Some(error);
        }
        let Some(op) = self.op_mut(id) else { return };
        op.state = State::Ready;
        let pause = op.attempts.pause();
        if pause.is_zero() {
            self.ready.push(id);
        } else {
            self.paused.push(Reverse((Instant::now() + pause, id)));
        }
    }

    /// Forgets an operation, so that those behind it may run. Returns its callers.
    fn remove(&mut self, id: Id) -> Vec<Caller> {
        if self.op(id).is_none() {
            return Vec::new();
        }
        let op = self.ops.remove(id.slot);
        let key = &op.operation.key;
        match op.state {
            State::Held => self.held.retain(|held| *held != id),
            State::Queued => {
                if let Some(queue) = self.keys.get_mut(key) {
                    queue.retain(|queued| *queued != id);
                }
            }
            State::Ready | State::Running => {
                let next = self.keys.get_mut(key).and_then(VecDeque::pop_front);
                match next {
                    Some(next) => self.make_ready(next),
                    None => drop(self.keys.remove(key)),
                }
            }
        }
        self.unblock(id, &op.operation);
        op.callers
    }

    /// Later broad operations and lists need not wait for this one any longer.
    fn unblock(&mut self, id: Id, operation: &Operation) {
        let key = &operation.key;
        for (_, broad) in self.broads.range_mut(id.number..) {
            broad.blockers -= usize::from(broad.scope.concerns(key));
        }
        if !operation.is_get() {
            self.unblock_lists(id, |scope| scope.concerns(key));
        }
    }

    fn unblock_lists(&mut self, id: Id, concerns: impl Fn(&Scope) -> bool) {
        if self.lists.is_empty() {
            return;
        }
        for (_, list) in self.lists.range_mut(id.number..) {
            list.blockers -= usize::from(concerns(&list.scope));
        }
        self.answer_lists();
    }

    fn answer_lists(&mut self) {
        let ready = self.lists.iter().filter(|(_, list)| list.blockers == 0);
        let ready: Vec<u64> = ready.map(|(number, _)| *number).collect();
        for list in ready.iter().filter_map(|number| self.lists.remove(number)) {
            // It may have been abandoned.
            let _ = list.answer.send(());
        }
    }

    /// Starts a broad operation that may run now.
    pub fn start_broad(&mut self) -> Option<(Id, B, Progress)> {
        let mut broads = self.broads.iter_mut();
        let (number, broad) = broads.find(|(_, broad)| broad.blockers == 0 && broad.task.is_some())?;
        let id = Id {
            number: *number,
            slot: BROAD,
        };
        self.progress.make();
        Some((id, broad.task.take()?, self.progress.clone()))
    }

    /// A broad operation has ended.
    pub fn end_broad(&mut self, id: Id, outcome: &Outcome) {
        let caller = self.remove_broad(id);
        self.answer_all(caller, outcome);
    }

    fn remove_broad(&mut self, id: Id) -> Option<Caller> {
        let broad = self.broads.remove(&id.number)?;
        for (_, later) in self.broads.range_mut(id.number..) {
            later.blockers -= usize::from(later.scope.overlaps(&broad.scope));
        }
        self.unblock_lists(id, |scope| scope.overlaps(&broad.scope));
        let held = std::mem::take(&mut self.held);
        let deadline = Instant::now() + self.timeout;
        for id in held {
            let Some(op) = self.op_mut(id) else { continue };
            let operation = Arc::clone(&op.operation);
            if self.is_held(&operation.key, id) {
                self.held.push(id);
                continue;
            }
            // Its patience begins now.
            if let Some(op) = self.op_mut(id) {
                op.callers.iter_mut().for_each(|caller| caller.deadline = deadline);
            }
            let answered_with = self.admit(id);
            self.deadlines.push(Reverse((deadline, answered_with)));
        }
        broad.caller
    }

    /// When to call [`Self::on_time`].
    pub fn due(&mut self) -> Option<Instant> {
        // Most operations are done long before their deadline.
        while let Some(Reverse((_, id))) = self.deadlines.peek() {
            let known = match id.slot {
                BROAD => self.broads.contains_key(&id.number),
                _ => self.op(*id).is_some(),
            };
            if known {
                break;
            }
            self.deadlines.pop();
        }
        let first = |heap: &BinaryHeap<Reverse<(Instant, Id)>>| heap.peek().map(|Reverse((at, _))| *at);
        first(&self.deadlines).into_iter().chain(first(&self.paused)).min()
    }

    /// Lets operations go on whose pause is over, and rejects callers whose
    /// deadline is.
    pub fn on_time(&mut self, now: Instant) {
        while let Some(id) = pop_until(&mut self.paused, now) {
            if self.op(id).is_some() {
                self.ready.push(id);
            }
        }
        while let Some(id) = pop_until(&mut self.deadlines, now) {
            if id.slot == BROAD {
                self.expire_broad(id, now);
            } else {
                self.expire(id, now);
            }
        }
    }

    fn expire(&mut self, id: Id, now: Instant) {
        let patience = self.progress.last() + self.timeout;
        let Some(op) = self.ops.get_mut(id.slot).filter(|op| op.id == id) else {
            return;
        };
        if op.state == State::Held && patience > now {
            op.callers.iter_mut().for_each(|caller| caller.deadline = patience);
            return self.deadlines.push(Reverse((patience, id)));
        }
        let late = |caller: &mut Caller| caller.deadline <= now;
        let late: Vec<Caller> = op.callers.extract_if(.., late).collect();
        let running = op.state == State::Running;
        let sent = running && op.group.as_ref().is_some_and(|group| group.is_sent());
        let trouble = op.attempts.trouble.as_ref();
        let trouble = trouble.or(self.trouble.as_ref().filter(|_| !running)).cloned();
        let mut error = trouble.unwrap_or_else(|| too_late(&self.place, self.timeout));
        if sent && !op.operation.is_get() {
            error = error.with_unknown_outcome();
        }
        if op.callers.is_empty() && !sent {
            op.operation.withdraw();
        }
        if op.callers.is_empty() && !running {
            self.remove(id);
        }
        self.answer_all(late, &Err(error));
    }

    fn expire_broad(&mut self, id: Id, now: Instant) {
        let patience = self.progress.last() + self.timeout;
        // One that runs has deadlines of its own.
        if self.broads.get(&id.number).is_none_or(|broad| broad.task.is_none()) {
            return;
        }
        if patience > now {
            return self.deadlines.push(Reverse((patience, id)));
        }
        let caller = self.remove_broad(id);
        let error = self
            .trouble
            .clone()
            .unwrap_or_else(|| too_late(&self.place, self.timeout));
        self.answer_all(caller, &Err(error));
    }

    fn answer_all(&mut self, callers: impl IntoIterator<Item = Caller>, outcome: &Outcome) {
        for caller in callers {
            self.waiting -= 1;
            self.answered.push((caller.answer, outcome.clone()));
        }
    }

    /// The answers that have been found.
    pub fn take_answered(&mut self) -> std::vec::Drain<'_, (Answer, Outcome)> {
        self.answered.drain(..)
    }

    /// Answers a list once the writes that it is to see are done.
    pub fn add_list(&mut self, prefix: Prefix, answer: oneshot::Sender<()>) {
        let scope = Scope::Prefix(prefix);
        let ops = self.ops.iter().map(|(_, op)| &op.operation);
        let writes = ops.filter(|operation| !operation.is_get() && scope.concerns(&operation.key));
        let broads = self.broads.values().filter(|broad| broad.scope.overlaps(&scope));
        let list = List {
            blockers: writes.count() + broads.count(),
            scope,
            answer,
        };
        let id = self.id(BROAD);
        self.lists.insert(id.number, list);
        self.answer_lists();
    }

    /// Whether all callers have their answers.
    pub fn is_answered(&self) -> bool {
        self.waiting == 0
    }
}

fn pop_until(heap: &mut BinaryHeap<Reverse<(Instant, Id)>>, now: Instant) -> Option<Id> {
    let Reverse((at, id)) = *heap.peek()?;
    if at > now {
        return None;
    }
    heap.pop();
    Some(id)
}

fn too_late(place: &str, timeout: Duration) -> Error {
    Error::Timeout(format!("{place}: no answer within {} ms", timeout.as_millis()))
}

#[cfg(test)]
mod tests;
