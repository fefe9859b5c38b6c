use super::*;
use crate::host::sleep;
use std::sync::atomic::AtomicBool;
use tokio::task::yield_now;
use tokio::time::{advance, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// What the tests do to a server.
#[derive(Default)]
struct Server {
    opened: AtomicUsize,
    closed: AtomicUsize,
    /// While it is locked, opening waits.
    gate: tokio::sync::Mutex<()>,
    refusal: Mutex<Option<Refusal>>,
    ended: Mutex<Vec<usize>>,
    writable_only: AtomicBool,
    cancelled: AtomicUsize,
}

struct Connection {
    server: Arc<Server>,
    number: usize,
    health: Health,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.closed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Pooled for Connection {
    type Name = usize;

    fn place(&self) -> &'static str {
        "here"
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn is_open(&self) -> bool {
        true
    }

    fn cancel(&self) -> Task<()> {
        self.server.cancelled.fetch_add(1, Ordering::Relaxed);
        spawn(async {})
    }

    async fn settle(&self) {}

    fn outlives_abandoned(&self) -> bool {
        true
    }

    fn name(&self) -> Option<usize> {
        Some(self.number)
    }

    async fn end(&self, other: &usize) -> bool {
        self.server.ended.lock().push(*other);
        true
    }

    async fn close(self) {}
}

impl Connect for Arc<Server> {
    type Connection = Connection;

    fn place(&self) -> &'static str {
        "here"
    }

    fn open(&self, _: Instant, writable: bool) -> BoxFuture<'_, Result<Connection, Refusal>> {
        Box::pin(async move {
            drop(self.gate.lock().await);
            self.writable_only.store(writable, Ordering::Relaxed);
            match self.refusal.lock().clone() {
                Some(refusal) => Err(refusal),
                None => Ok(Connection {
                    server: Arc::clone(self),
                    number: self.opened.fetch_add(1, Ordering::Relaxed),
                    health: Health::default(),
                }),
            }
        })
    }
}

fn pool(max_connections: usize) -> (Arc<Server>, Arc<Pool<Arc<Server>>>) {
    let server = Arc::<Server>::default();
    let options = PoolOptions {
        max_connections,
        connect_timeout: 5 * SECOND,
        max_lifetime: 100 * SECOND,
        idle_timeout: 10 * SECOND,
        known: false,
    };
    (Arc::clone(&server), Arc::new(Pool::new(server, options)))
}

type Taken = Result<Lease<Arc<Server>>, Lost>;

async fn take(pool: &Arc<Pool<Arc<Server>>>) -> Taken {
    pool.take(Instant::now() + SECOND).await
}

async fn run_others() {
    for _ in 0..10 {
        yield_now().await;
    }
}

fn refuse(server: &Server, lasting: bool) {
    let error = Error::Connection("refused".into());
    *server.refusal.lock() = Some(Refusal { error, lasting });
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_what_is_free_first() {
    let (server, pool) = pool(2);
    let first = take(&pool).await.unwrap();
    let closed = server.gate.lock().await;
    let waiting = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { take(&pool).await.map(|lease| lease.number) }
    });
    run_others().await;
    drop(first);
    assert_eq!(waiting.await.unwrap(), Ok(0));
    // The other one is opened nevertheless.
    drop(closed);
    run_others().await;
    let (one, other) = (take(&pool).await.unwrap(), take(&pool).await.unwrap());
    assert_eq!(server.opened.load(Ordering::Relaxed), 2);
    let late = take(&pool).await.map(|_| ()).unwrap_err();
    assert!(matches!(late, Lost::Undone(Error::Timeout(_))), "{late:?}");
    assert_eq!(server.opened.load(Ordering::Relaxed), 2);
    drop((one, other));
}

