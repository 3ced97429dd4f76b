//! A snapshot that is coming in, volume by volume. It outlives its connection for a while.

use std::time::Duration;

use lease::BootTime;
use protocol::ProgramId;
use protocol::data::SnapshotId;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::wire::{Begin, CHUNK, Digest, Partial};
use crate::core::program::{Refusal, check};
use crate::error::Error;
use crate::pool::Pool;

/// What a stream may have beyond the sizes of the volumes, in bytes: small volumes consist of metadata.
const OVERHEAD: u64 = 16 << 20;

/// Why a snapshot cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(transparent)]
    Volumes(#[from] Error),
    #[error("the digest of a volume is another; it was changed on the way or on a disk, send it again")]
    WrongDigest,
    #[error("it is longer than {0} bytes, which is more than its volumes can hold; send it as a difference")]
    TooLong(u64),
}

/// A volume that is coming in.
#[derive(Debug)]
struct Feed {
    writer: DuplexStream,
    received: JoinHandle<Result<u64, Error>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Arriving {
    begin: Begin,
    /// How many volumes are whole.
    whole: usize,
    feed: Option<Feed>,
    digest: Sha256,
    /// How many bytes of the volume have come.
    offset: u64,
    /// How many bytes may still come, and how many there could be in all.
    left: u64,
    limit: u64,
    /// When the sender was told that it may send, and how long ago it had taken the snapshot after that.
    ready: BootTime,
    taken_ago: Option<Duration>,
    cut: Option<BootTime>,
}

impl Arriving {
    pub(crate) fn new(begin: Begin, now: BootTime, factor: u64) -> Result<Self, Refusal> {
        check(&begin.volumes)?;
        let sizes = begin.volumes.iter().fold(0_u64, |sum, volume| sum.saturating_add(volume.limit_bytes()));
        let limit = sizes.saturating_mul(factor).saturating_add(OVERHEAD);
        Ok(Self {
            begin,
            whole: 0,
            feed: None,
            digest: Sha256::new(),
            offset: 0,
            left: limit,
            limit,
            ready: now,
            taken_ago: None,
            cut: None,
        })
    }

    pub(crate) fn begin(&self) -> &Begin {
        &self.begin
    }

    pub(crate) fn id(&self) -> SnapshotId {
        self.begin.snapshot
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.whole == self.begin.volumes.len()
    }

    /// What is there, for the sender to go on from.
    pub(crate) fn partial(&self) -> Partial {
        Partial {
            snapshot: self.begin.snapshot,
            parent: self.begin.parent,
            volumes: self.whole,
            offset: self.offset,
            digest: Digest::of(&self.digest),
        }
    }

    /// The rest of this very snapshot comes now. Returns whether it is this one.
    pub(crate) fn resume(&mut self, begin: &Begin, now: BootTime) -> bool {
        let same = Begin { resume: self.begin.resume, ..begin.clone() } == self.begin;
        if same {
            (self.ready, self.taken_ago, self.cut) = (now, None, None);
        }
        same
    }

    /// The connection is over.
    pub(crate) fn cut(&mut self, now: BootTime) {
        self.cut = Some(now);
    }

    /// Whether nobody went on for so long.
    pub(crate) fn is_over(&self, now: BootTime, keep: Duration) -> bool {
        self.cut.is_some_and(|cut| now.since(cut) >= keep)
    }

    /// The sender said this after it was told that it may send, so it was true then or later.
    pub(crate) fn taken_ago(&mut self, ago: Duration) {
        self.taken_ago = Some(ago);
    }

    /// How old the snapshot was at some time, or less; `None` when the sender did not say.
    pub(crate) fn age(&self) -> Option<(BootTime, Duration)> {
        Some((self.ready, self.taken_ago?))
    }

    /// Bytes of the next volume that is not whole.
    pub(crate) async fn feed(&mut self, pool: &Pool, program: ProgramId, bytes: &[u8]) -> Result<(), Problem> {
        let Some(volume) = self.begin.volumes.get(self.whole) else { return Ok(()) };
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(Problem::TooLong(self.limit))?;
        let feed = self.feed.get_or_insert_with(|| {
            let (writer, reader) = tokio::io::duplex(2 * CHUNK);
            let (pool, id, name, limit) = (pool.clone(), self.begin.snapshot, volume.name.clone(), self.limit);
            let received = async move { pool.receive(program, id, &name, limit, reader).await };
            Feed { writer, received: tokio::spawn(received) }
        });
        let mut left = bytes;
        while !left.is_empty() {
            // Piece by piece: when the connection goes meanwhile, what is counted is what was fed.
            let Some(written) = feed.writer.write(left).await.ok().filter(|written| *written > 0) else {
                // It does not read any more, so it knows why.
                let feed = self.feed.take().expect("it was there");
                ended(feed).await?;
                return Err(Error::BadStream("there are bytes after its end".to_owned()).into());
            };
            self.digest.update(&left[..written]);
            self.offset += written as u64;
            left = &left[written..];
        }
        Ok(())
    }

    /// The sender has sent all of a volume, with this digest.
    pub(crate) async fn end_volume(&mut self, digest: &Digest) -> Result<(), Problem> {
        // Before it is told that this is the end: what is not what was sent shall not even be there.
        if Digest::of(&self.digest) != *digest {
            return Err(Problem::WrongDigest);
        }
        let Some(feed) = self.feed.take() else { return Err(Error::BadStream("it is empty".to_owned()).into()) };
        ended(feed).await?;
        self.whole += 1;
        self.offset = 0;
        self.digest = Sha256::new();
        Ok(())
    }

    /// Removes what has come.
    pub(crate) async fn abandon(self, pool: &Pool, program: ProgramId) -> Result<(), Error> {
        if let Some(feed) = self.feed {
            // The stream ends without its end, and what came of it goes.
            let _ = ended(feed).await;
        }
        pool.abort_received(program, self.begin.snapshot).await
    }
}

/// Tells that no more bytes come, and waits for what becomes of them.
async fn ended(feed: Feed) -> Result<(), Error> {
    drop(feed.writer);
    let received = feed.received.await;
    received.map_err(|e| Error::Io("take in a volume".to_owned(), std::io::Error::other(e)))?.map(|_| ())
}
