//! The archive of snapshot sets; see [`protocol::api::archive`].

use std::pin::Pin;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use protocol::api::archive::{
    ArchiveCode, ArchiveList, DIGEST_HEADER, SetBegun, SetCompletion, SetDraft, SetRecord, StreamReceived,
};
use protocol::data::SnapshotId;
use protocol::signed_request::{OPERATION_HEADER, PUBKEY_HEADER, Verified};
use protocol::{Epoch, ProgramId};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::MAX_JSON_BYTES;
use super::described::Binary;
use super::error::{Answer, ApiError};
use super::openapi::ArchiveRefusals;
use super::parameters::{InProgram, InSet, InVolume, ReadsFor};
use super::path::Path;
use super::query::Params;
use crate::archive::Request;
use crate::core::archive::Refusal;
use crate::node::Node;

/// A sender of a stream that sends nothing for this long has gone.
const SILENCE: Duration = Duration::from_secs(60);
/// How long to go on reading a stream that was refused, so that its sender reads the answer instead of a broken connection.
const DRAIN: Duration = Duration::from_secs(2);

/// Who signed the request.
fn signer(node: &Node, method: &Method, uri: &OriginalUri, headers: &HeaderMap) -> Answer<Verified> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let request = Request {
        method: method.as_str(),
        path: uri.path(),
        pubkey: header(PUBKEY_HEADER),
        operation: header(OPERATION_HEADER),
        host: header(header::HOST.as_str()),
    };
    node.archive.authenticate(&request).map_err(ApiError::from)
}

fn program(text: &str) -> Answer<ProgramId> {
    text.parse().map_err(|e: protocol::id::IdError| bad_id(e.to_string()))
}

fn set(text: &str) -> Answer<SnapshotId> {
    let id: SnapshotId = text.parse().map_err(|e: protocol::data::NotASnapshotId| bad_id(e.to_string()))?;
    check_numbers(id)
}

/// The database has no greater numbers.
fn check_numbers(id: SnapshotId) -> Answer<SnapshotId> {
    let most = i64::MAX.unsigned_abs();
    match id.epoch.get() <= most && id.sequence <= most {
        true => Ok(id),
        false => Err(bad_id(format!("'{id}' has a number above {most}"))),
    }
}

fn volume(text: &str) -> Answer<&str> {
    let is_key = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let message = || format!("'{text}' stands for no volume: expected 32 hexadecimal digits, of the name's SHA-256");
    if is_key { Ok(text) } else { Err(bad_id(message())) }
}

fn bad_id(message: String) -> ApiError {
    Refusal::new(ArchiveCode::BadId, message).into()
}

/// The program that is to start with what is read, if it is another one.
fn reads_for(params: &Params) -> Answer<Option<ProgramId>> {
    params.present(&["for"]).map(program).transpose()
}

/// `GET …/snapshots`.
#[utoipa::path(get, path = "/api/v1/programs/{program}/snapshots", tag = "snapshots", operation_id = "snapshots",
    params(InProgram, ReadsFor), security(("delegation" = [], "operation" = [])),
    responses((status = 200, description = "All sets", body = ArchiveList), ArchiveRefusals))]
pub(super) async fn list(
    State(node): State<Node>,
    Path(program_id): Path<String>,
    uri: OriginalUri,
    headers: HeaderMap,
    params: Params,
) -> Answer<Json<ArchiveList>> {
    let program = program(&program_id)?;
    let by = signer(&node, &Method::GET, &uri, &headers)?;
    Ok(Json(node.archive.list(&by, &program, reads_for(&params)?.as_ref()).await?))
}

/// `POST …/snapshots`.
#[utoipa::path(post, path = "/api/v1/programs/{program}/snapshots", tag = "snapshots",
    operation_id = "begin_snapshot",
    params(InProgram), request_body = SetDraft, security(("delegation" = [], "operation" = [])),
    responses((status = 201, description = "It is begun", body = SetBegun), ArchiveRefusals))]
pub(super) async fn begin(
    State(node): State<Node>,
    Path(program_id): Path<String>,
    uri: OriginalUri,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let program = program(&program_id)?;
    let by = signer(&node, &Method::POST, &uri, &headers)?;
    let draft: SetDraft = read_json(body).await?;
    check_numbers(draft.id)?;
    Ok((StatusCode::CREATED, Json(node.archive.begin(&by, &program, draft).await?)).into_response())
}

