//! The copies of programs that run on demand: started by a request, frozen and then stopped when nobody uses them. A program
//! has one copy, and more while more requests are inside than one shall have; any number of programs start at the same time.
//!
//! Each copy:
//! ```text
//!            a request,          fetched, and room        ready             unused      stands still
//!            too many inside
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
//! The first request starts one copy, whoever else asks meanwhile. More copies start only where room is free: nobody leaves
//! for them. A copy that nobody uses is stopped when it would be frozen, if the program has as many before it as the requests
//! inside want: a crowd that stays in the first copy keeps the second, which gets those that come.
//!
//! When room is needed or memory is short, frozen and spare copies leave first, then idle ones, the longest unused before the
//! others.

mod room;

use std::collections::BTreeMap;
use std::time::Duration;

use lease::BootTime;
use protocol::ProgramId;
use protocol::control::Failure;

use super::backoff::Backoff;
use super::persistent::Needs;

/// One of the copies of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyId {
    /// Whose.
    pub program: ProgramId,
    /// Which: from 0 on. Requests go to the one with the lowest number that has room for them.
    pub number: u16,
}

impl CopyId {
    /// The first copy of a program.
    pub const fn first(program: ProgramId) -> Self {
        Self { program, number: 0 }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request waits for the program.
    Wanted(ProgramId),
    /// So many requests are inside the program, in all of its copies.
    Inside(ProgramId, usize),
    /// Everything that the copy needs is there.
    Fetched(CopyId, Terms),
    /// Something that it needs cannot be had.
    FetchFailed(CopyId, Failure),
    /// Its sandbox answers.
    Ready(CopyId),
    /// Nothing of its sandbox runs any more; a failure, unless it was told to end.
    Gone(CopyId, Option<Failure>),
    /// No request has used it since then.
    Idle(CopyId, BootTime),
    /// Requests use it.
    Busy(CopyId),
    /// It stands still.
    Frozen(CopyId),
    /// It does not stand still: it was used just then, or cannot.
    NotFrozen(CopyId),
    /// A copy of an agent before this one was found alive and ready.
    Adopted {
        /// Which.
        copy: CopyId,
        /// How it runs.
        terms: Terms,
        /// Since when it counts as unused, if it was found frozen.
        frozen: Option<BootTime>,
    },
    /// No copy of it must go on as it is: new code, or forgotten.
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
    /// Fetch what the copy needs.
    Fetch(CopyId),
    /// Start its sandbox.
    Start(CopyId),
    /// Let the program's waiting requests through.
    Serve(ProgramId),
    /// Tell the program's waiting requests that it failed.
    Fail(ProgramId, Failure),
    /// Forget what was fetched for the copy: it is not started.
    Drop(CopyId),
    /// Have it stand still, unless a request uses it just now.
    Freeze(CopyId),
    /// Let no new request in, wait for those inside, and end it.
    Retire(CopyId),
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
    /// How many copies its program has at most.
    pub copies: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Fetching,
    WaitingForRoom(Terms),
    Starting(Terms),
    /// Ready, Freezing or Frozen.
    Up(Terms, Use),
    Stopping {
        needs: Needs,
        wanted_again: bool,
    },
    Failed {
        until: BootTime,
        failure: Failure,
    },
}

/// How a copy that is ready is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Busy,
    Idle { since: BootTime, freeze_not_before: BootTime },
    Freezing { since: BootTime },
    Frozen { since: BootTime },
}

impl Use {
    const fn idle(since: BootTime) -> Self {
        Self::Idle { since, freeze_not_before: BootTime::BOOT }
    }
}

impl Phase {
    const fn is_up(&self) -> bool {
        matches!(self, Self::Up(..))
    }

