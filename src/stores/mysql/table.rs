//! The table: makes sure that it and its index are there.

use super::catalogue::{Layout, layout};
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

/// How often to look again after other clients have created or dropped the table.
const LOOKS: u32 = 20;

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
            ready: AtomicBool::new(false),
            creating: Mutex::default(),
        }
    }

    /// For the first operations: creates the table if it is missing.
    pub async fn check(&self, limits: Limits) -> Result<(), Fault> {
        if self.is_ready() {
            return Ok(());
        }
        let waiting = timeout_at(limits.deadline, self.creating.lock()).await;
        let _one_at_a_time = waiting.map_err(|_| {
            let words = format!("{}: the table was not made ready in time", self.pool.place());
            Fault::Lost(Lost::Undone(Error::Timeout(words)))
        })?;
        if self.is_ready() {
            return Ok(());
        }
        let lease = self.pool.take(limits.deadline).await.map_err(Fault::Lost)?;
        let create = async {
            let mut session = lease.session().await;
            let created = create(&mut session, &self.statements, self.creates()).await;
            lease.end(session, created).await
        };
        lease
            .one(limits, create)
            .await
            .map_err(Fault::undone)?
            .map_err(Fault::Final)?;
        self.ready.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Creates the table again. Returns whether it may.
    pub async fn renew(&self, limits: Limits) -> Result<bool, Fault> {
        self.ready.store(false, Ordering::Relaxed);
        if !self.creates.load(Ordering::Relaxed) {
            return Ok(false);
        }
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
            let dropped = drop_own(&mut session, &self.statements).await;
            lease.end(session, dropped).await
        };
        lease.one(limits, drop).await?.map_err(Fault::Final)?;
        self.creates.store(true, Ordering::Relaxed);
        self.ready.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the table is known to exist, and to be usable.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Whether operations may create the table.
    pub fn creates(&self) -> bool {
        self.creates.load(Ordering::Relaxed)
    }
}

/// Makes sure that the table can be used and has its index. Returns why it can't.
async fn create(session: &mut Session, statements: &Statements, creates: bool) -> Result<Result<(), Error>, Failure> {
    for _ in 0..LOOKS {
        match look(session, statements).await? {
            Err(error) => return Ok(Err(error)),
            Ok(Some(layout)) => {
                statements.use_index(Some(&layout.key_index));
                if layout.finds_expired || !creates {
                    return Ok(Ok(()));
                }
            }
            Ok(None) if creates => {
                session.alter(&statements.create_table()).await?;
                if session.has_warned() {
                    // Another client was first.
                    continue;
                }
                statements.use_index(Some("PRIMARY"));
            }
            Ok(None) => break,
        }
        match session.alter(&statements.create_index()).await {
            // Another client has dropped it meanwhile.
            Err(failure) if failure.code() == Some(NO_TABLE) => {}
            // Another client was first; or the table exists and we may not
            // change it, which only makes sweeps slower.
            Err(failure) if matches!(failure.code(), Some(HAS_INDEX | DENIED)) => return Ok(Ok(())),
            result => return result.map(Ok),
        }
    }
    // The server does not tell. If there is a table, it is taken as it is.
    statements.use_index(None);
    session.find(&statements.find_table()).await?;
    Ok(Ok(()))
}

/// What the catalogue says about the table, and whether it can be used.
async fn look(session: &mut Session, statements: &Statements) -> Result<Result<Option<Layout>, Error>, Failure> {
    let mut refusal = None;
    loop {
        let parts = match session.parts(&statements.catalogue()).await {
            // Stopped ones are no answer, see `Failure::fault`.
            Err(failure) if failure.code().is_some_and(|code| !matches!(code, 1317 | 1969 | 3024)) => {
                return Ok(Ok(None));
            }
            parts => parts?,
        };
        match layout(statements.table_name(), &parts) {
            // Another client may have dropped the table while it was looked at.
            Err(error) if refusal.as_ref() != Some(&error) => refusal = Some(error),
            found => return Ok(found),
        }
    }
}

/// Another program's table stays.
async fn drop_own(session: &mut Session, statements: &Statements) -> Result<Result<(), Error>, Failure> {
    if let Err(error) = look(session, statements).await? {
        return Ok(Err(error));
    }
    session.alter(&statements.drop_table()).await.map(Ok)
}
