//! Sets on their way in.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use object_store::path::Path as Location;
use object_store::{ObjectStoreExt, WriteMultipart};
use protocol::api::archive::{
    ArchiveCode, NextSet, SetBegun, SetCompletion, SetDraft, SetRecord, StreamReceived, VolumeDraft, volume_key,
};
use protocol::data::SnapshotId;
use protocol::signed_request::Verified;
use protocol::{Epoch, FileHash, ProgramId};
use sha2::{Digest, Sha256};

use super::manifest::Manifest;
use super::seal::{DataKey, Sealer, StreamName};
use super::{Archive, Failure, Shelf, fence, place, unknown_set};
use crate::clock::now_us;
use crate::core::archive::{
    Completion, Refusal, check_completion, check_draft, over_quota, quota, stream_limit, too_large,
};
use crate::core::retention::Sets;
use crate::store::archive::{self as rows, SetRow, SetStage, StreamRow};
use crate::store::{Connection, StoreError};

/// Pieces of an object that may wait for the store before more is read from the network.
const PIECES_UNDER_WAY: usize = 2;

/// A stream that is to be written.
struct Arrival {
    program: ProgramId,
    set: SetRow,
    volume: VolumeDraft,
    quota: u64,
}

impl Archive {
    /// Begins a set.
    pub(crate) async fn begin(&self, by: &Verified, program: &ProgramId, draft: SetDraft) -> Result<SetBegun, Failure> {
        let volumes = self.writer(by, program, draft.id.epoch).await?;
        let mut tx = self.store.write().await?;
        fence(&mut tx, program, draft.id.epoch).await?;
        let before = rows::set(&mut tx, program, draft.id).await?;
        if before.as_ref().is_some_and(|set| set.stage == SetStage::Leaving) {
            let message = format!("the last attempt at snapshot {} is being removed; try again soon", draft.id);
            return Err(Refusal::new(ArchiveCode::Busy, message).into());
        }
        let shelf = Shelf::read(&mut tx, program).await?;
        let facts = self.facts(program, &shelf);
        check_draft(&draft, &volumes, &facts)?;
        let most = quota(&volumes, self.config.quota);
        // Streams of an earlier attempt at this set are dropped with it.
        let dropped = shelf.streams_of(draft.id).fold(0, |sum, stream| sum + stream.received.bytes);
        let used = shelf.bytes() - dropped;
        if used >= most {
            return Err(over_quota(used, most).into());
        }
        let set = SetRow {
            id: draft.id,
            stage: SetStage::Open,
            made_by: by.signer.to_string(),
            wrapped_key: self.key_for(&mut tx, program).await?,
            begun_us: before.map_or_else(now_us, |before| now_us().max(before.begun_us + 1)),
            completed_us: None,
            draft,
        };
        rows::put_set(&mut tx, program, &set).await?;
        tx.commit().await.map_err(StoreError::from)?;
        let next: NextSet = Sets::new(&facts).next();
        Ok(SetBegun { id: set.id, next })
    }

    /// The wrapped key for new sets of a program. It is made when there is none, and when the one that is there was wrapped
    /// by a master key that the operator has replaced: what that one encrypted stays unreadable, what comes is not.
    async fn key_for(&self, tx: &mut Connection, program: &ProgramId) -> Result<String, Failure> {
        let master = self.master()?;
        if let Some(known) = rows::key(tx, program).await?
            && self.knows_key(program, &known)
        {
            return Ok(known);
        }
        let wrapped = master.wrap(program, &DataKey::generate());
        let wrapped = serde_json::to_string(&wrapped).expect("hexadecimal texts are JSON");
        rows::put_key(tx, program, &wrapped).await?;
        Ok(wrapped)
    }

