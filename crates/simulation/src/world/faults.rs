//! What goes wrong. Each world draws which kinds of faults it has and how often they strike: worlds with few kinds go deep,
//! worlds with many go wide.

mod archive;
mod people;
mod store;

use std::collections::BTreeSet;
use std::time::Duration;

use lease::{LeaseConfig, LeaseTimes};
use scheduler::core::leadership::leadership_times;
use volumes::replication::core::Pace;

use crate::chance::Chance;
use crate::options::Options;
use crate::time::Moment;

use super::message_node::Act;
use super::sandbox::Request;
use super::{AgentRun, Happening, MachineId, Place, SchedulerId, World, say};

/// How long programs have when their node is stopped in order.
const STOP_GRACE: Duration = Duration::from_secs(5);

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

pub(super) use archive::Use;

impl Fault {
    /// Whether only programs whose data is archived suffer from it.
    fn is_of_archive(self) -> bool {
        matches!(
            self,
            Self::SilenceArchive
                | Self::RotArchive
                | Self::CutArchive
                | Self::CrashArchiving
                | Self::CrashRestoring
                | Self::FillArchiving
                | Self::LoseCopies
                | Self::GoBack
        )
    }

    /// Whether it came with the archive: worlds without are what they were.
    fn is_new(self) -> bool {
        self.is_of_archive() || matches!(self, Self::MoveProgram | Self::ForgetMoving)
    }
}

faults! {
    SlowPath = "messages delayed",
    BreakWire = "connection broken, messages lost",
    CutBoth = "partition",
    CutUp = "one-way partition, to the scheduler",
    CutDown = "one-way partition, to the node",
    CutAll = "all nodes vanish",
    KillAgent = "agent killed",
    PauseAgent = "agent paused",
    StopAgent = "agent stopped in order",
    KillSupervisor = "supervisor killed",
    PauseSupervisor = "supervisor paused",
    CrashMachine = "machine crashed",
    CrashAll = "all machines crashed",
    LoseMachine = "machine lost with everything",
    SuspendMachine = "machine suspended",
    JumpWall = "wall clock jumped",
    FillDisk = "disk full",
    FailSandboxes = "sandboxes cannot be made",
    FailFetches = "fetches fail",
    KillScheduler = "scheduler killed",
    PauseScheduler = "scheduler paused",
    MoveScheduler = "scheduler's machine rebooted",
    StoreRefuses = "store refuses",
    StoreSlow = "store slow",
    StoreFailsOver = "store fails over",
    StoreOldCopy = "store restored from an older copy",
    StoreLost = "store lost",
    StoreUnreadable = "stored programs unreadable",
    SilenceMessageNode = "message node silent",
    EmptyMessageNode = "message node lists nothing",
    Flood = "flood of programs",
    Withdraw = "node withdrawn",
    CutStore = "scheduler cut off from the store",
    Drain = "node drained",
    GiveUp = "dead node given up by an operator",
    CutPeers = "node cut off from the others",
    BreakStream = "copies broken off",
    DrainTwo = "two nodes drained",
    LoseStandby = "machine of a standby lost",
    SilenceArchive = "archive silent",
    RotArchive = "archived snapshot damaged",
    CutArchive = "streams to the archive cut off",
    CrashArchiving = "machine crashed while it archives",
    CrashRestoring = "machine crashed while it restores",
    FillArchiving = "disk full while archiving or restoring",
    LoseCopies = "all copies of a program lost",
    GoBack = "owner goes back to a snapshot",
    MoveProgram = "program moved by its owner",
    ForgetMoving = "program forgotten while it moves",
}

/// What this world is like.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) machines: u8,
    pub(crate) schedulers: u8,
    pub(crate) programs: u64,
    /// How many of a hundred programs have bad habits.
    pub(crate) trouble: u32,
    /// How many of a hundred programs have data, and how often it is looked whether it changed.
    pub(crate) with_data: u32,
    pace: Pace,
    /// How many of a hundred programs with data have it archived, how often, and after how long they go on with that.
    pub(crate) with_archive: u32,
    archive_interval: Duration,
    pub(crate) restore_after: Duration,
    kinds: Vec<Fault>,
    /// The longest time between two faults, in milliseconds.
    pause: u64,
    /// How many of a hundred strikes are acts of users.
    acts: u32,
    pub(crate) chaos: Duration,
    pub(crate) chaos_ends: Moment,
    /// The nodes that are not part of the network now.
    pub(crate) withdrawn: BTreeSet<MachineId>,
}

