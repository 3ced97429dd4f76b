//! A machine's pool: what is known of each program's volumes is the product's own record, what they hold is a model. What is
//! done here outlives agent, supervisors and crashes of the machine.
//!
//! Each program has one volume: a set of snapshots is one content.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use compute_node::core::archive::Wanted;
use compute_node::core::data::{NoPlan, Plan, plan};
use protocol::data::{DataEntry, SnapshotId};
use protocol::{Epoch, ProgramId};
use volumes::core::snapshot::{Origin, surplus};
use volumes::{Evidence, Program, Refusal, SnapshotSet, Source, VolumeName, VolumeSpec};

use crate::world::archive::Refused;
use crate::writes::{Content, WriteId};

/// What is over is kept for longer than any world lasts.
const RETENTION: TimeDelta = TimeDelta::days(30);

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The disk takes no writes.
    Full,
    /// The record says no.
    Refused(Refusal),
    /// There is not what it shall start with.
    NoPlan(NoPlan),
    /// It has to come from the archive first.
    InArchive(Box<Wanted>),
    /// It does not come from there.
    Archive(Refused),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<NoPlan> for Trouble {
    fn from(none: NoPlan) -> Self {
        Self::NoPlan(none)
    }
}

/// The volumes of one program.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    pub(crate) known: Program,
    /// What is live or was, by the number of its folder.
    folders: BTreeMap<u64, Content>,
    sets: BTreeMap<SnapshotId, Content>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) programs: BTreeMap<ProgramId, Volumes>,
}

/// The volume of every program that has one.
pub(crate) fn volumes() -> Vec<VolumeSpec> {
    let name = VolumeName::new("db").expect("it is short");
    vec![VolumeSpec::files(name, VOLUME_MIB)]
}

/// Its size.
pub(crate) const VOLUME_MIB: u64 = 100;

impl Pool {
    pub(crate) fn of(&mut self, program: ProgramId) -> &mut Volumes {
        self.programs.entry(program).or_default()
    }

    pub(crate) fn get(&self, program: ProgramId) -> Option<&Volumes> {
        self.programs.get(&program)
    }
}

impl Volumes {
    /// Makes the volumes what the program shall start with, as `compute-node/src/programs/data/base.rs` does; `restored` is what
    /// came from the archive for that. Returns the folder, and how they became live.
    pub(crate) fn open(
        &mut self,
        order: Option<&DataEntry>,
        epoch: Epoch,
        now: DateTime<Utc>,
        is_full: bool,
        restored: Option<SnapshotId>,
    ) -> Result<(u64, Plan), Trouble> {
        let (plan, until) = (plan(&self.known, order, epoch)?, now + RETENTION);
        if let (Plan::Restore(wanted), None) = (plan, restored) {
            return Err(Trouble::InArchive(Box::new(wanted)));
        }
        if is_full {
            return Err(Trouble::Full);
        }
        self.known.observe(epoch)?;
        match plan {
            Plan::GoOn => drop(self.known.open_live(epoch, volumes())?),
            Plan::Create => {
                if self.known.live().is_some() {
                    self.known.retire(epoch, until)?;
                }
                let folder = self.known.create_live(epoch, volumes())?;
                self.folders.insert(folder, Content::EMPTY);
            }
            Plan::Promote(_) | Plan::Restore(_) => {
                let from = match plan {
                    Plan::Promote(newest) => newest,
                    _ => restored.expect("it was looked a moment ago"),
                };
                let live = self.known.promote(Source::Snapshot(from), epoch, until)?;
                self.folders.insert(live.folder, self.sets[&from]);
                self.known.open_live(epoch, volumes())?;
            }
        }
        let folder = self.known.current()?.folder;
        Ok((folder, plan))
    }

    /// What the folder holds.
    pub(crate) fn folder(&self, folder: u64) -> Option<Content> {
        self.folders.get(&folder).copied()
    }

    /// A program writes into its volume: nothing stands between it and the file system.
    pub(crate) fn wrote(&mut self, folder: u64, content: Content) {
        self.folders.insert(folder, content);
    }

    /// What is live.
    pub(crate) fn live(&self) -> Option<(Epoch, Content)> {
        let live = self.known.live()?;
        Some((live.epoch, self.folder(live.folder)?))
    }

    pub(crate) fn set(&self, id: SnapshotId) -> Option<Content> {
        self.sets.get(&id).copied()
    }

    pub(crate) fn newest(&self) -> Option<&SnapshotSet> {
        self.known.sets().last()
    }

    /// Whether what is live differs from this snapshot of it.
    pub(crate) fn has_changed(&self, id: SnapshotId) -> Result<bool, Trouble> {
        let Some(then) = self.known.generations_at(id)? else { return Ok(true) };
        let live = self.known.current()?;
        let content = self.folder(live.folder).unwrap_or(Content::EMPTY);
        Ok(then.iter().any(|(_, generation)| content.generation() > *generation))
    }

    pub(crate) fn take(&mut self, id: SnapshotId, taken: DateTime<Utc>, is_full: bool) -> Result<(), Trouble> {
        let live = self.known.may_take(id)?.clone();
        if is_full {
            return Err(Trouble::Full);
        }
        let content = self.folder(live.folder).unwrap_or(Content::EMPTY);
        let origin = Origin::Taken { folder: live.folder, generations: vec![content.generation()] };
        self.known.add_set(SnapshotSet { id, taken, volumes: live.volumes, origin });
        self.sets.insert(id, content);
        Ok(())
    }

    /// A snapshot that came from another node is complete.
    pub(crate) fn add_received(&mut self, id: SnapshotId, taken: DateTime<Utc>, content: Content) {
        self.known.add_set(SnapshotSet { id, taken, volumes: volumes(), origin: Origin::Received });
        self.sets.insert(id, content);
    }

    pub(crate) fn prune(&mut self, keep: &[SnapshotId]) {
        for id in surplus(self.sets.keys(), keep) {
            self.sets.remove(&id);
            let _ = self.known.remove_set(id);
        }
    }

    /// The message node said this: the volumes of a program that is over are kept for a while.
    pub(crate) fn heed(&mut self, evidence: Evidence, now: DateTime<Utc>) {
        self.known.heed(evidence, now + RETENTION);
    }

    /// Whether a write is in anything that may be started from.
    pub(crate) fn has(&self, write: WriteId, is_in: impl Fn(Content) -> bool) -> bool {
        let live = self.live().map(|(_, content)| content);
        let mut all = live.into_iter().chain(self.sets.values().copied());
        all.any(|content| content.generation() >= write.generation() && is_in(content))
    }
}
