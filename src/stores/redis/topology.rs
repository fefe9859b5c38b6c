//! The servers of a cluster and their slots. A single server has all slots.

use super::Settings;
use super::failure::unexpected;
use super::server::Server;
use super::slots::{SLOTS, slot};
use super::url::Place;
use crate::kv::{Error, Result};
use futures::future::select_ok;
use parking_lot::{Mutex, MutexGuard};
use redis::{Value, pipe};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A map that is newer than this is not fetched again.
const FRESH: Duration = Duration::from_millis(50);

pub struct Topology {
    settings: Arc<Settings>,
    map: Mutex<Map>,
    /// Held while asking, so that all callers wait for one answer.
    asking: tokio::sync::Mutex<Option<Instant>>,
}

struct Map {
    servers: HashMap<Place, Arc<Server>>,
    /// By slot. Empty until the first answer.
    owners: Vec<Option<Arc<Server>>>,
    version: u64,
}

/// The first and last slot of a range, and its server.
type Ranges = Vec<(u16, u16, Place)>;

impl Topology {
    pub fn new(settings: &Arc<Settings>) -> Self {
        let target = &settings.target;
        let servers: HashMap<_, _> = target
            .places
            .iter()
            .map(|place| {
                (
                    place.clone(),
                    Arc::new(Server::new(place.clone(), Arc::clone(settings))),
                )
            })
            .collect();
        let only = servers.values().next().cloned().filter(|_| !target.cluster);
        Self {
            settings: Arc::clone(settings),
            map: Mutex::new(Map {
                owners: only.map_or_else(Vec::new, |only| vec![Some(only); usize::from(SLOTS)]),
                servers,
                version: 0,
            }),
            asking: tokio::sync::Mutex::default(),
        }
    }

    fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock()
    }

    pub fn is_cluster(&self) -> bool {
        self.settings.target.cluster
    }

    pub fn version(&self) -> u64 {
        self.map().version
    }

    /// `None` if no server is known to have the slot.
    pub fn owner(&self, slot: u16) -> Option<Arc<Server>> {
        self.map().owners.get(usize::from(slot)).cloned().flatten()
    }

    pub fn owner_of(&self, name: &[u8]) -> Option<Arc<Server>> {
        self.owner(if self.is_cluster() { slot(name) } else { 0 })
    }

    /// The server at `host:port`, as redirections write it.
    pub fn server_at(&self, place: &str) -> Option<Arc<Server>> {
        let (host, port) = place.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']);
        Some(self.server(&Place::Tcp(host.to_owned(), port.parse().ok()?)))
    }

    fn server(&self, place: &Place) -> Arc<Server> {
        let mut map = self.map();
        let server = map
            .servers
            .entry(place.clone())
            .or_insert_with(|| Arc::new(Server::new(place.clone(), Arc::clone(&self.settings))));
        Arc::clone(server)
    }

    /// All servers that have slots.
    pub async fn masters(&self) -> Result<Vec<Arc<Server>>> {
        if self.map().owners.is_empty() {
            self.refresh().await?;
        }
        let mut masters: Vec<Arc<Server>> = Vec::new();
        for owner in self.map().owners.iter().flatten() {
            if !masters.iter().any(|master| Arc::ptr_eq(master, owner)) {
                masters.push(Arc::clone(owner));
            }
        }
        Ok(masters)
    }

    /// Asks all servers for the map, and takes the first answer.
    pub async fn refresh(&self) -> Result<()> {
        if !self.is_cluster() {
            return Ok(());
        }
        let mut asked = self.asking.lock().await;
        if asked.is_some_and(|instant| instant.elapsed() < FRESH) {
            return Ok(());
        }
        let servers: Vec<_> = self.map().servers.values().cloned().collect();
        let answers = servers.into_iter().map(|server| Box::pin(ranges(server)));
        let (ranges, _) = select_ok(answers).await?;
        self.apply(ranges);
        *asked = Some(Instant::now());
        Ok(())
    }

    fn apply(&self, ranges: Ranges) {
        let mut owners = vec![None; usize::from(SLOTS)];
        for (first, last, place) in ranges {
            let server = self.server(&place);
            if let Some(slots) = owners.get_mut(usize::from(first)..=usize::from(last)) {
                slots.fill(Some(server));
            }
        }
        let mut map = self.map();
        let same = map.owners.len() == owners.len()
            && map.owners.iter().zip(&owners).all(|pair| match pair {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                (old, new) => old.is_none() && new.is_none(),
            });
        if !same {
            map.owners = owners;
            map.version += 1;
        }
    }
}

async fn ranges(server: Arc<Server>) -> Result<Ranges> {
    let mut request = pipe();
    request.cmd("CLUSTER").arg("SLOTS");
    let replies = server.ask_once(&request).await?;
    let wrong = || Error::Backend("the server sent an unexpected reply to CLUSTER SLOTS".into());
    let [Value::Array(entries)] = &replies[..] else {
        return Err(replies.first().map_or_else(wrong, unexpected));
    };
    let mut ranges = Vec::with_capacity(entries.len());
    for entry in entries {
        let Value::Array(entry) = entry else {
            return Err(wrong());
        };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &entry[..] else {
            return Err(wrong());
        };
        let [host, Value::Int(port), ..] = &master[..] else {
            return Err(wrong());
        };
        let host = match host {
            Value::BulkString(host) if !host.is_empty() => String::from_utf8_lossy(host).into_owned(),
            // The server doesn't know its own name; we use the one that we
            // connected to.
            _ => match &server.place {
                Place::Tcp(host, _) => host.clone(),
                Place::Unix(_) => return Err(wrong()),
            },
        };
        let number = |number: &i64| u16::try_from(*number).map_err(|_| wrong());
        ranges.push((number(first)?, number(last)?, Place::Tcp(host, number(port)?)));
    }
    if ranges.is_empty() {
        return Err(Error::Connection(format!(
            "{}: the cluster has not assigned any slots yet",
            server.place
        )));
    }
    Ok(ranges)
}
