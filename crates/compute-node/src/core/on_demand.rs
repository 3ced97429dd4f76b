//! The copies of programs that run on demand: started by a request, stopped when idle. One copy per program; any number of
//! programs start at the same time.
//!
//! ```text
//!            a request           fetched, and room        ready
//!  (none) ─────────────▶ Fetching ───────────────▶ Starting ─────▶ Ready
//!     ▲                     │  fetched, no room       │ failed        │ idle for long, room is needed,
//!     │                     ▼                         │               │ code changed, program forgotten
//!     │                 WaitingForRoom                ▼               ▼
//!     └───────────────────────────────────────── (Failed) ◀──── Stopping
//!                 back-off over, or gone
//! ```
//! The gateway moves it by requests, the sandbox by its reports, the clock by idleness and back-off.

use std::collections::BTreeMap;
use std::time::Duration;

use lease::BootTime;
use protocol::ProgramId;
use protocol::control::{Failure, FailureKind};

use super::backoff::Backoff;
use super::persistent::Needs;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request waits for the program.
    Wanted(ProgramId),
    /// Everything that the program needs is there.
    Fetched(ProgramId, Needs),
    /// Something that it needs cannot be had.
    FetchFailed(ProgramId, Failure),
    /// Its sandbox answers.
    Ready(ProgramId),
    /// Nothing of its sandbox runs any more; a failure, unless it was told to end.
    Gone(ProgramId, Option<Failure>),
    /// No request has used it since then.
    Idle(ProgramId, BootTime),
    /// Requests use it.
    Busy(ProgramId),
    /// A copy of an agent before this one was found alive and ready.
    Adopted(ProgramId, Needs),
    /// It must not go on as it is: new code, or forgotten.
    Outdated(ProgramId),
    /// Time passed.
    Tick,
}

/// What to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Fetch what the program needs.
    Fetch(ProgramId),
    /// Start its sandbox.
    Start(ProgramId),
    /// Let the waiting requests through.
    Serve(ProgramId),
    /// Tell the waiting requests that it failed.
    Fail(ProgramId, Failure),
    /// Let no new request in, wait for those inside, and end it.
    Retire(ProgramId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Fetching,
    WaitingForRoom(Needs),
    Starting(Needs),
    Ready { needs: Needs, idle_since: Option<BootTime> },
    Stopping { needs: Needs, wanted_again: bool },
    Failed { until: BootTime, failure: Failure },
}

#[derive(Debug)]
struct Copy {
    phase: Phase,
    backoff: Backoff,
    ready_since: Option<BootTime>,
}

/// The copies on demand of one node.
#[derive(Debug)]
pub struct OnDemand {
    copies: BTreeMap<ProgramId, Copy>,
    capacity: Needs,
    idle_after: Duration,
}

impl OnDemand {
    /// None yet. `capacity` is what all together may take; a copy that nobody used for `idle_after` is stopped.
    pub fn new(capacity: Needs, idle_after: Duration) -> Self {
        Self { copies: BTreeMap::new(), capacity, idle_after }
    }

