//! One connection. A driver writes requests in the order of the calls and reads their
//! replies, on the host that opened the connection.

use super::Settings;
use super::failure::words;
use super::open::Opened;
use super::wire::{Batch, Wire, one};
use crate::host::{Task, Watch, on_loop, spawn, timeout};
use crate::kv::Error;
use crate::stores::served::{Health, Lost, Pooled};
use parking_lot::Mutex;
use redis::{Value, cmd};
use std::collections::VecDeque;
use std::future::ready as done;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A firewall may have forgotten a connection that was not used for so long. To be
/// sure takes a round trip.
const QUIET: Duration = Duration::from_secs(10);

/// How a server names a connection, until the server is restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub run: Vec<u8>,
    pub id: i64,
}

pub struct Connection {
    requests: UnboundedSender<Request>,
    name: Option<Name>,
    place: Arc<str>,
    settings: Arc<Settings>,
    health: Health,
    watch: Arc<Watch>,
    on_loop: bool,
    used: Mutex<Instant>,
    driver: Option<Task<()>>,
}

/// The replies to a request, and why there are no more.
pub struct Replies {
    pub values: Vec<Value>,
    pub end: Option<Lost>,
}

impl Replies {
    pub fn none(end: Lost) -> Self {
        Self {
            values: Vec::new(),
            end: Some(end),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if (self.health.is_given_up() || self.health.is_busy())
            && let Some(driver) = &self.driver
        {
            // It would wait for a reply.
            driver.abort();
        }
    }
}

impl Connection {
    /// The host that runs the caller also runs the connection's driver.
    pub fn start(opened: Opened, settings: &Arc<Settings>, place: Arc<str>) -> Self {
        let Opened { wire, watch, name } = opened;
        let (requests, receiver) = unbounded_channel();
        let driver = Driver {
            wire,
            requests: receiver,
            output: Vec::new(),
            written: 0,
            flushed: true,
            passed_on: 0,
            accepted: 0,
            waiting: VecDeque::new(),
        };
        Self {
            requests,
            name,
            place,
            settings: Arc::clone(settings),
            health: Health::default(),
            watch,
            on_loop: on_loop(),
            used: Mutex::new(Instant::now()),
            driver: Some(spawn(driver.run())),
        }
    }

    /// The replies to all commands of a request, errors among them.
    pub async fn request(&self, batch: Batch) -> Replies {
        if self.used.lock().elapsed() > QUIET {
            let answered = timeout(self.settings.connect_timeout, self.send(one(&cmd("PING")))).await;
            if let Some(lost) = answered.map_or_else(|_| Some(self.silent()), |replies| replies.end) {
                return Replies::none(Lost::Undone(lost.error()));
            }
        }
        let replies = self.send(batch).await;
        *self.used.lock() = Instant::now();
        replies
    }

    fn silent(&self) -> Lost {
        self.health.give_up();
        let limit = self.settings.connect_timeout.as_millis();
        Lost::Undone(Error::Timeout(format!(
            "{}: no answer to PING within {limit} ms",
            self.place
        )))
    }

    async fn send(&self, batch: Batch) -> Replies {
        let (sender, answer) = oneshot::channel();
        if self.requests.send(Request { batch, sender }).is_err() {
            return Replies::none(Lost::Undone(self.ended("the connection is closed")));
        }
        let Ok(Answer { values, end }) = answer.await else {
            return Replies::none(Lost::Unknown(self.ended("the connection is closed")));
        };
        let end = end.map(|Ended { why, sent }| {
            let error = self.ended(why);
            if sent {
                Lost::Unknown(error)
            } else {
                Lost::Undone(error)
            }
        });
        Replies { values, end }
    }

    fn ended(&self, why: impl std::fmt::Display) -> Error {
        Error::Connection(format!("{}: {why}", self.place))
    }

    /// Which run of the server it is.
    pub fn run(&self) -> Option<&[u8]> {
        self.name.as_ref().map(|name| name.run.as_slice())
    }
}

impl Pooled for Connection {
    type Name = Name;

    fn place(&self) -> &str {
        &self.place
    }

    fn is_on_loop(&self) -> bool {
        self.on_loop
    }

    fn health(&self) -> &Health {
        &self.health
    }

    fn is_open(&self) -> bool {
        !self.requests.is_closed()
    }

    fn refresh(&self) {
        self.watch.refresh();
    }

    /// There is no such command.
    fn cancel(&self) -> Task<()> {
        spawn(done(()))
    }

    async fn settle(&self) {
        // If it fails, the connection has ended.
        drop(self.send(one(&cmd("PING"))).await);
    }

