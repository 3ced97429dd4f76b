//! Live copies: made, opened, promoted, retired, forgotten, collected.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use protocol::{Epoch, ProgramId};
use tracing::{info, warn};

use crate::btrfs::{self, Access, Quota, kernel};
use crate::core::keeping::{Evidence, Heeded};
use crate::core::name::{VolumeName, VolumeSpec};
use crate::core::program::{Program, Refusal, Source};
use crate::error::Error;
use crate::pool::Pool;
use crate::records::Places;
use crate::snapshots::remove_set;

/// What a volume uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Which one.
    pub name: VolumeName,
    /// Bytes that it refers to, as of the last commit of the file system: what it shares with snapshots counts, what
    /// only snapshots have does not.
    pub used: u64,
    /// Those of them that are in no snapshot on this node: what was written since the newest.
    pub unsaved: u64,
    /// Bytes that it may refer to.
    pub limit: u64,
}

/// What [`Pool::collect`] removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Whose.
    pub program: ProgramId,
    /// How many recovery points.
    pub recovery_points: usize,
    /// Whether everything, as the program was forgotten.
    pub all: bool,
}

impl Pool {
    /// What is known of a program's volumes here; it has seen no epoch when that is nothing.
    ///
    /// # Errors
    /// When its records are damaged.
    pub async fn program(&self, program: ProgramId) -> Result<Program, Error> {
        self.slot(program).state.lock().await.known().cloned()
    }

    /// Makes empty volumes, live under this epoch. That there are snapshots does not hinder it: whether a program may
    /// start anew although there is data of it is for the caller to know.
    ///
    /// # Errors
    /// When there are live volumes already, the epoch is over, the program was forgotten, or there is no room.
    pub async fn create_live(&self, program: ProgramId, epoch: Epoch, volumes: Vec<VolumeSpec>) -> Result<(), Error> {
        self.grow_if_needed().await?;
        let (slot, places) = (self.slot(program), self.places(program));
        let mut state = slot.state.lock().await;
        // The epoch is remembered before anything is made for it.
        state.change(&places, |p| p.observe(epoch))?;
        let folder = state.known()?.clone().create_live(epoch, volumes.clone())?;
        let folder = places.live_folder(folder);
        make_folder(&places, &folder).await?;
        for volume in &volumes {
            create(&folder, volume).await?;
        }
        self.sync().await?;
        state.change(&places, |p| p.create_live(epoch, volumes))?;
        info!(%program, %epoch, "created volumes");
        Ok(())
    }

    /// Opens the live volumes under this epoch, and makes them as the message has them: missing ones are added, sizes
    /// change. Returns the epoch that wrote them last, for the caller to judge whether that is recent enough.
    ///
    /// # Errors
    /// When there are none, the epoch is over, a snapshot from another node is newer, the program was forgotten, or a
    /// volume holds more than its new size: [`Error::TooSmall`], and nothing was changed.
    pub async fn open_live(&self, program: ProgramId, epoch: Epoch, volumes: Vec<VolumeSpec>) -> Result<Epoch, Error> {
        let (slot, places) = (self.slot(program), self.places(program));
        let mut state = slot.state.lock().await;
        state.change(&places, |p| p.observe(epoch))?;
        let opening = state.known()?.clone().open_live(epoch, volumes.clone())?;
        let folder = places.live_folder(opening.folder);
        if !opening.resized.is_empty() {
            self.check_sizes(&folder, &opening.resized).await?;
        }
        for volume in &opening.added {
            // It may be there already, when this was interrupted before.
            btrfs::remove(&path_in(&folder, volume)).await?;
            create(&folder, volume).await?;
        }
        if !opening.added.is_empty() {
            self.sync().await?;
        }
        for volume in &opening.resized {
            btrfs::limit(&path_in(&folder, volume), Some(volume.limit_bytes())).await?;
        }
        state.change(&places, |p| p.open_live(epoch, volumes))?;
        Ok(opening.previous)
    }

    async fn check_sizes(&self, folder: &Path, volumes: &[VolumeSpec]) -> Result<(), Error> {
        self.sync().await?;
        let quotas = btrfs::quotas(self.root()).await?;
        for volume in volumes {
            let path = path_in(folder, volume);
            let id = kernel::subvolume(&path).map_err(Error::at("look at", &path))?.id;
            let used = quotas.get(&id).map_or(0, |quota| quota.used);
            if used > volume.limit_bytes() {
                let (name, used) = (volume.name.clone(), used.div_ceil(1 << 20));
                return Err(Error::TooSmall { name, wanted: volume.size_mib, used });
            }
        }
        Ok(())
    }

