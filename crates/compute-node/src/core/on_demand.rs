//! The copies of programs that run on demand: started by a request, frozen and then stopped when nobody uses them. One copy
//! per program; any number of programs start at the same time.
//!
//! ```text
//!            a request           fetched, and room        ready             unused      stands still
//!  (none) ─────────────▶ Fetching ───────────────▶ Starting ─────▶ Ready ─────────▶ Freezing ──────▶ Frozen
//!     ▲                     │  fetched, no room       │ failed     │ ▲                 │ a request      │ a request
//!     │                     ▼                         │            │ └─────────────────┴────────────────┘
//!     │                 WaitingForRoom                ▼            ▼ unused for long, room is needed, memory is
//!     └───────────────────────────────────────── (Failed) ◀──── Stopping     short, code changed, program forgotten
//!                 back-off over, or gone
//! ```
//! The gateway moves it by requests, the sandbox by its reports, the clock by idleness and back-off. Freezing and Frozen are
//! left for Stopping as Ready is. A request lets a frozen copy go on without asking here, and is heard of here afterwards:
//! what counts is that every copy has its room for as long as it is there, frozen or not.
//!
//! When room is needed or memory is short, frozen copies leave first, then idle ones, the longest unused before the others.

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
    Fetched(ProgramId, Terms),
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
    /// It stands still.
    Frozen(ProgramId),
    /// It does not stand still: it was used just then, or cannot.
    NotFrozen(ProgramId),
    /// A copy of an agent before this one was found alive and ready.
    Adopted {
        /// Whose it is.
        program: ProgramId,
        /// How it runs.
        terms: Terms,
        /// Since when it counts as unused, if it was found frozen.
        frozen: Option<BootTime>,
    },
    /// It must not go on as it is: new code, or forgotten.
    Outdated(ProgramId),
    /// Time passed.
    Tick {
        /// Whether the machine has little memory left.
        memory_is_short: bool,
    },
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
    /// Have it stand still, unless a request uses it just now.
    Freeze(ProgramId),
    /// Let no new request in, wait for those inside, and end it.
    Retire(ProgramId),
}

/// How long a copy stays when nobody uses it, counted from the last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until it is frozen; never, if it is stopped by then.
    pub freeze_after: Duration,
    /// Until it is stopped.
    pub stop_after: Duration,
}

/// How a copy runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What it takes of the node, also while it is frozen.
    pub needs: Needs,
    /// How long it stays.
    pub patience: Patience,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Fetching,
    WaitingForRoom(Terms),
    Starting(Terms),
    Ready { terms: Terms, idle_since: Option<BootTime>, freeze_not_before: BootTime },
    Freezing { terms: Terms, idle_since: BootTime },
    Frozen { terms: Terms, idle_since: BootTime },
    Stopping { needs: Needs, wanted_again: bool },
    Failed { until: BootTime, failure: Failure },
}

impl Phase {
    const fn ready(terms: Terms, idle_since: Option<BootTime>) -> Self {
        Self::Ready { terms, idle_since, freeze_not_before: BootTime::BOOT }
    }
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
}

