//! The control socket: one JSON message a line.

use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream as StdUnixStream;

use aleph_guest::{CONTROL_FD, FromGuest, MAX_MESSAGE_BYTES, ToGuest};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The connection to the supervisor.
pub(crate) struct Control {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    line: Vec<u8>,
}

impl Control {
    /// Takes over the descriptor that the supervisor passed.
    pub(crate) fn open() -> io::Result<Self> {
        // SAFETY: the supervisor passes this descriptor for this purpose alone, and this is the only place that takes it.
        let socket = unsafe { StdUnixStream::from_raw_fd(CONTROL_FD) };
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        socket.set_nonblocking(true)?;
        let (read, write) = UnixStream::from_std(socket)?.into_split();
        Ok(Self { read: BufReader::new(read), write, line: Vec::new() })
    }

    /// Waits for the next message; `None` when the supervisor is gone. Nothing is lost when the wait is given up.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<ToGuest>> {
        let room = (MAX_MESSAGE_BYTES - self.line.len().min(MAX_MESSAGE_BYTES)) as u64;
        (&mut self.read).take(room).read_until(b'\n', &mut self.line).await?;
        if self.line.pop() != Some(b'\n') {
            return Ok(None);
        }
        let message = serde_json::from_slice(&self.line)?;
        self.line.clear();
        Ok(Some(message))
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, message: &FromGuest) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.write.write_all(&line).await
    }
}
