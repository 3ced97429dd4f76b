//! The task that owns the core: takes events in, one after the other, and carries out what the core asks for.
//!
//! It waits for nobody: writes go to a queue whose answers come back as events, frames go to the queues of connections, and a
//! connection that does not take them is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::Utf8Bytes;
use chrono::{DateTime, Utc};
use lease::clock;
use protocol::api::scheduler::SchedulerEvent;
use protocol::control::FromScheduler;
use protocol::operation::Operation;
use protocol::{Address, NodeId};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::core::moves::Objection;
use crate::core::{Command, ConnectionId, Event, Notice, Restored, Scheduler, Write};
use crate::metrics::Metrics;
use crate::notices::{log, scheduler_event};
use crate::snapshot::Snapshot;

/// Events that wait at most; whoever has more waits.
pub(crate) const INBOX: usize = 1024;
/// Events that are taken in before the snapshot is published.
const MAX_BATCH: usize = 256;
/// How long news that nobody waits for, as the time of the last report, may be held back.
const QUIET: Duration = Duration::from_millis(500);

/// What the task is told.
#[derive(Debug)]
pub(crate) enum Input {
    /// Something happened.
    Event(Event),
    /// A node proved its key on a new connection.
    Connected {
        node: NodeId,
        connection: ConnectionId,
        account: Address,
        url: String,
        software: String,
        /// Where frames for it go. It is dropped when the node has a newer connection or does not take them.
        outbox: mpsc::Sender<FromScheduler>,
    },
    /// Answers whether an order can be carried out, and changes nothing.
    Asked(Operation, oneshot::Sender<Result<(), Objection>>),
    /// Carries out an order, which was recorded then, and answers whether that was possible.
    Ordered(Operation, Address, DateTime<Utc>, oneshot::Sender<Result<(), Objection>>),
    /// Answers when everything before it is in the snapshot.
    Barrier(oneshot::Sender<()>),
}

/// See the module.
pub(crate) struct Engine {
    core: Scheduler,
    inbox: mpsc::Receiver<Input>,
    writes: mpsc::UnboundedSender<Write>,
    connections: HashMap<ConnectionId, mpsc::Sender<FromScheduler>>,
    newest: HashMap<NodeId, ConnectionId>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    published: Instant,
    events: broadcast::Sender<Utf8Bytes>,
    /// Told after the snapshot that shows them.
    pending: Vec<SchedulerEvent>,
    barriers: Vec<oneshot::Sender<()>>,
    metrics: Arc<Metrics>,
}

impl Engine {
    /// A task around a core that was not told anything yet.
    pub(crate) fn new(
        core: Scheduler,
        inbox: mpsc::Receiver<Input>,
        writes: mpsc::UnboundedSender<Write>,
        snapshot: watch::Sender<Arc<Snapshot>>,
        events: broadcast::Sender<Utf8Bytes>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            core,
            inbox,
            writes,
            connections: HashMap::new(),
            newest: HashMap::new(),
            snapshot,
            published: Instant::now(),
            events,
            pending: Vec::new(),
            barriers: Vec::new(),
            metrics,
        }
    }

    /// Runs until the shutdown.
    pub(crate) async fn run(mut self, restored: Restored, shutdown: CancellationToken) {
        self.handle(Event::Restored(Box::new(restored)));
        self.publish();
        let mut batch = Vec::new();
        loop {
            let wakeup = self.core.next_wakeup().map(|at| clock::now().until(at));
            tokio::select! {
                () = shutdown.cancelled() => return,
                received = self.inbox.recv_many(&mut batch, MAX_BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
                () = tokio::time::sleep(wakeup.unwrap_or_default()), if wakeup.is_some() => self.handle(Event::Tick),
            }
            for input in batch.drain(..) {
                self.take_in(input);
            }
            if self.core.has_loud_changes() || !self.barriers.is_empty() || self.published.elapsed() >= QUIET {
                self.publish();
            }
            for event in self.pending.drain(..) {
                let text = serde_json::to_string(&event).expect("events are JSON");
                // An error means that nobody listens.
                let _ = self.events.send(text.into());
            }
        }
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Event(event) => {
                match &event {
                    Event::NodeDisconnected { node, connection } => self.forget(*node, *connection),
                    Event::Heartbeat { .. } => self.metrics.heartbeats.increment(1),
                    _ => {}
                }
                self.handle(event);
            }
            Input::Connected { node, connection, account, url, software, outbox } => {
                if let Some(older) = self.newest.insert(node, connection) {
                    self.connections.remove(&older);
                }
                self.connections.insert(connection, outbox);
                self.handle(Event::NodeConnected { node, connection, account, url, software });
            }
            Input::Asked(operation, answer) => {
                // An error means that whoever asked has gone.
                let _ = answer.send(self.core.objection(&operation).map_or(Ok(()), Err));
            }
            Input::Ordered(operation, by, at, answer) => {
                let _ = answer.send(self.core.objection(&operation).map_or(Ok(()), Err));
                self.handle(Event::Ordered { operation, by, at });
            }
            Input::Barrier(answer) => self.barriers.push(answer),
        }
    }

    fn handle(&mut self, event: Event) {
        for command in self.core.handle(clock::now(), Utc::now(), event) {
            match command {
                // An error means that the scheduler is stopping.
                Command::Store(write) => drop(self.writes.send(write)),
                Command::Send { connection, frame } => self.send(connection, frame),
                Command::Notice(notice) => self.notice(&notice),
            }
        }
    }

    fn send(&mut self, connection: ConnectionId, frame: FromScheduler) {
        let taken = self.connections.get(&connection).map(|outbox| outbox.try_send(frame));
        if let Some(Err(error)) = taken {
            tracing::warn!(connection = connection.0, %error, "a node does not take its frames; its connection is dropped");
            self.connections.remove(&connection);
        }
    }

    fn notice(&mut self, notice: &Notice) {
        match notice {
            Notice::Assigned { waited: Some(waited), again, .. } => {
                self.metrics.assignments.increment(1);
                self.metrics.reallocations.increment(u64::from(*again));
                self.metrics.placement_seconds.record(*waited);
            }
            Notice::Ended { cause, .. } => self.metrics.ended(*cause),
            Notice::MoveOver { end, .. } => self.metrics.moved(end.outcome),
            Notice::DataLost { .. } => self.metrics.data_losses.increment(1),
            _ => {}
        }
        log(notice);
        self.pending.extend(scheduler_event(notice));
    }

    fn forget(&mut self, node: NodeId, connection: ConnectionId) {
        self.connections.remove(&connection);
        if self.newest.get(&node) == Some(&connection) {
            self.newest.remove(&node);
        }
    }

    fn publish(&mut self) {
        let mut next = Snapshot::clone(&self.snapshot.borrow());
        next.update(&mut self.core);
        self.snapshot.send_replace(Arc::new(next));
        self.published = Instant::now();
        for barrier in self.barriers.drain(..) {
            // An error means that whoever waited has gone.
            let _ = barrier.send(());
        }
    }
}
