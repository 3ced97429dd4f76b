//! What an operator chooses about the pool.

use std::path::PathBuf;

/// Where the pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolConfig {
    /// A folder on a btrfs file system that the operator mounted, with `noatime`: otherwise reading counts as a change.
    Folder(PathBuf),
    /// A file that the node makes a file system in.
    File(FileConfig),
}

/// A pool in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// The file; made when it is not there.
    pub file: PathBuf,
    /// Where it is mounted: a folder that is empty, or not there yet.
    pub mount: PathBuf,
    /// How large the file is made, in MiB.
    pub initial_mib: u64,
    /// How large it may become, in MiB.
    pub limit_mib: u64,
    /// How much should be free in it, in MiB; with less, the file grows.
    pub headroom_mib: u64,
}

impl FileConfig {
    /// The smallest file that btrfs has use for, in MiB.
    pub const MIN_MIB: u64 = 256;

    /// A file that starts with 1 GiB, keeps 2 GiB free and grows up to this limit, in MiB.
    pub fn new(file: impl Into<PathBuf>, mount: impl Into<PathBuf>, limit_mib: u64) -> Self {
        let limit_mib = limit_mib.max(Self::MIN_MIB);
        Self {
            file: file.into(),
            mount: mount.into(),
            initial_mib: limit_mib.min(1024),
            limit_mib,
            headroom_mib: limit_mib.min(2048),
        }
    }
}
