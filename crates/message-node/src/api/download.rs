//! Files on their way out: `GET /storage/…`.

use std::ops::Range;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use protocol::message::ItemType;
use protocol::{FileName, FileNameError};
use serde::Serialize;
use utoipa::ToSchema;

use super::described::Binary;
use super::error::{Answer, ApiError};
use super::openapi::{BadRequest, Failed, NotFound, OutOfRange, TooLarge};
use super::parameters::{MessageHash, NameOfFile};
use super::path::Path;
use crate::core::is_item_hash;
use crate::core::store::named_tag;
use crate::node::Node;
use crate::store::files::{self, Found};
use crate::store::from_db;
use crate::store::stores::{self, StoreRow};

/// The largest file that is sent inside JSON.
const MAX_JSON_FILE_BYTES: u64 = 25 * 1024 * 1024;

/// The name of a file, a SHA-256 or a CID.
fn name(hash: &str) -> Answer<FileName> {
    hash.parse()
        .map_err(|error: FileNameError| ApiError::bad_request(format!("'{hash}' is no hash of a file: {error}")))
}

/// A file that is there.
async fn find(node: &Node, hash: &str) -> Answer<Found> {
    let found = files::find(&mut *node.db().await?, name(hash)?).await?;
    found.ok_or_else(|| ApiError::not_found(format!("no file {hash} is here; check the hash, or upload the file")))
}

/// `GET /storage/raw/{hash}`: the bytes, or a range of them.
#[utoipa::path(get, path = "/api/v0/storage/raw/{hash}", tag = "files", params(NameOfFile),
    responses((status = 200, description = "The bytes", body = Binary, content_type = "application/octet-stream"),
        (status = 206, description = "The part that `Range` asks for", body = Binary,
        content_type = "application/octet-stream"),
        BadRequest, NotFound, OutOfRange, Failed))]
pub(super) async fn raw(
    State(node): State<Node>,
    method: Method,
    Path(hash): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let found = find(&node, &hash).await?;
    let (hash, bytes) = (&found.hash, found.bytes);
    let range = match headers.get(header::RANGE).and_then(|value| value.to_str().ok()) {
        Some(text) => match parse_range(text, bytes) {
            Asked::Part(range) => Some(range),
            Asked::Whole => None,
            Asked::Outside => return Ok(outside(bytes)),
        },
        None => None,
    };
    let length = range.as_ref().map_or(bytes, |range| range.end - range.start);
    let mut response = Response::builder()
        .status(if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK })
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, length)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, format!("\"{hash}\""))
        .header(header::CACHE_CONTROL, "public, max-age=31536000, immutable")
        // What people upload must not run as a page of this host.
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Some(range) = &range {
        response = response.header(header::CONTENT_RANGE, format!("bytes {}-{}/{bytes}", range.start, range.end - 1));
    }
    let body = match method == Method::HEAD || length == 0 {
        true => Body::empty(),
        false => Body::from_stream(node.files().stream(&found, range).await?),
    };
    Ok(response.body(body).expect("hashes and numbers are valid headers"))
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq)]
enum Asked {
    /// The whole file: several ranges, other units and nonsense are ignored, as RFC 9110 allows.
    Whole,
    /// A part.
    Part(Range<u64>),
    /// Nothing that the file has.
    Outside,
}

fn parse_range(text: &str, bytes: u64) -> Asked {
    let Some((first, last)) = text.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::Whole;
    };
    let range = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => return Asked::Whole,
        (Ok(first), Ok(last)) => first..last.saturating_add(1).min(bytes),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..bytes,
        (Err(_), Ok(last)) if first.trim().is_empty() => bytes.saturating_sub(last)..bytes,
        _ => return Asked::Whole,
    };
    if range.start < range.end { Asked::Part(range) } else { Asked::Outside }
}

fn outside(bytes: u64) -> Response {
    let mut response = ApiError::bad_range(bytes).into_response();
    let value = format!("bytes */{bytes}").parse().expect("a number is a valid header");
    response.headers_mut().insert(header::CONTENT_RANGE, value);
    response
}