/// `GET …/snapshots/{id}`.
#[utoipa::path(get, path = "/api/v1/programs/{program}/snapshots/{id}", tag = "snapshots", operation_id = "snapshot",
    params(InSet, ReadsFor), security(("delegation" = [], "operation" = [])),
    responses((status = 200, description = "The set", body = SetRecord), ArchiveRefusals))]
pub(super) async fn get(
    State(node): State<Node>,
    Path((program_id, id)): Path<(String, String)>,
    uri: OriginalUri,
    headers: HeaderMap,
    params: Params,
) -> Answer<Json<SetRecord>> {
    let (program, id) = (program(&program_id)?, set(&id)?);
    let by = signer(&node, &Method::GET, &uri, &headers)?;
    Ok(Json(node.archive.set(&by, &program, reads_for(&params)?.as_ref(), id).await?))
}

/// `POST …/snapshots/{id}/complete`.
#[utoipa::path(post, path = "/api/v1/programs/{program}/snapshots/{id}/complete", tag = "snapshots",
    operation_id = "complete_snapshot",
    params(InSet), request_body = SetCompletion, security(("delegation" = [], "operation" = [])),
    responses((status = 200, description = "It counts", body = SetRecord), ArchiveRefusals))]
pub(super) async fn complete(
    State(node): State<Node>,
    Path((program_id, id)): Path<(String, String)>,
    uri: OriginalUri,
    headers: HeaderMap,
    body: Body,
) -> Answer<Json<SetRecord>> {
    let (program, id) = (program(&program_id)?, set(&id)?);
    let by = signer(&node, &Method::POST, &uri, &headers)?;
    let completion: SetCompletion = read_json(body).await?;
    Ok(Json(node.archive.complete(&by, &program, id, &completion).await?))
}

/// `DELETE …/snapshots/{id}?epoch=…`.
#[utoipa::path(delete, path = "/api/v1/programs/{program}/snapshots/{id}", tag = "snapshots",
    operation_id = "delete_snapshot",
    params(InSet, ("epoch" = inline(Epoch), Query, description = "That of the writer")),
        security(("delegation" = [], "operation" = [])),
    responses((status = 204, description = "It is gone"), ArchiveRefusals))]
