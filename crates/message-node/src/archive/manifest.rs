//! The manifest of a set: what it is, beside its streams. It is readable by people and has a tag that says that the
//! message node wrote it. With it, the bucket and the master key are enough to have the data back.

use chrono::{DateTime, Utc};
use object_store::{ObjectStoreExt, PutPayload};
use protocol::api::archive::{ArchiveCode, StreamFormat, StreamReceived, volume_key};
use protocol::data::SnapshotId;
use protocol::{Address, Epoch, ProgramId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::seal::{DataKey, WrappedKey};
use super::{Archive, Failure, Shelf, place, read_key};
use crate::core::archive::Refusal;
use crate::store::archive::SetRow;

/// The largest manifest: a thousand volumes with names of the longest kind would fit.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    pub program: ProgramId,
    pub id: SnapshotId,
    epoch: Epoch,
    parent: Option<SnapshotId>,
    taken: DateTime<Utc>,
    format: StreamFormat,
    made_by: Address,
    key: WrappedKey,
    pub volumes: Vec<ManifestVolume>,
}

/// A volume of a set and where its stream is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ManifestVolume {
    name: String,
    pub key: String,
    size_mib: u64,
    #[serde(flatten)]
    pub received: StreamReceived,
    /// The name of the object, beside the manifest.
    pub object: String,
}

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Signed {
    manifest: Box<RawValue>,
    nonce: String,
    tag: String,
}

impl Manifest {
    /// The manifest of a set whose streams have all arrived.
    pub(super) fn new(program: &ProgramId, set: &SetRow, shelf: &Shelf) -> Result<Self, Failure> {
        let stream_of = |key: &str| shelf.streams_of(set.id).find(|stream| stream.volume == key);
        let volumes = set.draft.volumes.iter().filter_map(|volume| {
            let key = volume_key(&volume.name);
            let stream = stream_of(&key)?;
            Some(ManifestVolume {
                name: volume.name.clone(),
                size_mib: volume.size_mib,
                received: stream.received.clone(),
                object: stream.object.clone(),
                key,
            })
        });
        Ok(Self {
            version: 1,
            program: *program,
            id: set.id,
            epoch: set.id.epoch,
            parent: set.draft.parent,
            taken: set.draft.taken,
            format: set.draft.format,
            made_by: Address::new(&set.made_by),
            key: read_key(program, &set.wrapped_key)?,
            volumes: volumes.collect(),
        })
    }
}

impl Archive {
    /// Stores a manifest; it is durable when this returns.
    pub(super) async fn write_manifest(&self, manifest: &Manifest, key: &DataKey) -> Result<(), Failure> {
        let text = serde_json::to_string(manifest).expect("a manifest is JSON");
        let (nonce, tag) = key.sign_manifest(text.as_bytes());
        let signed = Signed { manifest: RawValue::from_string(text).expect("it is JSON"), nonce, tag };
        let bytes = serde_json::to_vec(&signed).expect("a manifest is JSON");
        let location = place::of_manifest(&manifest.program, manifest.id);
        self.place.objects.put(&location, PutPayload::from(bytes)).await?;
        Ok(())
    }

    /// The manifest of a complete set.
    ///
    /// # Errors
    /// [`ArchiveCode::Damaged`] when it is not there, not this node's, or not this set's.
    pub(super) async fn read_manifest(
        &self,
        program: &ProgramId,
        id: SnapshotId,
        key: &DataKey,
    ) -> Result<Manifest, Failure> {
        let damaged = |why: &str| {
            let message = format!("the manifest of snapshot {id} {why}; restore an older snapshot");
            Failure::from(Refusal::new(ArchiveCode::Damaged, message))
        };
        let found = match self.place.objects.get(&place::of_manifest(program, id)).await {
            Ok(found) if found.meta.size > MOST_BYTES => return Err(damaged("is too large")),
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Err(damaged("is not in the archive")),
            Err(error) => return Err(error.into()),
        };
        let changed = || damaged("is not what was written");
        let signed: Signed = serde_json::from_slice(&found).map_err(|_| changed())?;
        let text = signed.manifest.get();
        key.check_manifest(text.as_bytes(), &signed.nonce, &signed.tag).map_err(|_| changed())?;
        let manifest: Manifest = serde_json::from_str(text).map_err(|_| changed())?;
        match (manifest.program, manifest.id) == (*program, id) {
            true => Ok(manifest),
            false => Err(damaged("is that of another snapshot")),
        }
    }
}
