//! Copies of programs' data: what nodes report of them, who keeps them, and what the nodes are told about it.

use std::collections::BTreeSet;

use protocol::control::Heartbeat;
use protocol::data::{DataBase, DataEntry, DataOrder};
use protocol::{NodeId, ProgramId};

use super::Scheduler;
use super::assignment::{Program, Stage};
use super::data::{Data, Sources};
use super::event::{Command, Notice, Write};
use super::turn::Turn;

impl Scheduler {
    /// Takes in what a heartbeat says about data. What it does not mention, the node does not have now.
    pub(super) fn data_reported(&mut self, turn: &mut Turn, id: NodeId, heartbeat: &Heartbeat) {
        let reports = &heartbeat.data;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let made_after = node.made_after(heartbeat.heard);
        let mentioned: BTreeSet<_> = reports.iter().map(|report| report.program).collect();
        let before = std::mem::replace(&mut node.has_data_of, mentioned.clone());
        for program in before.difference(&mentioned) {
            self.data_unheard(turn, id, *program);
        }
        for report in reports {
            let Some(program) = self.programs.get_mut(&report.program) else { continue };
            let Some(data) = &mut program.data else { continue };
            let assigned = program.stage.assignment().map(|assignment| (assignment.node, assignment.epoch));
            let started = report.live.as_ref().map(|live| live.epoch).filter(|epoch| assigned == Some((id, *epoch)));
            if let Some(epoch) = started {
                data.started(epoch);
            }
            if data.hear(id, report, made_after) {
                self.confirm(turn, report.program, id);
            } else if started.is_some() {
                self.sync_data(turn, report.program);
            }
            self.retry(turn, report.program);
            self.review_overtaken(turn, report.program);
            self.changes.program(report.program, false);
        }
    }

    /// Nodes whose data is overtaken are told so, and those of which that was believed too early are not any more.
    fn review_overtaken(&mut self, turn: &mut Turn, id: ProgramId) {
        let data = self.programs.get(&id).and_then(|program| program.data.as_ref());
        if data.is_some_and(|data| {
            data.is_elsewhere() || data.told.iter().any(|(_, told)| told.order == DataOrder::Retire)
        }) {
            self.sync_data(turn, id);
        }
    }

    /// Who waits for data, or for a copy to be as new as the original, may have it now.
    fn retry(&mut self, turn: &mut Turn, id: ProgramId) {
        let program = &self.programs[&id];
        let waits = match &program.stage {
            Stage::Unplaced => true,
            Stage::Assigned(assignment) => assignment.leaving.is_some(),
            Stage::Settling { .. } => return self.look_at_arrival(turn, id),
            _ => false,
        };
        if waits {
            self.waiting.retry(program);
        }
    }

    fn data_unheard(&mut self, turn: &mut Turn, node: NodeId, program: ProgramId) {
        if let Some(data) = self.programs.get_mut(&program).and_then(|program| program.data.as_mut()) {
            data.held.remove(&node);
            self.review_overtaken(turn, program);
        }
    }

    /// What a node said counts no more: it is silent.
    pub(super) fn data_of_silent(&mut self, turn: &mut Turn, id: NodeId) {
        let programs = self.nodes.get_mut(&id).map(|node| std::mem::take(&mut node.has_data_of));
        for program in programs.into_iter().flatten() {
            self.data_unheard(turn, id, program);
        }
    }

    /// Looks whether a node still can keep the copies that it keeps; if not, others are found.
    pub(super) fn review_keeper(&mut self, turn: &mut Turn, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let is_gone = !node.can_keep();
        for program in node.set.programs_with_data().collect::<Vec<_>>() {
            let data = self.programs.get_mut(&program).and_then(|program| program.data.as_mut());
            if let Some(data) = data.filter(|data| data.keeper() == Some(id) && data.is_keeper_gone != is_gone) {
                data.is_keeper_gone = is_gone;
                self.settle(turn, program);
            }
        }
    }

    /// The standby has its first complete snapshot.
    fn confirm(&mut self, turn: &mut Turn, id: ProgramId, node: NodeId) {
        let Some(data) = self.programs.get_mut(&id).and_then(|program| program.data.as_mut()) else { return };
        data.filling = None;
        data.confirmed = Some(node);
        turn.command(Command::Store(Write::Standby { program: id, node }));
        self.sync_data(turn, id);
    }

