//! A term as the leader: everything that decides, from the moment at which the database was read until the end.

use std::sync::Arc;

use protocol::client::MessageNode;
use protocol::control::random_nonce;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, Api};
use crate::control::Control;
use crate::core::{Policy, Scheduler};
use crate::engine::{Engine, INBOX, Input};
use crate::error::RunError;
use crate::follow::Following;
use crate::follow::nodes::Nodes;
use crate::follow::programs::Programs;
use crate::server::{Seat, drain};
use crate::snapshot::Snapshot;
use crate::store::{Led, writer};

/// See the module.
pub(crate) struct Term {
    engine: mpsc::Sender<Input>,
    tasks: JoinSet<()>,
    writer: JoinHandle<()>,
    sockets: TaskTracker,
    end: CancellationToken,
    stop: CancellationToken,
}

impl Term {
    /// Reads the database and starts everything. It lasts until `end`. Nodes are let in once `leads` says so: at once for a
    /// scheduler alone.
    pub(crate) async fn new(
        seat: &Seat,
        led: Led,
        leads: watch::Sender<bool>,
        end: &CancellationToken,
    ) -> Result<Self, RunError> {
        let (config, metrics) = (&seat.config, seat.metrics.clone());
        let restored = led.restore(seat.times.longest_wait()).await;
        let restored = restored.map_err(|e| RunError::database(&config.database, &e))?;
        tracing::info!(
            programs = restored.programs.len(),
            assignments = restored.assignments.len(),
            "read the database"
        );
        let (inbox, events_in) = mpsc::channel(INBOX);
        let (writes, writes_in) = mpsc::unbounded_channel();
        let (snapshot, snapshots) = watch::channel(Arc::new(Snapshot::default()));
        let (following, following_in) = watch::channel(Following::default());
        let events = broadcast::Sender::new(api::QUEUE);
        let client = MessageNode::new(config.message_node.as_str());
        let (nodes, node_list) = Nodes::new(client.clone(), inbox.clone(), snapshots.clone());
        let known = (restored.known(), restored.unread());
        let programs = Programs::new(client.clone(), inbox.clone(), known, following, node_list.clone(), config.resync);
        let policy = Policy { restore_after: config.restore_after, ..Policy::default() };
        let core = Scheduler::new(seat.times, policy, random_nonce());
        let engine = Engine::new(core, events_in, writes, snapshot, events.clone(), metrics.clone());
        let control = Control::new(
            seat.account.clone(),
            seat.times,
            inbox.clone(),
            snapshots.clone(),
            node_list,
            leads.subscribe(),
            metrics.clone(),
        );
        let stop = end.child_token();
        let api = Api {
            snapshots,
            events,
            following: following_in,
            database: seat.database.subscribe(),
            store: seat.store.clone(),
            led: led.clone(),
            engine: inbox.clone(),
            operators: config.operators.clone().into(),
            control: Arc::new(control),
            messages: client,
            gateway: config.gateway_url.as_deref().map(Into::into),
            metrics: metrics.clone(),
            streams: Arc::new(Semaphore::new(api::MAX_STREAMS)),
            sockets: TaskTracker::new(),
            shutdown: stop.clone(),
        };
        let sockets = api.sockets.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(engine.run(restored, stop.clone()));
        tasks.spawn(programs.run(stop.clone()));
        tasks.spawn(nodes.run(stop.clone()));
        let writer =
            tokio::spawn(writer::run(led, writes_in, inbox.clone(), seat.database.clone(), end.clone(), metrics));
        drop(seat.front.send_replace(api::router(api)));
        Ok(Self { engine: inbox, tasks, writer, sockets, end: end.clone(), stop })
    }

    /// Where the core is told something.
    pub(crate) fn engine(&self) -> mpsc::Sender<Input> {
        self.engine.clone()
    }

    /// Runs until the end of the term, then writes what is left to write.
    ///
    /// # Errors
    /// [`RunError::Ended`] when a part ends before.
    pub(crate) async fn run(&mut self) -> Result<(), RunError> {
        // Every task runs until it is told to stop: one that ends before has failed, and the log says how.
        let _ = self.tasks.join_next().await;
        let failed = !self.end.is_cancelled();
        self.stop.cancel();
        self.end.cancel();
        drain(&self.sockets).await;
        while self.tasks.join_next().await.is_some() {}
        // The engine has gone, and with it the queue: what is in it is written now.
        let written = (&mut self.writer).await.is_ok();
        if failed || !written {
            return Err(RunError::Ended("a task of the scheduler"));
        }
        Ok(())
    }
}
