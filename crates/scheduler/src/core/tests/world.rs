//! A small world around the core: nodes that hold leases as real ones do, channels that delay and break, a database that
//! fails, a scheduler that crashes. Whatever happens in it, at most one node may run a program.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chrono::DateTime;
use lease::{BootTime, HolderDeadline, LeaseTimes};
use protocol::control::{Directive, FromScheduler, Grant, Heartbeat, Refusal, ReportedState, SetEntry, SetVersion};
use protocol::operation::Operation;
use protocol::{Address, Epoch, NodeId, ProgramId};

use super::bench::{Database, capacity, node, program, registration, report, spec};
use crate::core::event::{ConnectionId, Origin};
use crate::core::{Command, Event, Gone, Policy, Scheduler, Write};

pub(super) const NODES: u8 = 3;
pub(super) const PROGRAMS: u8 = 4;

/// Something that chance can do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Pass(u16),
    Desire(u8),
    Forget(u8),
    /// Somebody wants a program to run on this node; on any other than its own when there is none.
    Move(u8, Option<u8>),
    CancelMove(u8),
    ListNodes(u8),
    Withdraw(u8),
    Connect(u8),
    Disconnect(u8),
    /// The node sends a heartbeat.
    Beat(u8),
    /// A heartbeat, or a frame of the scheduler, arrives.
    ArriveUp(u8),
    ArriveDown(u8),
    /// A node talks with the scheduler, which talks with its database, all without delay.
    Talk(u8),
    /// The node's agent stops, and goes on. Its supervisors do not stop.
    Freeze(u8),
    Thaw(u8),
    Reboot(u8),
    /// The node takes nothing new, or fails what it runs.
    Moody(u8, bool, bool),
    /// A release takes effect.
    Stop(u8),
    /// The database answers the oldest write.
    Answer,
    Fail {
        takes_effect: bool,
    },
    /// The scheduler ends, and another starts on the same database or on a new one.
    Crash {
        loses_database: bool,
    },
    Repeat,
}

/// What a node runs, as its supervisors see it.
#[derive(Debug, Clone)]
struct Held {
    epoch: Epoch,
    deadline: HolderDeadline,
    state: HeldState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeldState {
    Running,
    Stopping,
    Released,
    Refused,
}

#[derive(Debug, Default)]
struct Machine {
    frozen: bool,
    refuses: bool,
    fails: bool,
    connection: Option<ConnectionId>,
    sequence: u64,
    sent: BTreeMap<u64, BootTime>,
    applied: Option<SetVersion>,
    set: Vec<SetEntry>,
    held: BTreeMap<ProgramId, Held>,
    /// Survives reboots.
    highest: BTreeMap<ProgramId, Epoch>,
    up: VecDeque<Heartbeat>,
    down: VecDeque<FromScheduler>,
}

impl Machine {
    fn runs(&self, program: ProgramId, now: BootTime) -> bool {
        let held = self.held.get(&program);
        held.is_some_and(|h| matches!(h.state, HeldState::Running | HeldState::Stopping) && now < h.deadline.fuse)
    }

    fn beat(&mut self, now: BootTime) {
        self.sequence += 1;
        self.sent.insert(self.sequence, now);
        let reports = self.held.iter().map(|(program, held)| {
            let state = match held.state {
                HeldState::Running if self.fails => ReportedState::Failing(protocol::control::Failure {
                    kind: protocol::control::FailureKind::NodeFault,
                    message: String::new(),
                }),
                HeldState::Running if now < held.deadline.fuse => ReportedState::Ready,
                HeldState::Running | HeldState::Stopping => ReportedState::Stopping,
                HeldState::Released => ReportedState::Released,
                HeldState::Refused => match self.highest.get(program) {
                    Some(highest) if *highest > held.epoch => {
                        ReportedState::Refused(Refusal::StaleEpoch { highest: *highest })
                    }
                    _ => ReportedState::Refused(Refusal::NoCapacity),
                },
            };
            report(*program, held.epoch, state)
        });
        let heartbeat = Heartbeat {
            sequence: self.sequence,
            capacity: capacity(1000),
            applied: self.applied.clone(),
            programs: reports.collect(),
            draining: None,
            heard: None,
            data: Vec::new(),
        };
        self.up.push_back(heartbeat);
    }

