//! Fetches what a message needs from the node that has it: its content, and the file that it publishes.

use futures_util::StreamExt;
use protocol::client::ClientError;
use protocol::message::{Envelope, ItemType, MessageType, StoreContent, parse_content};
use protocol::{FileName, FileNameError};

use super::Follower;
use crate::files::UploadError;
use crate::store::files::Found;
use crate::store::{StoreError, files};

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Source(#[from] ClientError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the other node does not have the file {0}")]
    Missing(FileName),
    #[error("what the other node sent as the file {0} is another one, or was cut into blocks in another way")]
    Other(FileName),
    #[error("the file {0} cannot be kept: {1}")]
    Upload(FileName, UploadError),
    #[error("its content cannot be read: {0}")]
    Content(String),
}

impl Follower {
    /// Fetches what a message needs and does not bring along. Returns its content where that had to be read.
    pub(super) async fn fetch(&self, envelope: &Envelope) -> Result<Option<String>, Failure> {
        let limits = &self.node.context.limits;
        let name = |text: &str| text.parse().map_err(|error: FileNameError| Failure::Content(error.to_string()));
        let mut text = envelope.item_content.clone();
        if envelope.item_type != ItemType::Inline {
            let bytes = self.bytes(name(&envelope.item_hash)?, limits.content_bytes).await?;
            text = Some(String::from_utf8(bytes).map_err(|error| Failure::Content(error.to_string()))?);
        }
        match (envelope.message_type, &text) {
            (MessageType::Store, Some(content)) => {
                let content: StoreContent = parse_content(content).map_err(|e| Failure::Content(e.to_string()))?;
                let most = limits.upload_bytes.max(limits.ipfs_upload_bytes);
                self.file(name(&content.item_hash)?, most).await?;
                Ok(None)
            }
            (MessageType::Forget, _) => Ok(text),
            _ => Ok(None),
        }
    }

    /// The bytes of a small file, which is kept as well.
    async fn bytes(&self, name: FileName, most: u64) -> Result<Vec<u8>, Failure> {
        let file = self.file(name, most).await?;
        Ok(self.node.files().bytes(&file).await?.into())
    }

    /// Makes sure that a file is here.
    async fn file(&self, name: FileName, most: u64) -> Result<Found, Failure> {
        if let Some(found) = files::find(&mut *self.node.db().await?, name).await? {
            return Ok(found);
        }
        let failed = |error| Failure::Upload(name, error);
        let download = self.source.file(&name.to_string()).await?.ok_or(Failure::Missing(name))?;
        let mut upload = self.node.files().upload(most);
        let mut bytes = std::pin::pin!(download.bytes());
        while let Some(chunk) = bytes.next().await {
            upload.write(chunk?).await.map_err(failed)?;
        }
        let file = upload.finish().await.map_err(failed)?;
        if !file.all_names().contains(&name) {
            return Err(Failure::Other(name));
        }
        self.node.publish(file).await?;
        files::find(&mut *self.node.db().await?, name).await?.ok_or(Failure::Missing(name))
    }
}
