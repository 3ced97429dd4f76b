//! The control protocol's end at the scheduler: one connection a node. See [`protocol::control`] for the frames.
//!
//! ```text
//!   open ──challenge──▶ Handshake ──hello of a registered node──▶ Connected ──silent, replaced, broken, shutdown──▶ ended
//!                           └──no hello in time, wrong key──▶ rejected
//! ```

mod handshake;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use lease::LeaseTimes;
use protocol::control::{FromNode, FromScheduler};
use protocol::history::Statement;
use protocol::{Account, Address, NodeId};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::core::{ConnectionId, Event};
use crate::engine::Input;
use crate::follow::nodes::NodeList;
use crate::metrics::Metrics;
use crate::snapshot::Snapshots;

/// The largest frame that a node may send: reports of some ten thousand programs.
pub(crate) const MAX_FRAME_BYTES: usize = 4 << 20;
/// Frames that wait for a node at most.
const OUTBOX: usize = 64;
/// How long proving keys may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that prove their keys at the same time at most.
const MAX_HANDSHAKES: usize = 256;
/// How long a node may take to read a frame.
const SEND: Duration = Duration::from_secs(5);
/// Heartbeats that a node may send in the time of one, on average: some are due to changes.
const PACE: u32 = 10;
/// Heartbeats that it may send at once.
const BURST: u32 = 50;
/// The least time that a connection may be silent.
const LEAST_SILENCE: Duration = Duration::from_secs(10);

/// What connections share.
pub(crate) struct Control {
    account: Arc<Account>,
    times: LeaseTimes,
    engine: mpsc::Sender<Input>,
    snapshots: Snapshots,
    nodes: NodeList,
    next_connection: AtomicU64,
    handshakes: Semaphore,
    /// Whether this scheduler is sure to lead.
    leads: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the node closed it")]
    Closed,
    #[error("the node sends nothing")]
    Silent,
    #[error("the node has a newer connection, or does not take its frames")]
    Replaced,
    #[error("the scheduler is stopping")]
    Stopping,
    #[error("the scheduler is not sure to lead any more")]
    NotLeading,
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the node sent something else than expected: {0}")]
    Unexpected(String),
    #[error("{0}")]
    Rejected(String),
}

