//! Files on their way in: `POST /storage/add_file` and `add_json`.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use protocol::api::message_node::{AddFileMetadata, MessageStatus};
use protocol::message::{Envelope, ItemType, MessageType, StoreContent};
use serde_json::json;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout};

use super::error::{Answer, ApiError};
use super::submit::{http_status, parse_json};
use super::{MAX_JSON_BYTES, accounts};
use crate::clock::{micros, now_us};
use crate::core::Refusal;
use crate::core::chain::Holding;
use crate::core::content::Content;
use crate::core::payment::{Funds, check_funds};
use crate::files::{StagedFile, Upload};
use crate::node::Node;
use crate::prices::store_price;
use crate::store::costs;

/// A client that sends nothing for this long has gone.
const SILENCE: Duration = Duration::from_secs(30);
/// After this time an upload must have kept up [`MIN_BYTES_PER_SECOND`], because it takes the place of others.
const WARM_UP: Duration = Duration::from_secs(60);
/// The slowest upload, on average.
const MIN_BYTES_PER_SECOND: u64 = 16 * 1024;

/// What came with a file: the message that publishes it.
struct Metadata {
    message: Envelope,
    sync: bool,
    content: StoreContent,
}

/// The parts of a request, in whichever order they came.
#[derive(Default)]
struct Parts {
    file: Option<StagedFile>,
    metadata: Option<Metadata>,
}

/// An upload that may go on. Counts as one as long as it lives.
struct Turn<'a> {
    node: &'a Node,
    _permit: SemaphorePermit<'a>,
}

impl<'a> Turn<'a> {
    fn take(node: &'a Node) -> Answer<Self> {
        let permit = node.uploads.try_acquire();
        let permit =
            permit.map_err(|_| ApiError::busy("too many uploads at the same time; try again in a few seconds"))?;
        node.context.metrics.uploads.increment(1.0);
        Ok(Self { node, _permit: permit })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.node.context.metrics.uploads.decrement(1.0);
    }
}

/// A file, as a form with the parts `file` and `metadata` (a STORE message; without it the file is smaller and collected
/// after its grace time), or as the body itself.
pub(super) async fn add_file(State(node): State<Node>, request: Request) -> Answer<Response> {
    let _turn = Turn::take(&node)?;
    let is_form = request.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
        value.to_str().is_ok_and(|value| value.trim_start().to_ascii_lowercase().starts_with("multipart/form-data"))
    });
    let parts = if is_form {
        let form = Multipart::from_request(request, &node).await;
        read_form(&node, form.map_err(|e| ApiError::bad_request(e.body_text()))?).await?
    } else {
        let mut upload = node.files().upload(node.context.limits.anonymous_upload_bytes).await?;
        write_body(&mut upload, request.into_body()).await?;
        Parts { file: Some(upload.finish().await?), metadata: None }
    };
    let Some(file) = parts.file else {
        return Err(ApiError::bad_request("the form has no part 'file'"));
    };
    match &parts.metadata {
        Some(metadata) => check_file(&node, &file, metadata).await?,
        None => check_anonymous(&node, &file)?,
    }
    let hash = publish(&node, file).await?;
    let Some(metadata) = parts.metadata else { return Ok(stored(StatusCode::OK, &hash)) };
    let wait = metadata.sync.then_some(node.context.timing.sync_wait);
    let outcome = node.pipeline.submit(metadata.message, wait).await?;
    match (&outcome.rejection, outcome.status) {
        (Some(rejection), _) => Err(ApiError::rejected(rejection)),
        (None, MessageStatus::Forgotten | MessageStatus::Removed) => {
            Err(ApiError::gone(format!("the message was {}", outcome.status.as_str())))
        }
        (None, status) => Ok(stored(http_status(status), &hash)),
    }
}

/// A JSON document, kept byte for byte as it was sent: its hash is that of the body.
pub(super) async fn add_json(State(node): State<Node>, body: Body) -> Answer<Response> {
    let _turn = Turn::take(&node)?;
    let most = node.context.limits.content_bytes.min(node.context.limits.anonymous_upload_bytes);
    let body = timeout(SILENCE, axum::body::to_bytes(body, usize::try_from(most).unwrap_or(usize::MAX))).await;
    let body = body
        .map_err(|_| silent())?
        .map_err(|_| ApiError::too_large(format!("the document has more than {most} bytes")))?;
    parse_json::<serde::de::IgnoredAny>(&body)?;
    let mut upload = node.files().upload(most).await?;
    upload.write(body).await?;
    let hash = publish(&node, upload.finish().await?).await?;
    Ok(stored(StatusCode::OK, &hash))
}

fn stored(status: StatusCode, hash: &str) -> Response {
    (status, Json(json!({ "status": "success", "hash": hash }))).into_response()
}

/// Makes a file known; gives its hash.
async fn publish(node: &Node, file: StagedFile) -> Answer<String> {
    let (hash, bytes) = (file.hash.clone(), file.bytes);
    let keep_until_us = now_us() + micros(node.context.timing.file_grace);
    node.files().publish(file, node.store(), keep_until_us).await?;
    node.context.metrics.uploaded_bytes.increment(bytes);
    node.pipeline.file_arrived(&hash);
    Ok(hash)
}

