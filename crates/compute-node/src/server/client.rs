//! Connections of clients, who may be slow, vanish, or not stop to talk.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// What HTTP/2 without TLS begins with; no method of HTTP/1 does (RFC 9113, 3.4).
const HTTP2: &[u8; 3] = b"PRI";

/// A silent client is asked whether it is still there after this long, then every `PROBE_EVERY`, `PROBES` times. So
/// connections of clients that vanished without a word end, and those of silent ones stay.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// How long a client's machine may leave unacknowledged what was sent.
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// How long a client may go on sending after its connection was closed from here. Without that, the operating system would
/// answer with a reset, at which clients drop what they have not read yet of their answer.
const LINGER: Duration = Duration::from_secs(5);

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

/// A connection of a client.
#[derive(Debug)]
pub(super) struct ClientIo {
    /// `None` only while this is dropped.
    stream: Option<TcpStream>,
    /// What was read to see what it speaks, and how much of that was passed on.
    first: [u8; HTTP2.len()],
    read: usize,
    passed: usize,
    /// How long the client may take nothing of what is written.
    idle: Duration,
    stalled_since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
    client_is_done: bool,
    is_shut: bool,
}

impl ClientIo {
    /// Takes a new connection, and looks what the client speaks. `None` when it says nothing in time.
    pub(super) async fn open(stream: TcpStream, within: Duration, idle: Duration) -> Option<(Self, Speaks)> {
        // Without them it works as well, only slower or longer.
        let _ = stream.set_nodelay(true);
        let _ = probe(&stream);
        let mut client = Self {
            stream: Some(stream),
            first: [0; HTTP2.len()],
            read: 0,
            passed: 0,
            idle,
            stalled_since: None,
            alarm: None,
            client_is_done: false,
            is_shut: false,
        };
        let speaks = timeout(within, client.look()).await.ok()?.ok()?;
        Some((client, speaks))
    }

    async fn look(&mut self) -> io::Result<Speaks> {
        while self.read < HTTP2.len() {
            let stream = self.stream.as_mut().expect("it is not dropped");
            match stream.read(&mut self.first[self.read..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.read += n,
            }
            if !HTTP2.starts_with(&self.first[..self.read]) {
                return Ok(Speaks::Http1);
            }
        }
        Ok(Speaks::Http2)
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("it is not dropped"))
    }

    /// Passes on what a write said, unless the client has taken nothing for too long.
    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.stalled_since = None;
            return result;
        }
        let until = *self.stalled_since.get_or_insert_with(Instant::now) + self.idle;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until)));
        // It may be that of a time before.
        while alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")));
            }
            alarm.as_mut().reset(until);
        }
        Poll::Pending
    }
}

fn probe(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX))?;
    sockopt::set_socket_keepalive(stream, true)
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.passed < self.read && buf.remaining() > 0 {
            let end = self.read.min(self.passed + buf.remaining());
            buf.put_slice(&self.first[self.passed..end]);
            self.passed = end;
            return Poll::Ready(Ok(()));
        }
        let before = buf.remaining();
        ready!(self.stream().poll_read(cx, buf))?;
        self.client_is_done |= before > 0 && buf.remaining() == before;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = self.stream().poll_write(cx, buf);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = self.stream().poll_write_vectored(cx, bufs);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut = true;
        self.stream().poll_shutdown(cx)
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take()
            && self.is_shut
            && !self.client_is_done
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(timeout(LINGER, read_away(stream)));
        }
    }
}

/// Reads until the client is done.
async fn read_away(mut stream: TcpStream) {
    let mut away = [0; 4096];
    while stream.read(&mut away).await.is_ok_and(|n| n > 0) {}
}
