//! The archive of snapshot sets, kept by the message node for volumes whose `persistence` is `store`.
//!
//! ```text
//!  POST   /api/v1/programs/{program}/snapshots                       begin a set               writer
//!  PUT    /api/v1/programs/{program}/snapshots/{id}/volumes/{key}    the stream of a volume    writer
//!  POST   /api/v1/programs/{program}/snapshots/{id}/complete         from now on it counts     writer
//!  GET    /api/v1/programs/{program}/snapshots                       all sets, what is next    reader
//!  GET    /api/v1/programs/{program}/snapshots/{id}                  one set                   reader
//!  GET    /api/v1/programs/{program}/snapshots/{id}/volumes/{key}    the stream of a volume    reader
//!  DELETE /api/v1/programs/{program}/snapshots/{id}?epoch={epoch}    not needed any more       writer
//! ```
//!
//! The writer is the account of the compute node that the scheduler says the program is assigned to, in the epoch of the
//! request. Readers are the account of that node and the program's owner. All requests are signed
//! ([`crate::signed_request`]).
//!
//! With `?for={other}`, the node that another program of the same owner is assigned to reads, too: the set that the scheduler
//! says that program starts with in its present epoch, and those that this one builds on.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::SnapshotId;
use crate::message::{Persistence, PlacedVolume, VolumeKind};
use crate::{Address, Epoch, FileHash, ProgramId};

/// The longest name of a volume, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 4096;

/// The response header with the SHA-256 of a stream, 64 hexadecimal digits.
pub const DIGEST_HEADER: &str = "X-Stream-Sha256";

/// The path of a program's archive.
pub fn archive_path(program: &ProgramId) -> String {
    format!("/api/v1/programs/{program}/snapshots")
}

/// What stands for a volume's name in paths: the first half of its SHA-256, 32 hexadecimal digits. Names are what owners
/// chose, and never part of a path.
pub fn volume_key(name: &str) -> String {
    hex::encode(&Sha256::digest(name)[..16])
}

/// What the streams of a set are. The archive keeps bytes and does not look into them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum StreamFormat {
    /// `btrfs send`.
    #[serde(rename = "btrfs")]
    Btrfs,
    /// `btrfs send`, compressed with zstd.
    #[serde(rename = "btrfs+zstd")]
    BtrfsZstd,
}

/// A volume of a set that is to be archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeDraft {
    /// Its name; data, never a path.
    pub name: String,
    /// How much it may hold, in MiB.
    pub size_mib: u64,
}

impl VolumeDraft {
    /// Those of a program's volumes that are archived: the persistent ones with `persistence: "store"`.
    pub fn archived(placed: &[PlacedVolume]) -> Vec<Self> {
        let archived = placed.iter().filter_map(|volume| match (&volume.kind, &volume.name) {
            (VolumeKind::Persistent { size_mib, persistence: Some(Persistence::Store), .. }, Some(name)) => {
                Some(Self { name: name.clone(), size_mib: *size_mib })
            }
            _ => None,
        });
        archived.collect()
    }
}

/// Begins a set: the body of `POST …/snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetDraft {
    /// Its name. The epoch is the writer's.
    pub id: SnapshotId,
    /// The set that its streams are differences from; none when they are full. A stream of a volume that the parent does
    /// not have is full in any case.
    pub parent: Option<SnapshotId>,
    /// When it was taken, by the clock of the node that took it: for people.
    pub taken: DateTime<Utc>,
    /// What its streams are.
    pub format: StreamFormat,
    /// Its volumes.
    pub volumes: Vec<VolumeDraft>,
}

/// The answer to [`SetDraft`]: the streams can be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetBegun {
    /// The set.
    pub id: SnapshotId,
    /// What the archive advised before this set; a set that is not what was advised is taken as well.
    pub next: NextSet,
}

/// The answer to a stream that arrived as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamReceived {
    /// Its bytes.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: FileHash,
}

