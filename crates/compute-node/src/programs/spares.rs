//! Sandboxes that wait for a program: makes them, keeps them alive, gives them away, ends them.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lease::{LeaseConfig, LeaseTimes, clock};
use protocol::Isolation;
use protocol::message::program::{Interface, ProgramContent};
use sandbox::cgroup::Hierarchy;
use sandbox::spec::{Request, SandboxState};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::images::MountedImage;
use super::making::{Made, Maker, clear};
use crate::core::spares::{Command, Event, SpareId, Spares as Core};
use crate::machine;
use crate::metrics::Metrics;

/// How often it is looked whether some are missing. Not at once: the program that took one is starting just now.
const PERIOD: Duration = Duration::from_millis(250);

/// A program with less memory than this gets a sandbox that is made for it: what an interpreter imports while it waits would
/// take too large a part.
const LEAST_MEMORY_MIB: u64 = 128;

/// What a supervisor takes, MiB.
const SUPERVISOR_MIB: u64 = 6;

/// One of so many of the node's slots may be taken by sandboxes that wait.
const SHARE_OF_SLOTS: u32 = 4;

/// How long one may take to be made. What images have run in it is their own, and must not keep others from being made.
const MADE_WITHIN: Duration = Duration::from_secs(30);

/// How long somebody who needs their room waits for them to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Sandboxes that wait live this long without their agent.
fn lease() -> LeaseTimes {
    let heartbeat = Duration::from_secs(5);
    let config = LeaseConfig { lease: Duration::from_secs(30), heartbeat, ..LeaseConfig::default() };
    LeaseTimes::new(config).expect("these constants fit together")
}

/// What must be the same for a sandbox to be of use to a program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Kind {
    /// Where the image is mounted.
    image: PathBuf,
    /// What stands between it and the machine.
    isolation: Isolation,
    /// Whether an interpreter waits in it.
    interpreter: bool,
}

impl Kind {
    /// What a program can use; `None` when only a sandbox that is made for it will do.
    pub(crate) fn of(content: &ProgramContent, image: &MountedImage, isolation: Isolation) -> Option<Self> {
        let interpreter = match content.code.interface() {
            Interface::Asgi if content.resources.memory < LEAST_MEMORY_MIB => return None,
            Interface::Asgi => true,
            Interface::Binary => false,
        };
        Some(Self { image: image.path().to_owned(), isolation, interpreter })
    }
}

/// The sandboxes of this node that wait.
pub(crate) struct Spares {
    maker: Arc<Maker>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Which there are, in whatever state: they hold what they are made from.
    kept: watch::Sender<BTreeSet<SpareId>>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

struct State {
    core: Core<Kind>,
    images: HashMap<PathBuf, MountedImage>,
    /// How each that waits is asked to be given away; dropped, it ends.
    waiting: HashMap<SpareId, oneshot::Sender<oneshot::Sender<Made>>>,
}

impl Spares {
    /// None yet.
    pub(crate) fn new(maker: Arc<Maker>, slots: u32, budget_mib: u64, metrics: Arc<Metrics>) -> Arc<Self> {
        let most = usize::try_from(slots / SHARE_OF_SLOTS).unwrap_or(usize::MAX);
        let state = State { core: Core::new(budget_mib, most), images: HashMap::new(), waiting: HashMap::new() };
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let spares =
            Arc::new(Self { maker, metrics, state: Mutex::new(state), kept: watch::Sender::default(), tasks, closing });
        spares.tasks.spawn(spares.clone().look_after());
        spares
    }

    /// One of this kind, if one waits.
    pub(crate) async fn take(self: &Arc<Self>, kind: Kind, image: &MountedImage) -> Option<Made> {
        let asked = {
            let mut state = self.lock();
            state.images.entry(kind.image.clone()).or_insert_with(|| image.clone());
            let commands = state.core.handle(clock::now(), Event::Wanted(kind));
            commands.into_iter().find_map(|command| match command {
                Command::Take(id) => state.waiting.remove(&id),
                _ => None,
            })
        };
        let (given, give) = oneshot::channel();
        // It may have ended a moment ago.
        asked?.send(given).ok()?;
        give.await.ok()
    }

    /// How many wait, with and without an interpreter.
    pub(crate) fn count(&self) -> (usize, usize) {
        let state = self.lock();
        state.core.waiting().fold((0, 0), |(with, without), (kind, count)| {
            if kind.interpreter { (with + count, without) } else { (with, without + count) }
        })
    }

