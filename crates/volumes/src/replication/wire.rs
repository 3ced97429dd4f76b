//! What two nodes say to each other about the volumes of one program, in the frames of [`super::secure`].
//!
//! ```text
//!   primary                                        standby
//!      │ ── Open {program, epoch} ──────────────────▶ │
//!      │ ◀─ Have {snapshots, partial} ─── or Refused  │
//!      │                                              │
//!      │ ── Begin {snapshot, parent, volumes} ──────▶ │   for each snapshot
//!      │ ◀─ Ready ───── or UnknownParent, Failed ──── │
//!      │ ── Age ────────────────────────────────────▶ │
//!      │ ══ bytes of a volume ══════════════════════▶ │   for each volume, in their order
//!      │ ── End {digest} ───────────────────────────▶ │
//!      │ ◀─ Done ──────────────────── or Failed ───── │   what Failed answers to leaves nothing that counts
//!      │                                              │
//!      │ ── Ping ───────────────────────────────────▶ │   when there is nothing to send
//!      │ ◀─ Pong ──────────────────────────────────── │
//! ```
//!
//! Age comes after Ready, so the standby knows how long it can have been on its way: not longer than since it sent
//! Ready. After Failed or UnknownParent the standby passes over what comes before the next Begin.

use std::io;

use chrono::{DateTime, Utc};
use protocol::data::SnapshotId;
use protocol::{Epoch, ProgramId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::core::name::VolumeSpec;

/// How much of a stream is compressed at a time, in bytes.
pub const CHUNK: usize = 128 << 10;

/// On streams of btrfs (code, a SQLite database) level 1 leaves 41 % and compresses 180–280 MiB/s on one core; lz4
/// leaves 61 % at 210–260 MiB/s, level 3 is slower and leaves no less.
const LEVEL: i32 = 1;

const MESSAGE: u8 = 0;
const RAW: u8 = 1;
const COMPRESSED: u8 = 2;

/// From the node whose volumes they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromPrimary {
    /// The first: what the connection is about.
    Open {
        /// Whose volumes.
        program: ProgramId,
        /// The epoch that it is live in.
        epoch: Epoch,
    },
    /// A snapshot comes.
    Begin(Begin),
    /// How long ago it was taken, when this was sent, rounded up.
    Age {
        /// In milliseconds.
        taken_ago_ms: u64,
    },
    /// A volume is complete.
    End {
        /// Of its stream, as `btrfs send` made it.
        digest: Digest,
    },
    /// Nothing to say.
    Ping,
}

/// A snapshot comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Its name.
    pub snapshot: SnapshotId,
    /// The snapshot that the streams build on, for volumes that it has.
    pub parent: Option<SnapshotId>,
    /// Its volumes, in the order of their streams.
    pub volumes: Vec<VolumeSpec>,
    /// By the clock of the node that took it.
    pub taken: DateTime<Utc>,
    /// It goes on where [`Partial`] ends.
    pub resume: bool,
}

/// From the node that keeps copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromStandby {
    /// The connection is of no use.
    Refused {
        /// Why.
        reason: String,
        /// The highest epoch that was ever seen, when that is why.
        highest: Option<Epoch>,
    },
    /// The answer to Open: complete sets in their order, and what is there of one that was cut off.
    Have {
        /// Oldest first.
        snapshots: Vec<SnapshotId>,
        /// It is given up after a while.
        partial: Option<Partial>,
    },
    /// The bytes may come.
    Ready {
        /// Which.
        snapshot: SnapshotId,
    },
    /// The parent is not here.
    UnknownParent {
        /// What was to be sent.
        snapshot: SnapshotId,
    },
    /// The snapshot was not taken in.
    Failed {
        /// Which.
        snapshot: SnapshotId,
        /// Why and what to do.
        reason: String,
    },
    /// The snapshot is complete and durable.
    Done {
        /// Which.
        snapshot: SnapshotId,
    },
    /// The answer to Ping.
    Pong,
}

/// What is there of a snapshot that was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// Its name.
    pub snapshot: SnapshotId,
    /// What its streams build on.
    pub parent: Option<SnapshotId>,
    /// How many volumes are complete.
    pub volumes: usize,
    /// How many bytes of the next one are there.
    pub offset: u64,
    /// Of these bytes.
    pub digest: Digest,
}

/// SHA-256, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// Of what has been digested so far.
    pub fn of(hash: &sha2::Sha256) -> Self {
        Self(hex::encode(sha2::Digest::finalize(hash.clone())))
    }
}

/// A frame, read.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<T> {
    /// A message.
    Message(T),
    /// A piece of a stream.
    Bytes(Vec<u8>),
}

/// A frame that means nothing.
#[derive(Debug, thiserror::Error)]
#[error("the other node sent what is no frame: {0}; both need the same version of aleph-node")]
pub struct BadFrame(String);

/// A message as a frame.
pub fn message(message: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![MESSAGE];
    serde_json::to_writer(&mut frame, message).expect("a message is JSON");
    frame
}

/// Bytes of a stream as a frame, smaller when they can be.
///
/// # Errors
/// When there is no memory for it.
pub fn pack(chunk: &[u8]) -> io::Result<Vec<u8>> {
    let packed = zstd::bulk::compress(chunk, LEVEL)?;
    let (kind, bytes) = if packed.len() < chunk.len() { (COMPRESSED, &packed[..]) } else { (RAW, chunk) };
    Ok([&[kind], bytes].concat())
}

/// Reads a frame. What was compressed is never more than [`CHUNK`] bytes.
///
/// # Errors
/// [`BadFrame`].
pub fn read<T: DeserializeOwned>(frame: &[u8]) -> Result<Frame<T>, BadFrame> {
    let bad = |what: &dyn std::fmt::Display| BadFrame(what.to_string());
    match frame.split_first() {
        Some((&MESSAGE, json)) => serde_json::from_slice(json).map(Frame::Message).map_err(|e| bad(&e)),
        Some((&RAW, bytes)) if bytes.len() <= CHUNK => Ok(Frame::Bytes(bytes.to_vec())),
        Some((&COMPRESSED, bytes)) => zstd::bulk::decompress(bytes, CHUNK).map(Frame::Bytes).map_err(|e| bad(&e)),
        _ => Err(bad(&"its kind or length is unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let ping = read::<FromPrimary>(&message(&FromPrimary::Ping)).unwrap();
        assert_eq!(ping, Frame::Message(FromPrimary::Ping));
        let noise: Vec<u8> = (0_u32..20_000).flat_map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
        for chunk in [Vec::new(), vec![7; CHUNK], noise] {
            let packed = pack(&chunk).unwrap();
            assert!(packed.len() <= chunk.len() + 1);
            assert_eq!(read::<FromPrimary>(&packed).unwrap(), Frame::Bytes(chunk));
        }
    }

    #[test]
    fn what_is_no_frame_or_grows_too_large_is_refused() {
        let bomb = [&[COMPRESSED][..], &zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap()].concat();
        for frame in [&[][..], &[9, 1], &[MESSAGE, b'{'], &[COMPRESSED, 1, 2], &bomb, &vec![RAW; CHUNK + 2]] {
            assert!(read::<FromStandby>(frame).is_err());
        }
    }
}
