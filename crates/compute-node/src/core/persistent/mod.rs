//! The persistent programs of a node: what the scheduler assigned, what runs, and what to do about the difference.
//!
//! Each assignment (a program under one epoch) goes its own way:
//!
//! ```text
//!             Run, with a lease         fetched, lease lives, no      supervisor: ready
//!             and capacity              other epoch has a sandbox
//!  (unknown) ───────────────▶ Fetching ─────────────────────────▶ Starting ─────────────▶ Ready
//!      │                        │  ▲                                  │ ended               │ ended
//!      │ epoch too low,         │  └────────── Waiting ◀──────────────┴─────────────────────┘
//!      │ no room, no data       │ Release        (back-off)
//!      ▼                        │                                 Release, or Run no more of it
//!   Refused                     │    Gone ◀─────── Stopping ◀────────── from Starting, Ready
//!                               ▼     │ Release        │ Release
//!              Settled ◀───── Settling ◀───────────────┘
//! ```
//!
//! The scheduler moves it by grants, the sandbox by its reports, time by the back-off. Absence from a set, an empty set and
//! silence move nothing: what nobody renews is ended by its supervisor. `Released` is reported for `Settled` only: the
//! sandbox is known to have ended, not only told to, and what the program wrote is where it is needed next, unless that
//! took too long. `Gone` and `Settled` go back to Fetching when the same epoch shall run again.

mod event;

use std::collections::BTreeMap;
use std::time::Duration;

use lease::{BootTime, HolderDeadline};
use protocol::control::{
    Capacity, Directive, Failure, FailureKind, Grant, ProgramReport, Refusal, ReportedState, SetEntry, SetVersion,
};
use protocol::{Epoch, ProgramId};

pub use event::{Assignment, Command, Event, Needs};

use super::backoff::Backoff;

/// How long a program has to end by itself when it is released.
const RELEASE_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Fetching,
    /// Fetched, and only the lease or the end of another epoch's sandbox is missing.
    Fetched(Needs),
    Starting(Needs),
    Ready(Needs),
    Waiting {
        until: BootTime,
        failure: Failure,
    },
    Stopping(Needs),
    Gone,
    Settling,
    Settled,
    Refused(Refusal),
}

#[derive(Debug, Clone)]
struct Entry {
    phase: Phase,
    since: BootTime,
    /// What the newest set says; `None` for sandboxes that were found and not mentioned yet.
    directive: Option<Directive>,
    lease: Option<HolderDeadline>,
    backoff: Backoff,
    restarts: u32,
    /// While it is fetched: whether there is newer code by now than what is being fetched.
    outdated: bool,
}

impl Entry {
    fn new(now: BootTime, phase: Phase) -> Self {
        Self {
            phase,
            since: now,
            directive: None,
            lease: None,
            backoff: Backoff::default(),
            restarts: 0,
            outdated: false,
        }
    }

    fn enter(&mut self, now: BootTime, phase: Phase) {
        self.phase = phase;
        self.since = now;
        self.outdated = false;
    }

    /// What it takes of the capacity now.
    fn takes(&self) -> Option<Needs> {
        match self.phase {
            Phase::Fetched(needs) | Phase::Starting(needs) | Phase::Ready(needs) | Phase::Stopping(needs) => {
                Some(needs)
            }
            _ => None,
        }
    }

    fn has_sandbox(&self) -> bool {
        matches!(self.phase, Phase::Starting(_) | Phase::Ready(_) | Phase::Stopping(_))
    }

    fn shall_run(&self) -> bool {
        self.directive == Some(Directive::Run)
    }
}

/// The persistent programs of one node.
#[derive(Debug)]
pub struct Persistent {
    entries: BTreeMap<Assignment, Entry>,
    /// The highest epoch ever seen of each program; outlives the agent.
    highest: BTreeMap<ProgramId, Epoch>,
    applied: Option<SetVersion>,
    capacity: Capacity,
    /// Before this, a sandbox of an earlier agent may live that this one does not know of.
    certain_from: BootTime,
}