    /// Ends all of them, until they are wanted again, as their images take room that something else needs. Says whether there
    /// were any; then they are gone when this returns.
    pub(crate) async fn make_way(self: &Arc<Self>) -> bool {
        let mut kept = self.kept.subscribe();
        let there = kept.borrow_and_update().clone();
        self.tell(Event::MakeWay);
        let gone = kept.wait_for(|kept| kept.is_disjoint(&there));
        // One that does not die keeps its image, and then there is no room: that is said by who needs it.
        let _ = tokio::time::timeout(GONE_WITHIN, gone).await;
        !there.is_empty()
    }

    /// Ends all of them, and makes no more.
    pub(crate) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn look_after(self: Arc<Self>) {
        let mut period = tokio::time::interval(PERIOD);
        while self.closing.run_until_cancelled(period.tick()).await.is_some() {
            self.tell(Event::Tick { memory_is_short: machine::memory_is_short() });
        }
    }

    fn tell(self: &Arc<Self>, event: Event<Kind>) {
        let mut state = self.lock();
        for command in state.core.handle(clock::now(), event) {
            match command {
                Command::Prepare(id, kind) => {
                    let Some(image) = state.images.get(&kind.image).cloned() else { continue };
                    let (ask, asked) = oneshot::channel();
                    state.waiting.insert(id, ask);
                    self.kept.send_modify(|kept| _ = kept.insert(id));
                    let spares = self.clone();
                    self.tasks.spawn(async move {
                        spares.keep(id, kind, image, asked).await;
                        spares.kept.send_modify(|kept| _ = kept.remove(&id));
                    });
                }
                // Who keeps it sees that nobody can ask for it any more.
                Command::End(id) => drop(state.waiting.remove(&id)),
                Command::Forget(kind) => {
                    if !state.core.waiting().any(|(other, _)| other.image == kind.image) {
                        state.images.remove(&kind.image);
                    }
                }
                Command::Take(_) => {}
            }
        }
    }

    /// Makes one and keeps it until somebody gets it, or it ends.
    async fn keep(
        self: &Arc<Self>,
        id: SpareId,
        kind: Kind,
        image: MountedImage,
        asked: oneshot::Receiver<oneshot::Sender<Made>>,
    ) {
        let begun = Instant::now();
        let name = format!("w-{}", &protocol::control::random_nonce()[..16]);
        let made = self.maker.make(name, &image, kind.isolation, kind.interpreter, lease().holder(clock::now())).await;
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                warn!(image = %kind.image.display(), error, "cannot make a sandbox in advance");
                return self.lost(id);
            }
        };
        let directory = made.directory.clone();
        match self.wait(id, made, asked, begun).await {
            Some((made, to)) => {
                if let Err(made) = to.send(made) {
                    // Who wanted it does not any more.
                    clear(&made.directory).await;
                }
            }
            None => {
                clear(&directory).await;
                self.lost(id);
            }
        }
    }

    /// Waits until somebody asks for it; `None` when it ends or shall.
    async fn wait(
        self: &Arc<Self>,
        id: SpareId,
        mut made: Made,
        mut asked: oneshot::Receiver<oneshot::Sender<Made>>,
        begun: Instant,
    ) -> Option<(Made, oneshot::Sender<Made>)> {
        let mut renew = tokio::time::interval(Duration::from_secs(5));
        let mut too_late = std::pin::pin!(tokio::time::sleep(MADE_WITHIN));
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return None,
                () = &mut too_late, if !made.is_prepared => {
                    warn!(sandbox = %made.directory.path().display(), within = ?MADE_WITHIN, "no interpreter waits in time");
                    return None;
                }
                to = &mut asked => return Some((made, to.ok()?)),
                _ = renew.tick() => {
                    let deadline = lease().holder(clock::now());
                    made.supervisor.request(&Request::Renew { deadline }).await.ok()?;
                }
                report = made.supervisor.next_report() => match report.ok()??.state {
                    SandboxState::Preparing => {}
                    SandboxState::Prepared => {
                        made.is_prepared = true;
                        debug!(sandbox = %made.directory.path().display(), took = ?begun.elapsed(), "a sandbox waits");
                        let memory = Hierarchy::detect().ok()?.group(&made.cgroup).own_memory_bytes().unwrap_or(0);
                        let memory_mib = memory.div_ceil(1 << 20) + SUPERVISOR_MIB;
                        self.metrics.spare_made(begun.elapsed(), memory);
                        self.tell(Event::Made { id, memory_mib });
                    }
                    _ => return None,
                }
            }
        }
    }

    fn lost(self: &Arc<Self>, id: SpareId) {
        self.lock().waiting.remove(&id);
        if !self.closing.is_cancelled() {
            self.tell(Event::Lost(id));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}