pub(super) async fn delete(
    State(node): State<Node>,
    Path((program_id, id)): Path<(String, String)>,
    uri: OriginalUri,
    headers: HeaderMap,
    params: Params,
) -> Answer<StatusCode> {
    let (program, id) = (program(&program_id)?, set(&id)?);
    let by = signer(&node, &Method::DELETE, &uri, &headers)?;
    let Some(epoch) = params.get(&["epoch"]).and_then(|number| number.parse().ok()).map(Epoch::new) else {
        let message = "say in which epoch you hold the program: ?epoch=…, a whole number";
        return Err(Refusal::new(ArchiveCode::Invalid, message).into());
    };
    check_numbers(SnapshotId::new(epoch, 0))?;
    node.archive.delete(&by, &program, epoch, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT …/snapshots/{id}/volumes/{key}`: the bytes of the stream, as long as they are.
#[utoipa::path(put, path = "/api/v1/programs/{program}/snapshots/{id}/volumes/{volume}", tag = "snapshots",
    operation_id = "send_stream",
    params(InVolume), request_body(content = Binary, content_type = "application/octet-stream"),
        security(("delegation" = [], "operation" = [])),
    responses((status = 200, description = "It arrived", body = StreamReceived), ArchiveRefusals))]
pub(super) async fn send(
    State(node): State<Node>,
    Path((program_id, id, key)): Path<(String, String, String)>,
    uri: OriginalUri,
    headers: HeaderMap,
    body: Body,
) -> Answer<Response> {
    let (program, id, key) = (program(&program_id)?, set(&id)?, volume(&key)?);
    let by = signer(&node, &Method::PUT, &uri, &headers)?;
    // The body stays here: whatever becomes of the stream, what is left of it is read before the answer.
    let (pieces, arriving) = mpsc::channel(1);
    let mut received = std::pin::pin!(node.archive.receive(&by, &program, id, key, arriving_of(arriving).boxed()));
    let mut chunks: Chunks = Box::pin(chunks_of(body).fuse());
    let result = {
        let passed_on = async {
            while let Some(chunk) = chunks.next().await {
                let failed = chunk.is_err();
                if pieces.send(Some(chunk)).await.is_err() || failed {
                    return;
                }
            }
            // An error means that the stream was refused, which is the answer.
            let _ = pieces.send(None).await;
        };
        tokio::select! {
            result = &mut received => result,
            () = passed_on => received.await,
        }
    };
    if result.is_err() {
        let drained = async { while matches!(chunks.next().await, Some(Ok(_))) {} };
        // Whoever sends for longer finds the connection closed.
        let _ = timeout(DRAIN, drained).await;
    }
    Ok(Json(result?).into_response())
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, Refusal>> + Send>>;

/// What is passed on of a body, `None` at its end. Without that the request has ended before its body.
fn arriving_of(pieces: mpsc::Receiver<Piece>) -> impl Stream<Item = Result<Bytes, Refusal>> + Send {
    stream::unfold(Some(pieces), async |pieces| {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(piece) => Some((piece?, Some(pieces))),
            None => Some((Err(broken("the stream broke off; send it again".to_owned())), None)),
        }
    })
}

type Piece = Option<Result<Bytes, Refusal>>;

fn broken(message: String) -> Refusal {
    Refusal::new(ArchiveCode::Incomplete, message)
}

/// The body as it comes; ends with an error when nothing comes.
fn chunks_of(body: Body) -> impl Stream<Item = Result<Bytes, Refusal>> + Send {
    stream::unfold(Some(body.into_data_stream()), async |chunks| {
        let mut chunks = chunks?;
        match timeout(SILENCE, chunks.next()).await {
            Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(chunks))),
            Ok(Some(Err(error))) => Some((Err(broken(format!("the stream broke off: {error}; send it again"))), None)),
            Ok(None) => None,
            Err(_) => {
                let seconds = SILENCE.as_secs();
                Some((Err(broken(format!("nothing of the stream was sent for {seconds} s; send it again"))), None))
            }
        }
    })
}

/// `GET …/snapshots/{id}/volumes/{key}`.
#[utoipa::path(get, path = "/api/v1/programs/{program}/snapshots/{id}/volumes/{volume}", tag = "snapshots",
    operation_id = "stream",
    params(InVolume, ReadsFor), security(("delegation" = [], "operation" = [])),
    responses((status = 200, description = "The stream", body = Binary, content_type = "application/octet-stream"),
        ArchiveRefusals))]
pub(super) async fn fetch(
    State(node): State<Node>,
    Path((program_id, id, key)): Path<(String, String, String)>,
    uri: OriginalUri,
    headers: HeaderMap,
    params: Params,
) -> Answer<Response> {
    let (program, id, key) = (program(&program_id)?, set(&id)?, volume(&key)?);
    let by = signer(&node, &Method::GET, &uri, &headers)?;
    let reads_for = reads_for(&params)?;
    let (received, bytes) = node.archive.open_stream(&by, &program, reads_for.as_ref(), (id, key)).await?;
    let response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, received.bytes)
        .header(DIGEST_HEADER, received.sha256.to_string())
        .header(header::CACHE_CONTROL, "private, no-store")
        .body(Body::from_stream(bytes));
    Ok(response.expect("hashes and numbers are valid headers"))
}

async fn read_json<T: DeserializeOwned>(body: Body) -> Answer<T> {
    let refused = |code, message: String| ApiError::from(Refusal::new(code, message));
    let body = timeout(SILENCE, axum::body::to_bytes(body, MAX_JSON_BYTES)).await;
    let body = body
        .map_err(|_| refused(ArchiveCode::Incomplete, "the body did not arrive; send it again".to_owned()))?
        .map_err(|e| refused(ArchiveCode::TooLarge, format!("the body cannot be read: {e}")))?;
    serde_json::from_slice(&body)
        .map_err(|e| refused(ArchiveCode::Invalid, format!("the body is not as expected: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_that_ends_before_its_body_is_no_end_of_a_stream() {
        let piece = || Some(Ok(Bytes::from("x")));
        let (pieces, arriving) = mpsc::channel(2);
        pieces.send(piece()).await.unwrap();
        drop(pieces);
        let got: Vec<_> = arriving_of(arriving).collect().await;
        assert!(matches!(&got[..], [Ok(_), Err(refusal)] if refusal.code == ArchiveCode::Incomplete));
        let (pieces, arriving) = mpsc::channel(2);
        pieces.send(piece()).await.unwrap();
        pieces.send(None).await.unwrap();
        assert_eq!(arriving_of(arriving).count().await, 1);
    }

    #[test]
    fn ids_that_are_none_are_refused() {
        assert!(set("3-17").is_ok() && volume(&"0f".repeat(16)).is_ok() && program(&"0f".repeat(32)).is_ok());
        for wrong in ["", "3", "../1-1", "03-1", "1-9223372036854775808", "18446744073709551615-1"] {
            assert!(set(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "../../x", &"0F".repeat(16), &"0f".repeat(15)] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
        assert!(program("..").is_err());
    }
}
