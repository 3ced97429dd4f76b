//! `GET /price/{hash}`: what a message in force costs, as it was charged.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use protocol::api::message_node::{MessageStatus, Price};

use super::error::{Answer, ApiError};
use super::openapi::{BadRequest, Failed, Gone, NotFound};
use super::parameters::MessageHash;
use super::path::Path;
use crate::node::Node;
use crate::store::{costs, messages};
use crate::view::raw;

/// The price of a message: 404 when it is not known or was rejected, 410 when it was forgotten or removed, 400 when messages
/// of its type cost nothing.
#[utoipa::path(get, path = "/api/v0/price/{hash}", tag = "prices", params(MessageHash),
    responses((status = 200, description = "The price", body = Price), BadRequest, NotFound, Gone, Failed))]
pub(super) async fn of_message(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Response> {
    let mut db = node.db().await?;
    let standing = messages::standing(&mut db, &hash).await?;
    match standing.map(|standing| standing.status.0) {
        Some(MessageStatus::Processed | MessageStatus::Removing) => {}
        Some(MessageStatus::Forgotten) => {
            return Err(ApiError::gone(format!("message {hash} was forgotten: it costs nothing any more")));
        }
        Some(MessageStatus::Removed) => {
            return Err(ApiError::gone(format!("message {hash} was removed: it costs nothing any more")));
        }
        Some(MessageStatus::Rejected) => {
            return Err(ApiError::not_found(format!("message {hash} was rejected; /api/v0/messages/{hash} says why")));
        }
        Some(MessageStatus::Pending) | None => {
            return Err(ApiError::not_found(format!(
                "no message {hash} is in force here; check the hash, or try again once it is decided"
            )));
        }
    }
    let price = costs::price(&mut db, &hash).await?;
    let price = price.ok_or_else(|| {
        ApiError::bad_request(format!("message {hash} is neither PROGRAM nor STORE: it costs nothing"))
    })?;
    Ok(Json(raw(&price, &hash)?).into_response())
}
