//! What the parts of the API share.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::api::Room;
use crate::archive::Archive;
use crate::files::Files;
use crate::pipeline::{Context, Pipeline};
use crate::store::{Db, Store, Stored};

/// The running node, as the API sees it.
#[derive(Clone)]
pub(crate) struct Node {
    /// Everything that is kept, and the settings.
    pub context: Arc<Context>,
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
}
