//! Programs' data and moves in the scheduler's API.

use serde::{Deserialize, Serialize};

use crate::data::SnapshotId;
use crate::{Address, Epoch, NodeId, ProgramId};

/// The data of a program with persistent volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRecord {
    /// The node that keeps copies.
    pub standby: Option<NodeId>,
    /// Whether it has a complete copy.
    pub standby_is_complete: bool,
    /// Writes of at most this long would be lost if its node were lost now, in milliseconds; null when nobody knows, or no
    /// node has a copy.
    pub at_risk_ms: Option<u64>,
    /// What its last start cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<LossRecord>,
    /// The snapshot of the archive that it started with under its present epoch, when somebody ordered that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<SnapshotId>,
    /// The program whose archive has that snapshot, if it is another one: its node may read it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<ProgramId>,
    /// The nodes that had its data, when it waits for one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<NodeId>,
}

/// What a program lost when it started after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossRecord {
    /// The epoch whose last writes are lost.
    pub epoch: Epoch,
    /// The snapshot that it went on with; null when it started with nothing, or with what the archive had.
    pub snapshot: Option<SnapshotId>,
    /// Whether it went on with the newest set of the archive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_archive: bool,
    /// Only writes of at most this long before that epoch's end are lost, in milliseconds; null when nobody knows.
    pub at_most_ms: Option<u64>,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MovePhase {
    /// No node fits yet, or it pauses after a try that failed.
    Waiting,
    /// Its data is copied while it runs.
    Copying,
    /// It is being stopped.
    Stopping,
    /// It has stopped, and what it wrote last is copied.
    Finishing,
    /// It starts on the other node.
    Starting,
}

/// A move to another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// How far it is.
    pub phase: MovePhase,
    /// The node that it moves to, when that is decided.
    pub to: Option<NodeId>,
    /// Since when it is to move, ISO 8601.
    pub since: String,
    /// Why: `moved` when somebody ordered it, `draining`, `node_fault` or `node_withdrawn`.
    pub cause: String,
    /// Who ordered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Address>,
    /// How far the copy is behind while the program runs, in milliseconds, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_ms: Option<u64>,
}

/// How a move ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveResult {
    /// In one word.
    pub outcome: MoveOutcome,
    /// The node that it was to leave.
    pub from: NodeId,
    /// The node that it was to move to, if that was decided.
    pub to: Option<NodeId>,
    /// When, ISO 8601.
    pub at: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it was not ready, from the order to stop until it was ready again, in milliseconds, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready_ms: Option<u64>,
}

/// See [`MoveResult`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveOutcome {
    /// It runs on the other node.
    Done,
    /// It did not come up there.
    Failed,
    /// Somebody took the order back.
    Cancelled,
}

impl MovePhase {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copying => "copying",
            Self::Stopping => "stopping",
            Self::Finishing => "finishing",
            Self::Starting => "starting",
        }
    }
}

impl MoveOutcome {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
