//! Snapshot sets: all volumes of a program at one point in time.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use protocol::Epoch;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::name::VolumeSpec;

/// Names a snapshot set of a program, the same on every node. Sets of a later epoch are newer, whatever their sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    /// The epoch under which the program ran.
    pub epoch: Epoch,
    /// Counts the snapshots of that epoch.
    pub sequence: u64,
}

impl SnapshotId {
    /// The snapshot set with this number of this epoch.
    pub const fn new(epoch: Epoch, sequence: u64) -> Self {
        Self { epoch, sequence }
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.sequence)
    }
}

/// A text that names no snapshot set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' names no snapshot: expected the epoch and a number, like 3-17")]
pub struct NotASnapshotId(pub String);

impl FromStr for SnapshotId {
    type Err = NotASnapshotId;

    fn from_str(text: &str) -> Result<Self, NotASnapshotId> {
        let number = |digits: &str| digits.parse::<u64>().ok();
        text.split_once('-')
            .and_then(|(epoch, sequence)| Some(Self::new(Epoch::new(number(epoch)?), number(sequence)?)))
            // One id has one text, as texts are names of folders.
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| NotASnapshotId(text.to_owned()))
    }
}

impl Serialize for SnapshotId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SnapshotId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

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