    fn outlives_abandoned(&self) -> bool {
        true
    }

    fn name(&self) -> Option<Name> {
        self.name.clone()
    }

    async fn end(&self, other: &Name) -> bool {
        if self.run() != Some(&other.run) {
            return true;
        }
        let Replies { values, end } = self.send(one(cmd("CLIENT").arg("KILL").arg("ID").arg(other.id))).await;
        match values.first() {
            // It may be running the script for which others wait.
            Some(Value::ServerError(error)) => !matches!(error.code(), "BUSY" | "LOADING"),
            // It is gone, or not every user may do that.
            Some(_) => true,
            None => end.is_none(),
        }
    }

    async fn close(mut self) {
        let driver = self.driver.take();
        drop(self);
        if let Some(driver) = driver {
            let _ = driver.await;
        }
    }
}

struct Request {
    batch: Batch,
    sender: oneshot::Sender<Answer>,
}

struct Answer {
    values: Vec<Value>,
    end: Option<Ended>,
}

struct Ended {
    why: String,
    /// Whether some of the request was sent, so that it may have been carried out.
    sent: bool,
}

/// A request without all of its replies.
struct Waiting {
    /// How many bytes of the connection come before it.
    begins: u64,
    commands: usize,
    values: Vec<Value>,
    sender: oneshot::Sender<Answer>,
}

struct Driver {
    wire: Wire,
    requests: UnboundedReceiver<Request>,
    output: Vec<u8>,
    written: usize,
    flushed: bool,
    /// How many bytes the stream has taken in all, and how many were to be sent.
    passed_on: u64,
    accepted: u64,
    waiting: VecDeque<Waiting>,
}

impl Driver {
    /// Runs until the connection is dropped or fails.
    async fn run(mut self) {
        let ended = std::future::poll_fn(|context| self.poll(context)).await;
        // Before the callers learn of it.
        self.requests.close();
        let why = ended.to_string();
        for waiting in self.waiting.drain(..) {
            let end = Ended {
                why: why.clone(),
                sent: self.passed_on > waiting.begins,
            };
            // The caller may have gone.
            let _ = waiting.sender.send(Answer {
                values: waiting.values,
                end: Some(end),
            });
        }
        while let Ok(Request { sender, .. }) = self.requests.try_recv() {
            let end = Ended {
                why: why.clone(),
                sent: false,
            };
            let _ = sender.send(Answer {
                values: Vec::new(),
                end: Some(end),
            });
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        while let Poll::Ready(request) = self.requests.poll_recv(context) {
            let Some(request) = request else {
                return Poll::Ready(io::Error::other("the connection is no longer needed"));
            };
            self.accept(request);
        }
        // Read even if the output is blocked: the server may be blocked on its own
        // output.
        if let Poll::Ready(Err(error)) = self.poll_write(context) {
            return Poll::Ready(error);
        }
        loop {
            match ready!(self.wire.poll_reply(context)) {
                Ok(value) => {
                    if let Err(error) = self.answer(value) {
                        return Poll::Ready(error);
                    }
                }
                Err(error) => return Poll::Ready(error),
            }
        }
    }

    fn accept(&mut self, request: Request) {
        let Request {
            batch: Batch { bytes, commands },
            sender,
        } = request;
        self.waiting.push_back(Waiting {
            begins: self.accepted,
            commands,
            values: Vec::with_capacity(commands),
            sender,
        });
        self.accepted += bytes.len() as u64;
        if self.written == self.output.len() {
            self.output = bytes;
            self.written = 0;
        } else {
            self.output.extend_from_slice(&bytes);
        }
    }

    /// Ready when all output is written.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            let some = ready!(self.wire.poll_write(context, &self.output[self.written..]))?;
            self.written += some;
            self.passed_on += some as u64;
            self.flushed = false;
        }
        if !self.flushed {
            ready!(self.wire.poll_flush(context))?;
            self.flushed = true;
        }
        // Gives the memory of a large value back.
        self.output = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn answer(&mut self, value: Value) -> io::Result<()> {
        let Some(first) = self.waiting.front_mut() else {
            let why = match &value {
                Value::ServerError(error) => words(error),
                _ => "the server sent a reply to no command".into(),
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        };
        first.values.push(value);
        if first.values.len() == first.commands
            && let Some(Waiting { values, sender, .. }) = self.waiting.pop_front()
        {
            // The caller may have gone.
            let _ = sender.send(Answer { values, end: None });
        }
        if self.waiting.is_empty() {
            self.wire.rest();
        }
        Ok(())
    }
}
