//! The data of this node's programs: what the scheduler ordered about it, what a program starts with, and what becomes of
//! it afterwards.

mod archiving;
mod base;
mod dial;
mod keeping;
mod operator;
mod replicas;
mod restoring;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chrono::Utc;
use lease::{BootTime, clock};
use protocol::client::Archive;
use protocol::data::{DataEntry, DataOrder, DataReport, MAX_EARLIER_COPIES, Peer, SnapshotId};
use protocol::{Account, Address, Epoch, NodeId, ProgramId};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;
use volumes::replication::{ReplicationError, Stream};
use volumes::{Pool, VolumeUsage};

pub(crate) use self::archiving::ArchiveStatus;
use self::archiving::Archives;
pub(crate) use self::base::DataError;
pub(crate) use self::replicas::ReplicaStatus;
use self::replicas::Replicas;
use crate::config::DataConfig;
use crate::core::data::{Seen, is_live};
use crate::core::persistent::Assignment;
use crate::guest_api::{Flush, FlushError};
use crate::programs::catalog::Catalog;
use crate::programs::freezer::Freezers;

/// How often the pool is looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How long a program that was stopped may wait for its standby to have everything. Its lease is over long before then,
/// so this only bounds the work.
const SETTLE: Duration = Duration::from_secs(60);

/// How often it is measured what volumes use.
const MEASURE: Duration = Duration::from_secs(10);

/// How many threads work on the pool.
const WORKERS: usize = 2;

/// See the module.
pub(crate) struct ProgramData {
    pool: Pool,
    config: DataConfig,
    freezers: Arc<Freezers>,
    orders: Mutex<HashMap<ProgramId, DataEntry>>,
    /// What was there at the last look: a heartbeat never waits for the pool.
    seen: Mutex<Vec<Seen>>,
    /// What volumes used a moment ago, for metrics.
    usage: Mutex<Vec<(ProgramId, Vec<VolumeUsage>)>>,
    /// Since when volumes are live that became so under this process.
    live_since: Mutex<HashMap<ProgramId, (Epoch, BootTime)>>,
    /// Once this node has its id.
    replicas: OnceLock<Arc<Replicas>>,
    archives: OnceLock<Archives>,
    /// Orders came that are not carried out yet.
    ordered: Notify,
    threads: Threads,
}

/// Work on the pool may wait for its disk, also where it should not. So it has threads of its own: leases are renewed
/// meanwhile.
struct Threads(Option<Runtime>);

