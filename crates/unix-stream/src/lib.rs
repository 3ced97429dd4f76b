//! Connections over Unix sockets that wake nobody in vain.
//!
//! Whenever one side reads something, Linux tells the other that there is room to write, if that one wants to know
//! (`unix_write_space` in `net/unix/af_unix.c`), and tokio's own type always wants to. A request and its answer then wake each
//! side once more than they have to, which costs about as much as to send them. A [`Stream`] wants to know only while it has
//! something that did not fit.

use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// A connection over a Unix socket.
#[derive(Debug)]
pub struct Stream {
    socket: AsyncFd<UnixStream>,
    /// The same socket while something did not fit into it: tells when there is room.
    full: Option<AsyncFd<OwnedFd>>,
}

impl Stream {
    /// Takes over a connection of tokio's.
    ///
    /// # Errors
    /// When the operating system cannot watch it.
    pub fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        Ok(Self { socket: watch(stream.into_std()?, Interest::READABLE)?, full: None })
    }

    /// Writes what fits now, or waits until something does.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match send(self.socket.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => {
                    self.full = None;
                    return Poll::Ready(sent);
                }
            }
            let full = match &mut self.full {
                Some(full) => full,
                // Another descriptor, as one can be watched once only. Whether there is room by now is told at once.
                none => {
                    let again = self.socket.as_fd().try_clone_to_owned()?;
                    none.insert(watch(again, Interest::WRITABLE)?)
                }
            };
            ready!(full.poll_write_ready(cx))?.clear_ready();
        }
    }
}

/// Has tokio tell when something of `interest` can be done.
fn watch<T: AsRawFd + Into<OwnedFd>>(socket: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: what can become an owned descriptor owns its own: it stays open, and the same, as long as it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready_mut(cx))?;
            // SAFETY: nothing is taken back that was initialized, as `recv` only writes.
            let space: &mut [MaybeUninit<u8>] = unsafe { buf.unfilled_mut() };
            let length = space.len();
            match recv(ready.get_ref(), space, RecvFlags::empty()) {
                Ok((_, count)) => {
                    // There is no more, so that need not be asked; what comes from now on is told.
                    if count > 0 && count < length {
                        ready.clear_ready();
                    }
                    // SAFETY: these bytes were received.
                    unsafe { buf.assume_init(count) };
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |mut socket| socket.write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |mut socket| socket.write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.get_ref().shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests;
