//! Who may run programs: the `corechannel` aggregate, read from time to time and when something says that it changed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use protocol::NodeId;
use protocol::client::{ClientError, MessageNode, Pauses};
use protocol::network::{CORECHANNEL_ADDRESS, CORECHANNEL_KEY, CoreChannel, ResourceNode};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::{Event, Registration};
use crate::engine::Input;
use crate::snapshot::Snapshots;

/// How often the list is read.
const POLL: Duration = Duration::from_secs(10);
/// How often it is read at most, however many ask.
const LEAST: Duration = Duration::from_millis(100);
/// How often it is asked whether nodes that are not listed any more have left.
const ASK_ABOUT_MISSING: Duration = Duration::from_secs(30);
/// Those who wait for the next reading at most.
const MAX_WAITING: usize = 256;

/// Where others ask for the list to be read now.
#[derive(Debug, Clone)]
pub(crate) struct NodeList {
    changed: Arc<Notify>,
    requests: mpsc::Sender<oneshot::Sender<()>>,
}

impl NodeList {
    /// Something says that the list changed.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }

    /// Reads the list again and returns when the snapshot shows it, or when it cannot be read.
    pub(crate) async fn refresh(&self) {
        let (done, wait) = oneshot::channel();
        // An error means that too many wait already, or that the scheduler is stopping.
        if self.requests.try_send(done).is_ok() {
            let _ = wait.await;
        }
    }
}

/// Follows the nodes.
pub(crate) struct Nodes {
    client: MessageNode,
    engine: mpsc::Sender<Input>,
    snapshots: Snapshots,
    changed: Arc<Notify>,
    requests: mpsc::Receiver<oneshot::Sender<()>>,
    last_asked: Option<Instant>,
}

impl Nodes {
    /// A follower, and where to ask it.
    pub(crate) fn new(client: MessageNode, engine: mpsc::Sender<Input>, snapshots: Snapshots) -> (Self, NodeList) {
        let changed = Arc::new(Notify::new());
        let (sender, requests) = mpsc::channel(MAX_WAITING);
        let list = NodeList { changed: changed.clone(), requests: sender };
        (Self { client, engine, snapshots, changed, requests, last_asked: None }, list)
    }

    /// Follows until the shutdown.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut pauses = Pauses::default();
        let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
        loop {
            let began = Instant::now();
            let Some(read) = shutdown.run_until_cancelled(self.read()).await else { return };
            let pause = match read {
                Ok(()) => {
                    pauses.reset();
                    POLL
                }
                Err(error) => {
                    tracing::debug!(%error, "the list of nodes cannot be read; what is known stays, and it is tried again");
                    pauses.next_pause()
                }
            };
            for done in waiting.drain(..) {
                // An error means that whoever asked has gone.
                let _ = done.send(());
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed.notified() => {}
                _ = self.requests.recv_many(&mut waiting, MAX_WAITING) => {}
                () = tokio::time::sleep_until(began + pause) => {}
            }
            tokio::time::sleep_until(began + LEAST).await;
        }
    }

    /// Reads the list; returns when the snapshot shows it.
    async fn read(&mut self) -> Result<(), ClientError> {
        let Some(list) = self.client.aggregate::<CoreChannel>(CORECHANNEL_ADDRESS, CORECHANNEL_KEY).await? else {
            // Not known is not empty.
            return Ok(());
        };
        let listed: BTreeSet<NodeId> = list.resource_nodes.iter().map(|node| node.hash).collect();
        self.tell(Event::NodesListed(list.resource_nodes.into_iter().map(registration).collect())).await;
        self.ask_about_missing(&listed).await?;
        let (done, wait) = oneshot::channel();
        let _ = self.engine.send(Input::Barrier(done)).await;
        let _ = wait.await;
        Ok(())
    }

    /// A node that is not listed any more may have left. Only when the message that registered it is not in force it has.
    async fn ask_about_missing(&mut self, listed: &BTreeSet<NodeId>) -> Result<(), ClientError> {
        let missing: Vec<NodeId> = {
            let snapshot = self.snapshots.borrow();
            let missing = snapshot.nodes.iter().filter(|(id, node)| !listed.contains(id) && !node.is_gone);
            missing.map(|(id, _)| *id).collect()
        };
        if missing.is_empty() || self.last_asked.is_some_and(|last| last.elapsed() < ASK_ABOUT_MISSING) {
            return Ok(());
        }
        self.last_asked = Some(Instant::now());
        for node in missing {
            let answer = self.client.message(&node.to_string()).await?;
            if answer.is_some_and(|message| message.status.is_over()) {
                tracing::info!(%node, "the node left the network");
                self.tell(Event::NodeGone { node }).await;
            }
        }
        Ok(())
    }

    async fn tell(&self, event: Event) {
        // An error means that the scheduler is stopping.
        let _ = self.engine.send(Input::Event(event)).await;
    }
}

fn registration(node: ResourceNode) -> Registration {
    let ResourceNode { hash, name, owner, address, manager, .. } = node;
    Registration { node: hash, name, owner, manager, address, url: None }
}
