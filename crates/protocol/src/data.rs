//! The data of programs in the control protocol: which node has which copy of a program's volumes, who keeps copies of whose,
//! and what a program starts with.
//!
//! A set's `Run` entry of a program with persistent volumes has a [`DataOrder::Live`] beside it, which goes on while it is
//! being released and until what it wrote last has arrived where it moves; the node that keeps copies has a
//! [`DataOrder::Keep`]. All come with the set, by the same version. No order, or an empty list, deletes nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Address, Epoch, NodeId, ProgramId};

/// Where a compute node takes in copies: `GET` with `Upgrade:` [`REPLICATION_PROTOCOL`], below its base URL.
pub const REPLICATION_PATH: &str = "/control/replication";

/// What such a connection is upgraded to.
pub const REPLICATION_PROTOCOL: &str = "aleph-replication";

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

    /// What a program starts with under this epoch that another program wrote.
    pub const fn foreign(epoch: Epoch) -> Self {
        Self::new(epoch, 0)
    }

    /// A snapshot of another program on which that builds. It never becomes complete.
    pub const fn below_foreign(number: u64) -> Self {
        Self::new(Epoch::new(0), number)
    }

    /// Whether it is one of those: epochs and snapshots that are taken count from 1.
    pub const fn is_foreign(self) -> bool {
        self.epoch.get() == 0 || self.sequence == 0
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

/// Another compute node, as the scheduler knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its public base URL.
    pub url: String,
    /// The account whose key it proves.
    pub account: Address,
}

/// What a node shall do about a program's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataEntry {
    /// The program.
    pub program: ProgramId,
    /// The epoch of its assignment.
    pub epoch: Epoch,
    /// What to do.
    pub order: DataOrder,
}

/// See [`DataEntry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum DataOrder {
    /// It is this node's to write. Copies go to the standby, if there is one.
    Live {
        /// What it starts with.
        base: DataBase,
        /// Who keeps copies.
        standby: Option<Peer>,
    },
    /// This node keeps copies of what that one sends.
    Keep {
        /// The node that the program runs on.
        from: Peer,
    },
    /// What this node has of it is overtaken, all of it that is of an epoch below the entry's: the program runs elsewhere,
    /// and another node keeps copies of that. It is kept as a point to go back to until its time is over, then removed.
    Retire,
}

/// What a program starts with under an epoch. A node that does not have it refuses the assignment
/// ([`crate::control::Refusal::NoData`]): it never starts a program with less than it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "base", rename_all = "snake_case")]
pub enum DataBase {
    /// With nothing: it never ran before.
    Empty,
    /// With what it wrote on this same node under its last epoch.
    Own {
        /// That epoch.
        epoch: Epoch,
    },
    /// With the newest complete snapshot that this node has.
    Copy {
        /// Not with an older one than this.
        at_least: Option<SnapshotId>,
        /// Nor with one of writes that the program does not know any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<Branch>,
    },
    /// With what the message node's archive has of its volumes with the persistence `store`; others are empty.
    Archive {
        /// With this set; `None` for the newest that can be restored.
        snapshot: Option<SnapshotId>,
        /// The newest, but none of writes that the program does not know any more. Who names a set wants exactly that one.
        #[serde(default, skip_serializing_if = "Lineage::is_straight")]
        lineage: Lineage,
    },
    /// With what the archive has of another program of the same owner: each volume with the persistence `store` is what that
    /// program's volume of the same name was; others are empty.
    Foreign {
        /// That program.
        program: ProgramId,
        /// The set of its archive.
        snapshot: SnapshotId,
    },
}

/// A set of the archive that somebody wants a program to start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchivedSet {
    /// Its name.
    pub snapshot: SnapshotId,
    /// The program whose archive has it; `None` for the program's own.
    pub from: Option<ProgramId>,
}

impl ArchivedSet {
    /// What a program starts with that goes back to it.
    pub const fn base(self) -> DataBase {
        match self.from {
            None => DataBase::Archive { snapshot: Some(self.snapshot), lineage: Lineage::STRAIGHT },
            Some(program) => DataBase::Foreign { program, snapshot: self.snapshot },
        }
    }
}

impl DataBase {
    /// The set that somebody wants it to start with, if it is one.
    pub const fn archived(self) -> Option<ArchivedSet> {
        match self {
            Self::Archive { snapshot: Some(snapshot), .. } => Some(ArchivedSet { snapshot, from: None }),
            Self::Foreign { program, snapshot } => Some(ArchivedSet { snapshot, from: Some(program) }),
            Self::Empty | Self::Own { .. } | Self::Copy { .. } | Self::Archive { snapshot: None, .. } => None,
        }
    }
}