impl OnDemand {
    /// None yet. `capacity` is what all together may take.
    pub fn new(capacity: Needs) -> Self {
        Self { copies: BTreeMap::new(), capacity }
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
            Event::Fetched(program, terms) => {
                if let Some(copy) = self.copies.get_mut(&program)
                    && copy.phase == Phase::Fetching
                {
                    copy.phase = Phase::WaitingForRoom(terms);
                    self.make_room(program, terms, &mut commands);
                }
            }
            Event::FetchFailed(program, failure) => {
                if self.phase(program) == Some(&Phase::Fetching) {
                    self.failed(now, program, failure, &mut commands);
                }
            }
            Event::Ready(program) => {
                if let Some(copy) = self.copies.get_mut(&program)
                    && let Phase::Starting(terms) = copy.phase
                {
                    copy.phase = Phase::ready(terms, Some(now));
                    copy.ready_since = Some(now);
                    commands.push(Command::Serve(program));
                }
            }
            Event::Gone(program, failure) => self.gone(now, program, failure, &mut commands),
            Event::Idle(program, since) => self.idle(now, program, since, &mut commands),
            Event::Busy(program) => self.busy(program),
            Event::Frozen(program) => {
                if let Some(phase) = self.phase_mut(program)
                    && let Phase::Freezing { terms, idle_since } = *phase
                {
                    *phase = Phase::Frozen { terms, idle_since };
                }
            }
            Event::NotFrozen(program) => {
                if let Some(phase) = self.phase_mut(program)
                    && let Phase::Freezing { terms, idle_since } = *phase
                {
                    let freeze_not_before = now + FREEZE_AGAIN;
                    *phase = Phase::Ready { terms, idle_since: Some(idle_since), freeze_not_before };
                }
            }
            Event::Adopted { program, terms, frozen } => {
                let phase = match frozen {
                    Some(idle_since) => Phase::Frozen { terms, idle_since },
                    None => Phase::ready(terms, Some(now)),
                };
                self.copies.insert(program, Copy { phase, backoff: Backoff::default(), ready_since: Some(now) });
                commands.push(Command::Serve(program));
            }
            Event::Outdated(program) => self.outdated(program, &mut commands),
            Event::Tick { memory_is_short } => {
                self.copies.retain(
                    |_, copy| !matches!(copy.phase, Phase::Failed { until, .. } if until + FORGET_AFTER <= now),
                );
                // One at a time: what it gives back shows before the next has to leave.
                if memory_is_short
                    && self.stopping().next().is_none()
                    && let Some((_, program, _)) = self.unused().first()
                {
                    self.retire(*program, &mut commands);
                }
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
            Phase::Ready { .. } | Phase::Freezing { .. } | Phase::Frozen { .. } => {
                commands.push(Command::Serve(program))
            }
            Phase::Stopping { wanted_again, .. } => *wanted_again = true,
            Phase::Failed { until, failure } if now < *until => commands.push(Command::Fail(program, failure.clone())),
            Phase::Failed { .. } => {
                copy.phase = Phase::Fetching;
                commands.push(Command::Fetch(program));
            }
        }
    }

    /// Nobody has used it since then.
    fn idle(&mut self, now: BootTime, program: ProgramId, since: BootTime, commands: &mut Vec<Command>) {
        let Some(phase) = self.phase_mut(program) else { return };
        // Used since it was frozen, so a request has let it go on.
        if let Phase::Frozen { terms, idle_since } = *phase
            && since > idle_since
        {
            *phase = Phase::ready(terms, Some(since));
        }
        let (terms, may_freeze) = match phase {
            Phase::Ready { terms, idle_since, freeze_not_before } => {
                *idle_since = Some(since);
                (*terms, now >= *freeze_not_before)
            }
            Phase::Freezing { terms, .. } | Phase::Frozen { terms, .. } => (*terms, false),
            _ => return,
        };
        let unused = now.since(since);
        if unused >= terms.patience.stop_after {
            self.retire(program, commands);
        } else if may_freeze && unused >= terms.patience.freeze_after {
            *phase = Phase::Freezing { terms, idle_since: since };
            commands.push(Command::Freeze(program));
        }
    }

    fn busy(&mut self, program: ProgramId) {
        if let Some(phase) = self.phase_mut(program)
            && let Phase::Ready { terms, .. } | Phase::Freezing { terms, .. } | Phase::Frozen { terms, .. } = *phase
        {
            *phase = Phase::ready(terms, None);
        }
    }

    /// The copies that nobody uses, in the order in which they make way.
    fn unused(&self) -> Vec<(BootTime, ProgramId, Needs)> {
        let mut all: Vec<_> = self
            .copies
            .iter()
            .filter_map(|(program, copy)| match copy.phase {
                Phase::Freezing { terms, idle_since } | Phase::Frozen { terms, idle_since } => {
                    Some((0, idle_since, *program, terms.needs))
                }
                Phase::Ready { terms, idle_since: Some(since), .. } => Some((1, since, *program, terms.needs)),
                _ => None,
            })
            .collect();
        all.sort_by_key(|(rank, since, program, _)| (*rank, *since, *program));
        all.into_iter().map(|(_, since, program, needs)| (since, program, needs)).collect()
    }

