//! One connection to a server, shared by all requests. They are sent in the
//! order of the calls and answered in the same order.

use super::Settings;
use super::failure::Lost;
use super::resp::{Malformed, Replies, Request, Scan};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{Error, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

/// A connection is given up after this many requests in a row without an
/// answer.
const MOST_SILENT: u32 = 2;

/// The least free space in the input buffer, and the space that is added to it.
/// Replies are cut out of the buffer without copying.
const ROOM: usize = 16 * 1024;
const MORE_ROOM: usize = 64 * 1024;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

#[derive(Clone)]
pub struct Connection {
    requests: UnboundedSender<Sent>,
    state: Arc<State>,
    settings: Arc<Settings>,
    place: Arc<str>,
}

#[derive(Default)]
struct State {
    dead: AtomicBool,
    silent: AtomicU32,
    end: OnceLock<Error>,
}

struct Sent {
    request: Request,
    answer: oneshot::Sender<Answer>,
}

/// `None` if the server took too long.
type Answer = Option<Replies>;

impl Connection {
    /// Takes a stream that is logged in.
    pub fn new(stream: Box<dyn Stream>, settings: &Arc<Settings>, place: &Arc<str>) -> Self {
        let (requests, receiver) = unbounded_channel();
        let state = Arc::new(State::default());
        let mut driver = Driver::new(stream, receiver, settings.command_timeout);
        let ended = Arc::clone(&state);
        tokio::spawn(async move {
            let error = (&mut driver).await;
            let _ = ended.end.set(error);
            // Before the waiting requests learn of it.
            ended.dead.store(true, Ordering::Release);
            drop(driver);
        });
        Self {
            requests,
            state,
            settings: Arc::clone(settings),
            place: Arc::clone(place),
        }
    }

    pub fn is_alive(&self) -> bool {
        // If the runtime has ended, the driver was dropped before it could set
        // `dead`.
        !self.state.dead.load(Ordering::Acquire) && !self.requests.is_closed()
    }

    /// From now on, requests need a new connection.
    pub fn give_up(&self) {
        self.state.dead.store(true, Ordering::Release);
    }

    /// The replies to all commands of a request, errors among them. Requests
    /// are carried out in the order of these calls.
    pub fn send(&self, request: Request) -> impl Future<Output = Result<Replies, Lost>> + use<> {
        let connection = self.clone();
        let (answer, replies) = oneshot::channel();
        // If the driver is gone, the receiver below fails.
        let _ = self.requests.send(Sent { request, answer });
        async move {
            match replies.await {
                Ok(Some(replies)) => {
                    connection.state.silent.store(0, Ordering::Relaxed);
                    Ok(replies)
                }
                Ok(None) => Err(connection.silent()),
                Err(_) => Err(connection.lost()),
            }
        }
    }

    fn lost(&self) -> Lost {
        self.give_up();
        match self.state.end.get() {
            Some(error) => Lost::Connection(format!("{}: {error}", self.place)),
            None => Lost::Connection(format!("{}: the connection is closed", self.place)),
        }
    }

    fn silent(&self) -> Lost {
        if self.state.silent.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_SILENT {
            self.give_up();
        }
        Lost::Timeout(format!(
            "{} did not answer within {} ms",
            self.place,
            self.settings.command_timeout.as_millis()
        ))
    }
}

/// Writes requests and reads replies until the last `Connection` is dropped.
/// Its output is the error that ended it.
struct Driver {
    stream: Box<dyn Stream>,
    requests: UnboundedReceiver<Sent>,
    output: Vec<u8>,
    written: usize,
    flushed: bool,
    input: BytesMut,
    scan: Scan,
    waiting: VecDeque<Waiting>,
    patience: Duration,
    /// One timer per connection, because setting it is a system call. Answers
    /// don't reset it; when it fires early, it is set again.
    alarm: Pin<Box<Sleep>>,
    alarmed: bool,
}

/// A request whose replies have not come yet.
struct Waiting {
    commands: usize,
    due: Instant,
    /// `None` once the request has timed out.
    answer: Option<oneshot::Sender<Answer>>,
}

impl Driver {
    fn new(stream: Box<dyn Stream>, requests: UnboundedReceiver<Sent>, patience: Duration) -> Self {
        Self {
            stream,
            requests,
            output: Vec::new(),
            written: 0,
            flushed: true,
            input: BytesMut::new(),
            scan: Scan::default(),
            waiting: VecDeque::new(),
            patience,
            alarm: Box::pin(sleep(patience)),
            alarmed: false,
        }
    }

    /// Takes the requests that were sent.
    fn poll_requests(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        while let Poll::Ready(sent) = self.requests.poll_recv(context) {
            let Some(Sent { request, answer }) = sent else {
                return Err(Error::new(
                    ErrorKind::NotConnected,
                    "the connection is no longer needed",
                ));
            };
            let due = Instant::now() + self.patience;
            self.waiting.push_back(Waiting {
                commands: request.commands(),
                due,
                answer: Some(answer),
            });
            if !self.alarmed {
                self.alarmed = true;
                self.alarm.as_mut().reset(due);
            }
            let bytes = request.into_bytes();
            if self.written == self.output.len() {
                self.output = bytes;
                self.written = 0;
            } else {
                self.output.extend_from_slice(&bytes);
            }
        }
        Ok(())
    }

    /// Ready when all output is written.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while self.written < self.output.len() {
            let rest = &self.output[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                some => self.written += some,
            }
            self.flushed = false;
        }
        if !self.flushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.flushed = true;
        }
        // Gives the memory of a large value back.
        self.output = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Only ever ready with an error.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            if self.input.capacity() - self.input.len() < ROOM {
                self.input.reserve(MORE_ROOM);
            }
            let read = pin!(self.stream.read_buf(&mut self.input));
            if ready!(read.poll(context))? == 0 {
                let closed = Error::new(ErrorKind::UnexpectedEof, "the server closed the connection");
                return Poll::Ready(Err(closed));
            }
            self.answer()
                .map_err(|Malformed(why)| Error::new(ErrorKind::InvalidData, why))?;
        }
    }

    /// Answers the requests whose replies are complete.
    fn answer(&mut self) -> Result<(), Malformed> {
        while self.scan.reply(&self.input)? {
            let Some(first) = self.waiting.front_mut() else {
                return Err(Malformed("the server sent a reply to no command"));
            };
            first.commands -= 1;
            if first.commands > 0 {
                continue;
            }
            let replies = self.input.split_to(self.scan.found()).freeze();
            self.scan.restart();
            if let Some(answer) = self.waiting.pop_front().and_then(|first| first.answer) {
                // The receiver may be gone; its answer is then not needed.
                let _ = answer.send(Some(Replies::new(replies)));
            }
        }
        Ok(())
    }

    /// Answers the requests that have timed out.
    fn poll_alarm(&mut self, context: &mut Context<'_>) {
        while self.alarmed && self.alarm.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            for waiting in self.waiting.iter_mut().take_while(|waiting| waiting.due <= now) {
                if let Some(answer) = waiting.answer.take() {
                    let _ = answer.send(None);
                }
            }
            let next = self.waiting.iter().find(|waiting| waiting.answer.is_some());
            self.alarmed = next.is_some();
            if let Some(Waiting { due, .. }) = next {
                self.alarm.as_mut().reset(*due);
            }
        }
    }
}

impl Future for Driver {
    type Output = Error;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Error> {
        if let Err(error) = self.poll_requests(context) {
            return Poll::Ready(error);
        }
        // Read even if the output is blocked: the server may be blocked on its
        // own output.
        if let Poll::Ready(Err(error)) = self.poll_write(context) {
            return Poll::Ready(error);
        }
        if let Poll::Ready(Err(error)) = self.poll_read(context) {
            return Poll::Ready(error);
        }
        self.poll_alarm(context);
        Poll::Pending
    }
}
