//! Sets on their way out.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use object_store::ObjectStoreExt;
use protocol::api::archive::{ArchiveCode, ArchiveList, SetRecord, StreamReceived};
use protocol::data::SnapshotId;
use protocol::signed_request::Verified;
use protocol::{FileHash, ProgramId};
use sha2::{Digest, Sha256};

use super::seal::{Damaged, Opener, StreamName};
use super::{Archive, Failure, place, unknown_set};
use crate::core::archive::{Refusal, quota};
use crate::core::retention::Sets;
use crate::store::archive::{self as rows, SetStage};
use crate::store::{StoreError, Stored};

impl Archive {
    /// All sets of a program.
    pub(crate) async fn list(
        &self,
        by: &Verified,
        program: &ProgramId,
        reads_for: Option<&ProgramId>,
    ) -> Result<ArchiveList, Failure> {
        let reader = self.reader(by, program, reads_for).await?;
        let shelf = self.shelf_of(program, &reader).await?;
        Ok(ArchiveList {
            sets: shelf.sets.iter().map(|set| self.record(program, set, &shelf)).collect(),
            next: Sets::new(&self.facts(program, &shelf)).next(),
            bytes: shelf.bytes(),
            quota_bytes: reader.program.volumes.map_or(0, |volumes| quota(&volumes, self.config.quota)),
        })
    }

    /// One set.
    pub(crate) async fn set(
        &self,
        by: &Verified,
        program: &ProgramId,
        reads_for: Option<&ProgramId>,
        id: SnapshotId,
    ) -> Result<SetRecord, Failure> {
        let reader = self.reader(by, program, reads_for).await?;
        let shelf = self.shelf_of(program, &reader).await?;
        let set = shelf.sets.iter().find(|set| set.id == id).ok_or_else(|| unknown_set(id))?;
        Ok(self.record(program, set, &shelf))
    }

    /// Opens the stream of a volume of a complete set. Its beginning is checked already; an error later cuts it off.
    pub(crate) async fn open_stream(
        self: &Arc<Self>,
        by: &Verified,
        program: &ProgramId,
        reads_for: Option<&ProgramId>,
        (id, key): (SnapshotId, &str),
    ) -> Result<(StreamReceived, impl Stream<Item = Result<Bytes, Failure>> + Send + use<>), Failure> {
        let reader = self.reader(by, program, reads_for).await?;
        let sets = self.shelf_of(program, &reader).await?.sets;
        let set = sets.into_iter().find(|set| set.id == id).ok_or_else(|| unknown_set(id))?;
        if set.stage == SetStage::Open {
            let message = format!("snapshot {id} is not complete: it cannot be restored; take one that is");
            return Err(Refusal::new(ArchiveCode::Incomplete, message).into());
        }
        let data_key = self.data_key(program, &set.wrapped_key)?;
        let manifest = self.read_manifest(program, id, &data_key).await?;
        let volume = manifest.volumes.into_iter().find(|volume| volume.key == key).ok_or_else(|| {
            Refusal::new(
                ArchiveCode::NotFound,
                format!("snapshot {id} has no volume with the key {key}; ask for the set to see its keys"),
            )
        })?;
        let objects = match self.place.objects.get(&place::of_object(program, id, &volume.object)).await {
            Ok(found) => found.into_stream(),
            // Not noted: it is what a folder that is not mounted looks like, too.
            Err(object_store::Error::NotFound { .. }) => return Err(damaged(id, "is not in the archive").into()),
            Err(error) => return Err(error.into()),
        };
        let name = StreamName { program: *program, set: id, volume: volume.key };
        let mut reading = Reading {
            archive: Arc::clone(self),
            opener: Opener::new(data_key, &name),
            name,
            objects,
            hasher: Sha256::new(),
            expected: volume.received.sha256,
            ended: false,
        };
        let first = reading.next().await?;
        let rest =
            stream::try_unfold(reading, async |mut reading| Ok(reading.next().await?.map(|next| (next, reading))));
        Ok((volume.received, stream::iter(first.map(Ok)).chain(rest)))
    }

    /// Notes that a set is not what was written.
    async fn note_damage(&self, program: &ProgramId, id: SnapshotId) -> Stored<()> {
        let mut tx = self.store.write().await?;
        rows::advance(&mut tx, program, id, SetStage::Complete, SetStage::Damaged).await?;
        tx.commit().await.map_err(StoreError::from)
    }
}

fn damaged(id: SnapshotId, how: &str) -> Refusal {
    let message = format!("a stream of snapshot {id} {how}; restore an older snapshot");
    Refusal::new(ArchiveCode::Damaged, message)
}

/// A stream that is being read.
struct Reading {
    archive: Arc<Archive>,
    name: StreamName,
    objects: BoxStream<'static, object_store::Result<Bytes>>,
    opener: Opener,
    hasher: Sha256,
    expected: FileHash,
    ended: bool,
}

impl Reading {
    /// The next bytes; the last ones only if all were what was archived.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.next_checked().await {
            Err(Broken::Damaged) => {
                let (program, set) = (&self.name.program, self.name.set);
                tracing::error!(%program, snapshot = %set, volume = self.name.volume, "a stream of the archive is damaged");
                self.archive.note_damage(program, set).await?;
                Err(damaged(set, "is not what was archived").into())
            }
            Err(Broken::Store(error)) => Err(error.into()),
            Ok(bytes) => Ok(bytes),
        }
    }

    async fn next_checked(&mut self) -> Result<Option<Bytes>, Broken> {
        while !self.ended {
            let bytes = match self.objects.next().await {
                Some(sealed) => self.opener.push(&sealed?)?,
                None => {
                    self.ended = true;
                    self.opener.finish()?
                }
            };
            self.hasher.update(&bytes);
            // An older upload of the same volume is genuine, and still not what the manifest names.
            if self.ended && FileHash::from_bytes(self.hasher.clone().finalize().into()) != self.expected {
                return Err(Broken::Damaged);
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

enum Broken {
    Damaged,
    Store(object_store::Error),
}

impl From<Damaged> for Broken {
    fn from(_: Damaged) -> Self {
        Self::Damaged
    }
}

impl From<object_store::Error> for Broken {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
    }
}
