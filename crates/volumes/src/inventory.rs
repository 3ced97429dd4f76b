//! What the pool has of programs, for its operator.

use std::collections::HashMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use protocol::{Epoch, ProgramId};

use crate::btrfs::{self, Quota};
use crate::core::keeping::{Readable, Role};
use crate::core::name::VolumeSpec;
use crate::core::program::Program;
use crate::error::Error;
use crate::live::{VolumeUsage, usage_in};
use crate::pool::Pool;
use crate::records::Places;

/// What there is of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// What it is, in a word.
    pub role: Role,
    /// The highest epoch that was ever seen.
    pub highest: Epoch,
    /// All copies: what is live, then snapshots and recovery points, the oldest first.
    pub copies: Vec<Kept>,
}

/// A copy of a program's volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Which one.
    pub what: Readable,
    /// The epoch in which it was written.
    pub epoch: Epoch,
    /// When it was taken, for a snapshot, by the clock of the node that took it.
    pub taken: Option<DateTime<Utc>>,
    /// When it may be removed, for a recovery point.
    pub until: Option<DateTime<Utc>>,
    /// Its volumes. What is shared with other copies counts in each of them.
    pub volumes: Vec<VolumeUsage>,
}

impl Pool {
    /// What there is of these programs, in their order. Those with damaged records have an error of their own.
    ///
    /// # Errors
    /// When the file system does not tell what volumes use.
    pub async fn inventory(&self, programs: &[ProgramId]) -> Result<Vec<Result<Inventory, Error>>, Error> {
        let quotas = btrfs::quotas(self.root()).await?;
        let mut all = Vec::new();
        for program in programs {
            let slot = self.slot(*program);
            // Held until everything was looked at: what is listed is there.
            let state = slot.state.lock().await;
            all.push(state.known().and_then(|known| inventory(known, &self.places(*program), &quotas)));
        }
        Ok(all)
    }
}

fn inventory(known: &Program, places: &Places, quotas: &HashMap<u64, Quota>) -> Result<Inventory, Error> {
    let kept = |what, epoch, volumes: &[VolumeSpec], (taken, until)| -> Result<Kept, Error> {
        let volumes = usage_in(&folder_of(what, places), volumes, quotas)?;
        Ok(Kept { what, epoch, taken, until, volumes })
    };
    let mut copies = Vec::new();
    if let Some(live) = known.live() {
        copies.push(kept(Readable::Live(live.folder), live.epoch, &live.volumes, (None, None))?);
    }
    for set in known.sets() {
        copies.push(kept(Readable::Snapshot(set.id), set.id.epoch, &set.volumes, (Some(set.taken), None))?);
    }
    for point in known.recovery_points() {
        let (was, until) = (&point.was, Some(point.until));
        copies.push(kept(Readable::RecoveryPoint(was.folder), was.epoch, &was.volumes, (None, until))?);
    }
    Ok(Inventory { role: known.role(), highest: known.highest(), copies })
}

/// Where a copy is.
pub(crate) fn folder_of(what: Readable, places: &Places) -> PathBuf {
    match what {
        Readable::Live(folder) | Readable::RecoveryPoint(folder) => places.live_folder(folder),
        Readable::Snapshot(id) => places.snapshot_folder(id),
    }
}
