//! Walks over all names of the servers, of which Redis keeps no order.
//!
//! A server passes over names that exist throughout its walk at least once. Names that
//! move from one server to another meanwhile may be missed by both, so that the walk
//! is done again if the cluster has changed, or if slots were about to move.

use super::Kv;
use super::connection::Replies;
use super::failure::{Verdict, unexpected, verdict, words};
use super::names::Names;
use super::node::Node;
use super::wire::Batch;
use crate::host::{sleep, sleep_until};
use crate::kv::{Error, Prefix, Result};
use crate::stores::served::{Attempts, Lost, Next};
use redis::{Cmd, Value, cmd};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::time::Instant;

/// How many buckets a server looks at before other clients get their turn: well below
/// a millisecond of its time.
const SCAN: u64 = 2000;

/// A walk is done again at most this often, because names have moved, or because a
/// server was restarted and has forgotten its cursors.
const AGAIN: u32 = 10;

/// The most steps of a walk over a server without any names, and over one with names:
/// more than one for so many. A table has many more buckets than names only after many
/// were deleted.
const MOST_STEPS: u64 = 20_000;
const NAMES_A_STEP: u64 = 20;

/// Which names a walk finds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The names of entries.
    Entries,
    /// All names, of values of any type.
    Anything,
}

pub struct Scan {
    pattern: Vec<u8>,
    prefix: Prefix,
    kind: Kind,
    /// How often the walk over all servers has been done, and how often one over a
    /// server was begun again.
    rounds: u32,
    restarts: u32,
    round: Option<Round>,
}

/// A walk over all servers.
struct Round {
    version: u64,
    /// Whether slots were about to move when it began.
    moving: bool,
    /// Those that are left.
    nodes: Vec<Arc<Node>>,
    cursor: u64,
    /// Which run of the server gave the cursor.
    run: Option<Vec<u8>>,
    seen: HashSet<u64>,
    most: u64,
}

impl Scan {
    pub fn new(names: &Names, prefix: &Prefix, kind: Kind) -> Self {
        Self {
            pattern: names.pattern(prefix),
            prefix: prefix.clone(),
            kind,
            rounds: 0,
            restarts: 0,
            round: None,
        }
    }

    /// Some of the names, perhaps none, and some perhaps again; `None` at the end.
    ///
    /// # Errors
    ///
    /// If a server does not answer in time. The walk may go on after that.
    pub async fn next(&mut self, kv: &Kv) -> Result<Option<Vec<Vec<u8>>>> {
        let deadline = Instant::now() + kv.settings.command_timeout;
        let mut attempts = Attempts::default();
        loop {
            let lost = match self.step(kv, deadline).await {
                Ok(names) => return Ok(names),
                Err(lost) => lost,
            };
            match attempts.fail(lost, true) {
                Next::Repeat(_) if Instant::now() < deadline => {
                    // The servers may be others by now.
                    drop(kv.servers.refresh(deadline).await);
                    sleep(attempts.pause()).await;
                    if self
                        .round
                        .as_ref()
                        .is_some_and(|round| round.version != kv.servers.version())
                    {
                        self.restart()?;
                        self.round = None;
                    }
                }
                Next::Repeat(error) | Next::Reject(error) => return Err(error),
            }
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.restarts += 1;
        if self.restarts > AGAIN {
            return Err(Error::Backend(
                "the servers have changed too often during a scan".into(),
            ));
        }
        Ok(())
    }

    async fn step(&mut self, kv: &Kv, deadline: Instant) -> Result<Option<Vec<Vec<u8>>>, Lost> {
        if self.round.is_none() {
            self.round = Some(Round {
                nodes: kv.servers.masters(deadline).await?,
                version: kv.servers.version(),
                moving: kv.servers.are_slots_moving(deadline).await?,
                cursor: 0,
                run: None,
                seen: HashSet::new(),
                most: MOST_STEPS,
            });
            self.rounds += 1;
        }
        let Some(round) = &mut self.round else { return Ok(None) };
        let Some(node) = round.nodes.last().cloned() else {
            let moving = round.moving || kv.servers.are_slots_moving(deadline).await?;
            kv.servers.refresh(deadline).await?;
            let unchanged = round.version == kv.servers.version();
            // What has moved in the first round is found in the second.
            if unchanged && (!moving || self.rounds > 1) || self.rounds >= AGAIN {
                return Ok(None);
            }
            self.round = None;
            return Ok(Some(Vec::new()));
        };
        let begins = round.cursor == 0;
        let mut batch = Batch::default();
        batch.add(&scan_from(round.cursor, &self.pattern, self.kind));
        if begins {
            batch.add(&cmd("DBSIZE"));
        }
        let (Replies { values, end }, run) = node.request_by(batch, deadline).await;
        let mut values = values.into_iter();
        let Some(reply) = values.next() else {
            return Err(end.unwrap_or_else(|| Lost::Undone(Error::Backend("a reply is missing".into()))));
        };
        let (next, found) = read(&reply, &node.place.to_string())?;
        if begins {
            if let Some(Value::Int(names)) = values.next() {
                round.most = MOST_STEPS.max(u64::try_from(names).unwrap_or(0) / NAMES_A_STEP);
            }
            round.run = run;
        } else if round.run != run {
            // The server was restarted, or it is another one.
            round.cursor = 0;
            round.seen.clear();
            self.restart().map_err(lasting)?;
            return Ok(Some(Vec::new()));
        }
        if next == 0 {
            round.nodes.pop();
            round.seen.clear();
        } else if !round.seen.insert(next) || round.seen.len() as u64 > round.most {
            // Until then, the caller may end it.
            sleep_until(deadline).await;
            let why = format!("{}: SCAN does not come to an end", node.place);
            return Err(lasting(Error::Timeout(why)));
        }
        round.cursor = next;
        let wanted = |name: &Vec<u8>| self.kind == Kind::Anything || kv.names.key_under(name, &self.prefix).is_some();
        Ok(Some(found.into_iter().filter(wanted).collect()))
    }
}

fn scan_from(cursor: u64, pattern: &[u8], kind: Kind) -> Cmd {
    let mut scan = cmd("SCAN");
    scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN);
    if kind == Kind::Entries {
        scan.arg("TYPE").arg("string");
    }
    scan
}

fn read(reply: &Value, place: &str) -> Result<(u64, Vec<Vec<u8>>), Lost> {
    if let Value::ServerError(error) = reply
        && verdict(error) != Verdict::Final
    {
        return Err(Lost::Undone(Error::Timeout(format!("{place}: {}", words(error)))));
    }
    let Value::Array(pair) = reply else {
        return Err(lasting(unexpected(reply)));
    };
    let [Value::BulkString(next), Value::Array(found)] = &pair[..] else {
        return Err(lasting(unexpected(reply)));
    };
    let next = std::str::from_utf8(next).ok().and_then(|next| next.parse().ok());
    let next = next.ok_or_else(|| lasting(unexpected(reply)))?;
    let names = found.iter().filter_map(|name| match name {
        Value::BulkString(name) => Some(name.clone()),
        _ => None,
    });
    Ok((next, names.collect()))
}

pub fn lasting(error: Error) -> Lost {
    Lost::Refused { error, lasting: true }
}
