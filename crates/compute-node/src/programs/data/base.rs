//! What a program starts with.

use std::sync::Arc;

use chrono::Utc;
use lease::clock;
use protocol::api::archive::VolumeDraft;
use protocol::message::{PlacedVolume, VolumeKind};
use protocol::{Epoch, ProgramId};
use sandbox::spec::{VolumeSource, VolumeSpec};
use volumes::{Source, VolumeName};

use super::restoring::RestoreError;
use super::{ProgramData, locked};
use crate::core::data::{self, NoPlan, Plan};

/// Why a program cannot have its data.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataError {
    #[error(transparent)]
    NoPlan(#[from] NoPlan),
    #[error(transparent)]
    Name(#[from] volumes::NameTooLong),
    #[error(transparent)]
    Pool(#[from] volumes::Error),
    #[error("the volumes cannot be restored from the archive: {0}")]
    Restore(#[from] RestoreError),
}

impl ProgramData {
    /// Whether this node has what the program shall start with under this epoch.
    ///
    /// # Errors
    /// [`DataError`]: [`NoPlan::NotHere`] when it has not.
    pub(crate) async fn find(
        self: &Arc<Self>,
        program: ProgramId,
        epoch: Epoch,
        placed: &[PlacedVolume],
    ) -> Result<(), DataError> {
        if wanted(placed)?.is_empty() {
            return Ok(());
        }
        let (data, archived) = (self.clone(), VolumeDraft::archived(placed));
        let find = async move {
            match (data.plan(program, epoch).await?, data.archives.get()) {
                (Plan::Restore(wanted), Some(archives)) if archives.lacks(program, wanted, &archived).await => {
                    Err(NoPlan::NotHere.into())
                }
                _ => Ok(()),
            }
        };
        self.threads.run(find).await
    }

    /// Makes a program's persistent volumes what it shall start with under this epoch, and says where they are.
    ///
    /// # Errors
    /// [`DataError`]; then the program must not start.
    pub(crate) async fn open(
        self: &Arc<Self>,
        program: ProgramId,
        epoch: Epoch,
        placed: &[PlacedVolume],
    ) -> Result<Vec<VolumeSpec>, DataError> {
        let (wanted, archived, data) = (wanted(placed)?, VolumeDraft::archived(placed), self.clone());
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.threads.run(async move { data.open_wanted(program, epoch, wanted, &archived).await }).await
    }

    async fn open_wanted(
        &self,
        program: ProgramId,
        epoch: Epoch,
        wanted: Vec<(volumes::VolumeSpec, String)>,
        archived: &[VolumeDraft],
    ) -> Result<Vec<VolumeSpec>, DataError> {
        if let Some(replicas) = self.replicas.get() {
            replicas.goes_on(program, epoch);
        }
        let specs = wanted.iter().map(|(spec, _)| spec.clone()).collect();
        self.make_live(program, epoch, specs, archived).await?;
        let mut mounts = Vec::new();
        for (spec, mount) in wanted {
            let source = VolumeSource::Directory(self.pool.live_path(program, &spec.name).await?);
            mounts.push(VolumeSpec { mount: mount.into(), source });
        }
        self.look().await?;
        // What is live now is to be replicated.
        self.ordered.notify_one();
        Ok(mounts)
    }

    async fn make_live(
        &self,
        program: ProgramId,
        epoch: Epoch,
        specs: Vec<volumes::VolumeSpec>,
        archived: &[VolumeDraft],
    ) -> Result<(), DataError> {
        let (plan, now) = (self.plan(program, epoch).await?, clock::now());
        let until = Utc::now() + self.config.retention;
        match plan {
            Plan::GoOn => drop(self.pool.open_live(program, epoch, specs).await?),
            Plan::Create => {
                if self.pool.program(program).await?.live().is_some() {
                    self.pool.retire(program, epoch, until).await?;
                }
                self.pool.create_live(program, epoch, specs).await?;
            }
            Plan::Promote(newest) => {
                self.pool.promote(program, Source::Snapshot(newest), epoch, until).await?;
                self.pool.open_live(program, epoch, specs).await?;
            }
            Plan::Restore(wanted) => {
                let archives = self.archives.get().ok_or(NoPlan::NoOrder)?;
                let restored = archives.restore(program, epoch, wanted, archived).await?;
                self.pool.promote(program, Source::Snapshot(restored), epoch, until).await?;
                // Volumes that are not archived are new.
                self.pool.open_live(program, epoch, specs).await?;
            }
        }
        if plan != Plan::GoOn {
            locked(&self.live_since).insert(program, (epoch, now));
        }
        Ok(())
    }

    async fn plan(&self, program: ProgramId, epoch: Epoch) -> Result<Plan, DataError> {
        let known = self.pool.program(program).await?;
        Ok(data::plan(&known, locked(&self.orders).get(&program), epoch)?)
    }
}

/// The persistent volumes, each with where it is mounted.
fn wanted(placed: &[PlacedVolume]) -> Result<Vec<(volumes::VolumeSpec, String)>, DataError> {
    let mut wanted = Vec::new();
    for volume in placed {
        if let (VolumeKind::Persistent { size_mib, .. }, Some(name)) = (&volume.kind, &volume.name) {
            let name = VolumeName::new(name.as_str())?;
            wanted.push((volumes::VolumeSpec::files(name, *size_mib), volume.mount.clone()));
        }
    }
    Ok(wanted)
}
