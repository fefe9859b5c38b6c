//! Packets over a stream: a length of three bytes, a number, and so many bytes. What
//! is longer than a packet may be is sent in several.
//!
//! A server can announce more than there is memory. So a packet takes memory only as
//! its bytes arrive, and there is a limit for all packets of an answer.

use super::failure::WireError;
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::mem;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

/// The most bytes of an answer, and the largest packet that a server accepts.
pub const ANSWER_BYTES: usize = 1 << 30;

/// The most bytes that a server may send until the client is logged in.
pub const LOGIN_BYTES: usize = 256 * 1024;

/// About what a row needs, in addition to its bytes.
const PACKET_COST: usize = 128;

const HEADER: usize = 4;

/// The most bytes of one packet. If it has so many, another one continues it.
const PART: usize = 0xFF_FFFF;

/// The least room for bytes that are read at a time.
const ROOM: usize = 16 * 1024;

/// Up to so many bytes are copied, to be written together with their header.
const COPIED: usize = 64 * 1024;

/// The first byte of an error.
pub const ERROR: u8 = 0xFF;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub struct Wire {
    stream: Box<dyn Stream>,
    received: BytesMut,
    /// The number of the next packet of an exchange.
    number: u8,
    /// How many bytes the server may still send in this exchange.
    left: usize,
    sent: bool,
}

