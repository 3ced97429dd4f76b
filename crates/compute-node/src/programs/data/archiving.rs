//! Volumes with the persistence `store` are sent to the message node's archive: every while a snapshot set, if something
//! has changed.
//!
//! One task for each program that is live on this node. The set is taken of all volumes at one point, by the program's
//! replicator, which is the one giver of names; only the streams of the `store` volumes are sent. The newest archived set
//! is held in the pool, so that the next one is a difference from it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use futures_util::{Stream, StreamExt};
use lease::{BootTime, clock};
use protocol::api::archive::{ArchiveList, SetDraft, StreamFormat, VolumeDraft};
use protocol::client::{Archive, ArchiveError, packing};
use protocol::data::SnapshotId;
use protocol::message::place_volumes;
use protocol::{Epoch, ProgramId};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use volumes::replication::{Bandwidth, ReplicationError};
use volumes::{Hold, NameTooLong, Pool, VolumeName};

use super::locked;
use super::replicas::Replicas;
use crate::core::archive::{first_pause, left_open, parent_of, pause, point};
use crate::core::persistent::Assignment;
use crate::programs::catalog::{Catalog, Lookup};

/// How many programs are archived at once: the message node takes 8 streams, of all nodes together.
const AT_ONCE: usize = 2;

/// Why a set could not be archived.
#[derive(Debug, thiserror::Error)]
enum ArchivingError {
    #[error("what its volumes are cannot be said: {0}")]
    Message(String),
    #[error(transparent)]
    Name(#[from] NameTooLong),
    #[error(transparent)]
    Pool(#[from] volumes::Error),
    #[error(transparent)]
    Snapshot(#[from] ReplicationError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// The archive as this node uses it; clones are the same.
#[derive(Clone)]
pub(super) struct Archives {
    pub(super) pool: Pool,
    pub(super) archive: Archive,
    catalog: Arc<Catalog>,
    replicas: Arc<Replicas>,
    interval: Duration,
    bandwidth: Bandwidth,
    turns: Arc<Semaphore>,
    running: Arc<Mutex<HashMap<ProgramId, Running>>>,
}

/// A program that is archived.
struct Running {
    epoch: Epoch,
    progress: Arc<Progress>,
    _task: AbortOnDropHandle<()>,
}

/// How far it is.
#[derive(Default)]
struct Progress {
    /// Everything that was written before this is in the archive.
    covered: Mutex<Option<BootTime>>,
    bytes: AtomicU64,
    problem: Mutex<Option<String>>,
}

/// How the archiving of a program is doing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ArchiveStatus {
    pub(crate) program: ProgramId,
    /// Only what was written within this time may be missing in the archive; `None` while nothing is there.
    pub(crate) age: Option<Duration>,
    /// Bytes that were sent since the start, compressed.
    pub(crate) bytes: u64,
}

impl Archives {
    pub(super) fn new(
        pool: Pool,
        archive: Archive,
        catalog: Arc<Catalog>,
        replicas: Arc<Replicas>,
        interval: Duration,
    ) -> Self {
        let (bandwidth, turns) = (replicas.bandwidth(), Arc::new(Semaphore::new(AT_ONCE)));
        Self { pool, archive, catalog, replicas, interval, bandwidth, turns, running: Arc::default() }
    }

    /// Archives this program from now on, if it has volumes for it and is not archived already.
    pub(super) async fn start(&self, assignment: Assignment) -> Result<(), volumes::Error> {
        let Assignment { program, epoch } = assignment;
        if locked(&self.running).get(&program).is_some_and(|running| running.epoch == epoch) {
            return Ok(());
        }
        // Before the replicator removes what it does not need: one of them may be what the archive has.
        let mut held = Vec::new();
        for set in self.pool.snapshots(program).await? {
            held.extend(self.pool.hold(program, set.id).await.ok());
        }
        let progress = Arc::new(Progress::default());
        let task = Task { archives: self.clone(), assignment, progress: progress.clone(), held, archived: None };
        let task = AbortOnDropHandle::new(tokio::spawn(task.run()));
        locked(&self.running).insert(program, Running { epoch, progress, _task: task });
        Ok(())
    }

    /// Stops archiving what is not this node's any more.
    pub(super) fn keep(&self, is_live: impl Fn(ProgramId, Epoch) -> bool) {
        locked(&self.running).retain(|program, running| is_live(*program, running.epoch));
    }

    pub(super) fn statuses(&self) -> Vec<ArchiveStatus> {
        let (running, now) = (locked(&self.running), clock::now());
        let archived = running.iter().filter_map(|(program, running)| {
            let (covered, bytes) = (*locked(&running.progress.covered), running.progress.bytes.load(Ordering::Relaxed));
            let status = ArchiveStatus { program: *program, age: covered.map(|covered| now.since(covered)), bytes };
            (covered.is_some() || locked(&running.progress.problem).is_some()).then_some(status)
        });
        archived.collect()
    }

    /// The program's volumes that are archived, as its message has them.
    async fn volumes_of(&self, program: ProgramId) -> Result<Vec<VolumeDraft>, ArchivingError> {
        match self.catalog.lookup(program).await {
            Ok(Lookup::Found(found)) => {
                let placed = place_volumes(&found.content.volumes);
                Ok(VolumeDraft::archived(&placed.map_err(|e| ArchivingError::Message(e.to_string()))?))
            }
            Ok(other) => Err(ArchivingError::Message(format!("its message is not in force ({other:?})"))),
            Err(error) => Err(ArchivingError::Message(error.to_string())),
        }
    }
}

/// The archiving of one program.
struct Task {
    archives: Archives,
    assignment: Assignment,
    progress: Arc<Progress>,
    /// What the next set may be a difference from.
    held: Vec<Hold>,
    /// The newest set in the archive, when it is here.
    archived: Option<SnapshotId>,
}

impl Task {
    async fn run(mut self) {
        let Assignment { program, epoch } = self.assignment;
        let interval = self.archives.interval;
        let (mut failures, mut wait) = (0, first_pause(interval));
        loop {
            let result = match self.archives.volumes_of(program).await {
                // Nothing of it is archived: what it held goes.
                Ok(volumes) if volumes.is_empty() => return,
                Ok(volumes) => {
                    tokio::time::sleep(wait).await;
                    self.round(volumes).await
                }
                Err(error) => {
                    tokio::time::sleep(wait).await;
                    Err(error)
                }
            };
            let problem = result.err().map(|error| error.to_string());
            failures = if problem.is_some() { failures + 1 } else { 0 };
            wait = pause(interval, failures);
            let before = std::mem::replace(&mut *locked(&self.progress.problem), problem.clone());
            if let Some(error) = problem.as_ref().filter(|_| before != problem) {
                warn!(%program, %epoch, %error, "its volumes are not archived, trying again");
            }
        }
    }

    /// Archives what has changed, if anything has.
    async fn round(&mut self, volumes: Vec<VolumeDraft>) -> Result<(), ArchivingError> {
        if self.is_unchanged().await? {
            return Ok(());
        }
        let turns = self.archives.turns.clone();
        let _turn = turns.acquire().await.expect("it is never closed");
        let Assignment { program, epoch } = self.assignment;
        let Archives { pool, archive, replicas, .. } = self.archives.clone();
        let list = archive.list(&program).await?;
        self.take_note_of(&list).await;
        if self.is_unchanged().await? {
            return Ok(());
        }
        self.drop_what_is_open(&list).await?;
        let begun = clock::now();
        let id = replicas.snapshot(program, epoch).await?;
        self.held.push(pool.hold(program, id).await?);
        let sets = pool.snapshots(program).await?;
        let taken = sets.iter().find(|set| set.id == id).map_or_else(Utc::now, |set| set.taken);
        let parent = parent_of(id, list.next, self.held.iter().map(Hold::id));
        self.send(SetDraft { id, parent, taken, format: StreamFormat::BtrfsZstd, volumes }).await?;
        self.held.retain(|hold| hold.id() == id);
        self.archived = Some(id);
        *locked(&self.progress.covered) = Some(begun);
        info!(%program, snapshot = %id, full = parent.is_none(), "archived a snapshot");
        Ok(())
    }

    /// Whether everything that was written is in the archive.
    async fn is_unchanged(&mut self) -> Result<bool, ArchivingError> {
        let Some(archived) = self.archived else { return Ok(false) };
        let (program, now) = (self.assignment.program, clock::now());
        if self.archives.pool.changed_since(program, archived).await? {
            return Ok(false);
        }
        *locked(&self.progress.covered) = Some(now);
        Ok(true)
    }

    /// What the archive has: only its newest set is a point to go on from.
    async fn take_note_of(&mut self, list: &ArchiveList) {
        let newest = point(list).map(|set| (set.id, set.taken));
        let id = newest.map(|(id, _)| id);
        self.held.retain(|hold| Some(hold.id()) == id);
        if let Some(id) = id.filter(|_| self.held.is_empty()) {
            self.held.extend(self.archives.pool.hold(self.assignment.program, id).await.ok());
        }
        self.archived = self.held.first().map(Hold::id);
        if let Some((_, taken)) = newest {
            let age = (Utc::now() - taken).to_std().unwrap_or_default();
            let now = clock::now();
            let since = if age.as_nanos() < u128::from(now.as_nanos()) { now - age } else { BootTime::BOOT };
            locked(&self.progress.covered).get_or_insert(since);
        }
    }

    /// What was begun and never became complete would take the place of what comes.
    async fn drop_what_is_open(&self, list: &ArchiveList) -> Result<(), ArchivingError> {
        let Assignment { program, epoch } = self.assignment;
        for id in left_open(list, epoch) {
            self.archives.archive.delete(&program, epoch, id).await?;
        }
        Ok(())
    }

    async fn send(&self, draft: SetDraft) -> Result<(), ArchivingError> {
        let program = self.assignment.program;
        let Archives { pool, archive, .. } = &self.archives;
        archive.begin(&program, &draft).await?;
        let mut streams = Vec::new();
        for volume in &draft.volumes {
            let name = VolumeName::new(volume.name.as_str())?;
            let stream = pool.send(program, draft.id, &name, draft.parent).await?;
            let packed = counted(packing::pack(stream), self.archives.bandwidth.clone(), self.progress.clone());
            streams.push(archive.send(&program, draft.id, &volume.name, packed).await?);
        }
        archive.complete(&program, draft.id, streams).await?;
        Ok(())
    }
}

/// Counts what is sent, and sends not faster than the node may.
fn counted(
    packed: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    bandwidth: Bandwidth,
    progress: Arc<Progress>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    packed.then(move |piece| {
        let (bandwidth, progress) = (bandwidth.clone(), progress.clone());
        async move {
            if let Ok(piece) = &piece {
                bandwidth.take(piece.len()).await;
                progress.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            piece
        }
    })
}