    /// The directory of a live volume, for a sandbox to mount.
    ///
    /// Whoever may write a directory may make subvolumes in it, which have no limit and are in no snapshot: the sandbox
    /// has to refuse the system call for it (`ioctl` with `BTRFS_IOC_SUBVOL_CREATE`, `BTRFS_IOC_SNAP_CREATE` and their
    /// `_V2`).
    ///
    /// # Errors
    /// When there is no such volume, or the live copy is not of the highest epoch.
    pub async fn live_path(&self, program: ProgramId, volume: &VolumeName) -> Result<PathBuf, Error> {
        let slot = self.slot(program);
        let state = slot.state.lock().await;
        let live = state.known()?.current()?;
        let found = live.volumes.iter().find(|v| v.name == *volume).ok_or_else(|| Refusal::NoVolume(volume.clone()))?;
        Ok(path_in(&self.places(program).live_folder(live.folder), found))
    }

    /// A writable copy of the source becomes live under this epoch, with the sizes that it had. What was live before
    /// becomes a recovery point until then.
    ///
    /// # Errors
    /// When there is no such source, the epoch is over, is live already, the program was forgotten, or there is no
    /// room.
    pub async fn promote(
        &self,
        program: ProgramId,
        from: Source,
        epoch: Epoch,
        keep_old: DateTime<Utc>,
    ) -> Result<(), Error> {
        self.grow_if_needed().await?;
        let (slot, places) = (self.slot(program), self.places(program));
        let mut state = slot.state.lock().await;
        state.change(&places, |p| p.observe(epoch))?;
        let live = state.known()?.clone().promote(from, epoch, keep_old)?;
        let source = match from {
            Source::Snapshot(id) => places.snapshot_folder(id),
            Source::RecoveryPoint(folder) => places.live_folder(folder),
        };
        let folder = places.live_folder(live.folder);
        make_folder(&places, &folder).await?;
        for volume in &live.volumes {
            let path = path_in(&folder, volume);
            btrfs::snapshot(&path_in(&source, volume), &path, Access::Writable).await?;
            btrfs::limit(&path, Some(volume.limit_bytes())).await?;
        }
        state.change(&places, |p| p.promote(from, epoch, keep_old))?;
        info!(%program, %epoch, ?from, "promoted volumes");
        Ok(())
    }

    /// The live volumes become a recovery point until then. Nothing may run on them any more.
    ///
    /// # Errors
    /// When the epoch is over, or there are none.
    pub async fn retire(&self, program: ProgramId, epoch: Epoch, until: DateTime<Utc>) -> Result<(), Error> {
        self.slot(program).state.lock().await.change(&self.places(program), |p| p.retire(epoch, until))
    }

