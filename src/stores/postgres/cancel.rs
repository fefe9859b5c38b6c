//! Requests to end a statement, which PostgreSQL takes on a connection of their
//! own and answers by closing it.
//!
//! The driver closes that connection as soon as it has written the request.
//! PgBouncer then forgets the request before it has passed it on, and some
//! versions end altogether; so we wait until it is the other side that closes,
//! as libpq does.

use super::Settings;
use crate::stores::served::connect;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Asks for the end of whatever the token's connection does. What comes of it
/// shows on that connection.
pub async fn cancel(token: CancelToken, settings: Arc<Settings>, tls: Option<MakeRustlsConnect>) {
    let config = &settings.target.config;
    let port = config.get_ports().first().copied().unwrap_or(5432);
    // With several hosts only the driver knows which one it took.
    let result = match (config.get_hosts(), config.get_hostaddrs()) {
        ([Host::Tcp(host)], []) => match connect(host, port).await {
            Ok(stream) => send(token, stream, host, tls).await,
            Err(_) => return,
        },
        #[cfg(unix)]
        ([Host::Unix(path)], []) => {
            match tokio::net::UnixStream::connect(path.join(format!(".s.PGSQL.{port}"))).await {
                Ok(stream) => token.cancel_query_raw(Lingering(stream), NoTls).await,
                Err(_) => return,
            }
        }
        _ => match tls {
            Some(tls) => token.cancel_query(tls).await,
            None => token.cancel_query(NoTls).await,
        },
    };
    // It will be asked for again while the statement goes on.
    drop(result);
}

async fn send(
    token: CancelToken,
    stream: TcpStream,
    host: &str,
    tls: Option<MakeRustlsConnect>,
) -> Result<(), tokio_postgres::Error> {
    let stream = Lingering(stream);
    let Some(mut tls) = tls else {
        return token.cancel_query_raw(stream, NoTls).await;
    };
    match MakeTlsConnect::<Lingering<TcpStream>>::make_tls_connect(&mut tls, host) {
        Ok(tls) => token.cancel_query_raw(stream, tls).await,
        Err(never) => match never {},
    }
}

/// A stream that is shut down when the other side has closed it.
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
