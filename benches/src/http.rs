//! The plainest HTTP client there is, the same for all that is compared.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// How often a port that refuses connections is tried.
const TRY_AGAIN: Duration = Duration::from_millis(2);

/// How long an answer of the wrong kind is left alone.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How long anything may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection that is kept alive.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to a port of this machine.
    pub(crate) async fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends a whole request and reads the whole answer, which must say how long it is. Says its status and body.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
        self.stream.write_all(request).await?;
        let head_length = loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_length]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
        let mut lengths = head.lines().filter_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let body_length: usize = lengths.next_back().with_context(|| format!("an answer without length: {head}"))?;
        while self.buffer.len() < head_length + body_length {
            self.read_more().await?;
        }
        let rest = self.buffer.split_off(head_length + body_length);
        let body = std::mem::replace(&mut self.buffer, rest).split_off(head_length);
        Ok((status, body))
    }

    async fn read_more(&mut self) -> anyhow::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed in the middle of an answer");
        }
        Ok(())
    }
}

/// The first good answer.
#[derive(Debug, Default)]
pub(crate) struct First {
    /// Seconds from `began` to the answer.
    pub(crate) seconds: f64,
    /// Answers that were not good before it.
    pub(crate) refused: Vec<String>,
}

/// Asks until the answer is 200, on a connection of its own each time.
pub(crate) async fn first_200(began: Instant, port: u16, path: &str) -> anyhow::Result<First> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: aleph-bench\r\n\r\n");
    let mut refused = Vec::new();
    while began.elapsed() < PATIENCE {
        let Ok(mut connection) = Connection::open(port).await else {
            sleep(TRY_AGAIN).await;
            continue;
        };
        match connection.ask(request.as_bytes()).await {
            Ok((200, _)) => return Ok(First { seconds: began.elapsed().as_secs_f64(), refused }),
            Ok((status, body)) => refused.push(format!("{status} {}", String::from_utf8_lossy(&body))),
            Err(error) => refused.push(error.to_string()),
        }
        sleep(ASK_AGAIN).await;
    }
    bail!("port {port} did not answer {path} with 200 within {} s: {refused:?}", PATIENCE.as_secs());
}