    fn receive(&mut self, frame: FromScheduler, times: &LeaseTimes, now: BootTime) {
        let grant = match frame {
            FromScheduler::Grant(grant) => grant,
            _ if self.connection.is_some() => return self.beat(now),
            _ => return,
        };
        let Grant { sequence, set, entries, .. } = grant;
        match entries {
            Some(entries) => {
                self.set = entries;
                self.applied = Some(set);
            }
            None if self.applied.as_ref() == Some(&set) => {}
            None => return,
        }
        let Some(sent) = self.sent.get(&sequence).copied() else { return };
        for entry in self.set.clone() {
            match entry.directive {
                Directive::Run => self.run(&entry, times.holder(sent), now),
                Directive::Release => self.release(&entry),
            }
        }
        let set = &self.set;
        self.held.retain(|program, held| {
            let is_over = matches!(held.state, HeldState::Released | HeldState::Refused);
            !is_over || set.iter().any(|entry| entry.program == *program)
        });
    }

    fn run(&mut self, entry: &SetEntry, deadline: HolderDeadline, now: BootTime) {
        let highest = self.highest.entry(entry.program).or_insert(entry.epoch);
        let same = self.held.get(&entry.program).filter(|held| held.epoch == entry.epoch);
        let state = match same {
            _ if *highest > entry.epoch => HeldState::Refused,
            // The worst that a node may do: it takes up again what it had given up, as long as it is told to run it.
            Some(held) if held.state == HeldState::Stopping => HeldState::Stopping,
            Some(held) if held.state == HeldState::Running && now < held.deadline.fuse => HeldState::Running,
            _ if self.refuses => HeldState::Refused,
            _ if deadline.fuse <= now => HeldState::Refused,
            _ => HeldState::Running,
        };
        *highest = entry.epoch.max(*highest);
        let deadline = same.map_or(deadline, |held| held.deadline.extended_by(deadline));
        self.held.insert(entry.program, Held { epoch: entry.epoch, deadline, state });
    }

    fn release(&mut self, entry: &SetEntry) {
        let now_over = BootTime::BOOT;
        let deadline = HolderDeadline { soft: now_over, kill: now_over, fuse: now_over };
        let nothing = Held { epoch: entry.epoch, deadline, state: HeldState::Released };
        let held = self.held.entry(entry.program).or_insert(nothing);
        if held.epoch == entry.epoch && held.state == HeldState::Running {
            held.state = HeldState::Stopping;
        } else if held.epoch == entry.epoch && held.state == HeldState::Refused {
            held.state = HeldState::Released;
        }
    }

