//! The volumes of one program on this node: what they are, and what may become of them.
//!
//! ```text
//!                create_live, promote           heed(Over, until)
//!   no copy ──────────────────────────▶ live ────────────────────▶ forgotten ──────────▶ no copy
//!      │                                │  ▲                      │   │  ▲    collect(now ≥ until)
//!      │ receive, commit         retire │  │ promote     undelete │   │  │ forget(until)
//!      ▼                                ▼  │                      ▼   │  │
//!   standby ◀───────────────────────────┴──┘               undeleted ─┼──┘
//!      └─── heed(Over, until) ──▶ forgotten                       │   │ heed(InForce)
//!                                                                 ▼   ▼
//!                                                      live or standby, as it was before
//! ```
//!
//! *Live* is the copy that a sandbox writes; there is at most one, and it belongs to an epoch. *Standby* means that
//! there are snapshot sets or recovery points, but nothing live. A live copy that is retired or replaced becomes a
//! *recovery point*: it stays until its deadline and is never served, but may be promoted. *Forgotten* and *undeleted*
//! programs have kept all of that; see [`super::keeping`].
//!
//! The node's agent moves it, by order of the scheduler, and by what the message node says (`heed`); the node's operator
//! moves it by `undelete` and `forget`, and time only by `collect`. Each move of the scheduler's carries an epoch,
//! and one below the highest ever seen is refused. That highest epoch is written down before anything is done, and
//! stays when all else is gone. A live copy of an epoch below the highest is stale: nothing opens it, reads its path or
//! takes snapshots of it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use protocol::Epoch;
use serde::{Deserialize, Serialize};

use super::name::{VolumeName, VolumeSpec};
use super::snapshot::{Origin, SnapshotId, SnapshotSet};

/// Volumes that a program may have.
pub const MAX_VOLUMES: usize = 64;

/// Complete snapshot sets that a program may have on a node. Each one makes every commit of the file system slower, as
/// quotas are counted for all that share a block.
pub const MAX_SETS: usize = 32;

/// Why something is not done. Nothing was changed, except that a new highest epoch is remembered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The sender does not know that the program was assigned again.
    #[error(
        "epoch {offered} is over: epoch {highest} has been seen for this program; ask the scheduler who has it now"
    )]
    StaleEpoch {
        /// What was offered.
        offered: Epoch,
        /// The highest that was ever seen.
        highest: Epoch,
    },
    /// There is no live copy.
    #[error("this program has no live volumes on this node; create them, or promote a snapshot")]
    NotLive,
    /// There is a live copy.
    #[error("this program has live volumes of epoch {0} on this node; open them, or retire them first")]
    AlreadyLive(Epoch),
    /// The live copy is not of the newest epoch.
    #[error(
        "the live volumes on this node are of epoch {live}, but {newest} is known: open them under the newest epoch"
    )]
    NotOfThisEpoch {
        /// The epoch of the live copy.
        live: Epoch,
        /// The newest that is known.
        newest: Epoch,
    },
    /// Others have written since.
    #[error(
        "the live volumes on this node are of epoch {live}, and snapshot {newer} of a later epoch is here: promote that one"
    )]
    Overtaken {
        /// The epoch of the live copy.
        live: Epoch,
        /// A snapshot that was taken on another node later.
        newer: SnapshotId,
    },
    /// The program was forgotten.
    #[error("this program was forgotten, its volumes are kept until {0}; `aleph-node volumes undelete` keeps them")]
    Forgotten(DateTime<Utc>),
    /// The program was not forgotten.
    #[error("this program is not forgotten, so there is nothing to undelete: its volumes are kept")]
    NotForgotten,
    /// The program was forgotten so long ago that its volumes may be going already.
    #[error("this program was forgotten and its volumes were kept until {0}: that is over, and they are being removed")]
    PastRetention(DateTime<Utc>),
    /// Nobody undeleted the program.
    #[error(
        "the volumes of this program were not undeleted, so there is nothing to take back: they are forgotten when its \
         message is"
    )]
    NotUndeleted,
    /// Nothing of the program is here.
    #[error(
        "this node has no volumes of this program, or none any more: what is forgotten or retired is removed when its \
         retention is over"
    )]
    NothingHere,
    /// There is no such snapshot set.
    #[error("there is no complete snapshot {0} of this program on this node")]
    NoSnapshot(SnapshotId),
    /// There is such a set already.
    #[error("there is a snapshot {0} already; a snapshot is never replaced, take the next number")]
    SnapshotExists(SnapshotId),
    /// There is no such recovery point.
    #[error("there is no recovery point {0} of this program on this node")]
    NoRecoveryPoint(u64),
    /// Too many sets.
    #[error("there are {MAX_SETS} snapshots of this program on this node already; prune them first")]
    TooManySets,
    /// The number goes back.
    #[error("snapshot {offered} would come before {newest}, which is there already; take a greater number")]
    NotNewer {
        /// What was offered.
        offered: SnapshotId,
        /// The newest there is.
        newest: SnapshotId,
    },
    /// The snapshot is of the epoch that is live here: only this node may have made it.
    #[error("the program is live here in epoch {0}, so no other node can send snapshots of it")]
    LiveHere(Epoch),
    /// Two volumes have one name.
    #[error("two volumes are called {0}; give each its own name")]
    SameName(VolumeName),
    /// Too many volumes.
    #[error("{0} volumes are too many, a program may have {MAX_VOLUMES}")]
    TooMany(usize),
    /// No such volume.
    #[error("this program has no volume {0}")]
    NoVolume(VolumeName),
}

