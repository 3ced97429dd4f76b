//! Files that are called by a CID: `POST /ipfs/add_file`, `add_json` and `add_car`. They are kept like all others; there is no
//! daemon of IPFS, and nothing is fetched from its network or offered to it.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use protocol::FileName;
use protocol::message::ItemType;
use serde_json::json;

use super::described::{AddedFile, Binary, CarForm, FileForm};
use super::error::{Answer, ApiError};
use super::openapi::{
    BadRequest, Failed, Forbidden, Gone, Invalid, NotAllowed, Rejected, TimedOut, TooLarge, TooMuch, Unpaid,
};
use super::receive::{Metadata, Parts, Sink, Turn, is_form, read_form};
use super::upload::{Arrived, check_funds_for, check_name, no_file, receive, receive_document, submit};
use crate::core::car::CarReader;
use crate::files::Spool;
use crate::node::Node;

/// What a file is called that came without a name.
const UNNAMED: &str = "file";

/// A file, as for the store. It is called as `ipfs add` does, or as the STORE message says that comes with it. `size` is in
/// bytes.
#[utoipa::path(post, path = "/api/v0/ipfs/add_file", tag = "ipfs", operation_id = "ipfs_add_file",
    request_body(content((FileForm = "multipart/form-data"), (Binary = "application/octet-stream"))),
    responses((status = 200, description = "It is here", body = AddedFile),
        (status = 202, description = "It is here; the message is not decided yet", body = AddedFile),
        BadRequest, Unpaid, Forbidden, TimedOut, Gone, TooLarge, Rejected, TooMuch, Failed))]
pub(super) async fn add_file(State(node): State<Node>, request: Request) -> Answer<Response> {
    let _turn = Turn::take(&node)?;
    let Arrived { file, filename, metadata } = receive(&node, request, node.context.limits.ipfs_upload_bytes).await?;
    let mut cid = file.names.v0.to_string();
    if let Some(metadata) = &metadata {
        check_item_type(metadata)?;
        check_name(&file, metadata, &cid)?;
        node.admission.check(&metadata.message, file.bytes())?;
        check_funds_for(&node, &file, metadata).await?;
        cid.clone_from(&metadata.content.item_hash);
    }
    let name = filename.unwrap_or_else(|| UNNAMED.to_owned());
    let body = json!({ "status": "success", "hash": cid, "name": name, "size": file.bytes() });
    node.publish(file).await?;
    submit(&node, metadata, body).await
}

/// A JSON document, kept byte for byte as it was sent: its CID is that of the body.
#[utoipa::path(post, path = "/api/v0/ipfs/add_json", tag = "ipfs", operation_id = "ipfs_add_json",
    request_body = Value,
    responses((status = 200, description = "It is here", body = AddedFile), NotAllowed, TimedOut, TooLarge,
        Invalid, Failed))]
pub(super) async fn add_json(State(node): State<Node>, body: Body) -> Answer<Response> {
    let _turn = Turn::take(&node)?;
    let file = receive_document(&node, body).await?;
    let body = json!({ "status": "success", "hash": file.names.v0.to_string() });
    node.publish(file).await?;
    Ok(Json(body).into_response())
}

/// A CAR file on its way in.
struct CarSink {
    spool: Spool,
    reader: CarReader,
}

impl Sink for CarSink {
    async fn take(&mut self, bytes: Bytes) -> Answer<()> {
        self.spool.write(bytes.clone()).await?;
        Ok(self.reader.push(&bytes)?)
    }

    fn taken(&self) -> u64 {
        self.spool.bytes()
    }
}

/// A file as a CAR file, in the part `file` of a form; the STORE message of its root in the part `metadata` is required, as
/// by pyaleph. `size` is that of the file, in bytes.
#[utoipa::path(post, path = "/api/v0/ipfs/add_car", tag = "ipfs", operation_id = "ipfs_add_car",
    request_body(content = CarForm, content_type = "multipart/form-data"),
    responses((status = 200, description = "It is here", body = AddedFile),
        (status = 202, description = "It is here; the message is not decided yet", body = AddedFile),
        BadRequest, Unpaid, Forbidden, TimedOut, Gone, TooLarge, Rejected, TooMuch, Failed))]
pub(super) async fn add_car(State(node): State<Node>, request: Request) -> Answer<Response> {
    let _turn = Turn::take(&node)?;
    if !is_form(&request) {
        return Err(ApiError::bad_request("send a form, 'multipart/form-data', with the parts 'file' and 'metadata'"));
    }
    let limits = &node.context.limits;
    let sink = CarSink { spool: node.files().spool(limits.car_upload_bytes), reader: CarReader::default() };
    let Parts { file, metadata } = read_form(request, sink, |sender| node.admission.check_sender(sender)).await?;
    let (CarSink { spool, reader }, _) = file.ok_or_else(no_file)?;
    let metadata = metadata.ok_or_else(|| {
        ApiError::invalid("metadata is required for CAR upload: send a STORE message in the part 'metadata'")
    })?;
    check_item_type(&metadata)?;
    let index = reader.finish()?;
    check_root(index.root, &metadata)?;
    let file = node.files().import(&spool.finish().await?, &index, limits.ipfs_upload_bytes).await?;
    node.admission.check(&metadata.message, file.bytes())?;
    check_funds_for(&node, &file, &metadata).await?;
    let body = json!({ "status": "success", "hash": metadata.content.item_hash, "size": file.bytes() });
    node.publish(file).await?;
    submit(&node, Some(metadata), body).await
}

fn check_item_type(metadata: &Metadata) -> Answer<()> {
    match metadata.content.item_type {
        ItemType::Ipfs => Ok(()),
        other => Err(ApiError::invalid(format!(
            "Expected item_type=ipfs in STORE message, got {other}; a file of another item type goes to /api/v0/storage/add_file"
        ))),
    }
}

fn check_root(root: FileName, metadata: &Metadata) -> Answer<()> {
    let expected = &metadata.content.item_hash;
    if expected.parse() == Ok(root) {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "Root CID does not match ({root} != {expected}): sign a message that names the root"
    )))
}
