//! What an assignment starts with, as it is remembered with it.

use std::time::Duration;

use protocol::data::{Branch, DataBase, Lineage, SnapshotId};
use protocol::history::Fact;
use protocol::{Epoch, NodeId, ProgramId};
use serde::{Deserialize, Serialize};

/// What the volumes of a program hold when an assignment begins. The database keeps it in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataStart {
    /// What it starts with.
    pub base: DataBase,
    /// Where epochs before it branched off the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<Branch>,
    /// Which sets of the archive do not count: all branches since the program is known.
    #[serde(default, skip_serializing_if = "Lineage::is_straight")]
    pub archived: Lineage,
}

/// An assignment that may have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    /// The program.
    pub program: ProgramId,
    /// The node.
    pub node: NodeId,
    /// The epoch.
    pub epoch: Epoch,
    /// What it started with, if that is known.
    pub start: Option<DataStart>,
}

/// What a crash cost a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// The epoch whose last writes are lost.
    pub epoch: Epoch,
    /// What the program went on with; `None` for nothing, or for what the archive had.
    pub snapshot: Option<SnapshotId>,
    /// Whether it went on with the newest set of the archive.
    pub from_archive: bool,
    /// Writes of at most this long before its end are lost; `None` when all of them are, or when nobody knows.
    pub at_most: Option<Duration>,
}

impl Loss {
    /// As it is in the signed history.
    pub fn fact(&self) -> Fact {
        let Self { epoch, snapshot, from_archive, at_most } = *self;
        // Rounded up: a loss is never said to be less than it is.
        let at_most_ms = at_most.map(|time| u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
        Fact::DataLost { of: epoch, snapshot, from_archive, at_most_ms }
    }
}
