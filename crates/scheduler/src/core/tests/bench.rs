//! A scheduler on the bench: a clock that is turned by hand, a database in memory, nodes that are played by the test.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lease::{BootTime, LeaseTimes};
use protocol::api::scheduler::ProgramState;
use protocol::control::{
    Capacity, Directive, FromScheduler, Grant, Heartbeat, ProgramReport, ReportedState, SetEntry, SetVersion,
};
use protocol::data::{ArchivedSet, DataReport};
use protocol::history::Fact;
use protocol::operation::Operation;
use protocol::{Address, Epoch, NodeId, ProgramId};

use crate::core::event::{AskedMove, ConnectionId, OpenAssignment, Origin, Registration, Restored};
use crate::core::restores::AskedRestore;
use crate::core::{Cause, Command, Event, Gone, Notice, Policy, ProgramSpec, Proof, Scheduler, Write, Writer};

pub(super) fn program(number: u8) -> ProgramId {
    ProgramId::from_bytes([number; 32])
}

pub(super) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// A program whose message has its number as time.
pub(super) fn spec(number: u8, memory: u64) -> Arc<ProgramSpec> {
    let content = super::content(number.into(), memory).to_string();
    Arc::new(ProgramSpec::read(program(number), content).unwrap().unwrap())
}

pub(super) fn registration(number: u8) -> Registration {
    Registration {
        node: node(number),
        name: format!("node {number}"),
        owner: Address::new("0x01"),
        manager: None,
        address: format!("http://node-{number}"),
        url: None,
    }
}

/// The account that a node proves itself with.
pub(super) fn account(number: u8) -> Address {
    Address::new(format!("0x{number:02x}"))
}

pub(super) fn capacity(memory_mib: u64) -> Capacity {
    Capacity {
        vcpus: 64,
        memory_mib,
        disk_mib: 1 << 20,
        pool_mib: 1 << 20,
        architecture: "x86_64".into(),
        cpu_vendor: "GenuineIntel".into(),
        cpu_features: vec!["sev".into()],
        isolation: vec![protocol::Isolation::Container],
    }
}

/// What a database would hold, and the promises that it keeps: epochs only grow, and one assignment of a program is open.
#[derive(Debug, Clone, Default)]
pub(super) struct Database {
    pub(super) epochs: BTreeMap<ProgramId, Epoch>,
    pub(super) open: BTreeMap<ProgramId, Writer>,
    pub(super) closed: Vec<(ProgramId, Epoch, Cause, Proof)>,
    pub(super) programs: BTreeMap<ProgramId, Arc<ProgramSpec>>,
    pub(super) nodes: BTreeMap<NodeId, Registration>,
    pub(super) draining: BTreeMap<NodeId, String>,
    pub(super) moves: BTreeMap<ProgramId, AskedMove>,
    pub(super) restores: BTreeMap<ProgramId, AskedRestore>,
    pub(super) standbys: BTreeMap<ProgramId, NodeId>,
    /// How many orders were recorded, of which each has its own time.
    pub(super) orders: u64,
    pub(super) writers: BTreeMap<ProgramId, Writer>,
    /// What the history would have beside beginnings and ends.
    pub(super) facts: Vec<(Epoch, Fact)>,
    pub(super) lease_wait: Option<Duration>,
    pub(super) is_complete: bool,
}