async fn read_form(node: &Node, mut form: Multipart) -> Answer<Parts> {
    let mut parts = Parts::default();
    while let Some(mut field) = patiently(form.next_field()).await? {
        match field.name() {
            Some("file") if parts.file.is_none() => {
                let mut upload = node.files().upload(node.context.limits.upload_bytes).await?;
                let started = Instant::now();
                while let Some(chunk) = patiently(field.chunk()).await? {
                    upload.write(chunk).await?;
                    check_pace(upload.bytes(), started.elapsed())?;
                }
                parts.file = Some(upload.finish().await?);
            }
            Some("metadata") if parts.metadata.is_none() => {
                parts.metadata = Some(read_metadata(&read_small(&mut field).await?)?);
            }
            Some(name @ ("file" | "metadata")) => {
                return Err(ApiError::bad_request(format!("the form has two parts '{name}'")));
            }
            _ => drop(read_small(&mut field).await?),
        }
    }
    Ok(parts)
}

async fn read_small(field: &mut Field<'_>) -> Answer<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = patiently(field.chunk()).await? {
        if bytes.len() + chunk.len() > MAX_JSON_BYTES {
            return Err(ApiError::too_large(format!("a part of the form has more than {MAX_JSON_BYTES} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn patiently<T>(read: impl Future<Output = Result<T, MultipartError>>) -> Answer<T> {
    let read = timeout(SILENCE, read).await.map_err(|_| silent())?;
    read.map_err(|e| ApiError::bad_request(format!("the form cannot be read: {}", e.body_text())))
}

fn silent() -> ApiError {
    ApiError::timed_out(format!("nothing was sent for {} s", SILENCE.as_secs()))
}

async fn write_body(upload: &mut Upload, body: Body) -> Answer<()> {
    let (mut chunks, started) = (body.into_data_stream(), Instant::now());
    while let Some(chunk) = timeout(SILENCE, chunks.next()).await.map_err(|_| silent())? {
        let chunk: Bytes = chunk.map_err(|e| ApiError::bad_request(format!("the body cannot be read: {e}")))?;
        upload.write(chunk).await?;
        check_pace(upload.bytes(), started.elapsed())?;
    }
    Ok(())
}

fn check_pace(bytes: u64, elapsed: Duration) -> Answer<()> {
    if elapsed < WARM_UP || bytes >= elapsed.as_secs() * MIN_BYTES_PER_SECOND {
        return Ok(());
    }
    Err(ApiError::timed_out(format!("the upload is slower than {MIN_BYTES_PER_SECOND} bytes per second")))
}

/// Reads the message and checks what can be checked without the file. The signature is checked here, too, and not only when
/// the message is processed: large files are for those who sign.
fn read_metadata(bytes: &[u8]) -> Answer<Metadata> {
    let AddFileMetadata { message, sync } = parse_json(bytes)?;
    message.verify_form()?;
    if message.message_type != MessageType::Store || message.item_type != ItemType::Inline {
        return Err(ApiError::invalid("the message of a file is a STORE message with item_type 'inline'"));
    }
    let text = message.item_content.as_deref().unwrap_or_default();
    let content = match Content::parse(MessageType::Store, text) {
        Ok(Content::Store(content)) => content,
        Ok(_) => unreachable!("a STORE message has the content of one"),
        Err(rejection) => return Err(ApiError::rejected(&rejection)),
    };
    message.verify_signature().map_err(|error| ApiError::wrong_signature(&error))?;
    Ok(Metadata { message, sync, content })
}

/// Checks that the file is the one of the message and that its owner can pay for it.
async fn check_file(node: &Node, file: &StagedFile, metadata: &Metadata) -> Answer<()> {
    let content = &metadata.content;
    if content.item_hash != file.hash {
        let message = format!("File hash does not match ({} != {})", file.hash, content.item_hash);
        return Err(ApiError::invalid(message));
    }
    let mut db = node.db().await?;
    let table = node.context.network.price_table(&mut db).await?;
    let cost = store_price(&content.address, file.bytes, &table).cost;
    let cost = costs::read(&cost, &file.hash)?;
    let locked = costs::locked(&mut db, &content.address.canonical()).await?;
    let balance = match cost.is_zero() {
        true => Holding::Unlimited,
        false => accounts::holding(node, &content.address).await,
    };
    let funds = Funds { balance, locked };
    check_funds(&content.address, funds, cost).map_err(|refusal| match refusal {
        Refusal::Final(rejection) => ApiError::payment_required(&rejection),
        // Large files are for those of whom is known that they can pay.
        Refusal::Until(..) => accounts::unknown(node, &content.address),
    })
}

fn check_anonymous(node: &Node, file: &StagedFile) -> Answer<()> {
    let most = node.context.limits.anonymous_upload_bytes;
    if file.bytes <= most {
        return Ok(());
    }
    let message = format!("a file without a STORE message has at most {most} bytes; send one in the part 'metadata'");
    Err(ApiError::too_large(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_uploads_make_room_for_others() {
        let minute = WARM_UP.as_secs() * MIN_BYTES_PER_SECOND;
        assert!(check_pace(0, WARM_UP / 2).is_ok());
        assert!(check_pace(minute, WARM_UP).is_ok());
        assert!(check_pace(minute - 1, WARM_UP).is_err());
    }
}
