//! One message: `GET /messages/{hash}` and its parts.

use std::borrow::Cow;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use protocol::api::message_node::{MessageStatus, MessageWithStatus};
use protocol::message::MessageType;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::error::{Answer, ApiError};
use super::openapi::{BadRequest, Failed, Invalid, NotFound};
use super::parameters::MessageHash;
use super::path::Path;
use crate::clock::iso;
use crate::node::Node;
use crate::store::messages::{MessageRow, forgotten_by, get};
use crate::store::{StoreError, holds, pending};
use crate::view::{self, MessageView, raw};

#[derive(Serialize, ToSchema)]
#[schema(as = MessageHead)]
pub(super) struct Head<'a> {
    status: MessageStatus,
    item_hash: &'a str,
    reception_time: String,
}

#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<MessageView<'a>>,
    /// The message while it is pending; several when somebody submitted copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<Box<RawValue>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forgotten_by: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    /// When it goes out of force, or nothing of it is kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// What is known of a hash: a decided message, unless it is rejected and tried again at the moment.
enum Known {
    Decided(Box<MessageRow>),
    Pending(Vec<pending::Submission>),
}

async fn look_up(node: &Node, hash: &str) -> Answer<Known> {
    let mut db = node.db().await?;
    let decided = |row| Ok(Known::Decided(Box::new(row)));
    let rejected = match get(&mut db, hash).await? {
        Some(row) if row.status.0 != MessageStatus::Rejected => return decided(row),
        row => row,
    };
    let submissions = pending::of_message(&mut db, hash).await?;
    if !submissions.is_empty() {
        return Ok(Known::Pending(submissions));
    }
    // It may have been decided between the two questions.
    let row = if rejected.is_some() { rejected } else { get(&mut db, hash).await? };
    row.map_or_else(
        || {
            Err(ApiError::not_found(format!(
                "no message {hash} is known here; check the hash, or send the message to this node"
            )))
        },
        decided,
    )
}

impl Known {
    fn head<'a>(&self, hash: &'a str) -> Head<'a> {
        let (status, received_us) = match self {
            Self::Decided(row) => (row.status.0, row.received_us),
            Self::Pending(submissions) => (MessageStatus::Pending, submissions.first().map_or(0, |s| s.received_us)),
        };
        Head { status, item_hash: hash, reception_time: iso(received_us) }
    }
}

/// `GET /messages/{hash}`.
#[utoipa::path(get, path = "/api/v0/messages/{hash}", tag = "messages", params(MessageHash),
    responses((status = 200, description = "The message", body = MessageWithStatus), BadRequest, NotFound, Failed))]
pub(super) async fn message(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Response> {
    let known = look_up(&node, &hash).await?;
    let empty = Whole {
        head: known.head(&hash),
        message: None,
        messages: None,
        error_code: None,
        details: None,
        forgotten_by: None,
        reason: None,
        until: None,
    };
    let whole = match &known {
        Known::Pending(submissions) => {
            let views = submissions.iter().map(|s| view::to_json(&s.envelope, s.envelope.item_content.as_deref()));
            let views = views.map(|json| RawValue::from_string(json).expect("a view is JSON")).collect();
            let reason = submissions.iter().find_map(|s| node.pipeline.why_pending(s.seq)).map(Cow::Owned);
            Whole { messages: Some(views), reason, ..empty }
        }
        Known::Decided(row) => {
            let details = row.error_details.as_deref().map(|text| raw(text, &row.item_hash)).transpose()?;
            let forgotten = row.status.0 == MessageStatus::Forgotten;
            let by = match forgotten {
                true => Some(forgotten_by(&mut *node.db().await?, &hash).await?),
                false => None,
            };
            let until = match row.status.0 {
                MessageStatus::Removing | MessageStatus::Removed => {
                    holds::until(&mut *node.db().await?, &hash).await?.map(iso)
                }
                _ => None,
            };
            Whole {
                message: Some(MessageView::of_row(row)),
                error_code: row.error_code,
                details,
                forgotten_by: by,
                reason: row.reason.as_deref().map(Cow::Borrowed),
                until,
                ..empty
            }
        }
    };
    Ok(Json(whole).into_response())
}

/// `GET /messages/{hash}/status`.
#[utoipa::path(get, path = "/api/v0/messages/{hash}/status", tag = "messages", params(MessageHash),
    operation_id = "message_status",
    responses((status = 200, description = "Its status", body = Head), BadRequest, NotFound, Failed))]
pub(super) async fn status(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Response> {
    let known = look_up(&node, &hash).await?;
    Ok(Json(known.head(&hash)).into_response())
}

/// The document inside the content of a POST.
#[derive(Deserialize)]
struct Post<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

/// The document inside the content of a POST; `null` when it has none.
pub(super) fn post_document<'a>(text: &'a str, of: &str) -> Result<&'a RawValue, StoreError> {
    let post: Post<'a> = serde_json::from_str(text).map_err(|e| StoreError::corrupt("post", of, e))?;
    Ok(post.content.unwrap_or(RawValue::NULL))
}

/// `GET /messages/{hash}/content`: the content of a message in force; of a POST, the document in it.
#[utoipa::path(get, path = "/api/v0/messages/{hash}/content", tag = "messages", params(MessageHash),
    responses((status = 200, description = "The content", body = Value), BadRequest, NotFound, Invalid, Failed))]
pub(super) async fn content(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Response> {
    let row = match look_up(&node, &hash).await? {
        Known::Decided(row) if row.status.0.is_in_force() => row,
        known => {
            let status = known.head(&hash).status.as_str();
            return Err(ApiError::invalid(format!(
                "message {hash} is not in force: it is {status}; ask for /api/v0/messages/{hash}"
            )));
        }
    };
    let content = match row.message_type()? {
        MessageType::Post => post_document(row.content.as_deref().unwrap_or_default(), &row.item_hash)?,
        _ => view::content(&row)?,
    };
    Ok(Json(content).into_response())
}
