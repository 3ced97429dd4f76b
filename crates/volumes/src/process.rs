//! What a process prints, as a stream that knows whether it is complete.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::process::{Child, ChildStdout};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How much of what a process complains is kept, in bytes.
const MAX_MESSAGE: u64 = 64 << 10;

/// What a process prints. It ends without an error only when it is complete; dropping it ends the process.
#[derive(Debug)]
pub struct ProcessStream {
    bytes: ChildStdout,
    /// What becomes of the process.
    process: JoinHandle<io::Result<()>>,
    ended: bool,
    /// The process is killed when this is dropped.
    _wanted: oneshot::Sender<()>,
}

impl ProcessStream {
    /// What this process prints. Its output and errors have to be piped; `name` is for errors, and `after` is done when it
    /// has ended, however that was.
    pub(crate) fn new(
        mut process: Child,
        name: &'static str,
        after: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let bytes = process.stdout.take().expect("it is piped");
        let (wanted, not_wanted) = oneshot::channel::<()>();
        let process = tokio::spawn(async move {
            let result = tokio::select! {
                result = finish(&mut process, name) => result,
                _ = not_wanted => process.kill().await,
            };
            after.await;
            result
        });
        Self { bytes, process, ended: false, _wanted: wanted }
    }
}

impl AsyncRead for ProcessStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ended || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.bytes).poll_read(cx, buffer))?;
        if buffer.filled().len() == before {
            // The end of the bytes is the end of the stream only if the process says so.
            let result = ready!(Pin::new(&mut self.process).poll(cx)).map_err(io::Error::other);
            self.ended = true;
            result??;
        }
        Poll::Ready(Ok(()))
    }
}

/// Waits until a process has ended, and tells whether it did everything.
async fn finish(process: &mut Child, name: &str) -> io::Result<()> {
    let mut message = Vec::new();
    let stderr = process.stderr.take().expect("it is piped");
    stderr.take(MAX_MESSAGE).read_to_end(&mut message).await?;
    if process.wait().await?.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{name}: {}", String::from_utf8_lossy(&message).trim())))
}
