//! A client of the archive of snapshot sets; see [`crate::api::archive`] for what it is and who may do what.
//!
//! To archive a set: [`Archive::begin`], [`Archive::send`] for each volume, [`Archive::complete`] with what the sends
//! returned. Nothing counts before the last answer; whoever fails in between begins the same set again. To restore:
//! [`Archive::list`], then [`Archive::download`] of each volume of each set of
//! [`crate::api::archive::ArchiveList::restore_chain`], in that order.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use futures_util::{Stream, StreamExt, stream};
use reqwest::{Body, Method, RequestBuilder, Response, Url};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep_until};

use super::{CONNECT_TIMEOUT, ClientError, http_client, install_crypto, json};
use crate::api::archive::{
    ArchiveCode, ArchiveList, DIGEST_HEADER, SentStream, SetBegun, SetCompletion, SetDraft, SetRecord, SetState,
    StaleEpochDetails, StreamReceived, archive_path, volume_key,
};
use crate::data::SnapshotId;
use crate::signed_request::RequestSigner;
use crate::{Account, Epoch, FileHash, ProgramId};

/// A stream of which nothing could be sent for this long, or whose end is not answered for this long, has failed.
const STALL: Duration = Duration::from_secs(120);

/// Why the archive could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A later epoch has written to or read from the archive: this writer's time is over.
    #[error("{message}")]
    StaleEpoch {
        /// The highest epoch that the archive has seen.
        highest: Epoch,
        /// A sentence for people.
        message: String,
    },
    /// The archive says no.
    #[error("{message}")]
    Refused {
        /// Why.
        code: ArchiveCode,
        /// A sentence for people: what is wrong and what to do.
        message: String,
    },
    /// What was to be sent could not be read. The archive has nothing of it.
    #[error("the stream that was to be archived failed: {0}")]
    Source(io::Error),
    /// A stream ended early, or is not what was announced. Nothing of it may be used; trying again may help.
    #[error("the stream from or to {url} broke: {cause}")]
    Interrupted {
        /// Where.
        url: String,
        /// How.
        cause: String,
    },
    /// The message node cannot be asked, or answered something else.
    #[error(transparent)]
    Request(#[from] ClientError),
}

impl ArchiveError {
    /// What the archive said, if it said no.
    pub const fn code(&self) -> Option<ArchiveCode> {
        match self {
            Self::StaleEpoch { .. } => Some(ArchiveCode::StaleEpoch),
            Self::Refused { code, .. } => Some(*code),
            Self::Source(_) | Self::Interrupted { .. } | Self::Request(_) => None,
        }
    }

    /// Whether the same may succeed later without anybody doing anything.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Refused { code, .. } => matches!(code, ArchiveCode::NoScheduler | ArchiveCode::Busy),
            Self::Interrupted { .. } => true,
            Self::Request(error) => error.is_transient(),
            Self::StaleEpoch { .. } | Self::Source(_) => false,
        }
    }

    async fn of(response: Response) -> Self {
        let error = ClientError::from_response(response).await;
        let ClientError::Status { body: Some(body), message, .. } = &error else { return error.into() };
        let Ok(code) = serde_json::from_value::<ArchiveCode>(body["code"].clone()) else { return error.into() };
        let details = serde_json::from_value::<StaleEpochDetails>(body.get("details").cloned().unwrap_or(Value::Null));
        match (code, details) {
            (ArchiveCode::StaleEpoch, Ok(StaleEpochDetails { highest })) => {
                Self::StaleEpoch { highest, message: message.clone() }
            }
            _ => Self::Refused { code, message: message.clone() },
        }
    }
}

/// The archive of a message node, used with an account: that of a compute node, or of a program's owner.
#[derive(Debug, Clone)]
pub struct Archive {
    base: Url,
    account: Arc<Account>,
    /// The program that is to start with what is read.
    reads_for: Option<ProgramId>,
    http: reqwest::Client,
    /// Without a limit between bytes of the answer, which comes when all was sent.
    uploads: reqwest::Client,
}

