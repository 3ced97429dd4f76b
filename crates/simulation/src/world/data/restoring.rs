//! A program's volumes come back from the archive before it starts: the shell of `compute-node/src/programs/data/restoring.rs`
//! around the decisions of `compute_node::core::archive` and the product's records.

use std::time::Duration;

use chrono::{DateTime, Utc};
use compute_node::core::archive::{Wanted, chain, missing};
use compute_node::core::data::{NoPlan, Plan, plan};
use compute_node::core::persistent::Assignment;
use protocol::api::archive::ArchiveList;
use protocol::data::{Lineage, SnapshotId};

use super::pool::Trouble;
use crate::trap::Trap;
use crate::world::archive::{Ask, Refused, Told};
use crate::world::faults::Use;
use crate::world::{AgentRun, Happening, SandboxId, World, name, say};
use crate::writes::Content;

/// One try to restore the volumes of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RestoreId {
    pub(crate) run: AgentRun,
    pub(crate) assignment: Assignment,
    /// Never used twice.
    number: u64,
}

/// How far it is.
#[derive(Debug)]
pub(crate) struct Restoring {
    number: u64,
    /// The sandbox that waits for it.
    sandbox: SandboxId,
    wanted: Wanted,
    /// What is to come, each with the time when it was taken; the next one is the last.
    left: Vec<(SnapshotId, DateTime<Utc>)>,
    content: Content,
}

impl World {
    fn restoring(&mut self, id: RestoreId) -> Option<&mut Restoring> {
        let data = &mut self.agent_mut(id.run)?.data;
        data.restoring.get_mut(&id.assignment).filter(|restoring| restoring.number == id.number)
    }

    /// Whether the archive says that it does not have what the program shall start with. That it does not answer says nothing.
    pub(in crate::world) fn archive_lacks(&mut self, run: AgentRun, assignment: Assignment) -> Option<NoPlan> {
        let Assignment { program, epoch } = assignment;
        let order = self.agent(run)?.data.orders.get(&program).cloned();
        let known = &self.machine(run.0).pool.get(program).map(|volumes| volumes.known.clone()).unwrap_or_default();
        let Ok(Plan::Restore(wanted)) = plan(known, order.as_ref(), epoch) else { return None };
        match self.asked_of_archive(run.0, program, epoch, Ask::List) {
            Ok(Told::List(list)) if chain(&list, wanted, epoch).is_err() => Some(NoPlan::NotHere),
            _ => None,
        }
    }

    /// Begins to restore; the sandbox starts when that is done.
    pub(in crate::world) fn restores(
        &mut self,
        run: AgentRun,
        assignment: Assignment,
        sandbox: SandboxId,
        wanted: Wanted,
    ) {
        let number = self.fresh_number();
        let restoring = Restoring { number, sandbox, wanted, left: Vec::new(), content: Content::EMPTY };
        let Some(agent) = self.agent_mut(run) else { return };
        agent.data.restoring.insert(assignment, restoring);
        self.tally.archive.restores_begun += 1;
        say!(self, "{} restores {} from the archive: {wanted:?}", run.0, name(assignment.program));
        self.springs(run.0, Use::Restoring);
        self.ask_to_restore(RestoreId { run, assignment, number }, Ask::List, Duration::from_millis(40));
    }

    fn ask_to_restore(&mut self, id: RestoreId, ask: Ask, most: Duration) {
        let takes = self.archive_chance.mostly_short(most);
        self.after(takes, Happening::ReadsArchive(id, Box::new(ask)));
    }

    pub(in crate::world) fn reads_archive(&mut self, id: RestoreId, ask: Ask) {
        let Assignment { program, epoch } = id.assignment;
        let said = self.asked_of_archive(id.run.0, program, epoch, ask);
        let takes = self.archive_chance.mostly_short(Duration::from_millis(1500));
        self.after(takes, Happening::HearsRestore(id, Box::new(said)));
    }

    pub(in crate::world) fn hears_restore(&mut self, id: RestoreId, said: Result<Told, Refused>) {
        if self.agent_puts_off(id.run, || Happening::HearsRestore(id, Box::new(said.clone()))) {
            return;
        }
        if self.restoring(id).is_none() {
            return;
        }
        let next = match said {
            Ok(Told::List(list)) => self.hears_what_there_is(id, &list),
            Ok(Told::Stream(load)) => self.takes_in(id, |content| load.on_top_of(content)),
            Ok(Told::Done) => return,
            Err(why) => Err(Trouble::Archive(why)),
        };
        match next {
            Ok(Some(set)) => self.ask_to_restore(id, Ask::Read(set), Duration::from_millis(200)),
            Ok(None) => {}
            Err(trouble) => self.not_restored(id, &trouble),
        }
    }