/// A stream as its sender counted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SentStream {
    /// The volume's name.
    pub name: String,
    /// Bytes that were sent.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: FileHash,
}

/// The body of `POST …/complete`: what the sender sent, which must be what arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetCompletion {
    /// One for each volume of the draft.
    pub streams: Vec<SentStream>,
}

/// Whether a set counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SetState {
    /// Streams still arrive: it does not count.
    Open,
    /// All of it is there.
    Complete,
    /// It was complete, and what is stored is not what was written any more: it cannot be restored, nor can the sets that
    /// build on it.
    Damaged,
    /// It was encrypted with a key that the message node does not have any more.
    Unreadable,
}

/// A volume of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeRecord {
    /// Its name.
    pub name: String,
    /// What stands for it in paths: [`volume_key`] of the name.
    pub key: String,
    /// How much it may hold, in MiB.
    pub size_mib: u64,
    /// Bytes of its stream; `None` while it has not arrived.
    pub bytes: Option<u64>,
    /// Their SHA-256.
    pub sha256: Option<FileHash>,
}

/// A set of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetRecord {
    /// Its name.
    pub id: SnapshotId,
    /// The set that it is the difference from.
    pub parent: Option<SnapshotId>,
    /// Whether it counts.
    pub state: SetState,
    /// When it was taken, by the clock of the node that took it: for people.
    pub taken: DateTime<Utc>,
    /// What its streams are.
    pub format: StreamFormat,
    /// The account of the node that made it.
    pub made_by: Address,
    /// Its volumes.
    pub volumes: Vec<VolumeRecord>,
}

/// Why a program cannot start with a set of another program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Nothing of the program comes from an archive.
    #[error("it has no volume with the persistence `store`, and only those come from the archive")]
    NoVolumes,
    /// A volume of the program is not in the set.
    #[error("the snapshot has no volume {name:?}, which the program has; it has {}", .has.join(", "))]
    Lacking {
        /// Its name.
        name: String,
        /// The names that the set has.
        has: Vec<String>,
    },
    /// A volume of the program has a smaller limit than that of the set.
    #[error("volume {name:?} has {size_mib} MiB, and in the snapshot it has {needed_mib} MiB: it needs as many")]
    TooSmall {
        /// Its name.
        name: String,
        /// What the program has.
        size_mib: u64,
        /// What the set's may hold.
        needed_mib: u64,
    },
}

impl SetRecord {
    /// Whether another program with these archived volumes can start with this set: all of them are in it, and may hold as
    /// much. Volumes of the set that the program does not have are left out.
    ///
    /// # Errors
    /// Why not.
    pub fn fits(&self, volumes: &[VolumeDraft]) -> Result<(), Misfit> {
        if volumes.is_empty() {
            return Err(Misfit::NoVolumes);
        }
        for VolumeDraft { name, size_mib } in volumes {
            let Some(there) = self.volumes.iter().find(|volume| volume.name == *name) else {
                let has = self.volumes.iter().map(|volume| format!("{:?}", volume.name)).collect();
                return Err(Misfit::Lacking { name: name.clone(), has });
            };
            if *size_mib < there.size_mib {
                let (size_mib, needed_mib) = (*size_mib, there.size_mib);
                return Err(Misfit::TooSmall { name: name.clone(), size_mib, needed_mib });
            }
        }
        Ok(())
    }
}

/// What the next set should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "next", rename_all = "snake_case")]
pub enum NextSet {
    /// All of the volumes: there is nothing to build on, or enough differences are in a row.
    Full,
    /// The difference from this set. A node that does not have this set sends a full one.
    Difference {
        /// The newest set that can be restored.
        from: SnapshotId,
    },
}

/// `GET …/snapshots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ArchiveList {
    /// All sets, oldest first; only those that are `complete` can be restored.
    pub sets: Vec<SetRecord>,
    /// What the next set should be.
    pub next: NextSet,
    /// Bytes that all sets have together.
    pub bytes: u64,
    /// Bytes that they may have; 0 once the program is not in force any more.
    pub quota_bytes: u64,
}