    /// Starts the program if there is room, otherwise has unused copies make way, otherwise says that the node is full.
    fn make_room(&mut self, program: ProgramId, terms: Terms, commands: &mut Vec<Command>) {
        let (free, needs) = (self.free(), terms.needs);
        if needs.vcpus <= free.vcpus && needs.memory_mib <= free.memory_mib {
            if let Some(copy) = self.copies.get_mut(&program) {
                copy.phase = Phase::Starting(terms);
            }
            return commands.push(Command::Start(program));
        }
        let (mut vcpus, mut memory) =
            self.stopping().fold((free.vcpus, free.memory_mib), |(v, m), n| (v + n.vcpus, m + n.memory_mib));
        let mut leaving = Vec::new();
        for (_, other, their) in self.unused() {
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
            Phase::Starting(terms)
            | Phase::Ready { terms, .. }
            | Phase::Freezing { terms, .. }
            | Phase::Frozen { terms, .. } => Some(terms.needs),
            Phase::Stopping { needs, .. } => Some(needs),
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
            (
                Some(Phase::Starting(_) | Phase::Ready { .. } | Phase::Freezing { .. } | Phase::Frozen { .. }),
                Some(failure),
            ) => {
                self.failed(now, program, failure, commands);
            }
            (Some(Phase::Stopping { wanted_again: true, .. } | Phase::Starting(_)), None)
            | (Some(Phase::Stopping { wanted_again: true, .. }), Some(_)) => {
                if let Some(copy) = self.copies.get_mut(&program) {
                    copy.phase = Phase::Fetching;
                    commands.push(Command::Fetch(program));
                }
            }
            (Some(Phase::Stopping { .. } | Phase::Ready { .. } | Phase::Freezing { .. } | Phase::Frozen { .. }), _) => {
                drop(self.copies.remove(&program))
            }
            _ => {}
        }
        let waiting: Vec<_> = self
            .copies
            .iter()
            .filter_map(|(program, copy)| match copy.phase {
                Phase::WaitingForRoom(terms) => Some((*program, terms)),
                _ => None,
            })
            .collect();
        for (program, terms) in waiting {
            self.make_room(program, terms, commands);
        }
    }

    fn failed(&mut self, now: BootTime, program: ProgramId, failure: Failure, commands: &mut Vec<Command>) {
        let Some(copy) = self.copies.get_mut(&program) else { return };
        let until = copy.backoff.failed(now, copy.ready_since.take());
        copy.phase = Phase::Failed { until, failure: failure.clone() };
        commands.push(Command::Fail(program, failure));
    }

    fn outdated(&mut self, program: ProgramId, commands: &mut Vec<Command>) {
        match self.phase_mut(program) {
            Some(Phase::Ready { .. } | Phase::Freezing { .. } | Phase::Frozen { .. }) => self.retire(program, commands),
            Some(phase @ Phase::Starting(_)) => {
                let Phase::Starting(terms) = *phase else { return };
                *phase = Phase::Stopping { needs: terms.needs, wanted_again: true };
                commands.push(Command::Retire(program));
            }
            Some(Phase::Failed { .. }) => drop(self.copies.remove(&program)),
            _ => {}
        }
    }

    fn retire(&mut self, program: ProgramId, commands: &mut Vec<Command>) {
        if let Some(phase) = self.phase_mut(program)
            && let Phase::Ready { terms, .. } | Phase::Freezing { terms, .. } | Phase::Frozen { terms, .. } = *phase
        {
            *phase = Phase::Stopping { needs: terms.needs, wanted_again: false };
            commands.push(Command::Retire(program));
        }
    }

    fn phase(&self, program: ProgramId) -> Option<&Phase> {
        self.copies.get(&program).map(|copy| &copy.phase)
    }

    fn phase_mut(&mut self, program: ProgramId) -> Option<&mut Phase> {
        self.copies.get_mut(&program).map(|copy| &mut copy.phase)
    }
}

/// How soon it is tried again to freeze what does not stand still.
const FREEZE_AGAIN: Duration = Duration::from_secs(10);

/// How long a failure is remembered after its back-off, so that the next one waits longer.
const FORGET_AFTER: Duration = Duration::from_secs(120);

#[cfg(test)]
#[path = "on_demand_tests.rs"]
mod tests;
