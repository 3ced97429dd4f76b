//! Room for copies: what is free, and who makes way.

use lease::BootTime;
use protocol::control::{Failure, FailureKind};

use super::{Command, CopyId, Needs, OnDemand, Phase, Terms, Use};

impl OnDemand {
    /// Starts the copy if there is room. Otherwise unused copies make way, if it is the only one of its program; or the node is
    /// full.
    pub(super) fn make_room(&mut self, copy: CopyId, terms: Terms, commands: &mut Vec<Command>) {
        let (free, needs) = (self.free(), terms.needs);
        if needs.vcpus <= free.vcpus && needs.memory_mib <= free.memory_mib {
            self.set(copy, Phase::Starting(terms));
            return commands.push(Command::Start(copy));
        }
        let is_only = !self.of(copy.program).any(|(_, phase)| phase.is_up());
        if is_only && let Some(leaving) = self.who_makes_way(free, needs) {
            return leaving.into_iter().for_each(|other| self.retire(other, commands));
        }
        let message = format!(
            "this node has no room for it now: it needs {} MiB and {} vCPUs, {} MiB and {} vCPUs are free",
            needs.memory_mib, needs.vcpus, free.memory_mib, free.vcpus
        );
        // Not the program's fault, so nothing is held against it.
        self.copies.remove(&copy);
        self.not_started(copy, Failure { kind: FailureKind::NodeFault, message }, commands);
    }

    /// Something has gone: who waits for room may have it.
    pub(super) fn room_is_free(&mut self, commands: &mut Vec<Command>) {
        let waiting: Vec<_> = self
            .copies
            .iter()
            .filter_map(|(id, copy)| match copy.phase {
                Phase::WaitingForRoom(terms) => Some((*id, terms)),
                _ => None,
            })
            .collect();
        for (copy, terms) in waiting {
            self.make_room(copy, terms, commands);
        }
    }

    /// Has one copy leave that nobody uses. One at a time: what it gives back shows before the next has to leave.
    pub(super) fn give_memory_back(&mut self, commands: &mut Vec<Command>) {
        if self.stopping().next().is_none()
            && let Some((copy, _)) = self.unused().first()
        {
            self.retire(*copy, commands);
        }
    }

    /// Which copies leave so that this fits, beside what is free and what is leaving already; `None` if it does not.
    fn who_makes_way(&self, free: Needs, needs: Needs) -> Option<Vec<CopyId>> {
        let (mut vcpus, mut memory) =
            self.stopping().fold((free.vcpus, free.memory_mib), |(v, m), n| (v + n.vcpus, m + n.memory_mib));
        let mut leaving = Vec::new();
        for (copy, their) in self.unused() {
            if vcpus >= needs.vcpus && memory >= needs.memory_mib {
                break;
            }
            (vcpus, memory) = (vcpus + their.vcpus, memory + their.memory_mib);
            leaving.push(copy);
        }
        (vcpus >= needs.vcpus && memory >= needs.memory_mib).then_some(leaving)
    }

    /// The copies that nobody uses, in the order in which they make way.
    fn unused(&self) -> Vec<(CopyId, Needs)> {
        let rank = |copy: CopyId, usage: Use| -> Option<(bool, BootTime)> {
            match usage {
                Use::Busy => None,
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

    fn free(&self) -> Needs {
        let taken = self.copies.values().filter_map(|copy| match copy.phase {
            Phase::Starting(terms) | Phase::Up(terms, _) => Some(terms.needs),
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
}
