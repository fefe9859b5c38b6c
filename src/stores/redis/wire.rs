//! The protocol on a stream. The redis crate writes commands and reads replies.

use redis::{Cmd, ErrorKind as Kind, Parser, RedisError, Value};
use std::future::poll_fn;
use std::io::{self, Error, ErrorKind, Read, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};

/// How much is read at a time.
const ROOM: usize = 32 * 1024;

/// A reply of so many bytes leaves too much memory behind.
const LARGE: usize = 256 * 1024;

/// The most bytes of a reply. A string has 512 MiB at most, unless the server is told
/// otherwise.
const MOST_BYTES: usize = 1024 * 1024 * 1024;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Commands that are sent together.
#[derive(Default)]
pub struct Batch {
    pub bytes: Vec<u8>,
    pub commands: usize,
}

impl Batch {
    pub fn add(&mut self, command: &Cmd) -> &mut Self {
        command.write_packed_command(&mut self.bytes);
        self.commands += 1;
        self
    }
}

pub fn one(command: &Cmd) -> Batch {
    let mut batch = Batch::default();
    batch.add(command);
    batch
}

pub struct Wire {
    stream: BufReader<Box<dyn Stream>>,
    parser: Parser,
    /// Of the reply that is being read, and perhaps of the next.
    read: usize,
    /// The largest reply since the last rest.
    largest: usize,
    /// Whether nothing was read since then.
    fresh: bool,
}

impl Wire {
    pub fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream: BufReader::with_capacity(ROOM, stream),
            parser: Parser::new(),
            read: 0,
            largest: 0,
            fresh: true,
        }
    }

    /// Nothing is asked any more. Gives the memory of a large reply back.
    pub fn rest(&mut self) {
        self.fresh = true;
        if std::mem::take(&mut self.largest) > LARGE {
            self.parser = Parser::new();
        }
    }

    /// Sends commands and waits for their replies, errors among them. There are fewer if
    /// the connection ends.
    pub async fn exchange(&mut self, batch: &Batch) -> Result<Vec<Value>> {
        let written = self.stream.write_all(&batch.bytes).await;
        let written = written.and(self.stream.flush().await);
        let mut replies = Vec::with_capacity(batch.commands);
        while replies.len() < batch.commands {
            match poll_fn(|context| self.poll_reply(context)).await {
                Ok(reply) => replies.push(reply),
                // A server that ends the connection may say why before.
                Err(_) if !replies.is_empty() => break,
                Err(error) => return Err(written.err().unwrap_or(error)),
            }
        }
        Ok(replies)
    }

    /// Writes some of the bytes. Returns how many.
    pub fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match ready!(Pin::new(&mut self.stream).poll_write(context, bytes))? {
            0 => Poll::Ready(Err(ErrorKind::WriteZero.into())),
            some => Poll::Ready(Ok(some)),
        }
    }

    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    pub fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<Result<Value>> {
        if self.fresh {
            // Cheaper than to have the parser try.
            if ready!(Pin::new(&mut self.stream).poll_fill_buf(context))?.is_empty() {
                return Poll::Ready(Err(closed()));
            }
            self.fresh = false;
        }
        let mut reader = Reader {
            stream: &mut self.stream,
            context,
            read: &mut self.read,
            failure: None,
        };
        // After an error of the reader, the parser goes on where it was.
        let parsed = self.parser.parse_value(&mut reader);
        match (parsed, reader.failure) {
            (Ok(value), _) => {
                self.largest = self.largest.max(self.read);
                self.read = 0;
                Poll::Ready(Ok(value))
            }
            (Err(_), Some(failure)) if failure.kind() == ErrorKind::WouldBlock => Poll::Pending,
            (Err(_), Some(failure)) => Poll::Ready(Err(failure)),
            (Err(error), None) => Poll::Ready(Err(malformed(&error))),
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")
}

fn malformed(error: &RedisError) -> Error {
    if error.kind() == Kind::Io {
        return closed();
    }
    Error::new(ErrorKind::InvalidData, "the server does not speak the Redis protocol")
}

/// The stream as the parser reads it.
struct Reader<'a, 'b> {
    stream: &'a mut BufReader<Box<dyn Stream>>,
    context: &'a mut Context<'b>,
    read: &'a mut usize,
    failure: Option<Error>,
}

impl Read for Reader<'_, '_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(room);
        let failure = match Pin::new(&mut *self.stream).poll_read(self.context, &mut buffer) {
            Poll::Ready(Ok(())) => {
                *self.read += buffer.filled().len();
                if *self.read <= MOST_BYTES {
                    return Ok(buffer.filled().len());
                }
                Error::new(ErrorKind::InvalidData, "the server's reply has more than 1 GiB")
            }
            Poll::Ready(Err(error)) => error,
            Poll::Pending => ErrorKind::WouldBlock.into(),
        };
        let kind = failure.kind();
        self.failure = Some(failure);
        Err(kind.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::cmd;
    use std::future::Future;
    use tokio::io::{AsyncReadExt, duplex};
    use tokio::runtime::Builder;

    fn run<T>(future: impl Future<Output = T>) -> T {
        Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// What comes of replies that arrive in pieces of so many bytes.
    fn replies(text: &[u8], piece: usize, count: usize) -> Result<Vec<Value>> {
        run(async {
            let (near, mut far) = duplex(1024 * 1024);
            let mut wire = Wire::new(Box::new(near));
            let mut batch = Batch::default();
            for _ in 0..count {
                batch.add(&cmd("PING"));
            }
            let server = async {
                let mut request = vec![0; batch.bytes.len()];
                far.read_exact(&mut request).await.unwrap();
                assert_eq!(request, b"*1\r\n$4\r\nPING\r\n".repeat(count));
                for some in text.chunks(piece) {
                    far.write_all(some).await.unwrap();
                    tokio::task::yield_now().await;
                }
                drop(far);
            };
            tokio::join!(wire.exchange(&batch), server).0
        })
    }

    #[test]
    fn replies_come_in_pieces_of_any_size() {
        let text = b"+OK\r\n:-7\r\n$-1\r\n$3\r\na\r\n\r\n-ERR no\r\n*2\r\n:1\r\n$0\r\n\r\n";
        let expected = replies(text, text.len(), 6).unwrap();
        assert_eq!(expected[..3], [Value::Okay, Value::Int(-7), Value::Nil]);
        assert_eq!(expected[3], Value::BulkString(b"a\r\n".into()));
        assert!(matches!(expected[4], Value::ServerError(_)));
        for piece in 1..text.len() {
            assert_eq!(replies(text, piece, 6).unwrap(), expected, "{piece}");
        }
        let large = [&b"$100000\r\n"[..], &vec![b'x'; 100_000], b"\r\n"].concat();
        assert_eq!(
            replies(&large, 999, 1).unwrap(),
            [Value::BulkString(vec![b'x'; 100_000])]
        );
    }

    #[test]
    fn what_is_no_reply_is_told() {
        let why = |text: &[u8]| replies(text, 7, 1).unwrap_err().to_string();
        for text in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b":x\r\n",
            b"$x\r\n",
            b"*x\r\n",
        ] {
            assert_eq!(why(text), "the server does not speak the Redis protocol");
        }
        // Nothing is allocated for what is only announced.
        for text in [
            &b"$800000000000\r\nx"[..],
            b"*2000000000\r\n:1\r\n",
            b"*2\r\n:1\r\n",
            b"",
        ] {
            assert_eq!(why(text), "the server closed the connection");
        }
        let nested = b"*1\r\n".repeat(200);
        assert_eq!(why(&nested), "the server does not speak the Redis protocol");
    }
}
