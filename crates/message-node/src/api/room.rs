//! Room in memory for large bodies on their way in and out. Each is bounded; this bounds all of them together, so that many
//! slow clients cannot make the node hold more than it has.

use std::sync::Arc;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{BoxError, body};
use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::error::{Answer, ApiError};
use super::receive::check_pace;
use crate::node::Node;

/// Bodies of so many bytes need no room: there are no more of them than connections.
const SMALL: u64 = 64 * 1024;
/// The unit in which room is counted, in bytes.
const UNIT: u64 = 1024;
/// Bytes of an answer that are handed on at a time.
const PART: usize = 64 * 1024;

/// All the room there is.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    free: Arc<Semaphore>,
    units: u32,
}

/// Room that is taken until this is dropped.
pub(super) type Taken = Option<OwnedSemaphorePermit>;

impl Room {
    /// Room for so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Takes room for a body. One that is larger than all the room gets in when it is the only one.
    pub(super) fn take(&self, bytes: u64) -> Answer<Taken> {
        if bytes <= SMALL {
            return Ok(None);
        }
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units);
        let taken = Arc::clone(&self.free).try_acquire_many_owned(units);
        let busy =
            |_| ApiError::busy("too many large requests and answers at the same time; try again in a few seconds");
        taken.map(Some).map_err(busy)
    }
}

/// Answers that are in memory as a whole keep room until the client has them, and the client has to keep up.
pub(super) async fn for_answers(State(node): State<Node>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let Some(bytes) = body::HttpBody::size_hint(response.body()).exact().filter(|bytes| *bytes > SMALL) else {
        return response;
    };
    match node.room.take(bytes) {
        Ok(room) => {
            response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(bytes));
            response.map(|body| in_parts(body, room))
        }
        Err(busy) => busy.into_response(),
    }
}

/// What is left of an answer.
struct Rest {
    chunks: BodyDataStream,
    chunk: Bytes,
    sent: u64,
    started: Instant,
    _room: Taken,
}

/// The same body in parts, which are asked for as the client takes them.
fn in_parts(body: Body, room: Taken) -> Body {
    let (chunks, started) = (body.into_data_stream(), Instant::now());
    let rest = Rest { chunks, chunk: Bytes::new(), sent: 0, started, _room: room };
    Body::from_stream(stream::try_unfold(rest, |mut rest| async move {
        while rest.chunk.is_empty() {
            match rest.chunks.next().await {
                None => return Ok(None),
                Some(chunk) => rest.chunk = chunk?,
            }
        }
        check_pace(rest.sent, rest.started.elapsed()).map_err(|_| BoxError::from("the client is too slow"))?;
        let part = rest.chunk.split_to(rest.chunk.len().min(PART));
        rest.sent += part.len() as u64;
        Ok::<_, BoxError>(Some((part, rest)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_until_it_is_given_back() {
        let room = Room::new(10 * SMALL);
        assert!(room.take(SMALL).unwrap().is_none(), "small bodies need none");
        let most = room.take(6 * SMALL).unwrap();
        assert!(room.take(6 * SMALL).is_err());
        let rest = room.take(4 * SMALL).unwrap();
        drop((most, rest));
        assert!(room.take(100 * SMALL).unwrap().is_some(), "what is larger than all room gets in alone");
    }

    #[tokio::test]
    async fn a_body_in_parts_is_the_same_body() {
        let text: Vec<u8> = (0..3 * PART + 7).map(|n| (n % 251) as u8).collect();
        let room = Room::new(1024 * 1024);
        let taken = room.take(text.len() as u64).unwrap();
        let before = room.free.available_permits();
        let parts = in_parts(Body::from(text.clone()), taken).into_data_stream();
        let parts: Vec<Bytes> = parts.map(|part| part.unwrap()).collect().await;
        assert_eq!((parts.len(), parts.concat()), (4, text));
        assert!(room.free.available_permits() > before, "it is given back at the end");
    }
}
