//! The file store: the bytes of files in a place, under names that are used once. Everything else knows a file by its SHA-256;
//! the database says where its bytes are. CIDs are other names of the same files: they are in the database only.
//!
//! A file is hashed while it is written, made durable, and only then entered in the database. So a row in `files` means that the
//! bytes are there, and a crash in between leaves at most bytes without a row, which the collector removes. Whoever deletes a
//! file takes its row away first: that is a transaction of the process that leads. As no name is used again, the bytes that
//! it deletes then are those of that row, and not what another process has stored under the same hash since.

pub(crate) mod car;
pub(crate) mod collect;
mod hashing;
mod naming;
mod upload;

pub(crate) use upload::{Spool, Spooled, StagedFile, Upload, UploadError};

use std::collections::HashSet;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::Stream;
use object_store::path::Path as Location;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt};
use protocol::FileName;

use crate::place::{Place, StoragePlace, Writers};
use crate::store::files::Found;
use crate::store::{Store, StoreError, Stored, files};

/// The file store.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    place: Place,
    /// For bytes that do not become a file as they are: a folder of this process alone.
    scratch: Place,
    arriving: Arriving,
}

/// The objects that this process writes, or that have no row yet: they are no strays.
#[derive(Debug, Clone, Default)]
struct Arriving(Arc<Mutex<HashSet<String>>>);

/// One of them, until this is dropped.
#[derive(Debug)]
struct Arrival {
    object: String,
    arriving: Arriving,
}

impl Arriving {
    fn objects(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Arrival {
        let object = uuid::Uuid::new_v4().simple().to_string();
        self.objects().insert(object.clone());
        Arrival { object, arriving: self.clone() }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.arriving.objects().remove(&self.object);
    }
}

impl Files {
    /// Opens the file store in a place. `scratch` is a folder of this process alone; what is in it goes.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn open(place: &StoragePlace, writers: Writers, scratch: &Path) -> io::Result<Self> {
        if scratch.exists() {
            fs::remove_dir_all(scratch)?;
        }
        let scratch = Place::open(&StoragePlace::Folder(scratch.into()), Writers::Us)?;
        Ok(Self { place: Place::open(place, writers)?, scratch, arriving: Arriving::default() })
    }

