//! A program's snapshots go to the archive: the shell of `compute-node/src/programs/data/archiving.rs` around the decisions of
//! `compute_node::core::archive`.

use std::collections::BTreeSet;
use std::time::Duration;

use compute_node::core::archive::{first_pause, left_open, parent_of, pause, point};
use protocol::api::archive::{ArchiveList, NextSet, SetDraft, StreamFormat};
use protocol::data::SnapshotId;
use protocol::{Epoch, ProgramId};
use volumes::replication::core::Event;

use crate::world::archive::{Ask, Load, Refused, Told, archived_volumes};
use crate::world::faults::Use;
use crate::world::{AgentRun, Happening, World, name, say};
use crate::writes::Content;

/// Pieces of each stream: what matters is that it can be cut in between.
const PIECES: u8 = 2;

/// One run of the archiving of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ArchiverId {
    pub(crate) run: AgentRun,
    pub(crate) program: ProgramId,
    /// Never used twice.
    number: u64,
}

/// What it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The time for the next look.
    Waiting,
    Listing,
    /// Sets that never became complete go, one after the other, this one first.
    Dropping(Vec<SnapshotId>),
    /// The replicator's snapshot with this number.
    Taking(u64),
    Beginning(Box<SetDraft>, Load),
    /// The stream is on its way, so many pieces of it are there.
    Sending(SnapshotId, Load, u8),
    Completing(SnapshotId),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Archiver {
    number: u64,
    epoch: Epoch,
    /// What the next set may be a difference from, and is not removed from the pool.
    held: BTreeSet<SnapshotId>,
    /// The newest set in the archive, when it is here.
    archived: Option<SnapshotId>,
    next: NextSet,
    failures: u32,
    pub(super) step: Step,
}

impl Archiver {
    /// Whether something of it is on its way to the archive.
    pub(crate) fn is_sending(&self) -> bool {
        !matches!(self.step, Step::Waiting)
    }
}

impl World {
    fn archiver(&mut self, id: ArchiverId) -> Option<&mut Archiver> {
        let archiver = self.agent_mut(id.run)?.data.archivers.get_mut(&id.program)?;
        if archiver.number == id.number { Some(archiver) } else { None }
    }

    /// What may not be removed from the pool.
    pub(super) fn held_for_archive(&self, run: AgentRun, program: ProgramId) -> Vec<SnapshotId> {
        let archiver = self.agent(run).and_then(|agent| agent.data.archivers.get(&program));
        archiver.map(|archiver| archiver.held.iter().copied().collect()).unwrap_or_default()
    }

    /// Archives this program from now on, if it is of the class and is not archived already.
    pub(super) fn start_archiver(&mut self, run: AgentRun, program: ProgramId, epoch: Epoch) {
        let known = self.agent(run).and_then(|agent| agent.data.archivers.get(&program));
        if !self.is_archived(program) || known.is_some_and(|archiver| archiver.epoch == epoch) {
            return;
        }
        let Some(volumes) = self.machine(run.0).pool.get(program) else { return };
        let held = volumes.known.sets().map(|set| set.id).collect();
        let (number, first) = (self.fresh_number(), first_pause(self.plan.archive_interval()));
        let (archived, next, failures, step) = (None, NextSet::Full, 0, Step::Waiting);
        let archiver = Archiver { number, epoch, held, archived, next, failures, step };
        let Some(agent) = self.agent_mut(run) else { return };
        agent.data.archivers.insert(program, archiver);
        self.after(first, Happening::LooksForArchive(ArchiverId { run, program, number }));
    }

    /// Stops archiving what is not this node's any more.
    pub(super) fn keep_archivers(&mut self, run: AgentRun, is_live: impl Fn(ProgramId, Epoch) -> bool) {
        if let Some(agent) = self.agent_mut(run) {
            agent.data.archivers.retain(|program, archiver| is_live(*program, archiver.epoch));
        }
    }

    pub(in crate::world) fn looks_for_archive(&mut self, id: ArchiverId) {
        if self.agent_puts_off(id.run, || Happening::LooksForArchive(id)) {
            return;
        }
        match self.is_unchanged(id) {
            Some(Ok(true)) => self.archived_all(id),
            Some(Ok(false)) => {
                self.springs(id.run.0, Use::Archiving);
                self.step_archiver(id, Step::Listing);
                self.ask_archive(id, Ask::List);
            }
            Some(Err(())) => self.not_archived(id, "the pool does not tell"),
            None => {}
        }
    }

