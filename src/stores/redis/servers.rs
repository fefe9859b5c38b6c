//! The servers: one, or those of a cluster, whose map of slots is kept up to date.
//! Requests find their way to the server that has their slot.

use super::Settings;
use super::connection::Replies;
use super::failure::{Verdict, verdict, words};
use super::node::Node;
use super::slots::SLOTS;
use super::topology::{Report, choose, is_decided, redirected};
use super::url::Place;
use super::wire::{Batch, one};
use crate::host::{Bulk, sleep, spawn, timeout_at};
use crate::kv::{Error, Result};
use crate::stores::served::{Attempts, Lost, Next, pause};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use parking_lot::{Mutex, MutexGuard};
use redis::{Cmd, Value, cmd};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// A map that was asked for since then is not asked for again.
const FRESH: Duration = Duration::from_millis(50);

/// While the store is used, the map is looked at so often: a server may have left the
/// cluster without telling anyone.
const OLD: Duration = Duration::from_secs(15);

/// How much longer than the first server the others may take to tell of the cluster.
const OTHERS: Duration = Duration::from_millis(300);

/// The most redirections of one request.
const MOST_HOPS: u32 = 16;

/// With less time, a redirection is not followed.
const LAST_HOP: Duration = Duration::from_millis(50);

/// A command about keys of one slot.
pub struct Call {
    pub slot: u16,
    pub command: Cmd,
}

pub struct Servers {
    this: Weak<Self>,
    settings: Arc<Settings>,
    bulk: Bulk,
    state: Mutex<State>,
    /// Held while the map is asked for. When that was done last, and what came of it.
    asking: tokio::sync::Mutex<Option<(Instant, Result<(), Lost>)>>,
}

struct State {
    /// The servers that the URLs name.
    seeds: Vec<Arc<Node>>,
    /// All servers of the cluster.
    nodes: Vec<Arc<Node>>,
    /// By slot. Empty until the map is known.
    owners: Vec<Option<Arc<Node>>>,
    /// The servers' places by their ids.
    ids: BTreeMap<Vec<u8>, Place>,
    /// Where servers are reached that announce other addresses.
    reached: BTreeMap<Place, Place>,
    /// Changes with each map.
    version: u64,
    taken: Instant,
    lines: usize,
    closed: bool,
}

impl State {
    fn lacks_slots(&self) -> bool {
        self.owners.is_empty() || self.owners.iter().any(Option::is_none)
    }
}

impl Servers {
    pub fn new(settings: &Arc<Settings>, bulk: &Bulk) -> Arc<Self> {
        let places = settings.target.places.iter().enumerate();
        let seeds = places.map(|(line, place)| Arc::new(Node::new(place.clone(), None, line, settings, bulk)));
        let seeds: Vec<_> = seeds.collect();
        let single = (!settings.target.cluster).then(|| seeds.first().cloned()).flatten();
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            settings: Arc::clone(settings),
            bulk: bulk.clone(),
            state: Mutex::new(State {
                lines: seeds.len(),
                nodes: seeds.clone(),
                seeds,
                owners: single.map_or_else(Vec::new, |single| vec![Some(single)]),
                ids: BTreeMap::new(),
                reached: BTreeMap::new(),
                version: 0,
                taken: Instant::now(),
                closed: false,
            }),
            asking: tokio::sync::Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub fn is_cluster(&self) -> bool {
        self.settings.target.cluster
    }

    pub fn version(&self) -> u64 {
        self.state().version
    }

    /// The server that has a slot, as far as is known.
    pub fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        let slot = if self.is_cluster() { usize::from(slot) } else { 0 };
        self.state().owners.get(slot).cloned().flatten()
    }

