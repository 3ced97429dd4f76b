//! The copies of programs that run on demand: started by a request, frozen and then stopped when nobody uses them. A program
//! has one copy, and more while more requests are inside than one shall have; any number of programs start at the same time.
//!
//! Each copy:
//! ```text
//!            a request,          fetched, its turn, room  ready             unused      stands still
//!            too many inside
//!  (none) ─────────────▶ Fetching ───────────────▶ Starting ─────▶ Ready ─────────▶ Freezing ──────▶ Frozen
//!     ▲                   │ ▲ new code          ▲     │ failed     │ ▲                 │ a request      │ a request
//!     │           fetched ▼ │             room, │     │            │ └─────────────────┴────────────────┘
//!     │                 WaitingForRoom ─────────┘     ▼            ▼ unused for long, room is needed, memory is
//!     └───────────────────────────────────────── (Failed) ◀──── Stopping     short, code changed, program forgotten,
//!                 back-off over, or gone                                      cannot be let go on
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
//! others. Where all room is in use, programs wait for it, and their owners take turns; see `room.rs`.
//!
//! New code may come while a copy is being fetched or waits: what was fetched may be the old one, so it is fetched again.

mod event;
mod room;

use std::collections::BTreeMap;
use std::time::Duration;

use lease::BootTime;
use protocol::control::Failure;
use protocol::{Address, ProgramId};

pub use self::event::{Command, CopyId, Event, Patience, Terms};
use super::backoff::Backoff;
use super::persistent::Needs;
use super::turns::Turns;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Fetching {
        /// Whether there is newer code by now than what is being fetched.
        outdated: bool,
    },
    WaitingForRoom {
        terms: Terms,
        since: BootTime,
        /// Whether somebody leaves for it.
        coming: bool,
    },
    Starting {
        terms: Terms,
        since: BootTime,
    },
    /// Ready, Freezing or Frozen.
    Up(Terms, Use),
    Stopping {
        needs: Needs,
        then: Then,
    },
    Failed {
        until: BootTime,
        failure: Failure,
    },
}

/// What follows when a copy has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    /// It is started again.
    WantedAgain,
    /// Nothing, and nobody waits for that, as it may never end.
    Stuck,
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
        matches!(self, Self::Fetching { .. } | Self::WaitingForRoom { .. } | Self::Starting { .. } | Self::Up(..))
    }

    const fn is_stuck(&self) -> bool {
        matches!(self, Self::Stopping { then: Then::Stuck, .. })
    }
}

#[derive(Debug)]
struct Copy {
    phase: Phase,
    backoff: Backoff,
    ready_since: Option<BootTime>,
}

/// Who wants a program.
#[derive(Debug)]
struct Demand {
    owner: Address,
    /// Whether a request waits that does so for room, and one that does not.
    patient: bool,
    impatient: bool,
}

/// The copies on demand of one node.
#[derive(Debug)]
pub struct OnDemand {
    copies: BTreeMap<CopyId, Copy>,
    /// How many copies the requests inside a program want, where that is more than one.
    crowds: BTreeMap<ProgramId, usize>,
    /// Who wanted each program that has copies.
    demand: BTreeMap<ProgramId, Demand>,
    /// The copies that wait for room.
    waiting: Turns<Address, CopyId>,
    capacity: Needs,
    requests_per_copy: usize,
}

impl OnDemand {
    /// None yet. `capacity` is what all together may take. More requests than `requests_per_copy` inside a program are a
    /// reason for another copy.
    pub fn new(capacity: Needs, requests_per_copy: usize) -> Self {
        let (copies, crowds, demand) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let waiting = Turns::new(room::MAX_WAITING);
        Self { copies, crowds, demand, waiting, capacity, requests_per_copy: requests_per_copy.max(1) }
    }