    /// How many copies are there, in any state.
    pub fn len(&self) -> usize {
        self.copies.values().filter(|copy| !matches!(copy.phase, Phase::Failed { .. })).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes an event and says what to do, in this order.
    pub fn handle(&mut self, now: BootTime, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Wanted(program) => self.wanted(now, program, &mut commands),
            Event::Fetched(program, needs) => {
                if let Some(copy) = self.copies.get_mut(&program)
                    && copy.phase == Phase::Fetching
                {
                    copy.phase = Phase::WaitingForRoom(needs);
                    self.make_room(program, needs, &mut commands);
                }
            }
            Event::FetchFailed(program, failure) => {
                if self.phase(program) == Some(&Phase::Fetching) {
                    self.failed(now, program, failure, &mut commands);
                }
            }
            Event::Ready(program) => {
                if let Some(copy) = self.copies.get_mut(&program)
                    && let Phase::Starting(needs) = copy.phase
                {
                    copy.phase = Phase::Ready { needs, idle_since: Some(now) };
                    copy.ready_since = Some(now);
                    commands.push(Command::Serve(program));
                }
            }
            Event::Gone(program, failure) => self.gone(now, program, failure, &mut commands),
            Event::Idle(program, since) => {
                self.set_idle(program, Some(since));
                if now.since(since) >= self.idle_after {
                    self.retire(program, &mut commands);
                }
            }
            Event::Busy(program) => self.set_idle(program, None),
            Event::Adopted(program, needs) => {
                let phase = Phase::Ready { needs, idle_since: Some(now) };
                self.copies.insert(program, Copy { phase, backoff: Backoff::default(), ready_since: Some(now) });
                commands.push(Command::Serve(program));
            }
            Event::Outdated(program) => self.outdated(program, &mut commands),
            Event::Tick => {
                self.copies.retain(
                    |_, copy| !matches!(copy.phase, Phase::Failed { until, .. } if until + FORGET_AFTER <= now),
                );
            }
        }
        commands
    }

    fn wanted(&mut self, now: BootTime, program: ProgramId, commands: &mut Vec<Command>) {
        let fresh = || Copy { phase: Phase::Fetching, backoff: Backoff::default(), ready_since: None };
        let Some(copy) = self.copies.get_mut(&program) else {
            self.copies.insert(program, fresh());
            return commands.push(Command::Fetch(program));
        };
        match &mut copy.phase {
            Phase::Fetching | Phase::WaitingForRoom(_) | Phase::Starting(_) => {}
            Phase::Ready { .. } => commands.push(Command::Serve(program)),
            Phase::Stopping { wanted_again, .. } => *wanted_again = true,
            Phase::Failed { until, failure } if now < *until => commands.push(Command::Fail(program, failure.clone())),
            Phase::Failed { .. } => {
                copy.phase = Phase::Fetching;
                commands.push(Command::Fetch(program));
            }
        }
    }

    /// Starts the program if there is room, otherwise has idle copies make way, otherwise says that the node is full.
    fn make_room(&mut self, program: ProgramId, needs: Needs, commands: &mut Vec<Command>) {
        let free = self.free();
        if needs.vcpus <= free.vcpus && needs.memory_mib <= free.memory_mib {
            if let Some(copy) = self.copies.get_mut(&program) {
                copy.phase = Phase::Starting(needs);
            }
            return commands.push(Command::Start(program));
        }
        let (mut vcpus, mut memory) =
            self.stopping().fold((free.vcpus, free.memory_mib), |(v, m), n| (v + n.vcpus, m + n.memory_mib));
        let mut idle: Vec<_> = self
            .copies
            .iter()
            .filter_map(|(other, copy)| match copy.phase {
                Phase::Ready { needs, idle_since: Some(since) } => Some((since, *other, needs)),
                _ => None,
            })
            .collect();
        idle.sort_by_key(|(since, program, _)| (*since, *program));
        let mut leaving = Vec::new();
        for (_, other, their) in idle {
            if vcpus >= needs.vcpus && memory >= needs.memory_mib {
                break;
            }
            (vcpus, memory) = (vcpus + their.vcpus, memory + their.memory_mib);
            leaving.push(other);
        }
        if vcpus >= needs.vcpus && memory >= needs.memory_mib {
            leaving.into_iter().for_each(|other| self.retire(other, commands));
            return;
        }
        let message = format!(
            "this node has no room for it now: it needs {} MiB and {} vCPUs, {} MiB and {} vCPUs are free",
            needs.memory_mib, needs.vcpus, free.memory_mib, free.vcpus
        );
        // Not the program's fault, so nothing is held against it.
        self.copies.remove(&program);
        commands.push(Command::Fail(program, Failure { kind: FailureKind::NodeFault, message }));
    }

