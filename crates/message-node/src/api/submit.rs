//! `POST /messages`.

use std::time::Duration;

use axum::Json;
use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::api::message_node::{MessageStatus, PublicationStatus, SubmitRequest};
use protocol::message::parse_content;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::MAX_JSON_BYTES;
use super::error::{Answer, ApiError};
use super::openapi::{BadRequest, Failed, Forbidden, Gone, Rejected, TimedOut, TooLarge, TooMuch};
use super::room::Taken;
use crate::node::Node;
use crate::pipeline::Outcome;

/// What became of a message; rejections are explained here, too, and not only in `GET /messages/{hash}`.
#[derive(Serialize, ToSchema)]
#[schema(as = Submitted)]
pub(super) struct Answered {
    /// For programs; only in answers that are no success.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// For people; only in answers that are no success.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    publication_status: PublicationStatus,
    message_status: MessageStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
}

/// Takes a message. Without `sync` the answer is always 202 once it is durable. With `sync` it is 200 for processed, 422 for
/// rejected, 410 for forgotten and removed ones, and 202 when it is not decided in time.
#[utoipa::path(post, path = "/api/v0/messages", tag = "messages", request_body = SubmitRequest,
    responses((status = 200, description = "It is in force", body = Answered),
        (status = 202, description = "It is not decided yet", body = Answered),
        BadRequest, Forbidden, TimedOut, Gone, TooLarge, Rejected, TooMuch, Failed))]
pub(super) async fn submit(State(node): State<Node>, SmallBody(body, _room): SmallBody) -> Answer<Response> {
    let request: SubmitRequest = parse_json(&body)?;
    request.message.verify_form()?;
    node.admission.check(&request.message, 0)?;
    let wait = request.sync.then_some(node.context.timing.sync_wait);
    let outcome = node.pipeline.submit(request.message, wait).await?;
    Ok(answer(&outcome))
}

/// How long a small body may take.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// A body of bounded size, and the room that it takes.
pub(super) struct SmallBody(pub Bytes, pub Taken);

impl FromRequest<Node> for SmallBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, node: &Node) -> Result<Self, ApiError> {
        let said = HttpBody::size_hint(request.body()).exact();
        let room = node.room.take(said.unwrap_or(MAX_JSON_BYTES as u64).min(MAX_JSON_BYTES as u64))?;
        let body = timeout(BODY_WITHIN, Bytes::from_request(request, node)).await;
        let late =
            |_| ApiError::timed_out(format!("the body took longer than {} s; send it again", BODY_WITHIN.as_secs()));
        body.map_err(late)?.map(|body| Self(body, room)).map_err(|e| match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(format!(
                "the body has more than {MAX_JSON_BYTES} bytes; store a long content by storage/add_json"
            )),
            _ => ApiError::bad_request(format!("{}; send it again", e.body_text())),
        })
    }
}

/// Reads a JSON body and names the field that is wrong.
pub(super) fn parse_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Answer<T> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::invalid("the body is no UTF-8 text; send JSON"))?;
    Ok(parse_content(text)?)
}

fn answer(outcome: &Outcome) -> Response {
    let rejection = outcome.rejection.as_deref();
    let (code, message) = match outcome.status {
        MessageStatus::Rejected => (Some("rejected"), rejection.map(|rejection| rejection.code.explanation())),
        MessageStatus::Forgotten => (Some("gone"), Some("the message was forgotten; sign a new one")),
        MessageStatus::Removed => {
            (Some("gone"), Some("the message was removed; sign a new one once you can pay for it"))
        }
        MessageStatus::Pending | MessageStatus::Processed | MessageStatus::Removing => (None, None),
    };
    let body = Answered {
        code,
        message,
        publication_status: PublicationStatus::success(),
        message_status: outcome.status,
        error_code: rejection.map(|rejection| rejection.code.code()),
        details: rejection.map(|rejection| rejection.details()),
    };
    (http_status(outcome.status), Json(body)).into_response()
}

/// The HTTP status of a submission.
pub(super) const fn http_status(status: MessageStatus) -> StatusCode {
    match status {
        MessageStatus::Processed | MessageStatus::Removing => StatusCode::OK,
        MessageStatus::Pending => StatusCode::ACCEPTED,
        MessageStatus::Rejected => StatusCode::UNPROCESSABLE_ENTITY,
        MessageStatus::Forgotten | MessageStatus::Removed => StatusCode::GONE,
    }
}
