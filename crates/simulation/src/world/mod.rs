//! The world: what there is in it, what happens to it, and how one step follows another.
//!
//! ```text
//!   message node ──news──▶ scheduler ◀──transactions──▶ store
//!        │                  ▲  │ └────events────▶ gateways
//!        │ code          wires (delay, break, stall one way or both)
//!        ▼                  │  ▼
//!      machine: agent ◀─unix sockets─▶ supervisors ──▶ sandboxes
//!                                          └ fuse, in the kernel
//! ```
//! Schedulers, agents and supervisors are the product's own cores; everything else is a shell or a model, which decides
//! nothing. Every process has an incarnation: what was meant for an earlier one is lost with it.

mod agent;
mod archive;
mod data;
mod faults;
mod follower;
mod gateway;
mod leadership;
mod machine;
mod message_node;
mod phases;
mod sandbox;
mod scheduler;
mod session;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::sandbox::spec::SandboxState;
use ::scheduler::core::leadership::{LeaderEpoch, LeaderRow};
use ::scheduler::core::{ConnectionId, Event};
use compute_node::core::persistent::Assignment;
use guest::FromGuest;
use lease::{BootTime, LeaseTimes};
use protocol::control::Failure;
use protocol::data::SnapshotId;
use protocol::{Epoch, NodeId, ProgramId};
use volumes::replication::core as replication;

use crate::agenda::{Agenda, Urgency};
use crate::chance::Chance;
use crate::check::{Checker, Invariant};
use crate::options::Options;
use crate::store::{Outcome, Store};
use crate::tally::Tally;
use crate::time::Moment;
use crate::trace::Trace;
use crate::trap::Trap;

use archive::{Archive, Ask, Refused, Told};
use data::{ArchiverId, ReplicaId, RestoreId, Stream, StreamId};
use faults::{Fault, Plan};
use gateway::{Gateway, RouteNews};
use leadership::Answer;
use machine::Machine;
use message_node::{Act, MessageNode};
use sandbox::Request;
use wire::{Path, Wire};

pub(crate) use faults::fault_names;
pub(crate) use phases::run;
use scheduler::SchedulerHost;

/// A machine, and the compute node on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MachineId(pub(crate) u8);

/// A scheduler's place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SchedulerId(pub(crate) u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GatewayId(pub(crate) u8);

/// A sandbox's directory on its machine; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SandboxId(pub(crate) u64);

/// Which run of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run(pub(crate) u32);

/// An agent's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AgentRun(pub(crate) MachineId, pub(crate) Run);

/// A scheduler's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SchedulerRun(pub(crate) SchedulerId, pub(crate) Run);

/// A sandbox on its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(pub(crate) MachineId, pub(crate) SandboxId);

