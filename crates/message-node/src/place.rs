//! Where files or snapshots are stored: a local folder, or a bucket of an S3-compatible service.
//!
//! What is written appears under its name when all of it is there, and not before. An object `place` in it names it, so that
//! a process that was given another place than the others on its database is told so ([`crate::store::places`]).

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Location;
use object_store::prefix::PrefixStore;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

use crate::config::Config;

const MIB: u64 = 1 << 20;

/// Under which an object is that names the place.
const NAME: &str = "place";
/// For how long nothing is added to a write that was interrupted. One that goes on is never silent for so long.
const INTERRUPTED: Duration = Duration::from_secs(3600);

/// Where to keep objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoragePlace {
    /// A folder that nobody writes to but the processes of one message node.
    Folder(PathBuf),
    /// A bucket.
    S3(Bucket),
}

/// A bucket of an S3-compatible service, and what is needed to use it.
#[derive(Clone, PartialEq, Eq)]
pub struct Bucket {
    url: url::Url,
    settings: Vec<(AmazonS3ConfigKey, String)>,
}

impl Bucket {
    /// The bucket at `s3://bucket/prefix`. Credentials, region and endpoint are those of the `AWS_…` variables of an
    /// environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT` and others.
    ///
    /// # Errors
    /// A sentence when it is no such URL.
    pub fn new(url: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, String> {
        let expected = "expected a folder or s3://bucket/prefix";
        let url: url::Url = url.parse().map_err(|e| format!("{e}; {expected}"))?;
        if url.scheme() != "s3" || url.host_str().is_none_or(str::is_empty) {
            return Err(expected.to_owned());
        }
        let setting = |(name, value): (String, String)| {
            name.starts_with("AWS_").then(|| Some((name.to_ascii_lowercase().parse().ok()?, value))).flatten()
        };
        Ok(Self { url, settings: environment.into_iter().filter_map(setting).collect() })
    }

    fn open(&self) -> object_store::Result<PrefixStore<AmazonS3>> {
        // The TLS library has to be chosen before the first client is made.
        drop(protocol::client::http_client_builder());
        let bucket = AmazonS3Builder::new().with_bucket_name(self.url.host_str().unwrap_or_default());
        let settings = self.settings.iter().cloned();
        let bucket = settings.fold(bucket, |bucket, (name, value)| bucket.with_config(name, value)).build()?;
        let prefix = Location::parse(self.url.path())?;
        Ok(PrefixStore::new(bucket, prefix))
    }
}

/// Without the settings: there are secrets among them.
impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.url.as_str()).finish()
    }
}

impl fmt::Display for StoragePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::S3(bucket) => bucket.url.fmt(f),
        }
    }
}

/// Reads what an operator writes; the settings of a bucket are taken from the environment of this process.
impl FromStr for StoragePlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::Folder(text.into()));
        }
        let texts = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Bucket::new(text, std::env::vars_os().filter_map(texts)).map(Self::S3)
    }
}

/// Who may be writing to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writers {
    /// This process alone.
    Us,
    /// Other processes, too.
    Several,
}

impl Writers {
    /// Those of a place that was chosen by itself, or is in the data directory, which one process has.
    pub(crate) fn of(config: &Config, place: Option<&StoragePlace>) -> Self {
        if config.postgres.is_some() && place.is_some() { Self::Several } else { Self::Us }
    }
}

/// An opened place.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pieces: Pieces,
}

/// How much of an object is written at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pieces {
    Local,
    S3,
}

impl Place {
    /// Opens it, and drops what interrupted writes left in a folder.
    pub(crate) fn open(place: &StoragePlace, writers: Writers) -> io::Result<Self> {
        match place {
            StoragePlace::Folder(folder) => {
                fs::create_dir_all(folder)?;
                drop_interrupted(folder, 3, writers)?;
                let objects = LocalFileSystem::new_with_prefix(folder).map_err(io::Error::other)?;
                let objects = objects.with_fsync(true).with_automatic_cleanup(true);
                Ok(Self { objects: Arc::new(objects), pieces: Pieces::Local })
            }
            StoragePlace::S3(bucket) => {
                let objects = bucket.open().map_err(io::Error::other)?;
                Ok(Self { objects: Arc::new(objects), pieces: Pieces::S3 })
            }
        }
    }

