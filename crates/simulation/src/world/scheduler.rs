//! A scheduler's process: the shell around the core, with its connections and its queue of writes.
//!
//! A world has one that uses the store alone, or several of which one leads: see [`super::leadership`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lease::IssuerExpiry;
use protocol::control::{Directive, FromScheduler, Grant, Heartbeat, ProgramReport, ReportedState};
use protocol::data::DataOrder;
use protocol::{Address, Epoch, NodeId, ProgramId};
use scheduler::core::leadership::Watch;
use scheduler::core::{Cause, Command, ConnectionId, Event, Loss, Notice, Policy, Scheduler, Write};

use crate::check::Invariant;
use crate::check::data::Recorded;
use crate::store::{Outcome, Wish};
use crate::time::{Clock, Moment};
use crate::trap::Trap;

use super::leadership::Term;
use super::wire::{Down, Up};
use super::{Happening, MachineId, Run, SchedulerId, SchedulerRun, World, machine_of, name, say};

/// As in the product: changes in one transaction at most, and the least time that a connection may be silent.
const MAX_BATCH: usize = 256;
const LEAST_SILENCE: Duration = Duration::from_secs(10);

/// Where a scheduler runs.
#[derive(Debug)]
pub(crate) struct SchedulerHost {
    pub(crate) id: SchedulerId,
    pub(crate) clock: Clock,
    pub(crate) run: Run,
    pub(crate) process: Option<Process>,
    pub(crate) paused_until: Moment,
    /// Whether its process runs, as the leader or not.
    pub(crate) is_up: bool,
    /// What it knows about the one that leads, while it does not itself.
    pub(crate) watch: Option<Watch>,
    /// Until then it cannot reach the database.
    pub(crate) cut_until: Moment,
    /// Whoever restored an older copy of the database lets nothing start before.
    pub(crate) not_before: Moment,
}

/// A scheduler that decides.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) core: Scheduler,
    /// Its time as the leader; `None` when it has the database for itself.
    pub(super) term: Option<Term>,
    /// The standbys that the database named when it began. Their room may have been given away since.
    pub(crate) restored_standbys: Vec<(ProgramId, NodeId)>,
    armed: Option<Moment>,
    /// The connections that greeted, and the newest of each node.
    connections: BTreeMap<ConnectionId, NodeId>,
    newest: BTreeMap<NodeId, ConnectionId>,
    queue: Vec<Write>,
    /// What is written again, before the next.
    unwritten: Vec<Write>,
    /// The transaction that is under way.
    batch: Vec<Write>,
    /// The programs that its follower knows as desired.
    pub(super) known: BTreeSet<ProgramId>,
    /// Those of which it does not know more than the id.
    pub(super) unread: BTreeSet<ProgramId>,
    pub(super) has_stream: bool,
    /// What a trap takes for the state of programs.
    last_words: BTreeMap<ProgramId, ReportedState>,
    pub(super) pause: Duration,
}

impl SchedulerHost {
    pub(crate) fn new(id: SchedulerId, clock: Clock) -> Self {
        let never = Moment::ZERO;
        let (paused_until, cut_until, not_before) = (never, never, never);
        Self { id, clock, run: Run(0), process: None, paused_until, is_up: false, watch: None, cut_until, not_before }
    }
}

impl World {
    pub(crate) fn process(&self, SchedulerRun(id, run): SchedulerRun) -> Option<&Process> {
        let host = self.host(id);
        host.process.as_ref().filter(|_| host.run == run)
    }

    pub(super) fn process_mut(&mut self, SchedulerRun(id, run): SchedulerRun) -> Option<&mut Process> {
        let host = self.host_mut(id);
        if host.run == run { host.process.as_mut() } else { None }
    }

    /// Puts off what a scheduler cannot do now. Returns whether it did.
    pub(super) fn scheduler_puts_off(&mut self, run: SchedulerRun, happening: impl FnOnce() -> Happening) -> bool {
        let host = self.host(run.0);
        let until = host.paused_until;
        let puts_off = until > self.now && host.run == run.1;
        if puts_off {
            self.at(until, happening());
        }
        puts_off
    }

    pub(super) fn start_scheduler_in(&mut self, id: SchedulerId, wait: Duration) {
        let at = self.now + wait;
        let host = self.host_mut(id);
        host.run = Run(host.run.0 + 1);
        let (run, at) = (host.run, at.max(host.not_before));
        self.at(at, Happening::SchedulerStarts(id, run));
    }