impl Database {
    /// Carries out a write and answers it.
    pub(super) fn apply(&mut self, write: &Write) -> Option<Event> {
        match write {
            Write::Remember(spec) => {
                self.programs.insert(spec.id, spec.clone());
                None
            }
            Write::Assign { spec, node, at_least, start, loss, .. } => {
                self.programs.insert(spec.id, spec.clone());
                let (epochs, facts) = (&mut self.epochs, &mut self.facts);
                let Writer { node, epoch, .. } = *self.open.entry(spec.id).or_insert_with(|| {
                    let next = epochs.get(&spec.id).map_or(Epoch::FIRST, |epoch| epoch.next()).max(*at_least);
                    epochs.insert(spec.id, next);
                    facts.extend(loss.iter().map(|loss| (next, loss.fact())));
                    Writer { program: spec.id, node: *node, epoch: next, start: start.as_deref().copied() }
                });
                Some(Event::Stored { program: spec.id, node, epoch })
            }
            Write::Close { program, epoch, cause, proof, .. } => {
                if let Some(open) = self.open.get(program).filter(|open| open.epoch == *epoch).copied() {
                    self.open.remove(program);
                    if !matches!(proof, Proof::NeverGranted | Proof::Refused) && *cause != Cause::Refused {
                        self.writers.insert(*program, open);
                    }
                    self.closed.push((*program, *epoch, *cause, *proof));
                }
                Some(Event::Closed { program: *program, epoch: *epoch })
            }
            Write::Forget { program, .. } => {
                self.open.remove(program);
                self.programs.remove(program);
                self.standbys.remove(program);
                self.moves.remove(program);
                self.restores.remove(program);
                Some(Event::Forgotten { program: *program })
            }
            Write::Record { epoch, node, fact, program, .. } => {
                if self.open.get(program).is_some_and(|open| (open.node, open.epoch) == (*node, *epoch)) {
                    self.facts.push((*epoch, fact.clone()));
                }
                None
            }
            Write::MoveOver { program, ordered } => {
                self.moves.retain(|id, asked| id != program || asked.at != *ordered);
                None
            }
            Write::RestoreOver { program, ordered } => {
                self.restores.retain(|id, asked| id != program || asked.at != *ordered);
                None
            }
            Write::Standby { program, node } => {
                self.standbys.insert(*program, *node);
                None
            }
            Write::Node(registration) => {
                self.nodes.insert(registration.node, registration.clone());
                None
            }
            Write::ForgetNode(node) => {
                self.nodes.remove(node);
                None
            }
            Write::EarlierLeasesEnded { lease_wait } => {
                self.lease_wait = Some(*lease_wait);
                self.is_complete = true;
                None
            }
        }
    }

    /// Keeps what lasts of an order.
    pub(super) fn record(&mut self, operation: &Operation, by: &Address) -> DateTime<Utc> {
        self.orders += 1;
        let at = DateTime::UNIX_EPOCH + Duration::from_secs(self.orders);
        match operation {
            Operation::Drain { node, reason } => drop(self.draining.insert(*node, reason.clone())),
            Operation::Undrain { node } => drop(self.draining.remove(node)),
            Operation::Move { program, to } => {
                if let Some(from) = self.open.get(program).map(|open| open.node) {
                    let by = by.clone();
                    self.moves.insert(*program, AskedMove { program: *program, from, to: *to, by, at });
                }
            }
            Operation::CancelMove { program } => drop(self.moves.remove(program)),
            Operation::Restore { program, snapshot, from } => {
                let of = self.open.get(program).map(|open| open.epoch);
                let set = ArchivedSet { snapshot: *snapshot, from: *from };
                let (program, by) = (*program, by.clone());
                self.restores.insert(program, AskedRestore { program, set, of, by, at });
            }
            Operation::Lost { .. } | Operation::Resume => {}
        }
        at
    }

    pub(super) fn restore(&mut self, own_wait: Duration) -> Restored {
        let programs = self.programs.values().map(|spec| (spec.clone(), self.epochs.get(&spec.id).copied()));
        let open = self.open.values();
        let open = open.map(|open| OpenAssignment { writer: *open, at: DateTime::UNIX_EPOCH, was_seen: false });
        let restored = Restored {
            programs: programs.collect(),
            assignments: open.collect(),
            writers: self.writers.values().copied().collect(),
            standbys: self.standbys.clone().into_iter().collect(),
            moves: self.moves.values().cloned().collect(),
            restores: self.restores.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            draining: self.draining.clone().into_iter().collect(),
            earlier_wait: self.lease_wait,
            is_complete: self.is_complete,
        };
        self.lease_wait = Some(self.lease_wait.unwrap_or(own_wait).max(own_wait));
        restored
    }
}