impl Persistent {
    /// A node that just started, with the epochs that it remembers. `longest_lease` is how long a sandbox may live that was
    /// started before and cannot be found.
    pub fn new(
        now: BootTime,
        capacity: Capacity,
        highest: BTreeMap<ProgramId, Epoch>,
        longest_lease: Duration,
    ) -> Self {
        Self { entries: BTreeMap::new(), highest, applied: None, capacity, certain_from: now + longest_lease }
    }

    /// The set that was last applied, for the heartbeat.
    pub fn applied(&self) -> Option<&SetVersion> {
        self.applied.as_ref()
    }

    /// What the heartbeat says about each program.
    pub fn reports(&self, now: BootTime) -> Vec<ProgramReport> {
        let report = |(assignment, entry): (&Assignment, &Entry)| {
            let state = self.reported_state(now, entry)?;
            Some(ProgramReport {
                program: assignment.program,
                epoch: assignment.epoch,
                state,
                for_ms: u64::try_from(now.since(entry.since).as_millis()).unwrap_or(u64::MAX),
                restarts: entry.restarts,
            })
        };
        self.entries.iter().filter_map(report).collect()
    }

    fn reported_state(&self, now: BootTime, entry: &Entry) -> Option<ReportedState> {
        Some(match &entry.phase {
            Phase::Fetching | Phase::Fetched(_) => ReportedState::Preparing,
            Phase::Starting(_) => ReportedState::Starting,
            Phase::Ready(_) => ReportedState::Ready,
            Phase::Waiting { failure, .. } => ReportedState::Failing(failure.clone()),
            Phase::Stopping(_) | Phase::Settling => ReportedState::Stopping,
            // Only when it was asked for, and only when nothing can run that is not known.
            Phase::Settled if entry.directive == Some(Directive::Release) && now >= self.certain_from => {
                ReportedState::Released
            }
            Phase::Gone | Phase::Settled => return None,
            Phase::Refused(refusal) => ReportedState::Refused(refusal.clone()),
        })
    }