    pub(super) fn scheduler_starts(&mut self, id: SchedulerId, number: Run) {
        let host = self.host_mut(id);
        if host.run != number || std::mem::replace(&mut host.is_up, true) {
            return;
        }
        say!(self, "{id} starts (run {})", number.0);
        match self.leadership {
            None => self.begin_term(SchedulerRun(id, number), None),
            Some(_) => self.follow_leader(SchedulerRun(id, number)),
        }
    }

    /// From here on it decides: it reads the database, and begins to follow the message node.
    pub(super) fn begin_term(&mut self, run @ SchedulerRun(id, number): SchedulerRun, term: Option<Term>) {
        if self.has_trap(Trap::NoWaitAfterRestart) {
            self.store.database.close_all();
        }
        self.checker.data.scheduler_begins();
        let restored = self.store.database.restore(self.times.longest_wait());
        let (known, unread) = (restored.known(), restored.unread());
        say!(self, "{id} knows of {} assignments", restored.assignments.len());
        let policy = Policy { restore_after: self.plan.restore_after, ..Policy::default() };
        let core = Scheduler::new(self.times, policy, format!("{id} run {}", number.0));
        self.host_mut(id).process = Some(Process {
            core,
            term,
            restored_standbys: restored.standbys.clone(),
            armed: None,
            connections: BTreeMap::new(),
            newest: BTreeMap::new(),
            queue: Vec::new(),
            unwritten: Vec::new(),
            batch: Vec::new(),
            known,
            unread,
            has_stream: false,
            last_words: BTreeMap::new(),
            pause: Duration::ZERO,
        });
        self.tell_scheduler(run, Event::Restored(Box::new(restored)));
        let (nodes, programs) = (self.chance.millis(2, 200), self.chance.millis(2, 200));
        self.after(nodes, Happening::ListsNodes(run));
        self.after(programs, Happening::ListsPrograms(run));
    }

    /// The process ends at once.
    pub(super) fn scheduler_dies(&mut self, id: SchedulerId) {
        let host = self.host_mut(id);
        host.paused_until = Moment::ZERO;
        host.watch = None;
        if std::mem::replace(&mut host.is_up, false) {
            say!(self, "{id} ends");
        }
        self.end_process(id);
    }

    /// It decides no more. What it was writing may or may not take effect.
    pub(super) fn end_process(&mut self, id: SchedulerId) {
        let epoch = self.clock_epoch(id);
        let run = SchedulerRun(id, self.host(id).run);
        let Some(process) = self.host_mut(id).process.take() else { return };
        if !process.batch.is_empty() {
            self.store.abandon(&process.batch, process.term.map(|term| term.epoch), epoch);
            self.note_losses(run);
        }
        let open: Vec<_> = self.wires.iter().filter(|(_, wire)| wire.scheduler == id).map(|(wire, _)| *wire).collect();
        for wire in open {
            self.close_at_scheduler(wire);
        }
        self.scheduler_is_lost_to_gateways(id);
    }

    pub(super) fn tell_scheduler(&mut self, run: SchedulerRun, event: Event) {
        let host = self.host(run.0);
        let (now, wall) = (host.clock.boot_time(self.now), host.clock.wall(self.now));
        let Some(process) = self.process_mut(run) else { return };
        let commands = process.core.handle(now, wall, event);
        let changes = process.core.take_changes();
        for command in commands {
            match command {
                Command::Store(write) => self.queue_write(run, write),
                Command::Send { connection, frame } => self.scheduler_sends(run, connection, frame),
                Command::Notice(notice) => self.notice(run, &notice),
            }
        }
        for node in changes.nodes {
            self.check_offer(run, node);
        }
        self.arm_scheduler(run);
    }

    fn arm_scheduler(&mut self, run: SchedulerRun) {
        let Some(at) = self.process(run).and_then(|process| process.core.next_wakeup()) else { return };
        let at = self.host(run.0).clock.moment_of(at).max(self.now);
        let Some(process) = self.process_mut(run) else { return };
        if process.armed.is_none_or(|armed| at < armed) {
            process.armed = Some(at);
            self.at(at, Happening::SchedulerWakes(run));
        }
    }

    pub(super) fn scheduler_wakes(&mut self, run: SchedulerRun) {
        if self.scheduler_puts_off(run, || Happening::SchedulerWakes(run)) {
            return;
        }
        if let Some(process) = self.process_mut(run) {
            process.armed = None;
            self.tell_scheduler(run, Event::Tick);
        }
    }