#[tokio::test(start_paused = true)]
async fn who_goes_leaves_the_connection_to_the_next() {
    let (server, pool) = pool(1);
    let first = take(&pool).await.unwrap();
    let mut gone = Box::pin(take(&pool));
    assert!(timeout(Duration::ZERO, &mut gone).await.is_err());
    // It is given to the one that goes.
    drop(first);
    drop(gone);
    assert_eq!(take(&pool).await.unwrap().number, 0);
    assert_eq!(server.closed.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_told_unless_a_connection_may_become_free() {
    let (server, pool) = pool(2);
    refuse(&server, false);
    // It was never reached, so it may not exist.
    let lost = take(&pool).await.map(|_| ()).unwrap_err();
    assert!(matches!(lost, Lost::Refused { lasting: true, .. }), "{lost:?}");
    *server.refusal.lock() = None;
    let first = take(&pool).await.unwrap();
    refuse(&server, false);
    let waiting = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { take(&pool).await.map(|lease| lease.number) }
    });
    run_others().await;
    drop(first);
    assert_eq!(waiting.await.unwrap(), Ok(0));
    let first = take(&pool).await.unwrap();
    // There is one, but it does not become free.
    let lost = take(&pool).await.map(|_| ()).unwrap_err();
    assert!(matches!(lost, Lost::Refused { lasting: false, .. }), "{lost:?}");
    first.health.give_up();
    drop(first);
    let begin = Instant::now();
    for _ in 0..5 {
        let lost = take(&pool).await.map(|_| ()).unwrap_err();
        assert!(matches!(lost, Lost::Refused { lasting: false, .. }), "{lost:?}");
    }
    // Attempts pause more and more.
    assert!(begin.elapsed() >= Duration::from_millis(70), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_given_up_is_ended_first_and_takes_older_ones_with_it() {
    let (server, pool) = pool(3);
    let leases = (take(&pool).await.unwrap(), take(&pool).await.unwrap());
    advance(SECOND).await;
    let youngest = take(&pool).await.unwrap();
    let (older, silent) = leases;
    drop((older, youngest));
    silent.health.give_up();
    drop(silent);
    run_others().await;
    assert_eq!(server.closed.load(Ordering::Relaxed), 2);
    assert_eq!(take(&pool).await.unwrap().number, 2);
    assert_eq!(*server.ended.lock(), [1]);
}

#[tokio::test(start_paused = true)]
async fn connections_grow_old() {
    let (server, pool) = pool(2);
    drop((take(&pool).await.unwrap(), take(&pool).await.unwrap()));
    let next = pool.tend().unwrap();
    assert_eq!(next, Instant::now() + 10 * SECOND);
    advance(9 * SECOND).await;
    drop(take(&pool).await.unwrap());
    advance(SECOND).await;
    assert_eq!(pool.tend(), Some(Instant::now() + 9 * SECOND));
    run_others().await;
    assert_eq!(server.closed.load(Ordering::Relaxed), 1);
    // One in use is replaced when it comes back.
    let used = take(&pool).await.unwrap();
    advance(100 * SECOND).await;
    drop(used);
    run_others().await;
    assert_eq!(server.closed.load(Ordering::Relaxed), 2);
    assert_eq!(pool.tend(), None);
    assert_eq!(take(&pool).await.unwrap().number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_demoted_server_is_left() {
    let (server, pool) = pool(2);
    let (one, other) = (take(&pool).await.unwrap(), take(&pool).await.unwrap());
    drop(one);
    advance(SECOND).await;
    pool.demote();
    drop(other);
    assert_eq!(take(&pool).await.unwrap().number, 2);
    // It may be read-only on purpose.
    assert!(!server.writable_only.load(Ordering::Relaxed));
    pool.note_write();
    advance(SECOND).await;
    pool.demote();
    assert_eq!(take(&pool).await.unwrap().number, 3);
    assert!(server.writable_only.load(Ordering::Relaxed));
    run_others().await;
    assert_eq!(server.closed.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_closed_pool_gives_nothing() {
    let (server, pool) = pool(1);
    let lease = take(&pool).await.unwrap();
    let waiting = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { take(&pool).await.map(|lease| lease.number) }
    });
    run_others().await;
    pool.close().await;
    assert_eq!(waiting.await.unwrap(), Err(closed()));
    drop(lease);
    assert_eq!(server.closed.load(Ordering::Relaxed), 1);
    assert_eq!(take(&pool).await.map(|_| ()), Err(closed()));
}

fn limits() -> Limits {
    let now = Instant::now();
    Limits {
        late: now + SECOND,
        deadline: now + 2 * SECOND,
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_statement_is_cancelled_and_then_given_up() {
    let (server, pool) = pool(2);
    let lease = take(&pool).await.unwrap();
    assert_eq!(lease.one(limits(), async { Ok(1) }).await.unwrap(), 1);
    assert_eq!(server.cancelled.load(Ordering::Relaxed), 0);
    let slow = async {
        sleep(SECOND + SECOND / 2).await;
        Ok(2)
    };
    assert_eq!(lease.one(limits(), slow).await.unwrap(), 2);
    assert!(server.cancelled.load(Ordering::Relaxed) > 1);
    assert!(!lease.health.is_given_up());
    let silent = lease.one(limits(), std::future::pending::<Result<(), Fault>>());
    assert!(matches!(
        silent.await,
        Err(Fault::Lost(Lost::Unknown(Error::Timeout(_))))
    ));
    assert!(lease.health.is_given_up());
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_statement_is_cancelled_before_the_connection_is_used_again() {
    let (server, pool) = pool(1);
    let lease = take(&pool).await.unwrap();
    let pending = lease.one(limits(), std::future::pending::<Result<(), Fault>>());
    assert!(timeout(SECOND / 2, pending).await.is_err());
    assert!(lease.health.is_busy());
    drop(lease);
    let again = take(&pool).await.unwrap();
    assert!(!again.health.is_busy());
    assert_eq!(server.opened.load(Ordering::Relaxed), 1);
}