/// A file inside JSON.
#[derive(Serialize, ToSchema)]
pub(super) struct FileInJson {
    /// `success`.
    status: &'static str,
    /// What it was asked for by.
    hash: String,
    /// Which kind of name that is.
    engine: ItemType,
    /// The bytes in base64.
    content: String,
}

/// `GET /storage/{hash}`: a small file as base64 inside JSON.
#[utoipa::path(get, path = "/api/v0/storage/{hash}", tag = "files", params(NameOfFile),
    responses((status = 200, description = "The bytes", body = FileInJson), BadRequest, NotFound, TooLarge, Failed))]
pub(super) async fn as_json(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Json<FileInJson>> {
    let found = find(&node, &hash).await?;
    let bytes = found.bytes;
    if bytes > MAX_JSON_FILE_BYTES {
        let message = format!("the file has {bytes} bytes, too many for JSON: use /api/v0/storage/raw/{hash}");
        return Err(ApiError::too_large(message));
    }
    let content = BASE64.encode(&node.files().bytes(&found).await?);
    let engine = if hash == found.hash { ItemType::Storage } else { ItemType::Ipfs };
    Ok(Json(FileInJson { status: "success", hash, engine, content }))
}

/// What is known of a file.
#[derive(Serialize, ToSchema)]
pub(super) struct FileFacts {
    /// What it was asked for by.
    file_hash: String,
    /// `file`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Bytes.
    size: u64,
    /// The path of its bytes.
    download_url: String,
}

/// `GET /storage/metadata/{hash}`.
#[utoipa::path(get, path = "/api/v0/storage/metadata/{hash}", tag = "files", params(NameOfFile),
    responses((status = 200, description = "What is known of it", body = FileFacts), BadRequest, NotFound, Failed))]
pub(super) async fn metadata(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Json<FileFacts>> {
    let size = find(&node, &hash).await?.bytes;
    let download_url = download_url(&hash);
    Ok(Json(FileFacts { file_hash: hash, kind: "file", size, download_url }))
}

/// `GET /storage/count/{hash}`: how many messages in force refer to a file, by whichever name.
#[utoipa::path(get, path = "/api/v0/storage/count/{hash}", tag = "files", params(NameOfFile),
    responses((status = 200, description = "So many messages", body = i64, content_type = "application/json"),
        BadRequest, Failed))]
pub(super) async fn count(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Json<i64>> {
    let mut db = node.db().await?;
    Ok(Json(match files::find(&mut db, name(&hash)?).await? {
        Some(found) => files::references(&mut db, &found.hash).await?,
        None => 0,
    }))
}

/// A file as a message published it.
#[derive(Serialize, ToSchema)]
pub(super) struct PublishedFile {
    /// What it was asked for by, or what its message calls it.
    #[serde(rename = "ref")]
    reference: String,
    owner: String,
    file_hash: String,
    /// The path of its bytes.
    download_url: String,
    /// Bytes.
    size: u64,
}

/// `GET /storage/by-message-hash/{hash}`: the file of a STORE message.
#[utoipa::path(get, path = "/api/v0/storage/by-message-hash/{hash}", tag = "files", params(MessageHash),
    responses((status = 200, description = "The file", body = PublishedFile), BadRequest, NotFound, Failed))]
pub(super) async fn by_message_hash(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Json<PublishedFile>> {
    let row = stores::get(&mut *node.db().await?, &hash).await?;
    let reference = row.as_ref().and_then(|row| row.reference.clone()).unwrap_or_else(|| hash.clone());
    described(row.as_ref(), &reference, &hash)
}

/// `GET /storage/by-ref/{ref}`: the newest version of the file that a STORE message first published.
#[utoipa::path(get, path = "/api/v0/storage/by-ref/{reference}", tag = "files",
    params(("reference" = String, Path, description = "The item hash of a STORE message")),
    responses((status = 200, description = "The file", body = PublishedFile), BadRequest, NotFound, Failed))]