    /// Whether requests are or will be served by it.
    const fn is_alive(&self) -> bool {
        matches!(self, Self::Fetching | Self::WaitingForRoom(_) | Self::Starting(_) | Self::Up(..))
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
    copies: BTreeMap<CopyId, Copy>,
    /// How many copies the requests inside a program want, where that is more than one.
    crowds: BTreeMap<ProgramId, usize>,
    capacity: Needs,
    requests_per_copy: usize,
}

impl OnDemand {
    /// None yet. `capacity` is what all together may take. More requests than `requests_per_copy` inside a program are a
    /// reason for another copy.
    pub fn new(capacity: Needs, requests_per_copy: usize) -> Self {
        let (copies, crowds) = (BTreeMap::new(), BTreeMap::new());
        Self { copies, crowds, capacity, requests_per_copy: requests_per_copy.max(1) }
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
            Event::Inside(program, requests) => self.inside(now, program, requests, &mut commands),
            Event::Fetched(copy, terms) => {
                if self.phase(copy) == Some(&Phase::Fetching) {
                    self.set(copy, Phase::WaitingForRoom(terms));
                    self.make_room(copy, terms, &mut commands);
                }
            }
            Event::FetchFailed(copy, failure) => {
                if self.phase(copy) == Some(&Phase::Fetching) {
                    self.failed(now, copy, failure, &mut commands);
                }
            }
            Event::Ready(copy) => {
                if let Some(Copy { phase, ready_since, .. }) = self.copies.get_mut(&copy)
                    && let Phase::Starting(terms) = *phase
                {
                    *phase = Phase::Up(terms, Use::idle(now));
                    *ready_since = Some(now);
                    commands.push(Command::Serve(copy.program));
                }
            }
            Event::Gone(copy, failure) => self.gone(now, copy, failure, &mut commands),
            Event::Idle(copy, since) => self.idle(now, copy, since, &mut commands),
            Event::Busy(copy) => self.set_use(copy, |_| Use::Busy),
            Event::Frozen(copy) => self.set_use(copy, |before| match before {
                Use::Freezing { since } => Use::Frozen { since },
                other => other,
            }),
            Event::NotFrozen(copy) => self.set_use(copy, |before| match before {
                Use::Freezing { since } => Use::Idle { since, freeze_not_before: now + FREEZE_AGAIN },
                other => other,
            }),
            Event::Adopted { copy, terms, frozen } => {
                let usage = frozen.map_or(Use::idle(now), |since| Use::Frozen { since });
                let (phase, backoff) = (Phase::Up(terms, usage), Backoff::default());
                self.copies.insert(copy, Copy { phase, backoff, ready_since: Some(now) });
                commands.push(Command::Serve(copy.program));
            }
            Event::Outdated(program) => self.outdated(program, &mut commands),
            Event::Tick { memory_is_short } => {
                self.copies.retain(
                    |_, copy| !matches!(copy.phase, Phase::Failed { until, .. } if until + FORGET_AFTER <= now),
                );
                let copies = &self.copies;
                self.crowds.retain(|program, _| copies.range(all_of(*program)).any(|(_, copy)| copy.phase.is_up()));
                if memory_is_short {
                    self.give_memory_back(&mut commands);
                }
            }
        }
        commands
    }

    fn wanted(&mut self, now: BootTime, program: ProgramId, commands: &mut Vec<Command>) {
        if self.of(program).any(|(_, phase)| phase.is_up()) {
            return commands.push(Command::Serve(program));
        }
        if self.is_alive(program) {
            return;
        }
        for (_, copy) in self.copies.range_mut(all_of(program)) {
            match &mut copy.phase {
                Phase::Failed { until, failure } if now < *until => {
                    return commands.push(Command::Fail(program, failure.clone()));
                }
                Phase::Stopping { wanted_again, .. } => return *wanted_again = true,
                _ => {}
            }
        }
        self.begin(program, commands);
    }

    /// Starts as many copies as the requests inside want, unless one has just failed. What was started for those that are
    /// gone is spare from now on.
    fn inside(&mut self, now: BootTime, program: ProgramId, requests: usize, commands: &mut Vec<Command>) {
        let terms = self.of(program).find_map(|(_, phase)| match phase {
            Phase::Up(terms, _) => Some(*terms),
            _ => None,
        });
        let Some(terms) = terms else { return };
        let wanted = requests.div_ceil(self.requests_per_copy).min(terms.copies.into());
        if wanted > 1 {
            self.crowds.insert(program, wanted);
        } else {
            self.crowds.remove(&program);
        }
        let has_failed = |phase: &Phase| matches!(phase, Phase::Failed { until, .. } if now < *until);
        if self.of(program).any(|(_, phase)| has_failed(phase)) {
            return;
        }
        // Also those that end: what they take is not free yet, and new code may be why they do.
        let there = self.of(program).filter(|(_, phase)| !matches!(phase, Phase::Failed { .. })).count();
        for _ in there..wanted {
            self.begin(program, commands);
        }
    }

    /// Begins with another copy: one that failed long enough ago, or a new one.
    fn begin(&mut self, program: ProgramId, commands: &mut Vec<Command>) {
        let failed = self.of(program).find(|(_, phase)| matches!(phase, Phase::Failed { .. })).map(|(copy, _)| copy);
        let free = || (0..).map(|number| CopyId { program, number }).find(|copy| !self.copies.contains_key(copy));
        let Some(copy) = failed.or_else(free) else { return };
        let fresh = Copy { phase: Phase::Fetching, backoff: Backoff::default(), ready_since: None };
        self.copies.entry(copy).or_insert(fresh).phase = Phase::Fetching;
        commands.push(Command::Fetch(copy));
    }

    /// Nobody has used it since then.
    fn idle(&mut self, now: BootTime, copy: CopyId, since: BootTime, commands: &mut Vec<Command>) {
        let is_spare = self.is_spare(copy);
        let Some(Phase::Up(terms, usage)) = self.copies.get_mut(&copy).map(|copy| &mut copy.phase) else { return };
        match usage {
            Use::Busy => *usage = Use::idle(since),
            // Used since it was frozen, so a request has let it go on.
            Use::Frozen { since: before } if since > *before => *usage = Use::idle(since),
            Use::Idle { since: before, .. } => *before = since,
            Use::Freezing { .. } | Use::Frozen { .. } => {}
        }
        let (unused, patience) = (now.since(since), terms.patience);
        if unused >= patience.stop_after || (is_spare && unused >= patience.freeze_after) {
            self.retire(copy, commands);
        } else if let Use::Idle { freeze_not_before, .. } = *usage
            && unused >= patience.freeze_after
            && now >= freeze_not_before
        {
            *usage = Use::Freezing { since };
            commands.push(Command::Freeze(copy));
        }
    }

