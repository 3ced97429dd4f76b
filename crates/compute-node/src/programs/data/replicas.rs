//! The copies that this node sends, and those that it takes in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lease::BootTime;
use protocol::data::{Peer, SnapshotId};
use protocol::{Account, Address, Epoch, NodeId, ProgramId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, info, warn};
use volumes::Pool;
use volumes::replication::core::Pace;
use volumes::replication::{
    Bandwidth, Freeze, ReceiveError, ReceiveLimits, Receiver, ReplicationError, Replicator, Source, Status, Stream,
};

use super::{dial, locked};
use crate::config::DataConfig;
use crate::programs::freezer::Freezers;

/// How many connections may bring copies at once.
const MAX_INCOMING: usize = 1024;

/// See the module.
pub(super) struct Replicas {
    pool: Pool,
    account: Arc<Account>,
    node: NodeId,
    pace: Pace,
    bandwidth: Bandwidth,
    dialer: dial::Dialer,
    receiver: Receiver,
    incoming: Arc<Semaphore>,
    sent: Mutex<HashMap<ProgramId, Arc<Replica>>>,
    /// One is started at a time.
    starting: tokio::sync::Mutex<()>,
    freezers: Arc<Freezers>,
}

/// A program whose volumes are live on this node.
struct Replica {
    epoch: Epoch,
    replicator: Replicator,
    has_standby: AtomicBool,
    /// Nothing of the program runs any more.
    has_ended: AtomicBool,
}

/// How the replication of a program is doing.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaStatus {
    pub(crate) program: ProgramId,
    pub(crate) status: Status,
}

impl Replicas {
    pub(super) fn new(
        pool: Pool,
        account: Arc<Account>,
        node: NodeId,
        config: &DataConfig,
        freezers: Arc<Freezers>,
    ) -> Self {
        Self {
            receiver: Receiver::new(pool.clone(), account.clone(), node, ReceiveLimits::default()),
            pace: Pace { interval: config.snapshot_interval, ..Pace::default() },
            bandwidth: Bandwidth::new(config.bandwidth),
            dialer: dial::Dialer::new(),
            incoming: Arc::new(Semaphore::new(MAX_INCOMING)),
            sent: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            freezers,
            pool,
            account,
            node,
        }
    }

    /// Sends this program's volumes from now on, if it does not already. `since` is when they became live, if that is known.
    pub(super) async fn start(
        &self,
        program: ProgramId,
        epoch: Epoch,
        since: Option<BootTime>,
    ) -> Result<(), volumes::Error> {
        let _one = self.starting.lock().await;
        if self.replica(program, epoch).is_some() {
            return Ok(());
        }
        let source = Source {
            pool: self.pool.clone(),
            account: self.account.clone(),
            node: self.node,
            program,
            epoch,
            unconfirmed_since: since,
            freeze: self.freeze(program, epoch),
            dial: self.dialer.dial(),
            pace: self.pace,
            bandwidth: self.bandwidth.clone(),
        };
        let replicator = Replicator::start(source).await?;
        let replica =
            Replica { epoch, replicator, has_standby: AtomicBool::default(), has_ended: AtomicBool::default() };
        locked(&self.sent).insert(program, Arc::new(replica));
        Ok(())
    }

    fn freeze(&self, program: ProgramId, epoch: Epoch) -> Freeze {
        let freezers = self.freezers.clone();
        Arc::new(move || {
            let freezers = freezers.clone();
            Box::pin(async move {
                let frozen = freezers.freeze(program, epoch).await?;
                Ok(Box::new(frozen) as Box<dyn Send>)
            })
        })
    }

    /// Names who keeps copies.
    pub(super) async fn set_standby(&self, program: ProgramId, standby: Option<Peer>) {
        let replica = locked(&self.sent).get(&program).cloned();
        if let Some(replica) = replica {
            replica.has_standby.store(standby.is_some(), Ordering::Relaxed);
            replica.replicator.standby(standby).await;
        }
    }