    // Writes.

    fn queue_write(&mut self, run: SchedulerRun, write: Write) {
        let Some(process) = self.process_mut(run) else { return };
        process.queue.push(write);
        self.begin_transaction(run);
    }

    fn begin_transaction(&mut self, run: SchedulerRun) {
        let is_due = |process: &&mut Process| process.batch.is_empty() && !process.queue.is_empty();
        let Some(process) = self.process_mut(run).filter(is_due) else { return };
        let most = process.queue.len().min(MAX_BATCH);
        process.batch = std::mem::take(&mut process.unwritten);
        process.batch.extend(process.queue.drain(..most));
        let takes = self.store.latency();
        self.after(takes, Happening::Written(run));
    }

    /// The transaction ends. The database does not wait for a process that is paused.
    pub(super) fn written(&mut self, run: SchedulerRun) {
        let epoch = self.clock_epoch(run.0);
        let is_cut = self.host(run.0).cut_until > self.now;
        let outcome = if is_cut { Outcome::Refused } else { self.store.outcome() };
        let Some(process) = self.process_mut(run) else { return };
        let (batch, leader) = (process.batch.clone(), process.term.map(|term| term.epoch));
        let (outcome, events) = self.store.transact(&batch, leader, outcome, epoch);
        self.note_losses(run);
        if outcome != Outcome::Committed {
            self.tally.failed_transactions += 1;
            say!(self, "{} the store fails: {outcome:?}, {} writes", run.0, batch.len());
        }
        self.check_assignments();
        for program in self.store.database.take_forgotten() {
            self.checker.data.forgotten(program);
        }
        self.after(Duration::ZERO, Happening::HearsWritten(run, outcome, events));
    }

    /// The scheduler hears how a transaction ended.
    pub(super) fn hears_written(&mut self, run: SchedulerRun, outcome: Outcome, events: Vec<Event>) {
        let host = self.host(run.0);
        if host.paused_until > self.now && host.run == run.1 {
            let until = host.paused_until;
            return self.at(until, Happening::HearsWritten(run, outcome, events));
        }
        let Some(process) = self.process_mut(run) else { return };
        let batch = std::mem::take(&mut process.batch);
        if outcome != Outcome::Committed {
            process.unwritten.extend(batch.into_iter().filter(Write::is_repeated));
        }
        if outcome == Outcome::Deposed {
            return self.deposed(run);
        }
        for event in events {
            if let Event::Stored { program, node, epoch } = &event {
                self.tally.assignments += 1;
                say!(self, "{} stored: {} on {} under epoch {epoch}", run.0, name(*program), machine_of(*node));
            }
            self.tell_scheduler(run, event);
        }
        self.begin_transaction(run);
    }

    /// A trap: epochs by the clock on the scheduler's wall, in seconds.
    fn clock_epoch(&self, id: SchedulerId) -> Option<Epoch> {
        let wall = self.host(id).clock.wall_nanos(self.now) / 1_000_000_000;
        self.has_trap(Trap::EpochFromClock).then(|| Epoch::new(u64::try_from(wall).unwrap_or(1)))
    }

    /// What the scheduler said that starts cost, as it is in the database now.
    fn note_losses(&mut self, by: SchedulerRun) {
        for (program, epoch, loss) in self.store.database.take_losses() {
            let Loss { epoch: of, snapshot, from_archive, at_most } = loss;
            self.checker.data.recorded(program, epoch, Recorded { by, of, at_most, snapshot, from_archive });
        }
        for (program, wish) in self.store.database.take_went_back() {
            match wish {
                Wish::Begins(snapshot) => {
                    if !self.checker.data.is_wanted(program, snapshot) && !self.checker.counts_again {
                        let what = format!("{} goes back to {snapshot}, which nobody wants", name(program));
                        self.violated(Invariant::Restores, what);
                    }
                }
                Wish::Over(ordered) => self.checker.data.over(program, ordered),
            }
        }
    }

    // Connections.