/// What can happen.
#[derive(Debug)]
pub(crate) enum Happening {
    /// Something arrives at the scheduler's, or at the node's end of a wire.
    ArrivesUp(ConnectionId),
    ArrivesDown(ConnectionId),
    /// The scheduler looks whether a connection is silent.
    LookAtSilence(ConnectionId),
    SchedulerStarts(SchedulerId, Run),
    SchedulerWakes(SchedulerRun),
    Written(SchedulerRun),
    HearsWritten(SchedulerRun, Outcome, Vec<Event>),
    /// Of several schedulers one leads: what each asks of the database, what that does, and what is heard of it.
    Looks(SchedulerRun),
    Looked(SchedulerRun, BootTime),
    Saw(SchedulerRun, BootTime, Answer<Option<LeaderRow>>),
    Claims(SchedulerRun, BootTime, Option<LeaderRow>),
    Claimed(SchedulerRun, BootTime, Answer<Option<LeaderEpoch>>),
    TermBegins(SchedulerRun, BootTime, LeaderEpoch),
    LeaderBeats(SchedulerRun),
    Beaten(SchedulerRun, BootTime, LeaderEpoch),
    HearsBeat(SchedulerRun, BootTime, Answer<bool>),
    Lapses(SchedulerRun),
    /// The scheduler reads the message node's lists, and hears of a program.
    ListsPrograms(SchedulerRun),
    ListsNodes(SchedulerRun),
    Hears(SchedulerRun, ProgramId),
    AgentStarts(AgentRun),
    AgentWakes(AgentRun),
    AgentDials(AgentRun),
    /// The agent gives up waiting for a welcome.
    HandshakeEnds(AgentRun, ConnectionId),
    /// An agent has waited for an answer as long as it waits.
    PatienceEnds(AgentRun, ConnectionId),
    Beats(AgentRun, ConnectionId),
    Fetched(AgentRun, Assignment, Result<(), Failure>),
    CodeChanged(AgentRun, ProgramId),
    /// The agent enforces a deadline: a trap.
    AgentEnforces(AgentRun, Assignment),
    SupervisorStarts(AgentRun, Assignment, SandboxId),
    /// The agent's words reach a supervisor, and the other way round.
    Asked(Place, Request),
    Reported(AgentRun, SandboxId, SandboxState),
    /// The supervisor's end of the socket closed; the sandbox is cleared away.
    Closed(AgentRun, SandboxId),
    Cleared(AgentRun, SandboxId),
    Prepared(Place, bool),
    SupervisorWakes(Place),
    /// What the program does, and what the init says about it.
    Becomes(Place, Life),
    GuestSays(Place, FromGuest),
    /// The kernel's timer, and the death of a sandbox's processes.
    FuseBurns(Place),
    Dies(Place),
    /// An end that a machine comes back from.
    MachineBoots(MachineId),
    /// Somebody does something, and something goes wrong.
    Act(Act),
    Strikes,
    Undrains(NodeId),
    GatewayAsks(GatewayId),
    GatewayHears(GatewayId, u32, RouteNews),
    GatewayFollows(GatewayId),
    /// A program writes into its volume.
    Writes(Place),
    /// A node looks after its pool, carries out orders about data, asks what is over.
    KeepsHouse(AgentRun),
    CarriesOut(AgentRun),
    AsksWhatIsOver(AgentRun),
    /// What a program wrote is on its standby, or that took too long.
    Settled(AgentRun, Assignment),
    SettleEnds(ReplicaId),
    /// What a replica waits for: time, its pool, its standby.
    ReplicaHears(ReplicaId, replication::Event),
    LooksAtVolumes(ReplicaId, SnapshotId),
    TakesSnapshot(ReplicaId, SnapshotId),
    Dials(ReplicaId),
    StreamLost(ReplicaId, StreamId),
    SendsPiece(StreamId),
    /// Something arrives at either end of a connection that brings copies.
    ArrivesAtStandby(StreamId),
    ArrivesAtPrimary(StreamId),
    GivesUpCopy(AgentRun, ProgramId),
    /// A node looks whether there is something to archive, asks the archive, hears of it, sends a part of a stream.
    LooksForArchive(ArchiverId),
    AsksArchive(ArchiverId, Epoch, Box<Ask>),
    HearsArchive(ArchiverId, Box<Result<Told, Refused>>),
    SendsToArchive(ArchiverId),
    /// The same of a node that restores.
    ReadsArchive(RestoreId, Box<Ask>),
    HearsRestore(RestoreId, Box<Result<Told, Refused>>),
    /// The archive looks what nobody needs.
    Collects,
    /// What lay in wait for whoever uses the archive strikes.
    Ambushed(MachineId, Fault, Moment),
}

/// What a program does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Ready,
    Crashes,
    Exits,
}

/// See the module.
pub(crate) struct World {
    pub(crate) now: Moment,
    agenda: Agenda<Happening>,
    pub(crate) times: LeaseTimes,
    /// The constants of leadership, when there are several schedulers.
    leadership: Option<LeaseTimes>,
    pub(crate) trap: Option<Trap>,
    chance: Chance,
    /// For all that concerns data: worlds without data are as they would be without this.
    data_chance: Chance,
    /// The same for all that concerns the archive.
    archive_chance: Chance,
    schedulers: Vec<SchedulerHost>,
    pub(crate) store: Store,
    machines: Vec<Machine>,
    wires: BTreeMap<ConnectionId, Wire>,
    streams: BTreeMap<StreamId, Stream>,
    paths: BTreeMap<(MachineId, SchedulerId), Path>,
    pub(crate) message_node: MessageNode,
    archive: Archive,
    /// What lies in wait for the next machine that uses the archive, and how long.
    ambush: Option<(Fault, Moment)>,
    gateways: Vec<Gateway>,
    pub(crate) checker: Checker,
    pub(crate) tally: Tally,
    pub(crate) trace: Trace,
    plan: Plan,
    next_number: u64,
    /// Whether faults may strike and users act.
    is_chaotic: bool,
    /// How often reallocation was stopped when an operator last let it go on.
    resumed: u64,
    /// The one invariant that is looked at.
    pub(crate) watches: Option<Invariant>,
    /// Programs whose code was changed: they are stopped and started again.
    recoded: BTreeSet<ProgramId>,
}