    fn gone(&mut self, now: BootTime, copy: CopyId, failure: Option<Failure>, commands: &mut Vec<Command>) {
        match (self.phase(copy).cloned(), failure) {
            (Some(Phase::Starting(_) | Phase::Up(..)), Some(failure)) => self.failed(now, copy, failure, commands),
            (Some(Phase::Stopping { wanted_again: true, .. }), _) | (Some(Phase::Starting(_)), None) => {
                if self.of(copy.program).any(|(other, phase)| other != copy && phase.is_alive()) {
                    self.copies.remove(&copy);
                } else {
                    self.set(copy, Phase::Fetching);
                    commands.push(Command::Fetch(copy));
                }
            }
            (Some(Phase::Stopping { .. } | Phase::Up(..)), _) => drop(self.copies.remove(&copy)),
            _ => {}
        }
        self.room_is_free(commands);
    }

    fn failed(&mut self, now: BootTime, id: CopyId, failure: Failure, commands: &mut Vec<Command>) {
        let Some(copy) = self.copies.get_mut(&id) else { return };
        let until = copy.backoff.failed(now, copy.ready_since.take());
        copy.phase = Phase::Failed { until, failure: failure.clone() };
        self.not_started(id, failure, commands);
    }

    /// It will not be there: what was fetched for it is of no use, and who waits hears of it, unless another copy is there.
    fn not_started(&self, copy: CopyId, failure: Failure, commands: &mut Vec<Command>) {
        commands.push(Command::Drop(copy));
        if !self.is_alive(copy.program) {
            commands.push(Command::Fail(copy.program, failure));
        }
    }

    fn outdated(&mut self, program: ProgramId, commands: &mut Vec<Command>) {
        let copies: Vec<_> = self.of(program).map(|(copy, phase)| (copy, phase.clone())).collect();
        // Requests wait for one that starts, unless another is up.
        let wanted_again = !copies.iter().any(|(_, phase)| phase.is_up());
        for (copy, phase) in copies {
            match phase {
                Phase::Up(..) => self.retire(copy, commands),
                Phase::Starting(terms) => {
                    self.set(copy, Phase::Stopping { needs: terms.needs, wanted_again });
                    commands.push(Command::Retire(copy));
                }
                Phase::Failed { .. } => drop(self.copies.remove(&copy)),
                _ => {}
            }
        }
    }

    fn retire(&mut self, copy: CopyId, commands: &mut Vec<Command>) {
        if let Some(Phase::Up(terms, _)) = self.phase(copy) {
            self.set(copy, Phase::Stopping { needs: terms.needs, wanted_again: false });
            commands.push(Command::Retire(copy));
        }
    }

    fn set_use(&mut self, copy: CopyId, change: impl FnOnce(Use) -> Use) {
        if let Some(Phase::Up(_, usage)) = self.copies.get_mut(&copy).map(|copy| &mut copy.phase) {
            *usage = change(*usage);
        }
    }

    fn set(&mut self, copy: CopyId, phase: Phase) {
        if let Some(copy) = self.copies.get_mut(&copy) {
            copy.phase = phase;
        }
    }

    fn phase(&self, copy: CopyId) -> Option<&Phase> {
        self.copies.get(&copy).map(|copy| &copy.phase)
    }

    /// The copies of a program.
    fn of(&self, program: ProgramId) -> impl Iterator<Item = (CopyId, &Phase)> {
        self.copies.range(all_of(program)).map(|(id, copy)| (*id, &copy.phase))
    }

    fn is_alive(&self, program: ProgramId) -> bool {
        self.of(program).any(|(_, phase)| phase.is_alive())
    }

    /// Whether its program has as many copies before it as it wants.
    fn is_spare(&self, copy: CopyId) -> bool {
        let before = self.of(copy.program).take_while(|(other, _)| *other < copy);
        let wanted = self.crowds.get(&copy.program).copied().unwrap_or(1);
        before.filter(|(_, phase)| phase.is_up()).count() >= wanted
    }
}

/// All copies that a program can have.
const fn all_of(program: ProgramId) -> std::ops::RangeInclusive<CopyId> {
    CopyId::first(program)..=CopyId { program, number: u16::MAX }
}

/// How soon it is tried again to freeze what does not stand still.
const FREEZE_AGAIN: Duration = Duration::from_secs(10);

/// How long a failure is remembered after its back-off, so that the next one waits longer.
const FORGET_AFTER: Duration = Duration::from_secs(120);

#[cfg(test)]
#[path = "on_demand_tests.rs"]
mod tests;
