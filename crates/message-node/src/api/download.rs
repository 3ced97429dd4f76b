//! Files on their way out: `GET /storage/…`.

use std::ops::Range;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use protocol::message::ItemType;
use protocol::{FileName, FileNameError};
use serde_json::{Value, json};

use super::error::{Answer, ApiError};
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
    found.ok_or_else(|| ApiError::not_found(format!("no file {hash} is here")))
}

/// `GET /storage/raw/{hash}`: the bytes, or a range of them.
pub(super) async fn raw(
    State(node): State<Node>,
    method: Method,
    Path(hash): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let Found { hash, bytes } = find(&node, &hash).await?;
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
        false => Body::from_stream(node.files().stream(&hash, range).await?),
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

/// `GET /storage/{hash}`: a small file as base64 inside JSON.
pub(super) async fn as_json(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Json<Value>> {
    let found = find(&node, &hash).await?;
    let bytes = found.bytes;
    if bytes > MAX_JSON_FILE_BYTES {
        let message = format!("the file has {bytes} bytes, too many for JSON: use /api/v0/storage/raw/{hash}");
        return Err(ApiError::too_large(message));
    }
    let content = BASE64.encode(&node.files().bytes(&found.hash).await?);
    let engine = if hash == found.hash { ItemType::Storage } else { ItemType::Ipfs };
    Ok(Json(json!({ "status": "success", "hash": hash, "engine": engine, "content": content })))
}

/// `GET /storage/metadata/{hash}`.
pub(super) async fn metadata(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Json<Value>> {
    let size = find(&node, &hash).await?.bytes;
    Ok(Json(json!({ "file_hash": hash, "type": "file", "size": size, "download_url": download_url(&hash) })))
}

/// `GET /storage/count/{hash}`: how many messages in force refer to a file, by whichever name.
pub(super) async fn count(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Json<i64>> {
    let mut db = node.db().await?;
    Ok(Json(match files::find(&mut db, name(&hash)?).await? {
        Some(found) => files::references(&mut db, &found.hash).await?,
        None => 0,
    }))
}

/// `GET /storage/by-message-hash/{hash}`: the file of a STORE message.
pub(super) async fn by_message_hash(State(node): State<Node>, Path(hash): Path<String>) -> Answer<Json<Value>> {
    let row = stores::get(&mut *node.db().await?, &hash).await?;
    let reference = row.as_ref().and_then(|row| row.reference.clone()).unwrap_or_else(|| hash.clone());
    described(row.as_ref(), &reference, &hash)
}

/// `GET /storage/by-ref/{ref}`: the newest version of the file that a STORE message first published.
pub(super) async fn by_ref(State(node): State<Node>, Path(reference): Path<String>) -> Answer<Json<Value>> {
    if !is_item_hash(&reference) {
        let message = format!("'{reference}' is a name: ask for /api/v0/storage/by-ref/<address>/{reference}");
        return Err(ApiError::bad_request(message));
    }
    let row = stores::newest(&mut *node.db().await?, &reference).await?;
    described(row.as_ref(), &reference, &reference)
}

/// `GET /storage/by-ref/{address}/{ref}`: the newest version of the file that its owner calls by a name.
pub(super) async fn by_owner_and_ref(
    State(node): State<Node>,
    Path((address, reference)): Path<(String, String)>,
) -> Answer<Json<Value>> {
    let tag = match is_item_hash(&reference) {
        true => reference.clone(),
        false => named_tag(&protocol::Address::new(address), &reference),
    };
    let row = stores::newest(&mut *node.db().await?, &tag).await?;
    described(row.as_ref(), &reference, &tag)
}

fn described(row: Option<&StoreRow>, reference: &str, asked: &str) -> Answer<Json<Value>> {
    let row = row.ok_or_else(|| ApiError::not_found(format!("no file is published under {asked}")))?;
    Ok(Json(json!({
        "ref": reference,
        "owner": row.address,
        "file_hash": row.file_hash,
        "download_url": download_url(&row.file_hash),
        "size": from_db(row.size),
    })))
}

fn download_url(hash: &str) -> String {
    format!("/api/v0/storage/raw/{hash}")
}

/// `GET /storage/limits.json`, in bytes.
pub(super) async fn limits(State(node): State<Node>) -> Json<Value> {
    let limits = &node.context.limits;
    Json(json!({
        "storage": {
            "max_file_size": limits.upload_bytes,
            "max_unauthenticated_upload_file_size": limits.anonymous_upload_bytes,
        },
        "ipfs": {
            "max_upload_file_size": limits.ipfs_upload_bytes,
            "max_upload_car_size": limits.car_upload_bytes,
            "max_unauthenticated_upload_file_size": limits.anonymous_upload_bytes,
        },
    }))
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
