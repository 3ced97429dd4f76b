//! What happens to the archive and to whoever uses it, and what owners do with their data.

use std::time::Duration;

use protocol::ProgramId;
use protocol::operation::Operation;

use crate::time::Moment;
use crate::world::message_node::Act;
use crate::world::{AgentRun, Happening, MachineId, World, machine_of, name, say};

use super::Fault;

/// How soon after its beginning something goes wrong at the latest: a restore or a set takes less.
const AMBUSH: Duration = Duration::from_millis(2500);

/// Something that a machine does with the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Archiving,
    Restoring,
}

impl World {
    pub(super) fn strike_archive(&mut self, fault: Fault, until: Moment) {
        match fault {
            Fault::SilenceArchive => self.archive.silent_until = until,
            Fault::RotArchive => self.rot_archive(),
            Fault::CutArchive => self.cut_archive(),
            Fault::LoseCopies => self.lose_copies(until),
            Fault::GoBack => self.go_back(),
            Fault::MoveProgram => drop(self.move_program()),
            Fault::ForgetMoving => self.forget_moving(),
            // Not now, but in the middle of the next one that begins.
            _ => self.ambush = Some((fault, until)),
        }
    }

    /// A machine begins to use the archive: what lies in wait for that strikes soon, at whatever step it is then.
    pub(in crate::world) fn springs(&mut self, id: MachineId, what: Use) {
        let waits_for = |fault| match fault {
            Fault::CrashArchiving => what == Use::Archiving,
            Fault::CrashRestoring => what == Use::Restoring,
            _ => true,
        };
        if let Some((fault, until)) = self.ambush.take_if(|(fault, _)| waits_for(*fault))
            && until > self.now
        {
            let wait = self.archive_chance.mostly_short(AMBUSH);
            self.after(wait, Happening::Ambushed(id, fault, until));
        }
    }

    pub(in crate::world) fn ambushed(&mut self, id: MachineId, fault: Fault, until: Moment) {
        let Some(data) = self.machine(id).agent.as_ref().map(|agent| &agent.data) else { return };
        let step = match (data.is_restoring(), data.is_archiving()) {
            (true, _) => "restoring",
            (false, true) => "archiving",
            // It was done with it before.
            (false, false) => return,
        };
        say!(self, "  in the middle of {step}: {} {id}", fault.name());
        *self.tally.archive.ambushed.entry((fault.name(), step)).or_default() += 1;
        if fault == Fault::FillArchiving {
            self.machine_mut(id).disk_full_until = until;
        } else {
            self.crash(id, until.max(self.now + Duration::from_millis(200)), false);
        }
    }

    /// A program of which something is in the archive.
    fn some_archived(&mut self) -> Option<ProgramId> {
        let archived = self.message_node.in_force().filter(|program| self.is_archived(*program));
        let has_sets = |program: &ProgramId| !self.archive.complete(*program).is_empty();
        let archived: Vec<_> = archived.filter(has_sets).collect();
        self.archive_chance.one_of(&archived)
    }

    fn rot_archive(&mut self) {
        let Some(program) = self.some_archived() else { return };
        let sets = self.archive.complete(program);
        if let Some(id) = self.archive_chance.one_of(&sets) {
            say!(self, "  snapshot {id} of {}", name(program));
            self.tally.archive.damaged += 1;
            self.archive.rot(program, id);
        }
    }

    fn cut_archive(&mut self) {
        for id in self.machine_ids() {
            let run = AgentRun(id, self.machine(id).run);
            let Some(agent) = self.agent(run) else { continue };
            for program in agent.data.archived_programs() {
                self.cut_archiver(run, program);
            }
        }
    }

    /// The machine that a program runs on and the one that keeps copies are lost with everything.
    fn lose_copies(&mut self, until: Moment) {
        let Some(program) = self.some_archived() else { return };
        let writer = self.store.database.writer(program).map(|(node, _)| node);
        let nodes = writer.into_iter().chain(self.store.database.standby(program));
        for id in nodes.map(machine_of).collect::<Vec<_>>() {
            self.lose(id, until);
        }
        say!(self, "  of {}", name(program));
    }

    /// An owner wants to go back to a snapshot, mostly to one that there is.
    fn go_back(&mut self) {
        let Some(program) = self.some_archived() else { return };
        let mut sets = self.archive.complete(program);
        if let Some(last) = sets.last().copied().filter(|_| self.archive_chance.percent(10)) {
            sets = vec![protocol::data::SnapshotId::new(last.epoch, last.sequence + 1000)];
        }
        let Some(snapshot) = self.archive_chance.one_of(&sets) else { return };
        if self.order(Operation::Restore { program, snapshot, from: None }) {
            self.tally.archive.ordered += 1;
        }
    }

    fn move_program(&mut self) -> Option<ProgramId> {
        let running: Vec<_> = self.message_node.in_force().filter(|p| self.checker.is_answering(*p)).collect();
        let program = self.archive_chance.one_of(&running)?;
        let is_ordered = self.order(Operation::Move { program, to: None });
        self.tally.moves_ordered += u64::from(is_ordered);
        is_ordered.then_some(program)
    }

    /// An owner forgets a program that moves: one that does already, or one that begins to a moment before.
    fn forget_moving(&mut self) {
        let moving: Vec<_> = self.message_node.in_force().filter(|program| self.is_moving(*program)).collect();
        let (program, wait) = match self.archive_chance.one_of(&moving) {
            Some(program) => (Some(program), Duration::ZERO),
            None => (self.move_program(), self.archive_chance.mostly_short(Duration::from_secs(4))),
        };
        if let Some(program) = program {
            self.after(wait, Happening::Act(Act::ForgetThis(program)));
        }
    }

    /// Whether a scheduler moves a program now.
    pub(in crate::world) fn is_moving(&self, program: ProgramId) -> bool {
        let cores = self.schedulers.iter().filter_map(|host| host.process.as_ref()).map(|process| &process.core);
        let mut views = cores.filter_map(|core| core.program_view(program));
        views.any(|view| view.moving.is_some())
    }
}
