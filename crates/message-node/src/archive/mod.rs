//! The archive: snapshot sets of the volumes of programs with `persistence: "store"`, encrypted, in a folder or a bucket.
//!
//! ```text
//!  begin ─▶ a row, open ─ each stream: an object, then a row ─ complete: the manifest, then the row ─▶ it counts
//! ```
//! The rows say what counts; a crash leaves objects without a row, or a set that stays open, which the collector removes.
//! The rules are in [`crate::core::archive`] and [`crate::core::retention`].
//!
//! The epoch is fenced here: whoever writes, or reads in order to restore, raises the highest epoch of the program
//! durably, and every write below it is refused in the transaction in which it would have come to count.

pub(crate) mod collect;
mod holders;
mod manifest;
mod place;
mod read;
mod replay;
mod seal;
mod write;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;
use protocol::api::archive::{ArchiveCode, SetRecord, SetState, VolumeDraft, VolumeRecord, volume_key};
use protocol::data::SnapshotId;
use protocol::message::MessageType;
use protocol::signed_request::{OPERATION_HEADER, PUBKEY_HEADER, ReceivedRequest, Verified, verify_once};
use protocol::{Address, Epoch, ProgramId};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::config::{ArchiveConfig, Config};
use crate::core::archive::{
    Holder, Refusal, archived_volumes, check_epoch, check_foreign_reader, check_reader, check_writer,
};
use crate::core::content::Content;
use crate::core::retention::{Progress, SetFacts, Sets};
use crate::error::RunError;
use crate::place::{Place, StoragePlace, Writers};
use crate::store::archive::{self as rows, SetRow, SetStage, StreamRow};
use crate::store::places::Given;
use crate::store::{Connection, Database, Store, StoreError, Stored, messages};

use holders::{Freshness, Holders};
use replay::Taken;
use seal::{DataKey, MasterKey, WrappedKey};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The archive says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database or the object store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error.into())
    }
}

/// The archive.
pub(crate) struct Archive {
    place: Place,
    /// The place for people.
    shown: String,
    store: Store,
    /// `None` when its file is gone while there are keys that it wrapped.
    master: Option<MasterKey>,
    key_path: PathBuf,
    /// The names that signed requests may give this node.
    hosts: Vec<String>,
    holders: Holders,
    taken: Mutex<Taken>,
    uploads: Arc<Semaphore>,
    config: ArchiveConfig,
    /// There may be something to remove.
    wake: Notify,
}

/// A request as it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub pubkey: Option<&'a str>,
    pub operation: Option<&'a str>,
    /// The header `Host`.
    pub host: Option<&'a str>,
}

/// A program that has, or had, an archive.
#[derive(Debug)]
struct Program {
    owner: Address,
    /// The volumes that are archived; `None` when the program is not in force any more.
    volumes: Option<Vec<VolumeDraft>>,
}

/// What somebody may read.
struct Reader {
    program: Program,
    /// Only this set, and what it builds on.
    only: Option<SnapshotId>,
}

/// What the database has of a program's archive, without what is leaving.
struct Shelf {
    sets: Vec<SetRow>,
    streams: Vec<StreamRow>,
}

impl Shelf {
    async fn read(db: &mut Connection, program: &ProgramId) -> Stored<Self> {
        let mut sets = rows::sets(db, program).await?;
        sets.retain(|set| set.stage != SetStage::Leaving);
        Ok(Self { sets, streams: rows::streams(db, program).await? })
    }

    fn streams_of(&self, set: SnapshotId) -> impl Iterator<Item = &StreamRow> {
        self.streams.iter().filter(move |stream| stream.set == set)
    }

    /// Bytes of all streams but one, which is to be replaced.
    fn bytes_without(&self, set: SnapshotId, volume: &str) -> u64 {
        let replaced = self.streams_of(set).find(|stream| stream.volume == volume);
        self.bytes() - replaced.map_or(0, |stream| stream.received.bytes)
    }

    /// Bytes of all streams, those of sets that are leaving included.
    fn bytes(&self) -> u64 {
        self.streams.iter().fold(0, |sum, stream| sum.saturating_add(stream.received.bytes))
    }
}

