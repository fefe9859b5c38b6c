//! The frames of PostgreSQL's protocol, between the driver and a stream: a type, a
//! length and a body. Only the first message from the client has no type.
//!
//! Outgoing frames name prepared statements. The driver counts them from 0 in each
//! process, and a transaction pooler gives one process's session to another, which
//! would then run a statement of the same name that means something else. So each
//! name gets a part that no other process has.
//!
//! Incoming frames are counted: the driver keeps an answer until it is complete,
//! however long the server says it is.

use futures::future::BoxFuture;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// So many bytes are copied to be written at once. What goes beyond is written from
/// the driver's buffer.
const COPIED: usize = 64 * 1024;

/// All that a server may send before it is ready for the first statement.
const LOGIN_BYTES: usize = 256 * 1024;

/// About what the driver needs to keep a frame, in addition to its bytes.
const FRAME_COST: usize = 128;

/// A type and a length, which counts itself and the body.
const HEADER: usize = 5;
const LENGTH: usize = 4;

/// The code that asks for encryption in place of a first message. The server answers
/// with one byte, and a first message follows.
const SSL_REQUEST: [u8; 4] = 80_877_103_u32.to_be_bytes();

const READY_FOR_QUERY: u8 = b'Z';
const BACKEND_KEY_DATA: u8 = b'K';

/// Precedes the driver's names. With them it has fewer than 64 bytes, which is all
/// that the server looks at.
static UNIQUE: LazyLock<Vec<u8>> = LazyLock::new(|| format!("fedify_kv_{:016x}_", rand::random::<u64>()).into_bytes());

/// An answer has more bytes than it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLarge {
    Login,
    Answer(usize),
}

impl fmt::Display for TooLarge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Login => write!(
                formatter,
                "the server sent more than {LOGIN_BYTES} bytes in answer to the login; it may not be PostgreSQL"
            ),
            Self::Answer(limit) => write!(
                formatter,
                "the server's answer has more than {limit} bytes, the limit set by maxAnswerBytes"
            ),
        }
    }
}

impl StdError for TooLarge {}

/// What the frames of a connection have told.
pub struct Traffic {
    limit: usize,
    process: AtomicI32,
    too_large: AtomicBool,
    sent: AtomicU64,
}

impl Traffic {
    /// With the most bytes of an answer to one request.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            process: AtomicI32::new(0),
            too_large: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        })
    }

    /// The number of the server's process, as the other side told it at the login. A
    /// pooler tells a number of its own.
    pub fn process(&self) -> i32 {
        self.process.load(Ordering::Relaxed)
    }

    /// How many bytes have been passed on to the server.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    fn send(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Release);
    }

    /// Whether the connection has ended because of an answer after the login.
    pub fn too_large(&self) -> Option<TooLarge> {
        self.too_large
            .load(Ordering::Acquire)
            .then_some(TooLarge::Answer(self.limit))
    }
}

pub struct Frames<S> {
    stream: S,
    traffic: Arc<Traffic>,
    outgoing: Outgoing,
    /// Frames that the driver has written, from `written` on.
    waiting: Vec<u8>,
    written: usize,
    incoming: Incoming,
}