    /// What the place is called. It is given a name when it has none.
    pub(crate) async fn name(&self) -> object_store::Result<String> {
        let location = Location::from(NAME);
        loop {
            match self.objects.get(&location).await {
                Ok(found) => return Ok(String::from_utf8_lossy(&found.bytes().await?).trim().to_owned()),
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            let name = uuid::Uuid::new_v4().to_string();
            match self.objects.put_opts(&location, name.clone().into(), PutMode::Create.into()).await {
                Ok(_) => return Ok(name),
                // Another process was faster.
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes that are written at once of an object that has at most so many: S3 takes 10 000 pieces of equal size.
    pub(crate) fn piece_bytes(&self, most: u64) -> usize {
        let piece = match self.pieces {
            Pieces::Local => MIB,
            Pieces::S3 => (most / 9000).clamp(8 * MIB, 128 * MIB),
        };
        usize::try_from(piece).expect("pieces are small")
    }
}

/// The store writes to `name#1` and renames when it is done.
fn drop_interrupted(folder: &Path, depth: u32, writers: Writers) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if depth > 1 {
                drop_interrupted(&entry.path(), depth - 1, writers)?;
            }
        } else if entry.file_name().to_string_lossy().contains('#') && (writers == Writers::Us || is_old(&entry)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether nothing was added to a file for long. What cannot be looked at may be gone by now.
fn is_old(entry: &fs::DirEntry) -> bool {
    let changed = entry.metadata().and_then(|about| about.modified());
    changed.is_ok_and(|changed| SystemTime::now().duration_since(changed).is_ok_and(|age| age > INTERRUPTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_folders_or_buckets() {
        assert_eq!("/var/x".parse(), Ok(StoragePlace::Folder("/var/x".into())));
        assert!(matches!("s3://bucket/a/b".parse(), Ok(StoragePlace::S3(_))));
        for wrong in ["s3://", "https://x/y", "s3:///x"] {
            assert!(wrong.parse::<StoragePlace>().unwrap_err().contains("s3://bucket/prefix"), "{wrong}");
        }
        let secret = ("AWS_SECRET_ACCESS_KEY".to_owned(), "secret".to_owned());
        let bucket = Bucket::new("s3://bucket/a", [secret, ("HOME".to_owned(), "/".to_owned())]).unwrap();
        assert_eq!(bucket.settings.len(), 1);
        assert!(!format!("{bucket:?}").contains("secret"));
    }

    #[test]
    fn pieces_of_the_largest_streams_are_few_enough() {
        let objects: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let place = Place { objects, pieces: Pieces::S3 };
        let largest = crate::core::archive::stream_limit(256 * 1024);
        assert!(largest / place.piece_bytes(largest) as u64 <= 9001);
        assert_eq!(place.piece_bytes(0), 8 << 20);
    }

    #[test]
    fn interrupted_writes_go_when_the_folder_is_opened_and_those_of_others_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let set = folder.path().join("program/1-1");
        fs::create_dir_all(&set).unwrap();
        for name in ["volume.x", "volume.y#1", "volume.z#1"] {
            fs::write(set.join(name), "1").unwrap();
        }
        let interrupted = fs::File::options().append(true).open(set.join("volume.y#1")).unwrap();
        interrupted.set_modified(SystemTime::now() - 2 * INTERRUPTED).unwrap();
        let place = StoragePlace::Folder(folder.path().into());
        for (writers, left) in [(Writers::Several, [true, false, true]), (Writers::Us, [true, false, false])] {
            Place::open(&place, writers).unwrap();
            assert_eq!(["volume.x", "volume.y#1", "volume.z#1"].map(|name| set.join(name).exists()), left);
        }
    }

    #[tokio::test]
    async fn a_place_has_one_name_for_all_who_open_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = StoragePlace::Folder(folder.path().into());
        let (one, two) =
            (Place::open(&place, Writers::Several).unwrap(), Place::open(&place, Writers::Several).unwrap());
        let (first, second) = tokio::join!(one.name(), two.name());
        assert_eq!(first.unwrap(), second.unwrap());
        assert_eq!(one.name().await.unwrap(), fs::read_to_string(folder.path().join("place")).unwrap());
    }
}
