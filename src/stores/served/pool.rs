//! Connections: opened in the background when needed, kept for reuse, never more
//! than allowed.
//!
//! Who waits for a connection gets the one that is free first, be it new or
//! returned.

use super::attempt::Limits;
use super::backoff::pause;
use super::cancel::{GRACE, Health, end_abandoned, within};
use super::engine::Lost;
use super::fault::Fault;
use crate::host::{Task, on_host, on_loop, sleep_until, spawn, timeout_at, yield_now};
use crate::kv::{Error, Result};
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use rand::{Rng, thread_rng};
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How an engine opens connections.
pub trait Connect: Send + Sync + 'static {
    type Connection: Pooled;

    /// Where the server is, for messages.
    fn place(&self) -> &str;

    /// Opens a connection, whose driver runs on the caller's host. `writable` asks
    /// for a server that takes writes.
    fn open(&self, deadline: Instant, writable: bool) -> BoxFuture<'_, Result<Self::Connection, Refusal>>;
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub error: Error,
    /// Whether a retry can't help.
    pub lasting: bool,
}

/// A connection of a pool.
pub trait Pooled: Send + Sync + Sized + 'static {
    /// How the server names a connection.
    type Name: Clone + PartialEq + Send + Sync;

    /// Where the server is, for messages.
    fn place(&self) -> &str;

    /// Whether the event loop runs its driver.
    fn is_on_loop(&self) -> bool {
        false
    }

    fn health(&self) -> &Health;

    /// Whether it works, as far as is known.
    fn is_open(&self) -> bool;

    /// Has the driver look whether the connection has ended.
    fn refresh(&self) {}

    /// Statements are about to begin.
    fn begin(&self) {}

    /// Has the server cancel what it is doing for this connection.
    fn cancel(&self) -> Task<()>;

    /// Waits for the answer to an empty statement.
    fn settle(&self) -> impl Future<Output = ()> + Send;

    /// Whether it can be used after statements that were abandoned.
    fn outlives_abandoned(&self) -> bool;

    fn name(&self) -> Option<Self::Name>;

    /// Ends another connection, unless it is gone or another server's. Returns
    /// whether this one answers.
    fn end(&self, other: &Self::Name) -> impl Future<Output = bool> + Send;

    /// Closes the connection and waits until the socket is closed.
    fn close(self) -> impl Future<Output = ()> + Send;
}

#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    pub max_connections: usize,
    pub connect_timeout: Duration,
    /// How old a connection may become, less up to a tenth of that.
    pub max_lifetime: Duration,
    /// How long one may be unused.
    pub idle_timeout: Duration,
    /// Whether the server is known to exist. If not, and it can't be reached, nothing
    /// is tried again.
    pub known: bool,
}

pub struct Pool<C: Connect> {
    connect: C,
    options: PoolOptions,
    /// How many connections there are, those being opened included.
    count: Arc<AtomicUsize>,
    state: Mutex<State<C::Connection>>,
}

#[expect(clippy::struct_excessive_bools, reason = "each may be so with any of the others")]
struct State<T: Pooled> {
    idle: Idle<T>,
    waiters: VecDeque<Waiter<T>>,
    /// Whether a connection is being opened, and by what.
    opening: bool,
    opener: Option<Task<()>>,
    /// How many attempts to open one have failed in a row, and when the next may
    /// begin.
    failures: u32,
    not_before: Option<Instant>,
    /// Why the last attempt failed.
    refusal: Option<Error>,
    /// Whether there ever was a connection.
    reached: bool,
    /// To be ended on the server before anything else is done.
    given_up: Vec<T::Name>,
    /// Whether the server has ever taken a write.
    written: bool,
    /// Whether the server has stopped to take writes, so that another one is needed.
    demoted: bool,
    /// Connections that were opened before this are not used again.
    valid_since: Option<Instant>,
    closed: bool,
}

type Waiter<T> = oneshot::Sender<Result<Member<T>, Refusal>>;

/// Connections by the host that runs their drivers. Any host can use any of them,
/// but only its own without waking another thread.
struct Idle<T> {
    on_loop: Vec<Member<T>>,
    on_thread: Vec<Member<T>>,
}

impl<T> Idle<T> {
    fn at(&mut self, on_loop: bool) -> &mut Vec<Member<T>> {
        if on_loop {
            &mut self.on_loop
        } else {
            &mut self.on_thread
        }
    }

    /// Takes out the connections that are not to be kept.
    fn remove(&mut self, mut which: impl FnMut(&Member<T>) -> bool) -> Vec<Member<T>> {
        let removed = self.on_loop.extract_if(.., |member| which(member));
        let mut removed: Vec<_> = removed.collect();
        removed.extend(self.on_thread.extract_if(.., |member| which(member)));
        removed
    }
}

