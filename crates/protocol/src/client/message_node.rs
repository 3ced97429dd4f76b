//! A client of any Aleph message node.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ClientError, EventStream, http_client, json, open_events};
use crate::api::message_node::{
    AddFileMetadata, AddFileResponse, Aggregates, Balance, MessageFilter, MessageList, MessageStatus,
    MessageWithStatus, Price, StoredMessage, SubmitRequest, SubmitResponse, UploadLimits,
};
use crate::message::{Envelope, ItemType, MessageType};
use crate::{Address, FileHash, FileName};

/// A message node, by its public API.
#[derive(Debug, Clone)]
pub struct MessageNode {
    base: String,
    http: reqwest::Client,
}

/// A file on its way.
pub struct FileDownload {
    response: Response,
}

impl FileDownload {
    /// The length that the server announced, in bytes.
    pub fn announced_length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The bytes as they come. They are not checked against any hash here.
    pub fn bytes(self) -> impl Stream<Item = Result<Bytes, ClientError>> {
        let url = self.response.url().to_string();
        self.response.bytes_stream().map(move |chunk| chunk.map_err(|e| ClientError::unreachable(&url, &e)))
    }
}

impl MessageNode {
    /// The message node at this base URL.
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into().trim_end_matches('/').to_owned(), http: http_client() }
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// A message and where it is in its life; `None` when the node does not know it.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked.
    pub async fn message(&self, hash: &str) -> Result<Option<MessageWithStatus>, ClientError> {
        self.get(&format!("/api/v0/messages/{hash}"), &[]).await
    }

    /// One page of messages, at most 200; `cursor` is empty for the first page and then the last page's `next_cursor`.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked.
    pub async fn messages(&self, filter: &MessageFilter, cursor: &str) -> Result<MessageList, ClientError> {
        let mut query = filter.to_query();
        query.push(("cursor", cursor.to_owned()));
        query.push(("pagination", "200".to_owned()));
        self.get_required("/api/v0/messages.json", &query).await
    }

    /// All messages that pass the filter, page by page.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked; nothing is returned then, so that half a list is never taken for the
    /// whole.
    pub async fn all_messages(&self, filter: &MessageFilter) -> Result<Vec<StoredMessage>, ClientError> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.messages(filter, &cursor).await?;
            all.extend(page.messages);
            match page.next_cursor {
                Some(next) if next != cursor => cursor = next,
                _ => return Ok(all),
            }
        }
    }

    /// The stream of messages that pass the filter, from the moment of the call on; `history` older ones come first.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub async fn watch(&self, filter: &MessageFilter, history: u32) -> Result<EventStream<StoredMessage>, ClientError> {
        let mut query = filter.to_query();
        query.push(("history", history.to_string()));
        let url = reqwest::Url::parse_with_params(&format!("{}/api/ws0/messages", self.base), query)
            .map_err(|e| ClientError::malformed(&self.base, e))?;
        open_events(url.as_str()).await
    }

    /// Submits a signed message. With `sync` the node answers when it has processed or rejected it, or after 30 s.
    ///
    /// A rejection is not an error here: look at the status, then ask for the message to learn why.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked or does not take the message at all.
    pub async fn submit(&self, message: &Envelope, sync: bool) -> Result<MessageStatus, ClientError> {
        let request =
            self.request(Method::POST, "/api/v0/messages").json(&SubmitRequest { sync, message: message.clone() });
        let response = self.send(request).await?;
        match response.status() {
            status if status.is_success() => Ok(json::read::<SubmitResponse>(response).await?.message_status),
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::GONE => {
                let error = ClientError::from_response(response).await;
                let ClientError::Status { body: Some(body), .. } = &error else { return Err(error) };
                serde_json::from_value::<SubmitResponse>(body.clone()).map(|r| r.message_status).map_err(|_| error)
            }
            _ => Err(ClientError::from_response(response).await),
        }
    }

    /// Uploads a file together with the STORE message that publishes it.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked, the file is too large or not what the message says, or the message is
    /// rejected.
    pub async fn add_file(
        &self,
        message: &Envelope,
        sync: bool,
        length: u64,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<FileHash, ClientError> {
        let answer = self.send_file("/api/v0/storage/add_file", message, sync, length, bytes).await?;
        answer.hash.parse().map_err(|e| ClientError::malformed(&self.base, e))
    }

    /// Uploads a file that the STORE message which publishes it calls by a CID. Says what the node calls it.
    ///
    /// # Errors
    /// As [`MessageNode::add_file`].
    pub async fn add_ipfs_file(
        &self,
        message: &Envelope,
        sync: bool,
        length: u64,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<FileName, ClientError> {
        let answer = self.send_file("/api/v0/ipfs/add_file", message, sync, length, bytes).await?;
        answer.hash.parse().map_err(|e| ClientError::malformed(&self.base, e))
    }

    async fn send_file(
        &self,
        path: &str,
        message: &Envelope,
        sync: bool,
        length: u64,
        bytes: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<AddFileResponse, ClientError> {
        let metadata = AddFileMetadata { message: message.clone(), sync };
        let metadata = serde_json::to_string(&metadata).expect("a message is JSON");
        let file = Part::stream_with_length(reqwest::Body::wrap_stream(bytes), length).file_name("file");
        let form = Form::new().text("metadata", metadata).part("file", file);
        let response = self.send(self.request(Method::POST, path).multipart(form)).await?;
        if !response.status().is_success() {
            return Err(ClientError::from_response(response).await);
        }
        json::read(response).await
    }

    /// The most bytes that a signed upload may have.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked.
    pub async fn upload_limits(&self) -> Result<UploadLimits, ClientError> {
        let limits: Value = self.get("/api/v0/storage/limits.json", &[]).await?.unwrap_or_default();
        let limit = |pointer| limits.pointer(pointer).and_then(Value::as_u64);
        Ok(UploadLimits { storage: limit("/storage/max_file_size"), ipfs: limit("/ipfs/max_upload_file_size") })
    }

    /// Starts to download a file; `None` when the node does not have it.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked.
    pub async fn file(&self, hash: &str) -> Result<Option<FileDownload>, ClientError> {
        let response = self.send(self.request(Method::GET, &format!("/api/v0/storage/raw/{hash}"))).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(FileDownload { response })),
            _ => Err(ClientError::from_response(response).await),
        }
    }

    /// The content of a message as text, whose hash the caller checks: inline, or from the file of the item hash.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked or does not have the content.
    pub async fn item_content(&self, message: &Envelope) -> Result<String, ClientError> {
        if message.item_type == ItemType::Inline {
            return message
                .item_content
                .clone()
                .ok_or_else(|| ClientError::malformed(&self.base, "inline message without content"));
        }
        let url = format!("/api/v0/storage/raw/{}", message.item_hash);
        let response = self.send(self.request(Method::GET, &url)).await?;
        if !response.status().is_success() {
            return Err(ClientError::from_response(response).await);
        }
        response.text().await.map_err(|e| ClientError::unreachable(&self.base, &e))
    }

    /// The newest STORE message by these owners that is a revision of `reference`; `None` when there is no revision.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked.
    pub async fn latest_revision(
        &self,
        reference: &str,
        owner: &Address,
    ) -> Result<Option<StoredMessage>, ClientError> {
        let filter = MessageFilter {
            types: vec![MessageType::Store],
            refs: vec![reference.to_owned()],
            owners: vec![owner.clone()],
            ..MessageFilter::default()
        };
        let mut query = filter.to_query();
        query.push(("sortOrder", "-1".to_owned()));
        query.push(("pagination", "1".to_owned()));
        let list: MessageList = self.get_required("/api/v0/messages.json", &query).await?;
        Ok(list.messages.into_iter().next())
    }

    /// One key of an account's aggregate; `None` when it has none.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked or the document is not of this form.
    pub async fn aggregate<T: DeserializeOwned>(&self, address: &str, key: &str) -> Result<Option<T>, ClientError> {
        let path = format!("/api/v0/aggregates/{address}.json");
        let Some(mut found) = self.get::<Aggregates>(&path, &[("keys", key.to_owned())]).await? else {
            return Ok(None);
        };
        let Some(document) = found.data.remove(key) else { return Ok(None) };
        serde_json::from_value(document)
            .map(Some)
            .map_err(|e| ClientError::malformed(format!("{}{path}", self.base), e))
    }

    /// What an account holds and needs to hold.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked.
    pub async fn balance(&self, address: &Address) -> Result<Balance, ClientError> {
        self.get_required(&format!("/api/v0/addresses/{address}/balance"), &[]).await
    }

    /// The price of a message that the node has; `None` when it does not have it.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked.
    pub async fn price(&self, hash: &str) -> Result<Option<Price>, ClientError> {
        self.get(&format!("/api/v0/price/{hash}"), &[]).await
    }

    /// The price that a message would have.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked or the message is malformed.
    pub async fn estimate(&self, message: &Envelope) -> Result<Price, ClientError> {
        let body = serde_json::json!({ "message": message });
        let response = self.send(self.request(Method::POST, "/api/v0/price/estimate").json(&body)).await?;
        if !response.status().is_success() {
            return Err(ClientError::from_response(response).await);
        }
        json::read(response).await
    }

    /// Its version document.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked.
    pub async fn version(&self) -> Result<Value, ClientError> {
        self.get_required("/api/v0/version", &[]).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|e| ClientError::unreachable(&self.base, &e))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<Option<T>, ClientError> {
        json::get(&self.http, &format!("{}{path}", self.base), query).await
    }

    async fn get_required<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, ClientError> {
        json::get_required(&self.http, &format!("{}{path}", self.base), query).await
    }
}
