//! `/api/v1/ws`: what happens, from the moment of the call on. Whoever needs the state before it opens the stream first and
//! reads the lists then.

use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use axum::response::Response;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, interval, timeout};

use super::error::Answer;
use super::{Api, Upgrade, bounded};

/// Events that wait for a client at most.
pub(crate) const QUEUE: usize = 4096;
/// Streams that are open at the same time at most.
pub(crate) const MAX_STREAMS: usize = 1024;
/// How often a silent client is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A client that gave no sign of life for this long has gone.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a client may take to read an event.
const SEND: Duration = Duration::from_secs(5);
/// The longest frame that clients may send; they have nothing to say.
const MAX_FRAME_BYTES: usize = 4096;

/// Why a stream ends; `None` when the client has gone.
type End = Option<(u16, &'static str)>;

const TOO_MANY: (u16, &str) = (close_code::AGAIN, "too many streams; try again later");
const TOO_SLOW: (u16, &str) = (close_code::AGAIN, "you read too slowly and missed events; open the stream again");
const STOPPING: (u16, &str) = (close_code::AWAY, "the scheduler is stopping; open the stream again");

/// Opens a stream.
pub(super) async fn subscribe(State(api): State<Api>, upgrade: Upgrade) -> Answer<Response> {
    let upgrade = bounded(upgrade, MAX_FRAME_BYTES)?;
    let open = api.sockets.token();
    // From before the answer on, so that a client that saw the answer misses nothing.
    let events = api.events.subscribe();
    Ok(upgrade.on_upgrade(async move |mut socket| {
        let _open = open;
        let end = match api.streams.try_acquire() {
            Ok(_permit) => {
                api.metrics.streams.increment(1.0);
                let end = stream(&api, &mut socket, events).await;
                api.metrics.streams.decrement(1.0);
                end
            }
            Err(_) => Some(TOO_MANY),
        };
        if let Some((code, reason)) = end {
            let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
            // An error means that the client has gone.
            let _ = timeout(SEND, socket.send(close)).await;
        }
    }))
}

async fn stream(api: &Api, socket: &mut WebSocket, mut events: Receiver<Utf8Bytes>) -> End {
    let (mut ping, mut heard) = (interval(PING_EVERY), Instant::now());
    loop {
        let message = tokio::select! {
            () = api.shutdown.cancelled() => return Some(STOPPING),
            event = events.recv() => match event {
                Ok(event) => Message::Text(event),
                Err(RecvError::Lagged(_)) => return too_slow(api),
                Err(RecvError::Closed) => return Some(STOPPING),
            },
            frame = socket.recv() => match frame {
                None | Some(Err(_) | Ok(Message::Close(_))) => return None,
                Some(Ok(_)) => {
                    heard = Instant::now();
                    continue;
                }
            },
            _ = ping.tick() => match heard.elapsed() > SILENCE {
                true => return None,
                false => Message::Ping(Default::default()),
            },
        };
        match timeout(SEND, socket.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return None,
            Err(_) => return too_slow(api),
        }
    }
}

fn too_slow(api: &Api) -> End {
    api.metrics.slow_streams.increment(1);
    Some(TOO_SLOW)
}