impl Archive {
    /// Opens the archive of a node that listens at this address.
    ///
    /// # Errors
    /// [`RunError`] when the place or the key cannot be used.
    pub(crate) async fn open(
        config: &Config,
        store: Store,
        database: &Database,
        address: SocketAddr,
    ) -> Result<Self, RunError> {
        let default = || StoragePlace::Folder(config.data_dir.join("snapshots"));
        let place = config.archive.place.clone().unwrap_or_else(default);
        let unusable = |source| RunError::Snapshots { place: place.to_string(), source };
        let writers = Writers::of(config, config.archive.place.as_ref());
        let opened = Place::open(&place, writers).map_err(unusable)?;
        let key_path = config.data_dir.join("snapshots.key");
        let has_keys = async { rows::has_keys(&mut *store.read().await?).await };
        let has_keys = has_keys.await.map_err(|e: StoreError| database.failed(e))?;
        let key = |source| RunError::SnapshotsKey { path: key_path.clone(), source };
        let master = match MasterKey::read(&key_path).map_err(key)? {
            Some(master) => Some(master),
            None if has_keys => {
                tracing::error!(file = %key_path.display(), "the key of the archive is gone: no snapshot can be read or \
                     written until it is back");
                None
            }
            None => Some(MasterKey::generate(&key_path).map_err(key)?),
        };
        Ok(Self {
            place: opened,
            shown: place.to_string(),
            store,
            master,
            hosts: hosts(&config.archive.urls, address.ip()),
            key_path,
            holders: Holders::new(&config.archive.schedulers),
            taken: Mutex::new(Taken::new(Utc::now())),
            uploads: Arc::new(Semaphore::new(config.archive.uploads)),
            config: config.archive.clone(),
            wake: Notify::new(),
        })
    }

    /// What all processes have to share that use the archive: where the sets are, and the key, if there is one.
    ///
    /// # Errors
    /// [`RunError::Snapshots`] when the place cannot be used.
    pub(crate) async fn places(&self) -> Result<Vec<Given>, RunError> {
        let place = &self.shown;
        let unusable = |error| RunError::Snapshots { place: place.clone(), source: io::Error::other(error) };
        let sets = Given {
            what: "snapshots",
            name: self.place.name().await.map_err(unusable)?,
            otherwise: format!(
                "the snapshots of this message node are not at {place}: give --snapshots as it was given to its other \
                 processes, or before"
            ),
        };
        let key = self.master.as_ref().map(|master| Given {
            what: "snapshots.key",
            name: master.id().to_owned(),
            otherwise: format!(
                "{} is not the key of this message node's archive: copy the one that its other processes have",
                self.key_path.display()
            ),
        });
        Ok([Some(sets), key].into_iter().flatten().collect())
    }

    /// Says who signed a request for this node.
    pub(crate) fn authenticate(&self, request: &Request<'_>) -> Result<Verified, Refusal> {
        let refused = |message: String| Refusal::new(ArchiveCode::BadSignature, message);
        let Some(first) = self.hosts.first() else {
            return Err(refused("this message node does not know its own name: its operator sets --url".to_owned()));
        };
        let asked = request.host.map(without_port);
        let domain = self.hosts.iter().find(|host| asked.is_some_and(|asked| asked.eq_ignore_ascii_case(host)));
        let received = ReceivedRequest {
            pubkey: request.pubkey,
            operation: request.operation,
            method: request.method,
            path: request.path,
            domain: domain.unwrap_or(first),
        };
        verify_once(&received, Utc::now()).map_err(|error| {
            let known = self.hosts.join(", ");
            refused(format!(
                "{error}; sign the request with {PUBKEY_HEADER} and {OPERATION_HEADER} for this node, known as {known}"
            ))
        })
    }

    async fn program(&self, program: &ProgramId) -> Result<Program, Failure> {
        let row = messages::get(&mut *self.store.read().await?, &program.to_string()).await?;
        let unknown =
            || Refusal::new(ArchiveCode::NotFound, format!("there is no program {program} here; check its id"));
        let row = row.ok_or_else(unknown)?;
        let (MessageType::Program, Some(owner)) = (row.message_type()?, &row.owner) else {
            return Err(unknown().into());
        };
        let owner = Address::new(owner);
        if is_over(&row) {
            return Ok(Program { owner, volumes: None });
        }
        if !row.status.0.is_in_force() {
            return Err(unknown().into());
        }
        let text = row.content.as_deref().unwrap_or_default();
        match Content::parse(MessageType::Program, text) {
            Ok(Content::Program(content)) => Ok(Program { owner, volumes: Some(archived_volumes(&content)?) }),
            _ => Err(StoreError::corrupt("program", program.to_string(), "it is no program's content").into()),
        }
    }

