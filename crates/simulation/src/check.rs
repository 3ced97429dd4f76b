//! What must hold after every step, and what the checker remembers for it. It sees all of the world at once, which nobody in
//! it can.

pub(crate) mod data;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use compute_node::core::persistent::Assignment;
use protocol::{Epoch, NodeId, ProgramId};
use scheduler::core::desired::Needs;

use crate::time::Moment;
use crate::world::{MachineId, Place, SchedulerRun, World, machine_of, name, say};

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Invariant {
    /// I1: at most one sandbox of a persistent program runs.
    OneCopy,
    /// I1: an epoch is used once, and a later one is a higher one.
    Epochs,
    /// I2: no route of a lower epoch takes the place of a higher one's.
    Routes,
    /// I2: no copy of a lower epoch is taken in.
    Streams,
    /// I3: what is desired and fits runs again in time.
    Liveness,
    /// I2 and I4: what a program starts with is what its last epoch left, or a beginning of it.
    Lineage,
    /// I4: what is lost was said, and not less than it is.
    Losses,
    /// I4: what was written once is waited for, unless its owner wants to start with nothing.
    Nothing,
    /// I4: what was said to be on the standby is not lost with one machine.
    Flushes,
    /// I4: a planned move loses nothing.
    Moves,
    /// I4: a program goes back to what its owner wanted, exactly, and only when its owner wanted that.
    Restores,
    /// I4: what the archive lists can be restored, and is what was archived.
    Archive,
    /// I5: no node is given more than it has.
    Room,
    /// Rule 4: nothing ends, moves or stops without evidence.
    Evidence,
    /// Rule 3: a holder asks, then kills, then the fuse burns through, with time between; all before the issuer goes on.
    Deadlines,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneCopy => "I1 (one copy)",
            Self::Epochs => "I1 (epochs)",
            Self::Routes => "I2 (routes)",
            Self::Streams => "I2 (streams)",
            Self::Liveness => "I3 (liveness)",
            Self::Lineage => "I4 (one line of writes)",
            Self::Losses => "I4 (losses)",
            Self::Nothing => "I4 (never with nothing)",
            Self::Flushes => "I4 (flushes)",
            Self::Moves => "I4 (moves)",
            Self::Restores => "I4 (restores)",
            Self::Archive => "I4 (archive)",
            Self::Room => "I5 (room)",
            Self::Evidence => "rule 4 (evidence)",
            Self::Deadlines => "rule 3 (deadlines)",
        })
    }
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// When.
    pub at: Moment,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken at {}: {}", self.invariant, self.at, self.what)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    pub(crate) violation: Option<Violation>,
    /// Where each program runs.
    running: BTreeMap<ProgramId, BTreeSet<Place>>,
    /// Programs with more than one sandbox that has not died yet.
    crowded: BTreeSet<ProgramId>,
    /// The machine on which an epoch ran, and the highest epoch that ran.
    ran: BTreeMap<(ProgramId, Epoch), MachineId>,
    highest: BTreeMap<ProgramId, Epoch>,
    /// The database was lost or is older than it was: it may count the same numbers again.
    pub(crate) counts_again: bool,
    /// When the scheduler takes a lease for ended, unless it renews it before.
    expiries: BTreeMap<(ProgramId, Epoch), Moment>,
    /// What some scheduler ordered to release.
    released: BTreeSet<(ProgramId, Epoch)>,
    /// Since when a program that answered does not any more.
    down_since: BTreeMap<ProgramId, Moment>,
    answering: BTreeMap<ProgramId, Place>,
    /// How often each program began to answer.
    starts: BTreeMap<ProgramId, u32>,
    /// See the module.
    pub(crate) data: data::DataChecker,
    /// How long programs that answered did not.
    pub(crate) gaps: Vec<Duration>,
}

impl Checker {
    /// A sandbox becomes a program's.
    pub(crate) fn enter(&mut self, place: Place, assignment: Assignment) -> Option<(Invariant, String)> {
        let Assignment { program, epoch } = assignment;
        let places = self.running.entry(program).or_default();
        places.insert(place);
        if places.len() > 1 {
            self.crowded.insert(program);
        }
        let other = self.ran.insert((program, epoch), place.0).filter(|other| *other != place.0);
        let highest = self.highest.entry(program).or_insert(epoch);
        let highest = std::mem::replace(highest, epoch.max(*highest));
        if self.counts_again {
            return None;
        }
        let program = name(program);
        if let Some(other) = other {
            return Some((
                Invariant::Epochs,
                format!("epoch {epoch} of {program} ran on {other} and runs on {}", place.0),
            ));
        }
        let what = || format!("epoch {epoch} of {program} starts on {} after epoch {highest}", place.0);
        (highest > epoch).then(|| (Invariant::Epochs, what()))
    }

    /// Nothing of a sandbox runs any more.
    pub(crate) fn leave(&mut self, place: Place, program: ProgramId, is_desired: bool, now: Moment) {
        if let Some(places) = self.running.get_mut(&program) {
            places.remove(&place);
            if places.len() < 2 {
                self.crowded.remove(&program);
            }
        }
        if self.answering.get(&program) == Some(&place) {
            self.answering.remove(&program);
            if is_desired {
                self.down_since.insert(program, now);
            }
        }
    }

    /// A program answers.
    pub(crate) fn answer(&mut self, place: Place, program: ProgramId, now: Moment) {
        self.answering.insert(program, place);
        *self.starts.entry(program).or_default() += 1;
        if let Some(since) = self.down_since.remove(&program) {
            self.gaps.push(now.since(since));
        }
    }

