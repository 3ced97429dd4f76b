//! Room for copies: what is free, who waits for it, and who makes way.
//!
//! Whose turn it is starts, as soon as it fits beside what runs. Copies that nobody uses leave for it. Where all are in use it
//! waits, but not for ever; others who fit may pass it for half of that time, so that a large one gets its room in the end.
//! A copy that takes long to start makes way, too, if its owner has more of the node than who waits for it would have: a program
//! that never gets ready must not keep others out.

use std::collections::HashMap;
use std::time::Duration;

use lease::BootTime;
use protocol::control::{Failure, FailureKind};
use protocol::{Address, ProgramId};

use super::{Command, CopyId, Needs, OnDemand, Phase, Then, Use};

/// How many programs wait for room at most.
pub(super) const MAX_WAITING: usize = 256;

/// How long a program waits for room at most.
const WAIT: Duration = Duration::from_secs(20);

/// How long others may pass one that waits and does not fit.
const PASSED: Duration = Duration::from_secs(10);

/// What takes longer to start may make way.
const LONG_START: Duration = Duration::from_secs(5);

/// A copy that was used a moment ago does not make way: who was let through may be just before the door.
const JUST_USED: Duration = Duration::from_millis(100);

/// Whether this fits into that.
pub(super) const fn fits(needs: Needs, room: Needs) -> bool {
    needs.vcpus <= room.vcpus && needs.memory_mib <= room.memory_mib
}

const fn plus(a: Needs, b: Needs) -> Needs {
    Needs { vcpus: a.vcpus + b.vcpus, memory_mib: a.memory_mib + b.memory_mib }
}

const fn minus(a: Needs, b: Needs) -> Needs {
    Needs { vcpus: a.vcpus.saturating_sub(b.vcpus), memory_mib: a.memory_mib.saturating_sub(b.memory_mib) }
}

fn no_room(message: impl Into<String>) -> Failure {
    // Not the program's fault, so nothing is held against it.
    Failure { kind: FailureKind::NodeFault, message: message.into() }
}

/// What is free, and what will be when those who leave are gone.
struct Room {
    free: Needs,
    coming: Needs,
}

impl Room {
    fn in_all(&self) -> Needs {
        plus(self.free, self.coming)
    }

    /// Keeps so much for somebody who starts when it is there.
    fn keep(&mut self, needs: Needs) {
        let rest = minus(needs, self.coming);
        (self.coming, self.free) = (minus(self.coming, needs), minus(self.free, rest));
    }
}

impl OnDemand {
    /// Starts those who wait, in turn, as far as there is room, and has others leave for them.
    pub(super) fn give_room(&mut self, now: BootTime, commands: &mut Vec<Command>) {
        let mut room = Room { free: self.free(), coming: self.stopping().fold(Needs::default(), plus) };
        for copy in self.waiting.in_order() {
            let Some(Phase::WaitingForRoom { terms, since, .. }) = self.phase(copy).cloned() else { continue };
            let needs = terms.needs;
            if fits(needs, room.free) {
                room.free = minus(room.free, needs);
                self.waiting.serve(copy);
                self.set(copy, Phase::Starting { terms, since: now });
                commands.push(Command::Start(copy));
                continue;
            }
            let leaving = self.who_makes_way(now, copy.program, needs, room.in_all());
            let coming = leaving.is_some();
            self.set(copy, Phase::WaitingForRoom { terms, since, coming });
            if let Some(leaving) = leaving {
                room.coming = leaving.iter().fold(room.coming, |sum, (_, their)| plus(sum, *their));
                leaving.into_iter().for_each(|(other, _)| self.make_way(other, commands));
                room.keep(needs);
                continue;
            }
            self.refuse(copy.program, needs, commands);
            if now.since(since) >= PASSED {
                break;
            }
        }
    }

    /// Tells those who do not wait for room that there is none. The copy does not wait for it either, if all are such.
    pub(super) fn refuse(&mut self, program: ProgramId, needs: Needs, commands: &mut Vec<Command>) {
        let free = self.free();
        let why = format!(
            "this node has no room for it now: it needs {} MiB and {} vCPUs, {} MiB and {} vCPUs are free",
            needs.memory_mib, needs.vcpus, free.memory_mib, free.vcpus
        );
        let Some(demand) = self.demand.get_mut(&program) else { return };
        let is_impatient = std::mem::take(&mut demand.impatient);
        if !demand.patient {
            let waiting: Vec<_> = self.of(program).filter(|(_, phase)| waits(phase)).map(|(copy, _)| copy).collect();
            waiting.into_iter().for_each(|copy| self.turn_away(copy, &why, commands));
        } else if is_impatient {
            commands.push(Command::Refuse(program, no_room(why)));
        }
    }

    /// Ends the waiting of those who have waited for too long.
    pub(super) fn end_waiting(&mut self, now: BootTime, commands: &mut Vec<Command>) {
        let is_over = |phase: &Phase| matches!(phase, Phase::WaitingForRoom { since, .. } if now.since(*since) >= WAIT);
        let over: Vec<_> = self.copies.iter().filter(|(_, copy)| is_over(&copy.phase)).map(|(id, _)| *id).collect();
        let why = format!("this node had no room for it within {} s", WAIT.as_secs());
        over.into_iter().for_each(|copy| self.turn_away(copy, &why, commands));
    }

    /// There will be no room for it.
    pub(super) fn turn_away(&mut self, copy: CopyId, why: &str, commands: &mut Vec<Command>) {
        self.waiting.remove(copy);
        self.copies.remove(&copy);
        self.not_started(copy, no_room(why), commands);
    }