    /// Makes sure that this request may write to a program's archive in this epoch, and takes it; gives the volumes.
    async fn writer(&self, by: &Verified, program: &ProgramId, epoch: Epoch) -> Result<Vec<VolumeDraft>, Failure> {
        let Some(volumes) = self.program(program).await?.volumes else {
            let message = format!("program {program} was forgotten or removed: its archive takes nothing more");
            return Err(Refusal::new(ArchiveCode::Gone, message).into());
        };
        check_epoch(epoch, rows::highest_epoch(&mut *self.store.read().await?, program).await?)?;
        let holder = self.holders.of(&self.store, program, Freshness::Recent).await?;
        if check_writer(&by.signer, epoch, holder.as_ref()).is_err() {
            let holder = self.holders.of(&self.store, program, Freshness::New(Instant::now())).await?;
            check_writer(&by.signer, epoch, holder.as_ref())?;
        }
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).take(by, Utc::now())?;
        Ok(volumes)
    }

    /// Makes sure that this request may read a program's archive. A node that reads does so to have this program go on from
    /// there, or the one that it reads for: from then on nobody writes for that one in an epoch before its own.
    async fn reader(
        &self,
        by: &Verified,
        program: &ProgramId,
        reads_for: Option<&ProgramId>,
    ) -> Result<Reader, Failure> {
        let facts = self.program(program).await?;
        if by.signer == facts.owner {
            return Ok(Reader { program: facts, only: None });
        }
        if let Some(other) = reads_for
            && self.program(other).await?.owner != facts.owner
        {
            let message = format!("program {other} has another owner: for that one there is no program {program}");
            return Err(Refusal::new(ArchiveCode::NotFound, message).into());
        }
        let starts = reads_for.unwrap_or(program);
        let check = |holder: Option<&Holder>| match reads_for {
            None => check_reader(&by.signer, holder).map(|epoch| (epoch, None)),
            Some(_) => check_foreign_reader(&by.signer, holder, program).map(|(epoch, set)| (epoch, Some(set))),
        };
        let holder = self.holders.of(&self.store, starts, Freshness::Recent).await?;
        let (epoch, only) = match check(holder.as_ref()) {
            Ok(allowed) => allowed,
            Err(_) => check(self.holders.of(&self.store, starts, Freshness::New(Instant::now())).await?.as_ref())?,
        };
        let highest = rows::highest_epoch(&mut *self.store.read().await?, starts).await?;
        if highest != Some(epoch) {
            let mut tx = self.store.write().await?;
            fence(&mut tx, starts, epoch).await?;
            tx.commit().await.map_err(StoreError::from)?;
        }
        Ok(Reader { program: facts, only })
    }

    /// What there is of a program's archive for this reader.
    async fn shelf_of(&self, program: &ProgramId, reader: &Reader) -> Result<Shelf, Failure> {
        let mut shelf = Shelf::read(&mut *self.store.read().await?, program).await?;
        if let Some(only) = reader.only {
            let facts = self.facts(program, &shelf);
            let chain: Vec<_> = Sets::new(&facts).chain(only).iter().map(|set| set.id).collect();
            shelf.sets.retain(|set| chain.contains(&set.id));
            shelf.streams.retain(|stream| chain.contains(&stream.set));
        }
        Ok(shelf)
    }

    fn master(&self) -> Result<&MasterKey, Refusal> {
        self.master.as_ref().ok_or_else(|| self.key_lost("is gone"))
    }

    fn key_lost(&self, how: &str) -> Refusal {
        let path = self.key_path.display();
        let message = format!(
            "the key that the archive is encrypted with {how}: nothing in it can be read until the operator of the \
             message node restores {path} from a backup"
        );
        Refusal::new(ArchiveCode::KeyLost, message)
    }

    /// The data key that a set is encrypted with.
    fn data_key(&self, program: &ProgramId, wrapped: &str) -> Result<DataKey, Failure> {
        let master = self.master()?;
        let wrapped = read_key(program, wrapped)?;
        master.unwrap(program, &wrapped).map_err(|_| self.key_lost("is another one now").into())
    }

    /// Whether a key is one that this node can unwrap.
    fn knows_key(&self, program: &ProgramId, wrapped: &str) -> bool {
        let (Some(master), Ok(wrapped)) = (&self.master, read_key(program, wrapped)) else { return false };
        wrapped.master == master.id()
    }

    fn facts(&self, program: &ProgramId, shelf: &Shelf) -> Vec<SetFacts> {
        let facts = |set: &SetRow| SetFacts {
            id: set.id,
            parent: set.draft.parent,
            bytes: shelf.streams_of(set.id).fold(0, |sum, stream| sum.saturating_add(stream.received.bytes)),
            progress: match set.completed_us {
                Some(at_us) => {
                    let usable = set.stage == SetStage::Complete && self.knows_key(program, &set.wrapped_key);
                    Progress::Complete { at_us, usable }
                }
                None => Progress::Open,
            },
        };
        shelf.sets.iter().map(facts).collect()
    }

    fn record(&self, program: &ProgramId, set: &SetRow, shelf: &Shelf) -> SetRecord {
        let volume = |draft: &VolumeDraft| {
            let key = volume_key(&draft.name);
            let received = shelf.streams_of(set.id).find(|stream| stream.volume == key).map(|stream| &stream.received);
            VolumeRecord {
                name: draft.name.clone(),
                size_mib: draft.size_mib,
                bytes: received.map(|received| received.bytes),
                sha256: received.map(|received| received.sha256),
                key,
            }
        };
        SetRecord {
            id: set.id,
            parent: set.draft.parent,
            state: match set.stage {
                SetStage::Open | SetStage::Leaving => SetState::Open,
                SetStage::Damaged => SetState::Damaged,
                SetStage::Complete if self.knows_key(program, &set.wrapped_key) => SetState::Complete,
                SetStage::Complete => SetState::Unreadable,
            },
            taken: set.draft.taken,
            format: set.draft.format,
            made_by: Address::new(&set.made_by),
            volumes: set.draft.volumes.iter().map(volume).collect(),
        }
    }
}