/// The copy that a sandbox may write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The number of its folder.
    pub folder: u64,
    /// The epoch that it belongs to.
    pub epoch: Epoch,
    /// The snapshot that it was made of.
    pub made_of: Option<SnapshotId>,
    /// Its volumes.
    pub volumes: Vec<VolumeSpec>,
}

/// A former live copy, kept for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// What it was.
    #[serde(flatten)]
    pub was: Live,
    /// When it may be removed.
    pub until: DateTime<Utc>,
}

/// What to make a new live copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A complete snapshot set.
    Snapshot(SnapshotId),
    /// The recovery point in the folder with this number.
    RecoveryPoint(u64),
}

/// What is known of a program's volumes on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub(super) highest: Epoch,
    pub(super) next_folder: u64,
    pub(super) live: Option<Live>,
    pub(super) recovery: Vec<RecoveryPoint>,
    pub(super) forgotten: Option<DateTime<Utc>>,
    /// Never together with `forgotten`. Records that were written before there was such a thing do not have it.
    #[serde(default)]
    pub(super) undeleted: bool,
    /// Kept in files of their own.
    #[serde(skip)]
    pub(super) sets: BTreeMap<SnapshotId, SnapshotSet>,
}

impl Default for Program {
    fn default() -> Self {
        Self {
            highest: Epoch::new(0),
            next_folder: 1,
            live: None,
            recovery: Vec::new(),
            forgotten: None,
            undeleted: false,
            sets: BTreeMap::new(),
        }
    }
}

/// How live volumes were opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The number of their folder.
    pub folder: u64,
    /// The epoch that wrote them last.
    pub previous: Epoch,
    /// Volumes to add.
    pub added: Vec<VolumeSpec>,
    /// Volumes whose limit changes, with the new one.
    pub resized: Vec<VolumeSpec>,
}

impl Program {
    /// The highest epoch that was ever seen.
    pub fn highest(&self) -> Epoch {
        self.highest
    }

    /// The live copy, stale or not.
    pub fn live(&self) -> Option<&Live> {
        self.live.as_ref()
    }

    /// The former live copies.
    pub fn recovery_points(&self) -> &[RecoveryPoint] {
        &self.recovery
    }

    /// The complete snapshot sets, oldest first.
    pub fn sets(&self) -> impl Iterator<Item = &SnapshotSet> {
        self.sets.values()
    }

    /// Takes note of an epoch that came with an order or a stream. It has to be durable before anything is done.
    ///
    /// # Errors
    /// [`Refusal::StaleEpoch`].
    pub fn observe(&mut self, epoch: Epoch) -> Result<(), Refusal> {
        if epoch < self.highest {
            return Err(Refusal::StaleEpoch { offered: epoch, highest: self.highest });
        }
        self.highest = epoch;
        Ok(())
    }

    fn not_forgotten(&self) -> Result<(), Refusal> {
        self.forgotten.map_or(Ok(()), |until| Err(Refusal::Forgotten(until)))
    }

    /// The live copy, if it belongs to the highest epoch.
    ///
    /// # Errors
    /// When there is none, when it is stale, or when the program was forgotten.
    pub fn current(&self) -> Result<&Live, Refusal> {
        self.not_forgotten()?;
        let live = self.live.as_ref().ok_or(Refusal::NotLive)?;
        if live.epoch != self.highest {
            return Err(Refusal::NotOfThisEpoch { live: live.epoch, newest: self.highest });
        }
        Ok(live)
    }