    /// Whether everything that was written is in the archive.
    fn is_unchanged(&mut self, id: ArchiverId) -> Option<Result<bool, ()>> {
        let archived = self.archiver(id)?.archived;
        let Some(archived) = archived else { return Some(Ok(false)) };
        let volumes = self.machine(id.run.0).pool.get(id.program)?;
        Some(volumes.has_changed(archived).map(|changed| !changed).map_err(drop))
    }

    fn step_archiver(&mut self, id: ArchiverId, step: Step) {
        if let Some(archiver) = self.archiver(id) {
            archiver.step = step;
        }
    }

    fn archived_all(&mut self, id: ArchiverId) {
        let interval = self.plan.archive_interval();
        let Some(archiver) = self.archiver(id) else { return };
        (archiver.failures, archiver.step) = (0, Step::Waiting);
        self.after(pause(interval, 0), Happening::LooksForArchive(id));
    }

    fn not_archived(&mut self, id: ArchiverId, why: &str) {
        let interval = self.plan.archive_interval();
        let Some(archiver) = self.archiver(id) else { return };
        archiver.failures += 1;
        archiver.step = Step::Waiting;
        let wait = pause(interval, archiver.failures);
        say!(self, "{} {} is not archived: {why}", id.run.0, name(id.program));
        self.tally.archive.failed += 1;
        self.after(wait, Happening::LooksForArchive(id));
    }

    fn ask_archive(&mut self, id: ArchiverId, ask: Ask) {
        let Some(epoch) = self.archiver(id).map(|archiver| archiver.epoch) else { return };
        let takes = self.archive_chance.millis(1, 30);
        self.after(takes, Happening::AsksArchive(id, epoch, Box::new(ask)));
    }

    /// What it asks arrives at the message node, whatever has become of it meanwhile.
    pub(in crate::world) fn asks_archive(&mut self, id: ArchiverId, epoch: Epoch, ask: Ask) {
        let said = self.asked_of_archive(id.run.0, id.program, epoch, ask);
        let is_lost = self.is_chaotic && self.archive_chance.percent(3);
        let said = if is_lost { Err(Refused::Silent) } else { said };
        let takes = self.archive_chance.millis(1, 30);
        self.after(takes, Happening::HearsArchive(id, Box::new(said)));
    }

    pub(in crate::world) fn hears_archive(&mut self, id: ArchiverId, said: Result<Told, Refused>) {
        if self.agent_puts_off(id.run, || Happening::HearsArchive(id, Box::new(said.clone()))) {
            return;
        }
        let Some(step) = self.archiver(id).map(|archiver| archiver.step.clone()) else { return };
        let told = match said {
            Ok(told) => told,
            Err(why) => return self.not_archived(id, &format!("{why:?} to {step:?}")),
        };
        match (step, told) {
            (Step::Listing, Told::List(list)) => self.hears_list(id, &list),
            (Step::Dropping(mut left), Told::Done) => {
                left.remove(0);
                self.drop_next(id, left);
            }
            (Step::Beginning(draft, load), Told::Done) => {
                self.step_archiver(id, Step::Sending(draft.id, load, 0));
                self.piece_to_archive(id);
            }
            (Step::Sending(set, load, _), Told::Done) => {
                self.step_archiver(id, Step::Completing(set));
                self.ask_archive(id, Ask::Complete(set, load));
            }
            (Step::Completing(set), Told::Done) => {
                if let Some(archiver) = self.archiver(id) {
                    archiver.held.retain(|held| *held == set);
                    archiver.archived = Some(set);
                }
                self.archived_all(id);
            }
            _ => {}
        }
    }

    fn hears_list(&mut self, id: ArchiverId, list: &ArchiveList) {
        let newest = point(list).map(|set| set.id);
        let is_here = newest.filter(|newest| {
            self.machine(id.run.0).pool.get(id.program).is_some_and(|volumes| volumes.set(*newest).is_some())
        });
        let Some(archiver) = self.archiver(id) else { return };
        archiver.held = is_here.into_iter().collect();
        archiver.archived = is_here;
        archiver.next = list.next;
        let left = left_open(list, archiver.epoch).collect();
        match self.is_unchanged(id) {
            Some(Ok(true)) => self.archived_all(id),
            Some(Ok(false)) => self.drop_next(id, left),
            Some(Err(())) => self.not_archived(id, "the pool does not tell"),
            None => {}
        }
    }

