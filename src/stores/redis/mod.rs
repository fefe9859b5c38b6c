//! Redis and Valkey, one server or a cluster, in the format of Fedify's own Redis
//! store.
//!
//! The worker that the stores on servers share ([`super::served`]) gathers operations.
//! This module turns a group of them into commands ([`group`]) and sends each to the
//! server that has its slot ([`servers`]).

mod connection;
mod failure;
mod group;
mod index;
mod names;
mod nat;
mod node;
mod open;
mod scan;
mod script;
mod servers;
mod slots;
mod topology;
mod url;
mod wire;

use super::served::{
    Cleared, Credentials, Cursor, Engine, Group, Limits, Lost, Operation, Password, Progress, Row, Rows, ServedStore,
    Swept, TlsOptions,
};
use crate::host::Host;
use crate::kv::{Error, Key, Outcome, Prefix, Result};
use failure::unexpected;
use futures::future::BoxFuture;
use group::Sharing;
use index::Position;
use names::Names;
use rand::random;
use redis::{Value, cmd};
use rustls::ClientConfig;
use scan::{Kind, Scan, lasting};
use servers::{Call, Servers};
use slots::slot;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Target;
use wire::one;

pub use nat::NatMap;

/// How many names one command deletes, so that other clients get their turn.
const DELETED_AT_ONCE: usize = 256;

#[derive(Clone)]
pub struct RedisOptions {
    pub key_prefix: Vec<u8>,
    /// Keep an index of the keys, for lists that need no scan.
    pub index: bool,
    /// To each server.
    pub max_connections: usize,
    pub connect_timeout: Duration,
    pub command_timeout: Duration,
    /// The most operations that may be queued.
    pub queue_limit: usize,
    pub credentials: Credentials,
    pub tls: Option<TlsOptions>,
    /// How old a connection may become.
    pub max_lifetime: Duration,
    /// How long a connection may be unused.
    pub idle_timeout: Duration,
    /// Where servers are reached that announce other addresses.
    pub nat_map: NatMap,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            key_prefix: b"fedify::".into(),
            index: false,
            max_connections: 4,
            connect_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(5),
            queue_limit: 100_000,
            credentials: Credentials::default(),
            tls: None,
            max_lifetime: Duration::from_secs(30 * 60),
            idle_timeout: Duration::from_secs(10 * 60),
            nat_map: NatMap::default(),
        }
    }
}

/// The settings, which never change.
pub struct Settings {
    target: Target,
    password: Password,
    index: bool,
    max_connections: usize,
    connect_timeout: Duration,
    command_timeout: Duration,
    max_lifetime: Duration,
    idle_timeout: Duration,
    nat_map: NatMap,
    tls: TlsOptions,
    tls_config: OnceLock<Arc<ClientConfig>>,
}

impl Settings {
    fn tls_config(&self) -> Result<Arc<ClientConfig>> {
        if let Some(config) = self.tls_config.get() {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.tls.config()?);
        Ok(Arc::clone(self.tls_config.get_or_init(|| config)))
    }
}

pub type RedisStore = ServedStore<Kv>;

impl RedisStore {
    /// A store on one server, or on the cluster that several URLs belong to.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for invalid URLs and options.
    pub fn at(urls: &[String], options: RedisOptions, host: Host) -> Result<Self> {
        let mut target = Target::parse(urls)?;
        let Credentials { user, password } = options.credentials;
        if let Some(user) = user {
            target.login = target.login.set_username(user);
        }
        if let Some(tls) = &options.tls {
            if !target.tls {
                return Err(Error::InvalidOption("the option tls needs a rediss: URL".into()));
            }
            tls.check()?;
        }
        if options.nat_map.is_used() && !target.cluster {
            return Err(Error::InvalidOption("the option natMap needs a cluster".into()));
        }
        let names = Names::new(options.key_prefix);
        if options.index && target.cluster && !names.is_in_one_slot() {
            return Err(Error::InvalidOption(
                "in a cluster, index: true needs a keyPrefix with a hash tag, such as \"{fedify}::\", which keeps all \
                entries on one server"
                    .into(),
            ));
        }
        let place = target
            .places
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let joins = !target.cluster || names.is_in_one_slot();
        let settings = Arc::new(Settings {
            target,
            password,
            index: options.index,
            max_connections: options.max_connections,
            connect_timeout: options.connect_timeout,
            command_timeout: options.command_timeout,
            max_lifetime: options.max_lifetime,
            idle_timeout: options.idle_timeout,
            nat_map: options.nat_map,
            tls: options.tls.unwrap_or_default(),
            tls_config: OnceLock::new(),
        });
        let bulk = host.bulk(Kv::NAME);
        // One connection is left to the thread.
        let groups = match host {
            Host::Loop(_) => options.max_connections.saturating_sub(1).max(1),
            Host::Thread => options.max_connections,
        };
        let kv = Kv {
            servers: Servers::new(&settings, &bulk),
            settings,
            names,
            place,
            groups,
            joins,
            sharing: Sharing::default(),
            token: format!("{:032x}", random::<u128>()),
            reindexed: AtomicU64::new(0),
        };
        Ok(Self::new(kv, options.queue_limit, host, bulk))
    }

