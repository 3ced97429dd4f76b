//! Files on their way in: `POST /storage/add_file` and `add_json`, and what those of `/ipfs` share with them.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use protocol::Address;
use protocol::api::message_node::{AddFileResponse, MessageStatus};
use serde_json::{Value, json};

use super::accounts;
use super::described::{Binary, FileForm};
use super::error::{Answer, ApiError};
use super::openapi::{
    BadRequest, Failed, Forbidden, Gone, Invalid, NotAllowed, Rejected, TimedOut, TooLarge, TooMuch, Unpaid,
};
use super::receive::{Metadata, Parts, Turn, is_form, read_body, read_document, read_form};
use super::submit::http_status;
use crate::core::Refusal;
use crate::core::payment::{Funds, check_funds, check_method};
use crate::files::StagedFile;
use crate::node::Node;
use crate::prices::store_price;
use crate::store::costs;

/// A file that arrived, and what came with it.
pub(super) struct Arrived {
    pub file: StagedFile,
    /// What its sender calls it.
    pub filename: Option<String>,
    pub metadata: Option<Metadata>,
}

/// A file, as a form with the parts `file` and `metadata` (a STORE message; without it the file is smaller and collected
/// after its grace time), or as the body itself.
#[utoipa::path(post, path = "/api/v0/storage/add_file", tag = "files", operation_id = "add_file",
    request_body(content((FileForm = "multipart/form-data"), (Binary = "application/octet-stream"))),
    responses((status = 200, description = "It is here", body = AddFileResponse),
        (status = 202, description = "It is here; the message is not decided yet", body = AddFileResponse),
        BadRequest, Unpaid, Forbidden, TimedOut, Gone, TooLarge, Rejected, TooMuch, Failed))]
pub(super) async fn add_file(State(node): State<Node>, request: Request) -> Answer<Response> {
    let _turn = Turn::take(&node)?;
    let Arrived { file, metadata, .. } = receive(&node, request, node.context.limits.upload_bytes).await?;
    if let Some(metadata) = &metadata {
        check_name(&file, metadata, &file.hash())?;
        node.admission.check(&metadata.message, file.bytes())?;
        check_funds_for(&node, &file, metadata).await?;
    }
    let body = stored(&file.hash());
    node.publish(file).await?;
    submit(&node, metadata, body).await
}

/// A JSON document, kept byte for byte as it was sent: its hash is that of the body.
#[utoipa::path(post, path = "/api/v0/storage/add_json", tag = "files", operation_id = "add_json",
    request_body = Value,
    responses((status = 200, description = "It is here", body = AddFileResponse), NotAllowed, TimedOut, TooLarge,
        Invalid, Failed))]
pub(super) async fn add_json(State(node): State<Node>, body: Body) -> Answer<Response> {
    let _turn = Turn::take(&node)?;
    let file = receive_document(&node, body).await?;
    let body = stored(&file.hash());
    node.publish(file).await?;
    Ok(Json(body).into_response())
}

fn stored(hash: &str) -> Value {
    json!({ "status": "success", "hash": hash })
}

/// Reads a file of at most `most` bytes, or fewer when no message comes with it.
pub(super) async fn receive(node: &Node, request: Request, most: u64) -> Answer<Arrived> {
    let anonymous = node.context.limits.anonymous_upload_bytes;
    if !is_form(&request) {
        node.admission.check_anonymous()?;
        let mut upload = node.files().upload(anonymous);
        read_body(&mut upload, request.into_body()).await?;
        return Ok(Arrived { file: upload.finish().await?, filename: None, metadata: None });
    }
    let (sink, admit) = (node.files().upload(most), |sender: &Address| node.admission.check_sender(sender));
    let Parts { file, metadata } = read_form(request, sink, admit).await?;
    let (upload, filename) = file.ok_or_else(no_file)?;
    let file = upload.finish().await?;
    if metadata.is_none() {
        node.admission.check_anonymous()?;
    }
    if metadata.is_none() && file.bytes() > anonymous {
        let message =
            format!("a file without a STORE message has at most {anonymous} bytes; send one in the part 'metadata'");
        return Err(ApiError::too_large(message));
    }
    Ok(Arrived { file, filename, metadata })
}

/// Reads a JSON document into a file.
pub(super) async fn receive_document(node: &Node, body: Body) -> Answer<StagedFile> {
    node.admission.check_anonymous()?;
    let limits = &node.context.limits;
    let most = limits.content_bytes.min(limits.anonymous_upload_bytes);
    let mut upload = node.files().upload(most);
    upload.write(read_document(body, most).await?).await?;
    Ok(upload.finish().await?)
}

pub(super) fn no_file() -> ApiError {
    ApiError::bad_request("the form has no part 'file'; send the bytes in one")
}

/// Submits the message of a file that is known now, if there is one, and answers with `body` unless it is refused.
pub(super) async fn submit(node: &Node, metadata: Option<Metadata>, body: Value) -> Answer<Response> {
    let Some(metadata) = metadata else { return Ok(Json(body).into_response()) };
    let wait = metadata.sync.then_some(node.context.timing.sync_wait);
    let outcome = node.pipeline.submit(metadata.message, wait).await?;
    match (&outcome.rejection, outcome.status) {
        (Some(rejection), _) => Err(ApiError::rejected(rejection)),
        (None, MessageStatus::Forgotten | MessageStatus::Removed) => {
            Err(ApiError::gone(format!("the message was {}; sign a new one", outcome.status.as_str())))
        }
        (None, status) => Ok((http_status(status), Json(body)).into_response()),
    }
}

/// Checks that the file, which the answer would call `called`, is the one of the message.
pub(super) fn check_name(file: &StagedFile, metadata: &Metadata, called: &str) -> Answer<()> {
    let expected = &metadata.content.item_hash;
    if expected.parse().is_ok_and(|name| file.all_names().contains(&name)) {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "File hash does not match ({called} != {expected}): sign a message that names this file"
    )))
}

/// Checks that the owner of a file can pay for it.
pub(super) async fn check_funds_for(node: &Node, file: &StagedFile, metadata: &Metadata) -> Answer<()> {
    let content = &metadata.content;
    let mut db = node.db().await?;
    let table = node.context.network.price_table(&mut db).await?;
    let cost = store_price(&content.address, file.bytes(), &table).cost;
    let price = costs::read(&cost, &file.hash())?;
    if price.is_zero() {
        return Ok(());
    }
    let charge = check_method(content.into(), &node.context.payment).map_err(|r| ApiError::rejected(&r))?;
    let locked = costs::locked(&mut db, &content.address.canonical()).await?;
    // Others need the connection while the balance is read.
    drop(db);
    let (cost, balance) = (charge.of(price), accounts::holding(node, &content.address).await?);
    let funds = Funds { balance, locked };
    check_funds(&content.address, funds, cost).map_err(|refusal| match refusal {
        Refusal::Final(rejection) => ApiError::payment_required(&rejection),
        // Large files are for those of whom is known that they can pay.
        Refusal::Until(..) => accounts::unknown(node, &content.address),
    })
}