    /// All servers that have slots, in the order of their places.
    pub async fn masters(&self, deadline: Instant) -> Result<Vec<Arc<Node>>, Lost> {
        if self.state().lacks_slots() {
            self.refresh(deadline).await?;
        }
        if self.state().lacks_slots() {
            let why = "no server of the cluster has some of the slots";
            return Err(Lost::Undone(Error::Timeout(why.into())));
        }
        let mut masters: Vec<Arc<Node>> = Vec::new();
        for owner in self.state().owners.iter().flatten() {
            if !masters.iter().any(|master| Arc::ptr_eq(master, owner)) {
                masters.push(Arc::clone(owner));
            }
        }
        masters.sort_by_key(|master| master.place.to_string());
        Ok(masters)
    }

    /// Asks the servers of the cluster for the map, unless that has just been done.
    pub async fn refresh(&self, deadline: Instant) -> Result<(), Lost> {
        if !self.is_cluster() {
            return Ok(());
        }
        let called = Instant::now();
        let late = || Lost::Undone(Error::Timeout("no server has told of the cluster in time".into()));
        let mut asked = timeout_at(deadline, self.asking.lock()).await.map_err(|_| late())?;
        if let Some((asked, result)) = &*asked
            && *asked + FRESH > called
        {
            return result.clone();
        }
        let result = self.renew(deadline).await;
        *asked = Some((Instant::now(), result.clone()));
        result
    }

    async fn renew(&self, deadline: Instant) -> Result<(), Lost> {
        let (nodes, seeds) = {
            let state = self.state();
            (state.nodes.clone(), state.seeds.clone())
        };
        let result = match self.ask(nodes, deadline).await {
            Err(_) => self.ask(seeds, deadline).await,
            found => found,
        };
        let known = self.state().ids.clone();
        let Some(report) = choose(result?, &known) else {
            let why = "the servers that answer are of another cluster than before";
            return Err(Lost::Undone(Error::Connection(why.into())));
        };
        self.adopt(report);
        Ok(())
    }

