//! Volumes come back from the message node's archive.
//!
//! The streams of a whole chain are taken in beside what is there, and only the last set counts, at the end. What an
//! interruption leaves counts nothing, and goes with the next try or when the pool is opened.

use protocol::api::archive::SetRecord;
use protocol::client::ArchiveError;
use protocol::client::packing::{self, UnpackError};
use protocol::data::SnapshotId;
use protocol::{Epoch, ProgramId};
use tracing::{info, warn};
use volumes::{NameTooLong, VolumeName, VolumeSpec};

use super::archiving::Archives;
use crate::core::archive::{NotArchived, chain, missing};

/// How many times the size of its volume a stream may have, and what comes on top of that: as the archive has it.
const FACTOR: u64 = 2;
const OVERHEAD: u64 = 16 << 20;

/// How much of a stream is on its way from the archive to the pool, in bytes.
const IN_FLIGHT: usize = 1 << 20;

/// Why a program's volumes cannot be restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error(transparent)]
    NotArchived(#[from] NotArchived),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("snapshot {id} of the archive, volume {volume}: {why}")]
    Stream { id: SnapshotId, volume: String, why: String },
    #[error(transparent)]
    Name(#[from] NameTooLong),
    #[error(transparent)]
    Pool(#[from] volumes::Error),
}

impl Archives {
    /// Whether the archive says that it does not have it. That it does not answer says nothing.
    pub(super) async fn lacks(&self, program: ProgramId, wanted: Option<SnapshotId>) -> bool {
        match self.archive.list(&program).await {
            Ok(list) => chain(&list, wanted).is_err(),
            Err(_) => false,
        }
    }

    /// Makes a set of the archive, the newest if none is named, a complete snapshot on this node.
    pub(super) async fn restore(
        &self,
        program: ProgramId,
        epoch: Epoch,
        wanted: Option<SnapshotId>,
    ) -> Result<SnapshotId, RestoreError> {
        let list = self.archive.list(&program).await?;
        let chain = chain(&list, wanted)?;
        let last = chain.last().expect("a chain has a set");
        let here: Vec<_> = self.pool.snapshots(program).await?.iter().map(|set| set.id).collect();
        let missing = missing(&chain, &here);
        info!(%program, %epoch, snapshot = %last.id, sets = missing.len(), "restoring from the archive");
        if !missing.is_empty() {
            let restored = self.take_in(program, epoch, missing).await;
            let leftovers = if restored.is_ok() { &missing[..missing.len() - 1] } else { missing };
            for set in leftovers {
                if let Err(error) = self.pool.abort_received(program, set.id).await {
                    warn!(%program, snapshot = %set.id, %error, "cannot remove what came of a snapshot");
                }
            }
            restored?;
        }
        Ok(last.id)
    }

    async fn take_in(&self, program: ProgramId, epoch: Epoch, sets: &[&SetRecord]) -> Result<(), RestoreError> {
        for set in sets {
            for volume in &set.volumes {
                self.take_in_volume(program, epoch, set, (&volume.name, volume.size_mib)).await?;
            }
        }
        let Some(last) = sets.last() else { return Ok(()) };
        let spec = |(name, size_mib): (&String, u64)| Ok(VolumeSpec::files(VolumeName::new(name.as_str())?, size_mib));
        let volumes = last.volumes.iter().map(|volume| spec((&volume.name, volume.size_mib)));
        let volumes = volumes.collect::<Result<Vec<_>, NameTooLong>>()?;
        self.pool.commit_restored(program, epoch, last.id, last.taken, volumes).await?;
        Ok(())
    }

    async fn take_in_volume(
        &self,
        program: ProgramId,
        epoch: Epoch,
        set: &SetRecord,
        (volume, size_mib): (&str, u64),
    ) -> Result<(), RestoreError> {
        let name = VolumeName::new(volume)?;
        let limit = (size_mib << 20).saturating_mul(FACTOR).saturating_add(OVERHEAD);
        let download = self.archive.download(&program, set.id, volume).await?;
        let (mut writer, reader) = tokio::io::duplex(IN_FLIGHT);
        let unpack = async move {
            // The writer ends with this, which ends the stream: one that was cut has no end mark, and is not taken in.
            packing::unpack(download, set.format, limit, &mut writer).await
        };
        let receive = self.pool.receive_archived(program, epoch, set.id, &name, limit, reader);
        let broken = |why: String| RestoreError::Stream { id: set.id, volume: volume.to_owned(), why };
        match tokio::join!(unpack, receive) {
            (Ok(_), Ok(_)) => Ok(()),
            (Err(UnpackError::Archive(error)), _) => Err(error.into()),
            (Err(error @ UnpackError::Bad(_)), _) | (Err(error @ UnpackError::Write(_)), Ok(_)) => {
                Err(broken(error.to_string()))
            }
            // It does not take more, so it knows why.
            (Ok(_) | Err(UnpackError::Write(_)), Err(error)) => Err(broken(error.to_string())),
        }
    }
}