    /// Returns the first set to fetch, if one has to be.
    fn hears_what_there_is(&mut self, id: RestoreId, list: &ArchiveList) -> Result<Option<SnapshotId>, Trouble> {
        let ignores_order = self.has_trap(Trap::RestoresTheNewest);
        let Assignment { program, epoch } = id.assignment;
        let wanted = self.restoring(id).map(|restoring| restoring.wanted).filter(|_| !ignores_order);
        let wanted = match wanted.unwrap_or(Wanted::Newest(Lineage::STRAIGHT)) {
            Wanted::Newest(_) if self.has_trap(Trap::LostWritesComeBack) => Wanted::Newest(Lineage::STRAIGHT),
            wanted => wanted,
        };
        let chain = chain(list, wanted, epoch).map_err(|none| Trouble::Archive(Refused::No(none.to_string())))?;
        let volumes = self.machine(id.run.0).pool.get(program);
        let here: Vec<_> = volumes.iter().flat_map(|volumes| volumes.known.sets()).map(|set| set.id).collect();
        let missing = missing(&chain, &here);
        let last = chain.last().expect("a chain has a set").name;
        let below = chain.len().checked_sub(missing.len() + 1).map(|at| chain[at].name);
        let content = below.and_then(|below| volumes?.set(below)).unwrap_or(Content::EMPTY);
        let left: Vec<_> = missing.iter().rev().map(|link| (link.name, link.set.taken)).collect();
        if left.is_empty() {
            self.restored(id, last);
            return Ok(None);
        }
        let first = left.last().map(|(set, _)| *set);
        if let Some(restoring) = self.restoring(id) {
            (restoring.left, restoring.content) = (left, content);
        }
        self.may_restore(id)?;
        Ok(first)
    }

    /// Asks the records whether the next set may come in, which remembers the epoch.
    fn may_restore(&mut self, id: RestoreId) -> Result<(), Trouble> {
        let next = self.restoring(id).and_then(|restoring| restoring.left.last().copied());
        let Some((set, _)) = next else { return Ok(()) };
        let Assignment { program, epoch } = id.assignment;
        if self.is_full(id.run.0) {
            return Err(Trouble::Full);
        }
        self.machine_mut(id.run.0).pool.of(program).known.may_restore(set, epoch)?;
        self.checker.data.opened(id.run.0, program, epoch);
        Ok(())
    }

    /// The stream of the next set is there. Returns the one after it.
    fn takes_in(
        &mut self,
        id: RestoreId,
        apply: impl FnOnce(Content) -> Content,
    ) -> Result<Option<SnapshotId>, Trouble> {
        self.may_restore(id)?;
        let Some(restoring) = self.restoring(id) else { return Ok(None) };
        restoring.content = apply(restoring.content);
        let (content, set) = (restoring.content, restoring.left.pop());
        let next = restoring.left.last().map(|(set, _)| *set);
        if let (Some((set, taken)), None) = (set, next) {
            // Only the last set counts.
            self.machine_mut(id.run.0).pool.of(id.assignment.program).add_received(set, taken, content);
            self.restored(id, set);
        }
        Ok(next)
    }

    fn restored(&mut self, id: RestoreId, set: SnapshotId) {
        let Some(agent) = self.agent_mut(id.run) else { return };
        let Some(restoring) = agent.data.restoring.remove(&id.assignment) else { return };
        agent.data.restored.insert(id.assignment, set);
        self.supervisor_starts(id.run, id.assignment, restoring.sandbox);
    }

    fn not_restored(&mut self, id: RestoreId, trouble: &Trouble) {
        if let Some(agent) = self.agent_mut(id.run) {
            agent.data.restoring.remove(&id.assignment);
        }
        self.tally.archive.restores_failed += 1;
        say!(self, "{} cannot restore {}: {trouble:?}", id.run.0, name(id.assignment.program));
        self.not_opened(id.run, id.assignment, trouble);
    }
}