    /// How many copies are there, in any state.
    pub fn len(&self) -> usize {
        self.copies.values().filter(|copy| !matches!(copy.phase, Phase::Failed { .. })).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many programs wait for room. While there are some it matters soon who does not use theirs any more.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes an event and says what to do, in this order.
    pub fn handle(&mut self, now: BootTime, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Wanted { program, owner, waits } => self.wanted(now, program, owner, waits, &mut commands),
            Event::Inside(program, requests) => self.inside(now, program, requests, &mut commands),
            Event::Fetched(copy, terms) => match self.phase(copy) {
                Some(Phase::Fetching { outdated: true }) => self.fetch_again(copy, &mut commands),
                Some(Phase::Fetching { .. }) => self.fetched(now, copy, terms, &mut commands),
                _ => {}
            },
            Event::FetchFailed(copy, failure) => match self.phase(copy) {
                Some(Phase::Fetching { outdated: true }) => self.fetch_again(copy, &mut commands),
                Some(Phase::Fetching { .. }) => self.failed(now, copy, failure, &mut commands),
                _ => {}
            },
            Event::Ready(copy) => {
                if let Some(Copy { phase, ready_since, .. }) = self.copies.get_mut(&copy)
                    && let Phase::Starting { terms, .. } = *phase
                {
                    // By those who waited for it and go in now.
                    *phase = Phase::Up(terms, Use::Busy);
                    *ready_since = Some(now);
                    self.serve(copy.program, &mut commands);
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
            Event::Stuck(copy) => {
                if let Some(Phase::Up(terms, _)) = self.phase(copy) {
                    self.set(copy, Phase::Stopping { needs: terms.needs, then: Then::Stuck });
                    commands.push(Command::Retire(copy));
                }
            }
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
                self.demand.retain(|program, _| copies.range(all_of(*program)).next().is_some());
                self.end_waiting(now, &mut commands);
                self.give_room(now, &mut commands);
                if memory_is_short {
                    self.give_memory_back(now, &mut commands);
                }
            }
        }
        commands
    }

    fn wanted(&mut self, now: BootTime, program: ProgramId, owner: Address, waits: bool, commands: &mut Vec<Command>) {
        if self.of(program).any(|(_, phase)| phase.is_up()) {
            return self.serve(program, commands);
        }
        let demand = self.demand.entry(program).or_insert(Demand { owner, patient: false, impatient: false });
        demand.patient |= waits;
        demand.impatient |= !waits;
        if self.is_alive(program) {
            let waiting = self.of(program).find_map(|(_, phase)| match phase {
                Phase::WaitingForRoom { terms, coming: false, .. } => Some(terms.needs),
                _ => None,
            });
            return waiting.into_iter().for_each(|needs| self.refuse(program, needs, commands));
        }
        for (_, copy) in self.copies.range_mut(all_of(program)) {
            match &mut copy.phase {
                Phase::Failed { until, failure } if now < *until => {
                    let failure = failure.clone();
                    return self.fail(program, failure, commands);
                }
                Phase::Stopping { then: then @ (Then::Nothing | Then::WantedAgain), .. } => {
                    return *then = Then::WantedAgain;
                }
                _ => {}
            }
        }
        self.begin(program, commands);
    }

    /// Everything that the copy needs is there. The only copy of a program waits for its turn and for room, another one does
    /// not.
    fn fetched(&mut self, now: BootTime, copy: CopyId, terms: Terms, commands: &mut Vec<Command>) {
        if !room::fits(terms.needs, self.capacity) {
            return self.turn_away(copy, "this node is too small for it", commands);
        }
        let is_only = !self.of(copy.program).any(|(_, phase)| phase.is_up());
        let owner = self.demand.get(&copy.program).map(|demand| demand.owner.clone());
        match owner.filter(|_| is_only) {
            Some(owner) => {
                self.set(copy, Phase::WaitingForRoom { terms, since: now, coming: false });
                if let Some(last) = self.waiting.push(owner, copy) {
                    self.turn_away(last, "too many programs wait for room on this node", commands);
                }
                self.give_room(now, commands);
            }
            None if self.waiting.is_empty() && room::fits(terms.needs, self.free()) => {
                self.set(copy, Phase::Starting { terms, since: now });
                commands.push(Command::Start(copy));
            }
            None => self.turn_away(copy, "this node has no room for another copy of it now", commands),
        }
    }

    /// What was fetched is not the newest any more.
    fn fetch_again(&mut self, copy: CopyId, commands: &mut Vec<Command>) {
        self.set(copy, Phase::Fetching { outdated: false });
        commands.extend([Command::Drop(copy), Command::Fetch(copy)]);
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
        let is_there = |phase: &Phase| !matches!(phase, Phase::Failed { .. }) && !phase.is_stuck();
        let there = self.of(program).filter(|(_, phase)| is_there(phase)).count();
        for _ in there..wanted {
            self.begin(program, commands);
        }
    }

    /// Begins with another copy: one that failed long enough ago, or a new one.
    fn begin(&mut self, program: ProgramId, commands: &mut Vec<Command>) {
        let failed = self.of(program).find(|(_, phase)| matches!(phase, Phase::Failed { .. })).map(|(copy, _)| copy);
        let free = || (0..).map(|number| CopyId { program, number }).find(|copy| !self.copies.contains_key(copy));
        let Some(copy) = failed.or_else(free) else { return };
        let phase = Phase::Fetching { outdated: false };
        let fresh = Copy { phase: phase.clone(), backoff: Backoff::default(), ready_since: None };
        self.copies.entry(copy).or_insert(fresh).phase = phase;
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
            (Some(Phase::Starting { .. } | Phase::Up(..)), Some(failure)) => self.failed(now, copy, failure, commands),
            (Some(Phase::Stopping { then: Then::WantedAgain, .. }), _) | (Some(Phase::Starting { .. }), None) => {
                if self.of(copy.program).any(|(other, phase)| other != copy && phase.is_alive()) {
                    self.copies.remove(&copy);
                } else {
                    self.set(copy, Phase::Fetching { outdated: false });
                    commands.push(Command::Fetch(copy));
                }
            }
            (Some(Phase::Stopping { .. } | Phase::Up(..)), _) => drop(self.copies.remove(&copy)),
            _ => {}
        }
        self.give_room(now, commands);
    }