    fn drop_next(&mut self, id: ArchiverId, left: Vec<SnapshotId>) {
        if let Some(first) = left.first().copied() {
            self.step_archiver(id, Step::Dropping(left));
            return self.ask_archive(id, Ask::Delete(first));
        }
        let Some(epoch) = self.archiver(id).map(|archiver| archiver.epoch) else { return };
        let Some(replica) = self.replica_of(id.run, id.program, epoch) else {
            return self.not_archived(id, "nobody takes snapshots");
        };
        let number = self.count_wanted(replica);
        self.step_archiver(id, Step::Taking(number));
        self.step_replica(replica, Event::Wanted(number));
    }

    /// The replicator has taken a snapshot for whoever wanted one up to this number, or has not.
    pub(super) fn snapshot_for_archive(
        &mut self,
        run: AgentRun,
        program: ProgramId,
        number: u64,
        taken: Option<SnapshotId>,
    ) {
        let Some(archiver) = self.agent_mut(run).and_then(|agent| agent.data.archivers.get_mut(&program)) else {
            return;
        };
        let id = ArchiverId { run, program, number: archiver.number };
        if !matches!(archiver.step, Step::Taking(wanted) if wanted <= number) {
            return;
        }
        match taken {
            Some(set) => self.begin_set_of(id, set),
            None => self.not_archived(id, "no snapshot could be taken"),
        }
    }

    fn begin_set_of(&mut self, id: ArchiverId, set: SnapshotId) {
        let Some(archiver) = self.archiver(id) else { return };
        archiver.held.insert(set);
        let parent = parent_of(set, archiver.next, archiver.held.iter().copied());
        let volumes = self.machine(id.run.0).pool.get(id.program);
        let content = |id| volumes.and_then(|volumes| volumes.set(id));
        let taken = volumes.and_then(|volumes| volumes.known.set(set).ok()).map(|set| set.taken);
        let below = parent.map_or(Some(Content::EMPTY), content);
        let (Some(whole), Some(below), Some(taken)) = (content(set), below, taken) else {
            return self.not_archived(id, "its snapshot is gone");
        };
        let mib = if parent.is_some() { (1, 30) } else { (10, 90) };
        let bytes = self.archive_chance.between(mib.0, mib.1) << 20;
        let load = Load { bytes, parent: below, whole };
        let (format, volumes) = (StreamFormat::BtrfsZstd, archived_volumes());
        let draft = SetDraft { id: set, parent, taken, format, volumes };
        self.step_archiver(id, Step::Beginning(Box::new(draft.clone()), load));
        self.ask_archive(id, Ask::Begin(draft, whole));
    }

    fn piece_to_archive(&mut self, id: ArchiverId) {
        let takes = self.archive_chance.mostly_short(Duration::from_millis(1500));
        self.after(takes, Happening::SendsToArchive(id));
    }

    pub(in crate::world) fn sends_to_archive(&mut self, id: ArchiverId) {
        if self.agent_puts_off(id.run, || Happening::SendsToArchive(id)) {
            return;
        }
        let Some(archiver) = self.archiver(id) else { return };
        let Step::Sending(set, load, pieces) = &mut archiver.step else { return };
        *pieces += 1;
        let (set, load, pieces) = (*set, *load, *pieces);
        if pieces < PIECES {
            return self.piece_to_archive(id);
        }
        // What arrives may be another thing than what was sent.
        let is_wrong = self.is_chaotic && self.archive_chance.percent(4);
        let arrives = if is_wrong { Load { whole: Content::Mixed, ..load } } else { load };
        self.ask_archive(id, Ask::Send(set, arrives));
    }

    /// The connection over which a stream goes to the archive breaks.
    pub(in crate::world) fn cut_archiver(&mut self, run: AgentRun, program: ProgramId) {
        let archiver = self.agent(run).and_then(|agent| agent.data.archivers.get(&program));
        let number = archiver.filter(|archiver| matches!(archiver.step, Step::Sending(..))).map(|a| a.number);
        if let Some(number) = number {
            self.tally.archive.cut += 1;
            self.not_archived(ArchiverId { run, program, number }, "its stream is cut");
        }
    }
}