    fn reboot(&mut self) {
        let highest = std::mem::take(&mut self.highest);
        let (refuses, fails) = (self.refuses, self.fails);
        *self = Self { highest, refuses, fails, ..Self::default() };
    }
}

/// See the module.
pub(super) struct World {
    pub(super) scheduler: Scheduler,
    times: LeaseTimes,
    now: BootTime,
    database: Database,
    writes: VecDeque<Write>,
    machines: BTreeMap<NodeId, Machine>,
    next_connection: u64,
    processes: u32,
    memory: u64,
    /// What the message node says.
    pub(super) desired: BTreeMap<u8, bool>,
    /// Everything that the scheduler asked for.
    pub(super) log: Vec<String>,
}

impl World {
    pub(super) fn new(memory: u64) -> Self {
        let times = LeaseTimes::default();
        let mut world = Self {
            scheduler: Scheduler::new(times, Policy::default(), String::new()),
            times,
            now: BootTime::from_nanos(1_000_000_000_000),
            database: Database { is_complete: true, ..Database::default() },
            writes: VecDeque::new(),
            machines: (1..=NODES).map(|number| (node(number), Machine::default())).collect(),
            next_connection: 0,
            processes: 0,
            memory,
            desired: BTreeMap::new(),
            log: Vec::new(),
        };
        world.crash();
        world
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Pass(millis) => self.pass(Duration::from_millis(millis.into())),
            Act::Desire(number) => {
                let is_new = self.desired.insert(number, true).is_none();
                let spec = spec(number, self.memory);
                let origin = if is_new { Origin::Published } else { Origin::Listed };
                self.event(Event::ProgramDesired { spec, origin });
            }
            Act::Forget(number) => {
                self.desired.insert(number, false);
                self.event(Event::ProgramGone { program: program(number), evidence: Gone::Forgotten });
            }
            Act::Move(number, to) => {
                self.order(Operation::Move { program: program(number), to: to.map(node) });
            }
            Act::CancelMove(number) => self.order(Operation::CancelMove { program: program(number) }),
            Act::ListNodes(but) => {
                let list = (1..=NODES).filter(|number| *number != but).map(registration).collect();
                self.event(Event::NodesListed(list));
            }
            Act::Withdraw(number) => self.event(Event::NodeGone { node: node(number) }),
            Act::Connect(number) => self.connect(number),
            Act::Disconnect(number) => self.disconnect(number),
            Act::Beat(number) => {
                let now = self.now;
                let machine = self.machine(number);
                if machine.connection.is_some() && !machine.frozen {
                    machine.beat(now);
                }
            }
            Act::ArriveUp(number) => {
                let machine = self.machine(number);
                if let (Some(connection), Some(heartbeat)) = (machine.connection, machine.up.pop_front()) {
                    self.event(Event::Heartbeat { node: node(number), connection, heartbeat });
                }
            }
            Act::ArriveDown(number) => {
                let (times, now) = (self.times, self.now);
                let machine = self.machine(number);
                if !machine.frozen
                    && let Some(frame) = machine.down.pop_front()
                {
                    machine.receive(frame, &times, now);
                }
            }
            Act::Talk(number) => self.talk(number),
            Act::Freeze(number) => self.machine(number).frozen = true,
            Act::Thaw(number) => self.machine(number).frozen = false,
            Act::Reboot(number) => {
                self.disconnect(number);
                self.machine(number).reboot();
            }
            Act::Moody(number, refuses, fails) => {
                let machine = self.machine(number);
                (machine.refuses, machine.fails) = (refuses, fails);
            }
            Act::Stop(number) => {
                for held in self.machine(number).held.values_mut() {
                    if held.state == HeldState::Stopping {
                        held.state = HeldState::Released;
                    }
                }
            }
            Act::Answer => self.answer(),
            Act::Fail { takes_effect } => {
                if let Some(write) = self.writes.pop_front() {
                    if takes_effect {
                        self.database.apply(&write);
                    }
                    if let Some(program) = write.answers_to() {
                        self.event(Event::StoreFailed { program });
                    }
                }
            }
            Act::Crash { loses_database } => {
                if loses_database {
                    self.database = Database::default();
                }
                self.crash();
            }
            Act::Repeat => self.repeat(),
        }
        self.check();
    }

    /// All heals: everybody is there, talks without delay and does as told, until all is as it should be. Long enough for the
    /// longest time that a node is left alone after it refused or failed a program.
    pub(super) fn heal(&mut self, is_well: impl Fn(&Self) -> bool) {
        for number in 1..=NODES {
            self.act(Act::Thaw(number));
            self.act(Act::Moody(number, false, false));
            self.act(Act::Disconnect(number));
            self.act(Act::Connect(number));
        }
        self.act(Act::ListNodes(0));
        for _ in 0..320 {
            if is_well(self) {
                return;
            }
            for number in 1..=NODES {
                self.act(Act::Stop(number));
                self.act(Act::Talk(number));
            }
            self.act(Act::Pass(u16::try_from(self.times.heartbeat().as_millis()).unwrap()));
        }
    }

    fn talk(&mut self, number: u8) {
        if self.machine(number).frozen {
            return;
        }
        self.act(Act::Connect(number));
        self.act(Act::Beat(number));
        while !self.machine(number).up.is_empty() || !self.machine(number).down.is_empty() || !self.writes.is_empty() {
            self.act(Act::ArriveUp(number));
            self.act(Act::ArriveDown(number));
            self.act(Act::Answer);
        }
    }

    /// On how many nodes a program runs.
    pub(super) fn running(&self, number: u8) -> usize {
        self.machines.values().filter(|machine| machine.runs(program(number), self.now)).count()
    }

