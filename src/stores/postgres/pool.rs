//! Connections: opened when needed, kept for reuse, never more than allowed.

use super::Settings;
use super::connection::{Connection, Counted};
use super::open::{Backend, Opened};
use crate::host::{Bulk, on_host, on_loop, sleep_until, spawn, timeout, yield_now};
use crate::kv::Error;
use crate::stores::served::contain;
use crate::stores::sql::Lost;
use parking_lot::{Mutex, MutexGuard};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The pause between two attempts to connect, doubled after each.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

pub struct Pool {
    settings: Arc<Settings>,
    /// Where connections are opened.
    bulk: Bulk,
    permits: Arc<Semaphore>,
    idle: Mutex<Idle>,
    /// How many connections there are.
    count: Arc<AtomicUsize>,
    /// To be ended on the server before anything else is done.
    given_up: Mutex<Vec<Backend>>,
    /// Held while connecting: one attempt at a time.
    gate: tokio::sync::Mutex<Gate>,
    attempts: AtomicU64,
    reached: AtomicBool,
}

/// Connections by the host that runs their drivers. Any host can use any of them,
/// but only its own without waking another thread.
#[derive(Default)]
struct Idle {
    on_loop: Vec<Connection>,
    on_thread: Vec<Connection>,
}

impl Idle {
    fn at(&mut self, on_loop: bool) -> &mut Vec<Connection> {
        if on_loop {
            &mut self.on_loop
        } else {
            &mut self.on_thread
        }
    }
}

#[derive(Default)]
struct Gate {
    failures: u32,
    not_before: Option<Instant>,
    refusal: Option<Lost>,
}

/// A connection that returns to the pool when it is dropped.
pub struct Lease {
    pool: Arc<Pool>,
    connection: Option<Connection>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Deref for Lease {
    type Target = Connection;

    #[expect(clippy::expect_used, reason = "only drop takes the connection")]
    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("it is taken by drop only")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        if !connection.is_abandoned() {
            return self.pool.put_back(connection);
        }
        let (pool, permit) = (Arc::clone(&self.pool), self.permit.take());
        if on_host() {
            spawn(async move {
                connection.end_abandoned().await;
                pool.put_back(connection);
                drop(permit);
            });
        }
    }
}

impl Pool {
    pub fn new(settings: Arc<Settings>, bulk: Bulk) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(settings.max_connections)),
            settings,
            bulk,
            idle: Mutex::default(),
            count: Arc::default(),
            given_up: Mutex::default(),
            gate: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
            reached: AtomicBool::new(false),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock()
    }

    fn given_up(&self) -> MutexGuard<'_, Vec<Backend>> {
        self.given_up.lock()
    }

    fn put_back(&self, mut connection: Connection) {
        if !connection.is_usable() {
            self.given_up().extend(connection.take_given_up());
        } else if !self.permits.is_closed() {
            let on_loop = connection.is_on_loop();
            self.idle().at(on_loop).push(connection);
        }
    }

    /// A connection for exclusive use.
    pub async fn take(self: &Arc<Self>, limit: Duration) -> Result<Lease, Lost> {
        let permit = match timeout(limit, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(closed()),
            Err(_) => {
                return Err(Lost::Undone(Error::Timeout(format!(
                    "no connection was free within {} ms",
                    limit.as_millis()
                ))));
            }
        };
        let on_loop = on_loop();
        let connection = loop {
            self.notice_ends(on_loop).await;
            match self.pop(on_loop) {
                Some(connection) if connection.is_usable() => break connection,
                Some(_) => {}
                None => break self.connect(limit, on_loop).await?,
            }
        };
        let lease = self.lease(connection, permit);
        loop {
            let other = self.given_up().last().cloned();
            let Some(other) = other else {
                return Ok(lease);
            };
            if lease.end(&other).await {
                // Another caller may have ended it at the same time.
                self.given_up().retain(|each| *each != other);
            } else {
                let words = format!("{} does not answer", self.settings.target.place);
                return Err(Lost::Undone(Error::Timeout(words)));
            }
        }
    }

    /// Lets connections notice that they have ended.
    async fn notice_ends(&self, on_loop: bool) {
        let next_is_idle = {
            let mut idle = self.idle();
            let next = idle.at(on_loop).last();
            if on_loop && let Some(next) = next {
                next.refresh();
            }
            next.is_some()
        };
        if !next_is_idle {
            return;
        }
        yield_now().await;
        if !on_loop {
            // The first time, the runtime has polled the sockets.
            yield_now().await;
        }
    }

    /// An idle connection. If there are as many as allowed, it may be one of the
    /// other host.
    fn pop(&self, on_loop: bool) -> Option<Connection> {
        let mut idle = self.idle();
        let own = idle.at(on_loop).pop();
        if own.is_some() || self.count.load(Ordering::Relaxed) < self.settings.max_connections {
            return own;
        }
        idle.at(!on_loop).pop()
    }

    fn lease(self: &Arc<Self>, connection: Connection, permit: OwnedSemaphorePermit) -> Lease {
        Lease {
            pool: Arc::clone(self),
            connection: Some(connection),
            permit: Some(permit),
        }
    }

    async fn connect(&self, limit: Duration, on_loop: bool) -> Result<Connection, Lost> {
        let seen = self.attempts.load(Ordering::Relaxed);
        let mut gate = self.gate.lock().await;
        // If an attempt failed while we waited for the gate, return its error
        // instead of trying again.
        if let Some(refusal) = &gate.refusal
            && self.attempts.load(Ordering::Relaxed) != seen
        {
            return Err(refusal.clone());
        }
        // Others may have opened as many as allowed, or may need theirs no longer.
        if let Some(connection) = self.pop(on_loop).filter(Connection::is_usable) {
            return Ok(connection);
        }
        let reached = self.reached.load(Ordering::Relaxed);
        if let Some(instant) = gate.not_before.filter(|_| reached) {
            sleep_until(instant).await;
        }
        let limit = self.settings.connect_timeout.min(limit);
        let open = contain(timeout(limit, Box::pin(Opened::open(Arc::clone(&self.settings)))));
        let opened = match self.bulk.run(open).await.and_then(|opened| opened) {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) => {
                let place = &self.settings.target.place;
                let words = format!("{place}: no connection within {} ms", limit.as_millis());
                // The operation's own time has run out.
                let out_of_time = reached && limit < self.settings.connect_timeout;
                let error = if out_of_time { Error::Timeout } else { Error::Connection };
                Err((error(words), false))
            }
            Err(error) => Err((error, false)),
        };
        self.attempts.fetch_add(1, Ordering::Relaxed);
        match opened {
            Ok(opened) => {
                self.reached.store(true, Ordering::Relaxed);
                *gate = Gate::default();
                let counted = Counted::new(&self.count);
                Ok(Connection::start(opened, &self.settings, &self.bulk, counted))
            }
            Err((error, lasting)) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << gate.failures.min(10));
                gate.not_before = Some(Instant::now() + pause.min(LONGEST_PAUSE));
                gate.failures += 1;
                // Fail at once, because the server may not exist.
                let lost = Lost::Refused {
                    error,
                    lasting: lasting || !reached,
                };
                gate.refusal = Some(lost.clone());
                Err(lost)
            }
        }
    }

    /// Closes all connections, and waits until they are closed.
    pub async fn close(&self) {
        self.permits.close();
        let Idle { on_loop, on_thread } = std::mem::take(&mut *self.idle());
        for connection in on_loop.into_iter().chain(on_thread) {
            connection.close().await;
        }
    }
}

fn closed() -> Lost {
    Lost::Refused {
        error: Error::Closed,
        lasting: true,
    }
}
