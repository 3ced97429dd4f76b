//! Where sets are stored: a local folder, or a bucket of an S3-compatible service.
//!
//! ```text
//!  <program>/<set>/manifest.json            what the set is; it is written last
//!  <program>/<set>/<volume>.<upload>        the encrypted stream of a volume; names are hexadecimal digits
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
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
    /// A bucket and a prefix, `s3://bucket/prefix`. Credentials, region and endpoint are taken from the environment:
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT` and the others of the AWS tools.
    S3(url::Url),
}

impl std::str::FromStr for SnapshotsPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, _)) = text.split_once("://") else { return Ok(Self::Folder(text.into())) };
        let expected = "expected a folder or s3://bucket/prefix";
        let url: url::Url = text.parse().map_err(|e| format!("{e}; {expected}"))?;
        let is_bucket = scheme == "s3" && url.host_str().is_some_and(|host| !host.is_empty());
        if is_bucket { Ok(Self::S3(url)) } else { Err(expected.to_owned()) }
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
            SnapshotsPlace::S3(url) => {
                // The TLS library has to be chosen before the first client is made.
                drop(protocol::client::http_client_builder());
                let bucket = url.host_str().unwrap_or_default();
                let objects = AmazonS3Builder::from_env().with_bucket_name(bucket).build().map_err(io::Error::other)?;
                let prefix = Location::parse(url.path()).map_err(io::Error::other)?;
                Ok(Self { objects: Arc::new(PrefixStore::new(objects, prefix)), pieces: Pieces::S3 })
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