/// A connection and what the pool knows of it.
struct Member<T> {
    connection: T,
    opened: Instant,
    expires: Instant,
    idle_since: Instant,
    place: Place,
}

/// Counts a connection as long as it exists.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that returns to the pool when it is dropped.
pub struct Lease<C: Connect> {
    pool: Arc<Pool<C>>,
    member: Option<Member<C::Connection>>,
}

impl<C: Connect> Lease<C> {
    /// Waits for statements on the connection, as [`within`] does.
    pub async fn one<T>(&self, limits: Limits, statements: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        match within(&**self, limits, statements).await {
            Ok(result) => result,
            Err(error) => Err(Fault::Lost(Lost::Unknown(error))),
        }
    }
}

impl<C: Connect> Deref for Lease<C> {
    type Target = C::Connection;

    #[expect(clippy::expect_used, reason = "only drop takes the connection")]
    fn deref(&self) -> &C::Connection {
        &self.member.as_ref().expect("it is taken by drop only").connection
    }
}

impl<C: Connect> Drop for Lease<C> {
    fn drop(&mut self) {
        let Some(member) = self.member.take() else {
            return;
        };
        let pool = Arc::clone(&self.pool);
        if !member.connection.health().is_busy() {
            return pool.put_back(member);
        }
        if !member.connection.outlives_abandoned() || pool.state.lock().closed || !on_host() {
            return pool.discard(member);
        }
        spawn(async move {
            end_abandoned(&member.connection).await;
            pool.put_back(member);
        });
    }
}

/// Waits for a connection. If it is dropped with one, that returns to the pool.
struct Waiting<C: Connect> {
    pool: Arc<Pool<C>>,
    receiver: oneshot::Receiver<Result<Member<C::Connection>, Refusal>>,
}

impl<C: Connect> Drop for Waiting<C> {
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(Ok(member)) = self.receiver.try_recv() {
            self.pool.put_back(member);
        }
    }
}

/// What a caller finds.
enum Found<C: Connect> {
    Idle(Member<C::Connection>),
    Nothing(Waiting<C>),
}

/// The task that opens connections. If it ends before it has to, another one may
/// begin.
struct Opener<C: Connect> {
    pool: Arc<Pool<C>>,
    done: bool,
}

impl<C: Connect> Opener<C> {
    async fn run(mut self) {
        self.pool.open_while_needed().await;
        self.done = true;
    }
}

impl<C: Connect> Drop for Opener<C> {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.pool.state.lock();
            state.opening = false;
            // Those on another host look again, and one of them opens.
            state.waiters.clear();
        }
    }
}

impl<C: Connect> Pool<C> {
    pub fn new(connect: C, options: PoolOptions) -> Self {
        Self {
            connect,
            options,
            count: Arc::default(),
            state: Mutex::new(State {
                idle: Idle {
                    on_loop: Vec::new(),
                    on_thread: Vec::new(),
                },
                waiters: VecDeque::new(),
                opening: false,
                opener: None,
                failures: 0,
                not_before: None,
                refusal: None,
                reached: options.known,
                given_up: Vec::new(),
                written: false,
                demoted: false,
                valid_since: None,
                closed: false,
            }),
        }
    }

    pub fn place(&self) -> &str {
        self.connect.place()
    }

    /// A connection for exclusive use.
    ///
    /// # Errors
    ///
    /// [`Lost::Undone`] with [`Error::Timeout`] if none becomes free in time;
    /// [`Lost::Refused`] if none can be opened.
    pub async fn take(self: &Arc<Self>, deadline: Instant) -> Result<Lease<C>, Lost> {
        let lease = Lease {
            pool: Arc::clone(self),
            member: Some(self.member(deadline).await?),
        };
        loop {
            let other = self.state.lock().given_up.last().cloned();
            let Some(other) = other else {
                return Ok(lease);
            };
            let until = deadline.min(Instant::now() + GRACE);
            if !timeout_at(until, lease.end(&other)).await.unwrap_or(false) {
                lease.health().give_up();
                let words = format!("{} did not answer", self.place());
                return Err(Lost::Undone(Error::Timeout(words)));
            }
            // Another caller may have ended it at the same time.
            self.state.lock().given_up.retain(|each| *each != other);
        }
    }

    /// A certain connection, if it is idle.
    pub fn take_idle(self: &Arc<Self>, wanted: impl Fn(&C::Connection) -> bool) -> Option<Lease<C>> {
        let mut state = self.state.lock();
        let Idle { on_loop, on_thread } = &mut state.idle;
        let member = [on_loop, on_thread].into_iter().find_map(|idle| {
            let index = idle.iter().position(|member| wanted(&member.connection))?;
            Some(idle.remove(index))
        });
        Some(Lease {
            pool: Arc::clone(self),
            member: Some(member?),
        })
    }

