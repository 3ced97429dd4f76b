//! A file on its way in.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path as Location;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, WriteMultipart};
use protocol::{FileName, FileNames};

use super::hashing::{Hashing, Stopping};

/// Bytes that are written at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Chunks that may wait for the disk before more is read from the network.
const CHUNKS_UNDER_WAY: usize = 2;

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

/// Bytes that are being written under a temporary name. Dropping it leaves nothing behind.
pub(crate) struct Spool {
    writer: WriteMultipart,
    objects: Arc<dyn ObjectStore>,
    location: Location,
    bytes: u64,
    most: u64,
}

/// Bytes under a temporary name. Dropping it deletes them, whoever drops it: requests end at any moment.
#[derive(Debug)]
pub(crate) struct Spooled {
    /// How many there are.
    pub bytes: u64,
    pub(super) location: Location,
    /// Where they are; `None` once they have another name.
    pub(super) objects: Option<Arc<dyn ObjectStore>>,
}

impl Spooled {
    /// A part of the bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn range(&self, range: Range<u64>) -> object_store::Result<Bytes> {
        let objects = self.objects.as_ref().expect("the bytes have their temporary name");
        // Some stores refuse to read nothing.
        if range.is_empty() { Ok(Bytes::new()) } else { objects.get_range(&self.location, range).await }
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let Some(objects) = self.objects.take() else { return };
        let location = std::mem::take(&mut self.location);
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

impl Spool {
    pub(super) fn new(
        objects: Arc<dyn ObjectStore>,
        writer: Box<dyn MultipartUpload>,
        location: Location,
        most: u64,
    ) -> Self {
        let writer = WriteMultipart::new_with_chunk_size(writer, CHUNK_BYTES);
        Self { writer, objects, location, bytes: 0, most }
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
        self.writer.wait_for_capacity(CHUNKS_UNDER_WAY).await?;
        self.writer.put(chunk);
        Ok(())
    }

    /// How many bytes there are so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the bytes durable under their temporary name.
    ///
    /// # Errors
    /// When they could not be written.
    pub(crate) async fn finish(self) -> Result<Spooled, UploadError> {
        self.writer.finish().await?;
        Ok(Spooled { bytes: self.bytes, location: self.location, objects: Some(self.objects) })
    }
}

/// A file that is being written and hashed. Dropping it leaves nothing behind.
pub(crate) struct Upload {
    spool: Spool,
    hashing: Hashing,
}

/// A file that was written under a temporary name. Dropping it deletes it.
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

    /// Makes the file durable under its temporary name.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) async fn finish(self) -> Result<StagedFile, UploadError> {
        let spooled = self.spool.finish().await?;
        Ok(StagedFile { names: self.hashing.finish().await?, root: None, spooled })
    }
}
