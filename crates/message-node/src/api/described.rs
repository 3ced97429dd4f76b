//! What is only described: forms, which are read part by part, and answers of several shapes.
#![expect(dead_code, reason = "it is only described")]

use protocol::api::message_node::{AddFileMetadata, StoredMessage};
use serde::Serialize;
use utoipa::ToSchema;

/// Bytes as they are.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub(super) struct Binary(Vec<u8>);

/// A file, and the message that publishes it.
#[derive(ToSchema)]
pub(super) struct FileForm {
    /// The bytes.
    file: Binary,
    /// Without it the file may have fewer bytes, and is deleted after a while unless a message names it.
    metadata: Option<AddFileMetadata>,
}

/// A file in a CAR file of version 1, and the message that publishes it.
#[derive(ToSchema)]
pub(super) struct CarForm {
    /// The CAR file.
    file: Binary,
    metadata: AddFileMetadata,
}

/// A file that is called by a CID.
#[derive(ToSchema)]
pub(super) struct AddedFile {
    /// `success`.
    status: String,
    /// The CID.
    hash: String,
    /// What its sender calls it.
    name: Option<String>,
    /// Bytes; not told of JSON documents.
    size: Option<u64>,
}

/// Messages by page or by place.
#[derive(ToSchema)]
pub(super) struct MessageList {
    messages: Vec<StoredMessage>,
    /// Messages in a page.
    pagination_per_page: u32,
    /// The page, from 1; absent in lists by place.
    pagination_page: Option<u64>,
    /// How many messages there are in all; absent in lists by place.
    pagination_total: Option<u64>,
    /// `messages`; absent in lists by place.
    pagination_item: Option<String>,
    /// In lists by place: where the next part starts; null at the end.
    next_cursor: Option<String>,
}

/// Posts by page or by place.
#[derive(ToSchema)]
pub(super) struct PostList<Post> {
    posts: Vec<Post>,
    /// Posts in a page.
    pagination_per_page: u32,
    /// The page, from 1; absent in lists by place.
    pagination_page: Option<u64>,
    /// How many posts there are in all; absent in lists by place.
    pagination_total: Option<u64>,
    /// `posts`; absent in lists by place.
    pagination_item: Option<String>,
    /// In lists by place: where the next part starts; null at the end.
    next_cursor: Option<String>,
}

/// The files of an account by page or by place.
#[derive(ToSchema)]
pub(super) struct OwnedFiles {
    address: String,
    /// Bytes of all of them.
    total_size: u64,
    files: Vec<OwnedFile>,
    /// Files in a page.
    pagination_per_page: u32,
    /// The page, from 1; absent in lists by place.
    pagination_page: Option<u64>,
    /// How many files there are in all; absent in lists by place.
    pagination_total: Option<u64>,
    /// `files`; absent in lists by place.
    pagination_item: Option<String>,
    /// In lists by place: where the next part starts; null at the end.
    next_cursor: Option<String>,
}

/// A file of an account.
#[derive(ToSchema)]
struct OwnedFile {
    file_hash: String,
    /// Bytes.
    size: u64,
    /// `file`.
    #[schema(rename = "type")]
    kind: String,
    created: Created,
    /// The message that published it.
    item_hash: String,
}

/// When a file was published.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Created {
    /// In lists by page: ISO 8601.
    Text(String),
    /// In lists by place: seconds since 1970.
    Number(f64),
}
