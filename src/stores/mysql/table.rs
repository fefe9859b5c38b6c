//! The table: makes sure that it and its index are there.

use super::connection::Connector;
use super::failure::Failure;
use super::session::Session;
use super::statements::Statements;
use crate::host::timeout_at;
use crate::kv::Error;
use crate::stores::served::{Fault, Limits, Lost, Pool};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

const NO_TABLE: u16 = 1146;
const HAS_INDEX: u16 = 1061;
const DENIED: u16 = 1142;

pub struct Table {
    pool: Arc<Pool<Connector>>,
    statements: Arc<Statements>,
    /// Whether a missing table may be created. After `drop` it may be, even with
    /// `initialized: true`.
    creates: AtomicBool,
    /// Whether it is known to exist.
    ready: AtomicBool,
    creating: Mutex<()>,
}

impl Table {
    pub fn new(pool: Arc<Pool<Connector>>, statements: Arc<Statements>, initialized: bool) -> Self {
        Self {
            pool,
            statements,
            creates: AtomicBool::new(!initialized),
            ready: AtomicBool::new(initialized),
            creating: Mutex::default(),
        }
    }

    /// For the first operations: creates the table if it is missing.
    pub async fn check(&self, limits: Limits) -> Result<(), Fault> {
        if self.ready.load(Ordering::Relaxed) {
            return Ok(());
        }
        let waiting = timeout_at(limits.deadline, self.creating.lock()).await;
        let _one_at_a_time = waiting.map_err(|_| {
            let words = format!("{}: the table was not made ready in time", self.pool.place());
            Fault::Lost(Lost::Undone(Error::Timeout(words)))
        })?;
        if self.ready.load(Ordering::Relaxed) {
            return Ok(());
        }
        let lease = self.pool.take(limits.deadline).await.map_err(Fault::Lost)?;
        let create = async {
            let mut session = lease.session().await;
            let created = create(&mut session, &self.statements, self.creates()).await;
            lease.end(session, created).await
        };
        lease.one(limits, create).await.map_err(undone)?;
        self.ready.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Creates the table again. Returns whether it may.
    pub async fn renew(&self, limits: Limits) -> Result<bool, Fault> {
        if !self.creates.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.ready.store(false, Ordering::Relaxed);
        self.check(limits).await?;
        Ok(true)
    }

    /// Creates the table if another client has dropped it.
    pub async fn create(&self, limits: Limits) -> Result<(), Fault> {
        self.ready.store(false, Ordering::Relaxed);
        self.check(limits).await
    }

    pub async fn drop(&self, limits: Limits) -> Result<(), Fault> {
        let lease = self.pool.take(limits.deadline).await.map_err(Fault::Lost)?;
        let drop = async {
            let mut session = lease.session().await;
            let dropped = session.alter(&self.statements.drop_table()).await;
            lease.end(session, dropped).await
        };
        lease.one(limits, drop).await?;
        self.creates.store(true, Ordering::Relaxed);
        self.ready.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether operations may create the table.
    pub fn creates(&self) -> bool {
        self.creates.load(Ordering::Relaxed)
    }
}

async fn create(session: &mut Session, statements: &Statements, creates: bool) -> Result<(), Failure> {
    loop {
        match session.find(&statements.show_index()).await {
            Ok(true) => return Ok(()),
            Ok(false) if !creates => return Ok(()),
            Ok(false) => {}
            Err(failure) if creates && failure.code() == Some(NO_TABLE) => {
                session.alter(&statements.create_table()).await?;
            }
            Err(failure) => return Err(failure),
        }
        match session.alter(&statements.create_index()).await {
            // Another client has dropped it meanwhile.
            Err(failure) if failure.code() == Some(NO_TABLE) => {}
            // Another client was first; or the table exists and we may not
            // change it, which only makes sweeps slower.
            Err(failure) if matches!(failure.code(), Some(HAS_INDEX | DENIED)) => return Ok(()),
            result => return result,
        }
    }
}

/// No operation has been sent yet, so it can be repeated.
fn undone(fault: Fault) -> Fault {
    match fault {
        Fault::Lost(Lost::Unknown(error)) => Fault::Lost(Lost::Undone(error)),
        fault => fault,
    }
}