    /// The complete set with this name.
    ///
    /// # Errors
    /// [`Refusal::NoSnapshot`].
    pub fn set(&self, id: SnapshotId) -> Result<&SnapshotSet, Refusal> {
        self.sets.get(&id).ok_or(Refusal::NoSnapshot(id))
    }

    fn new_folder(&mut self) -> u64 {
        let folder = self.next_folder;
        self.next_folder += 1;
        folder
    }

    /// Empty volumes become live.
    ///
    /// # Errors
    /// When there are live ones, the epoch is over, the program was forgotten, or the volumes are no valid set.
    pub fn create_live(&mut self, epoch: Epoch, volumes: Vec<VolumeSpec>) -> Result<u64, Refusal> {
        check(&volumes)?;
        self.observe(epoch)?;
        self.not_forgotten()?;
        if let Some(live) = &self.live {
            return Err(Refusal::AlreadyLive(live.epoch));
        }
        let folder = self.new_folder();
        self.live = Some(Live { folder, epoch, made_of: None, volumes });
        Ok(folder)
    }

    /// The live volumes go on under this epoch. Those that the message no longer has stay; their owner may want them
    /// back.
    ///
    /// # Errors
    /// When there are none, another node has written since, the epoch is over, the program was forgotten, or the
    /// volumes are no valid set.
    pub fn open_live(&mut self, epoch: Epoch, volumes: Vec<VolumeSpec>) -> Result<Opening, Refusal> {
        check(&volumes)?;
        self.observe(epoch)?;
        self.not_forgotten()?;
        let newest = self.sets.keys().next_back().copied();
        let live = self.live.as_mut().ok_or(Refusal::NotLive)?;
        if let Some(newer) = newest.filter(|newest| newest.epoch > live.epoch) {
            return Err(Refusal::Overtaken { live: live.epoch, newer });
        }
        let mut opening = Opening { folder: live.folder, previous: live.epoch, added: Vec::new(), resized: Vec::new() };
        let mut all = live.volumes.clone();
        for wanted in volumes {
            match all.iter_mut().find(|v| v.name == wanted.name) {
                Some(volume) if volume.size_mib == wanted.size_mib => {}
                Some(volume) => {
                    volume.size_mib = wanted.size_mib;
                    opening.resized.push(wanted);
                }
                None => {
                    all.push(wanted.clone());
                    opening.added.push(wanted);
                }
            }
        }
        check(&all)?;
        live.volumes = all;
        live.epoch = epoch;
        Ok(opening)
    }

    /// Whether a snapshot of the live volumes may be taken under this name.
    ///
    /// # Errors
    /// When the name is not of the live epoch, not newer than every other, or there is nothing live.
    pub fn may_take(&self, id: SnapshotId) -> Result<&Live, Refusal> {
        if id.epoch < self.highest {
            return Err(Refusal::StaleEpoch { offered: id.epoch, highest: self.highest });
        }
        let live = self.current()?;
        if id.epoch != live.epoch {
            return Err(Refusal::NotOfThisEpoch { live: live.epoch, newest: id.epoch });
        }
        match self.sets.keys().next_back() {
            Some(newest) if *newest == id => Err(Refusal::SnapshotExists(id)),
            Some(newest) if *newest > id => Err(Refusal::NotNewer { offered: id, newest: *newest }),
            _ if self.sets.len() >= MAX_SETS => Err(Refusal::TooManySets),
            _ => Ok(live),
        }
    }

    /// A stream of a snapshot begins, or the set that it belongs to is to be complete.
    ///
    /// # Errors
    /// When the epoch is over, the program is live here in that epoch or was forgotten, the set is complete already, or
    /// there are too many.
    pub fn may_receive(&mut self, id: SnapshotId) -> Result<(), Refusal> {
        self.observe(id.epoch)?;
        self.not_forgotten()?;
        if self.live.as_ref().is_some_and(|live| live.epoch == id.epoch) {
            return Err(Refusal::LiveHere(id.epoch));
        }
        if self.sets.contains_key(&id) {
            return Err(Refusal::SnapshotExists(id));
        }
        if self.sets.len() >= MAX_SETS { Err(Refusal::TooManySets) } else { Ok(()) }
    }