impl ArchiveList {
    /// The sets to apply, in this order, to have the program's newest volumes; empty when nothing can be restored.
    pub fn restore_chain(&self) -> Vec<&SetRecord> {
        let newest_first = self.sets.iter().rev();
        newest_first.filter_map(|set| self.chain_of(set.id)).next().unwrap_or_default()
    }

    /// The sets to apply, in this order, to have what this set holds: a full one and the differences up to this. `None`
    /// when one of them is not there or not complete.
    pub fn chain_of(&self, id: SnapshotId) -> Option<Vec<&SetRecord>> {
        let (mut chain, mut wanted) = (Vec::new(), Some(id));
        while let Some(id) = wanted {
            let set = self.sets.iter().find(|set| set.id == id && set.state == SetState::Complete)?;
            if chain.len() >= self.sets.len() {
                return None;
            }
            chain.push(set);
            wanted = set.parent;
        }
        chain.reverse();
        Some(chain)
    }
}

/// Why the archive says no: the `code` of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ArchiveCode {
    /// 400: the program, the set or the volume in the path is no id.
    BadId,
    /// 401: the request is not signed for this, or was made before.
    BadSignature,
    /// 403: neither the owner nor the node that has the program, in this epoch.
    NotAllowed,
    /// 404: no such program, set or volume.
    NotFound,
    /// 409: a later epoch is known; `details.highest` has it.
    StaleEpoch,
    /// 409: the set is there already.
    Duplicate,
    /// 409: the parent is not in the archive, or not complete.
    UnknownParent,
    /// 409: another set builds on this one.
    Needed,
    /// 409: a stream has not arrived.
    Incomplete,
    /// 409: what arrived is not what was sent; the stream must be sent again.
    WrongDigest,
    /// 410: the program was forgotten.
    Gone,
    /// 413: a stream is longer than its volume can need.
    TooLarge,
    /// 413: the archive of this program is full.
    Quota,
    /// 422: the draft or the completion makes no sense.
    Invalid,
    /// 500: what is stored is not what was written.
    Damaged,
    /// 500: the key is gone.
    KeyLost,
    /// 503: no scheduler says who has the program.
    NoScheduler,
    /// 503: too much at the same time.
    Busy,
}

impl ArchiveCode {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadId => "bad_id",
            Self::BadSignature => "bad_signature",
            Self::NotAllowed => "not_allowed",
            Self::NotFound => "not_found",
            Self::StaleEpoch => "stale_epoch",
            Self::Duplicate => "duplicate",
            Self::UnknownParent => "unknown_parent",
            Self::Needed => "needed",
            Self::Incomplete => "incomplete",
            Self::WrongDigest => "wrong_digest",
            Self::Gone => "gone",
            Self::TooLarge => "too_large",
            Self::Quota => "quota",
            Self::Invalid => "invalid",
            Self::Damaged => "damaged",
            Self::KeyLost => "key_lost",
            Self::NoScheduler => "no_scheduler",
            Self::Busy => "busy",
        }
    }

    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadId => 400,
            Self::BadSignature => 401,
            Self::NotAllowed => 403,
            Self::NotFound => 404,
            Self::StaleEpoch
            | Self::Duplicate
            | Self::UnknownParent
            | Self::Needed
            | Self::Incomplete
            | Self::WrongDigest => 409,
            Self::Gone => 410,
            Self::TooLarge | Self::Quota => 413,
            Self::Invalid => 422,
            Self::Damaged | Self::KeyLost => 500,
            Self::NoScheduler | Self::Busy => 503,
        }
    }
}

