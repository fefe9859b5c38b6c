//! Redis and Valkey, one server or a cluster, in the format of Fedify's own
//! Redis store.
//!
//! One thread does all the work ([`worker`]): it takes all queued operations,
//! sends them as one request, and has several requests under way. Operations on
//! many entries ([`many`], [`list`], [`index`]) run on the same thread as
//! tasks.

mod connection;
mod failure;
mod flight;
mod index;
mod link;
mod list;
mod login;
mod many;
mod op;
mod order;
mod resp;
mod script;
mod server;
mod slots;
mod topology;
mod url;
mod wire;
mod worker;

use super::served::{Admission, Credentials, Password, Starter, TlsOptions};
use super::worker::{FailedPages, Tasks};
use crate::host::{Bulk, Host};
use crate::kv::{Answer, Command, Error, Job, ListExecutor, Outcome, PageLimits, Pages, Prefix, Result, Store, Task};
use futures::future::BoxFuture;
use list::RedisPages;
use rustls::ClientConfig;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use topology::Topology;
use url::Target;
use wire::Wire;
use worker::Worker;

#[derive(Clone)]
pub struct RedisOptions {
    pub key_prefix: Vec<u8>,
    /// Keep an index of the keys, for lists that need no scan.
    pub index: bool,
    pub connect_timeout: Duration,
    pub command_timeout: Duration,
    /// The most operations that may be queued.
    pub queue_limit: usize,
    pub credentials: Credentials,
    pub tls: Option<TlsOptions>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            key_prefix: b"fedify::".into(),
            index: false,
            connect_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(5),
            queue_limit: 100_000,
            credentials: Credentials::default(),
            tls: None,
        }
    }
}

/// The settings, which never change.
struct Settings {
    target: Target,
    password: Password,
    index: bool,
    connect_timeout: Duration,
    command_timeout: Duration,
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

/// The state that the worker and the tasks share.
struct Hub {
    settings: Arc<Settings>,
    wire: Wire,
    topology: Topology,
}

#[derive(Clone)]
pub struct RedisStore(Arc<Shared>);

struct Shared {
    hub: Arc<Hub>,
    starter: Starter<Message>,
    reindexed: Arc<AtomicU64>,
}

/// Messages to the worker.
enum Message {
    Job(Job, Admission),
    Reindex(Answer, Arc<AtomicU64>),
    /// Answered once all earlier jobs are done.
    Ready(oneshot::Sender<()>),
    Task(Task),
}

impl RedisStore {
    /// A store on one server, or on the cluster that several URLs belong to.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for invalid URLs and options.
    pub fn at(urls: &[String], options: RedisOptions) -> Result<Self> {
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
        let wire = Wire::new(options.key_prefix);
        if options.index && target.cluster && !wire.is_in_one_slot() {
            return Err(Error::InvalidOption(
                "in a cluster, index: true needs a keyPrefix with a hash tag, such as \"{fedify}::\", which keeps all \
                entries on one server"
                    .into(),
            ));
        }
        let settings = Arc::new(Settings {
            target,
            password,
            index: options.index,
            connect_timeout: options.connect_timeout,
            command_timeout: options.command_timeout,
            tls: options.tls.unwrap_or_default(),
            tls_config: OnceLock::new(),
        });
        let password = settings.password.clone();
        let hub = Hub {
            topology: Topology::new(&settings),
            settings,
            wire,
        };
        Ok(Self(Arc::new(Shared {
            hub: Arc::new(hub),
            starter: Starter::new("redis", options.queue_limit, Host::Thread, Bulk::Here, password),
            reindexed: Arc::default(),
        })))
    }

    /// Makes the index agree with the stored entries, and delivers their
    /// number.
    pub fn reindex(&self, answer: Answer) {
        if !self.0.hub.settings.index {
            let error = Error::InvalidOption("reindex() needs a store with index: true".into());
            return answer.deliver(Err(error));
        }
        match self.worker() {
            Ok(worker) => drop(worker.send(Message::Reindex(answer, Arc::clone(&self.0.reindexed)))),
            Err(error) => answer.deliver(Err(error)),
        }
    }

    /// How many entries the last `reindex` has handled so far.
    pub fn reindexed(&self) -> u64 {
        self.0.reindexed.load(Ordering::Relaxed)
    }

    fn run(&self) -> impl FnOnce(UnboundedReceiver<Message>) -> BoxFuture<'static, Option<Answer>> + Send + 'static {
        let hub = Arc::clone(&self.0.hub);
        move |messages| Box::pin(Worker::new(hub, messages).run())
    }

    fn worker(&self) -> Result<UnboundedSender<Message>> {
        self.0.starter.sender(self.run())
    }
}

impl Store for RedisStore {
    fn answer(&self, command: Command, _: bool) -> std::result::Result<Outcome, Command> {
        Err(command)
    }

    fn submit(&self, job: Job) {
        self.0.starter.submit(job, self.run(), Message::Job);
    }

    fn pages(&self, prefix: Prefix, limits: PageLimits) -> Box<dyn Pages> {
        match self.worker() {
            Ok(worker) => Box::new(RedisPages::new(Arc::clone(&self.0.hub), worker, prefix, limits)),
            Err(error) => Box::new(FailedPages(error)),
        }
    }

    fn list_executor(&self) -> Result<Option<Arc<dyn ListExecutor>>> {
        Ok(Some(Arc::new(Tasks(self.worker()?))))
    }
}

impl From<Task> for Message {
    fn from(task: Task) -> Self {
        Self::Task(task)
    }
}
