//! The file store: files under their SHA-256. Their CIDs are names of the same files: they are in the database only.
//!
//! A file is written under a temporary name while it is hashed, made durable, renamed to its hash, and only then entered in
//! the database. So a row in `files` means that the bytes are there, and a crash in between leaves at most bytes without a
//! row, which the collector removes.

pub(crate) mod car;
pub(crate) mod collect;
mod hashing;
mod naming;
mod upload;

pub(crate) use upload::{Spool, Spooled, StagedFile, Upload, UploadError};

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Location;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt};
use tokio::sync::RwLock;

use crate::store::{Store, StoreError, Stored, files};

/// Where unfinished uploads are.
const UPLOADS: &str = "uploads";

/// The file store.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    objects: Arc<dyn ObjectStore>,
    /// Held for reading while a file gets its name and its row, for writing while unneeded files lose theirs: otherwise the
    /// collector could delete the bytes of a file that is uploaded again at that moment.
    naming: Arc<RwLock<()>>,
}

impl Files {
    /// Opens the file store in a local folder, which nobody else may use, and drops unfinished uploads.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let uploads = folder.join(UPLOADS);
        if uploads.exists() {
            fs::remove_dir_all(&uploads)?;
        }
        fs::create_dir_all(&uploads)?;
        let objects = LocalFileSystem::new_with_prefix(folder).map_err(io::Error::other)?.with_fsync(true);
        Ok(Self { objects: Arc::new(objects), naming: Arc::default() })
    }

    /// Starts an upload of at most `most` bytes.
    pub(crate) async fn upload(&self, most: u64) -> Stored<Upload> {
        Ok(Upload::new(self.spool(most).await?))
    }

    /// Starts to write at most `most` bytes that do not become a file as they are.
    pub(crate) async fn spool(&self, most: u64) -> Stored<Spool> {
        let location = Location::from_iter([UPLOADS, &uuid::Uuid::new_v4().simple().to_string()]);
        let writer = self.objects.put_multipart(&location).await?;
        Ok(Spool::new(Arc::clone(&self.objects), writer, location, most))
    }

    /// Gives an uploaded file its names. It is durable and known when this returns, and kept at least until
    /// `keep_until_us`. Once begun this is finished, also when nobody waits for it any more.
    ///
    /// # Errors
    /// When the file store or the database fails.
    pub(crate) async fn publish(&self, file: StagedFile, store: &Store, keep_until_us: i64) -> Stored<()> {
        let (files, store) = (self.clone(), store.clone());
        let naming = tokio::spawn(async move { files.name(file, &store, keep_until_us).await });
        naming.await.expect("giving a file its name does not panic")
    }

    async fn name(&self, mut file: StagedFile, store: &Store, keep_until_us: i64) -> Stored<()> {
        let _naming = self.naming.read().await;
        let hash = file.hash();
        self.objects.rename(&file.spooled.location, &location(&hash)).await?;
        file.spooled.objects = None;
        let mut tx = store.write().await?;
        files::insert(&mut tx, &hash, file.bytes(), keep_until_us).await?;
        files::add_names(&mut tx, &hash, &file.all_names()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The bytes of a file, or of a part of it.
    pub(crate) async fn stream(
        &self,
        hash: &str,
        range: Option<Range<u64>>,
    ) -> Stored<impl Stream<Item = object_store::Result<Bytes>> + use<>> {
        let options = GetOptions { range: range.map(Into::into), ..GetOptions::default() };
        Ok(self.objects.get_opts(&location(hash), options).await?.into_stream())
    }

    /// The whole of a small file.
    pub(crate) async fn bytes(&self, hash: &str) -> Stored<Bytes> {
        Ok(self.objects.get(&location(hash)).await?.bytes().await?)
    }

    async fn delete(&self, hash: &str) -> Result<(), StoreError> {
        match self.objects.delete(&location(hash)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Files are spread over 256 folders.
fn location(hash: &str) -> Location {
    Location::from_iter([&hash[..2], hash])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Database;
    use futures_util::TryStreamExt;
    use protocol::{FileHash, FileName};

    pub(super) async fn open() -> (tempfile::TempDir, Files, Store) {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(&folder.path().join("files")).unwrap();
        let store = Store::open(&Database::Sqlite(folder.path().join("messages.sqlite"))).await.unwrap();
        (folder, files, store)
    }

    pub(super) async fn upload(files: &Files, content: &[u8]) -> StagedFile {
        let mut upload = files.upload(1 << 20).await.unwrap();
        upload.write(content.to_vec().into()).await.unwrap();
        upload.finish().await.unwrap()
    }

    #[tokio::test]
    async fn files_are_found_under_their_hash_as_a_whole_and_in_part() {
        let (_folder, files, store) = open().await;
        let hash = FileHash::of(b"hello world").to_string();
        for _ in 0..2 {
            let file = upload(&files, b"hello world").await;
            assert_eq!(file.hash(), hash);
            files.publish(file, &store, 0).await.unwrap();
            assert_eq!(files.bytes(&hash).await.unwrap(), "hello world", "the same file twice is one file");
        }
        let part: Vec<Bytes> = files.stream(&hash, Some(6..9)).await.unwrap().try_collect().await.unwrap();
        assert_eq!(part.concat(), b"wor");
    }

    #[tokio::test]
    async fn too_large_unwanted_and_unfinished_uploads_leave_nothing() {
        let (folder, files, _store) = open().await;
        let uploads = folder.path().join("files/uploads");
        let mut large = files.upload(10).await.unwrap();
        large.write("0123456789".into()).await.unwrap();
        assert!(matches!(large.write("x".into()).await, Err(UploadError::TooLarge { most: 10 })));
        drop(large);
        drop(upload(&files, b"unwanted").await);
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        while fs::read_dir(&uploads).unwrap().count() > 0 {
            assert!(tokio::time::Instant::now() < deadline, "they are deleted in the background");
            tokio::task::yield_now().await;
        }
        fs::write(uploads.join("left-by-a-crash"), "x").unwrap();
        drop(files);
        Files::open(&folder.path().join("files")).unwrap();
        assert_eq!(fs::read_dir(&uploads).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_empty_file_is_a_file() {
        let (_folder, files, store) = open().await;
        let file = files.upload(0).await.unwrap().finish().await.unwrap();
        let hash = file.hash();
        files.publish(file, &store, 0).await.unwrap();
        assert_eq!(files.bytes(&hash).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_file_is_found_by_all_its_names_and_stored_once() {
        let (folder, files, store) = open().await;
        let mut file = upload(&files, b"hello world").await;
        let names = file.names;
        let own_tree = FileName::DagPb([7; 32]);
        file.root = Some(own_tree);
        files.publish(file, &store, 0).await.unwrap();
        files.publish(upload(&files, b"another").await, &store, 0).await.unwrap();
        let expected = files::Found { hash: names.sha256.to_string(), bytes: 11 };
        for name in names.all().into_iter().chain([own_tree]) {
            let found = files::find(&mut store.read().await.unwrap(), name).await.unwrap();
            assert_eq!(found.as_ref(), Some(&expected), "{name}");
        }
        let unknown = FileName::DagPb([8; 32]);
        assert_eq!(files::find(&mut store.read().await.unwrap(), unknown).await.unwrap(), None);
        let kept = walk(&folder.path().join("files"));
        assert_eq!(kept.len(), 2, "{kept:?}");
    }

    fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
    }
}
