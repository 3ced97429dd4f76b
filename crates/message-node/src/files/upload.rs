//! A file on its way in.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::buffered::BufWriter;
use object_store::path::Path as Location;
use object_store::{ObjectStore, ObjectStoreExt};
use protocol::{FileName, FileNames};
use tokio::io::AsyncWriteExt;

use super::hashing::{Hashing, Stopping};
use super::{Arrival, location};
use crate::place::Place;

/// Pieces of a file that may wait for the place before more is read from the network.
const PIECES_UNDER_WAY: usize = 2;

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// More bytes than allowed.
    #[error("the file has more than {most} bytes, which is the most that this node takes in this way")]
    TooLarge {
        /// Bytes that are allowed.
        most: u64,
    },
    /// The file store failed.
    #[error("the file could not be written: {0}")]
    Write(#[from] object_store::Error),
    /// The node ends.
    #[error("the node is stopping; try again in a few seconds")]
    Stopping,
}

impl From<Stopping> for UploadError {
    fn from(_: Stopping) -> Self {
        Self::Stopping
    }
}

/// Bytes that are being written. Dropping it leaves nothing behind.
pub(crate) struct Spool {
    /// `None` once it is finished. What fits into one piece is written at the end, in one request.
    writer: Option<BufWriter>,
    objects: Arc<dyn ObjectStore>,
    arrival: Option<Arrival>,
    bytes: u64,
    most: u64,
}

/// Bytes that nothing refers to yet. Dropping it deletes them, whoever drops it: requests end at any moment.
#[derive(Debug)]
pub(crate) struct Spooled {
    /// How many there are.
    pub bytes: u64,
    arrival: Arrival,
    /// Where they are; `None` once they are to stay.
    objects: Option<Arc<dyn ObjectStore>>,
}

impl Spooled {
    /// What they are called.
    pub(super) fn object(&self) -> &str {
        &self.arrival.object
    }

    /// They stay.
    pub(super) fn keep(&mut self) {
        self.objects = None;
    }

    fn location(&self) -> Location {
        location(self.object())
    }

    /// A part of the bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn range(&self, range: Range<u64>) -> object_store::Result<Bytes> {
        let objects = self.objects.as_ref().expect("nothing refers to them yet");
        // Some stores refuse to read nothing.
        if range.is_empty() { Ok(Bytes::new()) } else { objects.get_range(&self.location(), range).await }
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let Some(objects) = self.objects.take() else { return };
        let location = self.location();
        // Without a runtime the process is ending; what is left goes at the next start.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = objects.delete(&location).await {
                    tracing::warn!(%error, "an unwanted upload could not be deleted; it goes at the next start");
                }
            });
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let (Some(mut writer), Ok(runtime)) = (self.writer.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        runtime.spawn(async move {
            if let Err(error) = writer.abort().await {
                tracing::warn!(%error, "an unfinished upload could not be dropped; services do that by themselves after a while");
            }
        });
    }
}

impl Spool {
    pub(super) fn new(place: &Place, arrival: Arrival, most: u64) -> Self {
        let objects = Arc::clone(&place.objects);
        let writer = BufWriter::with_capacity(Arc::clone(&objects), location(&arrival.object), place.piece_bytes(most))
            .with_max_concurrency(PIECES_UNDER_WAY);
        Self { writer: Some(writer), objects, arrival: Some(arrival), bytes: 0, most }
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`UploadError::TooLarge`] when there are more than allowed.
    pub(crate) async fn write(&mut self, chunk: Bytes) -> Result<(), UploadError> {
        self.bytes += chunk.len() as u64;
        if self.bytes > self.most {
            return Err(UploadError::TooLarge { most: self.most });
        }
        Ok(self.writer.as_mut().expect("it is not finished").put(chunk).await?)
    }

    /// How many bytes there are so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the bytes durable.
    ///
    /// # Errors
    /// When they could not be written.
    pub(crate) async fn finish(mut self) -> Result<Spooled, UploadError> {
        let mut writer = self.writer.take().expect("it is finished once");
        let arrival = self.arrival.take().expect("it is finished once");
        // From now on they may be there, also when this is dropped before it is known.
        let spooled = Spooled { bytes: self.bytes, arrival, objects: Some(Arc::clone(&self.objects)) };
        writer.shutdown().await.map_err(of_the_place)?;
        Ok(spooled)
    }
}

/// The writer hides errors of the place in errors of input and output.
fn of_the_place(error: std::io::Error) -> object_store::Error {
    match error.downcast() {
        Ok(error) => error,
        Err(error) => object_store::Error::Generic { store: "upload", source: error.into() },
    }
}

/// A file that is being written and hashed. Dropping it leaves nothing behind.
pub(crate) struct Upload {
    spool: Spool,
    hashing: Hashing,
}

/// A file that was written and has no row yet. Dropping it deletes it.
#[derive(Debug)]
pub(crate) struct StagedFile {
    /// What its bytes are called.
    pub names: FileNames,
    /// The root of another tree that was shown to have these bytes as its leaves.
    pub root: Option<FileName>,
    pub(super) spooled: Spooled,
}

impl StagedFile {
    /// Its SHA-256.
    pub(crate) fn hash(&self) -> String {
        self.names.sha256.to_string()
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.spooled.bytes
    }

    /// All that it is known to be called.
    pub(crate) fn all_names(&self) -> Vec<FileName> {
        self.names.all().into_iter().chain(self.root).collect()
    }
}

impl Upload {
    pub(super) fn new(spool: Spool) -> Self {
        Self { spool, hashing: Hashing::start() }
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`UploadError::TooLarge`] when there are more than allowed.
    pub(crate) async fn write(&mut self, chunk: Bytes) -> Result<(), UploadError> {
        let bytes = chunk.clone();
        self.spool.write(chunk).await?;
        self.hashing.update(bytes).await?;
        Ok(())
    }

    /// How many bytes there are so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// Makes the file durable.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) async fn finish(self) -> Result<StagedFile, UploadError> {
        let spooled = self.spool.finish().await?;
        Ok(StagedFile { names: self.hashing.finish().await?, root: None, spooled })
    }
}