impl fmt::Display for ArchiveCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The `details` of [`ArchiveCode::StaleEpoch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaleEpochDetails {
    /// The highest epoch that the archive has seen for the program.
    pub highest: Epoch,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::place_volumes;

    fn set(id: &str, parent: Option<&str>, state: SetState) -> SetRecord {
        SetRecord {
            id: id.parse().unwrap(),
            parent: parent.map(|parent| parent.parse().unwrap()),
            state,
            taken: DateTime::UNIX_EPOCH,
            format: StreamFormat::BtrfsZstd,
            made_by: Address::new("0x1"),
            volumes: Vec::new(),
        }
    }

    fn list(sets: Vec<SetRecord>) -> ArchiveList {
        ArchiveList { sets, next: NextSet::Full, bytes: 0, quota_bytes: 0 }
    }

    #[test]
    fn what_is_restored_is_the_newest_set_whose_whole_chain_is_there() {
        use SetState::{Complete, Damaged, Open};
        let names = |list: &ArchiveList| list.restore_chain().iter().map(|set| set.id.to_string()).collect::<Vec<_>>();
        let mut sets = vec![
            set("1-1", None, Complete),
            set("1-2", Some("1-1"), Complete),
            set("2-1", Some("1-2"), Complete),
            set("2-2", Some("2-1"), Open),
        ];
        assert_eq!(names(&list(sets.clone())), ["1-1", "1-2", "2-1"]);
        sets[2].state = Damaged;
        assert_eq!(names(&list(sets.clone())), ["1-1", "1-2"]);
        sets[0].state = Damaged;
        assert!(names(&list(sets)).is_empty());
        assert!(names(&list(vec![set("1-1", Some("1-1"), Complete)])).is_empty(), "nonsense ends");
    }

    #[test]
    fn a_program_starts_with_anothers_set_if_that_has_all_of_its_volumes_and_they_have_the_room() {
        let volume = |name: &str, size_mib| {
            let (name, key) = (name.to_owned(), volume_key(name));
            VolumeRecord { name, key, size_mib, bytes: None, sha256: None }
        };
        let draft = |name: &str, size_mib| VolumeDraft { name: name.to_owned(), size_mib };
        let volumes = vec![volume("db", 50), volume("logs", 10)];
        let set = SetRecord { volumes, ..set("1-1", None, SetState::Complete) };
        assert_eq!(set.fits(&[draft("logs", 10), draft("db", 60)]), Ok(()));
        assert_eq!(set.fits(&[draft("db", 50)]), Ok(()), "the other is left out");
        assert_eq!(set.fits(&[]), Err(Misfit::NoVolumes));
        let small = set.fits(&[draft("db", 49)]).unwrap_err();
        assert!(small.to_string().contains("49 MiB, and in the snapshot it has 50 MiB"), "{small}");
        let lacking = set.fits(&[draft("db", 50), draft("files", 1)]).unwrap_err();
        assert!(
            lacking.to_string().contains("no volume \"files\"") && lacking.to_string().contains("\"logs\""),
            "{lacking}"
        );
    }

    #[test]
    fn only_volumes_of_the_class_store_are_archived() {
        let volumes = serde_json::json!([
            {"mount": "/data", "name": "db", "persistence": "store", "size_mib": 100},
            {"mount": "/cache", "name": "cache", "persistence": "host", "size_mib": 100},
            {"mount": "/more", "persistence": "store", "size_mib": 50},
            {"mount": "/tmp/x", "ephemeral": true, "size_mib": 5},
        ]);
        let placed = place_volumes(&serde_json::from_value::<Vec<_>>(volumes).unwrap()).unwrap();
        let archived = VolumeDraft::archived(&placed).into_iter().map(|volume| (volume.name, volume.size_mib));
        assert_eq!(archived.collect::<Vec<_>>(), [("db".to_owned(), 100), ("unamed_volume_2".to_owned(), 50)]);
    }

    #[test]
    fn codes_have_one_word_each() {
        let code = ArchiveCode::StaleEpoch;
        assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        assert_eq!(serde_json::from_value::<ArchiveCode>("wrong_digest".into()).unwrap(), ArchiveCode::WrongDigest);
    }

    #[test]
    fn names_never_reach_a_path() {
        let key = volume_key("../../etc/\0");
        assert!(key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(key, volume_key(""));
    }
}