    fn free(&self) -> Needs {
        let taken = self.copies.values().filter_map(|copy| match copy.phase {
            Phase::Starting(needs) | Phase::Ready { needs, .. } | Phase::Stopping { needs, .. } => Some(needs),
            Phase::Fetching | Phase::WaitingForRoom(_) | Phase::Failed { .. } => None,
        });
        let (vcpus, memory) = taken.fold((0, 0), |(v, m), n| (v + n.vcpus, m + n.memory_mib));
        Needs {
            vcpus: self.capacity.vcpus.saturating_sub(vcpus),
            memory_mib: self.capacity.memory_mib.saturating_sub(memory),
        }
    }

    fn stopping(&self) -> impl Iterator<Item = Needs> {
        self.copies.values().filter_map(|copy| match copy.phase {
            Phase::Stopping { needs, .. } => Some(needs),
            _ => None,
        })
    }

    fn gone(&mut self, now: BootTime, program: ProgramId, failure: Option<Failure>, commands: &mut Vec<Command>) {
        match (self.phase(program).cloned(), failure) {
            (Some(Phase::Starting(_) | Phase::Ready { .. }), Some(failure)) => {
                self.failed(now, program, failure, commands);
            }
            (Some(Phase::Stopping { wanted_again: true, .. } | Phase::Starting(_)), None)
            | (Some(Phase::Stopping { wanted_again: true, .. }), Some(_)) => {
                if let Some(copy) = self.copies.get_mut(&program) {
                    copy.phase = Phase::Fetching;
                    commands.push(Command::Fetch(program));
                }
            }
            (Some(Phase::Stopping { .. } | Phase::Ready { .. }), _) => drop(self.copies.remove(&program)),
            _ => {}
        }
        let waiting: Vec<_> = self
            .copies
            .iter()
            .filter_map(|(program, copy)| match copy.phase {
                Phase::WaitingForRoom(needs) => Some((*program, needs)),
                _ => None,
            })
            .collect();
        for (program, needs) in waiting {
            self.make_room(program, needs, commands);
        }
    }

    fn failed(&mut self, now: BootTime, program: ProgramId, failure: Failure, commands: &mut Vec<Command>) {
        let Some(copy) = self.copies.get_mut(&program) else { return };
        let until = copy.backoff.failed(now, copy.ready_since.take());
        copy.phase = Phase::Failed { until, failure: failure.clone() };
        commands.push(Command::Fail(program, failure));
    }

    fn outdated(&mut self, program: ProgramId, commands: &mut Vec<Command>) {
        match self.copies.get_mut(&program).map(|copy| &mut copy.phase) {
            Some(Phase::Ready { .. }) => self.retire(program, commands),
            Some(phase @ Phase::Starting(_)) => {
                let Phase::Starting(needs) = *phase else { return };
                *phase = Phase::Stopping { needs, wanted_again: true };
                commands.push(Command::Retire(program));
            }
            Some(Phase::Failed { .. }) => drop(self.copies.remove(&program)),
            _ => {}
        }
    }

    fn retire(&mut self, program: ProgramId, commands: &mut Vec<Command>) {
        if let Some(copy) = self.copies.get_mut(&program)
            && let Phase::Ready { needs, .. } = copy.phase
        {
            copy.phase = Phase::Stopping { needs, wanted_again: false };
            commands.push(Command::Retire(program));
        }
    }

    fn set_idle(&mut self, program: ProgramId, since: Option<BootTime>) {
        if let Some(Copy { phase: Phase::Ready { idle_since, .. }, .. }) = self.copies.get_mut(&program) {
            *idle_since = since;
        }
    }

    fn phase(&self, program: ProgramId) -> Option<&Phase> {
        self.copies.get(&program).map(|copy| &copy.phase)
    }
}

/// How long a failure is remembered after its back-off, so that the next one waits longer.
const FORGET_AFTER: Duration = Duration::from_secs(120);

#[cfg(test)]
#[path = "on_demand_tests.rs"]
mod tests;
