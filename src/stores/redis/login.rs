//! Logging in. The redis crate does it: it is lent the stream and gives it
//! back.

use super::connection::Stream;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisResult};
use std::io::{ErrorKind, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Sends the commands that a connection begins with, and waits for the answers.
pub async fn log_in(stream: Box<dyn Stream>, login: &RedisConnectionInfo) -> RedisResult<Box<dyn Stream>> {
    let lent = Lent(Arc::new(Mutex::new(Some(stream))));
    let back = Arc::clone(&lent.0);
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(None);
    let connection = MultiplexedConnection::new_with_config(login, lent, config).await?;
    // All commands are answered, so no bytes are left in its buffers.
    let stream = back.lock().take();
    drop(connection);
    stream.ok_or_else(|| std::io::Error::from(ErrorKind::NotConnected).into())
}

struct Lent(Arc<Mutex<Option<Box<dyn Stream>>>>);

impl Lent {
    /// Reads from the stream, which counts as closed once it was given back.
    fn with<T>(&self, body: impl FnOnce(Pin<&mut dyn Stream>) -> Poll<Result<T>>) -> Poll<Result<T>> {
        match &mut *self.0.lock() {
            Some(stream) => body(Pin::new(stream.as_mut())),
            None => Poll::Ready(Err(ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        self.with(|stream| stream.poll_read(context, room))
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.with(|stream| stream.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.with(|stream| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.with(|stream| stream.poll_shutdown(context))
    }
}