pub(super) async fn by_ref(State(node): State<Node>, Path(reference): Path<String>) -> Answer<Json<PublishedFile>> {
    if !is_item_hash(&reference) {
        let message = format!("'{reference}' is a name: ask for /api/v0/storage/by-ref/<address>/{reference}");
        return Err(ApiError::bad_request(message));
    }
    let row = stores::newest(&mut *node.db().await?, &reference).await?;
    described(row.as_ref(), &reference, &reference)
}

/// `GET /storage/by-ref/{address}/{ref}`: the newest version of the file that its owner calls by a name.
#[utoipa::path(get, path = "/api/v0/storage/by-ref/{address}/{reference}", tag = "files",
    params(("address" = String, Path, description = "The owner"), ("reference" = String, Path,
        description = "What it calls the file")),
    responses((status = 200, description = "The file", body = PublishedFile), BadRequest, NotFound, Failed))]
pub(super) async fn by_owner_and_ref(
    State(node): State<Node>,
    Path((address, reference)): Path<(String, String)>,
) -> Answer<Json<PublishedFile>> {
    let tag = match is_item_hash(&reference) {
        true => reference.clone(),
        false => named_tag(&protocol::Address::new(address), &reference),
    };
    let row = stores::newest(&mut *node.db().await?, &tag).await?;
    described(row.as_ref(), &reference, &tag)
}

fn described(row: Option<&StoreRow>, reference: &str, asked: &str) -> Answer<Json<PublishedFile>> {
    let row = row.ok_or_else(|| {
        ApiError::not_found(format!("no file is published under {asked}; check it, or publish one by a STORE message"))
    })?;
    Ok(Json(PublishedFile {
        reference: reference.to_owned(),
        owner: row.address.clone(),
        file_hash: row.file_hash.clone(),
        download_url: download_url(&row.file_hash),
        size: from_db(row.size),
    }))
}

fn download_url(hash: &str) -> String {
    format!("/api/v0/storage/raw/{hash}")
}

/// The most bytes of what is uploaded.
#[derive(Serialize, ToSchema)]
pub(super) struct Limits {
    storage: StorageLimits,
    ipfs: IpfsLimits,
}

/// Of files that are called by their SHA-256.
#[derive(Serialize, ToSchema)]
struct StorageLimits {
    max_file_size: u64,
    max_unauthenticated_upload_file_size: u64,
}

/// Of files that are called by a CID.
#[derive(Serialize, ToSchema)]
struct IpfsLimits {
    max_upload_file_size: u64,
    max_upload_car_size: u64,
    max_unauthenticated_upload_file_size: u64,
}

/// `GET /storage/limits.json`, in bytes.
#[utoipa::path(get, path = "/api/v0/storage/limits.json", tag = "files",
    responses((status = 200, description = "Bytes", body = Limits)))]
pub(super) async fn limits(State(node): State<Node>) -> Json<Limits> {
    let limits = &node.context.limits;
    Json(Limits {
        storage: StorageLimits {
            max_file_size: limits.upload_bytes,
            max_unauthenticated_upload_file_size: limits.anonymous_upload_bytes,
        },
        ipfs: IpfsLimits {
            max_upload_file_size: limits.ipfs_upload_bytes,
            max_upload_car_size: limits.car_upload_bytes,
            max_unauthenticated_upload_file_size: limits.anonymous_upload_bytes,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_file() {
        assert_eq!(parse_range("bytes=0-4", 10), Asked::Part(0..5));
        assert_eq!(parse_range("bytes=5-", 10), Asked::Part(5..10));
        assert_eq!(parse_range("bytes=-3", 10), Asked::Part(7..10));
        assert_eq!(parse_range("bytes=-30", 10), Asked::Part(0..10));
        assert_eq!(parse_range("bytes=9-99999999999999999999", 10), Asked::Whole, "a number that is none");
        assert_eq!(parse_range("bytes=9-18446744073709551615", 10), Asked::Part(9..10));
        for outside in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(parse_range(outside, 10), Asked::Outside, "{outside}");
        }
        for ignored in ["bytes=4-2", "bytes=0-1,3-4", "items=0-1", "bytes=x-", "bytes=-"] {
            assert_eq!(parse_range(ignored, 10), Asked::Whole, "{ignored}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Asked::Outside);
    }
}
