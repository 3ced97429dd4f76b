//! A pool of its own for each test, on a loop device, gone with the test however it ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::{DateTime, Utc};
use protocol::{Epoch, ProgramId};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt};
use volumes::{FileConfig, Pool, PoolConfig, SnapshotId, Storage, VolumeName, VolumeSpec};

pub(crate) const PROGRAM: ProgramId = ProgramId::from_bytes([1; 32]);
pub(crate) const OTHER: ProgramId = ProgramId::from_bytes([2; 32]);
pub(crate) const MIB: usize = 1 << 20;
/// More than any stream here has.
pub(crate) const ENOUGH: u64 = 1 << 30;

/// A folder for a pool's file and its mount.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("aleph-volumes-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self) -> PoolConfig {
        PoolConfig { storage: Storage::File(self.file_config()), records: self.path().join("records") }
    }

    pub(crate) fn file_config(&self) -> FileConfig {
        FileConfig { initial_mib: 256, headroom_mib: 0, ..FileConfig::new(self.file(), self.mount(), 512) }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.path().join("pool.btrfs")
    }

    pub(crate) fn mount(&self) -> PathBuf {
        self.path().join("pool")
    }

    pub(crate) async fn open(&self) -> Pool {
        Pool::open(self.config()).await.unwrap()
    }

    /// The records of a program.
    pub(crate) fn records(&self, program: ProgramId) -> PathBuf {
        self.path().join("records").join(program.to_string())
    }

    /// The volumes of a program.
    pub(crate) fn data(&self, program: ProgramId) -> PathBuf {
        self.mount().join("programs").join(program.to_string())
    }

    /// The same place as it is on the disk now, as after a loss of power.
    pub(crate) fn as_after_a_crash(&self) -> Self {
        let crashed = Self::new();
        let words = ["-r", "--sparse=always"].map(PathBuf::from);
        let from = [self.file(), self.path().join("records"), crashed.path().to_owned()];
        assert!(Command::new("cp").args(words).args(from).status().unwrap().success());
        crashed
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Whatever is mounted below, the last one first; loop devices go with their mounts.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|at| Path::new(at).starts_with(self.path()));
        for at in below.collect::<Vec<_>>().into_iter().rev() {
            let _ = Command::new("umount").args(["-l", at]).status();
        }
    }
}

/// A new pool in its place, which has to be kept.
pub(crate) async fn pool() -> (Place, Pool) {
    let place = Place::new();
    let pool = place.open().await;
    (place, pool)
}

pub(crate) fn epoch(number: u64) -> Epoch {
    Epoch::new(number)
}

pub(crate) fn id(epoch: u64, sequence: u64) -> SnapshotId {
    SnapshotId::new(Epoch::new(epoch), sequence)
}

pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

pub(crate) fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

pub(crate) fn volume(text: &str, size_mib: u64) -> VolumeSpec {
    VolumeSpec::files(name(text), size_mib)
}

/// Bytes that no file system makes smaller.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

/// A snapshot of a program that needs no freezing.
pub(crate) async fn snapshot(pool: &Pool, id: SnapshotId) {
    pool.snapshot(PROGRAM, id, at(0), async || Ok(())).await.unwrap();
}

pub(crate) async fn write(pool: &Pool, volume: &str, file: &str, bytes: &[u8]) {
    std::fs::write(pool.live_path(PROGRAM, &name(volume)).await.unwrap().join(file), bytes).unwrap();
}

pub(crate) async fn read(pool: &Pool, volume: &str, file: &str) -> Vec<u8> {
    std::fs::read(pool.live_path(PROGRAM, &name(volume)).await.unwrap().join(file)).unwrap()
}

pub(crate) async fn all_of(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// Sends a set with the one volume `data` from pool to pool, and returns how many bytes that took.
pub(crate) async fn transfer(from: &Pool, to: &Pool, id: SnapshotId, parent: Option<SnapshotId>) -> u64 {
    let stream = from.send(PROGRAM, id, &name("data"), parent).await.unwrap();
    let bytes = to.receive(PROGRAM, id, &name("data"), ENOUGH, stream).await.unwrap();
    let set = from.snapshots(PROGRAM).await.unwrap().into_iter().find(|set| set.id == id).unwrap();
    to.commit_received(PROGRAM, id, set.taken, set.volumes).await.unwrap();
    bytes
}