    /// What the place is called that the files are in.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(crate) async fn name(&self) -> object_store::Result<String> {
        self.place.name().await
    }

    /// Starts an upload of at most `most` bytes.
    pub(crate) fn upload(&self, most: u64) -> Upload {
        Upload::new(Spool::new(&self.place, self.arriving.begin(), most))
    }

    /// Starts to write at most `most` bytes that do not become a file as they are.
    pub(crate) fn spool(&self, most: u64) -> Spool {
        Spool::new(&self.scratch, self.arriving.begin(), most)
    }

    /// Gives an uploaded file its names. It is durable and known when this returns, and kept at least until
    /// `keep_until_us`. Once begun this is finished, also when nobody waits for it any more.
    ///
    /// # Errors
    /// When the file store or the database fails.
    pub(crate) async fn publish(&self, file: StagedFile, store: &Store, keep_until_us: i64) -> Stored<()> {
        let (files, store) = (self.clone(), store.clone());
        let naming = tokio::spawn(async move { files.enter(file, &store, keep_until_us).await });
        naming.await.expect("giving a file its name does not panic")
    }

    async fn enter(&self, mut file: StagedFile, store: &Store, keep_until_us: i64) -> Stored<()> {
        let (hash, name) = (file.hash(), FileName::Sha256(file.names.sha256));
        let before = files::find(&mut *store.read().await?, name).await?;
        let lost = match before {
            Some(known) if !self.has(&known).await? => Some(known),
            _ => None,
        };
        let mut tx = store.write().await?;
        let known = files::find(&mut tx, name).await?;
        files::insert(&mut tx, &hash, file.bytes(), keep_until_us).await?;
        files::add_names(&mut tx, &hash, &file.all_names()).await?;
        if known.is_some() && known != lost {
            // The same bytes are here already; these go when the file is dropped.
            return Ok(tx.commit().await?);
        }
        files::set_object(&mut tx, &hash, file.spooled.object()).await?;
        // From now on they stay: whether a commit is done that was not answered is not known.
        file.spooled.keep();
        tx.commit().await?;
        // What the row named before cannot be read, but may be there.
        match lost {
            Some(lost) => self.delete(&lost).await,
            None => Ok(()),
        }
    }

    /// Whether all bytes of a file are there, as far as their number tells.
    async fn has(&self, file: &Found) -> Stored<bool> {
        match self.place.objects.head(&location(file.object())).await {
            Ok(about) => Ok(about.size == file.bytes),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of a file, or of a part of it.
    pub(crate) async fn stream(
        &self,
        file: &Found,
        range: Option<Range<u64>>,
    ) -> Stored<impl Stream<Item = object_store::Result<Bytes>> + use<>> {
        let options = GetOptions { range: range.map(Into::into), ..GetOptions::default() };
        Ok(self.place.objects.get_opts(&location(file.object()), options).await?.into_stream())
    }

    /// The whole of a small file.
    pub(crate) async fn bytes(&self, file: &Found) -> Stored<Bytes> {
        Ok(self.place.objects.get(&location(file.object())).await?.bytes().await?)
    }

    /// Deletes the bytes of a file that has no row any more.
    async fn delete(&self, file: &Found) -> Result<(), StoreError> {
        match self.place.objects.delete(&location(file.object())).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Objects are spread over 256 folders.
fn location(object: &str) -> Location {
    Location::from_iter([&object[..2], object])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Database;
    use futures_util::TryStreamExt;
    use protocol::FileHash;

    pub(super) async fn open() -> (tempfile::TempDir, Files, Store) {
        let folder = tempfile::tempdir().unwrap();
        let files = reopen(&folder);
        let store = Store::open(&Database::Sqlite(folder.path().join("messages.sqlite"))).await.unwrap();
        (folder, files, store)
    }

    fn reopen(folder: &tempfile::TempDir) -> Files {
        let place = StoragePlace::Folder(folder.path().join("files"));
        Files::open(&place, Writers::Us, &folder.path().join("uploads")).unwrap()
    }

    /// The row of a file.
    pub(super) async fn found(store: &Store, content: &[u8]) -> Option<Found> {
        let mut db = store.read().await.unwrap();
        files::find(&mut db, FileHash::of(content).to_string().parse().unwrap()).await.unwrap()
    }

    pub(super) async fn upload(files: &Files, content: &[u8]) -> StagedFile {
        let mut upload = files.upload(1 << 20);
        upload.write(content.to_vec().into()).await.unwrap();
        upload.finish().await.unwrap()
    }

    #[tokio::test]
    async fn files_are_found_under_their_hash_as_a_whole_and_in_part() {
        let (folder, files, store) = open().await;
        let hash = FileHash::of(b"hello world").to_string();
        for _ in 0..2 {
            let file = upload(&files, b"hello world").await;
            assert_eq!(file.hash(), hash);
            files.publish(file, &store, 0).await.unwrap();
            let row = found(&store, b"hello world").await.unwrap();
            assert_eq!(files.bytes(&row).await.unwrap(), "hello world");
        }
        let row = found(&store, b"hello world").await.unwrap();
        let part: Vec<Bytes> = files.stream(&row, Some(6..9)).await.unwrap().try_collect().await.unwrap();
        assert_eq!(part.concat(), b"wor");
        until_there_are(&folder, 1).await;
    }

    #[tokio::test]
    async fn bytes_that_were_lost_come_back_with_the_next_upload() {
        let (folder, files, store) = open().await;
        files.publish(upload(&files, b"hello world").await, &store, 0).await.unwrap();
        for damage in [None, Some("hell")] {
            let lost = found(&store, b"hello world").await.unwrap();
            let path = folder.path().join("files").join(location(lost.object()).as_ref());
            match damage {
                None => fs::remove_file(path).unwrap(),
                Some(left) => fs::write(path, left).unwrap(),
            }
            files.publish(upload(&files, b"hello world").await, &store, 0).await.unwrap();
            let row = found(&store, b"hello world").await.unwrap();
            assert_eq!(files.bytes(&row).await.unwrap(), "hello world");
            until_there_are(&folder, 1).await;
        }
    }

    #[tokio::test]
    async fn files_of_earlier_versions_are_under_their_hash() {
        let (folder, files, store) = open().await;
        let hash = FileHash::of(b"old").to_string();
        fs::create_dir_all(folder.path().join("files").join(&hash[..2])).unwrap();
        fs::write(folder.path().join("files").join(&hash[..2]).join(&hash), "old").unwrap();
        let mut tx = store.write().await.unwrap();
        files::insert(&mut tx, &hash, 3, 0).await.unwrap();
        tx.commit().await.unwrap();
        files.publish(upload(&files, b"old").await, &store, 0).await.unwrap();
        let row = found(&store, b"old").await.unwrap();
        assert_eq!((row.object.as_deref(), files.bytes(&row).await.unwrap().as_ref()), (None, b"old".as_slice()));
        until_there_are(&folder, 1).await;
    }

    #[tokio::test]
    async fn too_large_unwanted_and_unfinished_uploads_leave_nothing() {
        let (folder, files, _store) = open().await;
        let mut large = files.upload(3 << 20);
        large.write(vec![1; 3 << 20].into()).await.unwrap();
        assert!(matches!(large.write("x".into()).await, Err(UploadError::TooLarge { .. })));
        drop(large);
        drop(upload(&files, b"unwanted").await);
        until_there_are(&folder, 0).await;
        assert!(files.arriving.objects().is_empty());
        let mut spool = files.spool(100);
        spool.write("not yet a file".into()).await.unwrap();
        let spooled = spool.finish().await.unwrap();
        assert_eq!(spooled.range(4..7).await.unwrap(), "yet");
        std::mem::forget(spooled);
        assert_eq!(walk(&folder.path().join("uploads")).len(), 1);
        reopen(&folder);
        assert!(walk(&folder.path().join("uploads")).is_empty(), "what a crash left goes");
    }

    #[tokio::test]
    async fn an_empty_file_is_a_file() {
        let (_folder, files, store) = open().await;
        let file = files.upload(0).finish().await.unwrap();
        files.publish(file, &store, 0).await.unwrap();
        assert_eq!(files.bytes(&found(&store, b"").await.unwrap()).await.unwrap(), "");
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
        for name in names.all().into_iter().chain([own_tree]) {
            let found = files::find(&mut store.read().await.unwrap(), name).await.unwrap();
            let found = found.map(|found| (found.hash, found.bytes));
            assert_eq!(found, Some((names.sha256.to_string(), 11)), "{name}");
        }
        let unknown = FileName::DagPb([8; 32]);
        assert_eq!(files::find(&mut store.read().await.unwrap(), unknown).await.unwrap(), None);
        until_there_are(&folder, 2).await;
    }

    /// What is not wanted is deleted in the background.
    async fn until_there_are(folder: &tempfile::TempDir, count: usize) {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        while walk(&folder.path().join("files")).len() != count {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", walk(&folder.path().join("files")));
            tokio::task::yield_now().await;
        }
    }

    fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
    }
}