/// See the module.
pub(super) struct Bench {
    pub(super) scheduler: Scheduler,
    pub(super) times: LeaseTimes,
    pub(super) now: BootTime,
    pub(super) database: Database,
    /// Whether writes fail, and whether they take effect all the same.
    pub(super) broken: Option<bool>,
    pub(super) notices: Vec<Notice>,
    pub(super) sent: VecDeque<(ConnectionId, FromScheduler)>,
    connections: BTreeMap<NodeId, (ConnectionId, u64)>,
    capacities: BTreeMap<NodeId, Capacity>,
    applied: BTreeMap<NodeId, SetVersion>,
    /// What data nodes say that they have.
    pub(super) data: BTreeMap<NodeId, Vec<DataReport>>,
    next_connection: u64,
    processes: u32,
}

impl Bench {
    pub(super) fn new() -> Self {
        let mut bench = Self::on(Database { is_complete: true, ..Database::default() });
        bench.restart();
        bench
    }

    /// A scheduler that was not told yet what its database holds.
    pub(super) fn on(database: Database) -> Self {
        let times = LeaseTimes::default();
        Self {
            scheduler: Scheduler::new(times, Policy::default(), "process 0".into()),
            times,
            now: BootTime::from_nanos(1_000_000_000_000),
            database,
            broken: None,
            notices: Vec::new(),
            sent: VecDeque::new(),
            connections: BTreeMap::new(),
            capacities: BTreeMap::new(),
            applied: BTreeMap::new(),
            data: BTreeMap::new(),
            next_connection: 0,
            processes: 0,
        }
    }

    /// A bench with these nodes connected and heard, each with so much memory.
    pub(super) fn with_nodes(memory: &[(u8, u64)]) -> Self {
        let mut bench = Self::new();
        bench.list(&memory.iter().map(|(number, _)| *number).collect::<Vec<_>>());
        for (number, memory) in memory {
            bench.connect(*number, *memory);
            bench.beat(*number, &[]);
        }
        bench
    }

    /// The scheduler ends at once and another starts on the same database.
    pub(super) fn restart(&mut self) {
        self.processes += 1;
        let name = format!("process {}", self.processes);
        self.scheduler = Scheduler::new(self.times, Policy::default(), name);
        self.connections.clear();
        self.sent.clear();
        let restored = self.database.restore(self.times.longest_wait());
        self.event(Event::Restored(Box::new(restored)));
    }

    /// The same, and what this program is cannot be read from the database.
    pub(super) fn restart_unread(&mut self, number: u8) {
        let id = program(number);
        self.database.programs.insert(id, Arc::new(ProgramSpec::unknown(id, "it cannot be read")));
        self.restart();
    }

    /// Tells the scheduler, and carries out what it asks for until it asks for no more.
    pub(super) fn event(&mut self, event: Event) -> Vec<Command> {
        let (mut events, mut all) = (VecDeque::from([event]), Vec::new());
        while let Some(event) = events.pop_front() {
            let commands = self.scheduler.handle(self.now, DateTime::UNIX_EPOCH, event);
            self.scheduler.check();
            for command in &commands {
                match command {
                    Command::Store(write) => events.extend(self.write(write)),
                    Command::Send { connection, frame } => self.sent.push_back((*connection, frame.clone())),
                    Command::Notice(notice) => self.notices.push(notice.clone()),
                }
            }
            all.extend(commands);
        }
        all
    }

    fn write(&mut self, write: &Write) -> Option<Event> {
        match self.broken {
            None => self.database.apply(write),
            Some(takes_effect) => {
                if takes_effect {
                    self.database.apply(write);
                }
                write.answers_to().map(|program| Event::StoreFailed { program })
            }
        }
    }

    /// Somebody orders this, and it is recorded.
    pub(super) fn order(&mut self, operation: Operation) -> Vec<Command> {
        let by = Address::new("0x01");
        let at = self.database.record(&operation, &by);
        self.event(Event::Ordered { operation, by, at })
    }