    /// When [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_wakeup(&self) -> Option<BootTime> {
        self.entries
            .values()
            .filter_map(|entry| match entry.phase {
                Phase::Waiting { until, .. } if entry.shall_run() => Some(until),
                _ => None,
            })
            .min()
    }

    /// Takes an event and says what to do, in this order.
    pub fn handle(&mut self, now: BootTime, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Granted { sent, times, grant } => self.granted(now, times.holder(sent), grant, &mut commands),
            Event::Adopted { assignment, needs, ready } => {
                let phase = if ready { Phase::Ready(needs) } else { Phase::Starting(needs) };
                self.see_epoch(assignment, &mut commands);
                self.entries.insert(assignment, Entry::new(now, phase));
            }
            Event::Fetched { assignment, needs } => self.fetched(now, assignment, needs, &mut commands),
            Event::FetchFailed(assignment, failure) => {
                if self.phase_of(assignment) == Some(&Phase::Fetching) && !self.fetch_again(assignment, &mut commands) {
                    self.failed(now, assignment, failure, None, &mut commands);
                }
            }
            Event::NoData(assignment) => self.refuse_data(now, assignment, Refusal::NoData, &mut commands),
            Event::Overtaken(assignment, highest) => {
                self.refuse_data(now, assignment, Refusal::StaleEpoch { highest }, &mut commands);
            }
            Event::Settled(assignment) => {
                if self.phase_of(assignment) == Some(&Phase::Settling)
                    && let Some(entry) = self.entries.get_mut(&assignment)
                {
                    entry.enter(now, Phase::Settled);
                    commands.push(Command::Heartbeat);
                }
            }
            Event::Ready(assignment) => {
                if let Some(entry) = self.entries.get_mut(&assignment)
                    && let Phase::Starting(needs) = entry.phase
                {
                    entry.enter(now, Phase::Ready(needs));
                    commands.push(Command::Heartbeat);
                }
            }
            Event::SandboxGone(assignment, failure) => self.sandbox_gone(now, assignment, failure, &mut commands),
            Event::CodeChanged(program) => self.code_changed(now, program, &mut commands),
            Event::Tick => self.retry_waiting(now, &mut commands),
        }
        commands
    }

    fn granted(&mut self, now: BootTime, lease: HolderDeadline, grant: Grant, commands: &mut Vec<Command>) {
        match grant.entries {
            Some(set) => self.apply_set(now, &set, commands),
            // A renewal of a set that this node does not have says nothing that it could act on.
            None if self.applied.as_ref() != Some(&grant.set) => return,
            None => {}
        }
        self.applied = Some(grant.set);
        let running: Vec<_> = self.entries.iter().filter(|(_, e)| e.shall_run()).map(|(a, _)| *a).collect();
        for assignment in running {
            self.renew(now, assignment, lease, commands);
        }
    }

    /// Takes over what the set says. What it does not mention is left alone.
    fn apply_set(&mut self, now: BootTime, set: &[SetEntry], commands: &mut Vec<Command>) {
        for entry in self.entries.values_mut() {
            entry.directive = None;
        }
        for SetEntry { program, epoch, directive } in set {
            let assignment = Assignment { program: *program, epoch: *epoch };
            match directive {
                Directive::Run => self.assigned(now, assignment, commands),
                Directive::Release => self.release(now, assignment, commands),
            }
            if let Some(entry) = self.entries.get_mut(&assignment) {
                entry.directive = Some(*directive);
            }
        }
        // What has ended and is asked for no more need not be remembered.
        self.entries.retain(|_, entry| entry.directive.is_some() || entry.has_sandbox());
    }

    fn assigned(&mut self, now: BootTime, assignment: Assignment, commands: &mut Vec<Command>) {
        self.see_epoch(assignment, commands);
        let superseded = self.is_superseded(assignment);
        let entry = self.entries.entry(assignment).or_insert_with(|| Entry::new(now, Phase::Gone));
        // What is superseded is refused when it would be renewed, right after this.
        if entry.phase == Phase::Gone && !superseded {
            entry.enter(now, Phase::Fetching);
            commands.push(Command::Fetch(assignment));
            commands.push(Command::Heartbeat);
        }
    }

    fn refuse_data(&mut self, now: BootTime, assignment: Assignment, why: Refusal, commands: &mut Vec<Command>) {
        if self.phase_of(assignment) == Some(&Phase::Fetching)
            && let Some(entry) = self.entries.get_mut(&assignment)
        {
            entry.enter(now, Phase::Refused(why));
            commands.push(Command::Heartbeat);
        }
    }

    fn release(&mut self, now: BootTime, assignment: Assignment, commands: &mut Vec<Command>) {
        let entry = self.entries.entry(assignment).or_insert_with(|| Entry::new(now, Phase::Gone));
        match entry.phase {
            Phase::Starting(needs) | Phase::Ready(needs) => {
                entry.enter(now, Phase::Stopping(needs));
                commands.push(Command::Stop(assignment, RELEASE_GRACE));
            }
            // It may have written in an earlier sandbox of this epoch.
            Phase::Fetching | Phase::Fetched(_) | Phase::Waiting { .. } | Phase::Gone => {
                entry.enter(now, Phase::Settling);
                commands.push(Command::Settle(assignment));
            }
            Phase::Refused(_) => {
                entry.enter(now, Phase::Settled);
                commands.push(Command::Heartbeat);
            }
            Phase::Settled => commands.push(Command::Heartbeat),
            Phase::Stopping(_) | Phase::Settling => {}
        }
    }

    /// Whether a higher epoch of the program was seen, so that nobody may run this one any more.
    fn is_superseded(&self, assignment: Assignment) -> bool {
        self.highest.get(&assignment.program).is_some_and(|highest| assignment.epoch < *highest)
    }

    /// A scheduler that hands out old epochs works on an old copy of its database: it is told, and not followed.
    fn refuse_stale(&mut self, now: BootTime, assignment: Assignment, commands: &mut Vec<Command>) {
        let highest = self.highest[&assignment.program];
        let Some(entry) = self.entries.get_mut(&assignment) else { return };
        match entry.phase {
            Phase::Starting(needs) | Phase::Ready(needs) => {
                entry.enter(now, Phase::Stopping(needs));
                commands.push(Command::Stop(assignment, RELEASE_GRACE));
            }
            Phase::Stopping(_) => {}
            _ => entry.phase = Phase::Refused(Refusal::StaleEpoch { highest }),
        }
    }

    fn see_epoch(&mut self, assignment: Assignment, commands: &mut Vec<Command>) {
        let highest = self.highest.entry(assignment.program).or_insert(Epoch::new(0));
        if assignment.epoch > *highest {
            *highest = assignment.epoch;
            commands.push(Command::RememberEpoch(assignment));
        }
    }

    fn renew(&mut self, now: BootTime, assignment: Assignment, lease: HolderDeadline, commands: &mut Vec<Command>) {
        if self.is_superseded(assignment) {
            return self.refuse_stale(now, assignment, commands);
        }
        let Some(entry) = self.entries.get_mut(&assignment) else { return };
        let lease = entry.lease.map_or(lease, |held| held.extended_by(lease));
        entry.lease = Some(lease);
        match entry.phase {
            Phase::Starting(_) | Phase::Ready(_) => commands.push(Command::Renew(assignment, lease)),
            Phase::Fetched(_) => self.start_if_possible(now, assignment, commands),
            // It was lost together with its lease, or a refusal's reason may have gone: from the beginning.
            Phase::Gone
            | Phase::Settling
            | Phase::Settled
            | Phase::Refused(Refusal::NoCapacity | Refusal::Draining | Refusal::NoData) => {
                entry.enter(now, Phase::Fetching);
                commands.push(Command::Fetch(assignment));
            }
            Phase::Fetching | Phase::Waiting { .. } | Phase::Stopping(_) | Phase::Refused(_) => {}
        }
    }

    fn fetched(&mut self, now: BootTime, assignment: Assignment, needs: Needs, commands: &mut Vec<Command>) {
        if self.phase_of(assignment) != Some(&Phase::Fetching) || self.fetch_again(assignment, commands) {
            return;
        }
        let fits = self.fits(needs);
        let Some(entry) = self.entries.get_mut(&assignment) else { return };
        if fits {
            entry.phase = Phase::Fetched(needs);
            self.start_if_possible(now, assignment, commands);
        } else {
            entry.enter(now, Phase::Refused(Refusal::NoCapacity));
            commands.push(Command::Heartbeat);
        }
    }

    fn code_changed(&mut self, now: BootTime, program: ProgramId, commands: &mut Vec<Command>) {
        for (assignment, entry) in self.entries.iter_mut().filter(|(a, _)| a.program == program) {
            match entry.phase {
                Phase::Starting(needs) | Phase::Ready(needs) => {
                    entry.enter(now, Phase::Stopping(needs));
                    commands.push(Command::Stop(*assignment, RELEASE_GRACE));
                }
                Phase::Fetching => entry.outdated = true,
                Phase::Fetched(_) => {
                    entry.enter(now, Phase::Fetching);
                    commands.push(Command::Fetch(*assignment));
                }
                _ => {}
            }
        }
    }

    /// Whether what is being fetched is not the newest any more. It is fetched again then.
    fn fetch_again(&mut self, assignment: Assignment, commands: &mut Vec<Command>) -> bool {
        let is_outdated = self.entries.get_mut(&assignment).is_some_and(|entry| std::mem::take(&mut entry.outdated));
        if is_outdated {
            commands.push(Command::Fetch(assignment));
        }
        is_outdated
    }

    fn fits(&self, needs: Needs) -> bool {
        let taken = self.entries.values().filter_map(Entry::takes);
        let (vcpus, memory) = taken.fold((0, 0), |(v, m), n| (v + n.vcpus, m + n.memory_mib));
        vcpus + needs.vcpus <= self.capacity.vcpus && memory + needs.memory_mib <= self.capacity.memory_mib
    }

    /// Starts what is fetched, if its lease lives and no sandbox of another epoch of the program is there.
    fn start_if_possible(&mut self, now: BootTime, assignment: Assignment, commands: &mut Vec<Command>) {
        let other_is_there =
            self.entries.iter().any(|(a, e)| a.program == assignment.program && *a != assignment && e.has_sandbox());
        let superseded = self.is_superseded(assignment);
        let Some(entry) = self.entries.get_mut(&assignment) else { return };
        let (Phase::Fetched(needs), Some(lease)) = (&entry.phase, entry.lease) else { return };
        if other_is_there || superseded || now >= lease.soft || !entry.shall_run() {
            return;
        }
        let needs = *needs;
        entry.enter(now, Phase::Starting(needs));
        commands.push(Command::Start(assignment, lease));
        commands.push(Command::Heartbeat);
    }

    fn sandbox_gone(
        &mut self,
        now: BootTime,
        assignment: Assignment,
        failure: Option<Failure>,
        commands: &mut Vec<Command>,
    ) {
        let superseded = self.is_superseded(assignment);
        let Some(entry) = self.entries.get_mut(&assignment) else { return };
        let was_stopping = matches!(entry.phase, Phase::Stopping(_));
        let worked_since = matches!(entry.phase, Phase::Ready(_)).then_some(entry.since);
        match failure {
            Some(failure) if entry.shall_run() && !was_stopping => {
                self.failed(now, assignment, failure, worked_since, commands);
            }
            // Told to end and still to run: its code changed.
            _ if entry.shall_run() && was_stopping && !superseded => {
                entry.enter(now, Phase::Fetching);
                commands.push(Command::Fetch(assignment));
            }
            _ if entry.directive == Some(Directive::Release) => {
                entry.enter(now, Phase::Settling);
                commands.push(Command::Settle(assignment));
            }
            _ => {
                entry.enter(now, Phase::Gone);
                commands.push(Command::Heartbeat);
            }
        }
        // Another epoch of the program may have waited for this end.
        let waiting: Vec<_> = self
            .entries
            .iter()
            .filter(|(a, e)| a.program == assignment.program && matches!(e.phase, Phase::Fetched(_)))
            .map(|(a, _)| *a)
            .collect();
        for assignment in waiting {
            self.start_if_possible(now, assignment, commands);
        }
    }

    fn failed(
        &mut self,
        now: BootTime,
        assignment: Assignment,
        failure: Failure,
        worked_since: Option<BootTime>,
        commands: &mut Vec<Command>,
    ) {
        let Some(entry) = self.entries.get_mut(&assignment) else { return };
        let until = entry.backoff.failed(now, worked_since);
        entry.enter(now, Phase::Waiting { until, failure });
        commands.push(Command::Heartbeat);
    }

    fn retry_waiting(&mut self, now: BootTime, commands: &mut Vec<Command>) {
        for (assignment, entry) in &mut self.entries {
            let due = matches!(entry.phase, Phase::Waiting { until, .. } if until <= now);
            if due && entry.shall_run() {
                entry.restarts += 1;
                // Not the time since the state was entered: the failure is still what there is to report.
                entry.enter(now, Phase::Fetching);
                commands.push(Command::Fetch(*assignment));
            }
        }
    }

    fn phase_of(&self, assignment: Assignment) -> Option<&Phase> {
        self.entries.get(&assignment).map(|entry| &entry.phase)
    }

    /// The last failure of a program that is being tried again; for its owner.
    pub fn failure_of(&self, program: ProgramId) -> Option<(FailureKind, &str)> {
        self.entries.iter().find_map(|(assignment, entry)| match &entry.phase {
            Phase::Waiting { failure, .. } if assignment.program == program => {
                Some((failure.kind, failure.message.as_str()))
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
