//! What the parts of the API share.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::api::{Passage, Room};
use crate::archive::Archive;
use crate::clock::{micros, now_us};
use crate::files::{Files, StagedFile};
use crate::leadership::Leadership;
use crate::pipeline::{Context, Pipeline};
use crate::store::{Db, Store, Stored};

/// The running node, as the API sees it.
#[derive(Clone)]
pub(crate) struct Node {
    /// Everything that is kept, and the settings.
    pub context: Arc<Context>,
    /// Whether this process decides what becomes of them.
    pub leadership: Leadership,
    /// The way to the process that does.
    pub passage: Passage,
    /// Where messages go.
    pub pipeline: Pipeline,
    /// The snapshot sets of programs.
    pub archive: Arc<Archive>,
    /// Who may send messages.
    pub admission: Arc<Admission>,
    /// Room for large bodies.
    pub room: Room,
    /// Uploads that may start.
    pub uploads: Arc<Semaphore>,
    /// WebSocket streams that may open.
    pub streams: Arc<Semaphore>,
    /// WebSocket streams that are open; they outlive the requests that opened them.
    pub open_streams: TaskTracker,
    /// Asks streams to end.
    pub shutdown: CancellationToken,
}

impl Node {
    /// A connection for reading.
    pub(crate) async fn db(&self) -> Stored<sqlx::pool::PoolConnection<Db>> {
        self.context.store.read().await
    }

    /// The database.
    pub(crate) fn store(&self) -> &Store {
        &self.context.store
    }

    /// The file store.
    pub(crate) fn files(&self) -> &Files {
        &self.context.files
    }

    /// Makes a file known. It is kept for the grace time at least, and messages that waited for it are tried again.
    ///
    /// # Errors
    /// When the file store or the database fails.
    pub(crate) async fn publish(&self, file: StagedFile) -> Stored<()> {
        let (names, bytes) = (file.all_names(), file.bytes());
        let keep_until_us = now_us() + micros(self.context.timing.file_grace);
        self.files().publish(file, self.store(), keep_until_us).await?;
        self.context.metrics.uploaded_bytes.increment(bytes);
        self.pipeline.file_arrived(&names);
        Ok(())
    }
}