impl Control {
    /// The end of the control protocol for this scheduler.
    pub(crate) fn new(
        account: Arc<Account>,
        times: LeaseTimes,
        engine: mpsc::Sender<Input>,
        snapshots: Snapshots,
        nodes: NodeList,
        leads: watch::Receiver<bool>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            account,
            times,
            engine,
            snapshots,
            nodes,
            next_connection: AtomicU64::new(1),
            handshakes: Semaphore::new(MAX_HANDSHAKES),
            leads,
            metrics,
        }
    }

    /// Who signs for the scheduler.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Whether nodes may be connected.
    pub(crate) fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// Waits until that is not so.
    async fn deposed(&self) {
        // An error means that nobody can depose it any more.
        if self.leads.clone().wait_for(|leads| !leads).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Serves a connection until it ends.
    pub(crate) async fn serve(&self, mut socket: WebSocket, shutdown: CancellationToken) {
        let end = tokio::select! {
            end = self.session(&mut socket) => end,
            () = shutdown.cancelled() => End::Stopping,
            () = self.deposed() => End::NotLeading,
        };
        tracing::debug!(%end, "a node's connection ended");
        let code = match &end {
            End::Stopping | End::NotLeading => close_code::AWAY,
            End::Rejected(_) | End::Unexpected(_) => close_code::POLICY,
            _ => close_code::NORMAL,
        };
        let close = Message::Close(Some(CloseFrame { code, reason: "".into() }));
        // An error means that the node has gone.
        let _ = timeout(SEND, socket.send(close)).await;
    }

    async fn session(&self, socket: &mut WebSocket) -> End {
        let greeted = match self.handshakes.try_acquire() {
            Ok(_permit) => timeout(HANDSHAKE, self.greet(socket)).await.unwrap_or(Err(End::Silent)),
            Err(_) => Err(End::Rejected("too many nodes connect at the same time; try again".to_owned())),
        };
        match greeted {
            Ok((hello, signer)) => self.converse(socket, hello, signer).await,
            Err(end) => {
                if let End::Rejected(reason) = &end {
                    self.metrics.rejected.increment(1);
                    tracing::warn!(reason, "a node was turned away");
                    let _ = send(socket, &FromScheduler::Rejected { reason: reason.clone() }).await;
                }
                end
            }
        }
    }

    async fn converse(&self, socket: &mut WebSocket, hello: protocol::control::Hello, signer: Address) -> End {
        let connection = ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed));
        let (outbox, mut frames) = mpsc::channel(OUTBOX);
        let node = hello.node;
        tracing::info!(%node, url = hello.url, software = hello.software, "the node connected");
        self.metrics.connections.increment(1.0);
        let (account, url, software) = (signer.clone(), hello.url, hello.software);
        let connected = Input::Connected { node, connection, account, url, software, outbox };
        let end = match self.tell(connected).await {
            Ok(()) => self.exchange(socket, (node, &signer), connection, &mut frames).await,
            Err(end) => end,
        };
        self.metrics.connections.decrement(1.0);
        // Not telling means that the scheduler is stopping.
        let _ = self.tell(Input::Event(Event::NodeDisconnected { node, connection })).await;
        tracing::info!(%node, %end, "the node disconnected; its leases go on");
        end
    }

    /// Passes heartbeats in and grants out.
    async fn exchange(
        &self,
        socket: &mut WebSocket,
        (node, signer): (NodeId, &Address),
        connection: ConnectionId,
        frames: &mut mpsc::Receiver<FromScheduler>,
    ) -> End {
        let silence = (self.times.longest_wait() * 2).max(LEAST_SILENCE);
        let pace = self.times.heartbeat() / PACE;
        let mut heard = Instant::now();
        // When the heartbeats so far would have been sent by a node that keeps the pace.
        let mut paced = heard;
        loop {
            let not_before = paced.checked_sub(pace * BURST).unwrap_or(heard);
            let done = tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => send(socket, &frame).await,
                    None => Err(End::Replaced),
                },
                received = async { sleep_until(not_before).await; socket.recv().await } => match read(received) {
                    Ok(Some(FromNode::Heartbeat(heartbeat))) => {
                        heard = Instant::now();
                        paced = paced.max(heard) + pace;
                        self.tell(Input::Event(Event::Heartbeat { node, connection, heartbeat })).await
                    }
                    Ok(Some(FromNode::Statements { statements })) => {
                        paced = paced.max(Instant::now()) + pace;
                        self.pass_on(node, signer, statements).await
                    }
                    Ok(Some(FromNode::Hello(_))) => Err(End::Unexpected("a second hello".to_owned())),
                    Ok(None) => Ok(()),
                    Err(end) => Err(end),
                },
                () = sleep_until(heard + silence) => Err(End::Silent),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// Passes on what the node itself signed about itself.
    async fn pass_on(&self, node: NodeId, signer: &Address, statements: Vec<Statement>) -> Result<(), End> {
        for statement in statements {
            if statement.node != node || statement.signer().as_ref() != Ok(signer) {
                return Err(End::Unexpected("a statement that is not signed by the node".to_owned()));
            }
            self.tell(Input::Event(Event::Stated(statement))).await?;
        }
        Ok(())
    }

    async fn tell(&self, input: Input) -> Result<(), End> {
        self.engine.send(input).await.map_err(|_| End::Stopping)
    }
}

/// A frame, or `None` for those without meaning.
fn read(received: Option<Result<Message, axum::Error>>) -> Result<Option<FromNode>, End> {
    match received {
        None | Some(Ok(Message::Close(_))) => Err(End::Closed),
        Some(Err(error)) => Err(End::Broken(error.to_string())),
        Some(Ok(Message::Text(text))) => {
            serde_json::from_str(&text).map(Some).map_err(|e| End::Unexpected(e.to_string()))
        }
        Some(Ok(Message::Binary(_))) => Err(End::Unexpected("a binary frame".to_owned())),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
    }
}

async fn send(socket: &mut WebSocket, frame: &FromScheduler) -> Result<(), End> {
    let text = serde_json::to_string(frame).expect("frames are JSON");
    match timeout(SEND, socket.send(Message::Text(text.into()))).await {
        Ok(sent) => sent.map_err(|e| End::Broken(e.to_string())),
        Err(_) => Err(End::Broken("the node does not read".to_owned())),
    }
}
