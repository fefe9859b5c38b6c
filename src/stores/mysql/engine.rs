//! MySQL and MariaDB behind the common worker.

use super::MysqlOptions;
use super::failure::{Failure, Verdict, verdict};
use super::group::Group;
use super::pool::Pool;
use super::statements::Statements;
use super::table::{Create, Drop};
use super::url::Target;
use super::walk::{Clear, Range, Read, Sweep};
use super::work::Work;
use crate::kv::{Error, Outcome, Prefix, Result};
use crate::stores::served::{Action, Cleared, Cursor, Engine, Group as Asked, Limits, Lost, Rows, Swept};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

/// The pause after a deadlock, so that both sides don't meet again.
const PAUSE: Duration = Duration::from_millis(2);

pub struct MysqlEngine {
    pool: Pool,
    statements: Arc<Statements>,
    connections: usize,
    /// Whether a missing table may be created. After `drop_table` it may be, even
    /// with `initialized: true`.
    creates: AtomicBool,
    /// Whether the table is known to exist.
    ready: AtomicBool,
    creating: Mutex<()>,
}

/// Why work did not succeed.
enum Ended {
    /// There was no connection, or all was undone.
    Not(Lost),
    /// The connection ended, or the time was over.
    Lost { error: Error, unknown: bool },
    /// The server has refused.
    Failed(Error),
}

impl Ended {
    /// For work as a whole, without a reason for each of its operations.
    fn lost(self) -> Lost {
        match self {
            Self::Not(lost) => lost,
            Self::Lost {
                error: error @ Error::Timeout(_),
                ..
            }
            | Self::Failed(error) => Lost::Refused { error, lasting: true },
            Self::Lost { error, unknown: true } => Lost::Unknown(error),
            Self::Lost { error, unknown: false } => Lost::Undone(error),
        }
    }
}

impl MysqlEngine {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for invalid URLs and options.
    pub fn new(url: &str, options: &MysqlOptions) -> Result<Self> {
        let statements = Arc::new(Statements::new(&options.table));
        Ok(Self {
            pool: Pool::new(Target::parse(url)?, options, Arc::clone(&statements))?,
            statements,
            connections: options.max_connections,
            creates: AtomicBool::new(!options.initialized),
            ready: AtomicBool::new(false),
            creating: Mutex::default(),
        })
    }

    /// Works on the table, which is created if it is missing.
    async fn work<W: Work>(&self, work: &mut W, deadline: Instant) -> Result<W::Answer, Ended> {
        loop {
            if !self.ready.load(Ordering::Relaxed) {
                self.make_ready(deadline).await?;
            }
            match self.on_connection(deadline, work).await {
                Err(Ended::Failed(Error::Backend(_)))
                    if self.creates.load(Ordering::Relaxed) && !self.ready.load(Ordering::Relaxed) => {}
                result => return result,
            }
        }
    }