    /// The message node said this about the program. One that is over is forgotten, unless the operator undeleted it: its
    /// volumes are not opened any more and go after that time. One that is in force has its volumes again. Nothing
    /// happens when nothing is here of it.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub async fn heed(&self, program: ProgramId, evidence: Evidence, until: DateTime<Utc>) -> Result<Heeded, Error> {
        self.slot(program).state.lock().await.change(&self.places(program), |p| Ok(p.heed(evidence, until)))
    }

    /// The operator wants the volumes of a program that is forgotten: they are as before, and nothing of them is removed
    /// until [`Pool::forget`], or until the program was in force again.
    ///
    /// # Errors
    /// When the program is not forgotten, it was too long ago, or nothing is here.
    pub async fn undelete(&self, program: ProgramId, now: DateTime<Utc>) -> Result<(), Error> {
        self.slot(program).state.lock().await.change(&self.places(program), |p| p.undelete(now))?;
        info!(%program, "the operator undeleted its volumes: they are kept");
        Ok(())
    }

    /// Takes [`Pool::undelete`] back: the volumes go after that time. Of a forgotten program it moves the time.
    ///
    /// # Errors
    /// When the program is neither undeleted nor forgotten, or nothing is here.
    pub async fn forget(&self, program: ProgramId, until: DateTime<Utc>) -> Result<(), Error> {
        self.slot(program).state.lock().await.change(&self.places(program), |p| p.forget(until))?;
        info!(%program, %until, "the operator forgot its volumes: they are removed then");
        Ok(())
    }

    /// Removes recovery points and forgotten programs whose time is over. What cannot be removed is reported, and
    /// removed when the pool is opened the next time; programs with damaged records are left alone, and those that are
    /// being exported wait for the next call.
    ///
    /// # Errors
    /// When something cannot be written down; the rest is for the next call.
    pub async fn collect(&self, now: DateTime<Utc>) -> Result<Vec<Removed>, Error> {
        let mut removed = Vec::new();
        for program in self.programs() {
            let (slot, places) = (self.slot(program), self.places(program));
            let mut state = slot.state.lock().await;
            let Ok(known) = state.known() else { continue };
            if slot.exports.load(Ordering::Acquire) > 0 {
                continue;
            }
            let over = known.clone().collect(now);
            if over.all {
                // Sets before the record: else they would come back with an interruption.
                for id in known.sets().map(|set| set.id).collect::<Vec<_>>() {
                    remove_set(&mut state, &places, id)?;
                }
            } else if over.folders.is_empty() {
                continue;
            }
            state.change(&places, |p| Ok(p.collect(now)))?;
            let folders: Vec<_> = over.folders.iter().map(|folder| places.live_folder(*folder)).collect();
            for folder in if over.all { vec![places.data().to_owned()] } else { folders } {
                if let Err(error) = remove_data(&places, &folder).await {
                    warn!(%program, folder = %folder.display(), %error, "cannot remove volumes whose time is over");
                }
            }
            info!(%program, all = over.all, recovery_points = over.folders.len(), "removed volumes whose time is over");
            removed.push(Removed { program, recovery_points: over.folders.len(), all: over.all });
        }
        Ok(removed)
    }

    /// What the live volumes of a program use; none when nothing is live.
    ///
    /// # Errors
    /// When the file system does not tell.
    pub async fn volume_usage(&self, program: ProgramId) -> Result<Vec<VolumeUsage>, Error> {
        self.usage_of(program, &btrfs::quotas(self.root()).await?).await
    }

    /// [`Self::volume_usage`] of all programs of which something is live.
    ///
    /// # Errors
    /// When the file system does not tell. A program whose records are damaged is left out.
    pub async fn volume_usages(&self) -> Result<Vec<(ProgramId, Vec<VolumeUsage>)>, Error> {
        let quotas = btrfs::quotas(self.root()).await?;
        let mut all = Vec::new();
        for program in self.programs() {
            match self.usage_of(program, &quotas).await {
                Ok(usage) if !usage.is_empty() => all.push((program, usage)),
                _ => {}
            }
        }
        Ok(all)
    }

    async fn usage_of(&self, program: ProgramId, quotas: &HashMap<u64, Quota>) -> Result<Vec<VolumeUsage>, Error> {
        let slot = self.slot(program);
        let state = slot.state.lock().await;
        let Some(live) = state.known()?.live() else { return Ok(Vec::new()) };
        let folder = self.places(program).live_folder(live.folder);
        usage_in(&folder, &live.volumes, quotas)
    }
}

/// What these volumes use, which are in this folder.
pub(crate) fn usage_in(
    folder: &Path,
    volumes: &[VolumeSpec],
    quotas: &HashMap<u64, Quota>,
) -> Result<Vec<VolumeUsage>, Error> {
    let usage = |volume: &VolumeSpec| {
        let path = path_in(folder, volume);
        let id = kernel::subvolume(&path).map_err(Error::at("look at", &path))?.id;
        // One that was just made is not counted yet.
        let (used, unsaved) = quotas.get(&id).map_or((0, 0), |quota| (quota.used, quota.exclusive));
        Ok(VolumeUsage { name: volume.name.clone(), used, unsaved, limit: volume.limit_bytes() })
    };
    volumes.iter().map(usage).collect()
}

/// The folder of a volume, in a live copy or a set.
pub(crate) fn path_in(folder: &Path, volume: &VolumeSpec) -> PathBuf {
    folder.join(volume.name.key().as_str())
}

async fn create(folder: &Path, volume: &VolumeSpec) -> Result<(), Error> {
    let path = path_in(folder, volume);
    btrfs::create(&path).await?;
    btrfs::limit(&path, Some(volume.limit_bytes())).await
}

/// Makes an empty folder in the program's data; what an interruption left there is removed.
pub(crate) async fn make_folder(places: &Places, folder: &Path) -> Result<(), Error> {
    let data = places.data();
    if !data.exists() {
        btrfs::create(data).await?;
    }
    btrfs::remove(folder).await?;
    std::fs::create_dir_all(folder).map_err(Error::at("make the folder", folder))
}

/// Removes a folder of the program's data, or all of it.
async fn remove_data(places: &Places, folder: &Path) -> Result<(), Error> {
    if folder == places.data() {
        // It is a subvolume itself; its folders go first.
        btrfs::remove_folder(&places.live()).await?;
        btrfs::remove_folder(&places.snapshots()).await?;
    }
    btrfs::remove(folder).await
}