impl Plan {
    pub(crate) fn draw(
        chance: &mut Chance,
        data_chance: &mut Chance,
        archive_chance: &mut Chance,
        options: &Options,
    ) -> Self {
        let share = chance.one_of(&[10, 25, 60, 100]).unwrap_or(50);
        let drawn = Fault::ALL.iter().copied().filter(|fault| !fault.is_new()).filter(|fault| {
            let is_chosen = chance.percent(share);
            // A database that forgets is rare, and hides what else goes wrong.
            let is_rare = matches!(fault, Fault::StoreOldCopy | Fault::StoreLost) && !chance.percent(30);
            is_chosen && !is_rare
        });
        let drawn: Vec<_> = drawn.collect();
        let named = |names: &[&str]| Fault::ALL.iter().copied().filter(|f| names.contains(&f.name())).collect();
        let mut kinds: Vec<Fault> = options.faults.map_or(drawn, named);
        let shares: &[u32] = match options.faults {
            Some(_) if kinds.iter().any(|fault| fault.is_of_archive()) => &[60],
            Some(_) => &[0],
            None => &[0, 30, 60, 100],
        };
        let with_archive = archive_chance.one_of(shares).unwrap_or(0);
        if options.faults.is_none() {
            let share = archive_chance.one_of(&[25, 60, 100]).unwrap_or(50);
            let new = Fault::ALL.iter().copied().filter(|fault| fault.is_new());
            let drawn = new.filter(|_| archive_chance.percent(share));
            // Those that make programs use the archive come more often than those that disturb them at that.
            let times = |fault: &Fault| if matches!(fault, Fault::GoBack | Fault::LoseCopies) { 4 } else { 1 };
            let drawn = drawn.filter(|fault| with_archive > 0 || !fault.is_of_archive());
            kinds.extend(drawn.flat_map(|fault| std::iter::repeat_n(fault, times(&fault))));
        }
        let pauses: &[u64] = if options.faults.is_some() { &[400, 1500] } else { &[400, 1500, 5000] };
        let shares: &[u32] = if options.faults.is_some() { &[60] } else { &[0, 20, 50, 100] };
        let interval = data_chance.one_of(&[1, 1, 4]).unwrap_or(1);
        Self {
            with_data: data_chance.one_of(shares).unwrap_or(0),
            pace: Pace { interval: Duration::from_secs(interval), ..Pace::default() },
            with_archive,
            archive_interval: Duration::from_secs(archive_chance.one_of(&[2, 5, 15]).unwrap_or(5)),
            restore_after: Duration::from_secs(archive_chance.one_of(&[3, 10, 60]).unwrap_or(60)),
            kinds,
            schedulers: chance.one_of(&[1, 1, 2, 3]).unwrap_or(1),
            machines: u8::try_from(chance.between(2, 6)).unwrap_or(3),
            programs: chance.between(1, 12),
            trouble: chance.one_of(&[0, 20, 60]).unwrap_or(0),
            pause: chance.one_of(pauses).unwrap_or(1500),
            acts: chance.one_of(&[5, 20, 50]).unwrap_or(20),
            chaos: chance.millis(10_000, 45_000),
            chaos_ends: Moment::ZERO,
            withdrawn: BTreeSet::new(),
        }
    }

    /// Whether any program has data.
    pub(crate) fn has_data(&self) -> bool {
        self.with_data > 0
    }

    /// How often copies are brought up to date.
    pub(crate) fn pace(&self) -> Pace {
        self.pace
    }

    /// How often it is looked whether there is something to archive.
    pub(crate) fn archive_interval(&self) -> Duration {
        self.archive_interval
    }

    /// The constants of leadership, when there are several schedulers.
    pub(crate) fn leadership(&self) -> Option<LeaseTimes> {
        let times = leadership_times(LeaseConfig::default()).expect("the defaults fit together");
        (self.schedulers > 1).then_some(times)
    }
}

/// The names of all kinds.
pub(crate) fn fault_names() -> impl Iterator<Item = &'static str> {
    Fault::ALL.iter().map(|fault| fault.name())
}