    /// Works on a connection until it succeeds or fails. It is repeated where
    /// that is safe.
    async fn on_connection<W: Work>(&self, deadline: Instant, work: &mut W) -> Result<W::Answer, Ended> {
        loop {
            if Instant::now() >= deadline {
                let error = self.pool.too_late(true);
                return Err(Ended::Lost { error, unknown: false });
            }
            let mut loan = self.pool.take(deadline).await.map_err(Ended::Not)?;
            let id = loan.connection.id();
            let failure = match self.pool.watch(id, deadline, work.attempt(&mut loan.connection)).await {
                Ok(answer) => {
                    loan.give_back();
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let committing = loan.connection.is_committing();
            let suits_log = loan.connection.suits_statement_log;
            let error = match failure {
                Failure::Late { stopped } => {
                    return Err(Ended::Lost {
                        error: self.pool.too_late(stopped && !committing),
                        unknown: committing || !stopped,
                    });
                }
                Failure::Broken(why) => {
                    // The other connections have probably ended too.
                    self.pool.forget_idle();
                    if loan.reused && !committing {
                        continue;
                    }
                    return Err(Ended::Lost {
                        error: Error::Connection(format!("{}: {why}", self.pool.place())),
                        unknown: committing,
                    });
                }
                Failure::Server(error) => error,
            };
            let verdict = verdict(&error);
            let wanted = !matches!(verdict, Verdict::Elsewhere(_));
            if self.pool.watch(id, deadline, loan.connection.roll_back()).await.is_ok() && wanted {
                loan.give_back();
            }
            match verdict {
                Verdict::Final(error) => return Err(Ended::Failed(error)),
                Verdict::Stopped(error) => {
                    return Err(Ended::Lost {
                        error,
                        unknown: committing,
                    });
                }
                Verdict::NoTable(error) => {
                    self.ready.store(false, Ordering::Relaxed);
                    return Err(Ended::Failed(error));
                }
                Verdict::StatementLog(error) => {
                    if suits_log {
                        return Err(Ended::Failed(error));
                    }
                    self.pool.suit_statement_log();
                }
                // Nothing was carried out. Other connections may be to another server.
                Verdict::Elsewhere(error) => {
                    self.pool.forget_idle();
                    return Err(Ended::Not(Lost::Undone(error)));
                }
                Verdict::Passing(error) => {
                    if Instant::now() + PAUSE > deadline {
                        return Err(Ended::Not(Lost::Undone(error)));
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Makes sure that the table can be used and has its index, and creates it if it
    /// is missing and may be created.
    async fn make_ready(&self, deadline: Instant) -> Result<(), Ended> {
        let Ok(_one_at_a_time) = timeout_at(deadline, self.creating.lock()).await else {
            let error = self.pool.too_late(true);
            return Err(Ended::Lost { error, unknown: false });
        };
        if self.ready.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut create = Create {
            statements: &self.statements,
            creates: self.creates.load(Ordering::Relaxed),
        };
        let created = self.on_connection(deadline, &mut create).await?;
        created.map_err(Ended::Failed)?;
        self.ready.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Engine for MysqlEngine {
    const NAME: &'static str = "mysql";

    fn place(&self) -> &str {
        self.pool.place()
    }

    fn connections(&self) -> usize {
        self.connections
    }

    fn query_timeout(&self) -> Duration {
        self.pool.query_timeout()
    }

    fn run<'a>(&'a self, asked: &'a Asked) -> BoxFuture<'a, Vec<Result<Outcome, Lost>>> {
        Box::pin(async move {
            let mut group = Group::new(&asked.operations);
            if group.is_done() {
                return group.finish(|_| Ok(Err(Error::Closed)));
            }
            asked.send();
            let ended = self.work(&mut group, Limits::until(asked.deadline).late).await;
            group.finish(|action| match &ended {
                Ok(()) => Ok(Err(Error::Backend("internal error: an operation without an outcome".into()))),
                Err(Ended::Not(lost)) => Err(lost.clone()),
                Err(
                    Ended::Failed(error)
                    // Its time is over, so there is no other attempt.
                    | Ended::Lost {
                        error: error @ Error::Timeout(_),
                        ..
                    },
                ) => Ok(Err(error.clone())),
                // A failed `cas` transaction is known to be undone unless it
                // was being committed. Other writes may be repeated.
                Err(Ended::Lost { error, unknown }) => Err(match action {
                    Action::Cas(..) if *unknown => Lost::Unknown(error.clone()),
                    Action::Cas(..) => Lost::Undone(error.clone()),
                    _ => Lost::Unknown(error.clone()),
                }),
            })
        })
    }

    fn read<'a>(
        &'a self,
        prefix: &'a Prefix,
        after: Option<&'a Cursor>,
        entries: u32,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Rows, Lost>> {
        Box::pin(async move {
            let mut read = Read(Range::new(prefix, after, entries));
            self.work(&mut read, limits.late).await.map_err(Ended::lost)
        })
    }

    fn clear<'a>(
        &'a self,
        prefix: &'a Prefix,
        after: Option<&'a Cursor>,
        slice: u32,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Cleared, Lost>> {
        Box::pin(async move {
            let mut clear = Clear(Range::new(prefix, after, slice));
            self.work(&mut clear, limits.late).await.map_err(Ended::lost)
        })
    }

    fn create(&self, limits: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move {
            self.ready.store(false, Ordering::Relaxed);
            self.make_ready(limits.late).await.map_err(Ended::lost)
        })
    }

    fn drop_table(&self, limits: Limits) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move {
            let mut drop = Drop {
                statements: &self.statements,
            };
            let dropped = self.on_connection(limits.late, &mut drop).await.map_err(Ended::lost)?;
            dropped.map_err(|error| Lost::Refused { error, lasting: true })?;
            self.creates.store(true, Ordering::Relaxed);
            self.ready.store(false, Ordering::Relaxed);
            Ok(())
        })
    }

    fn sweep<'a>(&'a self, _: Option<&'a Cursor>, slice: u32) -> BoxFuture<'a, Result<Swept, Lost>> {
        Box::pin(async move {
            let deadline = Instant::now() + self.pool.query_timeout();
            let removed = self.work(&mut Sweep(slice), deadline).await.map_err(Ended::lost)?;
            Ok(Swept { removed, next: None })
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.pool.close())
    }
}
