//! What an operator chooses about the pool.

use std::path::PathBuf;

/// The pool of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Where the volumes are.
    pub storage: Storage,
    /// Where it is written down what the volumes are and which epochs were seen: a folder on another file system than
    /// the pool, so that a pool which programs have filled still takes note of an epoch. It belongs to the pool;
    /// neither is of use without the other.
    pub records: PathBuf,
}

/// Where the volumes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// A folder on a btrfs file system that the operator mounted, with `noatime`: otherwise reading counts as a change.
    /// Two pools on one file system work, but differences between them are refused: each finds the other's copy of the
    /// parent.
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