    /// The stream of a snapshot from the archive begins, with which the program shall start under this epoch, or the set that
    /// it belongs to is to be complete. What another program wrote is [`SnapshotId::foreign`] of the epoch.
    ///
    /// # Errors
    /// When the epoch is over, live here already or not later than the snapshot's, the program was forgotten, the set is
    /// complete already, or there are too many.
    pub fn may_restore(&mut self, id: SnapshotId, epoch: Epoch) -> Result<(), Refusal> {
        if id.epoch >= epoch && id != SnapshotId::foreign(epoch) {
            return Err(Refusal::StaleEpoch { offered: epoch, highest: id.epoch });
        }
        self.observe(epoch)?;
        self.not_forgotten()?;
        if self.live.as_ref().is_some_and(|live| live.epoch == epoch) {
            return Err(Refusal::AlreadyLive(epoch));
        }
        if self.sets.contains_key(&id) {
            return Err(Refusal::SnapshotExists(id));
        }
        if self.sets.len() >= MAX_SETS { Err(Refusal::TooManySets) } else { Ok(()) }
    }

    /// Adds a set that is written down.
    pub fn add_set(&mut self, set: SnapshotSet) {
        self.sets.insert(set.id, set);
    }

    /// Takes a set off the list, which is to be removed.
    ///
    /// # Errors
    /// [`Refusal::NoSnapshot`].
    pub fn remove_set(&mut self, id: SnapshotId) -> Result<SnapshotSet, Refusal> {
        self.sets.remove(&id).ok_or(Refusal::NoSnapshot(id))
    }

    /// A copy of the source becomes live. What was live becomes a recovery point until then.
    ///
    /// # Errors
    /// When there is no such source, the program was forgotten, the epoch is over, or is that of the live volumes.
    pub fn promote(&mut self, from: Source, epoch: Epoch, keep_old: DateTime<Utc>) -> Result<Live, Refusal> {
        self.observe(epoch)?;
        self.not_forgotten()?;
        let (made_of, volumes) = match from {
            Source::Snapshot(id) => (Some(id), self.set(id)?.volumes.clone()),
            Source::RecoveryPoint(folder) => {
                let point = self.recovery.iter().find(|point| point.was.folder == folder);
                let was = &point.ok_or(Refusal::NoRecoveryPoint(folder))?.was;
                (was.made_of, was.volumes.clone())
            }
        };
        if let Some(live) = self.live.as_ref().filter(|live| live.epoch == epoch) {
            return Err(Refusal::AlreadyLive(live.epoch));
        }
        self.put_aside(keep_old);
        let live = Live { folder: self.new_folder(), epoch, made_of, volumes };
        self.live = Some(live.clone());
        Ok(live)
    }

    /// The live volumes become a recovery point until then.
    ///
    /// # Errors
    /// When the epoch is over, or there are none.
    pub fn retire(&mut self, epoch: Epoch, until: DateTime<Utc>) -> Result<(), Refusal> {
        self.observe(epoch)?;
        if self.live.is_none() {
            return Err(Refusal::NotLive);
        }
        self.put_aside(until);
        Ok(())
    }

    fn put_aside(&mut self, until: DateTime<Utc>) {
        self.recovery.extend(self.live.take().map(|was| RecoveryPoint { was, until }));
    }

    /// Whether the live folder with this number belongs to something; what does not was left by an interruption.
    pub fn has_folder(&self, folder: u64) -> bool {
        let live = self.live.iter().chain(self.recovery.iter().map(|point| &point.was));
        live.into_iter().any(|live| live.folder == folder)
    }

    /// Whether the live volumes are those that the snapshot was taken of, and the generations that they had.
    pub fn generations_at(&self, id: SnapshotId) -> Result<Option<Vec<(VolumeName, u64)>>, Refusal> {
        let (live, set) = (self.current()?, self.set(id)?);
        Ok(match &set.origin {
            Origin::Taken { folder, generations } if *folder == live.folder => {
                Some(set.volumes.iter().map(|v| v.name.clone()).zip(generations.iter().copied()).collect())
            }
            _ => None,
        })
    }
}

/// What holds for the volumes of every program.
pub(crate) fn check(volumes: &[VolumeSpec]) -> Result<(), Refusal> {
    if volumes.len() > MAX_VOLUMES {
        return Err(Refusal::TooMany(volumes.len()));
    }
    for (index, volume) in volumes.iter().enumerate() {
        if volumes[..index].iter().any(|other| other.name == volume.name) {
            return Err(Refusal::SameName(volume.name.clone()));
        }
    }
    Ok(())
}