impl Archive {
    /// The archive of the message node at this base URL. Requests are signed for the URL's host: it must be one of the
    /// names that the message node knows itself by.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] when it is no URL with a host.
    pub fn new(message_node: &str, account: Arc<Account>) -> Result<Self, ClientError> {
        let base = Url::parse(message_node).map_err(|e| ClientError::malformed(message_node, e))?;
        if base.host_str().is_none() {
            return Err(ClientError::malformed(message_node, "the URL has no host"));
        }
        install_crypto();
        let uploads = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).build();
        Ok(Self {
            base,
            account,
            reads_for: None,
            http: http_client(),
            uploads: uploads.expect("the TLS library starts"),
        })
    }

    /// The same archive, read to start this program with what others of its owner have there.
    #[must_use]
    pub fn on_behalf_of(&self, program: ProgramId) -> Self {
        Self { reads_for: Some(program), ..self.clone() }
    }

    /// All sets of a program, and whether the next should be a full one.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn list(&self, program: &ProgramId) -> Result<ArchiveList, ArchiveError> {
        self.ask(Method::GET, &archive_path(program), |request| request).await
    }

    /// One set.
    ///
    /// # Errors
    /// [`ArchiveError`]; [`ArchiveCode::NotFound`] when it is not there.
    pub async fn set(&self, program: &ProgramId, id: SnapshotId) -> Result<SetRecord, ArchiveError> {
        self.ask(Method::GET, &set_path(program, id), |request| request).await
    }

    /// Begins a set. A set that was begun and not completed is begun anew: streams that arrived for it are dropped.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn begin(&self, program: &ProgramId, draft: &SetDraft) -> Result<SetBegun, ArchiveError> {
        self.ask(Method::POST, &archive_path(program), |request| request.json(draft)).await
    }

    /// Sends the stream of one volume of a set that was begun, and makes sure that it arrived as it was sent. The same
    /// volume can be sent again until the set is complete; the last one counts.
    ///
    /// # Errors
    /// [`ArchiveError`]; nothing of the stream counts then.
    pub async fn send(
        &self,
        program: &ProgramId,
        id: SnapshotId,
        volume: &str,
        bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<SentStream, ArchiveError> {
        let path = volume_path(program, id, volume);
        let sent = Arc::new(Mutex::new(Sent::new()));
        let counted = bytes.map({
            let sent = Arc::clone(&sent);
            move |chunk| lock(&sent).count(chunk)
        });
        let request = self.request(&self.uploads, Method::PUT, &path).body(Body::wrap_stream(counted));
        let answer = tokio::select! {
            answer = request.send() => answer,
            () = stalled(&sent) => {
                let cause = format!("nothing could be sent for {} s", STALL.as_secs());
                return Err(ArchiveError::Interrupted { url: self.url(&path).into(), cause });
            }
        };
        let sent = std::mem::replace(&mut *lock(&sent), Sent::new());
        if let Some(error) = sent.failed {
            return Err(ArchiveError::Source(error));
        }
        let response = answer.map_err(|e| ClientError::unreachable(self.url(&path), &e))?;
        let received: StreamReceived = read(response).await?;
        let sha256 = FileHash::from_bytes(sent.hasher.finalize().into());
        if (received.bytes, received.sha256) != (sent.bytes, sha256) {
            let cause = format!("{} bytes were sent and {} others arrived", sent.bytes, received.bytes);
            return Err(ArchiveError::Interrupted { url: self.url(&path).into(), cause });
        }
        Ok(SentStream { name: volume.to_owned(), bytes: sent.bytes, sha256 })
    }

    /// Makes a set count. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`ArchiveError`]; after [`ArchiveError::Request`] the set may be complete or not: ask again.
    pub async fn complete(
        &self,
        program: &ProgramId,
        id: SnapshotId,
        streams: Vec<SentStream>,
    ) -> Result<SetRecord, ArchiveError> {
        let path = format!("{}/complete", set_path(program, id));
        self.ask(Method::POST, &path, |request| request.json(&SetCompletion { streams })).await
    }

    /// Starts to download the stream of a volume of a complete set.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn download(
        &self,
        program: &ProgramId,
        id: SnapshotId,
        volume: &str,
    ) -> Result<StreamDownload, ArchiveError> {
        let path = volume_path(program, id, volume);
        let url: String = self.url(&path).into();
        let request = self.request(&self.http, Method::GET, &path);
        let response = request.send().await.map_err(|e| ClientError::unreachable(&url, &e))?;
        if !response.status().is_success() {
            return Err(ArchiveError::of(response).await);
        }
        let digest = response.headers().get(DIGEST_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        let sha256 = digest.ok_or_else(|| ClientError::malformed(&url, format!("it has no {DIGEST_HEADER}")))?;
        let (archive, program) = (self.clone(), *program);
        Ok(StreamDownload { archive, program, id, url, response, sha256, hasher: Sha256::new() })
    }

    /// Removes a set that nothing builds on. `epoch` is the one in which the caller holds the program.
    ///
    /// # Errors
    /// [`ArchiveError`]; [`ArchiveCode::Needed`] while another set builds on it.
    pub async fn delete(&self, program: &ProgramId, epoch: Epoch, id: SnapshotId) -> Result<(), ArchiveError> {
        let path = set_path(program, id);
        let request = self.request(&self.http, Method::DELETE, &path).query(&[("epoch", epoch)]);
        let response = request.send().await.map_err(|e| ClientError::unreachable(self.url(&path), &e))?;
        if response.status().is_success() { Ok(()) } else { Err(ArchiveError::of(response).await) }
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<T, ArchiveError> {
        let request = with(self.request(&self.http, method, path));
        read(request.send().await.map_err(|e| ClientError::unreachable(self.url(path), &e))?).await
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_query(None);
        let folder = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{folder}{path}"));
        url
    }

    /// A request with a signature of its own: no two requests are the same, as none is taken twice.
    fn request(&self, http: &reqwest::Client, method: Method, path: &str) -> RequestBuilder {
        let url = self.url(path);
        let domain = url.host_str().expect("checked by `new`").trim_matches(['[', ']']);
        let now = Utc::now();
        let headers = RequestSigner::new(&self.account, domain, now).headers(method.as_str(), url.path(), now);
        let request = http.request(method, url).query(&self.reads_for.map(|program| [("for", program)]));
        headers.into_iter().fold(request, |request, (name, value)| request.header(name, value))
    }
}

fn set_path(program: &ProgramId, id: SnapshotId) -> String {
    format!("{}/{id}", archive_path(program))
}

fn volume_path(program: &ProgramId, id: SnapshotId, volume: &str) -> String {
    format!("{}/volumes/{}", set_path(program, id), volume_key(volume))
}

async fn read<T: serde::de::DeserializeOwned>(response: Response) -> Result<T, ArchiveError> {
    match response.status().is_success() {
        true => Ok(json::read(response).await?),
        false => Err(ArchiveError::of(response).await),
    }
}

/// What was sent so far.
struct Sent {
    hasher: Sha256,
    bytes: u64,
    last: Instant,
    failed: Option<io::Error>,
}

impl Sent {
    fn new() -> Self {
        Self { hasher: Sha256::new(), bytes: 0, last: Instant::now(), failed: None }
    }

    fn count(&mut self, chunk: io::Result<Bytes>) -> io::Result<Bytes> {
        self.last = Instant::now();
        match chunk {
            Ok(chunk) => {
                self.hasher.update(&chunk);
                self.bytes += chunk.len() as u64;
                Ok(chunk)
            }
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                self.failed = Some(error);
                Err(copy)
            }
        }
    }
}