/// Writes a line of the trace, when somebody wants it.
macro_rules! say {
    ($world:expr, $($arg:tt)*) => {
        if $world.trace.is_on() {
            let line = format!($($arg)*);
            $world.trace.push($world.now, line);
        }
    };
}
pub(crate) use say;

impl World {
    fn new(seed: u64, options: &Options) -> Self {
        let mut chance = Chance::new(seed);
        let mut data_chance = Chance::new(!seed);
        let mut archive_chance = Chance::new(seed.rotate_left(32) ^ 0xA5);
        let plan = Plan::draw(&mut chance, &mut data_chance, &mut archive_chance, options);
        let haste = archive_chance.one_of(&[1, 600, 20_000]).unwrap_or(1);
        let store = Store::new(chance.fork());
        let mut world = Self {
            now: Moment::ZERO,
            agenda: Agenda::new(),
            times: LeaseTimes::default(),
            leadership: plan.leadership(),
            trap: options.trap,
            schedulers: Vec::new(),
            store,
            machines: Vec::new(),
            wires: BTreeMap::new(),
            streams: BTreeMap::new(),
            paths: BTreeMap::new(),
            message_node: MessageNode::default(),
            archive: Archive::new(haste),
            ambush: None,
            gateways: Vec::new(),
            checker: Checker::default(),
            tally: Tally::default(),
            trace: Trace::new(options.trace),
            plan,
            next_number: 0,
            is_chaotic: false,
            resumed: 0,
            watches: options.watches,
            recoded: BTreeSet::new(),
            chance,
            data_chance,
            archive_chance,
        };
        world.populate();
        world
    }

