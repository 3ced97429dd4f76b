//! Brings requests that enter by the Unix socket to the port that a binary listens on.

use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::time::Duration;

use aleph_guest::LISTENER_FD;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::time::sleep;
use unix_stream::Stream;

/// Bytes of a request and of an answer that are read before they are passed on, at most. What is not used takes no memory.
const REQUEST_BUFFER: usize = 16 << 10;
const ANSWER_BUFFER: usize = 64 << 10;

/// Starts to accept connections in the background.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    // SAFETY: the supervisor passes this descriptor for this purpose alone; it is taken here, once, and nowhere else for
    // programs of this kind.
    let listener = unsafe { StdUnixListener::from_raw_fd(LISTENER_FD) };
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => drop(tokio::spawn(forward(connection, port))),
                // Out of descriptors, most likely: connections that end make room.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    });
    Ok(())
}

async fn forward(outside: UnixStream, port: u16) -> io::Result<()> {
    let mut outside = Stream::new(outside)?;
    // A connection that cannot be made is closed, which the gateway reports as a bad gateway.
    let mut inside = TcpStream::connect(("127.0.0.1", port)).await?;
    inside.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut outside, &mut inside, REQUEST_BUFFER, ANSWER_BUFFER).await?;
    Ok(())
}
