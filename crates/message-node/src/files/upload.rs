//! A file on its way in.

use bytes::Bytes;
use object_store::path::Path as Location;
use object_store::{MultipartUpload, WriteMultipart};
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
    hasher: Sha256,
    location: Location,
    bytes: u64,
    most: u64,
}

/// A file that was written under a temporary name.
#[derive(Debug, Clone)]
pub(crate) struct StagedFile {
    /// Its SHA-256.
    pub hash: String,
    /// Its size.
    pub bytes: u64,
    pub(super) location: Location,
}

impl Upload {
    pub(super) fn new(writer: Box<dyn MultipartUpload>, location: Location, most: u64) -> Self {
        let writer = WriteMultipart::new_with_chunk_size(writer, CHUNK_BYTES);
        Self { writer, hasher: Sha256::new(), location, bytes: 0, most }
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

    /// Makes the file durable under its temporary name.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) async fn finish(self) -> Result<StagedFile, UploadError> {
        self.writer.finish().await?;
        Ok(StagedFile { hash: hex::encode(self.hasher.finalize()), bytes: self.bytes, location: self.location })
    }
}
