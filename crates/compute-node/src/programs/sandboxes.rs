//! The sandboxes of this node: starts them, finds those of the agent before, passes on what they report, and vouches for
//! their end.

mod adoption;
mod running;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lease::{HolderDeadline, clock};
use protocol::ProgramId;
use protocol::api::compute_node::LogSource;
use protocol::control::Failure;
use sandbox::cgroup::Hierarchy;
use sandbox::client::Supervisor;
use sandbox::layout::SandboxDirectory;
use sandbox::logs::LogWriter;
use sandbox::spec::{ClaimSpec, End, LogSpec, Report, Request, SandboxState, VolumeSpec};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

pub(crate) use self::adoption::Adopted;
use self::running::{Entry, Running};
use super::code::{CodeCache, OpenedCode};
use super::data::ProgramData;
use super::endpoint::Endpoint;
use super::fetch::Fetched;
use super::freezer::{Freezable, Freezers};
use super::images::Images;
use super::launch::{self, Terms};
use super::making::{Maker, clear};
use super::network::Network;
use super::slots::Slot;
use super::spares::{Kind, Spares};
use super::standstill::Standstill;
use crate::config::Config;
use crate::core::on_demand::CopyId;
use crate::core::persistent::Assignment;
use crate::guest_api::GuestApi;
use crate::metrics::Metrics;

/// Whose a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// A persistent program under one epoch.
    Persistent(Assignment),
    /// A copy on demand.
    OnDemand(CopyId),
}

impl Owner {
    pub(crate) fn program(self) -> ProgramId {
        match self {
            Self::Persistent(assignment) => assignment.program,
            Self::OnDemand(copy) => copy.program,
        }
    }

    /// A word, for counters.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::Persistent(_) => "persistent",
            Self::OnDemand(_) => "on_demand",
        }
    }

    /// Which of the copies on demand it is.
    pub(crate) fn copy(self) -> u16 {
        match self {
            Self::Persistent(_) => 0,
            Self::OnDemand(copy) => copy.number,
        }
    }

    pub(crate) fn epoch(self) -> Option<protocol::Epoch> {
        match self {
            Self::Persistent(assignment) => Some(assignment.epoch),
            Self::OnDemand(_) => None,
        }
    }
}

/// What happened to a sandbox.
#[derive(Debug, Clone)]
pub(crate) enum Happened {
    /// It answers there.
    Ready(Arc<Endpoint>),
    /// Nothing of it runs any more; a failure, unless it was told to end or its lease ended.
    Gone(Option<Failure>),
}

/// What sandboxes have to do with the programs' data.
pub(crate) struct OfData {
    /// None on a node without a pool.
    pub(crate) data: Option<Arc<ProgramData>>,
    pub(crate) guest_api: GuestApi<ProgramData>,
    pub(crate) freezers: Arc<Freezers>,
}

/// The sandboxes of this node.
pub(crate) struct Sandboxes {
    config: Config,
    maker: Arc<Maker>,
    spares: Arc<Spares>,
    network: Network,
    code: Arc<CodeCache>,
    data: Option<Arc<ProgramData>>,
    guest_api: GuestApi<ProgramData>,
    freezers: Arc<Freezers>,
    metrics: Arc<Metrics>,
    events: mpsc::Sender<(Owner, Happened)>,
    running: Running,
}

