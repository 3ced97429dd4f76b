//! Where sets are stored: a local folder, or a bucket of an S3-compatible service.
//!
//! ```text
//!  <program>/<set>/manifest.json            what the set is; it is written last
//!  <program>/<set>/<volume>.<upload>        the encrypted stream of a volume; names are hexadecimal digits
//! ```

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Location;
use object_store::prefix::PrefixStore;
use protocol::ProgramId;
use protocol::data::SnapshotId;

const MIB: u64 = 1 << 20;

/// Where to keep sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotsPlace {
    /// A folder that nobody else writes to.
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

impl fmt::Display for SnapshotsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::S3(bucket) => bucket.url.fmt(f),
        }
    }
}

/// Reads what an operator writes; the settings of a bucket are taken from the environment of this process.
impl FromStr for SnapshotsPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::Folder(text.into()));
        }
        let texts = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Bucket::new(text, std::env::vars_os().filter_map(texts)).map(Self::S3)
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
    pub(crate) fn open(place: &SnapshotsPlace) -> io::Result<Self> {
        match place {
            SnapshotsPlace::Folder(folder) => {
                fs::create_dir_all(folder)?;
                drop_unfinished(folder, 3)?;
                let objects = LocalFileSystem::new_with_prefix(folder).map_err(io::Error::other)?;
                let objects = objects.with_fsync(true).with_automatic_cleanup(true);
                Ok(Self { objects: Arc::new(objects), pieces: Pieces::Local })
            }
            SnapshotsPlace::S3(bucket) => {
                let objects = bucket.open().map_err(io::Error::other)?;
                Ok(Self { objects: Arc::new(objects), pieces: Pieces::S3 })
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
fn drop_unfinished(folder: &Path, depth: u32) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if depth > 1 {
                drop_unfinished(&entry.path(), depth - 1)?;
            }
        } else if entry.file_name().to_string_lossy().contains('#') {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Where a set's objects are.
pub(crate) fn of_set(program: &ProgramId, set: SnapshotId) -> Location {
    Location::from_iter([program.to_string(), set.to_string()])
}

/// Where a set's manifest is.
pub(crate) fn of_manifest(program: &ProgramId, set: SnapshotId) -> Location {
    of_set(program, set).join("manifest.json")
}

/// Where an object of a set is.
pub(crate) fn of_object(program: &ProgramId, set: SnapshotId, object: &str) -> Location {
    of_set(program, set).join(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_folders_or_buckets() {
        assert_eq!("/var/x".parse(), Ok(SnapshotsPlace::Folder("/var/x".into())));
        assert!(matches!("s3://bucket/a/b".parse(), Ok(SnapshotsPlace::S3(_))));
        for wrong in ["s3://", "https://x/y", "s3:///x"] {
            assert!(wrong.parse::<SnapshotsPlace>().unwrap_err().contains("s3://bucket/prefix"), "{wrong}");
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
    fn unfinished_writes_go_when_the_folder_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let set = folder.path().join("program/1-1");
        fs::create_dir_all(&set).unwrap();
        fs::write(set.join("volume.x"), "1").unwrap();
        fs::write(set.join("volume.y#1"), "1").unwrap();
        Place::open(&SnapshotsPlace::Folder(folder.path().into())).unwrap();
        assert!(set.join("volume.x").exists() && !set.join("volume.y#1").exists());
    }
}
