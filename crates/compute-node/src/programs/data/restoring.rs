//! Volumes come back from the message node's archive.
//!
//! The streams of a whole chain are taken in beside what is there, and only the last set counts, at the end. What an
//! interruption leaves counts nothing, and goes with the next try or when the pool is opened.

use protocol::api::archive::{ArchiveCode, ArchiveList, Misfit, SetRecord, VolumeDraft, VolumeRecord};
use protocol::client::packing::{self, UnpackError};
use protocol::client::{Archive, ArchiveError};
use protocol::data::{ArchivedSet, SnapshotId};
use protocol::{Epoch, ProgramId};
use tracing::{info, warn};
use volumes::{NameTooLong, VolumeName, VolumeSpec};

use super::archiving::Archives;

/// How many times the size of its volume a stream may have, and what comes on top of that: as the archive has it.
const FACTOR: u64 = 2;
const OVERHEAD: u64 = 16 << 20;

/// How much of a stream is on its way from the archive to the pool, in bytes.
const IN_FLIGHT: usize = 1 << 20;

/// Why a program's volumes cannot be restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error("nothing of the program is in the archive that could be restored")]
    Empty,
    #[error(
        "snapshot {0} is not in the archive, or a set that it builds on is damaged; list those that can be restored"
    )]
    NoSet(SnapshotId),
    #[error("snapshot {0} of the other program is not for this one: {1}")]
    Misfit(SnapshotId, Misfit),
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
            Self::Empty | Self::NoSet(_) | Self::Misfit(..) | Self::NotThere(_) => true,
            Self::Archive(_) | Self::Stream { .. } | Self::Name(_) | Self::Pool(_) => false,
        }
    }
}

/// A set of the archive, and what it is called in the pool of the program that is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    set: SetRecord,
    name: SnapshotId,
}

/// The sets to apply, in this order. Those of another program have names of their own here, as its epochs are not this
/// program's.
fn chain(list: &ArchiveList, wanted: Option<ArchivedSet>, epoch: Epoch) -> Result<Vec<Link>, RestoreError> {
    let sets = match wanted {
        Some(ArchivedSet { snapshot, .. }) => list.chain_of(snapshot).ok_or(RestoreError::NoSet(snapshot))?,
        None => list.restore_chain(),
    };
    let last = sets.len().checked_sub(1).ok_or(RestoreError::Empty)?;
    let is_foreign = wanted.is_some_and(|wanted| wanted.from.is_some());
    let name = |(at, set): (usize, &SetRecord)| match is_foreign {
        false => set.id,
        true if at == last => SnapshotId::foreign(epoch),
        true => SnapshotId::below_foreign(at as u64),
    };
    Ok(sets.into_iter().enumerate().map(|(at, set)| Link { name: name((at, set)), set: set.clone() }).collect())
}

/// The volumes of the last set that are for this program: those of its own sets are what it has.
fn check_volumes(chain: &[Link], wanted: Option<ArchivedSet>, archived: &[VolumeDraft]) -> Result<(), RestoreError> {
    match (chain.last(), wanted) {
        (Some(last), Some(ArchivedSet { snapshot, from: Some(_) })) => {
            last.set.fits(archived).map_err(|why| RestoreError::Misfit(snapshot, why))
        }
        _ => Ok(()),
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
    pub(super) async fn lacks(
        &self,
        program: ProgramId,
        wanted: Option<ArchivedSet>,
        archived: &[VolumeDraft],
    ) -> bool {
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

    /// Makes a set of the archive, the newest if none is named, a complete snapshot on this node.
    pub(super) async fn restore(
        &self,
        program: ProgramId,
        epoch: Epoch,
        wanted: Option<ArchivedSet>,
        archived: &[VolumeDraft],
    ) -> Result<SnapshotId, RestoreError> {
        self.look_up(program, epoch, wanted, archived).await?.run(archived).await
    }

    async fn look_up(
        &self,
        program: ProgramId,
        epoch: Epoch,
        wanted: Option<ArchivedSet>,
        archived: &[VolumeDraft],
    ) -> Result<Restore, RestoreError> {
        let (source, of) = match wanted.and_then(|wanted| wanted.from) {
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
        let first = chain.iter().rposition(|link| here.contains(&link.name)).map_or(0, |at| at + 1);
        let missing = &chain[first..];
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
    use chrono::DateTime;
    use protocol::Address;
    use protocol::api::archive::{NextSet, SetState, StreamFormat, volume_key};

    use super::*;

    fn id(text: &str) -> SnapshotId {
        text.parse().unwrap()
    }

    fn list() -> ArchiveList {
        let volume = |name: &str| {
            let (name, key) = (name.to_owned(), volume_key(name));
            VolumeRecord { name, key, size_mib: 50, bytes: None, sha256: None }
        };
        let set = |text: &str, parent: Option<&str>| SetRecord {
            id: id(text),
            parent: parent.map(id),
            state: SetState::Complete,
            taken: DateTime::UNIX_EPOCH,
            format: StreamFormat::BtrfsZstd,
            made_by: Address::new("0xa"),
            volumes: vec![volume("db")],
        };
        let sets = vec![set("3-1", None), set("3-4", Some("3-1")), set("7-2", Some("3-4"))];
        ArchiveList { sets, next: NextSet::Full, bytes: 0, quota_bytes: 0 }
    }

    fn names(wanted: Option<ArchivedSet>) -> Vec<String> {
        let chain = chain(&list(), wanted, Epoch::new(2)).unwrap();
        chain.into_iter().map(|link| format!("{} as {}", link.set.id, link.name)).collect()
    }

    #[test]
    fn sets_of_another_program_never_take_the_names_of_its_own() {
        let own = ArchivedSet { snapshot: id("3-4"), from: None };
        assert_eq!(names(Some(own)), ["3-1 as 3-1", "3-4 as 3-4"]);
        assert_eq!(names(None).last().unwrap(), "7-2 as 7-2");
        let foreign = ArchivedSet { snapshot: id("7-2"), from: Some(ProgramId::from_bytes([7; 32])) };
        assert_eq!(names(Some(foreign)), ["3-1 as 0-0", "3-4 as 0-1", "7-2 as 2-0"]);
    }

    #[test]
    fn what_another_program_lacks_or_has_too_much_of_is_refused_for_good() {
        let draft = |name: &str, size_mib| VolumeDraft { name: name.to_owned(), size_mib };
        let own = ArchivedSet { snapshot: id("3-4"), from: None };
        let foreign = ArchivedSet { from: Some(ProgramId::from_bytes([7; 32])), ..own };
        let check = |wanted, volumes: &[VolumeDraft]| {
            let chain = chain(&list(), Some(wanted), Epoch::new(9)).unwrap();
            check_volumes(&chain, Some(wanted), volumes)
        };
        check(foreign, &[draft("db", 50)]).unwrap();
        for volumes in [vec![draft("db", 49)], vec![draft("db", 50), draft("files", 1)], Vec::new()] {
            let error = check(foreign, &volumes).unwrap_err();
            assert!(matches!(error, RestoreError::Misfit(..)) && error.is_final(), "{error}");
            check(own, &volumes).unwrap();
        }
        let unknown = chain(&list(), Some(ArchivedSet { snapshot: id("9-9"), ..own }), Epoch::new(9)).unwrap_err();
        assert!(unknown.is_final(), "{unknown}");
        let busy = ArchiveError::Refused { code: ArchiveCode::Busy, message: String::new() };
        assert!(!RestoreError::from(busy).is_final(), "it is tried again");
    }
}