/// Refuses a use of the archive whose epoch is over; otherwise all lower epochs are over from the commit on.
async fn fence(db: &mut Connection, program: &ProgramId, epoch: Epoch) -> Result<(), Failure> {
    check_epoch(epoch, rows::highest_epoch(db, program).await?)?;
    Ok(rows::raise_epoch(db, program, epoch).await?)
}

fn read_key(program: &ProgramId, wrapped: &str) -> Stored<WrappedKey> {
    serde_json::from_str(wrapped).map_err(|e| StoreError::corrupt("key of an archive", program.to_string(), e))
}

/// Whether there is evidence that a message was in force and is not any more.
fn is_over(row: &messages::MessageRow) -> bool {
    use protocol::api::message_node::MessageStatus::{Forgotten, Removed};
    matches!(row.status.0, Forgotten | Removed)
}

fn unknown_set(id: SnapshotId) -> Refusal {
    Refusal::new(
        ArchiveCode::NotFound,
        format!("the archive of this program has no snapshot {id}; list those that it has"),
    )
}

/// The names of this node: the hosts of its URLs, and the address that it listens on.
fn hosts(urls: &[String], listens_on: IpAddr) -> Vec<String> {
    let host = |url: &String| Some(url::Url::parse(url).ok()?.host_str()?.trim_matches(['[', ']']).to_owned());
    let mut hosts: Vec<_> = urls.iter().filter_map(host).collect();
    if !listens_on.is_unspecified() {
        hosts.push(listens_on.to_string());
    }
    if listens_on.is_loopback() {
        hosts.push("localhost".to_owned());
    }
    hosts
}

fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_itself_by_its_urls_and_its_address() {
        let urls = ["https://mn.example:8443/base".to_owned(), "no url".to_owned()];
        assert_eq!(hosts(&urls, "0.0.0.0".parse().unwrap()), ["mn.example"]);
        assert_eq!(hosts(&[], "127.0.0.1".parse().unwrap()), ["127.0.0.1", "localhost"]);
        assert!(hosts(&[], "::".parse().unwrap()).is_empty());
        assert_eq!(hosts(&["http://[::1]:80".to_owned()], "10.0.0.1".parse().unwrap()), ["::1", "10.0.0.1"]);
        assert_eq!(without_port("mn.example:80"), "mn.example");
        assert_eq!(without_port("[::1]:80"), "::1");
    }
}