    /// Stops sending what is not this node's to send any more.
    pub(super) fn keep(&self, is_live: impl Fn(ProgramId, Epoch) -> bool) {
        locked(&self.sent).retain(|program, replica| is_live(*program, replica.epoch));
    }

    /// The program is going to write again in this epoch: what was said to be its last word is not.
    pub(super) fn goes_on(&self, program: ProgramId, epoch: Epoch) {
        let has_ended = |replica: &Arc<Replica>| replica.epoch == epoch && replica.has_ended.load(Ordering::Relaxed);
        let mut sent = locked(&self.sent);
        if sent.get(&program).is_some_and(has_ended) {
            sent.remove(&program);
        }
    }

    /// Nothing of the program runs any more: brings the rest of what it wrote to the standby, as far as there is one and
    /// that is done within the limit.
    pub(super) async fn finish(&self, program: ProgramId, epoch: Epoch, limit: Duration) {
        let Some(replica) = self.replica(program, epoch) else { return };
        replica.has_ended.store(true, Ordering::Relaxed);
        if !replica.has_standby.load(Ordering::Relaxed) {
            return;
        }
        match replica.replicator.finish(limit).await {
            Ok(snapshot) => info!(%program, %epoch, %snapshot, "everything that it wrote is on its standby"),
            Err(error) => warn!(%program, %epoch, %error, "not everything that it wrote is on its standby"),
        }
    }

    /// A new snapshot of a program that is live here.
    pub(super) async fn snapshot(&self, program: ProgramId, epoch: Epoch) -> Result<SnapshotId, ReplicationError> {
        let replica = self.replica(program, epoch).ok_or(ReplicationError::Stopped)?;
        replica.replicator.snapshot().await
    }

    /// How fast this node may send.
    pub(super) fn bandwidth(&self) -> Bandwidth {
        self.bandwidth.clone()
    }

    /// Returns when everything that was written before is on the standby.
    pub(super) async fn flush(&self, program: ProgramId, epoch: Epoch) -> Result<Option<SnapshotId>, ReplicationError> {
        let replica = self.replica(program, epoch).ok_or(ReplicationError::NoStandby)?;
        replica.replicator.flush().await?;
        Ok(replica.replicator.status().live.confirmed)
    }

    pub(super) fn status(&self, program: ProgramId, epoch: Epoch) -> Option<Status> {
        Some(self.replica(program, epoch)?.replicator.status())
    }

    pub(super) fn statuses(&self) -> Vec<ReplicaStatus> {
        let sent = locked(&self.sent);
        sent.iter()
            .map(|(program, replica)| ReplicaStatus { program: *program, status: replica.replicator.status() })
            .collect()
    }

    fn replica(&self, program: ProgramId, epoch: Epoch) -> Option<Arc<Replica>> {
        locked(&self.sent).get(&program).filter(|replica| replica.epoch == epoch).cloned()
    }

    /// The newest complete snapshot of a program here, and how old it is.
    pub(super) async fn copy(&self, program: ProgramId) -> Result<Option<(SnapshotId, Duration)>, volumes::Error> {
        let report = self.receiver.report(program).await?;
        Ok(report.map(|report| (report.newest, Duration::from_millis(report.age_ms))))
    }

    /// Room for one more connection that brings copies.
    pub(super) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.incoming.clone().try_acquire_owned().ok()
    }

    /// Takes in what a connection brings, until it is over. `sender` tells which account may send what.
    pub(super) async fn take_in(
        &self,
        stream: impl Stream,
        sender: impl Fn(ProgramId, Epoch, NodeId) -> Option<Address> + Send + Sync,
    ) {
        match self.receiver.serve(stream, sender).await {
            error @ (ReceiveError::Secure(_) | ReceiveError::Replaced | ReceiveError::Stale { .. }) => {
                debug!(%error, "a connection that brought copies is over");
            }
            error => warn!(%error, "a connection that brought copies is over"),
        }
    }
}