impl Sandboxes {
    /// None yet. What happens is told to `events`.
    ///
    /// # Errors
    /// When the run directory cannot be made.
    pub(crate) fn new(
        config: Config,
        code: Arc<CodeCache>,
        OfData { data, guest_api, freezers }: OfData,
        metrics: Arc<Metrics>,
        events: mpsc::Sender<(Owner, Happened)>,
    ) -> io::Result<Arc<Self>> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&config.run_dir)?;
        let node = config.run_dir.file_name().map_or_else(|| "node".into(), |name| name.to_string_lossy().into_owned());
        let maker = Arc::new(Maker::new(config.clone(), &node));
        let made = &config.sandboxes;
        Ok(Arc::new(Self {
            spares: Spares::new(maker.clone(), made.slots, made.spare_mib, metrics.clone()),
            network: Network::new(&node, made.network),
            maker,
            running: Running::default(),
            code,
            data,
            guest_api,
            freezers,
            metrics,
            config,
            events,
        }))
    }

    /// Starts a sandbox. How it goes is told as events, its end for certain.
    pub(crate) fn start(self: &Arc<Self>, owner: Owner, fetched: Fetched, deadline: HolderDeadline) {
        let (entry, mut requests) = self.running.add(owner);
        let sandboxes = self.clone();
        tokio::spawn(async move {
            let end = match sandboxes.launch(owner, &fetched, deadline, &mut requests).await {
                Ok(Some(mut sandbox)) => {
                    sandbox.held = Some(Held::Fetched(Box::new(fetched)));
                    sandboxes.accompany(sandbox, requests).await
                }
                Ok(None) => None,
                Err(message) => Some(End::SandboxError { message }),
            };
            sandboxes.gone(&entry, end.as_ref()).await;
        });
    }

    /// Lets a sandbox run until then.
    pub(crate) fn renew(&self, owner: Owner, deadline: HolderDeadline) {
        if let Some(sandbox) = self.running.of(owner) {
            // It may be ending just now.
            let _ = sandbox.send(Request::Renew { deadline });
        }
    }

    /// Ends a sandbox.
    pub(crate) fn stop(&self, owner: Owner, grace: Duration) {
        self.stopper(owner)(grace);
    }

    /// What ends the sandbox that is its owner's now, and no later one.
    pub(crate) fn stopper(&self, owner: Owner) -> impl FnOnce(Duration) + Send + use<> {
        let sandbox = self.running.of(owner);
        move |grace| {
            let stop = Request::Stop { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) };
            // It may be ending just now.
            let _ = sandbox.map(|sandbox| sandbox.send(stop));
        }
    }

    /// Whose sandboxes are there.
    pub(crate) fn owners(&self) -> Vec<Owner> {
        self.running.owners()
    }

    /// How many sandboxes wait for a program, with and without an interpreter.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        self.spares.count()
    }

    /// Ends the sandboxes that wait for a program, until they are wanted again: the images that they are made from take room on
    /// the disk. Says whether there were any.
    pub(crate) async fn make_way(&self) -> bool {
        self.spares.make_way().await
    }

    /// Ends the sandboxes that wait for a program.
    pub(crate) async fn end_waiting(&self) {
        self.spares.close().await;
    }

    /// When no program's sandbox is left: removes what they shared.
    pub(crate) async fn tear_down(&self, images: &Images) {
        self.end_waiting().await;
        images.unmount_all();
        self.network.tear_down();
        let _ = fs::remove_dir(&self.config.run_dir);
        if let Ok(hierarchy) = Hierarchy::detect() {
            let _ = hierarchy.group(&self.maker.cgroup).remove();
        }
    }

    async fn gone(&self, entry: &Entry, end: Option<&End>) {
        let (owner, is_owners) = (entry.owner, self.running.remove(entry));
        self.metrics.ended(owner.kind(), end);
        let failure = end.and_then(|end| launch::failure_of(end, self.config.ready_within));
        info!(program = %owner.program(), epoch = ?owner.epoch().map(protocol::Epoch::get), ?end, "sandbox gone");
        if is_owners {
            let _ = self.events.send((owner, Happened::Gone(failure))).await;
        }
    }

    /// Gets a sandbox: one that waits, or one that is made now and claimed as soon as it is; `None` when it shall end before
    /// there is one.
    async fn launch(
        &self,
        owner: Owner,
        fetched: &Fetched,
        deadline: HolderDeadline,
        requests: &mut mpsc::UnboundedReceiver<Request>,
    ) -> Result<Option<Sandbox>, String> {
        let started = Instant::now();
        let Some((volumes, deadline)) = self.open_volumes(owner, fetched, deadline, requests).await? else {
            return Ok(None);
        };
        let content = &fetched.program.content;
        // What it says was read when it was fetched.
        let isolation = self.config.sandboxes.isolation_for(content.isolation().ok().flatten());
        let spare = match Kind::of(content, &fetched.image, isolation) {
            Some(kind) => self.spares.take(kind, &fetched.image).await,
            None => None,
        };
        self.metrics.claimed(owner.program(), spare.is_some());
        let made = match spare {
            Some(spare) => spare,
            None => self.maker.make(self.unique_name(owner), &fetched.image, isolation, false, deadline).await?,
        };
        let network = if content.environment.internet {
            // Blocking, but only the first time.
            Some(tokio::task::block_in_place(|| self.network.of(&made.slot)).map_err(|e| e.to_string()))
        } else {
            None
        };
        let network = match network.transpose() {
            Ok(network) => network,
            Err(error) => {
                clear(&made.directory).await;
                return Err(error);
            }
        };
        let terms = Terms {
            epoch: owner.epoch(),
            copy: owner.copy(),
            network,
            volumes,
            logs: self.logs_of(owner.program()),
            ready_within: self.config.ready_within,
            deadline,
        };
        let claim = launch::claim(owner.program(), content, fetched.code.source.clone(), terms);
        Ok(Some(Sandbox {
            owner,
            directory: made.directory,
            supervisor: made.supervisor,
            is_prepared: made.is_prepared,
            deadline,
            request_limit: launch::request_limit(content),
            started: Some(started),
            claim: Some(claim),
            held: None,
            standstill: self.standstill(owner, &made.cgroup, false),
            // Before anything can be written.
            _freezable: self.freezable(owner, made.cgroup),
            _slot: Some(made.slot),
        }))
    }

    /// Opens the volumes, which can take longer than the lease lasts: says until when it does by now. `None` when the
    /// program shall end, or its lease has ended.
    async fn open_volumes(
        &self,
        owner: Owner,
        fetched: &Fetched,
        mut deadline: HolderDeadline,
        requests: &mut mpsc::UnboundedReceiver<Request>,
    ) -> Result<Option<(Vec<VolumeSpec>, HolderDeadline)>, String> {
        let mut opening = std::pin::pin!(self.volumes(owner, fetched));
        loop {
            tokio::select! {
                volumes = &mut opening => {
                    let volumes = volumes?;
                    return Ok((clock::now() < deadline.soft).then_some((volumes, deadline)));
                }
                Some(request) = requests.recv() => match request {
                    Request::Renew { deadline: later } => deadline = deadline.extended_by(later),
                    _ => return Ok(None),
                },
            }
        }
    }

    /// All volumes of a program, one that lies in another after it.
    async fn volumes(&self, owner: Owner, fetched: &Fetched) -> Result<Vec<VolumeSpec>, String> {
        let mut volumes: Vec<_> = fetched.volumes.iter().map(|volume| volume.spec.clone()).collect();
        volumes.extend(launch::ephemeral_volumes(&fetched.placed, &self.config.data_dir.join("ephemeral")));
        if let (Some(data), Some(epoch)) = (&self.data, owner.epoch()) {
            let opened = data.open(owner.program(), epoch, &fetched.placed).await;
            volumes.extend(opened.map_err(|e| format!("the program's volumes cannot be opened: {e}"))?);
        }
        volumes.sort_by_key(|volume| volume.mount.components().count());
        Ok(volumes)
    }

    fn freezable(&self, owner: Owner, cgroup: String) -> Option<Freezable> {
        owner.epoch().map(|epoch| self.freezers.register(owner.program(), epoch, cgroup))
    }

    /// How a copy on demand is held still while nobody uses it. Persistent programs never are.
    fn standstill(&self, owner: Owner, cgroup: &str, is_frozen: bool) -> Option<Arc<Standstill>> {
        let Owner::OnDemand(_) = owner else { return None };
        let group = Hierarchy::detect().ok()?.group(cgroup);
        Some(Standstill::new(group, is_frozen, self.metrics.clone()))
    }

    fn unique_name(&self, owner: Owner) -> String {
        let program = &owner.program().to_string()[..12];
        let random = &protocol::control::random_nonce()[..8];
        match owner.epoch() {
            Some(epoch) => format!("{program}-{epoch}-{random}"),
            None => format!("{program}-d-{random}"),
        }
    }

    /// Where a program's output is kept.
    pub(crate) fn log_directory(&self, program: ProgramId) -> PathBuf {
        self.config.data_dir.join("logs").join(program.to_string())
    }

    fn logs_of(&self, program: ProgramId) -> LogSpec {
        LogSpec { directory: self.log_directory(program), max_bytes: self.config.log_bytes }
    }

    /// Notes something that happened to a program before it had a sandbox.
    pub(crate) fn note(&self, program: ProgramId, message: &str) {
        let noted = LogWriter::open(&self.log_directory(program), self.config.log_bytes)
            .and_then(|mut log| log.write(LogSource::System, message.as_bytes()));
        if let Err(error) = noted {
            warn!(%program, %error, "cannot write the program's log");
        }
    }

    /// Stays with a sandbox until nothing of it runs any more. Says how it ended; `None` when its lease did.
    async fn accompany(&self, mut sandbox: Sandbox, mut requests: mpsc::UnboundedReceiver<Request>) -> Option<End> {
        let mut end = None;
        let _answering = match self.guest_api.answer(sandbox.owner, &sandbox.directory) {
            Ok(answering) => Some(answering),
            // A program that would miss it is not started; one that runs goes on.
            Err(error) if sandbox.claim.is_some() => {
                clear(&sandbox.directory).await;
                return Some(End::SandboxError { message: format!("the guest API cannot listen: {error}") });
            }
            Err(error) => {
                error!(program = %sandbox.owner.program(), %error, "the guest API cannot listen");
                None
            }
        };
        if sandbox.is_prepared {
            self.claim(&mut sandbox).await;
        }
        loop {
            tokio::select! {
                report = sandbox.supervisor.next_report() => match report {
                    Ok(Some(report)) => {
                        if let SandboxState::Ended(how) = &report.state {
                            end = Some(how.clone());
                        } else {
                            self.reported(&mut sandbox, &report).await;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        warn!(program = %sandbox.owner.program(), %error, "lost touch with a supervisor");
                        break;
                    }
                },
                Some(request) = requests.recv() => {
                    if let Request::Renew { deadline } = request {
                        sandbox.deadline = sandbox.deadline.extended_by(deadline);
                    }
                    // If it has ended, its report says so.
                    let _ = sandbox.supervisor.request(&request).await;
                }
            }
        }
        let written = clear(&sandbox.directory).await;
        let lease_ended = clock::now() >= sandbox.deadline.soft;
        end.or(written)
            .or_else(|| (!lease_ended).then(|| End::SandboxError { message: "its supervisor was killed".to_owned() }))
    }

    /// Makes a sandbox that waits its program's.
    async fn claim(&self, sandbox: &mut Sandbox) {
        if let Some(mut claim) = sandbox.claim.take() {
            claim.deadline = sandbox.deadline;
            if let Err(error) = sandbox.supervisor.claim(&sandbox.directory, claim).await {
                warn!(program = %sandbox.owner.program(), %error, "cannot claim a sandbox");
            }
        }
    }

    async fn reported(&self, sandbox: &mut Sandbox, report: &Report) {
        match report.state {
            SandboxState::Prepared => self.claim(sandbox).await,
            SandboxState::Ready => {
                if let Some(started) = sandbox.started.take() {
                    self.metrics.ready(sandbox.owner.kind(), started.elapsed());
                }
                let _ = self.events.send((sandbox.owner, Happened::Ready(sandbox.endpoint()))).await;
            }
            _ => {}
        }
    }
}

/// What a sandbox needs on disk.
#[allow(dead_code)] // Held, never looked at.
enum Held {
    Fetched(Box<Fetched>),
    Code(OpenedCode),
}

/// One sandbox, as its task sees it.
struct Sandbox {
    owner: Owner,
    directory: SandboxDirectory,
    supervisor: Supervisor,
    /// Whether its supervisor said so before.
    is_prepared: bool,
    deadline: HolderDeadline,
    request_limit: Duration,
    /// When it was started, until it is ready; `None` if another agent started it.
    started: Option<Instant>,
    /// What it is to be claimed with, once it is prepared.
    claim: Option<ClaimSpec>,
    /// What must stay while it runs.
    held: Option<Held>,
    standstill: Option<Arc<Standstill>>,
    _slot: Option<Slot>,
    _freezable: Option<Freezable>,
}

impl Sandbox {
    fn endpoint(&self) -> Arc<Endpoint> {
        Endpoint::new(self.owner, self.request_limit, self.directory.http_socket(), self.standstill.clone())
    }
}
