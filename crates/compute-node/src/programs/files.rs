//! Downloaded files, kept under the name that they were asked for by, a SHA-256 or a CID. Nothing is used that was not
//! checked against it, here, byte for byte.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{StreamExt, TryStreamExt};
use protocol::client::{ClientError, MessageNode};
use protocol::{Address, FileCheck, FileName};
use tempfile::NamedTempFile;

use super::downloads::Downloads;
use super::images;
use super::pins::{Pin, Pins};
use crate::machine;
use crate::metrics::Metrics;
use crate::single_flight::SingleFlight;

/// Bytes that the cache leaves free on its disk: what must be remembered can be written, however many files are fetched.
const KEPT_FREE: u64 = 16 << 20;

/// Bytes that are written to the disk between looks at what is free.
const STEP: u64 = 4 << 20;

/// Why a file cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FileError {
    /// The message node does not have it.
    #[error("the message node does not have the file {0}")]
    Missing(FileName),
    /// It could not be downloaded.
    #[error("cannot download the file {0}: {1}")]
    Download(FileName, Arc<ClientError>),
    /// The bytes are others.
    #[error("the message node sent other bytes for the file {0}: they hash to {1}{about}", about = about_trees(*.0))]
    WrongHash(FileName, FileName),
    /// Others are being downloaded.
    #[error("too many files are being downloaded to this node to begin with {0}")]
    TooMany(FileName),
    /// It does not fit.
    #[error("the file {0} does not fit into this node's cache of {1} MiB")]
    TooLarge(FileName, u64),
    /// The disk refused.
    #[error("this node cannot keep the file {0}: {1}")]
    Disk(FileName, Arc<io::Error>),
}

/// What else may be the reason that bytes are not those of a CID.
fn about_trees(name: FileName) -> &'static str {
    match name {
        FileName::Sha256(_) => "",
        FileName::DagPb(_) => " (a file that was not cut into chunks as `ipfs add` does it cannot be checked)",
    }
}

impl FileError {
    /// Whether more room on the disk would help.
    pub(crate) fn is_want_of_room(&self) -> bool {
        matches!(self, Self::Disk(_, error) if error.kind() == io::ErrorKind::StorageFull)
    }

    /// Whether another node may have more luck.
    pub(crate) fn is_fault_of_node(&self) -> bool {
        matches!(self, Self::Disk(..) | Self::TooLarge(..) | Self::TooMany(_))
    }
}

/// A file that stays as long as this is held.
#[derive(Debug, Clone)]
pub(crate) struct CachedFile {
    path: PathBuf,
    _pin: Pin<FileName>,
}

impl CachedFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The cache of downloaded files.
pub(crate) struct Files {
    directory: PathBuf,
    /// Where files that are images are mounted.
    images: PathBuf,
    max_bytes: u64,
    message_node: MessageNode,
    metrics: Arc<Metrics>,
    downloads: SingleFlight<FileName, Result<(), FileError>>,
    places: Arc<Downloads>,
    pins: Pins<FileName>,
}

