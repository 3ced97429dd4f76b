//! Reads what clients send with a file: forms, bodies, and the message that publishes the file. Everything here is bounded in
//! bytes and in time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::header;
use futures_util::StreamExt;
use protocol::Address;
use protocol::api::message_node::AddFileMetadata;
use protocol::message::{Envelope, ItemType, MessageType, StoreContent};
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout};

use super::MAX_JSON_BYTES;
use super::error::{Answer, ApiError};
use super::submit::parse_json;
use crate::admission::NotAdmitted;
use crate::core::content::Content;
use crate::files::Upload;
use crate::node::Node;

/// A client that sends nothing for this long has gone.
const SILENCE: Duration = Duration::from_secs(30);
/// After this time an upload must have kept up [`MIN_BYTES_PER_SECOND`], because it takes the place of others.
const WARM_UP: Duration = Duration::from_secs(60);
/// How long a part of a form may take that is not the file.
const SMALL_WITHIN: Duration = Duration::from_secs(60);
/// Parts of a form that nobody asked for.
const MAX_OTHER_PARTS: usize = 8;
/// The slowest upload, on average.
const MIN_BYTES_PER_SECOND: u64 = 16 * 1024;

/// What came with a file: the message that publishes it.
pub(super) struct Metadata {
    pub message: Envelope,
    pub sync: bool,
    pub content: StoreContent,
}

/// The parts of a request, in whichever order they came.
pub(super) struct Parts<S> {
    /// The file and what its sender calls it.
    pub file: Option<(S, Option<String>)>,
    pub metadata: Option<Metadata>,
}

/// Where the bytes of a file go. It says when there are too many.
pub(super) trait Sink {
    async fn take(&mut self, bytes: Bytes) -> Answer<()>;
    /// How many bytes it took.
    fn taken(&self) -> u64;
}

impl Sink for Upload {
    async fn take(&mut self, bytes: Bytes) -> Answer<()> {
        Ok(self.write(bytes).await?)
    }

    fn taken(&self) -> u64 {
        self.bytes()
    }
}

/// An upload that may go on. Counts as one as long as it lives.
pub(super) struct Turn<'a> {
    node: &'a Node,
    _permit: SemaphorePermit<'a>,
}

impl<'a> Turn<'a> {
    pub(super) fn take(node: &'a Node) -> Answer<Self> {
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

/// Whether the body is a form with several parts.
pub(super) fn is_form(request: &Request) -> bool {
    request.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
        value.to_str().is_ok_and(|value| value.trim_start().to_ascii_lowercase().starts_with("multipart/form-data"))
    })
}

/// Reads a form with the parts `file`, whose bytes go into the sink, and `metadata`, whose sender is to be admitted.
pub(super) async fn read_form<S: Sink>(
    request: Request,
    sink: S,
    admit: impl Fn(&Address) -> Result<(), NotAdmitted>,
) -> Answer<Parts<S>> {
    let form = Multipart::from_request(request, &()).await;
    let mut form = form.map_err(|e| unreadable_form(&e.body_text()))?;
    let mut parts = Parts { file: None, metadata: None };
    let (mut sink, mut others) = (Some(sink), 0);
    while let Some(mut field) = patiently(form.next_field()).await? {
        match field.name() {
            Some(name @ "file") => {
                let Some(mut sink) = sink.take() else { return Err(twice(name)) };
                let started = Instant::now();
                while let Some(chunk) = patiently(field.chunk()).await? {
                    sink.take(chunk).await?;
                    check_pace(sink.taken(), started.elapsed())?;
                }
                parts.file = Some((sink, field.file_name().map(str::to_owned)));
            }
            Some(name @ "metadata") => {
                if parts.metadata.is_some() {
                    return Err(twice(name));
                }
                let metadata = read_metadata(&read_small(&mut field).await?)?;
                // Before the file is read, if the message comes first.
                admit(&metadata.message.sender)?;
                parts.metadata = Some(metadata);
            }
            _ => {
                others += 1;
                if others > MAX_OTHER_PARTS {
                    return Err(ApiError::bad_request("the form has too many parts; send 'file' and 'metadata'"));
                }
                drop(read_small(&mut field).await?);
            }
        }
    }
    Ok(parts)
}

fn twice(name: &str) -> ApiError {
    ApiError::bad_request(format!("the form has two parts '{name}'; send one"))
}

/// Reads a body that is the file itself.
pub(super) async fn read_body(sink: &mut impl Sink, body: Body) -> Answer<()> {
    let (mut chunks, started) = (body.into_data_stream(), Instant::now());
    while let Some(chunk) = timeout(SILENCE, chunks.next()).await.map_err(|_| silent())? {
        let chunk: Bytes =
            chunk.map_err(|e| ApiError::bad_request(format!("the body cannot be read: {e}; send it again")))?;
        sink.take(chunk).await?;
        check_pace(sink.taken(), started.elapsed())?;
    }
    Ok(())
}

/// Reads a JSON document of at most `most` bytes as a body, without changing a byte of it.
pub(super) async fn read_document(body: Body, most: u64) -> Answer<Bytes> {
    let body = timeout(SILENCE, axum::body::to_bytes(body, usize::try_from(most).unwrap_or(usize::MAX))).await;
    let body = body.map_err(|_| silent())?.map_err(|_| {
        ApiError::too_large(format!("the document has more than {most} bytes; send it as a file, with a STORE message"))
    })?;
    parse_json::<serde::de::IgnoredAny>(&body)?;
    Ok(body)
}

async fn read_small(field: &mut Field<'_>) -> Answer<Vec<u8>> {
    let late = |_| {
        ApiError::timed_out(format!("a part of the form took longer than {} s; send it again", SMALL_WITHIN.as_secs()))
    };
    timeout(SMALL_WITHIN, read_bounded(field)).await.map_err(late)?
}

async fn read_bounded(field: &mut Field<'_>) -> Answer<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = patiently(field.chunk()).await? {
        if bytes.len() + chunk.len() > MAX_JSON_BYTES {
            return Err(ApiError::too_large(format!(
                "a part of the form has more than {MAX_JSON_BYTES} bytes; send only 'file' and 'metadata'"
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn patiently<T>(read: impl Future<Output = Result<T, MultipartError>>) -> Answer<T> {
    let read = timeout(SILENCE, read).await.map_err(|_| silent())?;
    read.map_err(|e| unreadable_form(&e.body_text()))
}

fn unreadable_form(why: &str) -> ApiError {
    ApiError::bad_request(format!("the form cannot be read: {why}; send one with the parts 'file' and 'metadata'"))
}

fn silent() -> ApiError {
    ApiError::timed_out(format!("nothing was sent for {} s; send it again", SILENCE.as_secs()))
}

/// Whoever is slower for long is cut off.
pub(super) fn check_pace(bytes: u64, elapsed: Duration) -> Answer<()> {
    if elapsed < WARM_UP || bytes >= elapsed.as_secs() * MIN_BYTES_PER_SECOND {
        return Ok(());
    }
    Err(ApiError::timed_out(format!("this is slower than {MIN_BYTES_PER_SECOND} bytes per second; send it again")))
}

/// Reads the message and checks what can be checked without the file. The signature is checked here, too, and not only when
/// the message is processed: large files are for those who sign.
pub(super) fn read_metadata(bytes: &[u8]) -> Answer<Metadata> {
    let AddFileMetadata { message, sync } = parse_json(bytes)?;
    message.verify_form()?;
    if message.message_type != MessageType::Store || message.item_type != ItemType::Inline {
        return Err(ApiError::invalid("the message of a file is a STORE message with item_type 'inline'; sign one"));
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