impl Wire {
    pub fn new(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            received: BytesMut::new(),
            number: 0,
            left: LOGIN_BYTES,
            sent: false,
        }
    }

    /// # Errors
    ///
    /// If the server is not trusted, or has sent something already: that may come
    /// from anybody on the way.
    pub async fn encrypt(self, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        if !self.received.is_empty() {
            return Err(broken("the server sent something before the encrypted connection"));
        }
        let stream = TlsConnector::from(config).connect(name, self.stream).await?;
        Ok(Self {
            number: self.number,
            ..Self::new(stream)
        })
    }

    /// Begins an exchange, in which the server may send so many bytes.
    pub fn begin(&mut self, most: usize) {
        if self.received.is_empty() {
            // It would keep the memory of the last answer.
            self.received = BytesMut::new();
        }
        self.number = 0;
        self.left = most;
        self.sent = false;
    }

    /// Whether the server may have what was last written. It carries out nothing of
    /// which it has only a part.
    pub fn has_sent(&self) -> bool {
        self.sent
    }

    pub async fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut rest = payload;
        loop {
            let (part, more) = rest.split_at(rest.len().min(PART));
            let [low, middle, high, ..] = part.len().to_le_bytes();
            let header = [low, middle, high, self.number];
            self.number = self.number.wrapping_add(1);
            if part.len() <= COPIED {
                self.stream.write_all(&[&header, part].concat()).await?;
            } else {
                self.stream.write_all(&header).await?;
                self.stream.write_all(part).await?;
            }
            if part.len() < PART {
                break;
            }
            rest = more;
        }
        self.sent = true;
        self.stream.flush().await
    }

    /// The next packet of the exchange.
    pub async fn read(&mut self) -> Result<Bytes, WireError> {
        let (mut packet, mut length) = self.read_part().await?;
        while length == PART {
            let (part, more) = self.read_part().await?;
            packet.unsplit(part);
            length = more;
        }
        Ok(packet.freeze())
    }

    async fn read_part(&mut self) -> Result<(BytesMut, usize), WireError> {
        let header = self.receive(HEADER).await?;
        let [low, middle, high, number] = header[..] else {
            return Err(broken("a packet has no header").into());
        };
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        self.left = self.left.checked_sub(length + PACKET_COST).ok_or(WireError::TooLong)?;
        let part = self.receive(length).await?;
        // An error may have been sent before the server read the question.
        if mem::replace(&mut self.number, number.wrapping_add(1)) != number && part.first() != Some(&ERROR) {
            return Err(broken("the server's packets are out of order").into());
        }
        Ok((part, length))
    }

    async fn receive(&mut self, count: usize) -> io::Result<BytesMut> {
        while self.received.len() < count {
            let missing = count - self.received.len();
            self.received.reserve(missing.min(self.received.len()).max(ROOM));
            self.more().await?;
        }
        Ok(self.received.split_to(count))
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server has closed the connection",
            )),
            _ => Ok(()),
        }
    }

    /// Waits until the server sends something unasked or closes the connection.
    /// Nothing is lost if it is dropped.
    pub async fn news(&mut self) -> io::Result<()> {
        if self.received.is_empty() {
            self.received.reserve(ROOM);
            self.more().await?;
        }
        Ok(())
    }

    /// The packet that the server has sent unasked, if it is here.
    pub fn unasked(&mut self) -> Option<Bytes> {
        self.begin(LOGIN_BYTES);
        self.read().now_or_never()?.ok()
    }

    /// Tells the server that this is the end, and closes the connection.
    pub async fn quit(mut self) {
        self.begin(0);
        // If it fails, the connection has ended already.
        if self.write(&[QUIT]).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

/// The command that ends a session.
const QUIT: u8 = 1;

/// The error of what is not in the protocol.
pub fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};
    use tokio::runtime::Builder;

    fn run<T>(future: impl Future<Output = T>) -> T {
        Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
        let [low, middle, high, ..] = payload.len().to_le_bytes();
        [&[low, middle, high, number], payload].concat()
    }

    /// A wire whose server has sent these bytes.
    async fn sent(bytes: &[u8]) -> (Wire, DuplexStream) {
        let (ours, mut theirs) = duplex(64 * 1024 * 1024);
        theirs.write_all(bytes).await.unwrap();
        let mut wire = Wire::new(ours);
        wire.begin(ANSWER_BYTES);
        (wire, theirs)
    }

    #[test]
    fn long_packets_are_sent_in_parts_and_joined() {
        run(async {
            for size in [0, 1, COPIED, COPIED + 1, PART - 1, PART, PART + 1, 2 * PART] {
                let payload: Vec<u8> = (0..=255).cycle().take(size).collect();
                let (ours, theirs) = duplex(64 * 1024 * 1024);
                let (mut wire, mut other) = (Wire::new(ours), Wire::new(theirs));
                other.begin(ANSWER_BYTES);
                wire.write(&payload).await.unwrap();
                assert!(other.read().await.unwrap() == payload, "{size}");
                assert_eq!(usize::from(wire.number), 1 + size / PART);
                assert_eq!(wire.number, other.number);
            }
        });
    }

    #[test]
    fn memory_is_taken_for_what_has_arrived() {
        run(async {
            let header = [0xFE, 0xFF, 0xFF, 0];
            for arrived in [0, 100_000, 1_000_000] {
                let (mut wire, _server) = sent(&[&header[..], &vec![1; arrived]].concat()).await;
                assert!(wire.read().now_or_never().is_none());
                let held = wire.received.capacity();
                assert!(held <= 3 * arrived + 4 * ROOM, "{held} for {arrived}");
            }
        });
    }

    #[test]
    fn an_answer_has_a_limit() {
        run(async {
            let rows: Vec<u8> = (0..100).flat_map(|number| packet(number, b"row")).collect();
            for (bytes, whole) in [(rows, 5), (packet(0, &[0; 2_000]), 0), (vec![0xFF; 4], 0)] {
                let (mut wire, _server) = sent(&bytes).await;
                wire.begin(5 * (PACKET_COST + 3));
                for _ in 0..whole {
                    wire.read().await.unwrap();
                }
                assert!(matches!(wire.read().await, Err(WireError::TooLong)));
            }
        });
    }

    #[test]
    fn packets_come_in_order_except_errors() {
        run(async {
            let (mut wire, _server) = sent(&packet(1, b"row")).await;
            assert!(matches!(wire.read().await, Err(WireError::Io(_))));
            let (mut wire, _server) = sent(&packet(1, &[ERROR])).await;
            assert_eq!(wire.read().await.unwrap(), [ERROR][..]);
        });
    }

    #[test]
    fn what_is_sent_in_part_is_not_sent() {
        run(async {
            let (ours, theirs) = duplex(100);
            let mut wire = Wire::new(ours);
            assert!(wire.write(&[1; 200]).now_or_never().is_none());
            assert!(!wire.has_sent());
            drop(theirs);
            assert!(wire.write(&[1; 200]).await.is_err());
            assert!(!wire.has_sent());
        });
    }

    #[test]
    fn the_end_is_noticed_and_unasked_packets_are_told() {
        run(async {
            let (mut wire, server) = sent(b"").await;
            assert!(wire.news().now_or_never().is_none());
            drop(server);
            assert!(wire.news().await.is_err());
            let (mut wire, _server) = sent(&packet(0, b"\xff\x87\x07killed")).await;
            wire.news().await.unwrap();
            assert!(wire.unasked().unwrap().ends_with(b"killed"));
            let (mut wire, _server) = sent(b"\xff").await;
            wire.news().await.unwrap();
            assert_eq!(wire.unasked(), None);
        });
    }
}