    /// How many entries the last `reindex` has handled so far.
    pub fn reindexed(&self) -> u64 {
        self.engine().reindexed.load(Ordering::Relaxed)
    }
}

/// The entries of a store, and where they are.
pub struct Kv {
    settings: Arc<Settings>,
    names: Names,
    servers: Arc<Servers>,
    place: String,
    /// How many groups may run at once on each server.
    groups: usize,
    /// Whether operations may share commands: their entries must be in one slot.
    joins: bool,
    sharing: Sharing,
    /// Names this store where one is to do something at a time.
    token: String,
    reindexed: AtomicU64,
}

impl Drop for Kv {
    fn drop(&mut self) {
        // A connection may be being opened.
        self.servers.abandon();
    }
}

/// A walk over the entries under a prefix.
#[derive(Default)]
pub enum Walk {
    #[default]
    New,
    Scanned {
        names: Vec<Vec<u8>>,
        at: usize,
    },
    Scanning(Scan),
    Indexed(Position),
}

impl Engine for Kv {
    const NAME: &'static str = "redis";

    /// A group costs no more than its commands.
    const WORTH: usize = 1;

    type Walk = Mutex<Walk>;

    fn place(&self) -> &str {
        &self.place
    }

    fn connections(&self) -> usize {
        self.groups
    }

    fn query_timeout(&self) -> Duration {
        self.settings.command_timeout
    }

    /// Each server has its own, so that a slow one holds up no other.
    fn line(&self, operation: &Operation) -> usize {
        if !self.servers.is_cluster() {
            return 0;
        }
        let owner = self.servers.owner(slot(&self.names.name(&operation.key)));
        owner.map_or(0, |owner| owner.line)
    }

    fn may_begin(&self, _: usize, of_line: usize, _: usize) -> bool {
        of_line < self.groups
    }

    fn run<'a>(&'a self, group: &'a Group) -> BoxFuture<'a, Vec<Result<Outcome, Lost>>> {
        Box::pin(group::run(self, group))
    }

    fn read<'a>(
        &'a self,
        walk: &'a Self::Walk,
        prefix: &'a Prefix,
        _: Option<&'a Cursor>,
        entries: u32,
        _: Limits,
    ) -> BoxFuture<'a, Result<Rows, Lost>> {
        Box::pin(async move {
            let mut walk = walk.lock().await;
            self.read(&mut walk, prefix, entries as usize).await.map_err(lasting)
        })
    }

    fn clear<'a>(
        &'a self,
        walk: &'a Self::Walk,
        prefix: &'a Prefix,
        _: Option<&'a Cursor>,
        _: u32,
        _: Limits,
    ) -> BoxFuture<'a, Result<Cleared, Lost>> {
        Box::pin(async move {
            let mut walk = walk.lock().await;
            self.clear(&mut walk, prefix).await.map_err(lasting)
        })
    }

    fn create(&self, limits: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move {
            for master in self.servers.masters(limits.deadline).await? {
                if let Err(lost) = master.ask(one(&cmd("PING")), limits.deadline).await {
                    // Another one may have its slots by now.
                    drop(self.servers.refresh(limits.deadline).await);
                    return Err(lost);
                }
            }
            Ok(())
        })
    }

    fn drop_table(&self, _: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move { self.delete_all().await.map_err(lasting) })
    }

    fn reindex<'a>(&'a self, progress: &'a Progress) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            if !self.settings.index {
                let why = "reindex() needs a store with index: true";
                return Err(Error::InvalidOption(why.into()));
            }
            self.fill_index(progress).await
        })
    }

    /// The server removes entries that have expired, but not their members of the index.
    fn needs_sweeps(&self) -> bool {
        self.settings.index
    }

    fn sweep<'a>(&'a self, after: Option<&'a Cursor>, _: u32) -> BoxFuture<'a, Result<Swept, Lost>> {
        Box::pin(async move { self.sweep_index(after).await.map_err(lasting) })
    }

    fn tend(&self) -> Option<Instant> {
        self.servers.tend()
    }

    fn forget(&self) {
        self.settings.password.forget();
        self.settings.nat_map.forget();
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.servers.close())
    }
}