    /// Takes in the stream of a volume. Once the request is allowed this goes on to a defined end, whoever waits for it.
    pub(crate) async fn receive(
        self: &Arc<Self>,
        by: &Verified,
        program: &ProgramId,
        id: SnapshotId,
        key: &str,
        body: impl Stream<Item = Result<Bytes, Refusal>> + Send + Unpin + 'static,
    ) -> Result<StreamReceived, Failure> {
        let volumes = self.writer(by, program, id.epoch).await?;
        let set = rows::set(&mut *self.store.read().await?, program, id).await?;
        let set = open_set(set, id)?;
        let volume = set.draft.volumes.iter().find(|volume| volume_key(&volume.name) == key).cloned();
        let volume = volume.ok_or_else(|| {
            Refusal::new(
                ArchiveCode::NotFound,
                format!("snapshot {id} has no volume with the key {key}; ask for the set to see its keys"),
            )
        })?;
        let permit = Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| {
            Refusal::new(ArchiveCode::Busy, "too many streams arrive at the same time; try again in a few seconds")
        })?;
        let arrival = Arrival { program: *program, set, volume, quota: quota(&volumes, self.config.quota) };
        let archive = Arc::clone(self);
        let arriving = tokio::spawn(async move {
            let _permit = permit;
            archive.take_in(&arrival, body).await
        });
        arriving.await.unwrap_or_else(|_| {
            Err(Refusal::new(ArchiveCode::Busy, "the message node is stopping; try again in a few seconds").into())
        })
    }

    async fn take_in(
        &self,
        arrival: &Arrival,
        body: impl Stream<Item = Result<Bytes, Refusal>> + Send + Unpin,
    ) -> Result<StreamReceived, Failure> {
        let (program, set) = (&arrival.program, arrival.set.id);
        let key = volume_key(&arrival.volume.name);
        let object = format!("{key}.{}", uuid::Uuid::new_v4().simple());
        let location = place::of_object(program, set, &object);
        let received = self.write_object(arrival, &location, body).await?;
        let stream = StreamRow { set, volume: key, object, received: received.clone() };
        match self.enter(arrival, stream).await {
            Ok(replaced) => {
                if let Some(replaced) = replaced {
                    self.drop_object(&place::of_object(program, set, &replaced)).await;
                }
                Ok(received)
            }
            Err(error) => {
                self.drop_object(&location).await;
                Err(error)
            }
        }
    }

    /// Encrypts a stream into an object, which is durable when this returns.
    async fn write_object(
        &self,
        arrival: &Arrival,
        location: &Location,
        mut body: impl Stream<Item = Result<Bytes, Refusal>> + Send + Unpin,
    ) -> Result<StreamReceived, Failure> {
        let (program, volume) = (&arrival.program, &arrival.volume);
        let data_key = self.data_key(program, &arrival.set.wrapped_key)?;
        let limit = stream_limit(volume.size_mib);
        let name = StreamName { program: *program, set: arrival.set.id, volume: volume_key(&volume.name) };
        let shelf = Shelf::read(&mut *self.store.read().await?, program).await?;
        let used = shelf.bytes_without(name.set, &name.volume);
        let (mut sealer, head) = Sealer::new(&data_key, &name);
        let writer = self.place.objects.put_multipart(location).await?;
        let mut writer = WriteMultipart::new_with_chunk_size(writer, self.place.piece_bytes(limit));
        writer.put(head);
        let (mut hasher, mut bytes) = (Sha256::new(), 0u64);
        let mut write = async || -> Result<(), Failure> {
            while let Some(chunk) = body.next().await.transpose()? {
                bytes += chunk.len() as u64;
                if bytes > limit {
                    return Err(too_large(volume).into());
                }
                if used.saturating_add(bytes) > arrival.quota {
                    return Err(over_quota(used, arrival.quota).into());
                }
                hasher.update(&chunk);
                writer.wait_for_capacity(PIECES_UNDER_WAY).await?;
                writer.put(sealer.push(&chunk));
            }
            Ok(())
        };
        if let Err(error) = write().await {
            if let Err(error) = writer.abort().await {
                tracing::warn!(%error, %location, "an unfinished object could not be dropped");
            }
            return Err(error);
        }
        writer.put(sealer.finish());
        writer.finish().await?;
        Ok(StreamReceived { bytes, sha256: FileHash::from_bytes(hasher.finalize().into()) })
    }

    /// Makes a stream known that was written; gives the object that it replaces.
    async fn enter(&self, arrival: &Arrival, stream: StreamRow) -> Result<Option<String>, Failure> {
        let program = &arrival.program;
        let mut tx = self.store.write().await?;
        fence(&mut tx, program, stream.set.epoch).await?;
        let set = open_set(rows::set(&mut tx, program, stream.set).await?, stream.set)?;
        if set.begun_us != arrival.set.begun_us {
            let message = format!("snapshot {} was begun anew meanwhile; send the stream again", stream.set);
            return Err(Refusal::new(ArchiveCode::Incomplete, message).into());
        }
        let shelf = Shelf::read(&mut tx, program).await?;
        let replaced = shelf.streams_of(stream.set).find(|known| known.volume == stream.volume);
        let used = shelf.bytes_without(stream.set, &stream.volume);
        if used.saturating_add(stream.received.bytes) > arrival.quota {
            return Err(over_quota(used, arrival.quota).into());
        }
        rows::put_stream(&mut tx, program, &stream).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(replaced.map(|replaced| replaced.object.clone()))
    }

    /// Makes a set count, if what arrived is what was sent.
    pub(crate) async fn complete(
        &self,
        by: &Verified,
        program: &ProgramId,
        id: SnapshotId,
        completion: &SetCompletion,
    ) -> Result<SetRecord, Failure> {
        self.writer(by, program, id.epoch).await?;
        let shelf = Shelf::read(&mut *self.store.read().await?, program).await?;
        let set = shelf.sets.iter().find(|set| set.id == id).ok_or_else(|| unknown_set(id))?;
        let arrived = |volume: &VolumeDraft| {
            let key = volume_key(&volume.name);
            let stream = shelf.streams_of(id).find(|stream| stream.volume == key);
            (volume.clone(), stream.map(|stream| stream.received.clone()))
        };
        let arrived: Vec<_> = set.draft.volumes.iter().map(arrived).collect();
        let checked = check_completion(&arrived, &completion.streams)?;
        match (checked, set.stage) {
            (Completion::Whole, SetStage::Open) => self.finish(program, set, &shelf).await?,
            (Completion::Whole, _) => {}
            (Completion::Wrong { key, refusal }, SetStage::Open) => {
                self.drop_stream(program, set, &shelf, &key).await?;
                return Err(refusal.into());
            }
            (Completion::Wrong { .. }, _) => {
                let message = format!("snapshot {id} is complete already, with other streams; begin the next one");
                return Err(Refusal::new(ArchiveCode::Duplicate, message).into());
            }
        }
        let shelf = Shelf::read(&mut *self.store.read().await?, program).await?;
        let set = shelf.sets.iter().find(|set| set.id == id).ok_or_else(|| unknown_set(id))?;
        Ok(self.record(program, set, &shelf))
    }

    async fn finish(&self, program: &ProgramId, set: &SetRow, shelf: &Shelf) -> Result<(), Failure> {
        let data_key = self.data_key(program, &set.wrapped_key)?;
        let manifest = Manifest::new(program, set, shelf)?;
        self.write_manifest(&manifest, &data_key).await?;
        let mut tx = self.store.write().await?;
        fence(&mut tx, program, set.id.epoch).await?;
        // What the manifest names must be what the rows name: another request may have sent a stream again.
        let now = Shelf::read(&mut tx, program).await?;
        let objects = |shelf: &Shelf| {
            let mut objects: Vec<_> = shelf.streams_of(set.id).map(|stream| stream.object.clone()).collect();
            objects.sort_unstable();
            objects
        };
        let same = objects(&now) == objects(shelf);
        if !same || !rows::complete(&mut tx, program, set.id, set.begun_us, now_us()).await? {
            let message = format!("snapshot {} was changed meanwhile; complete it again", set.id);
            return Err(Refusal::new(ArchiveCode::Incomplete, message).into());
        }
        tx.commit().await.map_err(StoreError::from)?;
        tracing::info!(%program, snapshot = %set.id, bytes = manifest_bytes(&manifest), "a snapshot was archived");
        self.drop_strays(program, &manifest).await;
        self.wake.notify_one();
        Ok(())
    }

    /// Deletes what earlier attempts at a complete set left beside it. If that fails, it goes with the set.
    async fn drop_strays(&self, program: &ProgramId, manifest: &Manifest) {
        let mut wanted: Vec<_> =
            manifest.volumes.iter().map(|volume| place::of_object(program, manifest.id, &volume.object)).collect();
        wanted.push(place::of_manifest(program, manifest.id));
        let mut objects = self.place.objects.list(Some(&place::of_set(program, manifest.id)));
        while let Some(Ok(object)) = objects.next().await {
            if !wanted.contains(&object.location) {
                self.drop_object(&object.location).await;
            }
        }
    }

    async fn drop_stream(&self, program: &ProgramId, set: &SetRow, shelf: &Shelf, key: &str) -> Result<(), Failure> {
        let mut tx = self.store.write().await?;
        fence(&mut tx, program, set.id.epoch).await?;
        let open = rows::set(&mut tx, program, set.id).await?.is_some_and(|row| row.stage == SetStage::Open);
        if open {
            rows::delete_stream(&mut tx, program, set.id, key).await?;
        }
        tx.commit().await.map_err(StoreError::from)?;
        for stream in shelf.streams_of(set.id).filter(|stream| open && stream.volume == key) {
            self.drop_object(&place::of_object(program, set.id, &stream.object)).await;
        }
        Ok(())
    }

    /// Removes a set that nothing builds on.
    pub(crate) async fn delete(
        &self,
        by: &Verified,
        program: &ProgramId,
        epoch: Epoch,
        id: SnapshotId,
    ) -> Result<(), Failure> {
        self.writer(by, program, epoch).await?;
        let mut tx = self.store.write().await?;
        fence(&mut tx, program, epoch).await?;
        let shelf = Shelf::read(&mut tx, program).await?;
        let set = shelf.sets.iter().find(|set| set.id == id).ok_or_else(|| unknown_set(id))?;
        if let Some(child) = Sets::new(&self.facts(program, &shelf)).child_of(id) {
            let message = format!("snapshot {child} builds on {id}; delete that one first");
            return Err(Refusal::new(ArchiveCode::Needed, message).into());
        }
        rows::advance(&mut tx, program, id, set.stage, SetStage::Leaving).await?;
        tx.commit().await.map_err(StoreError::from)?;
        // From here on it is gone for everybody; if the objects cannot be deleted now, the collector does it.
        if let Err(error) = self.remove(program, id).await {
            tracing::warn!(%error, %program, snapshot = %id, "a deleted snapshot could not be removed yet");
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Deletes an object that nothing refers to. If that fails, it goes with its set.
    async fn drop_object(&self, location: &Location) {
        if let Err(error) = self.place.objects.delete(location).await {
            tracing::warn!(%error, %location, "an object of the archive could not be deleted yet");
        }
    }
}

fn manifest_bytes(manifest: &Manifest) -> u64 {
    manifest.volumes.iter().fold(0, |sum, volume| sum.saturating_add(volume.received.bytes))
}

fn open_set(set: Option<SetRow>, id: SnapshotId) -> Result<SetRow, Refusal> {
    match set {
        Some(set) if set.stage == SetStage::Open => Ok(set),
        Some(set) if set.stage != SetStage::Leaving => {
            let message = format!("snapshot {id} is complete already: it takes no more streams; begin the next one");
            Err(Refusal::new(ArchiveCode::Duplicate, message))
        }
        _ => Err(unknown_set(id)),
    }
}
