//! Volumes come back from the message node's archive.
//!
//! The streams of a whole chain are taken in beside what is there, and only the last set counts, at the end. What an
//! interruption leaves counts nothing, and goes with the next try or when the pool is opened.

use protocol::api::archive::{ArchiveCode, VolumeDraft, VolumeRecord};
use protocol::client::packing::{self, UnpackError};
use protocol::client::{Archive, ArchiveError};
use protocol::data::SnapshotId;
use protocol::{Epoch, ProgramId};
use tracing::{info, warn};
use volumes::{NameTooLong, VolumeName, VolumeSpec};

use super::archiving::Archives;
use crate::core::archive::{Link, NotArchived, Wanted, chain, check_volumes, missing};

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
    #[error("the other program's archive: {0}")]
    NotThere(ArchiveError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("snapshot {id} of the archive, volume {volume}: {why}")]
    Stream { id: SnapshotId, volume: String, why: String },
    #[error(transparent)]
    Name(#[from] NameTooLong),
    #[error(transparent)]
    Pool(#[from] volumes::Error),
}

impl RestoreError {
    /// Whether there is nothing to wait for: the archive says that it does not have it, or it is not for this program.
    fn is_final(&self) -> bool {
        match self {
            Self::NotArchived(_) | Self::NotThere(_) => true,
            Self::Archive(_) | Self::Stream { .. } | Self::Name(_) | Self::Pool(_) => false,
        }
    }
}

/// One program that is restored.
struct Restore {
    archives: Archives,
    /// The archive, as it is read for this program.
    source: Archive,
    /// The program whose archive it is.
    of: ProgramId,
    program: ProgramId,
    epoch: Epoch,
    chain: Vec<Link>,
}

impl Archives {
    /// Whether the archive says that it does not have it, or not for this program. That it does not answer says nothing.
    pub(super) async fn lacks(&self, program: ProgramId, wanted: Wanted, archived: &[VolumeDraft]) -> bool {
        // No name matters here, so no epoch does.
        match self.look_up(program, Epoch::FIRST, wanted, archived).await {
            Ok(_) => false,
            Err(error) if error.is_final() => {
                warn!(%program, %error, "the archive does not have what it shall start with");
                true
            }
            Err(_) => false,
        }
    }

    /// Makes a set of the archive a complete snapshot on this node.
    pub(super) async fn restore(
        &self,
        program: ProgramId,
        epoch: Epoch,
        wanted: Wanted,
        archived: &[VolumeDraft],
    ) -> Result<SnapshotId, RestoreError> {
        self.look_up(program, epoch, wanted, archived).await?.run(archived).await
    }

    async fn look_up(
        &self,
        program: ProgramId,
        epoch: Epoch,
        wanted: Wanted,
        archived: &[VolumeDraft],
    ) -> Result<Restore, RestoreError> {
        let (source, of) = match wanted.from() {
            Some(other) => (self.archive.on_behalf_of(program), other),
            None => (self.archive.clone(), program),
        };
        let list = source.list(&of).await.map_err(|error| match error.code() {
            Some(ArchiveCode::NotFound) if of != program => RestoreError::NotThere(error),
            _ => error.into(),
        })?;
        let chain = chain(&list, wanted, epoch)?;
        check_volumes(&chain, wanted, archived)?;
        Ok(Restore { archives: self.clone(), source, of, program, epoch, chain })
    }
}

impl Restore {
    async fn run(self, archived: &[VolumeDraft]) -> Result<SnapshotId, RestoreError> {
        let Self { archives: Archives { pool, .. }, of, program, epoch, chain, .. } = &self;
        let last = chain.last().expect("a chain has a set").name;
        let here: Vec<_> = pool.snapshots(*program).await?.iter().map(|set| set.id).collect();
        let missing = missing(chain, &here);
        info!(%program, %epoch, snapshot = %last, %of, sets = missing.len(), "restoring from the archive");
        if !missing.is_empty() {
            let restored = self.take_in(missing, archived).await;
            let leftovers = if restored.is_ok() { &missing[..missing.len() - 1] } else { missing };
            for Link { name, .. } in leftovers {
                if let Err(error) = pool.abort_received(*program, *name).await {
                    warn!(%program, snapshot = %name, %error, "cannot remove what came of a snapshot");
                }
            }
            restored?;
        }
        Ok(last)
    }

    /// Volumes that the program does not have are left out.
    async fn take_in(&self, links: &[Link], archived: &[VolumeDraft]) -> Result<(), RestoreError> {
        let is_its = |volume: &&VolumeRecord| archived.iter().any(|its| its.name == volume.name);
        for link in links {
            for volume in link.set.volumes.iter().filter(is_its) {
                self.take_in_volume(link, volume).await?;
            }
        }
        let Some(Link { set, name }) = links.last() else { return Ok(()) };
        let spec =
            |volume: &VolumeRecord| Ok(VolumeSpec::files(VolumeName::new(volume.name.as_str())?, volume.size_mib));
        let volumes = set.volumes.iter().filter(is_its).map(spec).collect::<Result<Vec<_>, NameTooLong>>()?;
        self.archives.pool.commit_restored(self.program, self.epoch, *name, set.taken, volumes).await?;
        Ok(())
    }

    async fn take_in_volume(&self, Link { set, name }: &Link, volume: &VolumeRecord) -> Result<(), RestoreError> {
        let volume_name = VolumeName::new(volume.name.as_str())?;
        let limit = (volume.size_mib << 20).saturating_mul(FACTOR).saturating_add(OVERHEAD);
        let download = self.source.download(&self.of, set.id, &volume.name).await?;
        let (mut writer, reader) = tokio::io::duplex(IN_FLIGHT);
        let unpack = async move {
            // The writer ends with this, which ends the stream: one that was cut has no end mark, and is not taken in.
            packing::unpack(download, set.format, limit, &mut writer).await
        };
        let (pool, program, epoch) = (&self.archives.pool, self.program, self.epoch);
        let receive = pool.receive_archived(program, epoch, *name, &volume_name, limit, reader);
        let broken = |why: String| RestoreError::Stream { id: set.id, volume: volume.name.clone(), why };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_archive_does_not_have_is_final() {
        let refused = |code| ArchiveError::Refused { code, message: String::new() };
        assert!(RestoreError::from(NotArchived::Nothing).is_final());
        assert!(RestoreError::NotThere(refused(ArchiveCode::NotFound)).is_final());
        assert!(!RestoreError::from(refused(ArchiveCode::Busy)).is_final(), "it is tried again");
    }
}