impl Kv {
    /// The next entries. A scan must be complete before the first, because the servers
    /// keep no order.
    async fn read(&self, walk: &mut Walk, prefix: &Prefix, entries: usize) -> Result<Rows> {
        if matches!(walk, Walk::New) {
            *walk = if self.settings.index {
                Walk::Indexed(Position::new(self, prefix))
            } else {
                let mut scan = Scan::new(&self.names, prefix, Kind::Entries);
                let mut names = Vec::new();
                while let Some(some) = scan.next(self).await? {
                    names.extend(some);
                }
                names.sort_unstable();
                names.dedup();
                Walk::Scanned { names, at: 0 }
            };
        }
        let (names, over) = match walk {
            Walk::Scanned { names, at } => {
                let end = names.len().min(*at + entries);
                let some = names[*at..end].iter_mut().map(std::mem::take).collect();
                *at = end;
                (some, end == names.len())
            }
            Walk::Indexed(position) => {
                let some = position.next(self, prefix, entries).await?;
                (some, position.is_over())
            }
            Walk::New | Walk::Scanning(_) => (Vec::new(), true),
        };
        let values = self.values(&names).await?;
        let mut rows = Vec::with_capacity(names.len());
        let mut gone = Vec::new();
        for (name, value) in names.into_iter().zip(values) {
            match value {
                Some(value) => rows.push(Row {
                    key: self.names.key(&name).map(|key| Key::as_json(&key).to_owned()),
                    value: String::from_utf8(value).ok(),
                }),
                None => gone.push(name),
            }
        }
        if self.settings.index && !gone.is_empty() {
            // If it fails, the next list tries again.
            drop(self.prune(&gone).await);
        }
        Ok(Rows {
            rows,
            next: (!over).then(Cursor::new),
        })
    }

    /// Deletes the next entries.
    async fn clear(&self, walk: &mut Walk, prefix: &Prefix) -> Result<Cleared> {
        if matches!(walk, Walk::New) {
            *walk = if self.settings.index {
                Walk::Indexed(Position::new(self, prefix))
            } else {
                Walk::Scanning(Scan::new(&self.names, prefix, Kind::Entries))
            };
        }
        let (live, over) = match walk {
            Walk::Indexed(position) => {
                let live = self.clear_indexed(prefix, position).await?;
                (live, position.is_over())
            }
            Walk::Scanning(scan) => match scan.next(self).await? {
                Some(names) => (self.unlink(&names).await?, false),
                None => (0, true),
            },
            Walk::New | Walk::Scanned { .. } => (0, true),
        };
        Ok(Cleared {
            live,
            next: (!over).then(Cursor::new),
        })
    }

    /// Deletes all that is under the key prefix, the index too.
    async fn delete_all(&self) -> Result<()> {
        if self.names.is_prefix_empty() {
            return Err(Error::InvalidOption(
                "drop() needs a keyPrefix: with an empty one it would delete all that is in the database".into(),
            ));
        }
        let mut scan = Scan::new(&self.names, &Prefix::ALL, Kind::Anything);
        while let Some(names) = scan.next(self).await? {
            self.unlink(&names).await?;
        }
        Ok(())
    }

    /// One command for all of these names, or one for each if their slots may differ.
    fn calls(&self, command: &str, names: &[Vec<u8>]) -> Vec<Call> {
        let call = |names: &[Vec<u8>]| {
            let mut call = cmd(command);
            call.arg(names);
            Call {
                slot: slot(&names[0]),
                command: call,
            }
        };
        let most = if self.joins { DELETED_AT_ONCE } else { 1 };
        names.chunks(most).map(call).collect()
    }

    /// The values of these names; `None` if there is no string.
    async fn values(&self, names: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        let command = if self.joins { "MGET" } else { "GET" };
        let replies = self.servers.insist(&self.calls(command, names), true).await?;
        let mut values = Vec::with_capacity(names.len());
        for reply in replies {
            let some = match reply {
                Value::Array(values) if self.joins => values,
                Value::ServerError(error) if error.code() == "WRONGTYPE" => vec![Value::Nil],
                reply => vec![reply],
            };
            for value in some {
                values.push(match value {
                    Value::BulkString(value) => Some(value),
                    Value::Nil => None,
                    other => return Err(unexpected(&other)),
                });
            }
        }
        Ok(values)
    }

    /// Deletes these names, and returns how many existed.
    async fn unlink(&self, names: &[Vec<u8>]) -> Result<u64> {
        let mut count = 0;
        for reply in self.servers.insist(&self.calls("UNLINK", names), false).await? {
            match reply {
                Value::Int(some) => count += u64::try_from(some).unwrap_or(0),
                other => return Err(unexpected(&other)),
            }
        }
        Ok(count)
    }
}