    /// An order that the scheduler does not object to is recorded, then carried out.
    fn order(&mut self, operation: Operation) {
        if self.scheduler.objection(&operation).is_none() {
            let by = Address::new("0x01");
            let at = self.database.record(&operation, &by);
            self.event(Event::Ordered { operation, by, at });
        }
    }

    fn machine(&mut self, number: u8) -> &mut Machine {
        self.machines.get_mut(&node(number)).unwrap()
    }

    fn event(&mut self, event: Event) {
        let commands = self.scheduler.handle(self.now, DateTime::UNIX_EPOCH, event);
        for command in commands {
            self.log.push(format!("{command:?}"));
            match command {
                Command::Store(write) => {
                    let same = |other: &&Write| other.answers_to() == write.answers_to();
                    let twice = write.answers_to().is_some() && self.writes.iter().any(|other| same(&other));
                    assert!(!twice, "two writes for one program are under way: {write:?}");
                    self.writes.push_back(write);
                }
                Command::Send { connection, frame } => {
                    let to = self.machines.values_mut().find(|machine| machine.connection == Some(connection));
                    to.expect("only open connections are used").down.push_back(frame);
                }
                Command::Notice(_) => {}
            }
        }
    }

    fn answer(&mut self) {
        let Some(write) = self.writes.pop_front() else { return };
        let before = self.database.clone();
        if let Some(event) = self.database.apply(&write) {
            if let Write::Assign { spec, .. } = &write
                && !before.open.contains_key(&spec.id)
            {
                let (old, new) = (before.epochs.get(&spec.id), self.database.epochs.get(&spec.id));
                assert!(old < new, "epochs only grow");
            }
            self.event(event);
        }
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.scheduler.next_wakeup().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.event(Event::Tick);
            self.check();
        }
        self.now = end;
    }

    fn connect(&mut self, number: u8) {
        if self.machine(number).connection.is_some() {
            return;
        }
        self.next_connection += 1;
        let connection = ConnectionId(self.next_connection);
        self.machine(number).connection = Some(connection);
        let url = format!("http://node-{number}");
        self.event(Event::NodeConnected {
            node: node(number),
            connection,
            account: Address::new("0x01"),
            url,
            software: String::new(),
        });
    }

    fn disconnect(&mut self, number: u8) {
        let machine = self.machine(number);
        machine.up.clear();
        machine.down.clear();
        if let Some(connection) = machine.connection.take() {
            self.event(Event::NodeDisconnected { node: node(number), connection });
        }
    }

    /// The scheduler ends, and what it had not written is lost. Another one starts.
    fn crash(&mut self) {
        self.writes.clear();
        for machine in self.machines.values_mut() {
            machine.up.clear();
            machine.down.clear();
            machine.connection = None;
        }
        self.processes += 1;
        self.scheduler = Scheduler::new(self.times, Policy::default(), format!("process {}", self.processes));
        let restored = self.database.restore(self.times.longest_wait());
        self.event(Event::Restored(Box::new(restored)));
        for (number, desired) in self.desired.clone() {
            let (program, evidence) = (program(number), Gone::Forgotten);
            match desired {
                true => {
                    let spec = spec(number, self.memory);
                    self.event(Event::ProgramDesired { spec, origin: Origin::Listed });
                }
                false => self.event(Event::ProgramGone { program, evidence }),
            }
        }
    }

    /// The same news once more brings about nothing.
    fn repeat(&mut self) {
        let before = self.log.len();
        for (number, desired) in self.desired.clone() {
            if desired {
                let spec = spec(number, self.memory);
                self.event(Event::ProgramDesired { spec, origin: Origin::Listed });
            } else {
                self.event(Event::ProgramGone { program: program(number), evidence: Gone::Forgotten });
            }
        }
        self.event(Event::Tick);
        assert_eq!(self.log.len(), before, "the same news twice: {:?}", &self.log[before..]);
    }

    fn check(&self) {
        self.scheduler.check();
        for number in 1..=PROGRAMS {
            let nodes = || self.machines.iter().filter(|(_, machine)| machine.runs(program(number), self.now));
            let epochs: Vec<_> = nodes().map(|(node, machine)| (node, machine.held[&program(number)].epoch)).collect();
            assert!(epochs.len() <= 1, "I1: program {number} runs on {epochs:?}");
        }
    }
}
