//! Snapshot sets: all volumes of a program at one point in time.

use chrono::{DateTime, Utc};
pub use protocol::data::{NotASnapshotId, SnapshotId};
use serde::{Deserialize, Serialize};

use super::name::VolumeSpec;

/// A complete snapshot set. That it is written down is what makes it complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSet {
    /// Its name.
    pub id: SnapshotId,
    /// When it was taken, by the clock of the node that took it: for people.
    pub taken: DateTime<Utc>,
    /// What it holds.
    pub volumes: Vec<VolumeSpec>,
    /// How it came to be here.
    pub origin: Origin,
}

/// How a snapshot set came to be on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It was taken here.
    Taken {
        /// The number of the live folder that it was taken of.
        folder: u64,
        /// The btrfs generation of each volume in it, in the order of the volumes: a volume with a greater one has
        /// changed.
        generations: Vec<u64>,
    },
    /// It came from another node.
    Received,
}

/// What of these sets is of no use any more: all but the newest and those that somebody asks to keep (what the standby
/// has, so that differences can build on it).
pub fn surplus<'a>(sets: impl IntoIterator<Item = &'a SnapshotId>, keep: &[SnapshotId]) -> Vec<SnapshotId> {
    let mut sets: Vec<_> = sets.into_iter().copied().collect();
    sets.sort_unstable();
    sets.pop();
    sets.retain(|id| !keep.contains(id));
    sets
}