    pub(super) fn scheduler_receives(&mut self, run: SchedulerRun, wire: ConnectionId, what: Up) {
        let Some(machine) = self.wires.get(&wire).map(|wire| wire.machine) else { return };
        let node = self.machine(machine).node;
        match what {
            Up::Hello => self.greets(run, wire, machine),
            Up::Beat(heartbeat, sent) => {
                if self.process(run).is_some_and(|process| process.connections.contains_key(&wire)) {
                    if let Some(wire) = self.wires.get_mut(&wire) {
                        wire.heard = self.now;
                    }
                    // What nodes state, which the scheduler writes down.
                    let runs = |state: &ReportedState| {
                        matches!(state, ReportedState::Starting | ReportedState::Ready | ReportedState::Failing(_))
                    };
                    let started = heartbeat.programs.iter().filter(|report| runs(&report.state));
                    self.store.database.seen.extend(started.map(|report| (report.program, report.epoch)));
                    for report in &heartbeat.data {
                        for copy in report.copy.iter().chain(&report.earlier) {
                            let late = self.now.since(sent);
                            self.checker.data.heard_of_copy(report.program, copy.newest, late);
                        }
                        if let Some(live) = &report.live {
                            self.checker.data.reported(report.program, live.epoch);
                        }
                    }
                    let heartbeat = self.as_understood(run, node, *heartbeat);
                    self.tell_scheduler(run, Event::Heartbeat { node, connection: wire, heartbeat });
                }
            }
            Up::End => self.connection_ends(run, wire),
        }
    }

    fn greets(&mut self, run: SchedulerRun, wire: ConnectionId, machine: MachineId) {
        let node = self.machine(machine).node;
        let knows =
            self.process(run).and_then(|process| process.core.node_view(node)).is_some_and(|view| !view.is_gone);
        let leads = self.process(run).is_some_and(|process| process.term.is_none_or(|term| term.leads));
        if !knows || !leads {
            // Turned away: it does not stand in the list of nodes, or another scheduler may lead.
            return self.close_at_scheduler(wire);
        }
        let Some(process) = self.process_mut(run) else { return };
        process.connections.insert(wire, node);
        let older = process.newest.insert(node, wire);
        self.send_down(wire, Down::Welcome);
        if let Some(older) = older {
            self.drop_connection(run, older);
        }
        let url = format!("http://node-{}", machine.0);
        say!(self, "{} {machine} connected", run.0);
        let (account, software) = (Address::new(format!("0x{:02x}", machine.0)), String::new());
        self.tell_scheduler(run, Event::NodeConnected { node, connection: wire, account, url, software });
        let silence = self.silence();
        self.after(silence, Happening::LookAtSilence(wire));
    }

    fn silence(&self) -> Duration {
        (self.times.longest_wait() * 2).max(LEAST_SILENCE)
    }

    pub(super) fn look_at_silence(&mut self, id: ConnectionId) {
        let Some(wire) = self.wires.get(&id).filter(|wire| wire.scheduler_is_open) else { return };
        let run = SchedulerRun(wire.scheduler, wire.process);
        let end = wire.heard + self.silence();
        if self.scheduler_puts_off(run, || Happening::LookAtSilence(id)) {
            return;
        }
        if end <= self.now {
            self.drop_connection(run, id);
            self.connection_ends(run, id);
        } else {
            self.at(end, Happening::LookAtSilence(id));
        }
    }

    fn drop_connection(&mut self, run: SchedulerRun, wire: ConnectionId) {
        self.close_at_scheduler(wire);
        let node = self.process_mut(run).and_then(|process| process.connections.remove(&wire));
        if let Some(node) = node {
            self.tell_scheduler(run, Event::NodeDisconnected { node, connection: wire });
        }
    }

    pub(super) fn drop_all_connections(&mut self, run: SchedulerRun) {
        let all: Vec<_> = self.process(run).iter().flat_map(|process| process.connections.keys().copied()).collect();
        for wire in all {
            self.connection_ends(run, wire);
        }
    }

    fn connection_ends(&mut self, run: SchedulerRun, wire: ConnectionId) {
        self.drop_connection(run, wire);
        if let Some(process) = self.process_mut(run) {
            process.newest.retain(|_, newest| *newest != wire);
        }
    }

    fn scheduler_sends(&mut self, run: SchedulerRun, wire: ConnectionId, frame: FromScheduler) {
        if let FromScheduler::Grant(grant) = &frame {
            self.note_grant(run, wire);
            self.check_told(run, wire, grant);
            for entry in grant.entries.iter().flatten() {
                if entry.directive == Directive::Release {
                    self.checker.release(entry.program, entry.epoch);
                }
            }
        }
        if self.process(run).is_some_and(|process| process.connections.contains_key(&wire)) {
            self.send_down(wire, Down::Frame(frame));
        }
    }

