//! `/api/ws0/messages`: messages as they are processed, after a history of older ones. Who names statuses (`msgStatuses`)
//! is told as well when a message gets one of them, with the field `status`.

use std::collections::HashSet;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, interval, timeout};

use super::error::{Answer, ApiError};
use super::openapi::{BadRequest, Invalid, NoUpgrade};
use super::parameters::{History, MessageFilters};
use super::query::Params;
use crate::events::{Event, News};
use crate::filter::Filter;
use crate::node::Node;
use crate::store::Stored;
use crate::store::list::{Order, Window, part};
use crate::view::MessageView;

/// How often a silent client is asked for a sign of life.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A client that gave no sign of life for this long has gone.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest frame that clients may send; they have nothing to say.
const MAX_FRAME_BYTES: usize = 64 * 1024;

/// Bytes of the contents of the history of a stream; what is older is left out.
const HISTORY_BYTES: u64 = 2 * 1024 * 1024;

/// What clients are told when the node stops.
const STOPPING: &str = "the node is stopping: list what you missed and subscribe again";

/// What clients are told when the node cannot tell what it did.
const INTERRUPTED: &str = "the node's database was away: list what you missed and subscribe again";

/// Why a stream ends.
enum End {
    /// The client closed it or has gone.
    Gone,
    /// The node closes it, and says why.
    Close(u16, String),
}

/// Opens a stream. Filters are those of lists; times select the history only. Who names statuses is told as well when a message
/// gets one of them, with the field `status`.
#[utoipa::path(get, path = "/api/ws0/messages", tag = "messages", params(MessageFilters, History),
    responses((status = 101, description = "A WebSocket; each text on it is a message"), BadRequest, Invalid,
        NoUpgrade))]
pub(super) async fn subscribe(
    State(node): State<Node>,
    params: Params,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    let upgrade = upgrade.map_err(|rejection| ApiError::no_websocket(&rejection))?;
    let (filter, history) = (params.filter()?, params.history()?);
    let upgrade = upgrade.max_message_size(MAX_FRAME_BYTES).max_frame_size(MAX_FRAME_BYTES);
    let permit = node.streams.clone().try_acquire_owned().ok();
    let open = node.open_streams.token();
    Ok(upgrade.on_upgrade(async move |socket| {
        let _open = open;
        serve(node, socket, filter, history, permit).await;
    }))
}

async fn serve(node: Node, mut socket: WebSocket, filter: Filter, history: u32, permit: Option<OwnedSemaphorePermit>) {
    let end = match permit {
        None => End::Close(close_code::AGAIN, "too many streams; try again later".to_owned()),
        Some(_permit) => {
            node.context.metrics.streams.increment(1.0);
            let end = stream(&node, &mut socket, &filter, history).await;
            node.context.metrics.streams.decrement(1.0);
            end
        }
    };
    if let End::Close(code, reason) = end {
        // An error or a timeout means that the client has gone.
        let _ = timeout(node.context.timing.stream_send, close(socket, code, reason)).await;
    }
}

/// Says why the stream ends and waits until the client has heard it. If the connection just ended, whatever the client sends
/// in the meantime would make its operating system drop what it has not read, the reason included.
async fn close(mut socket: WebSocket, code: u16, reason: String) -> Result<(), axum::Error> {
    let frame = CloseFrame { code, reason: reason.into() };
    socket.send(Message::Close(Some(frame))).await?;
    while let Some(frame) = socket.recv().await {
        frame?;
    }
    Ok(())
}

async fn stream(node: &Node, socket: &mut WebSocket, filter: &Filter, history: u32) -> End {
    // Before the history is read, so that nothing is missed between the two.
    let mut events = node.context.events.subscribe();
    let mut shown = HashSet::new();
    let Ok(room) = node.room.take(if history == 0 { 0 } else { HISTORY_BYTES }) else {
        return End::Close(close_code::AGAIN, "too many streams begin; try again in a few seconds".to_owned());
    };
    match read_history(node, filter, history).await {
        Ok(messages) => {
            for (hash, json) in messages {
                if let Err(end) = send(node, socket, Message::Text(json)).await {
                    return end;
                }
                shown.insert(hash);
            }
        }
        Err(error) => {
            tracing::error!(%error, "the history of a stream could not be read");
            return End::Close(close_code::ERROR, "the node failed; try again later".to_owned());
        }
    }
    drop(room);
    let (mut ping, mut heard) = (interval(PING_EVERY), Instant::now());
    loop {
        let sent = tokio::select! {
            () = node.shutdown.cancelled() => {
                return End::Close(close_code::AWAY, STOPPING.to_owned());
            }
            event = events.recv() => match event {
                Ok(event) if filter.wants_live(&event.traits, event.news) && !is_shown(&mut shown, &event) => {
                    send(node, socket, Message::Text(event.json.clone())).await
                }
                Ok(_) => Ok(()),
                Err(RecvError::Lagged(missed)) => Err(too_slow(node, &format!("you missed {missed} messages"))),
                Err(RecvError::Closed) => Err(End::Close(close_code::AGAIN, INTERRUPTED.to_owned())),
            },
            frame = socket.recv() => match frame {
                None | Some(Err(_) | Ok(Message::Close(_))) => Err(End::Gone),
                Some(Ok(_)) => {
                    heard = Instant::now();
                    Ok(())
                }
            },
            _ = ping.tick() => match heard.elapsed() > SILENCE {
                true => Err(End::Gone),
                false => send(node, socket, Message::Ping(Default::default())).await,
            },
        };
        if let Err(end) = sent {
            return end;
        }
    }
}

/// Whether the history showed already what an event tells.
fn is_shown(shown: &mut HashSet<String>, event: &Event) -> bool {
    event.news == News::Arrived && shown.remove(&event.traits.item_hash)
}

async fn send(node: &Node, socket: &mut WebSocket, message: Message) -> Result<(), End> {
    match timeout(node.context.timing.stream_send, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => Err(too_slow(node, "a message was not taken in time")),
    }
}

fn too_slow(node: &Node, what: &str) -> End {
    node.context.metrics.slow_streams.increment(1);
    End::Close(close_code::POLICY, format!("too slow: {what}; list them and subscribe again"))
}

/// The newest messages that pass the filter, oldest first.
async fn read_history(node: &Node, filter: &Filter, count: u32) -> Stored<Vec<(String, Utf8Bytes)>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let most = node.context.limits.page_bytes.min(HISTORY_BYTES);
    let mut db = node.db().await?;
    let found = part(&mut db, filter, Order::Descending, &Window::After(None), count, most).await?;
    let json = |row| serde_json::to_string(&MessageView::of_row(row)).expect("a message is JSON");
    Ok(found.rows.iter().rev().map(|row| (row.item_hash.clone(), json(row).into())).collect())
}
