//! How everybody else talks to the agent.

use std::sync::{Arc, OnceLock};

use lease::{BootTime, LeaseTimes};
use protocol::control::{Failure, FailureKind, Grant, ProgramReport, SetVersion};
use protocol::{Address, NodeId, ProgramId};
use tokio::sync::{Notify, mpsc, oneshot};

use super::QUEUE;
use crate::core::on_demand::CopyId;
use crate::core::persistent::Assignment;
use crate::programs::catalog::{Change, Program};
use crate::programs::endpoint::{Endpoint, Endpoints, Stuck, Visit};

/// What the agent is asked or told.
pub(crate) enum Message {
    /// The scheduler answered a heartbeat.
    Granted { sent: BootTime, times: LeaseTimes, grant: Grant },
    /// What the next heartbeat says.
    Reports(oneshot::Sender<(Option<SetVersion>, Vec<ProgramReport>)>),
    /// A request needs a copy on demand.
    Want {
        program: ProgramId,
        owner: Address,
        /// Whether the request waits for room where all of it is in use.
        waits: bool,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    /// A program ended or has new code.
    Changed(Change),
    /// What a program wrote was brought to its standby, as far as that was possible.
    Settled(Assignment),
    /// A copy on demand was to be frozen, and is or is not.
    Froze(CopyId, bool),
    /// A copy on demand is frozen and cannot be let go on. Nobody goes in any more.
    Stuck(CopyId),
}

/// How everybody else talks to the agent.
#[derive(Clone)]
pub(crate) struct AgentHandle {
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) heartbeat_due: Arc<Notify>,
    pub(super) endpoints: Arc<Endpoints>,
    node: Arc<OnceLock<NodeId>>,
}

impl AgentHandle {
    /// A handle, and what its agent receives.
    pub(crate) fn new(endpoints: Arc<Endpoints>) -> (Self, mpsc::Receiver<Message>) {
        let (messages, receiver) = mpsc::channel(QUEUE);
        (Self { messages, heartbeat_due: Arc::default(), endpoints, node: Arc::default() }, receiver)
    }

    /// Says which node this is. It is once registered.
    pub(crate) fn introduce(&self, node: NodeId) {
        // It never gets another id.
        let _ = self.node.set(node);
    }

    /// Which node this is, if it is known yet.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.node.get().copied()
    }

    /// Passes on a grant.
    pub(crate) async fn granted(&self, sent: BootTime, times: LeaseTimes, grant: Grant) {
        let _ = self.messages.send(Message::Granted { sent, times, grant }).await;
    }

    /// What the next heartbeat says; `None` when the agent has ended.
    pub(crate) async fn reports(&self) -> Option<(Option<SetVersion>, Vec<ProgramReport>)> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Reports(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Waits until the agent has something new to say to the scheduler.
    pub(crate) async fn heartbeat_due(&self) {
        self.heartbeat_due.notified().await;
    }

    /// Goes into a program that answers on this node.
    pub(crate) async fn enter(&self, program: ProgramId) -> Option<Visit> {
        match self.endpoints.enter(program).await {
            Ok(visit) => visit,
            Err(Stuck(copy)) => {
                let _ = self.messages.send(Message::Stuck(copy)).await;
                None
            }
        }
    }

    /// Where the copies of a program answer on this node.
    pub(crate) fn endpoints(&self, program: ProgramId) -> Vec<Arc<Endpoint>> {
        self.endpoints.of(program)
    }

    /// How many copies on demand are frozen.
    pub(crate) fn frozen(&self) -> usize {
        self.endpoints.on_demand().iter().filter(|(_, endpoint)| endpoint.is_frozen()).count()
    }

    /// Goes into a copy on demand, starting it if need be. `waits` says whether for room, too, where all of it is in use.
    pub(crate) async fn enter_on_demand(&self, program: &Program, waits: bool) -> Result<Visit, Failure> {
        let ended = || Failure { kind: FailureKind::NodeFault, message: "the node is shutting down".to_owned() };
        loop {
            if let Some(visit) = self.enter(program.id).await {
                return Ok(visit);
            }
            let (reply, answer) = oneshot::channel();
            let want = Message::Want { program: program.id, owner: program.content.address.clone(), waits, reply };
            self.messages.send(want).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())??;
        }
    }

    /// Where changes of programs are told.
    pub(crate) fn changes(&self) -> mpsc::Sender<Message> {
        self.messages.clone()
    }
}
