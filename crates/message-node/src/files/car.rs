//! Turns a CAR file into the file that it holds.

use futures_util::TryFutureExt;

use super::{Files, Spooled, StagedFile, UploadError};
use crate::core::car::CarIndex;
use crate::core::unixfs::{TreeError, Walk};
use crate::store::StoreError;

/// Why a CAR file gives no file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// What it holds is no file.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A part of the tree is not in it.
    #[error("the CAR file lacks the block {0}")]
    Missing(protocol::FileName),
    /// The file is too large or cannot be written.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The file store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Files {
    /// Writes the file at the root of a CAR file, of at most `most` bytes. Blocks that do not belong to it are ignored.
    ///
    /// # Errors
    /// [`ImportError`].
    pub(crate) async fn import(&self, car: &Spooled, index: &CarIndex, most: u64) -> Result<StagedFile, ImportError> {
        let mut upload = self.upload(most);
        let mut walk = Walk::new(index.root);
        while let Some(name) = walk.needs() {
            let range = index.blocks.get(&name).ok_or(ImportError::Missing(name))?;
            let block = car.range(range.clone()).map_err(StoreError::Files).await?;
            let bytes = walk.visit(block)?;
            if !bytes.is_empty() {
                upload.write(bytes).await?;
            }
        }
        let mut file = upload.finish().await?;
        file.root = Some(index.root);
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::open;
    use super::*;
    use crate::core::car::CarReader;
    use crate::core::car::tests::{car, cid_of};
    use crate::core::unixfs::tests::{DAG_PB_CODEC, RAW_CODEC, node};
    use crate::store::files as store_files;
    use protocol::{FileName, FileNames};

    async fn import(files: &Files, file: &[u8], most: u64) -> Result<StagedFile, ImportError> {
        let (mut spool, mut reader) = (files.spool(1 << 20), CarReader::default());
        spool.write(file.to_vec().into()).await.unwrap();
        reader.push(file).unwrap();
        files.import(&spool.finish().await.unwrap(), &reader.finish().unwrap(), most).await
    }

    #[tokio::test]
    async fn files_that_are_cut_otherwise_keep_the_name_that_they_have() {
        let (_folder, files, store) = open().await;
        let (left, right) = (vec![1; 70_000], vec![2; 10]);
        let links = [(cid_of(RAW_CODEC, &left), 70_000), (cid_of(RAW_CODEC, &right), 10), (cid_of(RAW_CODEC, b""), 0)];
        let root = node(2, b"", &links);
        let file = car(&[(RAW_CODEC, &left), (RAW_CODEC, &right), (RAW_CODEC, b""), (DAG_PB_CODEC, &root)]);
        let file = import(&files, &file, 70_010).await.unwrap();
        let content = [left, right].concat();
        assert_eq!(file.names, FileNames::of(&content));
        let name = FileName::read_cid(&mut &*cid_of(DAG_PB_CODEC, &root)).unwrap();
        assert!(!file.names.contain(name) && file.all_names().contains(&name));
        files.publish(file, &store, 0).await.unwrap();
        let found = store_files::find(&mut store.read().await.unwrap(), name).await.unwrap().unwrap();
        assert_eq!(files.bytes(&found).await.unwrap(), content);
    }

    #[tokio::test]
    async fn what_is_too_large_or_incomplete_is_not_written_to_the_end() {
        let (_folder, files, _store) = open().await;
        let leaf = [7; 1000];
        // A thousand times the same block: much more than the CAR file itself.
        let root = node(2, b"", &vec![(cid_of(RAW_CODEC, &leaf), 1000); 1000]);
        let whole = car(&[(RAW_CODEC, &leaf), (DAG_PB_CODEC, &root)]);
        assert_eq!(import(&files, &whole, 1_000_000).await.unwrap().bytes(), 1_000_000);
        let error = import(&files, &whole, 999_999).await.unwrap_err();
        assert!(matches!(error, ImportError::Upload(UploadError::TooLarge { most: 999_999 })), "{error}");
        let error = import(&files, &car(&[(DAG_PB_CODEC, &root)]), 1_000_000).await.unwrap_err();
        assert!(matches!(error, ImportError::Missing(FileName::Sha256(_))), "{error}");
    }
}