    /// Turns the clock, stopping wherever the scheduler wants to be woken.
    pub(super) fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.scheduler.next_wakeup().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.event(Event::Tick);
        }
        self.now = end;
    }

    /// Turns the clock by whole heartbeats, during which these nodes stay alive and report what they are told to run.
    pub(super) fn live(&mut self, beats: u32, nodes: &[u8]) {
        for _ in 0..beats {
            self.advance(self.times.heartbeat());
            for number in nodes {
                self.beat_all(*number, &ReportedState::Ready);
            }
        }
    }

    pub(super) fn list(&mut self, nodes: &[u8]) {
        self.event(Event::NodesListed(nodes.iter().map(|number| registration(*number)).collect()));
    }

    pub(super) fn desire(&mut self, spec: &Arc<ProgramSpec>) -> Vec<Command> {
        self.event(Event::ProgramDesired { spec: spec.clone(), origin: Origin::Published })
    }

    pub(super) fn gone(&mut self, number: u8) {
        self.event(Event::ProgramGone { program: program(number), evidence: Gone::Forgotten });
    }

    pub(super) fn connect(&mut self, number: u8, memory: u64) {
        self.next_connection += 1;
        let connection = ConnectionId(self.next_connection);
        self.connections.insert(node(number), (connection, 0));
        self.capacities.insert(node(number), capacity(memory));
        let url = format!("http://node-{number}");
        self.event(Event::NodeConnected {
            node: node(number),
            connection,
            account: account(number),
            url,
            software: "test".into(),
        });
    }

    pub(super) fn disconnect(&mut self, number: u8) {
        let (connection, _) = self.connections.remove(&node(number)).unwrap();
        self.event(Event::NodeDisconnected { node: node(number), connection });
    }

    /// Sends a heartbeat with these reports and applies the grant that answers it.
    pub(super) fn beat(&mut self, number: u8, reports: &[ProgramReport]) -> Grant {
        self.beat_with(number, |heartbeat| heartbeat.programs = reports.to_vec())
    }

    pub(super) fn beat_with(&mut self, number: u8, change: impl FnOnce(&mut Heartbeat)) -> Grant {
        let id = node(number);
        let (connection, sequence) = self.connections.get_mut(&id).unwrap();
        *sequence += 1;
        let mut heartbeat = Heartbeat {
            sequence: *sequence,
            capacity: self.capacities[&id].clone(),
            applied: self.applied.get(&id).cloned(),
            programs: Vec::new(),
            draining: None,
            heard: (*sequence > 1).then(|| *sequence - 1),
            data: self.data.get(&id).cloned().unwrap_or_default(),
        };
        change(&mut heartbeat);
        let (connection, sequence) = (*connection, heartbeat.sequence);
        self.sent.clear();
        self.event(Event::Heartbeat { node: id, connection, heartbeat });
        let grant = self.sent.iter().find_map(|(to, frame)| match frame {
            FromScheduler::Grant(grant) if *to == connection && grant.sequence == sequence => Some(grant.clone()),
            _ => None,
        });
        let grant = grant.expect("every heartbeat is answered");
        self.applied.insert(id, grant.set.clone());
        grant
    }

    /// Sends a heartbeat that reports everything that the node shall run as being in this state.
    pub(super) fn beat_all(&mut self, number: u8, state: &ReportedState) -> Grant {
        let reports: Vec<_> = self
            .set(number)
            .into_iter()
            .filter(|entry| entry.directive == Directive::Run)
            .map(|entry| report(entry.program, entry.epoch, state.clone()))
            .collect();
        self.beat(number, &reports)
    }

    /// What the scheduler would tell the node now.
    pub(super) fn set(&self, number: u8) -> Vec<SetEntry> {
        self.scheduler.nodes[&node(number)].set.entries()
    }

    pub(super) fn state(&self, number: u8) -> ProgramState {
        self.scheduler.program_view(program(number)).unwrap().state
    }

    /// Where a program is assigned, and under which epoch.
    pub(super) fn place(&self, number: u8) -> Option<(NodeId, u64)> {
        let view = self.scheduler.program_view(program(number))?;
        Some((view.place?.node, view.epoch?.get()))
    }

    pub(super) fn reason(&self, number: u8) -> String {
        let view = self.scheduler.program_view(program(number)).unwrap();
        let offers = self.scheduler.nodes.values().map(|node| &node.offer);
        view.note
            .unwrap_or_else(|| crate::core::placement::explain(&view.spec, offers, |node| view.avoids.contains(&node)))
    }

    pub(super) fn took_notice(&self, wanted: &Notice) -> bool {
        self.notices.contains(wanted)
    }
}

