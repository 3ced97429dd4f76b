//! What can go wrong with volumes.

use std::io;
use std::path::{Path, PathBuf};

use crate::core::growth::KEPT_FREE_ON_DISK;
use crate::core::name::VolumeName;
use crate::core::program::Refusal;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules of epochs, names and states forbid it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A program is not installed.
    #[error("'{0}' is not installed: install the package {1}")]
    MissingTool(String, &'static str),
    /// The kernel cannot mount btrfs.
    #[error("this machine's kernel has no btrfs: load it ('modprobe btrfs') or boot a kernel that has it")]
    KernelWithoutBtrfs,
    /// The folder is on another file system.
    #[error("{0} is not on btrfs: mount a btrfs file system there, or let the pool have a file instead")]
    NotOnBtrfs(PathBuf),
    /// The file holds something else.
    #[error(
        "{0} exists, but is no btrfs file system; nothing was changed. Move it away, or name another file for the pool"
    )]
    NotAPool(PathBuf),
    /// The mount folder holds something else.
    #[error("{0} is not empty, and mounting the pool there would hide what it holds; name an empty folder")]
    FolderInUse(PathBuf),
    /// The file system turned itself read-only, or was mounted so.
    #[error(
        "the pool at {0} is mounted read-only; see 'dmesg' for why, unmount it, run 'btrfs check' on it, and start again"
    )]
    ReadOnly(PathBuf),
    /// The file system counts volumes in a way that does not fit.
    #[error(
        "{0} has simple quotas, which do not limit a volume made of a snapshot; run 'btrfs quota disable {0}' and start again"
    )]
    SimpleQuotas(PathBuf),
    /// Another process has it.
    #[error("the pool is in use: another process holds {0}; stop it, or give this one a pool of its own")]
    InUse(PathBuf),
    /// What the pool wrote down cannot be read.
    #[error("{path} is damaged ({reason}); restore it from a backup, or move it and the volumes of its program away")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No room.
    #[error("the pool is full: raise its limit, or remove volumes")]
    Full,
    /// The disk below has no room for the file to grow.
    #[error("the disk with the pool's file has too little room for the file to grow ({} MiB have to stay free): free some",
        KEPT_FREE_ON_DISK >> 20)]
    DiskIsShort,
    /// More is in the volume.
    #[error("volume {name} cannot have {wanted} MiB, as {used} MiB are in use: remove files in it, or ask for more")]
    TooSmall {
        /// The volume.
        name: VolumeName,
        /// The size that was asked for, in MiB.
        wanted: u64,
        /// What is in use, in MiB, rounded up.
        used: u64,
    },
    /// The difference builds on a snapshot that is not here.
    #[error("the stream builds on a snapshot that this node does not have; send the whole volume")]
    UnknownParent,
    /// The bytes are no stream, or not all of one, or more.
    #[error("the stream is damaged or was cut: {0}; send it again")]
    BadStream(String),
    /// The stream could not be read to its end.
    #[error("the stream broke off: {0}; send it again")]
    StreamEnded(#[source] io::Error),
    /// Volumes of a set have not arrived.
    #[error("volume {0} of the snapshot has not arrived; send it before the set is committed")]
    Incomplete(VolumeName),
    /// The snapshot is being sent or held.
    #[error("the snapshot is being sent, or the next one is to be a difference from it; try again when that is over")]
    Sending,
    /// The program could not be frozen for a snapshot.
    #[error("the program could not be frozen for a snapshot: {0}")]
    Freeze(#[source] io::Error),
    /// A program failed.
    #[error("'{command}' failed: {message}")]
    Command {
        /// What was run.
        command: String,
        /// What it said.
        message: String,
    },
    /// The operating system refused.
    #[error("cannot {0}: {1}")]
    Io(String, #[source] io::Error),
}

impl Error {
    /// Wraps an error of the operating system; `what` completes "cannot …".
    pub(crate) fn io(what: impl Into<String>, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull => Self::Full,
            _ => Self::Io(what.into(), error),
        }
    }

    /// The same, about a path.
    pub(crate) fn at<'a>(verb: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |error| Self::io(format!("{verb} {}", path.display()), error)
    }
}