impl Files {
    /// A cache in this directory. What an interrupted download left there is removed.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub(crate) fn open(
        directory: PathBuf,
        images: PathBuf,
        max_bytes: u64,
        message_node: MessageNode,
        metrics: Arc<Metrics>,
    ) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&directory)?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().parse::<FileName>().is_err() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Arc::new(Self {
            directory,
            images,
            max_bytes,
            message_node,
            metrics,
            downloads: SingleFlight::default(),
            places: Downloads::new(),
            pins: Pins::default(),
        }))
    }

    /// The file with this name, downloaded if it is not there, in a place of the owner who wants it. `called` is the text that
    /// the message node knows it by.
    pub(crate) async fn get(
        self: &Arc<Self>,
        hash: FileName,
        called: &str,
        owner: &Address,
    ) -> Result<CachedFile, FileError> {
        let path = self.directory.join(hash.to_string());
        // Pinned before it is looked for, so that it is not evicted in between.
        let pin = self.pins.pin(hash);
        if !path.exists() {
            self.wait_for(hash, called, owner).await?;
        }
        touch(&path);
        Ok(CachedFile { path, _pin: pin })
    }

    /// Waits for the download that is under way, or for a place and a download in it.
    async fn wait_for(self: &Arc<Self>, hash: FileName, called: &str, owner: &Address) -> Result<(), FileError> {
        if let Some(result) = self.downloads.join(&hash).await {
            return result;
        }
        let place = self.places.place(owner).await.map_err(|_| FileError::TooMany(hash))?;
        let (files, called) = (self.clone(), called.to_owned());
        let download = || async move {
            let _place = place;
            // Somebody else may have had it downloaded meanwhile.
            if files.directory.join(hash.to_string()).exists() { Ok(()) } else { files.download(hash, &called).await }
        };
        self.downloads.run(hash, download).await
    }

    async fn download(&self, hash: FileName, called: &str) -> Result<(), FileError> {
        let failed = |e| FileError::Download(hash, Arc::new(e));
        let disk = |e| FileError::Disk(hash, Arc::new(e));
        let download = self.message_node.file(called).await.map_err(failed)?;
        let download = download.ok_or(FileError::Missing(hash))?;
        let announced = download.announced_length();
        if announced.is_some_and(|announced| announced > self.max_bytes) {
            return Err(FileError::TooLarge(hash, self.max_bytes >> 20));
        }
        self.make_room(hash, announced.unwrap_or(STEP)).map_err(disk)?;

        let mut file = NamedTempFile::new_in(&self.directory).map_err(disk)?;
        let (mut check, mut length, mut look_at) = (FileCheck::new(hash), 0_u64, STEP);
        let mut bytes = std::pin::pin!(download.bytes().map_err(failed));
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk?;
            length += chunk.len() as u64;
            self.metrics.downloaded_bytes.increment(chunk.len() as u64);
            if length > self.max_bytes {
                return Err(FileError::TooLarge(hash, self.max_bytes >> 20));
            }
            if length > look_at {
                // Others write to the disk, too.
                let rest = announced.map_or(STEP, |announced| announced.saturating_sub(length).min(STEP));
                self.make_room(hash, rest).map_err(disk)?;
                look_at = length + STEP;
            }
            check.update(&chunk);
            // A write to the page cache; the disk is waited for once, below.
            file.write_all(&chunk).map_err(disk)?;
        }
        check.finish().map_err(|actual| FileError::WrongHash(hash, actual))?;
        let path = self.directory.join(hash.to_string());
        let persist = move || -> io::Result<()> {
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        tokio::task::spawn_blocking(persist).await.expect("it does not panic").map_err(disk)
    }

    /// Removes files that nobody uses, the longest unused first, until `more` bytes fit into the cache and onto its disk.
    ///
    /// # Errors
    /// When they do not fit onto the disk in spite of that.
    fn make_room(&self, for_file: FileName, more: u64) -> io::Result<()> {
        let pinned: HashSet<_> = self.pins.held().into_iter().chain([for_file]).collect();
        let mut files: Vec<(SystemTime, u64, PathBuf, Option<FileName>)> = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            let hash = entry.file_name().to_string_lossy().parse().ok();
            files.push((metadata.modified()?, metadata.len(), entry.path(), hash));
        }
        let mut total: u64 = files.iter().map(|(_, length, ..)| length).sum::<u64>() + more;
        files.sort_by_key(|(modified, ..)| *modified);
        for (_, length, path, hash) in files {
            if total <= self.max_bytes && self.missing(more)? == 0 {
                break;
            }
            if let Some(hash) = hash.filter(|hash| !pinned.contains(hash)) {
                // Who uses a mounted image holds its file; as long as it is mounted its room is not free.
                images::unmount(&self.images.join(hash.to_string()));
                fs::remove_file(path)?;
                total -= length;
            }
        }
        match self.missing(more)? {
            0 => Ok(()),
            missing => {
                let message = format!("its disk is full: {} MiB more are needed", missing.div_ceil(1 << 20));
                Err(io::Error::new(io::ErrorKind::StorageFull, message))
            }
        }
    }

    /// How many bytes are missing on the disk for `more` to fit.
    fn missing(&self, more: u64) -> io::Result<u64> {
        Ok(more.saturating_add(KEPT_FREE).saturating_sub(machine::disk(&self.directory)?.available))
    }
}

/// Marks a file as used now.
fn touch(path: &Path) {
    if let Ok(file) = fs::File::open(path) {
        // Only the order of eviction depends on it.
        let _ = file.set_modified(SystemTime::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::FileHash;

    use super::*;

    /// A cache of 100 bytes with these files of 40 bytes, the first the longest unused.
    fn cache(names: &[&str]) -> (tempfile::TempDir, Arc<Files>) {
        let folder = tempfile::tempdir().unwrap();
        let (directory, images) = (folder.path().join("files"), folder.path().join("images"));
        let message_node = MessageNode::new("http://127.0.0.1:1");
        let files = Files::open(directory.clone(), images, 100, message_node, Metrics::new()).unwrap();
        for (name, age) in names.iter().rev().zip(1..) {
            let path = directory.join(FileHash::of(name.as_bytes()).to_string());
            fs::write(&path, [0; 40]).unwrap();
            let modified = SystemTime::now() - Duration::from_secs(age);
            fs::File::open(&path).unwrap().set_modified(modified).unwrap();
        }
        (folder, files)
    }

    fn has(files: &Files, name: &str) -> bool {
        files.directory.join(FileHash::of(name.as_bytes()).to_string()).exists()
    }

    #[test]
    fn the_longest_unused_makes_room_and_what_is_used_stays() {
        let (_folder, files) = cache(&["used", "old", "new"]);
        let _pin = files.pins.pin(FileHash::of(b"used").into());
        files.make_room(FileHash::of(b"next").into(), 20).unwrap();
        assert!(has(&files, "used") && !has(&files, "old") && has(&files, "new"));
    }

    #[test]
    fn what_does_not_fit_onto_the_disk_is_not_begun() {
        let (_folder, files) = cache(&["used", "old"]);
        let _pin = files.pins.pin(FileHash::of(b"used").into());
        let error = files.make_room(FileHash::of(b"next").into(), u64::MAX / 2).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(has(&files, "used") && !has(&files, "old"));
    }
}