    fn failed(&mut self, now: BootTime, id: CopyId, failure: Failure, commands: &mut Vec<Command>) {
        let Some(copy) = self.copies.get_mut(&id) else { return };
        let until = copy.backoff.failed(now, copy.ready_since.take());
        copy.phase = Phase::Failed { until, failure: failure.clone() };
        self.not_started(id, failure, commands);
    }

    /// It will not be there: what was fetched for it is of no use, and who waits hears of it, unless another copy is there.
    fn not_started(&mut self, copy: CopyId, failure: Failure, commands: &mut Vec<Command>) {
        commands.push(Command::Drop(copy));
        if !self.is_alive(copy.program) {
            self.fail(copy.program, failure, commands);
        }
    }

    /// Whoever waits for the program goes in.
    fn serve(&mut self, program: ProgramId, commands: &mut Vec<Command>) {
        self.nobody_waits(program);
        commands.push(Command::Serve(program));
    }

    /// Whoever waits for the program hears that it failed.
    fn fail(&mut self, program: ProgramId, failure: Failure, commands: &mut Vec<Command>) {
        self.nobody_waits(program);
        commands.push(Command::Fail(program, failure));
    }

    fn nobody_waits(&mut self, program: ProgramId) {
        if let Some(demand) = self.demand.get_mut(&program) {
            (demand.patient, demand.impatient) = (false, false);
        }
    }

    fn outdated(&mut self, program: ProgramId, commands: &mut Vec<Command>) {
        let copies: Vec<_> = self.of(program).map(|(copy, phase)| (copy, phase.clone())).collect();
        // Requests wait for one that starts, unless another is up.
        let is_up = copies.iter().any(|(_, phase)| phase.is_up());
        let then = if is_up { Then::Nothing } else { Then::WantedAgain };
        for (copy, phase) in copies {
            match phase {
                Phase::Fetching { .. } => self.set(copy, Phase::Fetching { outdated: true }),
                Phase::WaitingForRoom { .. } => {
                    self.waiting.remove(copy);
                    self.fetch_again(copy, commands);
                }
                Phase::Up(..) => self.retire(copy, commands),
                Phase::Starting { terms, .. } => {
                    self.set(copy, Phase::Stopping { needs: terms.needs, then });
                    commands.push(Command::Retire(copy));
                }
                Phase::Failed { .. } => drop(self.copies.remove(&copy)),
                Phase::Stopping { .. } => {}
            }
        }
    }

    fn retire(&mut self, copy: CopyId, commands: &mut Vec<Command>) {
        if let Some(Phase::Up(terms, _)) = self.phase(copy) {
            self.set(copy, Phase::Stopping { needs: terms.needs, then: Then::Nothing });
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