    /// What these servers say of the cluster, as soon as most of them agree.
    async fn ask(&self, nodes: Vec<Arc<Node>>, deadline: Instant) -> Result<Vec<Report>, Lost> {
        let count = nodes.len();
        let mut until = deadline.min(Instant::now() + self.settings.connect_timeout);
        let mut answers: FuturesUnordered<_> = nodes.iter().map(|node| self.ask_one(node, until)).collect();
        let mut reports = Vec::new();
        let mut failure = Lost::Undone(Error::Timeout("no server of the cluster has answered".into()));
        while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
            match answer {
                Ok(report) => reports.push(report),
                Err(lost) => failure = lost,
            }
            if is_decided(&reports, count) {
                break;
            }
            if reports.len() == 1 {
                until = until.min(Instant::now() + OTHERS);
            }
        }
        if reports.is_empty() { Err(failure) } else { Ok(reports) }
    }

    async fn ask_one(&self, node: &Node, deadline: Instant) -> Result<Report, Lost> {
        let mut request = Batch::default();
        request.add(cmd("CLUSTER").arg("SLOTS")).add(cmd("CLUSTER").arg("INFO"));
        let replies = node.ask(request, deadline).await?;
        let [slots, info] = &replies[..] else {
            return Err(Lost::Undone(Error::Backend("a reply is missing".into())));
        };
        let report = Report::read(slots, info, &node.place);
        let mut report = report.map_err(|error| match slots {
            Value::ServerError(reason) if verdict(reason) == Verdict::Final => Lost::Refused { error, lasting: true },
            _ => Lost::Undone(error),
        })?;
        let nat_map = &self.settings.nat_map;
        if nat_map.is_used() {
            let mut reached = BTreeMap::new();
            for announced in report.places.values() {
                let place = nat_map.reached(announced, deadline).await.map_err(Lost::Undone)?;
                reached.insert(announced.clone(), place);
            }
            report.relocate(&reached);
            self.state().reached = reached;
        }
        Ok(report)
    }

    fn adopt(&self, report: Report) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        let mut nodes = Vec::with_capacity(report.places.len());
        for (id, place) in &report.places {
            let is_it = |node: &&Arc<Node>| node.place == *place && node.id.as_deref() == Some(id);
            let node = state.nodes.iter().find(is_it).cloned();
            nodes.push(node.unwrap_or_else(|| {
                state.lines += 1;
                let line = state.lines - 1;
                Arc::new(Node::new(place.clone(), Some(id), line, &self.settings, &self.bulk))
            }));
        }
        let mut owners = vec![None; usize::from(SLOTS)];
        for range in &report.ranges {
            let owner = nodes.iter().find(|node| node.place == range.master);
            if let Some(slots) = owners.get_mut(usize::from(range.first)..=usize::from(range.last)) {
                slots.fill(owner.cloned());
            }
        }
        let same = |pair: (&Option<Arc<Node>>, &Option<Arc<Node>>)| match pair {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (old, new) => old.is_none() && new.is_none(),
        };
        if state.owners.len() != owners.len() || !state.owners.iter().zip(&owners).all(same) {
            state.owners = owners;
            state.version += 1;
        }
        let is_kept = |node: &Arc<Node>| nodes.iter().chain(&state.seeds).any(|kept| Arc::ptr_eq(kept, node));
        let gone: Vec<_> = state.nodes.iter().filter(|node| !is_kept(node)).cloned().collect();
        state.nodes = nodes;
        state.ids = report.places;
        state.taken = Instant::now();
        drop(state);
        for node in gone {
            node.pool.abandon();
        }
    }

    /// Whether slots of the cluster are about to move. Only the servers concerned know.
    pub async fn are_slots_moving(&self, deadline: Instant) -> Result<bool, Lost> {
        if !self.is_cluster() {
            return Ok(false);
        }
        let masters = self.masters(deadline).await?;
        let asked = masters
            .iter()
            .map(|master| master.ask(one(cmd("CLUSTER").arg("NODES")), deadline));
        let mut moving = false;
        for replies in join_all(asked).await {
            if let Some(Value::BulkString(nodes)) = replies?.first() {
                moving |= nodes.contains(&b'[');
            }
        }
        Ok(moving)
    }

    /// Has the map asked for, without waiting for it.
    fn refresh_soon(&self) {
        if self.is_cluster()
            && let Some(this) = self.this.upgrade()
        {
            let deadline = Instant::now() + self.settings.command_timeout;
            spawn(async move { drop(this.refresh(deadline).await) });
        }
    }

    /// Sends each command to the server that has its slot, and follows redirections.
    /// Returns one result for each; errors of a server are among the values, except
    /// those that say that nothing was carried out and why that will pass.
    pub async fn send(&self, calls: &[&Call], deadline: Instant) -> Vec<Result<Value, Lost>> {
        if self.is_cluster() && self.state().taken.elapsed() > OLD {
            self.state().taken = Instant::now();
            self.refresh_soon();
        }
        let begin = Instant::now();
        let mut results: Vec<Option<Result<Value, Lost>>> = calls.iter().map(|_| None).collect();
        let mut left: Vec<Way> = (0..calls.len()).map(Way::new).collect();
        loop {
            let mut strays = Vec::new();
            let mut parts: Vec<(Arc<Node>, Vec<Way>)> = Vec::new();
            for way in left.drain(..) {
                let node = way.to.clone().or_else(|| self.owner(calls[way.call].slot));
                let Some(node) = node else {
                    strays.push(way);
                    continue;
                };
                match parts.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &node)) {
                    Some((_, ways)) => ways.push(way),
                    None => parts.push((node, vec![way])),
                }
            }
            let send = async |(node, ways): (Arc<Node>, Vec<Way>)| {
                let replies = node.request(batch(&ways, calls), deadline).await;
                (node, ways, replies)
            };
            let answers = match parts.pop() {
                Some(only) if parts.is_empty() => vec![send(only).await],
                last => join_all(parts.into_iter().chain(last).map(send)).await,
            };
            for (node, ways, replies) in answers {
                self.deal(&node, ways, replies, &mut results, &mut strays);
            }
            if strays.is_empty() {
                break;
            }
            left = self.lead(strays, calls, (begin, deadline), &mut results).await;
        }
        let none = || Err(Lost::Undone(Error::Backend("a reply is missing".into())));
        results.into_iter().map(|result| result.unwrap_or_else(none)).collect()
    }

    /// Takes the replies of a server. Those to be sent elsewhere go astray.
    fn deal(
        &self,
        node: &Arc<Node>,
        ways: Vec<Way>,
        replies: Replies,
        results: &mut [Option<Result<Value, Lost>>],
        strays: &mut Vec<Way>,
    ) {
        let Replies { values, end } = replies;
        let mut values = values.into_iter();
        let mut changed = false;
        for mut way in ways {
            if way.asking {
                values.next();
            }
            let Some(value) = values.next() else {
                // The server has left the cluster meanwhile.
                let left = matches!(
                    &end,
                    Some(Lost::Refused {
                        error: Error::Closed,
                        ..
                    })
                ) && !self.state().closed;
                if left {
                    strays.push(way.again(None));
                } else {
                    changed = true;
                    results[way.call] = end.clone().map(Err);
                }
                continue;
            };
            let verdict = match &value {
                Value::ServerError(error) => match verdict(error) {
                    Verdict::Moved(_) | Verdict::Ask(_) if !self.is_cluster() => Verdict::Final,
                    verdict => verdict,
                },
                _ => Verdict::Final,
            };
            let later = |value: &Value| {
                let why = match value {
                    Value::ServerError(error) => words(error),
                    _ => String::new(),
                };
                Err(Lost::Undone(Error::Timeout(format!("{}: {why}", node.place))))
            };
            match verdict {
                Verdict::Final => results[way.call] = Some(Ok(value)),
                Verdict::Later => {
                    changed = true;
                    results[way.call] = Some(later(&value));
                }
                Verdict::Elsewhere => {
                    changed = true;
                    node.pool.demote();
                    results[way.call] = Some(later(&value));
                }
                Verdict::Moved(place) => {
                    way.told = Some((Arc::clone(node), place));
                    strays.push(way.again(None));
                }
                Verdict::Ask(place) => {
                    let to = self.named(&place, node);
                    way.asking = to.is_some();
                    strays.push(way.again(to));
                }
            }
        }
        if changed {
            self.refresh_soon();
        }
    }

    /// The server of the cluster that another one names in a redirection.
    fn named(&self, place: &str, by: &Node) -> Option<Arc<Node>> {
        let place = redirected(place, &by.place)?;
        let state = self.state();
        let place = state.reached.get(&place).unwrap_or(&place);
        state.nodes.iter().find(|node| node.place == *place).cloned()
    }

    /// Finds out where to send what has gone astray. Returns what is to be sent.
    async fn lead(
        &self,
        strays: Vec<Way>,
        calls: &[&Call],
        (begin, deadline): (Instant, Instant),
        results: &mut [Option<Result<Value, Lost>>],
    ) -> Vec<Way> {
        let lost = strays.iter().any(|way| way.to.is_none());
        let hops = strays.iter().map(|way| way.hops).max().unwrap_or(0);
        let refreshed = if lost { self.refresh(deadline).await } else { Ok(()) };
        let time = deadline.saturating_duration_since(Instant::now());
        // In time to say why, before the operation is too late.
        let over = time < ((deadline - begin) / 2).max(LAST_HOP);
        let mut left = Vec::with_capacity(strays.len());
        for mut way in strays {
            if way.hops > MOST_HOPS || over {
                let why = way
                    .told
                    .as_ref()
                    .map(|(from, to)| format!("; {} names {to}", from.place));
                let why = format!("redirected again and again{}", why.unwrap_or_default());
                results[way.call] = Some(Err(Lost::Undone(Error::Timeout(why))));
                continue;
            }
            if way.to.is_none() {
                let owner = self.owner(calls[way.call].slot);
                match (&owner, &way.told) {
                    (None, _) => {
                        let lost = refreshed.clone().err().unwrap_or_else(|| {
                            Lost::Undone(Error::Timeout("no server of the cluster has the key's slot".into()))
                        });
                        results[way.call] = Some(Err(lost));
                        continue;
                    }
                    // Most servers don't know of it yet.
                    (Some(owner), Some((from, to))) if Arc::ptr_eq(owner, from) => {
                        way.to = self.named(to, from);
                    }
                    _ => {}
                }
            }
            left.push(way);
        }
        // The first redirection is the rule when a slot has moved.
        if hops > 1 && !left.is_empty() {
            sleep(pause(hops).min(time / 8)).await;
        }
        left
    }

    /// Sends commands until each has a reply. What was not carried out is sent again
    /// until the time of an operation is over, and what may have been if it is
    /// `repeatable`.
    ///
    /// # Errors
    ///
    /// Those of the last attempt.
    pub async fn insist(&self, calls: &[Call], repeatable: bool) -> Result<Vec<Value>> {
        let deadline = Instant::now() + self.settings.command_timeout;
        let mut values: Vec<Option<Value>> = calls.iter().map(|_| None).collect();
        let mut left: Vec<usize> = (0..calls.len()).collect();
        let mut attempts = Attempts::default();
        loop {
            let some: Vec<&Call> = left.iter().map(|index| &calls[*index]).collect();
            let mut again = Vec::new();
            let mut failure = None;
            for (index, result) in left.into_iter().zip(self.send(&some, deadline).await) {
                match result {
                    Ok(value) => values[index] = Some(value),
                    Err(lost) => {
                        again.push(index);
                        let unknown = matches!(lost, Lost::Unknown(_));
                        if unknown || failure.is_none() {
                            failure = Some(lost);
                        }
                    }
                }
            }
            let Some(failure) = failure else {
                return Ok(values.into_iter().flatten().collect());
            };
            match attempts.fail(failure, repeatable) {
                Next::Repeat(_) if Instant::now() < deadline => sleep(attempts.pause()).await,
                Next::Repeat(error) | Next::Reject(error) => return Err(error),
            }
            left = again;
        }
    }

    /// Closes the connections that are too old. Returns when to do so again.
    pub fn tend(&self) -> Option<Instant> {
        self.all().iter().filter_map(|node| node.pool.tend()).min()
    }

    fn all(&self) -> Vec<Arc<Node>> {
        let state = self.state();
        let mut all = state.nodes.clone();
        all.extend(state.seeds.iter().cloned());
        all
    }

    pub async fn close(&self) {
        self.state().closed = true;
        let all = self.all();
        join_all(all.iter().map(|node| node.pool.close())).await;
    }

    /// For when nobody will need a connection any more.
    pub fn abandon(&self) {
        self.state().closed = true;
        for node in self.all() {
            node.pool.abandon();
        }
    }
}

/// The way of one command to its server.
struct Way {
    call: usize,
    /// Where to send it, if not to the owner of its slot.
    to: Option<Arc<Node>>,
    /// Whether it is for this once.
    asking: bool,
    /// Which server said that another has the slot.
    told: Option<(Arc<Node>, String)>,
    hops: u32,
}

impl Way {
    fn new(call: usize) -> Self {
        Self {
            call,
            to: None,
            asking: false,
            told: None,
            hops: 0,
        }
    }

    fn again(mut self, to: Option<Arc<Node>>) -> Self {
        self.asking &= to.is_some();
        self.to = to;
        self.hops += 1;
        self
    }
}

fn batch(ways: &[Way], calls: &[&Call]) -> Batch {
    let mut batch = Batch::default();
    for way in ways {
        if way.asking {
            batch.add(&cmd("ASKING"));
        }
        batch.add(&calls[way.call].command);
    }
    batch
}
