//! The table: creates it, checks one that others made, and makes sure that it is
//! logged unless the user wants it unlogged.
//!
//! `ALTER TABLE … SET LOGGED` rewrites the table under an exclusive lock, which
//! may take minutes. It therefore has a time limit of its own, and goes on when
//! the operation that started it has given up waiting.

use super::Settings;
use super::connection::{Connection, Connector};
use super::shape::{self, Part};
use super::sql::TableStatements;
use crate::host::{spawn, timeout_at};
use crate::kv::Error;
use crate::stores::served::{Fault, Lease, Limits, Lost, Pool};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// How often to retry when other clients create the table at the same moment.
const CREATORS: u32 = 20;

/// The time limit of a conversion, for servers that never answer.
const CONVERSION: Duration = Duration::from_secs(3600);

/// What the catalogue says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Nothing,
    Logged,
    Unlogged,
    /// The server refuses to tell. Its tables are taken as they are.
    Unknown,
}

/// How long to wait for a conversion.
#[derive(Clone, Copy)]
pub enum Wait {
    Patiently,
    Until(Instant),
}

type Conversion = Shared<BoxFuture<'static, Result<(), Fault>>>;

pub struct Table {
    settings: Arc<Settings>,
    pool: Arc<Pool<Connector>>,
    sql: TableStatements,
    /// Whether an unlogged table is converted.
    converts: bool,
    /// Whether the table needs no further check.
    checked: AtomicBool,
    /// Held while the catalogue is read, so that one operation does it for all.
    looking: tokio::sync::Mutex<()>,
    conversion: Mutex<Option<Conversion>>,
    /// Lives as long as one of our connections holds the lock of those that sweep.
    sweeper: Mutex<Weak<()>>,
}

/// Who may sweep.
pub enum Sweeper {
    This(Box<Lease<Connector>>),
    /// Our connection that may, but it is in use.
    Busy,
    /// Another client's.
    Another,
}

impl Table {
    pub fn new(settings: Arc<Settings>, pool: Arc<Pool<Connector>>, sql: TableStatements, unlogged: bool) -> Arc<Self> {
        Arc::new(Self {
            converts: !(unlogged || settings.initialized),
            checked: AtomicBool::new(false),
            looking: tokio::sync::Mutex::default(),
            settings,
            pool,
            sql,
            conversion: Mutex::default(),
            sweeper: Mutex::default(),
        })
    }

