//! The agent: one task that owns the cores of this node, gives them events in order, and has their commands carried out. It
//! decides nothing itself.

mod handle;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lease::{LeaseConfig, LeaseTimes, clock};
use protocol::ProgramId;
use protocol::control::Failure;
use sandbox::spec::IdleSpec;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub(crate) use self::handle::{AgentHandle, Message};
use crate::core::data::NoPlan;
use crate::core::on_demand::{self, CopyId, OnDemand, Patience, Terms};
use crate::core::persistent::{self, Assignment, Needs, Persistent};
use crate::epochs::EpochStore;
use crate::machine;
use crate::programs::catalog::Change;
use crate::programs::data::{DataError, ProgramData};
use crate::programs::fetch::{Fetched, Fetcher};
use crate::programs::launch;
use crate::programs::sandboxes::{Adopted, Happened, Owner, Sandboxes};

/// How often idle copies are looked for and leases of copies on demand are renewed.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// How often idle copies are looked for while programs wait for their room.
const LOOK: Duration = Duration::from_millis(50);

/// How long a program has to end by itself when it is stopped for idleness or with the node.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How many requests to the agent may wait.
const QUEUE: usize = 1024;

/// Copies on demand live this long without their agent.
fn on_demand_lease() -> LeaseTimes {
    let config = LeaseConfig { lease: Duration::from_secs(30), heartbeat: HOUSEKEEPING, ..LeaseConfig::default() };
    LeaseTimes::new(config).expect("these constants fit together")
}

/// What the agent works with.
pub(crate) struct Parts {
    pub(crate) persistent: Persistent,
    pub(crate) on_demand: OnDemand,
    pub(crate) epochs: EpochStore,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) data: Option<Arc<ProgramData>>,
    pub(crate) handle: AgentHandle,
    /// How long copies on demand stay that nobody uses, unless their messages say otherwise.
    pub(crate) patience: Patience,
    /// How many copies on demand of one program there are at most.
    pub(crate) copies: u16,
    pub(crate) leave_running: bool,
}

/// The agent.
pub(crate) struct Agent {
    parts: Parts,
    /// What is fetched and not started yet.
    fetched: HashMap<Owner, Fetched>,
    /// Requests that wait for a copy on demand.
    waiting: HashMap<ProgramId, Vec<Waiting>>,
    fetches: mpsc::Sender<(Owner, Result<Fetched, NotFetched>)>,
    fetch_results: mpsc::Receiver<(Owner, Result<Fetched, NotFetched>)>,
}

/// A request that waits for a copy on demand.
struct Waiting {
    reply: oneshot::Sender<Result<(), Failure>>,
    /// Whether it does so for room where all of it is in use.
    for_room: bool,
}

/// Why a program cannot be started.
enum NotFetched {
    Failed(Failure),
    /// It cannot start with what it shall start with.
    Refused(NoPlan),
}

impl Agent {
    pub(crate) fn new(parts: Parts) -> Self {
        let (fetches, fetch_results) = mpsc::channel(QUEUE);
        Self { parts, fetched: HashMap::new(), waiting: HashMap::new(), fetches, fetch_results }
    }

    /// Takes over what an agent before this one left running. Call it before [`Agent::run`].
    pub(crate) fn take_over(&mut self, adopted: Vec<Adopted>) {
        for Adopted { owner, needs, idle, copies, endpoint } in adopted {
            let ready = endpoint.is_some();
            let frozen = endpoint.as_ref().filter(|endpoint| endpoint.is_frozen()).and_then(|e| e.idle_since());
            if let Some(endpoint) = endpoint {
                self.parts.handle.endpoints.insert(endpoint);
            }
            match owner {
                Owner::Persistent(assignment) => self.tell(persistent::Event::Adopted { assignment, needs, ready }),
                Owner::OnDemand(copy) => {
                    let terms = self.terms(needs, idle, copies);
                    self.tell_on_demand(on_demand::Event::Adopted { copy, terms, frozen });
                }
            }
        }
    }

    /// How a copy on demand runs: as its program's message says, as far as it does.
    fn terms(&self, needs: Needs, idle: IdleSpec, copies: Option<u16>) -> Terms {
        let most = self.parts.copies.max(1);
        Terms {
            needs,
            patience: launch::patience(idle, self.parts.patience),
            copies: copies.map_or(most, |c| c.min(most)),
        }
    }

