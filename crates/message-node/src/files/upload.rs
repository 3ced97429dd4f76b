//! A file on its way in.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path as Location;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};

/// Bytes that are written at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Chunks that may wait for the disk before more is read from the network.
const CHUNKS_UNDER_WAY: usize = 2;

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// More bytes than allowed.
    #[error("the file has more than {most} bytes")]
    TooLarge {
        /// Bytes that are allowed.
        most: u64,
    },
    /// The file store failed.
    #[error("the file could not be written: {0}")]
    Write(#[from] object_store::Error),
}

/// A file that is being written and hashed. Dropping it leaves nothing behind.
pub(crate) struct Upload {
    writer: WriteMultipart,
    objects: Arc<dyn ObjectStore>,
    hasher: Sha256,
    location: Location,
    bytes: u64,
    most: u64,
}

/// A file that was written under a temporary name. Dropping it deletes it, whoever drops it: requests end at any moment.
#[derive(Debug)]
pub(crate) struct StagedFile {
    /// Its SHA-256.
    pub hash: String,
    /// Its size.
    pub bytes: u64,
    pub(super) location: Location,
    /// Where it is; `None` once it has its name.
    pub(super) objects: Option<Arc<dyn ObjectStore>>,
}

impl Drop for StagedFile {
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

impl Upload {
    pub(super) fn new(
        objects: Arc<dyn ObjectStore>,
        writer: Box<dyn MultipartUpload>,
        location: Location,
        most: u64,
    ) -> Self {
        let writer = WriteMultipart::new_with_chunk_size(writer, CHUNK_BYTES);
        Self { writer, objects, hasher: Sha256::new(), location, bytes: 0, most }
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
        self.hasher.update(&chunk);
        self.writer.wait_for_capacity(CHUNKS_UNDER_WAY).await?;
        self.writer.put(chunk);
        Ok(())
    }

    /// How many bytes there are so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the file durable under its temporary name.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) async fn finish(self) -> Result<StagedFile, UploadError> {
        self.writer.finish().await?;
        let hash = hex::encode(self.hasher.finalize());
        Ok(StagedFile { hash, bytes: self.bytes, location: self.location, objects: Some(self.objects) })
    }
}