    pub fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Relaxed)
    }

    /// Has the next operation check the table again.
    pub fn forget(&self) {
        self.checked.store(false, Ordering::Relaxed);
    }

    /// For the first operations: refuses a table that can't be used, and converts
    /// it if it is unlogged. A missing table is left to the operation.
    pub async fn check(self: &Arc<Self>, limits: Limits) -> Result<(), Fault> {
        if self.is_checked() {
            return Ok(());
        }
        let found = if self.is_converting() {
            Found::Unlogged
        } else {
            self.look(limits).await?
        };
        self.finish(found, Wait::Until(limits.late)).await
    }

    /// Refuses a table that can't be used.
    pub async fn look(&self, limits: Limits) -> Result<Found, Fault> {
        let Ok(_looking) = timeout_at(limits.deadline, self.looking.lock()).await else {
            return Err(Fault::Lost(Lost::Undone(Error::Timeout(format!(
                "{}: the table could not be checked within {} ms",
                self.settings.target.place,
                self.settings.query_timeout.as_millis()
            )))));
        };
        if self.is_checked() {
            return Ok(Found::Logged);
        }
        let lease = self.pool.take(limits.deadline).await.map_err(Fault::Lost)?;
        lease.one(limits, self.look_on(&lease)).await.map_err(Fault::undone)
    }

    /// Creates the table if there is none, and converts it if another client
    /// has created it unlogged.
    pub async fn create(self: &Arc<Self>, limits: Limits, wait: Wait) -> Result<(), Fault> {
        let found = {
            let lease = self.pool.take(limits.deadline).await.map_err(Fault::Lost)?;
            // An operation has just found none.
            let is_missing = matches!(wait, Wait::Until(_));
            lease.one(limits, self.create_on(&lease, is_missing)).await?
        };
        self.finish(found, wait).await
    }

    async fn create_on(&self, lease: &Lease<Connector>, is_missing: bool) -> Result<Found, Fault> {
        let mut tries = 0;
        loop {
            // A user without the right to create tables may still use one.
            let found = if is_missing && tries == 0 {
                Found::Nothing
            } else {
                self.look_on(lease).await?
            };
            let exists = !matches!(found, Found::Nothing | Found::Unknown);
            if exists || self.settings.initialized || tries > CREATORS {
                return Ok(found);
            }
            match lease.run(&self.sql.create).await {
                // Another client may create it at the same moment.
                Err(Fault::Raced(_)) if tries < CREATORS => {}
                Ok(()) if found == Found::Unknown => return Ok(found),
                created => created?,
            }
            tries += 1;
        }
    }

    async fn look_on(&self, lease: &Lease<Connector>) -> Result<Found, Fault> {
        let rows = match lease.rows_once(&self.sql.shape, &[]).await {
            Err(fault @ (Fault::Lost(_) | Fault::Elsewhere(_) | Fault::Divide(Error::Timeout(_)))) => {
                return Err(fault);
            }
            // Not every user may read the catalogue, and not every server that
            // speaks the protocol has all of it.
            Err(_) => return Ok(Found::Unknown),
            Ok(rows) => rows,
        };
        let parts: Vec<Part> = rows.iter().filter_map(Part::of).collect();
        let persistence = parts.iter().find_map(|part| match part {
            Part::Table { persistence, .. } => Some(persistence.as_str()),
            _ => None,
        });
        let found = match persistence {
            None => return Ok(Found::Nothing),
            Some("u") => Found::Unlogged,
            Some(_) => Found::Logged,
        };
        shape::check(&self.sql.name, &parts).map_err(Fault::Final)?;
        Ok(found)
    }

    async fn finish(self: &Arc<Self>, found: Found, wait: Wait) -> Result<(), Fault> {
        if found != Found::Unlogged || !self.converts {
            self.checked.fetch_or(found != Found::Nothing, Ordering::Relaxed);
            return Ok(());
        }
        let conversion = self.convert();
        let Wait::Until(deadline) = wait else {
            return conversion.await;
        };
        timeout_at(deadline, conversion).await.unwrap_or_else(|_| {
            Err(Fault::Final(Error::Timeout(format!(
                "{} is being converted from an unlogged to a logged table, which takes longer than {} ms; \
                initialize() waits until it is done",
                self.sql.name,
                self.settings.query_timeout.as_millis()
            ))))
        })
    }

    fn is_converting(&self) -> bool {
        let current = self.conversion.lock();
        current.as_ref().is_some_and(|conversion| conversion.peek().is_none())
    }

    /// The conversion under way, or a new one.
    fn convert(self: &Arc<Self>) -> Conversion {
        let mut current = self.conversion.lock();
        if let Some(running) = current.as_ref().filter(|conversion| conversion.peek().is_none()) {
            return running.clone();
        }
        let table = Arc::clone(self);
        let task = spawn(async move { table.set_logged().await });
        let conversion = async move {
            let internal = || Error::Backend("internal error in the conversion of the table".into());
            task.await.unwrap_or_else(|| Err(Fault::Final(internal())))
        };
        let conversion = conversion.boxed().shared();
        *current = Some(conversion.clone());
        conversion
    }

    /// A connection to sweep with. Of all that share a table, one sweeps at a time:
    /// a walk reads the whole table, which is not to be done for each process. The
    /// lock is the connection's, which others use in the meantime.
    pub async fn sweeper(&self, limits: Limits) -> Result<Sweeper, Lost> {
        if let Some(lease) = self.pool.take_idle(Connection::is_sweeper) {
            return Ok(Sweeper::This(Box::new(lease)));
        }
        if self.sweeper.lock().upgrade().is_some() {
            return Ok(Sweeper::Busy);
        }
        let lease = self.pool.take(limits.deadline).await?;
        // A pooler's session would keep the lock.
        if lease.has_session() {
            let locked = lease.one(limits, lease.text(&self.sql.lock_sweep));
            if locked.await.map_err(Fault::lost)?.as_deref() != Some("true") {
                return Ok(Sweeper::Another);
            }
            *self.sweeper.lock() = lease.set_sweeper(true);
        }
        Ok(Sweeper::This(Box::new(lease)))
    }

    /// Gives the lock back.
    pub async fn end_sweep(&self, lease: &Lease<Connector>, limits: Limits) -> Result<(), Lost> {
        if lease.is_sweeper() {
            let unlocked = lease.one(limits, lease.text(&self.sql.unlock_sweep));
            unlocked.await.map_err(Fault::lost)?;
            lease.set_sweeper(false);
        }
        Ok(())
    }

    async fn set_logged(&self) -> Result<(), Fault> {
        let begin = Instant::now();
        let patience = self.settings.query_timeout;
        let lease = self.pool.take(begin + patience).await.map_err(Fault::Lost)?;
        loop {
            let limits = Limits::until(Instant::now() + CONVERSION);
            match lease.one(limits, lease.run(&self.sql.set_logged)).await {
                Ok(()) => {
                    self.checked.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                // Nothing to convert.
                Err(Fault::NoTable(_)) => return Ok(()),
                // Another client holds a lock on the table.
                Err(Fault::Divide(Error::Timeout(_))) if begin.elapsed() < patience => {}
                Err(Fault::Lost(lost)) => return Err(Fault::Lost(lost).undone()),
                Err(fault) => return Err(Fault::Final(self.unconverted(fault))),
            }
        }
    }

    fn unconverted(&self, fault: Fault) -> Error {
        let name = &self.sql.name;
        let what = format!("{name} is an unlogged table, which a crash of the server empties");
        match fault {
            Fault::Denied(error) => Error::Backend(format!(
                "{what}, and this user may not convert it ({error}); its owner can run \
                ALTER TABLE {name} SET LOGGED, or use unlogged: true to leave it as it is"
            )),
            Fault::Divide(Error::Timeout(why)) => {
                Error::Timeout(format!("{what}, and it could not be locked to convert it: {why}"))
            }
            fault => Error::Backend(format!("{what}, and converting it failed: {}", fault.error())),
        }
    }
}