    /// Runs until `shutdown`, and then, unless programs are to be left running, until all have ended.
    pub(crate) async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        mut events: mpsc::Receiver<(Owner, Happened)>,
        shutdown: CancellationToken,
    ) {
        let mut housekeeping = interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let wakeup = self.parts.persistent.next_wakeup().map_or(HOUSEKEEPING, |at| clock::now().until(at));
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(message) = messages.recv() => self.message(message),
                Some((owner, happened)) = events.recv() => self.happened(owner, happened),
                Some((owner, result)) = self.fetch_results.recv() => self.was_fetched(owner, result),
                _ = housekeeping.tick() => self.keep_house(),
                _ = look.tick(), if self.parts.on_demand.waiting() > 0 => self.look(),
                () = tokio::time::sleep(wakeup) => self.tell(persistent::Event::Tick),
            }
        }
        if self.parts.leave_running {
            self.parts.sandboxes.end_waiting().await;
        } else {
            self.stop_everything(events).await;
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Granted { sent, times, mut grant } => {
                if let (Some(data), Some(_)) = (&self.parts.data, &grant.entries) {
                    data.take_in(std::mem::take(&mut grant.data));
                }
                self.tell(persistent::Event::Granted { sent, times, grant });
            }
            Message::Reports(reply) => {
                let persistent = &self.parts.persistent;
                // Who asked may have gone.
                let _ = reply.send((persistent.applied().cloned(), persistent.reports(clock::now())));
            }
            Message::Want { program, owner, waits, reply } => {
                self.waiting.entry(program).or_default().push(Waiting { reply, for_room: waits });
                self.tell_on_demand(on_demand::Event::Wanted { program, owner, waits });
            }
            Message::Stuck(copy) => self.tell_on_demand(on_demand::Event::Stuck(copy)),
            Message::Settled(assignment) => self.tell(persistent::Event::Settled(assignment)),
            Message::Froze(copy, true) => self.tell_on_demand(on_demand::Event::Frozen(copy)),
            Message::Froze(copy, false) => self.tell_on_demand(on_demand::Event::NotFrozen(copy)),
            Message::Changed(Change::Over(program)) => self.tell_on_demand(on_demand::Event::Outdated(program)),
            Message::Changed(Change::NewCode(program)) => {
                info!(%program, "new code");
                self.tell(persistent::Event::CodeChanged(program));
                self.tell_on_demand(on_demand::Event::Outdated(program));
            }
        }
    }

    fn happened(&mut self, owner: Owner, happened: Happened) {
        match (owner, happened) {
            (Owner::Persistent(assignment), Happened::Ready(endpoint)) => {
                self.parts.handle.endpoints.insert(endpoint);
                self.tell(persistent::Event::Ready(assignment));
            }
            (Owner::OnDemand(copy), Happened::Ready(endpoint)) => {
                self.parts.handle.endpoints.insert(endpoint);
                self.tell_on_demand(on_demand::Event::Ready(copy));
            }
            (Owner::Persistent(assignment), Happened::Gone(failure)) => {
                self.parts.handle.endpoints.remove(owner);
                self.tell(persistent::Event::SandboxGone(assignment, failure));
            }
            (Owner::OnDemand(copy), Happened::Gone(failure)) => {
                self.parts.handle.endpoints.remove(owner);
                self.tell_on_demand(on_demand::Event::Gone(copy, failure));
            }
        }
    }

    fn was_fetched(&mut self, owner: Owner, result: Result<Fetched, NotFetched>) {
        let result = match result {
            Ok(fetched) => {
                let content = &fetched.program.content;
                if let Owner::OnDemand(copy) = owner {
                    launch::complaints(content).iter().for_each(|what| self.parts.sandboxes.note(copy.program, what));
                }
                let terms = self.terms(launch::needs(content), launch::idle(content), launch::copies(content));
                self.fetched.insert(owner, fetched);
                Ok(terms)
            }
            Err(NotFetched::Failed(failure)) => Err(failure),
            Err(NotFetched::Refused(why)) => {
                if let Owner::Persistent(assignment) = owner {
                    self.tell(why.event(assignment));
                }
                return;
            }
        };
        if let Err(failure) = &result {
            self.parts.sandboxes.note(owner.program(), &format!("could not be started: {}", failure.message));
        }
        match (owner, result) {
            (Owner::Persistent(assignment), Ok(Terms { needs, .. })) => {
                self.tell(persistent::Event::Fetched { assignment, needs });
            }
            (Owner::Persistent(assignment), Err(failure)) => {
                self.tell(persistent::Event::FetchFailed(assignment, failure));
            }
            (Owner::OnDemand(copy), Ok(terms)) => self.tell_on_demand(on_demand::Event::Fetched(copy, terms)),
            (Owner::OnDemand(copy), Err(failure)) => {
                self.tell_on_demand(on_demand::Event::FetchFailed(copy, failure));
            }
        }
    }

    /// Tells the core how copies on demand are used, and renews their leases.
    fn keep_house(&mut self) {
        let deadline = on_demand_lease().holder(clock::now());
        for owner in self.parts.sandboxes.owners() {
            if let Owner::OnDemand(_) = owner {
                self.parts.sandboxes.renew(owner, deadline);
            }
        }
        for (program, inside) in self.parts.handle.endpoints.crowds() {
            self.tell_on_demand(on_demand::Event::Inside(program, inside));
        }
        self.look();
    }

    /// Tells the core which copies on demand are idle.
    fn look(&mut self) {
        for (copy, endpoint) in self.parts.handle.endpoints.on_demand() {
            self.tell_on_demand(match endpoint.idle_since() {
                Some(since) => on_demand::Event::Idle(copy, since),
                None => on_demand::Event::Busy(copy),
            });
        }
        self.tell_on_demand(on_demand::Event::Tick { memory_is_short: machine::memory_is_short() });
    }

    fn tell(&mut self, event: persistent::Event) {
        let commands = self.parts.persistent.handle(clock::now(), event);
        for command in commands {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: persistent::Command) {
        use persistent::Command;
        match command {
            Command::RememberEpoch(assignment) => self.remember(assignment),
            Command::Fetch(assignment) => self.fetch(Owner::Persistent(assignment)),
            Command::Start(assignment, deadline) => {
                let owner = Owner::Persistent(assignment);
                if let Some(fetched) = self.fetched.remove(&owner) {
                    self.parts.sandboxes.start(owner, fetched, deadline);
                }
            }
            Command::Renew(assignment, deadline) => self.parts.sandboxes.renew(Owner::Persistent(assignment), deadline),
            Command::Stop(assignment, grace) => {
                // Requests that are inside may finish while the program ends.
                let owner = Owner::Persistent(assignment);
                self.parts.handle.endpoints.remove(owner);
                self.parts.sandboxes.stop(owner, grace);
            }
            Command::Settle(assignment) => self.settle(assignment),
            Command::Heartbeat => self.parts.handle.heartbeat_due.notify_one(),
        }
    }

    fn settle(&self, assignment: Assignment) {
        let (data, messages) = (self.parts.data.clone(), self.parts.handle.messages.clone());
        tokio::spawn(async move {
            if let Some(data) = data {
                data.settle(assignment).await;
            }
            let _ = messages.send(Message::Settled(assignment)).await;
        });
    }

    /// Writes an epoch down. Nothing that follows may happen if that fails, so the node ends: its sandboxes live on until
    /// their leases end.
    fn remember(&self, assignment: Assignment) {
        let Assignment { program, epoch } = assignment;
        if let Err(error) = tokio::task::block_in_place(|| self.parts.epochs.remember(program, epoch)) {
            error!(%program, %epoch, %error, "cannot remember an epoch, which would be unsafe: free the disk and start the node again");
            std::process::exit(1);
        }
    }

    fn tell_on_demand(&mut self, event: on_demand::Event) {
        let commands = self.parts.on_demand.handle(clock::now(), event);
        for command in commands {
            self.obey_on_demand(command);
        }
    }

    fn obey_on_demand(&mut self, command: on_demand::Command) {
        use on_demand::Command;
        match command {
            Command::Fetch(copy) => self.fetch(Owner::OnDemand(copy)),
            Command::Start(copy) => {
                let owner = Owner::OnDemand(copy);
                if let Some(fetched) = self.fetched.remove(&owner) {
                    self.parts.sandboxes.start(owner, fetched, on_demand_lease().holder(clock::now()));
                }
            }
            Command::Serve(program) => self.answer(program, &Ok(())),
            Command::Fail(program, failure) => self.answer(program, &Err(failure)),
            Command::Refuse(program, failure) => self.refuse(program, &failure),
            Command::Drop(copy) => drop(self.fetched.remove(&Owner::OnDemand(copy))),
            Command::Freeze(copy) => self.freeze(copy),
            Command::Retire(copy) => self.retire(copy),
        }
    }

    fn answer(&mut self, program: ProgramId, result: &Result<(), Failure>) {
        for waiting in self.waiting.remove(&program).unwrap_or_default() {
            // The request may have been given up.
            let _ = waiting.reply.send(result.clone());
        }
    }

    /// Answers those who do not wait for room.
    fn refuse(&mut self, program: ProgramId, failure: &Failure) {
        let Some(waiting) = self.waiting.get_mut(&program) else { return };
        let (stay, go) = std::mem::take(waiting).into_iter().partition(|waiting| waiting.for_room);
        *waiting = stay;
        for Waiting { reply, .. } in go {
            let _ = reply.send(Err(failure.clone()));
        }
    }

    fn freeze(&self, copy: CopyId) {
        let mut endpoints = self.parts.handle.endpoints.of(copy.program).into_iter();
        let endpoint = endpoints.find(|endpoint| endpoint.copy() == Some(copy));
        let messages = self.parts.handle.messages.clone();
        tokio::spawn(async move {
            let is_frozen = match endpoint {
                Some(endpoint) => endpoint.freeze().await,
                None => false,
            };
            let _ = messages.send(Message::Froze(copy, is_frozen)).await;
        });
    }

    /// Closes a copy on demand and ends it when the requests inside have left, or have had their time.
    fn retire(&self, copy: CopyId) {
        let owner = Owner::OnDemand(copy);
        let (endpoint, stop) = (self.parts.handle.endpoints.remove(owner), self.parts.sandboxes.stopper(owner));
        tokio::spawn(async move {
            if let Some(endpoint) = endpoint {
                let _ = tokio::time::timeout(endpoint.request_limit, endpoint.empty()).await;
                // To end by itself. Its door is closed, so nobody freezes it again. If it cannot go on, it is killed.
                let _ = endpoint.wake().await;
            }
            stop(STOP_GRACE);
        });
    }

    fn fetch(&self, owner: Owner) {
        let (fetcher, data) = (self.parts.fetcher.clone(), self.parts.data.clone());
        let results = self.fetches.clone();
        tokio::spawn(async move {
            let result = match fetcher.fetch(owner.program()).await {
                Ok(fetched) => match refuses(data, owner, &fetched).await {
                    Some(why) => Err(NotFetched::Refused(why)),
                    None => Ok(fetched),
                },
                Err(failure) => Err(NotFetched::Failed(failure)),
            };
            let _ = results.send((owner, result)).await;
        });
    }

    async fn stop_everything(self, mut events: mpsc::Receiver<(Owner, Happened)>) {
        let sandboxes = &self.parts.sandboxes;
        let owners = sandboxes.owners();
        info!(sandboxes = owners.len(), "stopping all programs of this node");
        for owner in owners {
            if let Some(endpoint) = self.parts.handle.endpoints.remove(owner) {
                let _ = endpoint.wake().await;
            }
            sandboxes.stop(owner, STOP_GRACE);
        }
        while !sandboxes.owners().is_empty() && events.recv().await.is_some() {}
        sandboxes.tear_down(self.parts.fetcher.images()).await;
    }
}

/// Why this node will not start the program, whatever the scheduler says. What else is wrong with its data shows when it
/// starts.
async fn refuses(data: Option<Arc<ProgramData>>, owner: Owner, fetched: &Fetched) -> Option<NoPlan> {
    let (data, epoch) = (data?, owner.epoch()?);
    match data.find(owner.program(), epoch, &fetched.placed).await {
        Err(DataError::NoPlan(why @ (NoPlan::NotHere | NoPlan::Stale { .. }))) => Some(why),
        _ => None,
    }
}
