//! Nodes with pools, and a cable between them that can be cut and disturbed.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use lease::clock;
use protocol::data::Peer;
use protocol::{Account, NodeId};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::task::AbortHandle;
use volumes::Pool;
use volumes::core::snapshot::SnapshotId;
use volumes::replication::core::Pace;
use volumes::replication::{Bandwidth, Dial, ReceiveLimits, Receiver, Replicator, Source, Status, Stream};

use crate::support::*;

/// A node with its pool.
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) pool: Pool,
    pub(crate) account: Arc<Account>,
    pub(crate) id: NodeId,
    pub(crate) receiver: Receiver,
}

impl Node {
    pub(crate) async fn new(number: u8) -> Self {
        let (place, pool) = pool().await;
        let (account, id) = (Arc::new(Account::generate()), NodeId::from_bytes([number; 32]));
        let receiver = Receiver::new(pool.clone(), account.clone(), id, ReceiveLimits::default());
        Self { place, pool, account, id, receiver }
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer { node: self.id, url: "http://nowhere".to_owned(), account: self.account.address().clone() }
    }

    pub(crate) fn source(&self, epoch_number: u64, cable: &Arc<Cable>) -> Source {
        Source {
            pool: self.pool.clone(),
            account: self.account.clone(),
            node: self.id,
            program: PROGRAM,
            epoch: epoch(epoch_number),
            unconfirmed_since: Some(clock::now()),
            freeze: Arc::new(|| Box::pin(async { Ok(Box::new(()) as Box<dyn Send>) })),
            dial: cable.dial(),
            pace: Pace { interval: Duration::from_millis(50), ..Pace::default() },
            bandwidth: Bandwidth::new(None),
        }
    }

    /// A volume is live here in the first epoch, with this much noise in it.
    pub(crate) async fn live(&self, mib: usize) {
        self.pool.create_live(PROGRAM, epoch(1), vec![volume("data", 128)]).await.unwrap();
        write(&self.pool, "data", "big", &noise(mib * MIB)).await;
    }

    /// The newest snapshot here.
    pub(crate) async fn newest(&self) -> Option<SnapshotId> {
        self.pool.newest_snapshot(PROGRAM).await.unwrap().map(|set| set.id)
    }
}

/// Connects nodes that expect each other.
#[derive(Default)]
pub(crate) struct Cable {
    receivers: Mutex<HashMap<NodeId, Receiver>>,
    senders: Mutex<HashMap<NodeId, protocol::Address>>,
    /// Bytes that go from who dials, in all connections.
    pub(crate) bytes: AtomicU64,
    /// Where the connection is cut, once, in bytes; 0 is nowhere.
    pub(crate) cut_at: AtomicU64,
    /// Where a bit is flipped, once.
    pub(crate) flip_at: AtomicU64,
    /// Nothing gets through.
    pub(crate) down: AtomicBool,
    /// Why connections were over.
    pub(crate) ends: Mutex<Vec<String>>,
    /// Who serves connections.
    pub(crate) servers: Mutex<Vec<AbortHandle>>,
}

impl Cable {
    pub(crate) fn between(nodes: &[&Node]) -> Arc<Self> {
        let cable = Self::default();
        for node in nodes {
            cable.receivers.lock().unwrap().insert(node.id, node.receiver.clone());
            cable.senders.lock().unwrap().insert(node.id, node.account.address().clone());
        }
        Arc::new(cable)
    }

    /// Nobody expects anything of this node any more.
    pub(crate) fn forbid(&self, node: &Node) {
        self.senders.lock().unwrap().remove(&node.id);
    }

    pub(crate) fn dial(self: &Arc<Self>) -> Dial {
        let cable = self.clone();
        Arc::new(move |peer| {
            let cable = cable.clone();
            Box::pin(async move {
                if cable.down.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::HostUnreachable.into());
                }
                Ok(Box::new(cable.connect(peer.node)) as Box<dyn Stream>)
            })
        })
    }

    /// A connection to a node, which serves it.
    pub(crate) fn connect(self: &Arc<Self>, to: NodeId) -> Disturbed {
        let (here, there) = duplex(64 << 10);
        let (cable, receiver) = (self.clone(), self.receivers.lock().unwrap()[&to].clone());
        let server = tokio::spawn(async move {
            let senders = cable.clone();
            let authorise = move |_, _, node| senders.senders.lock().unwrap().get(&node).cloned();
            let end = receiver.serve(there, authorise).await;
            cable.ends.lock().unwrap().push(end.to_string());
        });
        self.servers.lock().unwrap().push(server.abort_handle());
        Disturbed { stream: here, cable: self.clone() }
    }
}

/// One end of a connection through a cable.
pub(crate) struct Disturbed {
    stream: DuplexStream,
    cable: Arc<Cable>,
}

impl AsyncRead for Disturbed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Disturbed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let cable = self.cable.clone();
        let (before, passed) = (cable.bytes.load(Ordering::Relaxed), |at: &AtomicU64| {
            let at = at.load(Ordering::Relaxed);
            at > 0 && cable.bytes.load(Ordering::Relaxed) >= at
        });
        if passed(&cable.cut_at) || cable.down.load(Ordering::Relaxed) {
            cable.cut_at.store(0, Ordering::Relaxed);
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut bytes = bytes.to_vec();
        let (flip, middle) = (passed(&cable.flip_at), bytes.len() / 2);
        if flip {
            bytes[middle] ^= 1;
        }
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes))?;
        if flip && written > middle {
            cable.flip_at.store(0, Ordering::Relaxed);
        }
        cable.bytes.store(before + written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Waits until the status is so.
pub(crate) async fn status(replicator: &Replicator, what: &str, is: impl Fn(&Status) -> bool) -> Status {
    until(what, async || is(&replicator.status())).await;
    replicator.status()
}

/// Waits for the first confirmed snapshot.
pub(crate) async fn confirmed(replicator: &Replicator) -> SnapshotId {
    status(replicator, "confirmed", |status| status.live.confirmed.is_some()).await.live.confirmed.unwrap()
}
