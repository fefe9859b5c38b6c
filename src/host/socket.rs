//! Sockets that belong to the host that reads them. One is opened on a thread, and
//! moves to the event loop with the future that owns it.

use super::event_loop::Loop;
use super::uv::Readiness;
use futures::task::AtomicWaker;
use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::net::Shutdown;
#[cfg(unix)]
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// How many bytes of one socket are read in a turn of the event loop.
const TURN: usize = 256 * 1024;

pub struct Socket {
    watch: Arc<Watch>,
    place: Place,
}

enum Place {
    Thread(OnThread),
    Loop(OnLoop),
    /// Moving failed, and the socket is closed.
    Closed,
}

enum OnThread {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

struct OnLoop {
    registered: Registered,
    /// Taken when it is dropped on another thread.
    stream: Option<Stream>,
}

enum Stream {
    Tcp(std::net::TcpStream),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

/// What the event loop has seen of a socket.
#[derive(Default)]
pub struct Watch {
    readable: AtomicBool,
    /// How many bytes were read since the last event.
    read: AtomicUsize,
    reader: AtomicWaker,
    writer: AtomicWaker,
    wants_to_write: AtomicBool,
    /// Whether data makes no events until the socket is read again.
    paused: AtomicBool,
}

/// A socket's handle on a loop.
pub(super) struct Registered {
    event_loop: Arc<Loop>,
    id: usize,
}

impl Registered {
    pub fn new(event_loop: Arc<Loop>, id: usize) -> Self {
        Self { event_loop, id }
    }
}

impl Drop for OnLoop {
    fn drop(&mut self) {
        let Registered { event_loop, id } = &self.registered;
        if event_loop.unregister(*id) {
            return;
        }
        // The descriptor must stay open until its handle is closed.
        let (stream, at, id) = (self.stream.take(), Arc::downgrade(event_loop), *id);
        event_loop.spawn(async move {
            if let Some(event_loop) = at.upgrade() {
                event_loop.unregister(id);
            }
            drop(stream);
        });
    }
}

impl Watch {
    /// Has the owner of the socket read it, in case there is news of which no
    /// event has told.
    pub fn refresh(&self) {
        self.read.store(0, Ordering::Relaxed);
        self.readable.store(true, Ordering::Relaxed);
        self.reader.wake();
    }

    /// Takes an event. Returns false if nothing was read since the last one.
    pub(super) fn on(&self, readiness: Readiness) -> bool {
        let mut is_read = true;
        if readiness.readable {
            is_read = !self.readable.load(Ordering::Relaxed) || self.read.load(Ordering::Relaxed) > 0;
            self.paused.store(!is_read, Ordering::Relaxed);
            self.refresh();
        }
        if readiness.writable {
            self.writer.wake();
        }
        is_read
    }

    pub(super) fn wants_to_write(&self) -> bool {
        self.wants_to_write.load(Ordering::Relaxed)
    }

    /// Whether reading stopped because it was enough for a turn.
    pub(super) fn has_more(&self) -> bool {
        self.readable.load(Ordering::Relaxed) && self.read.load(Ordering::Relaxed) >= TURN
    }
}

impl Socket {
    pub fn tcp(stream: TcpStream) -> Self {
        Self::on_thread(OnThread::Tcp(stream))
    }

    #[cfg(unix)]
    pub fn unix(stream: UnixStream) -> Self {
        Self::on_thread(OnThread::Unix(stream))
    }

    fn on_thread(stream: OnThread) -> Self {
        Self {
            watch: Arc::default(),
            place: Place::Thread(stream),
        }
    }