    /// One thing happens. Returns whether there was any before the end.
    fn step(&mut self, end: Moment) -> bool {
        if self.agenda.next_at().is_none_or(|at| at > end) {
            self.now = end;
            return false;
        }
        let (at, happening) = self.agenda.next().expect("there was one a moment ago");
        self.now = at;
        self.tally.steps += 1;
        self.happen(happening);
        self.check_copies();
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ArrivesUp(wire) => self.arrives_up(wire),
            Happening::ArrivesDown(wire) => self.arrives_down(wire),
            Happening::LookAtSilence(wire) => self.look_at_silence(wire),
            Happening::SchedulerStarts(scheduler, run) => self.scheduler_starts(scheduler, run),
            Happening::SchedulerWakes(run) => self.scheduler_wakes(run),
            Happening::Written(run) => self.written(run),
            Happening::HearsWritten(run, outcome, events) => self.hears_written(run, outcome, events),
            Happening::Looks(run) => self.looks(run),
            Happening::Looked(run, sent) => self.looked(run, sent),
            Happening::Saw(run, sent, answer) => self.saw(run, sent, answer),
            Happening::Claims(run, sent, seen) => self.claims(run, sent, seen),
            Happening::Claimed(run, sent, answer) => self.claimed(run, sent, answer),
            Happening::TermBegins(run, sent, epoch) => self.term_begins(run, sent, epoch),
            Happening::LeaderBeats(run) => self.leader_beats(run),
            Happening::Beaten(run, sent, epoch) => self.beaten(run, sent, epoch),
            Happening::HearsBeat(run, sent, answer) => self.hears_beat(run, sent, answer),
            Happening::Lapses(run) => self.lapses(run),
            Happening::ListsPrograms(run) => self.lists_programs(run),
            Happening::ListsNodes(run) => self.lists_nodes(run),
            Happening::Hears(run, program) => self.hears(run, program),
            Happening::AgentStarts(run) => self.agent_starts(run),
            Happening::AgentWakes(run) => self.agent_wakes(run),
            Happening::AgentDials(run) => self.agent_dials(run),
            Happening::HandshakeEnds(run, wire) => self.handshake_ends(run, wire),
            Happening::PatienceEnds(run, wire) => self.patience_ends(run, wire),
            Happening::Beats(run, wire) => self.beats(run, wire),
            Happening::Fetched(run, assignment, result) => self.fetched(run, assignment, result),
            Happening::CodeChanged(run, program) => self.code_changed(run, program),
            Happening::AgentEnforces(run, assignment) => self.agent_enforces(run, assignment),
            Happening::SupervisorStarts(run, assignment, sandbox) => self.supervisor_starts(run, assignment, sandbox),
            Happening::Asked(place, request) => self.asked(place, request),
            Happening::Reported(run, sandbox, state) => self.reported(run, sandbox, state),
            Happening::Closed(run, sandbox) => self.closed(run, sandbox),
            Happening::Cleared(run, sandbox) => self.cleared(run, sandbox),
            Happening::Prepared(place, well) => self.prepared(place, well),
            Happening::SupervisorWakes(place) => self.supervisor_wakes(place),
            Happening::Becomes(place, life) => self.becomes(place, life),
            Happening::GuestSays(place, message) => self.guest_says(place, message),
            Happening::FuseBurns(place) => self.fuse_burns(place),
            Happening::Dies(place) => self.dies(place),
            Happening::MachineBoots(machine) => self.machine_boots(machine),
            Happening::Act(act) => self.act(act),
            Happening::Strikes => self.strikes(),
            Happening::Undrains(node) => self.undrains(node),
            Happening::GatewayAsks(gateway) => self.gateway_asks(gateway),
            Happening::GatewayHears(gateway, stream, news) => self.gateway_hears(gateway, stream, news),
            Happening::GatewayFollows(gateway) => self.gateway_follows(gateway),
            Happening::Writes(place) => self.writes(place),
            Happening::KeepsHouse(run) => self.keeps_house(run),
            Happening::CarriesOut(run) => self.carries_out(run),
            Happening::AsksWhatIsOver(run) => self.asks_what_is_over(run),
            Happening::Settled(run, assignment) => self.settled(run, assignment),
            Happening::SettleEnds(replica) => self.settle_ends(replica),
            Happening::ReplicaHears(replica, event) => self.replica_hears(replica, event),
            Happening::LooksAtVolumes(replica, since) => self.looks_at_volumes(replica, since),
            Happening::TakesSnapshot(replica, snapshot) => self.takes_snapshot(replica, snapshot),
            Happening::Dials(replica) => self.dials(replica),
            Happening::StreamLost(replica, stream) => self.stream_lost(replica, stream),
            Happening::SendsPiece(stream) => self.sends_piece(stream),
            Happening::ArrivesAtStandby(stream) => self.arrives_at_standby(stream),
            Happening::ArrivesAtPrimary(stream) => self.arrives_at_primary(stream),
            Happening::GivesUpCopy(run, program) => self.gives_up_copy(run, program),
            Happening::LooksForArchive(archiver) => self.looks_for_archive(archiver),
            Happening::AsksArchive(archiver, epoch, ask) => self.asks_archive(archiver, epoch, *ask),
            Happening::HearsArchive(archiver, said) => self.hears_archive(archiver, *said),
            Happening::SendsToArchive(archiver) => self.sends_to_archive(archiver),
            Happening::ReadsArchive(restore, ask) => self.reads_archive(restore, *ask),
            Happening::HearsRestore(restore, said) => self.hears_restore(restore, *said),
            Happening::Collects => self.collects(),
            Happening::Ambushed(machine, fault, until) => self.ambushed(machine, fault, until),
        }
    }

    fn after(&mut self, wait: Duration, happening: Happening) {
        self.at(self.now + wait, happening);
    }

    fn at(&mut self, at: Moment, happening: Happening) {
        self.agenda.put(at.max(self.now), Urgency::Usual, happening);
    }

    /// The kernel does something at that moment, before any process runs.
    fn kernel_at(&mut self, at: Moment, happening: Happening) {
        self.agenda.put(at.max(self.now), Urgency::Kernel, happening);
    }

    fn fresh_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn has_trap(&self, trap: Trap) -> bool {
        self.trap == Some(trap)
    }

    fn machine(&self, id: MachineId) -> &Machine {
        &self.machines[usize::from(id.0)]
    }

    fn machine_mut(&mut self, id: MachineId) -> &mut Machine {
        &mut self.machines[usize::from(id.0)]
    }

    fn machine_ids(&self) -> Vec<MachineId> {
        self.machines.iter().map(|machine| machine.id).collect()
    }

    fn host(&self, id: SchedulerId) -> &SchedulerHost {
        &self.schedulers[usize::from(id.0)]
    }

    fn host_mut(&mut self, id: SchedulerId) -> &mut SchedulerHost {
        &mut self.schedulers[usize::from(id.0)]
    }

    fn scheduler_ids(&self) -> Vec<SchedulerId> {
        self.schedulers.iter().map(|host| host.id).collect()
    }
}

/// The program's name in traces.
pub(crate) fn name(program: ProgramId) -> String {
    format!("p{}", program.as_bytes()[0])
}

/// The machine of a node.
pub(crate) fn machine_of(node: NodeId) -> MachineId {
    MachineId(node.as_bytes()[0] - 1)
}

impl std::fmt::Display for MachineId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "m{}", self.0)
    }
}

impl std::fmt::Display for SchedulerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0, self.1.0)
    }
}
