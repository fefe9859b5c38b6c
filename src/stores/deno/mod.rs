//! Deno KV: a database file as Deno itself keeps it, or a server that speaks
//! KV Connect.
//!
//! [`file`] and [`server`] are a store each. They share the forms of keys
//! ([`key`]) and values ([`v8`]), and how a group of operations becomes one
//! atomic write ([`batch`]).

mod batch;
mod file;
mod key;
mod row;
mod server;
mod target;
mod v8;

use super::served::Password;
use super::sqlite::url::path_of;
use crate::kv::{Command, Job, ListExecutor, Outcome, PageLimits, Pages, Prefix, Result, Store};
use file::FileStore;
use server::ServerStore;
use std::sync::Arc;
use std::time::Duration;
use target::Target;

#[derive(Clone)]
pub struct DenoOptions {
    /// For a server. The default is the variable `DENO_KV_ACCESS_TOKEN`.
    pub access_token: Password,
    /// For a file: how long to wait for a lock that another process holds.
    pub busy_timeout: Duration,
    /// For a server: how long an operation may take.
    pub command_timeout: Duration,
    /// For a server: the most operations that may be queued.
    pub queue_limit: usize,
}

impl Default for DenoOptions {
    fn default() -> Self {
        Self {
            access_token: Password::Unsaid,
            busy_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(5),
            queue_limit: 100_000,
        }
    }
}

pub enum DenoStore {
    File(FileStore),
    Server(ServerStore),
}

impl DenoStore {
    /// A store on a file, which the first operation creates if it doesn't exist.
    /// With `:memory:`, a database in memory that lasts until the store is closed.
    /// With an `http:` or `https:` URL, a store on a server.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`](crate::kv::Error::InvalidOption) for an invalid
    /// path or URL.
    pub fn at(target: &str, options: DenoOptions) -> Result<Self> {
        Ok(match Target::parse(target, options.access_token)? {
            Target::File(location) => Self::File(FileStore::at(location, options.busy_timeout)),
            Target::Server(server) => {
                let store = ServerStore::at_server(server, options.command_timeout, options.queue_limit);
                Self::Server(store)
            }
        })
    }

    /// The store that a URL names, given what follows `denokv:` in it: a server's
    /// URL, or a path as in `sqlite:` URLs.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`](crate::kv::Error::InvalidOption) for an invalid
    /// one.
    pub fn at_url(rest: &str, options: DenoOptions) -> Result<Self> {
        if Target::is_remote(rest) {
            return Self::at(rest, options);
        }
        Self::at(&path_of(rest)?, options)
    }
}

impl DenoStore {
    fn engine(&self) -> &dyn Store {
        match self {
            Self::File(store) => store,
            Self::Server(store) => store,
        }
    }
}

impl Store for DenoStore {
    fn answer(&self, command: Command, follows_write: bool) -> Result<Outcome, Command> {
        self.engine().answer(command, follows_write)
    }

    fn groups_writes(&self) -> bool {
        self.engine().groups_writes()
    }

    fn submit(&self, job: Job) {
        self.engine().submit(job);
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        self.engine().pages(prefix, limits)
    }

    fn list_executor(&self) -> Result<Option<Arc<dyn ListExecutor>>> {
        self.engine().list_executor()
    }
}
