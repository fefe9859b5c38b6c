//! Requests to cancel a statement, which PostgreSQL accepts on a connection of
//! their own and answers by closing it.
//!
//! The driver closes that connection as soon as it has written the request.
//! PgBouncer then forgets the request before it has passed it on, and some
//! versions crash; so we wait until the other side closes, as libpq does.

use super::Settings;
use super::addresses::Address;
use crate::host::Socket;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Asks the server to cancel the current statement of the token's connection, which
/// is one to this address. The result shows on that connection.
pub async fn cancel(token: CancelToken, address: Address, settings: Arc<Settings>, tls: Option<MakeRustlsConnect>) {
    let Ok(socket) = address.connect(&settings.target.config).await else {
        return;
    };
    let stream = Lingering(socket);
    let result = match (tls, address.name()) {
        (Some(mut tls), Some(name)) => match MakeTlsConnect::<Lingering<Socket>>::make_tls_connect(&mut tls, name) {
            Ok(tls) => token.cancel_query_raw(stream, tls).await,
            Err(never) => match never {},
        },
        _ => token.cancel_query_raw(stream, NoTls).await,
    };
    // The request is repeated while the statement goes on.
    drop(result);
}

/// A stream that is shut down only after the other side has closed it.
struct Lingering<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &mut self.get_mut().0;
        loop {
            let mut bytes = [0; 64];
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Pin::new(stream).poll_shutdown(context);
            }
        }
    }
}
