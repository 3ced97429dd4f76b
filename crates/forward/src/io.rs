//! Connections to whoever answers.

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::sleep;
use tower::{Service, ServiceExt};
use unix_stream::Stream;

/// How an origin is connected to.
pub trait Connect: Send + Sync + 'static {
    /// A connection.
    type Io: Read + Write + Send + Unpin + 'static;

    /// Makes a connection.
    fn connect(&self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// How soon a socket is tried again at which too many wait.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// A Unix socket.
#[derive(Debug, Clone)]
pub struct UnixSocket(pub PathBuf);

impl Connect for UnixSocket {
    type Io = TokioIo<Stream>;

    async fn connect(&self) -> io::Result<Self::Io> {
        loop {
            match UnixStream::connect(&self.0).await {
                // So many wait to be accepted already. Nothing tells when there is room again, and who asked has a deadline.
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(TRY_AGAIN).await,
                connected => return Ok(TokioIo::new(Stream::new(connected?)?)),
            }
        }
    }
}

/// An address that a connector of hyper's connects to.
#[derive(Debug, Clone)]
pub struct Origin<S> {
    /// The connector.
    pub connector: S,
    /// Scheme and authority.
    pub uri: Uri,
}

impl<S> Connect for Origin<S>
where
    S: Service<Uri> + Clone + Send + Sync + 'static,
    S::Response: Read + Write + Send + Unpin + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send,
{
    type Io = S::Response;

    async fn connect(&self) -> io::Result<Self::Io> {
        self.connector.clone().oneshot(self.uri.clone()).await.map_err(io::Error::other)
    }
}

/// A connection whose other side may stop to read: who answers before it has read everything, and closes, has answered.
/// What cannot be written any more is dropped, and what was said counts.
#[derive(Debug)]
pub(crate) struct Forgiving<T>(pub(crate) T);

fn forgive(result: io::Result<usize>, length: usize) -> io::Result<usize> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(length),
        result => result,
    }
}

impl<T: Read + Unpin> Read for Forgiving<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Forgiving<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf).map(|result| forgive(result, buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs).map(|result| forgive(result, length))
    }
}
