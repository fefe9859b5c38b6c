//! Operations on many entries, on all servers: find, read and delete them.

use super::Hub;
use super::failure::{Lost, Verdict, is_loading, unexpected, verdict};
use super::server::Server;
use crate::kv::{Error, Key, Prefix, Result};
use futures::future::try_join_all;
use redis::{Cmd, Pipeline, Value, cmd, pipe};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How many buckets a server looks at before other clients get their turn: well
/// below a millisecond of its time.
const SCAN: usize = 2000;

/// A scan starts again if its server or the cluster has changed meanwhile, at
/// most this often.
const RESTARTS: u32 = 5;

/// The pause before a server that is loading, or a cluster that is changing, is
/// asked again.
pub const PAUSE: Duration = Duration::from_millis(50);

/// The number of entries deleted by one command, so that other clients get
/// their turn.
pub const SLICE: usize = 256;

/// Which names a scan finds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The names of entries.
    Entries,
    /// All names, of values of any type.
    Anything,
}

impl Hub {
    /// The names under a prefix, sorted and without duplicates.
    pub async fn scan(&self, prefix: &Prefix, kind: Kind) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for _ in 0..RESTARTS {
            let masters = self.topology.masters().await?;
            let version = self.topology.version();
            let scans = masters.iter().map(|master| self.scan_server(master, prefix, kind));
            names.extend(try_join_all(scans).await?.into_iter().flatten());
            self.topology.refresh().await?;
            // A slot that moved meanwhile may have been missed on both servers.
            if self.topology.version() == version {
                break;
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn scan_server(&self, server: &Server, prefix: &Prefix, kind: Kind) -> Result<Vec<Vec<u8>>> {
        let pattern = self.wire.pattern(prefix);
        let mut names = Vec::new();
        let mut restarts = 0;
        'connection: loop {
            let patience = Instant::now() + self.settings.command_timeout;
            let connection = server.reach(patience).await?;
            let mut cursor = b"0".to_vec();
            loop {
                let mut scan = cmd("SCAN");
                scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN);
                if kind == Kind::Entries {
                    scan.arg("TYPE").arg("string");
                }
                let mut request = pipe();
                request.add_command(scan);
                let mut reply = match connection.send((&request).into()).await {
                    Ok(replies) => replies,
                    // A restarted server doesn't know the cursors that it gave
                    // out before.
                    Err(Lost::Connection(_)) if restarts < RESTARTS => {
                        restarts += 1;
                        continue 'connection;
                    }
                    Err(lost) => return Err(lost.error()),
                };
                let (next, found) = match reply.next() {
                    Some(refusal) if is_loading(&refusal) && Instant::now() < patience => {
                        sleep(PAUSE).await;
                        continue;
                    }
                    Some(Value::Array(pair)) => match <[Value; 2]>::try_from(pair) {
                        Ok([Value::BulkString(next), Value::Array(found)]) => (next, found),
                        _ => return Err(unexpected(&Value::Nil)),
                    },
                    other => return Err(unexpected(&other.unwrap_or_default())),
                };
                names.extend(found.into_iter().filter_map(|name| match name {
                    Value::BulkString(name) if self.is_wanted(&name, prefix, kind) => Some(name),
                    _ => None,
                }));
                cursor = next;
                if cursor == b"0" {
                    return Ok(names);
                }
            }
        }
    }

    fn is_wanted(&self, name: &[u8], prefix: &Prefix, kind: Kind) -> bool {
        kind == Kind::Anything || self.key_under(name, prefix).is_some()
    }

    /// The key of a Redis name, if it is under the prefix.
    pub fn key_under(&self, name: &[u8], prefix: &Prefix) -> Option<Key> {
        self.wire.key(name).filter(|key| prefix.contains_json(key.as_json()))
    }