impl World {
    /// A fault strikes, or a user acts; the next one follows.
    pub(super) fn strikes(&mut self) {
        if !self.is_chaotic {
            return;
        }
        if self.chance.percent(self.plan.acts) {
            let acts = [Act::Publish, Act::Publish, Act::Forget, Act::Unpay, Act::Update];
            let act = self.chance.one_of(&acts).unwrap_or(Act::Publish);
            self.act(act);
        } else if let Some(fault) = self.chance.one_of(&self.plan.kinds) {
            *self.tally.faults.entry(fault.name()).or_default() += 1;
            say!(self, "FAULT {}", fault.name());
            self.strike(fault);
        }
        if self.chance.percent(15) {
            self.store.copy();
        }
        let pause = self.chance.millis(1, self.plan.pause);
        self.after(pause, Happening::Strikes);
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::SlowPath | Fault::BreakWire | Fault::CutBoth | Fault::CutUp | Fault::CutDown | Fault::CutAll => {
                self.strike_network(fault);
            }
            Fault::KillAgent
            | Fault::PauseAgent
            | Fault::StopAgent
            | Fault::KillSupervisor
            | Fault::PauseSupervisor
            | Fault::CrashMachine
            | Fault::CrashAll
            | Fault::LoseMachine
            | Fault::SuspendMachine
            | Fault::FillDisk
            | Fault::FailSandboxes
            | Fault::FailFetches => self.strike_machine(fault),
            Fault::KillScheduler | Fault::PauseScheduler | Fault::MoveScheduler | Fault::JumpWall | Fault::CutStore => {
                self.strike_scheduler(fault);
            }
            Fault::StoreRefuses
            | Fault::StoreSlow
            | Fault::StoreFailsOver
            | Fault::StoreOldCopy
            | Fault::StoreLost
            | Fault::StoreUnreadable => self.strike_store(fault),
            Fault::SilenceMessageNode
            | Fault::EmptyMessageNode
            | Fault::Flood
            | Fault::Withdraw
            | Fault::Drain
            | Fault::DrainTwo
            | Fault::GiveUp => self.strike_users(fault),
            Fault::CutPeers | Fault::BreakStream | Fault::LoseStandby => self.strike_copies(fault),
            Fault::SilenceArchive
            | Fault::RotArchive
            | Fault::CutArchive
            | Fault::CrashArchiving
            | Fault::CrashRestoring
            | Fault::FillArchiving
            | Fault::LoseCopies
            | Fault::GoBack
            | Fault::MoveProgram
            | Fault::ForgetMoving => {
                let until = self.a_while();
                self.strike_archive(fault, until);
            }
        }
    }

    /// A time within the chaos: often short, sometimes longer than a lease.
    fn a_while(&mut self) -> Moment {
        let most = self.chance.one_of(&[1, 7, 20]).unwrap_or(7);
        let wait = self.chance.millis(20, most * 1000);
        (self.now + wait).min(self.plan.chaos_ends)
    }

    fn some_machine(&mut self) -> Option<MachineId> {
        let on: Vec<_> = self.machines.iter().filter(|machine| machine.is_on).map(|machine| machine.id).collect();
        self.chance.one_of(&on)
    }

    pub(super) fn some_scheduler(&mut self) -> SchedulerId {
        let ids = self.scheduler_ids();
        self.chance.one_of(&ids).unwrap_or(SchedulerId(0))
    }

    fn strike_network(&mut self, fault: Fault) {
        let until = self.a_while();
        let Some(machine) = self.some_machine() else { return };
        if fault == Fault::BreakWire {
            let wires: Vec<_> = self.wires.iter().filter(|(_, w)| w.machine == machine).map(|(id, _)| *id).collect();
            if let Some(wire) = self.chance.one_of(&wires) {
                self.break_wire(wire);
            }
            return;
        }
        let slow_by = self.chance.millis(50, 6000);
        // From all schedulers, or from one of them.
        let only = if self.chance.percent(60) { None } else { Some(self.some_scheduler()) };
        for ((id, scheduler), path) in &mut self.paths {
            if fault != Fault::CutAll && *id != machine || only.is_some_and(|only| only != *scheduler) {
                continue;
            }
            match fault {
                Fault::SlowPath => (path.slow_until, path.slow_by) = (until, slow_by),
                Fault::CutUp => path.up_cut_until = until,
                Fault::CutDown => path.down_cut_until = until,
                _ => (path.up_cut_until, path.down_cut_until) = (until, until),
            }
        }
        if matches!(fault, Fault::CutBoth | Fault::CutAll) && self.data_chance.percent(50) {
            self.machine_mut(machine).peers_cut_until = until;
        }
        say!(self, "  {machine} until {until}");
    }

    fn strike_machine(&mut self, fault: Fault) {
        let until = self.a_while();
        let Some(id) = self.some_machine() else { return };
        say!(self, "  {id} until {until}");
        let run = AgentRun(id, self.machine(id).run);
        match fault {
            Fault::KillAgent => {
                self.agent_dies(run);
                self.start_agent_in(id, until.since(self.now));
            }
            Fault::PauseAgent => {
                if let Some(agent) = &mut self.machine_mut(id).agent {
                    agent.paused_until = agent.paused_until.max(until);
                }
            }
            Fault::StopAgent => self.stop_agent(run, until),
            Fault::KillSupervisor | Fault::PauseSupervisor => self.strike_supervisor(id, until, fault),
            Fault::CrashMachine => self.crash(id, until, false),
            Fault::CrashAll => {
                for id in self.machine_ids() {
                    let until = self.a_while();
                    self.crash(id, until, false);
                }
            }
            Fault::LoseMachine => self.lose(id, until),
            Fault::SuspendMachine => self.machine_sleeps(id, until.since(self.now)),
            Fault::FillDisk => self.machine_mut(id).disk_full_until = until,
            Fault::FailSandboxes => self.machine_mut(id).faulty_until = until,
            _ => self.machine_mut(id).fetch_fails_until = until,
        }
    }

    fn crash(&mut self, id: MachineId, until: Moment, with_disk: bool) {
        if self.machine(id).is_on {
            self.machine_stops(id, with_disk);
            self.at(until, Happening::MachineBoots(id));
        }
    }

    /// For good, unless too few would be left; then an empty one takes its place.
    fn lose(&mut self, id: MachineId, until: Moment) {
        let on = self.machines.iter().filter(|machine| machine.is_on).count();
        if on > 2 && self.chance.percent(40) {
            self.machine_stops(id, true);
        } else {
            self.crash(id, until, true);
        }
    }

    fn strike_supervisor(&mut self, id: MachineId, until: Moment, fault: Fault) {
        let with = self.machine(id).sandboxes.iter().filter(|(_, sandbox)| sandbox.supervisor.is_some());
        let sandboxes: Vec<_> = with.map(|(sandbox, _)| *sandbox).collect();
        let Some(sandbox) = self.chance.one_of(&sandboxes) else { return };
        let place = Place(id, sandbox);
        if fault == Fault::KillSupervisor {
            self.kill_supervisor(place);
        } else if let Some(supervisor) = self.sandbox_mut(place).and_then(|sandbox| sandbox.supervisor.as_mut()) {
            supervisor.paused_until = supervisor.paused_until.max(until);
        }
    }

    /// The operator stops a node: it stops everything, and its process ends then.
    fn stop_agent(&mut self, run: AgentRun, until: Moment) {
        let Some(agent) = self.agent(run) else { return };
        let sandboxes: Vec<_> = agent.tasks.values().filter_map(|task| task.sandbox).collect();
        for sandbox in sandboxes {
            self.send_request(Place(run.0, sandbox), Request::Stop(STOP_GRACE));
        }
        self.agent_dies(run);
        self.start_agent_in(run.0, until.since(self.now));
    }

    fn strike_scheduler(&mut self, fault: Fault) {
        let until = self.a_while();
        let id = self.leader();
        let jump = self.chance.signed(-100_000_000_000, 100_000_000_000);
        let now = self.now;
        match fault {
            Fault::PauseScheduler => {
                let host = self.host_mut(id);
                host.paused_until = host.paused_until.max(until);
                say!(self, "  {id} until {until}");
            }
            Fault::CutStore => self.cut_from_store(id, until),
            Fault::JumpWall => match self.some_machine() {
                Some(machine) if self.chance.percent(70) => {
                    self.checker.data.walls_jumped = true;
                    say!(self, "  {machine} by {} ms", jump / 1_000_000);
                    self.machine_mut(machine).clock.jump_wall(jump);
                }
                _ => self.host_mut(id).clock.jump_wall(jump),
            },
            _ => {
                if self.chance.percent(25) {
                    self.resign(id);
                }
                self.scheduler_dies(id);
                if fault == Fault::MoveScheduler {
                    self.host_mut(id).clock.reboot(now);
                }
                self.start_scheduler_in(id, until.since(now));
            }
        }
    }

    /// What only copies of data suffer from.
    fn strike_copies(&mut self, fault: Fault) {
        let until = self.a_while();
        let streams: Vec<_> = self.streams.keys().copied().collect();
        let stream = self.data_chance.one_of(&streams);
        match (fault, stream) {
            (Fault::CutPeers, _) => {
                let Some(id) = self.some_machine() else { return };
                say!(self, "  {id} until {until}");
                self.machine_mut(id).peers_cut_until = until;
            }
            (Fault::LoseStandby, Some(stream)) => {
                let standby = self.streams[&stream].standby();
                self.lose(standby, until);
            }
            (_, Some(stream)) => self.break_stream(stream),
            (_, None) => {}
        }
    }
}
