//! The data of this node's programs: what the scheduler ordered about it, what a program starts with, and what becomes of
//! it afterwards.

mod base;
mod dial;
mod keeping;
mod replicas;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chrono::Utc;
use lease::{BootTime, clock};
use protocol::data::{CopyReport, DataEntry, DataOrder, DataReport, LiveReport, SnapshotId};
use protocol::{Account, Address, Epoch, NodeId, ProgramId};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use volumes::Pool;
use volumes::replication::{ReplicationError, Stream};

pub(crate) use self::base::DataError;
pub(crate) use self::replicas::ReplicaStatus;
use self::replicas::Replicas;
use crate::config::DataConfig;
use crate::core::persistent::Assignment;

/// How often the pool is looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How long a program that was stopped may wait for its standby to have everything. Its lease is over long before then,
/// so this only bounds the work.
const SETTLE: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct ProgramData {
    pool: Pool,
    config: DataConfig,
    orders: Mutex<HashMap<ProgramId, DataEntry>>,
    /// What was there at the last look: a heartbeat never waits for the pool.
    seen: Mutex<Vec<Seen>>,
    /// Since when volumes are live that became so under this process.
    live_since: Mutex<HashMap<Assignment, BootTime>>,
    /// Once this node has its id.
    replicas: OnceLock<Replicas>,
    /// Orders came that are not carried out yet.
    ordered: Notify,
}

/// What the pool has of a program.
#[derive(Debug, Clone, Copy)]
struct Seen {
    program: ProgramId,
    live: Option<Epoch>,
    /// The newest complete snapshot, and how old it was.
    copy: Option<(SnapshotId, Duration)>,
    at: BootTime,
}

/// The right to bring copies over one connection.
pub(crate) struct Taking {
    data: Arc<ProgramData>,
    _permit: OwnedSemaphorePermit,
}

impl Taking {
    /// Takes in what the connection brings, until it is over.
    pub(crate) async fn from(self, stream: impl Stream) {
        if let Some(replicas) = self.data.replicas.get() {
            let sender = |program, epoch, node| self.data.sender(program, epoch, node);
            replicas.take_in(stream, sender).await;
        }
    }
}

