//! A connection of raw bytes.

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long anything may take that is bound to happen.
const SOON: Duration = Duration::from_secs(20);

/// Waits for something that is bound to happen.
pub(super) async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    timeout(SOON, happens).await.unwrap_or_else(|_| panic!("it did not happen that {what}"))
}

/// One side of a connection.
pub(super) struct Wire<S> {
    pub(super) stream: S,
    read: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon("bytes are taken", self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends, however far it gets: the other side may close.
    pub(super) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        soon("bytes are taken or refused", self.stream.write_all(bytes.as_ref())).await
    }

    /// No more is sent.
    pub(super) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads more; how many bytes.
    async fn more(&mut self) -> usize {
        let mut chunk = vec![0; 65536];
        // A reset is an end as well.
        let n = soon("something is said", self.stream.read(&mut chunk)).await.unwrap_or(0);
        self.read.extend_from_slice(&chunk[..n]);
        n
    }

    fn take(&mut self, n: usize) -> String {
        String::from_utf8(self.read.drain(..n).collect()).expect("tests speak text")
    }

    /// Everything up to the end of `text`; `None` when the connection ends before.
    pub(super) async fn try_until(&mut self, text: &str) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(text.len()).position(|window| window == text.as_bytes()) {
                return Some(self.take(at + text.len()));
            }
            if self.more().await == 0 {
                return None;
            }
        }
    }

    pub(super) async fn until(&mut self, text: &str) -> String {
        match self.try_until(text).await {
            Some(read) => read,
            None => panic!("the connection ended before {text:?}, after {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    /// So many bytes; `None` when the connection ends before.
    pub(super) async fn try_exactly(&mut self, n: usize) -> Option<String> {
        while self.read.len() < n {
            if self.more().await == 0 {
                return None;
            }
        }
        Some(self.take(n))
    }

    pub(super) async fn exactly(&mut self, n: usize) -> String {
        self.try_exactly(n).await.expect("the connection lasts")
    }

    /// A message's head, lower-cased but for its values.
    pub(super) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Everything until the connection ends.
    pub(super) async fn rest(&mut self) -> String {
        while self.more().await > 0 {}
        self.take(self.read.len())
    }

    /// An answer's status and body, whose length is given.
    pub(super) async fn answer(&mut self) -> (u16, String) {
        let head = self.head().await.to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("an answer has a status");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        (status, self.exactly(length.unwrap_or_else(|| panic!("no length: {head:?}"))).await)
    }

    /// Waits until the other side has closed, and has said nothing more.
    pub(super) async fn closed(&mut self) {
        assert_eq!(self.rest().await, "");
    }
}