/// Snapshots of epochs before `since` count up to `until` only: the program went on from there, and what others wrote after it
/// is not what it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    /// What it went on with; `None` for nothing.
    pub until: Option<SnapshotId>,
    /// The epoch that went on.
    pub since: Epoch,
}

impl Branch {
    /// Whether a snapshot was taken of writes that the program does not know any more.
    pub fn cuts_off(self, snapshot: SnapshotId) -> bool {
        snapshot.epoch < self.since && Some(snapshot) > self.until
    }
}

/// All branches of a program, from the first on that still cuts something off. The newest one alone is not enough for the
/// archive: what is older than where the newest one went on may have been cut off by an earlier one.
///
/// It has a bound: of more branches than that, the oldest two count as one that cuts off all that either does and what was
/// written between them: that matters only when nothing was archived in all the epochs since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "Vec<Branch>", from = "Vec<Branch>")]
pub struct Lineage {
    /// In their order; those that are there come first.
    branches: [Option<Branch>; Lineage::MOST],
}

impl Lineage {
    /// Branches at most.
    pub const MOST: usize = 4;

    /// Without branches.
    pub const STRAIGHT: Self = Self { branches: [None; Self::MOST] };

    /// Whether there is no branch.
    pub fn is_straight(&self) -> bool {
        *self == Self::STRAIGHT
    }

    /// Whether a snapshot was taken of writes that the program does not know any more.
    pub fn cuts_off(&self, snapshot: SnapshotId) -> bool {
        self.branches().any(|branch| branch.cuts_off(snapshot))
    }

    /// The program goes on, as this newest branch says.
    pub fn branch_off(&mut self, branch: Branch) {
        // It cuts off all that an earlier one does which went on from a later snapshot.
        let mut branches: Vec<_> = self.branches().filter(|earlier| earlier.until < branch.until).collect();
        branches.push(branch);
        if let [oldest, next, ..] = branches[..]
            && branches.len() > Self::MOST
        {
            branches.splice(..2, [Branch { until: oldest.until, since: next.since }]);
        }
        *self = Self::STRAIGHT;
        for (place, branch) in self.branches.iter_mut().zip(branches) {
            *place = Some(branch);
        }
    }

    fn branches(&self) -> impl Iterator<Item = Branch> {
        self.branches.iter().flatten().copied()
    }
}

impl From<Lineage> for Vec<Branch> {
    fn from(lineage: Lineage) -> Self {
        lineage.branches().collect()
    }
}

impl From<Vec<Branch>> for Lineage {
    fn from(branches: Vec<Branch>) -> Self {
        let mut lineage = Self::STRAIGHT;
        branches.into_iter().for_each(|branch| lineage.branch_off(branch));
        lineage
    }
}

/// What a node says about the data of one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataReport {
    /// The program.
    pub program: ProgramId,
    /// What runs, or last ran, on this node.
    pub live: Option<LiveReport>,
    /// The newest complete snapshot that came from another node or was taken here, and how old it is.
    pub copy: Option<CopyReport>,
    /// Those before that, the newest first, at most [`MAX_EARLIER_COPIES`]: the newest may be of writes that the program does not
    /// know any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<CopyReport>,
}

/// How many snapshots before its newest one a node names of a program.
pub const MAX_EARLIER_COPIES: usize = 2;

/// Data that a program wrote on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveReport {
    /// The epoch that it belongs to.
    pub epoch: Epoch,
    /// The newest snapshot that the standby said it has complete.
    pub confirmed: Option<SnapshotId>,
    /// How long ago the oldest write happened that is in no confirmed snapshot, in milliseconds; 0 when there is none.
    pub at_risk_ms: u64,
    /// Whether the program has ended and `confirmed` holds everything that it wrote.
    pub is_final: bool,
}