    pub fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// Moves to the loop that runs the caller, if there is one.
    fn here(&mut self) -> io::Result<(&mut Place, &Watch)> {
        if matches!(self.place, Place::Thread(_))
            && let Some(event_loop) = Loop::current()
        {
            let Place::Thread(stream) = std::mem::replace(&mut self.place, Place::Closed) else {
                return Err(closed());
            };
            let stream = stream.into_std()?;
            let registered = event_loop.register(stream.descriptor(), &self.watch)?;
            // Data may have arrived before.
            self.watch.readable.store(true, Ordering::Relaxed);
            self.place = Place::Loop(OnLoop {
                registered,
                stream: Some(stream),
            });
        }
        Ok((&mut self.place, &self.watch))
    }
}

impl OnThread {
    fn into_std(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(stream) => Stream::Tcp(stream.into_std()?),
            #[cfg(unix)]
            Self::Unix(stream) => Stream::Unix(stream.into_std()?),
        })
    }
}

impl Stream {
    /// What libuv knows a socket by. On Windows there is no loop that asks.
    fn descriptor(&self) -> c_int {
        #[cfg(unix)]
        return match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        };
        #[cfg(not(unix))]
        return -1;
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => Read::read(&mut &*stream, buffer),
            #[cfg(unix)]
            Self::Unix(stream) => Read::read(&mut &*stream, buffer),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => Write::write(&mut &*stream, bytes),
            #[cfg(unix)]
            Self::Unix(stream) => Write::write(&mut &*stream, bytes),
        }
    }

    fn shut_down(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            #[cfg(unix)]
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl OnLoop {
    fn stream(&self) -> io::Result<&Stream> {
        self.stream.as_ref().ok_or_else(closed)
    }

    fn poll_read(&self, watch: &Watch, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = self.stream()?;
        loop {
            let read = watch.read.load(Ordering::Relaxed);
            // What is left makes another event.
            if !watch.readable.load(Ordering::Relaxed) || read >= TURN {
                watch.reader.register(context.waker());
                if watch.paused.swap(false, Ordering::Relaxed) {
                    let Registered { event_loop, id } = &self.registered;
                    event_loop.watch_for(*id, true, watch.wants_to_write())?;
                }
                return Poll::Pending;
            }
            let room = buffer.initialize_unfilled();
            let size = room.len();
            match stream.read(room) {
                Ok(count) => {
                    watch.read.store(read + count, Ordering::Relaxed);
                    // That was all, and what arrives later makes an event.
                    watch.readable.store(count == size, Ordering::Relaxed);
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    watch.readable.store(false, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_write(&self, watch: &Watch, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = self.stream()?;
        let Registered { event_loop, id } = &self.registered;
        loop {
            match stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    watch.writer.register(context.waker());
                    if !watch.wants_to_write.swap(true, Ordering::Relaxed) {
                        event_loop.watch_for(*id, true, true)?;
                    }
                    return Poll::Pending;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    if watch.wants_to_write.swap(false, Ordering::Relaxed) {
                        event_loop.watch_for(*id, true, false)?;
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.here()? {
            (Place::Loop(socket), watch) => socket.poll_read(watch, context, buffer),
            (Place::Thread(OnThread::Tcp(stream)), _) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(unix)]
            (Place::Thread(OnThread::Unix(stream)), _) => Pin::new(stream).poll_read(context, buffer),
            (Place::Closed, _) => Poll::Ready(Err(closed())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.here()? {
            (Place::Loop(socket), watch) => socket.poll_write(watch, context, bytes),
            (Place::Thread(OnThread::Tcp(stream)), _) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(unix)]
            (Place::Thread(OnThread::Unix(stream)), _) => Pin::new(stream).poll_write(context, bytes),
            (Place::Closed, _) => Poll::Ready(Err(closed())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have no buffer here.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.here()? {
            (Place::Loop(socket), _) => Poll::Ready(socket.stream()?.shut_down()),
            (Place::Thread(OnThread::Tcp(stream)), _) => Pin::new(stream).poll_shutdown(context),
            #[cfg(unix)]
            (Place::Thread(OnThread::Unix(stream)), _) => Pin::new(stream).poll_shutdown(context),
            (Place::Closed, _) => Poll::Ready(Err(closed())),
        }
    }
}

fn closed() -> io::Error {
    io::Error::from(io::ErrorKind::NotConnected)
}
