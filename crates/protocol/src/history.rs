//! The signed history of a persistent program: who was assigned it, when it started, answered, was released, stopped or was
//! lost.
//!
//! Each entry is signed by the scheduler that wrote it and names the hash of the one before it, so that none can be changed,
//! left out or moved. What only a node can know, that it started, answers or stopped, is stated and signed by the node, and
//! the entry carries that statement.

mod verify;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::account::{SignatureError, recover};
use crate::data::SnapshotId;
use crate::{Account, Address, Epoch, NodeId, ProgramId};

pub use verify::{Problem, Trust, Verified, verify};

/// What a node vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stated {
    /// A sandbox of it runs.
    Started,
    /// It answers.
    Ready,
    /// Nothing of it runs any more on this node.
    Stopped,
}

/// A node's word about a program, by the node's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The program.
    pub program: ProgramId,
    /// The epoch that the node held it under.
    pub epoch: Epoch,
    /// The node.
    pub node: NodeId,
    /// What.
    pub stated: Stated,
    /// When, for people.
    pub at: DateTime<Utc>,
    /// The signature of [`Statement::text`] by the node's account (EIP-191).
    pub signature: String,
}

impl Statement {
    /// Makes and signs a statement.
    pub fn new(
        account: &Account,
        node: NodeId,
        program: ProgramId,
        epoch: Epoch,
        stated: Stated,
        at: DateTime<Utc>,
    ) -> Self {
        let unsigned = Self { program, epoch, node, stated, at, signature: String::new() };
        Self { signature: account.sign(unsigned.text().as_bytes()), ..unsigned }
    }

    /// What is signed.
    pub fn text(&self) -> String {
        let stated = match self.stated {
            Stated::Started => "started",
            Stated::Ready => "ready",
            Stated::Stopped => "stopped",
        };
        let at = self.at.timestamp_micros();
        let Self { program, epoch, node, .. } = self;
        format!("aleph statement\n{stated}\nprogram {program}\nepoch {epoch}\nnode {node}\nat {at}")
    }

    /// Who signed it.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`].
    pub fn signer(&self) -> Result<Address, SignatureError> {
        recover(self.text().as_bytes(), &self.signature)
    }
}

/// What an entry records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// The node got the right to run it, under a new epoch.
    Assigned,
    /// It goes on with less than it had written.
    DataLost {
        /// The epoch whose last writes are lost.
        of: Epoch,
        /// The snapshot that it goes on with; `None` when it starts with nothing, or with what the archive has.
        snapshot: Option<SnapshotId>,
        /// Whether it goes on with the newest set of the archive.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        from_archive: bool,
        /// Only writes of at most this long before that epoch's end are lost, in milliseconds; `None` when nobody knows.
        at_most_ms: Option<u64>,
    },
    /// The node said so.
    Stated {
        /// What it said.
        statement: Statement,
    },
    /// Somebody asked to run it on another node.
    MoveAsked {
        /// Who.
        by: Address,
        /// Where; `None` for any other node.
        to: Option<NodeId>,
    },
    /// It goes back to a snapshot of the archive, as somebody asked.
    Restoring {
        /// Who.
        by: Address,
        /// The set.
        snapshot: SnapshotId,
        /// The program whose volumes they were; `None` for its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<ProgramId>,
    },
    /// Somebody asked to leave it where it is.
    MoveCancelled {
        /// Who.
        by: Address,
    },
    /// It was stopped for another node, and did not come up there.
    MoveFailed {
        /// Why.
        reason: String,
    },
    /// The node was told to stop it.
    Releasing {
        /// Why.
        cause: String,
    },
    /// The assignment is over.
    Ended {
        /// Why.
        cause: String,
        /// How it is known that nothing of it runs any more: `released`, `refused`, `lease_over`, `never_granted` or, where
        /// an operator vouches for it, `declared`.
        proof: String,
    },
}

/// One entry, as it is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The program.
    pub program: ProgramId,
    /// From 1.
    pub sequence: u64,
    /// The hash of the entry before it; of the first one, the program's id.
    pub previous: String,
    /// When it was written, by the scheduler's clock.
    pub at: DateTime<Utc>,
    /// The scheduler's account.
    pub scheduler: Address,
    /// The epoch that it is about.
    pub epoch: Epoch,
    /// The node that it is about.
    pub node: NodeId,
    /// What it records.
    #[serde(flatten)]
    pub fact: Fact,
}

/// An entry as it is kept and served: the signed text, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedEntry {
    /// [`Entry`] as JSON.
    pub entry: String,
    /// The scheduler's signature of that text (EIP-191).
    pub signature: String,
}

impl SignedEntry {
    /// Signs an entry.
    pub fn new(scheduler: &Account, entry: &Entry) -> Self {
        let entry = serde_json::to_string(entry).expect("an entry is JSON");
        Self { signature: scheduler.sign(entry.as_bytes()), entry }
    }

    /// What the next entry names.
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.entry.as_bytes()))
    }
}