fn lock(sent: &Mutex<Sent>) -> std::sync::MutexGuard<'_, Sent> {
    sent.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends when nothing was sent for [`STALL`].
async fn stalled(sent: &Mutex<Sent>) {
    loop {
        let until = lock(sent).last + STALL;
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}

/// The stream of a volume on its way from the archive.
#[derive(Debug)]
pub struct StreamDownload {
    archive: Archive,
    program: ProgramId,
    id: SnapshotId,
    url: String,
    response: Response,
    sha256: FileHash,
    hasher: Sha256,
}

impl StreamDownload {
    /// Its bytes, if the message node says.
    pub fn bytes(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// Its SHA-256.
    pub fn sha256(&self) -> FileHash {
        self.sha256
    }

    /// The next bytes; `None` at the end, which comes only if the whole stream was what was archived. What came before an
    /// error is a part of the stream, and never anything else.
    ///
    /// # Errors
    /// [`ArchiveCode::Damaged`] when what is stored is not what was archived, [`ArchiveError::Interrupted`] when the
    /// stream ended early for another reason.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ArchiveError> {
        match self.response.chunk().await {
            Ok(Some(bytes)) => {
                self.hasher.update(&bytes);
                Ok(Some(bytes))
            }
            Ok(None) if FileHash::from_bytes(self.hasher.clone().finalize().into()) == self.sha256 => Ok(None),
            Ok(None) => Err(self.broken("it is not what was archived".to_owned()).await),
            Err(error) => Err(self.broken(error.to_string()).await),
        }
    }

    /// All of [`Self::chunk`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, ArchiveError>> + Send {
        stream::try_unfold(self, async |mut download| Ok(download.chunk().await?.map(|bytes| (bytes, download))))
    }

    /// A stream that has begun can only be cut off; the archive remembers if that was because of damage.
    async fn broken(&self, cause: String) -> ArchiveError {
        match self.archive.set(&self.program, self.id).await {
            Ok(set) if set.state == SetState::Damaged => ArchiveError::Refused {
                code: ArchiveCode::Damaged,
                message: format!("snapshot {} in the archive is damaged; restore an older one", self.id),
            },
            _ => ArchiveError::Interrupted { url: self.url.clone(), cause },
        }
    }
}
