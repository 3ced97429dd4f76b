//! The replicator of one live program: does what [`super::core`] decides, with the pool and a [`super::link`].

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use lease::{BootTime, clock};
use protocol::data::{LiveReport, Peer, SnapshotId};
use protocol::{Account, Epoch, NodeId, ProgramId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

use super::bucket::TokenBucket;
use super::core::{Command, Core, Event, Pace};
use super::link::{self, Link};
use crate::error::Error;
use crate::pool::Pool;

/// How many orders wait before whoever gives another waits, too.
const ORDERS: usize = 64;

/// A connection to another node.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What comes later.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Connects to a node.
pub type Dial = Arc<dyn Fn(Peer) -> Later<io::Result<Box<dyn Stream>>> + Send + Sync>;

/// Stops the writes of a program until what it returns is dropped ([`Pool::snapshot`]).
pub type Freeze = Arc<dyn Fn() -> Later<io::Result<Box<dyn Send>>> + Send + Sync>;

/// How many bytes a second a node may send, for all its programs. Clones share it.
#[derive(Debug, Clone)]
pub struct Bandwidth(Arc<Mutex<TokenBucket>>);

impl Bandwidth {
    /// This many bytes a second; no limit without a number.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self(Arc::new(Mutex::new(TokenBucket::new(bytes_per_second))))
    }

    /// Waits until so many bytes may be sent.
    pub async fn take(&self, bytes: usize) {
        let wait = self.0.lock().expect("no code panics while it holds this lock").take(clock::now(), bytes as u64);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// What is replicated, and how.
#[derive(Clone)]
pub struct Source {
    /// Where the volumes are.
    pub pool: Pool,
    /// Whose key this node proves.
    pub account: Arc<Account>,
    /// This node.
    pub node: NodeId,
    /// The program; it is live.
    pub program: ProgramId,
    /// The epoch that it is live in.
    pub epoch: Epoch,
    /// When the oldest write can have happened that has no copy: when the volumes became live. Not known, `None`, when
    /// they go on after an earlier life on this node; then [`Status::live`] says `u64::MAX` until the standby has one.
    pub unconfirmed_since: Option<BootTime>,
    /// Stops the writes for a moment; only called for programs with several volumes.
    pub freeze: Freeze,
    /// Connects to the standby.
    pub dial: Dial,
    /// How often.
    pub pace: Pace,
    /// How fast.
    pub bandwidth: Bandwidth,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("program", &self.program).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Why a flush or a finish has not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicationError {
    /// Nobody keeps copies.
    #[error("no node keeps copies of this program; wait until the scheduler has found one ('find' shows it)")]
    NoStandby,
    /// It was stopped.
    #[error("the replication of this program was stopped, as it is not live on this node any more")]
    Stopped,
    /// Somebody on this node wanted a snapshot.
    #[error("no snapshot could be taken: {0}")]
    NotTaken(String),
    /// Not within the time.
    #[error("not everything is on the standby yet: {0}; it goes on being tried")]
    Missing(String),
}

/// How the replication is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// For the heartbeat.
    pub live: LiveReport,
    /// Whether the standby is connected.
    pub connected: bool,
    /// How many snapshots are kept here.
    pub sets: usize,
    /// Bytes that went over the wire, since the start.
    pub bytes_sent: u64,
    /// Bytes of the streams before they were compressed: what has changed, since the start.
    pub bytes_changed: u64,
    /// Bytes of streams that did not have to be sent again after a cut, since the start.
    pub bytes_resumed: u64,
    /// The last thing that went wrong, until something succeeds.
    pub problem: Option<String>,
}

/// What is known by all parts.
#[derive(Debug)]
pub(crate) struct Shared {
    epoch: Epoch,
    core: Mutex<Core>,
    /// Grows with every step.
    steps: watch::Sender<u64>,
    problem: Mutex<Option<String>>,
    pub(crate) sent: AtomicU64,
    pub(crate) changed: AtomicU64,
    pub(crate) resumed: AtomicU64,
}

impl Shared {
    fn core(&self) -> std::sync::MutexGuard<'_, Core> {
        self.core.lock().expect("no code panics while it holds this lock")
    }

    fn step(&self, event: Event) -> Vec<Command> {
        let commands = self.core().step(clock::now(), event);
        self.steps.send_modify(|steps| *steps += 1);
        commands
    }

    /// How long ago a snapshot was taken.
    pub(crate) fn age(&self, id: SnapshotId) -> Option<Duration> {
        let taken = self.core().taken_at(id)?;
        Some(clock::now().since(taken))
    }

    /// Remembers what goes wrong; each thing is logged once.
    pub(crate) fn problem(&self, program: ProgramId, problem: Option<String>) {
        let mut last = self.problem.lock().expect("no code panics while it holds this lock");
        if let Some(error) = problem.as_ref().filter(|_| *last != problem) {
            warn!(%program, epoch = %self.epoch, %error, "the volumes are not replicated, trying again");
        }
        *last = problem;
    }

    fn status(&self) -> Status {
        let standing = self.core().standing(clock::now());
        let at_risk = standing.at_risk.map_or(u64::MAX, milliseconds);
        let problem = self.problem.lock().expect("no code panics while it holds this lock").clone();
        Status {
            live: LiveReport {
                epoch: self.epoch,
                confirmed: standing.confirmed,
                at_risk_ms: at_risk,
                is_final: standing.is_final,
            },
            connected: standing.connected,
            sets: standing.sets,
            bytes_sent: self.sent.load(Ordering::Relaxed),
            bytes_changed: self.changed.load(Ordering::Relaxed),
            bytes_resumed: self.resumed.load(Ordering::Relaxed),
            problem,
        }
    }
}

/// Rounded up: an age is never less than it is.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

enum Order {
    Standby(Option<Peer>),
    Flush(oneshot::Sender<Result<(), ReplicationError>>),
    Snapshot(oneshot::Sender<Result<SnapshotId, ReplicationError>>),
    Ended,
}

/// Sends the volumes of one live program to its standby, until it is stopped or dropped.
#[derive(Debug)]
pub struct Replicator {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    task: AbortHandle,
}

impl Replicator {
    /// Starts, without a standby. Snapshots of this epoch that are there already are gone on with; when they were taken
    /// is only known by the clock on the wall.
    ///
    /// # Errors
    /// When the records of the program are damaged.
    pub async fn start(source: Source) -> Result<Self, Error> {
        let (now, wall) = (clock::now(), Utc::now());
        let taken = |set: &crate::SnapshotSet| {
            let ago = (wall - set.taken).to_std().unwrap_or_default();
            (ago.as_nanos() < u128::from(now.as_nanos())).then(|| now - ago)
        };
        let sets = source.pool.snapshots(source.program).await?;
        let sets = sets.iter().map(|set| (set.id, taken(set)));
        let core = Core::new(source.pace, source.epoch, sets, source.unconfirmed_since);
        let shared = Arc::new(Shared {
            epoch: source.epoch,
            core: Mutex::new(core),
            steps: watch::Sender::new(0),
            problem: Mutex::new(None),
            sent: AtomicU64::new(0),
            changed: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
        });
        let (orders, receiver) = mpsc::channel(ORDERS);
        let shell = Shell {
            source: Arc::new(source),
            shared: shared.clone(),
            link: None,
            jobs: JoinSet::new(),
            flushes: Vec::new(),
            asked: 0,
            wanted: Vec::new(),
            wants: 0,
        };
        let task = tokio::spawn(shell.run(receiver)).abort_handle();
        Ok(Self { shared, orders, task })
    }

    /// Names the node that keeps copies from now on, or that there is none. The same again changes nothing.
    pub async fn standby(&self, peer: Option<Peer>) {
        // A shell that is gone was stopped.
        let _ = self.orders.send(Order::Standby(peer)).await;
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Returns when everything that was written before this call is on the standby. The caller sets a time limit.
    ///
    /// # Errors
    /// When there is no standby, or the replicator was stopped.
    pub async fn flush(&self) -> Result<(), ReplicationError> {
        let (done, answer) = oneshot::channel();
        self.orders.send(Order::Flush(done)).await.map_err(|_| ReplicationError::Stopped)?;
        answer.await.map_err(|_| ReplicationError::Stopped)?
    }

    /// A new snapshot of the live volumes, which stays here until a later one takes its place; [`Pool::hold`] keeps it
    /// longer. It is taken after what is being taken or sent now, and also without a standby.
    ///
    /// # Errors
    /// When it cannot be taken, the program has ended, or the replicator was stopped.
    pub async fn snapshot(&self) -> Result<SnapshotId, ReplicationError> {
        let (done, answer) = oneshot::channel();
        self.orders.send(Order::Snapshot(done)).await.map_err(|_| ReplicationError::Stopped)?;
        answer.await.map_err(|_| ReplicationError::Stopped)?
    }

    /// The program has ended, and nothing writes its volumes any more: returns the snapshot that holds everything, once the
    /// standby has it. After the limit it goes on, and this can be called again.
    ///
    /// # Errors
    /// What is missing after the limit, or that the replicator was stopped.
    pub async fn finish(&self, limit: Duration) -> Result<SnapshotId, ReplicationError> {
        self.orders.send(Order::Ended).await.map_err(|_| ReplicationError::Stopped)?;
        let mut steps = self.shared.steps.subscribe();
        let is_final = steps.wait_for(|_| self.shared.core().standing(clock::now()).is_final);
        match tokio::time::timeout(limit, is_final).await {
            Ok(_) => self.status().live.confirmed.ok_or(ReplicationError::Stopped),
            Err(_) => Err(ReplicationError::Missing(self.missing())),
        }
    }

    fn missing(&self) -> String {
        let status = self.status();
        match (status.problem, status.live.confirmed) {
            (Some(problem), _) => problem,
            (None, _) if !status.connected => "the standby is not connected".to_owned(),
            (None, Some(id)) => format!("what was written since snapshot {id} is still being sent"),
            (None, None) => "the first snapshot is still being sent".to_owned(),
        }
    }

    /// Stops. What the standby has stays there.
    pub fn stop(self) {}
}

impl Drop for Replicator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What happens around the core.
struct Shell {
    source: Arc<Source>,
    shared: Arc<Shared>,
    link: Option<Link>,
    /// At most one: the core waits for each.
    jobs: JoinSet<Result<Event, Error>>,
    flushes: Vec<(u64, oneshot::Sender<Result<(), ReplicationError>>)>,
    asked: u64,
    wanted: Vec<(u64, oneshot::Sender<Result<SnapshotId, ReplicationError>>)>,
    wants: u64,
}

impl Shell {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let event = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.order(order),
                    None => return,
                },
                Some(event) = link::next(&mut self.link) => event,
                Some(job) = self.jobs.join_next() => self.job_ended(job.unwrap_or_else(|e| Err(Error::Io("end a job".to_owned(), io::Error::other(e))))),
                () = sleep_until(self.shared.core().wake_at()) => Event::Tick,
            };
            for command in self.shared.step(event) {
                self.execute(command);
            }
        }
    }

    fn order(&mut self, order: Order) -> Event {
        match order {
            Order::Standby(peer) => {
                let node = peer.as_ref().map(|peer| peer.node);
                if self.link.as_ref().map(Link::peer) != peer.as_ref() {
                    self.shared.problem(self.source.program, None);
                    // The former one ends first.
                    self.link = None;
                    self.link = peer.map(|peer| Link::start(self.source.clone(), self.shared.clone(), peer));
                    if self.link.is_some() {
                        // Another address of the same node is a new connection, too.
                        self.shared.step(Event::Disconnected);
                    }
                }
                Event::Standby(node)
            }
            Order::Flush(done) => {
                self.asked += 1;
                self.flushes.push((self.asked, done));
                Event::Flush(self.asked)
            }
            Order::Snapshot(done) => {
                self.wants += 1;
                self.wanted.push((self.wants, done));
                Event::Wanted(self.wants)
            }
            Order::Ended => Event::Ended,
        }
    }

    fn job_ended(&self, result: Result<Event, Error>) -> Event {
        match result {
            Ok(event) => {
                self.shared.problem(self.source.program, None);
                event
            }
            Err(error) => {
                self.shared.problem(self.source.program, Some(error.to_string()));
                Event::Failed
            }
        }
    }

    fn execute(&mut self, command: Command) {
        debug!(program = %self.source.program, ?command, "replication");
        let source = self.source.clone();
        match command {
            Command::Look(id) => {
                let look = async move { source.pool.changed_since(source.program, id).await };
                self.jobs.spawn(async move { Ok(Event::Looked { changed: look.await? }) });
            }
            Command::Take(id) => {
                let freeze = source.freeze.clone();
                self.jobs.spawn(async move {
                    source.pool.snapshot(source.program, id, Utc::now(), || freeze()).await?;
                    Ok(Event::Taken)
                });
            }
            Command::Send(id, parent) => {
                if let Some(link) = &self.link {
                    link.send(id, parent);
                }
            }
            Command::Prune(keep) => {
                tokio::spawn(async move {
                    if let Err(error) = source.pool.prune(source.program, &keep).await {
                        warn!(program = %source.program, %error, "cannot delete old snapshots, trying again with the next");
                    }
                });
            }
            Command::Flushed(number) => self.answer(number, &Ok(())),
            Command::NoStandby => self.answer(u64::MAX, &Err(ReplicationError::NoStandby)),
            Command::Taken(number, id) => self.give(number, &Ok(id)),
            Command::NotTaken(number) => {
                let problem = self.shared.status().problem;
                let why = problem.unwrap_or_else(|| "the program has ended".to_owned());
                self.give(number, &Err(ReplicationError::NotTaken(why)));
            }
        }
    }

    fn give(&mut self, number: u64, result: &Result<SnapshotId, ReplicationError>) {
        for (_, done) in self.wanted.extract_if(.., |(wanted, _)| *wanted <= number) {
            // Who wanted it may not wait any more.
            let _ = done.send(result.clone());
        }
    }

    fn answer(&mut self, number: u64, result: &Result<(), ReplicationError>) {
        for (_, done) in self.flushes.extract_if(.., |(asked, _)| *asked <= number) {
            // Who asked may not wait any more.
            let _ = done.send(result.clone());
        }
    }
}

async fn sleep_until(time: Option<BootTime>) {
    match time {
        Some(time) => tokio::time::sleep(clock::now().until(time)).await,
        None => std::future::pending().await,
    }
}