impl<S> Frames<S> {
    pub fn new(stream: S, traffic: Arc<Traffic>) -> Self {
        Self {
            stream,
            traffic,
            outgoing: Outgoing::default(),
            waiting: Vec::new(),
            written: 0,
            incoming: Incoming::default(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Frames<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if this.incoming.too_large.is_none() {
            // The driver doesn't flush its request for encryption.
            if let Poll::Ready(Err(error)) = this.poll_written(context) {
                return Poll::Ready(Err(error));
            }
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
            let read = &buffer.filled()[before..];
            let bare = usize::from(mem::take(&mut this.outgoing.asked) && !read.is_empty());
            let good = bare + this.incoming.take(&read[bare..], &this.traffic);
            buffer.set_filled(before + good);
        }
        match this.incoming.too_large {
            // Whole frames before it answer other statements.
            Some(error) if buffer.filled().len() == before => {
                let answer = matches!(error, TooLarge::Answer(_));
                this.traffic.too_large.fetch_or(answer, Ordering::Release);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)))
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> Frames<S> {
    fn poll_written(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let rest = &self.waiting[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => {
                    self.traffic.send(count);
                    self.written += count;
                }
            }
        }
        self.waiting.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_written(context))?;
        let unchanged = this.outgoing.body.min(bytes.len());
        if unchanged > COPIED {
            let count = ready!(Pin::new(&mut this.stream).poll_write(context, &bytes[..unchanged]))?;
            this.traffic.send(count);
            this.outgoing.body -= count;
            return Poll::Ready(Ok(count));
        }
        let taken = bytes.len().min(COPIED);
        this.outgoing.take(&bytes[..taken], &mut this.waiting);
        // What is not written now is written by the flush that follows.
        match this.poll_written(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_written(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_written(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Frames<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

/// Encrypts below the frames. The driver asks the server for encryption by a first
/// message; the frames of an encrypted stream begin anew.
pub struct Encrypted<T>(pub T);

impl<S, T> TlsConnect<Frames<S>> for Encrypted<T>
where
    T: TlsConnect<S>,
    T::Future: Send + 'static,
{
    type Stream = Frames<T::Stream>;
    type Error = T::Error;
    type Future = BoxFuture<'static, Result<Self::Stream, Self::Error>>;

    fn connect(self, Frames { stream, traffic, .. }: Frames<S>) -> Self::Future {
        let connecting = self.0.connect(stream);
        Box::pin(async move { Ok(Frames::new(connecting.await?, traffic)) })
    }
}

/// Where the driver's bytes are in a frame.
#[derive(Default)]
struct Outgoing {
    /// Whether the first message has begun, so that frames have types.
    begun: bool,
    /// Whether the server was asked for encryption, and hasn't answered yet.
    asked: bool,
    /// The begin of a frame, until the statement's name is known.
    head: Vec<u8>,
    /// The bytes that follow in the same frame.
    body: usize,
}

impl Outgoing {
    /// Takes bytes of the driver, and adds those to send.
    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some(first) = bytes.first() {
            if self.body > 0 {
                let (body, rest) = bytes.split_at(self.body.min(bytes.len()));
                out.extend_from_slice(body);
                self.body -= body.len();
                bytes = rest;
                continue;
            }
            self.head.push(*first);
            bytes = &bytes[1..];
            if self.begun {
                self.frame(out);
            } else {
                self.first_message(out);
            }
        }
    }

    fn first_message(&mut self, out: &mut Vec<u8>) {
        if let [_, _, _, _, code @ ..] = &self.head[..]
            && code.len() == SSL_REQUEST.len()
        {
            self.asked = code == SSL_REQUEST;
            self.begun = !self.asked;
            self.body = length(&self.head).saturating_sub(self.head.len());
            out.append(&mut self.head);
        }
    }

    fn frame(&mut self, out: &mut Vec<u8>) {
        let Some((header, content)) = self.head.split_at_checked(HEADER) else {
            return;
        };
        let length = length(&header[1..]);
        self.body = length.saturating_sub(LENGTH + content.len());
        let name = match Name::find(header[0], content) {
            // The name may be cut off, but not by the end of the frame.
            Name::Incomplete if self.body > 0 => {
                self.body = 0;
                return;
            }
            Name::At(place) => HEADER + place,
            Name::Incomplete | Name::None => return out.append(&mut self.head),
        };
        let longer = u32::try_from(length + UNIQUE.len()).unwrap_or(u32::MAX);
        out.push(header[0]);
        out.extend_from_slice(&longer.to_be_bytes());
        out.extend_from_slice(&self.head[HEADER..name]);
        out.extend_from_slice(&UNIQUE);
        out.extend_from_slice(&self.head[name..]);
        self.head.clear();
    }
}

/// Where the name of a prepared statement is in the content of a frame.
enum Name {
    /// The frame names no statement, or the unnamed one.
    None,
    /// It may be in the bytes that follow.
    Incomplete,
    At(usize),
}

impl Name {
    fn find(tag: u8, content: &[u8]) -> Self {
        let place = match tag {
            // Parse.
            b'P' => 0,
            // Bind: the portal's name comes first.
            b'B' => match end(content) {
                Some(end) => end + 1,
                None => return Self::Incomplete,
            },
            // Describe and Close, of a statement or of a portal.
            b'D' | b'C' => match content.first() {
                Some(b'S') => 1,
                Some(_) => return Self::None,
                None => return Self::Incomplete,
            },
            _ => return Self::None,
        };
        match content.get(place..).and_then(end) {
            None => Self::Incomplete,
            Some(0) => Self::None,
            Some(_) => Self::At(place),
        }
    }
}

/// The length of a string, which ends with 0.
fn end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == 0)
}

fn length(bytes: &[u8]) -> usize {
    let number = bytes.first_chunk().copied().map_or(0, u32::from_be_bytes);
    number as usize
}

/// Where the server's bytes are in a frame, and how many there are.
#[derive(Default)]
struct Incoming {
    logged_in: bool,
    /// The begin of a frame, as far as it is read here.
    head: Vec<u8>,
    /// The bytes that follow in the same frame.
    body: usize,
    /// What the server has sent and announced since it was last ready. The driver
    /// asks for that once a request. The end of a command is not enough: any number
    /// of commands may answer one request.
    answer: usize,
    too_large: Option<TooLarge>,
}

impl Incoming {
    /// Takes bytes of the server. Returns how many the driver may have: all, or those
    /// before the frame that is too large.
    fn take(&mut self, bytes: &[u8], traffic: &Traffic) -> usize {
        let mut at = 0;
        let mut frame = 0;
        while at < bytes.len() {
            if self.body > 0 {
                let count = self.body.min(bytes.len() - at);
                self.body -= count;
                at += count;
                continue;
            }
            if self.head.is_empty() {
                frame = at;
            }
            self.head.push(bytes[at]);
            at += 1;
            self.frame(traffic);
            if self.too_large.is_some() {
                return frame;
            }
        }
        at
    }

    fn frame(&mut self, traffic: &Traffic) {
        let Some((header, content)) = self.head.split_at_checked(HEADER) else {
            return;
        };
        // The driver refuses shorter ones.
        let length = length(&header[1..]).max(LENGTH);
        let tag = header[0];
        self.body = length - LENGTH;
        if content.is_empty() {
            self.answer += 1 + length + FRAME_COST;
            let (limit, error) = if self.logged_in {
                (traffic.limit, TooLarge::Answer(traffic.limit))
            } else {
                (LOGIN_BYTES, TooLarge::Login)
            };
            if self.answer > limit {
                self.too_large = Some(error);
                return;
            }
            if tag == READY_FOR_QUERY {
                self.logged_in = true;
                self.answer = 0;
            }
        }
        if tag == BACKEND_KEY_DATA && self.body >= size_of::<i32>() {
            let Some(process) = content.first_chunk() else {
                self.body = 0;
                return;
            };
            traffic.process.store(i32::from_be_bytes(*process), Ordering::Relaxed);
            self.body -= process.len();
        }
        self.head.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::VecDeque;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::runtime::Builder;

    const LIMIT: usize = 1024 * 1024;

    /// A stream that takes `most` bytes at a time, and then none for one call.
    struct Wire {
        input: VecDeque<Vec<u8>>,
        output: Vec<u8>,
        most: usize,
        full: bool,
        writes: usize,
    }

    impl Wire {
        fn new(input: impl IntoIterator<Item = Vec<u8>>, most: usize) -> Self {
            Self {
                input: input.into_iter().collect(),
                output: Vec::new(),
                most,
                full: false,
                writes: 0,
            }
        }
    }

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            if let Some(mut next) = this.input.pop_front() {
                let rest = next.split_off(buffer.remaining().min(next.len()));
                buffer.put_slice(&next);
                if !rest.is_empty() {
                    this.input.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            this.writes += 1;
            this.full = bytes.len() > this.most && !this.full;
            if this.full {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let count = bytes.len().min(this.most);
            this.output.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn frame(tag: u8, body: &[&[u8]]) -> Vec<u8> {
        let body = body.concat();
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), &body].concat()
    }

    fn startup() -> Vec<u8> {
        frame(b'x', &[&[0, 3, 0, 0], b"user\0me\0\0"])[1..].to_vec()
    }

    fn ssl_request() -> Vec<u8> {
        frame(b'x', &[&SSL_REQUEST])[1..].to_vec()
    }

    /// All kinds of frames that name a statement or might seem to.
    fn traffic(name: &[u8], body: &[u8]) -> Vec<u8> {
        let unnamed = &b""[..];
        let parse = |name: &[u8]| frame(b'P', &[name, b"\0SELECT s0\0\0\0"]);
        let bind = |portal: &[u8], name: &[u8]| frame(b'B', &[portal, b"\0", name, b"\0", body]);
        let named = |tag, kind: &[u8], name: &[u8]| frame(tag, &[kind, name, b"\0"]);
        [
            startup(),
            frame(b'p', &[b"s0\0"]),
            parse(name),
            named(b'D', b"S", name),
            named(b'D', b"P", b"s0"),
            frame(b'S', &[]),
            bind(b"", name),
            frame(b'E', &[b"\0\0\0\0\0"]),
            frame(b'S', &[]),
            parse(unnamed),
            bind(b"s1", unnamed),
            bind(b"p7", name),
            named(b'D', b"S", unnamed),
            frame(b'S', &[]),
            frame(b'Q', &[b"s0\0"]),
            named(b'C', b"S", name),
            named(b'C', b"P", b"s0"),
            frame(b'S', &[]),
            frame(b'X', &[]),
        ]
        .concat()
    }

    fn unique(name: &str) -> Vec<u8> {
        [&UNIQUE, name.as_bytes()].concat()
    }

    /// What arrives when the pieces are written.
    fn sent<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, most: usize) -> Vec<u8> {
        run(async {
            let mut frames = Frames::new(Wire::new([], most), Traffic::new(LIMIT));
            for piece in pieces {
                frames.write_all(piece).await.unwrap();
            }
            frames.flush().await.unwrap();
            frames.stream.output
        })
    }

    /// Bytes in random pieces, often tiny.
    fn pieces<'a>(bytes: &'a [u8], random: &mut StdRng) -> Vec<&'a [u8]> {
        let mut rest = bytes;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let most = 1 << random.gen_range(0..20);
            let (piece, after) = rest.split_at(random.gen_range(1..=rest.len().min(most)));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }

    #[test]
    fn statements_have_unique_names_however_the_bytes_are_cut() {
        let (given, wanted) = (traffic(b"s12", b"body"), traffic(&unique("s12"), b"body"));
        for cut in 0..given.len() {
            let (first, second) = given.split_at(cut);
            assert_eq!(sent([first, second], usize::MAX), wanted, "cut at {cut}");
        }
        assert_eq!(sent(given.chunks(1), 1), wanted);
        let random = &mut StdRng::seed_from_u64(7);
        for round in 0..100 {
            let mut body = vec![0; random.gen_range(0..200_000)];
            random.fill(&mut body[..]);
            let given = traffic(b"s0", &body);
            let most = 1 << random.gen_range(6..22);
            let sent = sent(pieces(&given, random), most);
            assert!(sent == traffic(&unique("s0"), &body), "round {round}");
        }
    }

    #[test]
    fn names_fit_into_what_the_server_looks_at() {
        assert!(unique(&format!("s{}", usize::MAX)).len() < 64);
    }

    #[test]
    fn a_call_is_one_write() {
        run(async {
            let call = [
                frame(b'B', &[b"\0s3\0", &vec![1; 30_000]]),
                frame(b'E', &[b"\0\0\0\0\0"]),
                frame(b'S', &[]),
            ]
            .concat();
            let mut frames = Frames::new(Wire::new([], usize::MAX), Traffic::new(LIMIT));
            frames.write_all(&startup()).await.unwrap();
            frames.write_all(&call).await.unwrap();
            frames.flush().await.unwrap();
            assert_eq!(frames.stream.writes, 2);
        });
    }

    #[test]
    fn large_values_are_not_copied() {
        run(async {
            let value = vec![1; 10_000_000];
            let mut frames = Frames::new(Wire::new([], usize::MAX), Traffic::new(LIMIT));
            frames.write_all(&traffic(b"s0", &value)).await.unwrap();
            frames.flush().await.unwrap();
            assert!(frames.waiting.capacity() < 4 * COPIED);
            assert!(frames.stream.output == traffic(&unique("s0"), &value));
        });
    }

    /// What the driver can read, until the end or an error.
    fn received(pieces: Vec<Vec<u8>>, limit: usize) -> (Vec<u8>, Arc<Traffic>, Option<TooLarge>) {
        run(async {
            let traffic = Traffic::new(limit);
            let mut frames = Frames::new(Wire::new(pieces, usize::MAX), Arc::clone(&traffic));
            let mut bytes = Vec::new();
            let error = frames.read_to_end(&mut bytes).await.err();
            let reason = error.map(|error| *error.get_ref().unwrap().downcast_ref().unwrap());
            (bytes, traffic, reason)
        })
    }

    fn login() -> Vec<u8> {
        [
            frame(b'R', &[&[0; 4]]),
            frame(b'S', &[b"server_encoding\0UTF8\0"]),
            frame(b'K', &[&1_234_567_i32.to_be_bytes(), &[9; 4]]),
            frame(READY_FOR_QUERY, &[b"I"]),
        ]
        .concat()
    }

    fn answer(bytes: usize) -> Vec<u8> {
        [
            frame(b'2', &[]),
            frame(b'D', &[&vec![b'Z'; bytes]]),
            frame(b'C', &[b"SELECT 1\0"]),
            frame(READY_FOR_QUERY, &[b"I"]),
        ]
        .concat()
    }

    #[test]
    fn answers_pass_unchanged_however_they_are_cut() {
        let whole = [login(), answer(3), answer(0), answer(100)].concat();
        for cut in 1..whole.len() {
            let (first, second) = whole.split_at(cut);
            let (bytes, traffic, error) = received(vec![first.to_vec(), second.to_vec()], LIMIT);
            assert_eq!((bytes, error), (whole.clone(), None), "cut at {cut}");
            assert_eq!(traffic.process(), 1_234_567);
        }
        let (bytes, traffic, error) = received(whole.chunks(1).map(Vec::from).collect(), LIMIT);
        assert_eq!((bytes, error, traffic.process()), (whole, None, 1_234_567));
    }

    #[test]
    fn an_answer_that_is_too_large_ends_before_its_frame() {
        // Each answer is counted from the start.
        let good = [login(), answer(900_000), answer(900_000)].concat();
        let announced = [&b"D"[..], &i32::MAX.to_be_bytes()].concat();
        let endless = |frames: usize| {
            let mut rows = frame(b'2', &[]);
            for _ in 0..frames {
                rows.extend(frame(b'D', &[&[0; 2]]));
                rows.extend(frame(b'C', &[b"SELECT 1\0"]));
            }
            rows
        };
        let random = &mut StdRng::seed_from_u64(11);
        for (bad, passes) in [
            (announced.clone(), 0),
            ([answer(10), announced].concat(), answer(10).len()),
            (answer(LIMIT), frame(b'2', &[]).len()),
            // Many tiny frames cost more than their bytes.
            (endless(LIMIT), 0),
        ] {
            let whole = [&good[..], &bad, &[0; 1000]].concat();
            for _ in 0..10 {
                let pieces = pieces(&whole, random).into_iter().map(Vec::from).collect();
                let (bytes, traffic, error) = received(pieces, LIMIT);
                assert_eq!(error, Some(TooLarge::Answer(LIMIT)));
                assert_eq!(traffic.too_large(), error);
                assert!(whole.starts_with(&bytes));
                // A part of the header may have come before the rest.
                assert!(bytes.len() >= good.len() + passes);
                assert!(bytes.len() <= good.len() + LIMIT / 8);
            }
        }
    }

    #[test]
    fn a_login_is_short() {
        let page = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
        assert_eq!(received(vec![page], LIMIT).2, Some(TooLarge::Login));
        let notice = frame(b'N', &[&[b'a'; 1000]]);
        let (_, traffic, error) = received(vec![notice; 1000], usize::MAX);
        assert_eq!((error, traffic.too_large()), (Some(TooLarge::Login), None));
        // A small limit of answers doesn't prevent it.
        assert_eq!(received(vec![login()], 1).2, None);
    }

    #[test]
    fn a_refused_encryption_leaves_the_frames_as_they_are() {
        run(async {
            let input = [b"N".to_vec(), login(), answer(5)];
            let mut frames = Frames::new(Wire::new(input, usize::MAX), Traffic::new(LIMIT));
            frames.write_all(&ssl_request()).await.unwrap();
            assert_eq!(frames.read_u8().await.unwrap(), b'N');
            frames.write_all(&traffic(b"s0", b"body")).await.unwrap();
            let mut bytes = Vec::new();
            frames.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, [login(), answer(5)].concat());
            assert_eq!(frames.traffic.process(), 1_234_567);
            let wanted = [ssl_request(), traffic(&unique("s0"), b"body")].concat();
            assert_eq!(frames.stream.output, wanted);
        });
    }
}