impl ProgramData {
    /// Opens the pool.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(crate) async fn open_pool(config: DataConfig) -> Result<Arc<Self>, volumes::Error> {
        let data = Self {
            pool: Pool::open(config.pool.clone()).await?,
            config,
            orders: Mutex::default(),
            seen: Mutex::default(),
            live_since: Mutex::default(),
            replicas: OnceLock::new(),
            ordered: Notify::new(),
        };
        data.look().await?;
        Ok(Arc::new(data))
    }

    /// How large the pool can become, in MiB.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub(crate) fn size_mib(&self) -> Result<u64, volumes::Error> {
        Ok(self.pool.usage()?.total >> 20)
    }

    /// This node is known to the network: from now on it can send and take in copies.
    pub(crate) fn introduce(&self, account: Arc<Account>, node: NodeId) {
        let _ = self.replicas.set(Replicas::new(self.pool.clone(), account, node, &self.config));
    }

    /// The scheduler's newest orders, all of them.
    pub(crate) fn take_in(&self, orders: Vec<DataEntry>) {
        *locked(&self.orders) = orders.into_iter().map(|order| (order.program, order)).collect();
        self.ordered.notify_one();
    }

    /// The account that may send copies of this program in this epoch from that node.
    pub(super) fn sender(&self, program: ProgramId, epoch: Epoch, node: NodeId) -> Option<Address> {
        let orders = locked(&self.orders);
        crate::core::data::sender(orders.get(&program), epoch, node).map(|from| from.account.clone())
    }

    /// What the next heartbeat says. Ages are those of now, also where the rest was seen a moment ago.
    pub(crate) fn reports(&self) -> Vec<DataReport> {
        let now = clock::now();
        let report = |seen: &Seen| DataReport {
            program: seen.program,
            live: seen.live.map(|epoch| self.live_report(seen.program, epoch)),
            copy: seen.copy.map(|(newest, age)| CopyReport {
                newest,
                // Never less than it is.
                age_ms: u64::try_from((age + now.since(seen.at)).as_millis()).unwrap_or(u64::MAX).saturating_add(1),
            }),
        };
        locked(&self.seen).iter().map(report).collect()
    }

    fn live_report(&self, program: ProgramId, epoch: Epoch) -> LiveReport {
        let status = self.replicas.get().and_then(|replicas| replicas.status(program, epoch));
        // Without a replica no other node has any of it.
        let unknown = LiveReport { epoch, confirmed: None, at_risk_ms: u64::MAX, is_final: false };
        status.map_or(unknown, |status| status.live)
    }

    /// Nothing of the program runs any more: brings the rest of what it wrote to its standby, as far as there is one and
    /// that does not take too long.
    pub(crate) async fn settle(&self, Assignment { program, epoch }: Assignment) {
        if let Some(replicas) = self.replicas.get() {
            replicas.finish(program, epoch, SETTLE).await;
            if let Err(error) = self.look().await {
                warn!(%program, %error, "cannot look what there is of its volumes");
            }
        }
    }

    /// Returns when everything that the program wrote before is on its standby.
    ///
    /// # Errors
    /// When there is none, or the program runs here no more.
    pub(crate) async fn flush(&self, program: ProgramId, epoch: Epoch) -> Result<Option<SnapshotId>, ReplicationError> {
        let replicas = self.replicas.get().ok_or(ReplicationError::NoStandby)?;
        replicas.flush(program, epoch).await
    }

    /// Takes in copies from another node; `None` when too many do already, or this node is not known to the network.
    pub(crate) fn take_in_copies(self: Arc<Self>) -> Option<Taking> {
        let permit = self.replicas.get()?.admit()?;
        Some(Taking { data: self, _permit: permit })
    }

    /// Everything that this node replicates, for metrics.
    pub(crate) fn replica_statuses(&self) -> Vec<ReplicaStatus> {
        self.replicas.get().map(Replicas::statuses).unwrap_or_default()
    }

    /// Looks what there is.
    async fn look(&self) -> Result<(), volumes::Error> {
        let mut all = Vec::new();
        for program in self.pool.programs() {
            // Damaged records were reported when the pool was opened.
            let Ok(known) = self.pool.program(program).await else { continue };
            if known.forgotten().is_some() {
                continue;
            }
            let (live, at) = (known.live().map(|live| live.epoch), clock::now());
            let copy = match self.replicas.get() {
                Some(replicas) => replicas.copy(program).await?,
                None => known.sets().last().map(|set| (set.id, age_on_the_wall(set.taken))),
            };
            if live.is_some() || copy.is_some() {
                all.push(Seen { program, live, copy, at });
            }
        }
        *locked(&self.seen) = all;
        Ok(())
    }

    /// Brings replication in line with the orders.
    async fn carry_out(&self) -> Result<(), volumes::Error> {
        let Some(replicas) = self.replicas.get() else { return Ok(()) };
        let orders: Vec<_> = locked(&self.orders).values().cloned().collect();
        for DataEntry { program, epoch, order } in &orders {
            let DataOrder::Live { standby, .. } = order else { continue };
            let known = self.pool.program(*program).await?;
            if known.live().is_some_and(|live| live.epoch == *epoch) {
                let since = locked(&self.live_since).get(&Assignment { program: *program, epoch: *epoch }).copied();
                replicas.start(*program, *epoch, since).await?;
                replicas.set_standby(*program, standby.clone()).await;
            }
        }
        let is_live = |program: ProgramId, epoch: Epoch| {
            let ordered = |order: &DataEntry| {
                order.program == program && order.epoch == epoch && matches!(order.order, DataOrder::Live { .. })
            };
            orders.iter().any(ordered)
        };
        replicas.keep(is_live);
        Ok(())
    }

    /// Carries out orders, lets the pool grow and removes what is over, until `shutdown`.
    pub(crate) async fn keep_house(self: Arc<Self>, shutdown: CancellationToken) {
        let work = async {
            loop {
                let _ = tokio::time::timeout(HOUSEKEEPING, self.ordered.notified()).await;
                let kept = async {
                    self.carry_out().await?;
                    self.pool.grow_if_needed().await?;
                    self.pool.collect(Utc::now()).await?;
                    self.look().await
                };
                if let Err(error) = kept.await {
                    warn!(%error, "the pool cannot be looked after");
                }
            }
        };
        let _: Option<std::convert::Infallible> = shutdown.run_until_cancelled(work).await;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}

fn age_on_the_wall(taken: chrono::DateTime<Utc>) -> Duration {
    (Utc::now() - taken).to_std().unwrap_or_default()
}