    /// The values of these names; `None` if there is no string.
    pub async fn values(&self, names: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let replies = if self.topology.is_cluster() {
            let get = |name: &[u8]| {
                let mut get = cmd("GET");
                get.arg(name);
                get
            };
            self.ask_each(names, true, get).await?
        } else {
            let mut request = pipe();
            request.cmd("MGET").arg(names);
            let server = self.only().await?;
            match server.ask(&request).await?.into_iter().next() {
                Some(Value::Array(values)) => values,
                other => return Err(unexpected(&other.unwrap_or_default())),
            }
        };
        replies
            .into_iter()
            .map(|reply| match reply {
                Value::BulkString(value) => Ok(Some(value)),
                Value::Nil => Ok(None),
                Value::ServerError(error) if error.code() == "WRONGTYPE" => Ok(None),
                other => Err(unexpected(&other)),
            })
            .collect()
    }

    /// Deletes these names, and returns how many existed.
    pub async fn unlink(&self, names: &[Vec<u8>]) -> Result<u64> {
        let mut count = 0;
        // No command is repeated: a repeated one would count too little.
        for names in names.chunks(SLICE) {
            let replies = if self.topology.is_cluster() {
                let unlink = |name: &[u8]| {
                    let mut unlink = cmd("UNLINK");
                    unlink.arg(name);
                    unlink
                };
                self.ask_each(names, false, unlink).await?
            } else {
                let mut request = pipe();
                request.cmd("UNLINK").arg(names);
                self.only().await?.ask_once(&request).await?
            };
            for reply in replies {
                match reply {
                    Value::Int(some) => count += u64::try_from(some).unwrap_or(0),
                    other => return Err(unexpected(&other)),
                }
            }
        }
        Ok(count)
    }

    /// The only server; in a cluster, the server that has the names with the
    /// key prefix's tag.
    pub async fn only(&self) -> Result<Arc<Server>> {
        self.topology.masters().await?;
        self.topology
            .owner_of(&self.wire.index())
            .ok_or_else(|| Error::Connection("no server of the cluster has the key's slot".into()))
    }

    /// Sends one command for each name to the server that has it.
    async fn ask_each(
        &self,
        names: &[Vec<u8>],
        repeatable: bool,
        command: impl Fn(&[u8]) -> Cmd,
    ) -> Result<Vec<Value>> {
        let patience = Instant::now() + self.settings.command_timeout;
        let mut replies = vec![Value::Nil; names.len()];
        let mut left: Vec<usize> = (0..names.len()).collect();
        self.topology.masters().await?;
        loop {
            let mut groups: HashMap<_, (Arc<Server>, Vec<usize>, Pipeline)> = HashMap::new();
            for index in left.drain(..) {
                let name = &names[index];
                let Some(server) = self.topology.owner_of(name) else {
                    return Err(Error::Connection("no server of the cluster has the key's slot".into()));
                };
                let (_, indexes, request) = groups
                    .entry(server.place.clone())
                    .or_insert_with(|| (server, Vec::new(), pipe()));
                indexes.push(index);
                request.add_command(command(name));
            }
            let asked = groups.into_values().map(async |(server, indexes, request)| {
                let replies = server.request(&request, repeatable).await?;
                Ok::<_, Error>((indexes, replies))
            });
            for (indexes, group) in try_join_all(asked).await? {
                for (index, reply) in indexes.into_iter().zip(group) {
                    let Value::ServerError(error) = &reply else {
                        replies[index] = reply;
                        continue;
                    };
                    match verdict(error, None) {
                        Verdict::Moved | Verdict::Later => left.push(index),
                        Verdict::Ask(place) => {
                            let mut request = pipe();
                            request.cmd("ASKING").add_command(command(&names[index]));
                            let server = self.topology.server_at(&place).ok_or_else(|| unexpected(&reply))?;
                            replies[index] = server.request(&request, repeatable).await?.pop().unwrap_or_default();
                        }
                        _ => replies[index] = reply,
                    }
                }
            }
            if left.is_empty() {
                return Ok(replies);
            }
            if Instant::now() >= patience {
                return Err(Error::Timeout("the cluster kept moving keys to other servers".into()));
            }
            sleep(PAUSE).await;
            self.topology.refresh().await?;
        }
    }
}