    /// Nobody wants a program any more, so that it has no gap.
    pub(crate) fn unwanted(&mut self, program: ProgramId) {
        self.down_since.remove(&program);
    }

    pub(crate) fn starts(&self, program: ProgramId) -> u32 {
        self.starts.get(&program).copied().unwrap_or_default()
    }

    pub(crate) fn is_answering(&self, program: ProgramId) -> bool {
        self.answering.contains_key(&program)
    }

    pub(crate) fn runs_somewhere(&self, program: ProgramId) -> bool {
        self.running.get(&program).is_some_and(|places| !places.is_empty())
    }

    pub(crate) fn machine_of(&self, program: ProgramId) -> Option<MachineId> {
        self.answering.get(&program).map(|place| place.0)
    }

    /// A grant went out: this is when its lease ends for the scheduler.
    pub(crate) fn grant(&mut self, program: ProgramId, epoch: Epoch, expires: Moment) {
        let expiry = self.expiries.entry((program, epoch)).or_default();
        *expiry = expires.max(*expiry);
    }

    pub(crate) fn expiry(&self, program: ProgramId, epoch: Epoch) -> Option<Moment> {
        self.expiries.get(&(program, epoch)).copied()
    }

    pub(crate) fn release(&mut self, program: ProgramId, epoch: Epoch) {
        self.released.insert((program, epoch));
    }

    pub(crate) fn was_released(&self, program: ProgramId, epoch: Epoch) -> bool {
        self.released.contains(&(program, epoch))
    }
}

impl World {
    /// Notes that an invariant did not hold; the first one counts.
    pub(crate) fn violated(&mut self, invariant: Invariant, what: String) {
        if self.watches.is_some_and(|watched| watched != invariant) {
            return;
        }
        say!(self, "VIOLATION {invariant}: {what}");
        let at = self.now;
        self.checker.violation.get_or_insert(Violation { invariant, at, what });
    }

    /// I1, after every step. Only programs with two sandboxes that exist can have two that run.
    pub(crate) fn check_copies(&mut self) {
        if self.checker.crowded.is_empty() {
            return;
        }
        for program in self.checker.crowded.clone() {
            let places = &self.checker.running[&program];
            let live: Vec<_> = places.iter().filter(|place| self.is_live(**place)).map(ToString::to_string).collect();
            if live.len() > 1 {
                self.violated(Invariant::OneCopy, format!("{} runs at {}", name(program), live.join(" and ")));
            }
        }
    }

    /// A program answers, as far as the world can tell.
    pub(crate) fn answers(&mut self, place: Place, program: ProgramId) {
        self.checker.answer(place, program, self.now);
    }

    /// I5 at the scheduler: what it counts as taken on a node, what is under way included.
    pub(crate) fn check_offer(&mut self, run: SchedulerRun, node: NodeId) {
        let Some(offer) = self.offer(run, node) else { return };
        let Some(capacity) = &offer.capacity else { return };
        let restored = self.restored_keeps(run, node).into_iter().filter_map(|program| self.message_node.spec(program));
        let used = restored.fold(offer.used, |used, spec| Needs {
            vcpus: used.vcpus.saturating_sub(spec.needs.vcpus),
            memory_mib: used.memory_mib.saturating_sub(spec.needs.memory_mib),
            disk_mib: used.disk_mib.saturating_sub(spec.needs.disk_mib),
            pool_mib: used.pool_mib.saturating_sub(spec.needs.pool_mib),
        });
        let machine = machine_of(node);
        let fits = used.memory_mib <= capacity.memory_mib
            && used.vcpus <= u64::from(capacity.vcpus)
            && used.disk_mib <= capacity.disk_mib
            && used.pool_mib <= capacity.pool_mib;
        if !fits {
            self.violated(Invariant::Room, format!("{machine} has {capacity:?} and is given {used:?}"));
        }
    }

    /// The programs whose copies a node keeps because the database said so when the scheduler began: in between, their room may
    /// have been given to others, as another node was to keep them.
    pub(crate) fn restored_keeps(&self, run: SchedulerRun, node: NodeId) -> Vec<ProgramId> {
        let Some(process) = self.process(run) else { return Vec::new() };
        let kept = |program: ProgramId| process.core.program_view(program)?.data?.standby;
        let restored = process.restored_standbys.iter().filter(|(_, on)| *on == node).map(|(program, _)| *program);
        restored.filter(|program| kept(*program).is_some_and(|(on, _)| on == node)).collect()
    }

    /// I5 in the store: what is assigned, as the database has it.
    pub(crate) fn check_assignments(&mut self) {
        let mut used: BTreeMap<NodeId, u64> = BTreeMap::new();
        for (program, node, _) in self.store.database.open() {
            let memory = self.message_node.spec(program).map_or(0, |spec| spec.needs.memory_mib);
            *used.entry(node).or_default() += memory;
        }
        for (node, memory) in used {
            let id = machine_of(node);
            if memory > self.memory_of(id) {
                self.violated(Invariant::Room, format!("{id} has {} MiB and is assigned {memory}", self.memory_of(id)));
            }
        }
    }

    /// I5 on the machine: what runs there.
    pub(crate) fn check_room(&mut self, id: MachineId) {
        let memory = self.memory_taken(id);
        if memory > self.memory_of(id) {
            self.violated(Invariant::Room, format!("{id} has {} MiB and runs {memory}", self.memory_of(id)));
        }
    }
}