pub(super) fn report(program: ProgramId, epoch: Epoch, state: ReportedState) -> ProgramReport {
    ProgramReport { program, epoch, state, for_ms: 0, restarts: 0 }
}

pub(super) fn run(number: u8, epoch: u64) -> SetEntry {
    SetEntry { program: program(number), epoch: Epoch::new(epoch), directive: Directive::Run }
}

pub(super) fn release(number: u8, epoch: u64) -> SetEntry {
    SetEntry { directive: Directive::Release, ..run(number, epoch) }
}

pub(super) fn says(number: u8, epoch: u64, state: ReportedState) -> ProgramReport {
    report(program(number), Epoch::new(epoch), state)
}

/// Whether commands ask the database for anything.
pub(super) fn writes(commands: &[Command]) -> bool {
    commands.iter().any(|command| matches!(command, Command::Store(_)))
}

impl Scheduler {
    /// Checks that what is kept twice agrees, that nothing is overcommitted, and that nobody waits who could be placed.
    pub(super) fn check(&self) {
        use crate::core::assignment::Stage;
        use crate::core::data::Sources;
        use crate::core::desired::Needs;
        use crate::core::placement::choose;

        let mut used: BTreeMap<NodeId, (Needs, u32)> = BTreeMap::new();
        for (id, program) in &self.programs {
            let keeper = program.data.as_ref().and_then(|data| data.keeper());
            for node in program.stage.occupies(keeper).into_iter().chain([keeper]).flatten() {
                let (needs, programs) = used.entry(node).or_default();
                needs.vcpus += program.spec.needs.vcpus;
                needs.memory_mib += program.spec.needs.memory_mib;
                needs.disk_mib += program.spec.needs.disk_mib;
                needs.pool_mib += program.spec.needs.pool_mib;
                *programs += 1;
            }
            if let Some((node, entry)) = program.stage.entry(*id) {
                assert!(self.nodes[&node].set.entries().contains(&entry), "the set lacks {entry:?}");
            }
            let waits = matches!(program.stage, Stage::Unplaced) && program.gone.is_none();
            // A program that ran before may have to wait for the brake.
            let braked = program.last_epoch.is_some() && self.brake.holds(self.now);
            let may_start = program.data.as_ref().is_none_or(|data| {
                matches!(data.sources(self.now, self.policy.restore_after), Sources::Anywhere | Sources::Archive(_))
            });
            if waits && may_start && !braked && program.held_until.is_none_or(|until| until <= self.now) {
                let offers = self.nodes.values().map(|node| &node.offer);
                let fits = choose(&program.spec, offers, |node| program.avoids(node, self.now));
                assert_eq!(fits, None, "{id} waits although a node fits");
            }
        }
        for (id, node) in &self.nodes {
            let (needs, programs) = used.remove(id).unwrap_or_default();
            assert_eq!((node.offer.used, node.offer.programs), (needs, programs), "the room of {id}");
            if let Some(capacity) = &node.offer.capacity {
                assert!(needs.memory_mib <= capacity.memory_mib, "{id} is overcommitted");
                assert!(needs.pool_mib <= capacity.pool_mib, "the pool of {id} is overcommitted");
            }
            for program in node.set.programs() {
                assert!(self.programs[&program].stage.entry(program).is_some_and(|(node, _)| node == *id));
            }
        }
        assert!(used.is_empty(), "room is taken on nodes that are not known: {used:?}");
    }
}