    /// Has one copy leave that nobody uses. One at a time: what it gives back shows before the next has to leave.
    pub(super) fn give_memory_back(&mut self, now: BootTime, commands: &mut Vec<Command>) {
        if self.stopping().next().is_none()
            && let Some((copy, _)) = self.unused(now).first()
        {
            self.retire(*copy, commands);
        }
    }

    /// Has a copy leave that is not used, or that takes long to start.
    fn make_way(&mut self, copy: CopyId, commands: &mut Vec<Command>) {
        let Some(Phase::Starting { terms, .. }) = self.phase(copy) else { return self.retire(copy, commands) };
        self.set(copy, Phase::Stopping { needs: terms.needs, then: Then::Nothing });
        commands.push(Command::Retire(copy));
        if !self.is_alive(copy.program) {
            let why = format!("it did not start within {} s, and its room was needed", LONG_START.as_secs());
            self.fail(copy.program, no_room(why), commands);
        }
    }

    /// Which copies leave so that this fits into the room that there will be then; `None` if it does not.
    fn who_makes_way(
        &self,
        now: BootTime,
        program: ProgramId,
        needs: Needs,
        mut room: Needs,
    ) -> Option<Vec<(CopyId, Needs)>> {
        let mut leaving = Vec::new();
        let long_starts = std::iter::once_with(|| self.long_starts(now, program, needs)).flatten();
        for (copy, their) in self.unused(now).into_iter().chain(long_starts) {
            if fits(needs, room) {
                break;
            }
            room = plus(room, their);
            leaving.push((copy, their));
        }
        fits(needs, room).then_some(leaving)
    }

    /// The copies that nobody uses, in the order in which they make way.
    fn unused(&self, now: BootTime) -> Vec<(CopyId, Needs)> {
        let rank = |copy: CopyId, usage: Use| -> Option<(bool, BootTime)> {
            match usage {
                Use::Busy => None,
                Use::Idle { since, .. } if now.since(since) < JUST_USED => None,
                Use::Idle { since, .. } => Some((!self.is_spare(copy), since)),
                Use::Freezing { since } | Use::Frozen { since } => Some((false, since)),
            }
        };
        let mut all: Vec<_> = self
            .copies
            .iter()
            .filter_map(|(id, copy)| match copy.phase {
                Phase::Up(terms, usage) => Some((rank(*id, usage)?, *id, terms.needs)),
                _ => None,
            })
            .collect();
        all.sort_by_key(|(rank, copy, _)| (*rank, *copy));
        all.into_iter().map(|(_, copy, needs)| (copy, needs)).collect()
    }

    /// The copies that take long to start and whose owners have more than who waits would have, also without them: the longest
    /// first.
    fn long_starts(&self, now: BootTime, program: ProgramId, needs: Needs) -> Vec<(CopyId, Needs)> {
        let mut shares = self.shares();
        let owner_of = |program: ProgramId| self.demand.get(&program).map(|demand| &demand.owner);
        let mine = owner_of(program).and_then(|owner| shares.get(owner)).copied().unwrap_or(0) + self.share(needs);
        let mut starts: Vec<_> = self
            .copies
            .iter()
            .filter_map(|(id, copy)| match copy.phase {
                Phase::Starting { terms, since } if now.since(since) >= LONG_START => Some((since, *id, terms.needs)),
                _ => None,
            })
            .collect();
        starts.sort_by_key(|(since, copy, _)| (*since, *copy));
        starts.retain(|(_, copy, their)| {
            let Some(theirs) = owner_of(copy.program).and_then(|owner| shares.get_mut(owner)) else { return false };
            let without = theirs.saturating_sub(self.share(*their));
            let leaves = without >= mine;
            if leaves {
                *theirs = without;
            }
            leaves
        });
        starts.into_iter().map(|(_, copy, needs)| (copy, needs)).collect()
    }

    /// What each owner has of the node.
    fn shares(&self) -> HashMap<Address, u64> {
        let mut shares = HashMap::new();
        for (id, copy) in &self.copies {
            if let (Some(taken), Some(demand)) = (taken(&copy.phase), self.demand.get(&id.program)) {
                *shares.entry(demand.owner.clone()).or_default() += self.share(taken);
            }
        }
        shares
    }

    /// The part of the node that this is, in millionths: of what is scarcer.
    fn share(&self, needs: Needs) -> u64 {
        let part = |of: u64, all: u64| of.saturating_mul(1_000_000) / all.max(1);
        part(needs.vcpus.into(), self.capacity.vcpus.into()).max(part(needs.memory_mib, self.capacity.memory_mib))
    }

    pub(super) fn free(&self) -> Needs {
        let taken = self.copies.values().filter_map(|copy| taken(&copy.phase));
        minus(self.capacity, taken.fold(Needs::default(), plus))
    }

    fn stopping(&self) -> impl Iterator<Item = Needs> {
        self.copies.values().filter_map(|copy| match copy.phase {
            // One that is stuck may never go.
            Phase::Stopping { needs, then: Then::Nothing | Then::WantedAgain } => Some(needs),
            _ => None,
        })
    }
}

/// What a copy takes of the node.
const fn taken(phase: &Phase) -> Option<Needs> {
    match phase {
        Phase::Starting { terms, .. } | Phase::Up(terms, _) => Some(terms.needs),
        Phase::Stopping { needs, .. } => Some(*needs),
        Phase::Fetching { .. } | Phase::WaitingForRoom { .. } | Phase::Failed { .. } => None,
    }
}

const fn waits(phase: &Phase) -> bool {
    matches!(phase, Phase::WaitingForRoom { .. })
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