    /// Has a node keep copies, or none. Its room is kept as if the program ran there: it may have to, at once.
    pub(super) fn set_keeper(&mut self, turn: &mut Turn, id: ProgramId, change: impl FnOnce(&mut Data)) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let needs = program.spec.needs;
        let Some(data) = &mut program.data else { return };
        let was = data.keeper();
        change(data);
        let is = data.keeper();
        if was != is {
            if let Some(node) = was {
                self.node(turn, node).vacate(needs);
                self.waiting.improve(node);
            }
            if let Some(node) = is {
                self.node(turn, node).occupy(needs);
            }
            self.changes.nodes.extend(was.into_iter().chain(is));
        }
        self.settle(turn, id);
        self.sync_data(turn, id);
        if let Some(was) = was {
            self.drop_if_unused(turn, was);
        }
    }

    /// What the program starts with on this node.
    pub(super) fn base_on(&self, id: ProgramId, node: NodeId) -> Option<DataBase> {
        let data = self.programs.get(&id)?.data.as_ref()?;
        Some(match data.sources(self.now, self.policy.restore_after) {
            Sources::Anywhere => DataBase::Empty,
            Sources::Archive(base) => base,
            Sources::On(groups) => groups.into_iter().flatten().find(|(on, _)| *on == node)?.1,
            Sources::Nowhere(_) => return None,
        })
    }

    /// It is going to start on this node: the node keeps no copies for another any more.
    pub(super) fn data_starts(&mut self, turn: &mut Turn, id: ProgramId, node: NodeId) {
        let base = self.base_on(id, node);
        self.set_keeper(turn, id, |data| {
            let base = base.unwrap_or_else(|| data.unknown_base(node));
            data.starts(node, base);
        });
    }

    /// Tells what the start cost, if anything is lost.
    pub(super) fn tell_loss(&self, turn: &mut Turn, id: ProgramId) {
        if let Some(loss) = self.programs.get(&id).and_then(|program| program.data.as_ref()?.loss) {
            turn.notice(Notice::DataLost { program: id, loss });
        }
    }

    /// Brings what the nodes are told about its data up to date.
    pub(super) fn sync_data(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get(&id) else { return };
        let Some(data) = &program.data else { return };
        let orders = self.orders(program, data);
        if orders == data.told {
            return;
        }
        let before = data.told.clone();
        for (node, _) in before.iter().filter(|(node, _)| orders.iter().all(|(other, _)| other != node)) {
            self.change_set(turn, *node, |set, versions| set.remove_data(id, versions));
        }
        for (node, entry) in orders.iter().filter(|order| !before.contains(order)) {
            self.change_set(turn, *node, |set, versions| set.put_data(entry.clone(), versions));
        }
        if let Some(data) = self.programs.get_mut(&id).and_then(|program| program.data.as_mut()) {
            data.told = orders;
        }
        self.changes.program(id, true);
    }

    fn orders(&self, program: &Program, data: &Data) -> Vec<(NodeId, DataEntry)> {
        let (Some((writer, epoch)), Some(base)) = (program.stage.with_data(), data.base) else { return Vec::new() };
        let peer = |node: NodeId| self.nodes.get(&node).and_then(super::nodes::Node::peer);
        let entry = |order| DataEntry { program: program.spec.id, epoch, order };
        // Nothing of a program that is not desired any more has to be kept up to date.
        let keeper = data.keeper().filter(|_| program.gone.is_none());
        let live = DataOrder::Live { base, standby: keeper.and_then(peer) };
        let keep = keeper.zip(peer(writer)).map(|(node, from)| (node, entry(DataOrder::Keep { from })));
        // Only what was ready in this epoch has shown that it can do without what is elsewhere.
        let has_settled = matches!(&program.stage, Stage::Assigned(assignment) if assignment.was_ready);
        let overtaken = data.overtaken(writer).filter(|_| has_settled && program.gone.is_none());
        let retire = overtaken.map(|node| (node, entry(DataOrder::Retire)));
        [(writer, entry(live))].into_iter().chain(keep).chain(retire).collect()
    }

    /// Tells others where a node is reached now.
    pub(super) fn peer_moved(&mut self, turn: &mut Turn, id: NodeId) {
        let programs = self.nodes.get(&id).map(|node| node.set.programs_with_data().collect::<Vec<_>>());
        for program in programs.into_iter().flatten() {
            self.sync_data(turn, program);
        }
    }
}

impl Program {
    /// Whether somebody has to be found who keeps copies.
    pub(super) fn needs_standby(&self) -> bool {
        let data = self.data.as_ref().filter(|_| self.gone.is_none());
        matches!(self.stage, Stage::Assigned(_))
            && !self.may_go_back()
            && data.is_some_and(|data| data.keeper().is_none() || data.is_keeper_gone)
    }
}