impl Threads {
    fn new() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(WORKERS).thread_name("data").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs this there. It is given up when what this returns is dropped.
    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self.0.as_ref().expect("it is there until it is dropped");
        AbortOnDropHandle::new(runtime.spawn(work)).await.expect("it does not panic")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // What still runs is interrupted, as by the end of the process.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The right to bring copies over one connection.
pub(crate) struct Taking {
    data: Arc<ProgramData>,
    _permit: OwnedSemaphorePermit,
}

impl Taking {
    /// Takes in what the connection brings, until it is over.
    pub(crate) async fn from(self, stream: impl Stream + 'static) {
        let data = self.data.clone();
        let take_in = async move {
            if let Some(replicas) = data.replicas.get() {
                let sender = |program, epoch, node| data.sender(program, epoch, node);
                replicas.take_in(stream, sender).await;
            }
        };
        self.data.threads.run(take_in).await;
    }
}

impl ProgramData {
    /// Opens the pool.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(crate) async fn open_pool(config: DataConfig, freezers: Arc<Freezers>) -> Result<Arc<Self>, volumes::Error> {
        let threads = Threads::new().map_err(|e| volumes::Error::Io("start threads".to_owned(), e))?;
        let data = Self {
            pool: Pool::open(config.pool.clone()).await?,
            config,
            freezers,
            orders: Mutex::default(),
            seen: Mutex::default(),
            usage: Mutex::default(),
            live_since: Mutex::default(),
            replicas: OnceLock::new(),
            archives: OnceLock::new(),
            ordered: Notify::new(),
            threads,
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

    /// This node is known to the network: from now on it can send and take in copies, and use the archive.
    pub(crate) fn introduce(&self, account: Arc<Account>, node: NodeId, archive: Archive, catalog: Arc<Catalog>) {
        let replicas = Replicas::new(self.pool.clone(), account, node, &self.config, self.freezers.clone());
        let replicas = Arc::new(replicas);
        let interval = self.config.archive_interval;
        let _ = self.archives.set(Archives::new(self.pool.clone(), archive, catalog, replicas.clone(), interval));
        let _ = self.replicas.set(replicas);
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

    /// What the next heartbeat says.
    pub(crate) fn reports(&self) -> Vec<DataReport> {
        let now = clock::now();
        let live = |program, epoch| Some(self.replicas.get()?.status(program, epoch)?.live);
        let seen = locked(&self.seen);
        seen.iter().map(|seen| seen.report(now, |epoch| live(seen.program, epoch))).collect()
    }

    /// Nothing of the program runs any more: brings the rest of what it wrote to its standby, as far as there is one and
    /// that does not take too long.
    pub(crate) async fn settle(self: Arc<Self>, Assignment { program, epoch }: Assignment) {
        let data = self.clone();
        let settle = async move {
            let Some(replicas) = data.replicas.get() else { return };
            replicas.finish(program, epoch, SETTLE).await;
            if let Err(error) = data.look().await {
                warn!(%program, %error, "cannot look what there is of its volumes");
            }
        };
        self.threads.run(settle).await;
    }

    /// Takes in copies from another node; `None` when too many do already, or this node is not known to the network.
    pub(crate) fn take_in_copies(self: Arc<Self>) -> Option<Taking> {
        let permit = self.replicas.get()?.admit()?;
        Some(Taking { data: self, _permit: permit })
    }

    /// What volumes used a moment ago, for metrics.
    pub(crate) fn usage(&self) -> Vec<(ProgramId, Vec<VolumeUsage>)> {
        locked(&self.usage).clone()
    }

    /// Everything that this node replicates, for metrics.
    pub(crate) fn replica_statuses(&self) -> Vec<ReplicaStatus> {
        self.replicas.get().map(|replicas| replicas.statuses()).unwrap_or_default()
    }

    /// Everything that this node archives, for metrics.
    pub(crate) fn archive_statuses(&self) -> Vec<ArchiveStatus> {
        self.archives.get().map(Archives::statuses).unwrap_or_default()
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
            let mut copies: Vec<_> = known.sets().map(|set| (set.id, age_on_the_wall(set.taken))).collect();
            copies.reverse();
            if let (Some(replicas), Some(newest)) = (self.replicas.get(), copies.first_mut())
                && let Ok(Some(known)) = replicas.copy(program).await
                && known.0 == newest.0
            {
                // What came from another node says how old it is without a clock on the wall.
                *newest = known;
            }
            copies.truncate(1 + MAX_EARLIER_COPIES);
            if live.is_some() || !copies.is_empty() {
                all.push(Seen { program, live, copies, at });
            }
        }
        *locked(&self.seen) = all;
        Ok(())
    }

    /// Brings what is done in line with the orders. What does not succeed is tried again with the next look.
    async fn carry_out(&self) {
        let Some(replicas) = self.replicas.get() else { return };
        let orders: Vec<_> = locked(&self.orders).values().cloned().collect();
        let is_live = |program, epoch| is_live(&orders, program, epoch);
        // What is held for the archive could not be removed.
        if let Some(archives) = self.archives.get() {
            archives.keep(is_live);
        }
        for DataEntry { program, epoch, order } in &orders {
            let obeyed = match order {
                DataOrder::Live { standby, .. } => self.replicate(replicas, *program, *epoch, standby.clone()).await,
                DataOrder::Retire => self.retire(*program, *epoch).await,
                // The primary comes and brings them.
                DataOrder::Keep { .. } => Ok(()),
            };
            if let Err(error) = obeyed {
                warn!(%program, %epoch, %error, "cannot do what the scheduler ordered about its data");
            }
        }
        replicas.keep(is_live);
    }

    async fn replicate(
        &self,
        replicas: &Replicas,
        program: ProgramId,
        epoch: Epoch,
        standby: Option<Peer>,
    ) -> Result<(), volumes::Error> {
        let known = self.pool.program(program).await?;
        if known.live().is_some_and(|live| live.epoch == epoch) {
            let since = locked(&self.live_since).get(&program).filter(|(of, _)| *of == epoch).map(|(_, since)| *since);
            if let Some(archives) = self.archives.get() {
                archives.start(Assignment { program, epoch }).await?;
            }
            replicas.start(program, epoch, since).await?;
            replicas.set_standby(program, standby).await;
        }
        Ok(())
    }

    /// Carries out orders, lets the pool grow and removes what is over, until `shutdown`.
    pub(crate) async fn keep_house(self: Arc<Self>, shutdown: CancellationToken) {
        let data = self.clone();
        let measure = async move {
            loop {
                match data.pool.volume_usages().await {
                    Ok(usage) => *locked(&data.usage) = usage,
                    Err(error) => warn!(%error, "the pool does not say what volumes use"),
                }
                tokio::time::sleep(MEASURE).await;
            }
        };
        let data = self.clone();
        let work = async move {
            loop {
                let _ = tokio::time::timeout(HOUSEKEEPING, data.ordered.notified()).await;
                let kept = async {
                    data.carry_out().await;
                    data.pool.grow_if_needed().await?;
                    data.pool.collect(Utc::now()).await?;
                    data.look().await
                };
                if let Err(error) = kept.await {
                    warn!(%error, "the pool cannot be looked after");
                }
            }
        };
        let both = async { tokio::join!(self.threads.run(work), self.threads.run(measure)).0 };
        let _: Option<std::convert::Infallible> = shutdown.run_until_cancelled(both).await;
    }
}

impl Flush for ProgramData {
    async fn flush(&self, program: ProgramId, epoch: Epoch) -> Result<Option<SnapshotId>, FlushError> {
        let known = self.pool.program(program).await.map_err(|e| FlushError::Stopped(e.to_string()))?;
        if known.live().is_none_or(|live| live.epoch != epoch) {
            return Err(FlushError::NoVolumes);
        }
        let not_yet = || FlushError::NoStandby("this node is not connected to the network yet".to_owned());
        let replicas = self.replicas.get().ok_or_else(not_yet)?;
        // Only waits: the work is done by the replica's own task.
        replicas.flush(program, epoch).await.map_err(|error| match error {
            ReplicationError::NoStandby => FlushError::NoStandby(error.to_string()),
            ReplicationError::Stopped | ReplicationError::NotTaken(_) | ReplicationError::Missing(_) => {
                FlushError::Stopped(error.to_string())
            }
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds this lock")
}

fn age_on_the_wall(taken: chrono::DateTime<Utc>) -> Duration {
    (Utc::now() - taken).to_std().unwrap_or_default()
}