/// A complete snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Which.
    pub newest: SnapshotId,
    /// How long ago it was taken, in milliseconds, never less than it is.
    pub age_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_of_later_epochs_are_newer_and_have_one_text_each() {
        let id = |text: &str| text.parse::<SnapshotId>();
        assert!(id("2-1").unwrap() > id("1-99").unwrap() && id("2-2").unwrap() > id("2-1").unwrap());
        assert_eq!(id("3-17").unwrap().to_string(), "3-17");
        for bad in ["", "3", "3-", "03-1", "3-+1", "-1-1", "../1-1"] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn orders_are_told_apart_in_json() {
        let base = DataBase::Copy { at_least: Some(SnapshotId::new(Epoch::new(3), 17)), branch: None };
        let entry = DataEntry {
            program: ProgramId::from_bytes([1; 32]),
            epoch: Epoch::new(4),
            order: DataOrder::Live { base, standby: None },
        };
        let json = serde_json::to_value(&entry).unwrap();
        assert_eq!(json["order"]["order"], "live");
        assert_eq!(json["order"]["base"]["at_least"], "3-17");
        assert_eq!(serde_json::from_value::<DataEntry>(json).unwrap(), entry);
    }

    #[test]
    fn a_set_of_the_archive_is_what_a_program_starts_with_and_nobody_takes_it_for_its_own() {
        let snapshot = SnapshotId::new(Epoch::new(3), 17);
        for from in [None, Some(ProgramId::from_bytes([2; 32]))] {
            let set = ArchivedSet { snapshot, from };
            assert_eq!(set.base().archived(), Some(set));
            let json = serde_json::to_value(set.base()).unwrap();
            assert_eq!(json["base"], if from.is_some() { "foreign" } else { "archive" });
            assert_eq!(serde_json::from_value::<DataBase>(json).unwrap(), set.base());
        }
        // As it was written before there was another program's.
        let earlier = serde_json::json!({"base": "archive", "snapshot": "3-17"});
        let own = ArchivedSet { snapshot, from: None };
        assert_eq!(serde_json::from_value::<DataBase>(earlier).unwrap(), own.base());
        let newest = DataBase::Archive { snapshot: None, lineage: Lineage::STRAIGHT };
        assert_eq!(newest.archived(), None);
        // As it was written before it named branches, and as that reads what is written now.
        let earlier = serde_json::json!({"base": "archive", "snapshot": null});
        assert_eq!(serde_json::from_value::<DataBase>(earlier.clone()).unwrap(), newest);
        assert_eq!(serde_json::to_value(newest).unwrap(), earlier);
    }

    fn branch(until: Option<(u64, u64)>, since: u64) -> Branch {
        let until = until.map(|(epoch, sequence)| SnapshotId::new(Epoch::new(epoch), sequence));
        Branch { until, since: Epoch::new(since) }
    }

    #[test]
    fn what_any_branch_cut_off_stays_cut_off() {
        let mut lineage = Lineage::STRAIGHT;
        let cuts_off =
            |lineage: &Lineage, epoch, sequence| lineage.cuts_off(SnapshotId::new(Epoch::new(epoch), sequence));
        assert!(!cuts_off(&lineage, 1, 7));
        lineage.branch_off(branch(Some((1, 3)), 2));
        lineage.branch_off(branch(Some((2, 2)), 3));
        for (epoch, sequence, is_lost) in [(1, 3, false), (1, 7, true), (2, 2, false), (2, 5, true), (3, 9, false)] {
            assert_eq!(cuts_off(&lineage, epoch, sequence), is_lost, "{epoch}-{sequence}");
        }
        let json = serde_json::to_value(lineage).unwrap();
        assert_eq!(json.as_array().unwrap().len(), 2);
        assert_eq!(serde_json::from_value::<Lineage>(json).unwrap(), lineage);
        // Back before both: neither matters any more.
        lineage.branch_off(branch(Some((1, 1)), 4));
        assert_eq!(Vec::from(lineage), [branch(Some((1, 1)), 4)]);
        lineage.branch_off(branch(None, 5));
        assert!(cuts_off(&lineage, 1, 1) && cuts_off(&lineage, 4, 1) && !cuts_off(&lineage, 5, 1));
    }

    #[test]
    fn of_many_branches_the_oldest_become_one_that_cuts_off_more_and_never_less() {
        let mut lineage = Lineage::STRAIGHT;
        let branches: Vec<_> = (1..=20).map(|epoch| branch(Some((epoch, 5)), epoch + 1)).collect();
        for (taken, branch) in branches.iter().enumerate() {
            lineage.branch_off(*branch);
            assert!(Vec::from(lineage).len() <= Lineage::MOST);
            for epoch in 1..=21 {
                let lost = SnapshotId::new(Epoch::new(epoch), 6);
                let cuts_off = branches[..=taken].iter().any(|branch| branch.cuts_off(lost));
                assert!(!cuts_off || lineage.cuts_off(lost), "{lost} after {branch:?}");
            }
            assert!(!lineage.cuts_off(SnapshotId::new(Epoch::new(taken as u64 + 1), 5)), "what it went on with counts");
        }
    }
}