    /// What a grant renews, as far as the checker has to know: at most everything that is assigned to the node.
    fn note_grant(&mut self, run: SchedulerRun, wire: ConnectionId) {
        let Some(node) = self.process(run).and_then(|process| process.connections.get(&wire)).copied() else { return };
        let expires = self.now + self.longest_lease(run.0);
        for (program, on, epoch) in self.store.database.open() {
            if on == node {
                self.checker.grant(program, epoch, expires);
            }
        }
    }

    /// I5: what a node is told to run and to keep room for fits on it.
    fn check_told(&mut self, run: SchedulerRun, wire: ConnectionId, grant: &Grant) {
        let Some(node) = self.process(run).and_then(|process| process.connections.get(&wire)).copied() else { return };
        let Some(entries) = &grant.entries else { return };
        let runs = entries.iter().filter(|entry| entry.directive == Directive::Run).map(|entry| entry.program);
        let keeps = grant.data.iter().filter(|entry| matches!(entry.order, DataOrder::Keep { .. }));
        let restored = self.restored_keeps(run, node);
        let keeps: Vec<_> = keeps.map(|entry| entry.program).filter(|program| !restored.contains(program)).collect();
        let needs = runs.chain(keeps).filter_map(|program| self.message_node.spec(program)).map(|spec| spec.needs);
        let (memory, pool) = needs.fold((0, 0), |(m, p), needs| (m + needs.memory_mib, p + needs.pool_mib));
        let capacity = &self.machine(machine_of(node)).capacity;
        if memory > capacity.memory_mib || pool > capacity.pool_mib {
            let what = format!("{} has {capacity:?}, and shall run and keep {memory}, {pool} MiB", machine_of(node));
            self.violated(Invariant::Room, what);
        }
    }

    /// What a shell with a mistake makes of a heartbeat.
    fn as_understood(&mut self, run: SchedulerRun, node: NodeId, mut heartbeat: Heartbeat) -> Heartbeat {
        for report in &mut heartbeat.programs {
            match self.trap {
                Some(Trap::ReleaseBeforeGone) if report.state == ReportedState::Stopping => {
                    report.state = ReportedState::Released;
                }
                Some(Trap::LateReportWins) => self.last_word_counts(run, node, report),
                _ => {}
            }
        }
        heartbeat
    }

    /// A trap: of each program only the last report is kept, whatever its epoch.
    fn last_word_counts(&mut self, run: SchedulerRun, node: NodeId, report: &mut ProgramReport) {
        let Some(process) = self.process_mut(run) else { return };
        let Some(view) = process.core.program_view(report.program) else { return };
        if view.epoch.is_some_and(|newest| report.epoch < newest) {
            process.last_words.insert(report.program, report.state.clone());
        } else if view.place.is_some_and(|place| place.node == node)
            && let Some(state) = process.last_words.remove(&report.program)
        {
            report.state = state;
        }
    }

    fn notice(&mut self, run: SchedulerRun, notice: &Notice) {
        match notice {
            Notice::Assigned { waited: Some(_), again, .. } => self.tally.again += u64::from(*again),
            Notice::Ended { program, node, epoch, cause, proof } => {
                let (id, machine) = (run.0, machine_of(*node));
                say!(self, "{id} ended: {} on {machine} of epoch {epoch}: {cause}, {}", name(*program), proof.as_str());
                *self.tally.ends.entry(proof.as_str()).or_default() += 1;
                self.checker.data.ended(run, *program, *epoch, self.now);
                if matches!(cause, Cause::Gone(_)) && !self.message_node.was_taken_back(*program) {
                    let what = format!("{} is ended as gone, and nobody said so", name(*program));
                    self.violated(Invariant::Evidence, what);
                }
            }
            Notice::EpochBehind { program, node, highest } => {
                say!(self, "{} {} has seen epoch {highest} of {}", run.0, machine_of(*node), name(*program));
                self.tally.skips += 1;
            }
            Notice::Brake { stopped } => {
                self.tally.brakes += u64::from(stopped.is_some());
                say!(self, "{} brake: {stopped:?}", run.0);
            }
            _ => {}
        }
        self.tell_gateways(run, notice);
    }

    /// When leases that were answered a moment ago end, as the scheduler's clock sees it.
    pub(super) fn longest_lease(&self, id: SchedulerId) -> Duration {
        let now = self.host(id).clock.boot_time(self.now);
        let expiry: IssuerExpiry = self.times.issuer(now);
        self.host(id).clock.moment_of(expiry.at()).since(self.now)
    }
}