    async fn member(self: &Arc<Self>, deadline: Instant) -> Result<Member<C::Connection>, Lost> {
        let on_loop = on_loop();
        loop {
            self.notice_ends(on_loop).await;
            let member = match self.find(on_loop)? {
                Found::Idle(member) => member,
                Found::Nothing(mut waiting) => match timeout_at(deadline, &mut waiting.receiver).await {
                    Ok(Ok(Ok(member))) => member,
                    Ok(Ok(Err(Refusal { error, lasting }))) => return Err(Lost::Refused { error, lasting }),
                    // Whoever was to open one has ended. If the pool is closed, the
                    // next look tells.
                    Ok(Err(_)) => continue,
                    Err(_) => {
                        // Others may be in use, and no more can be opened.
                        if let Some(error) = self.state.lock().refusal.clone() {
                            return Err(Lost::Refused { error, lasting: false });
                        }
                        let words = "no connection became free in time; see maxConnections";
                        return Err(Lost::Undone(Error::Timeout(format!("{}: {words}", self.place()))));
                    }
                },
            };
            if is_usable(&member.connection) {
                return Ok(member);
            }
        }
    }

    /// Lets connections notice that they have ended.
    async fn notice_ends(&self, on_loop: bool) {
        let next_is_idle = {
            let mut state = self.state.lock();
            let next = state.idle.at(on_loop).last();
            if on_loop && let Some(next) = next {
                next.connection.refresh();
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

    /// An idle connection, or a place among those that wait for one. If there are as
    /// many as allowed, it may be one of the other host.
    fn find(self: &Arc<Self>, on_loop: bool) -> Result<Found<C>, Lost> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(closed());
        }
        let may_open = self.may_open();
        let mut found = state.idle.at(on_loop).pop();
        if found.is_none() && !may_open {
            found = state.idle.at(!on_loop).pop();
        }
        if let Some(member) = found {
            return Ok(Found::Idle(member));
        }
        let (sender, receiver) = oneshot::channel();
        state.waiters.push_back(sender);
        self.open_more(&mut state);
        drop(state);
        Ok(Found::Nothing(Waiting {
            pool: Arc::clone(self),
            receiver,
        }))
    }

    fn may_open(&self) -> bool {
        self.count.load(Ordering::Relaxed) < self.options.max_connections
    }

    /// Has a connection opened, if someone waits for one. They are opened one at a
    /// time.
    fn open_more(self: &Arc<Self>, state: &mut State<C::Connection>) {
        state.waiters.retain(|waiter| !waiter.is_closed());
        if state.waiters.is_empty() || state.opening || state.closed || !self.may_open() || !on_host() {
            return;
        }
        state.opening = true;
        let opener = Opener {
            pool: Arc::clone(self),
            done: false,
        };
        state.opener = Some(spawn(opener.run()));
    }

    async fn open_while_needed(self: &Arc<Self>) {
        loop {
            let not_before = self.state.lock().not_before;
            if let Some(instant) = not_before {
                sleep_until(instant).await;
            }
            let writable = {
                let mut state = self.state.lock();
                state.waiters.retain(|waiter| !waiter.is_closed());
                if state.waiters.is_empty() || state.closed || !self.may_open() {
                    state.opening = false;
                    return;
                }
                state.demoted
            };
            let place = Place::take(&self.count);
            let opened = Instant::now();
            let open = self.connect.open(opened + self.options.connect_timeout, writable);
            match open.await {
                Ok(connection) => {
                    let lifetime = self.options.max_lifetime.mul_f64(thread_rng().gen_range(0.9..=1.0));
                    {
                        let mut state = self.state.lock();
                        state.reached = true;
                        state.failures = 0;
                        state.not_before = None;
                        state.refusal = None;
                    }
                    self.put_back(Member {
                        connection,
                        opened,
                        expires: Instant::now() + lifetime,
                        idle_since: opened,
                        place,
                    });
                }
                Err(refusal) => {
                    drop(place);
                    self.refuse(refusal);
                }
            }
        }
    }

    /// Tells those that wait why there is no connection, unless another one may
    /// become free.
    fn refuse(&self, mut refusal: Refusal) {
        let mut state = self.state.lock();
        state.failures += 1;
        state.refusal = Some(refusal.error.clone());
        state.not_before = Some(Instant::now() + pause(state.failures + 1));
        // A server that was never reached may not exist.
        if !state.reached {
            refusal.lasting = true;
            state.not_before = None;
        }
        // Those that have ended with the server don't become free.
        drop(state.idle.remove(|member| !is_usable(&member.connection)));
        if self.count.load(Ordering::Relaxed) == 0 {
            for waiter in std::mem::take(&mut state.waiters) {
                // It may have gone.
                drop(waiter.send(Err(refusal.clone())));
            }
        }
    }

    fn put_back(self: &Arc<Self>, mut member: Member<C::Connection>) {
        let now = Instant::now();
        let mut dropped = Vec::new();
        let mut given_up = false;
        let mut state = self.state.lock();
        if state.closed {
            // Ends at once, without a farewell.
        } else if !is_usable(&member.connection) {
            if member.connection.health().is_given_up() {
                // A statement that the server has not begun yet must not be carried
                // out after newer ones.
                state.given_up.extend(member.connection.name());
                given_up = true;
                // The way to the server may be lost for older ones, too.
                dropped = state.idle.remove(|idle| idle.opened <= member.opened);
            }
            drop(member);
        } else if member.expires <= now || state.valid_since.is_some_and(|since| member.opened < since) {
            dropped.push(member);
        } else {
            member.idle_since = now;
            give(&mut state, member);
        }
        self.open_more(&mut state);
        drop(state);
        self.close_all(dropped);
        if given_up {
            self.end_given_up();
        }
    }

    /// Soon ends what was given up on the server, where it may wait for a lock, even
    /// if nothing else is done.
    fn end_given_up(self: &Arc<Self>) {
        if on_host() {
            let pool = Arc::clone(self);
            spawn(async move {
                let deadline = Instant::now() + pool.options.connect_timeout;
                drop(pool.take(deadline).await);
            });
        }
    }

    /// Drops a connection whose statements were abandoned.
    fn discard(self: &Arc<Self>, member: Member<C::Connection>) {
        let mut state = self.state.lock();
        state.given_up.extend(member.connection.name());
        member.connection.health().give_up();
        drop(member);
        self.open_more(&mut state);
        drop(state);
        self.end_given_up();
    }

    /// The server has taken a write.
    pub fn note_write(&self) {
        self.state.lock().written = true;
    }

    /// The server takes no writes, and so is not the one that is wanted. No
    /// connection to it is used again. If it used to take writes, new ones are to
    /// servers that do.
    pub fn demote(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.valid_since = Some(Instant::now());
        state.demoted |= state.written;
        let all = state.idle.remove(|_| true);
        drop(state);
        self.close_all(all);
    }

    /// Closes the connections that are too old or were not used for too long.
    /// Returns when to do so again.
    pub fn tend(self: &Arc<Self>) -> Option<Instant> {
        let now = Instant::now();
        let end = |member: &Member<_>| member.expires.min(member.idle_since + self.options.idle_timeout);
        let mut state = self.state.lock();
        let old = state.idle.remove(|member| end(member) <= now);
        let idle = state.idle.on_loop.iter().chain(&state.idle.on_thread);
        let next = idle.map(end).min();
        drop(state);
        self.close_all(old);
        next
    }

    fn close_all(self: &Arc<Self>, members: Vec<Member<C::Connection>>) {
        if members.is_empty() || !on_host() {
            return;
        }
        let pool = Arc::clone(self);
        spawn(async move {
            for member in members {
                let Member { connection, place, .. } = member;
                connection.close().await;
                drop(place);
                // There is room for another one.
                pool.open_more(&mut pool.state.lock());
            }
        });
    }

    /// For when nobody will need a connection any more.
    pub fn abandon(&self) {
        drop(self.end());
    }

    fn end(&self) -> Vec<Member<C::Connection>> {
        let (opener, all) = {
            let mut state = self.state.lock();
            state.closed = true;
            state.waiters.clear();
            (state.opener.take(), state.idle.remove(|_| true))
        };
        // Its end may look at the state.
        if let Some(opener) = opener {
            opener.abort();
        }
        all
    }

    /// Closes all idle connections, and waits until they are closed. Those in use
    /// are closed when they are returned.
    pub async fn close(&self) {
        let all = self.end();
        join_all(all.into_iter().map(|member| member.connection.close())).await;
    }
}

/// Gives a connection to who has waited longest, or keeps it.
fn give<T: Pooled>(state: &mut State<T>, mut member: Member<T>) {
    while let Some(waiter) = state.waiters.pop_front() {
        let Err(Ok(returned)) = waiter.send(Ok(member)) else {
            return;
        };
        member = returned;
    }
    let on_loop = member.connection.is_on_loop();
    state.idle.at(on_loop).push(member);
}

fn is_usable<T: Pooled>(connection: &T) -> bool {
    connection.is_open() && !connection.health().is_given_up()
}

fn closed() -> Lost {
    Lost::Refused {
        error: Error::Closed,
        lasting: true,
    }
}

#[cfg(test)]
mod tests;
