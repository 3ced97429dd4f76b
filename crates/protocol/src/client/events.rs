//! WebSocket streams of JSON events.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{CONNECT_TIMEOUT, ClientError, install_crypto};

/// A side that sends nothing for this long is asked for a sign of life, and has as long again to give one.
const PING_AFTER: Duration = Duration::from_secs(15);

/// A stream of events of one type. Dropping it closes the connection.
pub struct EventStream<T> {
    url: String,
    socket: WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
    ping_after: Duration,
    marker: std::marker::PhantomData<fn() -> T>,
}

/// Opens a WebSocket. `url` may be written with `http` or `ws`.
///
/// # Errors
/// [`ClientError::Unreachable`] when nobody answers within 5 s or the answer is no WebSocket.
pub async fn open_events<T: DeserializeOwned>(url: &str) -> Result<EventStream<T>, ClientError> {
    install_crypto();
    let url = match url.strip_prefix("http") {
        Some(rest) => format!("ws{rest}"),
        None => url.to_owned(),
    };
    let (socket, _) = tokio::time::timeout(CONNECT_TIMEOUT, tokio_tungstenite::connect_async(&url))
        .await
        .map_err(|e| ClientError::unreachable(&url, &e))?
        .map_err(|e| ClientError::unreachable(&url, &e))?;
    Ok(EventStream { url, socket, ping_after: PING_AFTER, marker: std::marker::PhantomData })
}

impl<T: DeserializeOwned> EventStream<T> {
    /// Asks the other side for a sign of life after it sent nothing for this long, and gives it up after as long again. 15 s
    /// if it is not set.
    #[must_use]
    pub fn ping_after(self, ping_after: Duration) -> Self {
        Self { ping_after, ..self }
    }

    /// Sends a frame to the other side.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the connection breaks or takes no bytes for 5 s.
    pub async fn send(&mut self, frame: &impl Serialize) -> Result<(), ClientError> {
        let text = serde_json::to_string(frame).map_err(|e| ClientError::malformed(&self.url, e))?;
        tokio::time::timeout(CONNECT_TIMEOUT, self.socket.send(Message::Text(text.into())))
            .await
            .map_err(|e| ClientError::unreachable(&self.url, &e))?
            .map_err(|e| ClientError::unreachable(&self.url, &e))
    }

    /// Waits for the next event; `None` when the other side closed the stream.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the connection breaks or the other side gives no sign of life,
    /// [`ClientError::Malformed`] for an event that cannot be read (the stream goes on after it).
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        let mut asked = false;
        loop {
            let frame = match tokio::time::timeout(self.ping_after, self.socket.next()).await {
                Ok(frame) => frame,
                Err(elapsed) if asked => return Err(ClientError::unreachable(&self.url, &elapsed)),
                Err(_) => {
                    asked = true;
                    let ping = self.socket.send(Message::Ping(Default::default())).await;
                    ping.map_err(|e| ClientError::unreachable(&self.url, &e))?;
                    continue;
                }
            };
            asked = false;
            match frame {
                None | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map(Some).map_err(|e| ClientError::malformed(&self.url, e));
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(ClientError::unreachable(&self.url, &e)),
            }
        }
    }
}
