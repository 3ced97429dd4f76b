//! What moves a program through its life: see the diagram in [`super::assignment`].

use std::sync::Arc;
use std::time::Duration;

use lease::BootTime;
use protocol::history::Fact;
use protocol::{Epoch, NodeId, ProgramId};

use super::assignment::{Assignment, Avoid, Program, Stage};
use super::data::Data;
use super::desired::ProgramSpec;
use super::event::{Cause, Command, Gone, Notice, OpenAssignment, Origin, Proof, Restored, Write};
use super::moves::Transfer;
use super::start::Writer;
use super::timers::Timer;
use super::turn::Turn;
use super::{Policy, Scheduler};

impl Scheduler {
    /// Every open assignment counts as renewed by whatever lease constants the last process had, just before it ended.
    pub(super) fn restore(&mut self, turn: &mut Turn, restored: Restored) {
        for registration in &restored.nodes {
            self.node(turn, registration.node).register(registration);
            self.changes.nodes.insert(registration.node);
        }
        let own_wait = self.times.longest_wait();
        let wait = restored.earlier_wait.unwrap_or(own_wait).max(own_wait);
        let expiry = self.times.issuer(turn.now + (wait - own_wait));
        self.is_complete = restored.is_complete;
        self.earlier_leases_until = Some(turn.now + wait);
        if wait > own_wait || !self.is_complete {
            self.timers.arm(Timer::EarlierLeases, turn.now + wait);
        }
        for (node, reason) in restored.draining {
            self.drain(turn, node, Some(reason));
        }
        for (spec, last_epoch) in restored.programs {
            let mut program = Program::new(spec, turn.now, turn.wall);
            program.last_epoch = last_epoch;
            program.at_least = last_epoch.map_or(Epoch::FIRST, Epoch::next);
            program.held_until = self.hold(Origin::Listed);
            let id = program.spec.id;
            self.programs.insert(id, program);
            self.settle(turn, id);
        }
        for writer in restored.writers {
            match self.programs.get_mut(&writer.program) {
                Some(program) => program.restored_data().into_iter().for_each(|data| {
                    data.recall(&writer);
                    // It ended before this scheduler began. What the database says of copies is not all that there is.
                    (data.ended, data.all_heard) = (Some(turn.now), self.earlier_leases_until);
                }),
                None => drop(self.past_writers.insert(writer.program, writer)),
            }
            self.settle(turn, writer.program);
        }
        for (id, node) in restored.standbys {
            if let Some(unread) = self.programs.get_mut(&id).filter(|program| program.spec.is_unknown()) {
                unread.unread.get_or_insert_default().confirmed = Some(node);
            }
            self.set_keeper(turn, id, |data| data.confirmed = Some(node));
        }
        for OpenAssignment { writer, at, was_seen } in restored.assignments {
            let Writer { program: id, node, epoch, .. } = writer;
            let unknown =
                || ProgramSpec::unknown(id, "what it is, is not known: the message node has to be asked first");
            let program =
                self.programs.entry(id).or_insert_with(|| Program::new(Arc::new(unknown()), turn.now, turn.wall));
            program.last_epoch = Some(epoch);
            program.at_least = epoch.next();
            let is_unknown = program.spec.is_unknown();
            let past = self.past_writers.remove(&id);
            if let Some(data) = program.restored_data() {
                past.iter().for_each(|past| data.recall(past));
                data.recall(&writer);
                if was_seen {
                    // It has its data, or has lost it.
                    data.started(epoch);
                } else if data.base.is_none() {
                    data.base = Some(data.unknown_base(node));
                }
                // It was the standby when it was chosen, and writes itself now.
                if data.confirmed == Some(node) && is_unknown {
                    data.confirmed = None;
                } else if data.confirmed == Some(node) {
                    self.set_keeper(turn, id, |data| data.confirmed = None);
                }
            }
            let mut assignment = Assignment::new(node, epoch, at, expiry, true);
            assignment.was_seen = was_seen;
            let is_drained = self.node(turn, node).is_drained();
            assignment.leave(is_drained.then_some(Cause::Draining), turn.wall);
            self.transition(turn, id, Stage::Assigned(assignment));
        }
        for asked in restored.moves {
            self.restore_move(turn, asked);
        }
        for asked in restored.restores {
            self.restore_asked(turn, asked);
        }
    }

    /// Until when a program waits that may run under a lease which the database does not know.
    fn hold(&self, origin: Origin) -> Option<BootTime> {
        self.earlier_leases_until.filter(|_| !self.is_complete && origin == Origin::Listed)
    }

    pub(super) fn desire(&mut self, turn: &mut Turn, spec: Arc<ProgramSpec>, origin: Origin) {
        let id = spec.id;
        let Some(program) = self.programs.get_mut(&id) else {
            let mut program = Program::new(spec, turn.now, turn.wall);
            program.held_until = self.hold(origin);
            // It was paid for again, for example: its data may still be there, and it does not begin without.
            if let (Some(data), Some(writer)) = (&mut program.data, self.past_writers.remove(&id)) {
                data.recall(&writer);
                (data.ended, data.all_heard) = (Some(turn.now), self.earlier_leases_until);
            }
            self.programs.insert(id, program);
            self.changes.program(id, true);
            return self.settle(turn, id);
        };
        program.gone = None;
        if program.spec.is_unknown() {
            // From here on it takes room, which it did not while nobody knew how much.
            self.waiting.dismiss(program);
            let nodes = program.stage.occupies(None);
            let needs = std::mem::replace(&mut program.spec, spec.clone()).needs;
            let mut unread = program.unread.take().unwrap_or_default();
            let confirmed = unread.confirmed.take();
            program.data = spec.data.map(|on_loss| Box::new(Data { on_loss, ..*unread }));
            for node in nodes.into_iter().flatten() {
                let offer = self.node(turn, node);
                offer.vacate(needs);
                offer.occupy(spec.needs);
                // It takes others again, if this was the last that nobody knew.
                self.waiting.improve(node);
            }
            turn.command(Command::Store(Write::Remember(spec)));
            self.set_keeper(turn, id, |data| data.confirmed = confirmed);
        }
        self.settle(turn, id);
    }

    pub(super) fn program_gone(&mut self, turn: &mut Turn, id: ProgramId, evidence: Gone) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        program.gone = Some(evidence);
        self.drop_moves(turn, id);
        match self.programs[&id].stage {
            Stage::Unplaced | Stage::Settling { .. } | Stage::Storing { retry_at: Some(_), .. } => {
                self.forget(turn, id);
            }
            Stage::Assigned(_) => self.release(turn, id, Cause::Gone(evidence), None),
            Stage::Storing { retry_at: None, .. }
            | Stage::Releasing { .. }
            | Stage::Closing { .. }
            | Stage::Forgetting { .. } => {}
        }
    }

    /// Assigns it to a node that fits; it runs there only after the database has said under which epoch.
    pub(super) fn store(&mut self, turn: &mut Turn, id: ProgramId, node: NodeId) {
        self.data_starts(turn, id, node);
        self.transition(turn, id, Stage::Storing { node, retry_at: None });
        self.write(turn, id);
    }

    pub(super) fn stored(&mut self, turn: &mut Turn, id: ProgramId, node: NodeId, epoch: Epoch) {
        let expiry = self.times.issuer(turn.now);
        let Some(program) = self.programs.get_mut(&id) else { return };
        let Stage::Storing { node: asked, .. } = program.stage else { return };
        let again = program.last_epoch.replace(epoch).is_some();
        program.at_least = epoch.next().max(program.at_least);
        program.failed_writes = 0;
        program.unplaceable = None;
        let (gone, waited) = (program.gone, turn.now.since(program.waiting_since));
        let mut assignment = Assignment::new(node, epoch, turn.wall, expiry, false);
        let is_drained = self.nodes.get(&node).is_some_and(super::nodes::Node::is_drained);
        assignment.leave(program.reason_to_leave(node, is_drained), turn.wall);
        let url = self.node(turn, node).public_url().to_owned();
        turn.notice(Notice::Assigned { program: id, node, epoch, url, waited: Some(waited), again });
        if asked != node {
            self.data_starts(turn, id, node);
        }
        self.transition(turn, id, Stage::Assigned(assignment));
        if asked != node {
            self.move_failed(turn, id, format!("it was assigned to node {node} before"));
        }
        self.record_failed_move(turn, id);
        self.tell_loss(turn, id);
        self.record_restore(turn, id);
        if let Some(gone) = gone {
            self.release(turn, id, Cause::Gone(gone), None);
        } else if self.nodes.get(&node).is_some_and(|node| !node.offer.is_healthy) {
            self.end(turn, id, Cause::NodeSilent, Proof::NeverGranted);
        }
    }

    /// Asks its node to stop it, unless the node never had the right to start it.
    pub(super) fn release(&mut self, turn: &mut Turn, id: ProgramId, cause: Cause, target: Option<NodeId>) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let Stage::Assigned(assignment) = &program.stage else { return };
        let granted = assignment.granted;
        let (assignment, target) = (assignment.clone(), target.map(|node| (node, turn.wall)));
        let (epoch, node) = (assignment.epoch, assignment.node);
        if let Some((to, _)) = target {
            let since = assignment.leaving.as_ref().map_or(turn.wall, |leaving| leaving.since);
            program.moves.under_way = Some(Transfer { from: node, to, cause, since, stopped: Some(turn.wall) });
        }
        if granted {
            let fact = Fact::Releasing { cause: cause.as_str().to_owned() };
            turn.command(Command::Store(Write::Record { program: id, epoch, node, at: turn.wall, fact }));
        }
        self.transition(turn, id, Stage::Releasing { assignment, cause, target });
        if !granted {
            self.end(turn, id, cause, Proof::NeverGranted);
        }
    }

    /// Ends an assignment of which nothing runs any more. `cause` counts when none was decided on before.
    pub(super) fn end(&mut self, turn: &mut Turn, id: ProgramId, cause: Cause, proof: Proof) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let (assignment, cause, target) = match &program.stage {
            Stage::Assigned(assignment) => (assignment, cause, None),
            Stage::Releasing { assignment, cause, target } => (assignment, *cause, target.map(|(node, _)| node)),
            _ => return,
        };
        let (node, epoch) = (assignment.node, assignment.epoch);
        let has_run = assignment.granted && (assignment.has_started || cause != Cause::Refused);
        // Also while it is not known what the program is: it may be in the archive, and is not waited for for ever.
        if let Some(data) = program.restored_data() {
            data.ended(node, epoch, has_run, turn.now);
        }
        let closing = Stage::Closing { node, epoch, cause, proof, target, retry_at: None };
        program.waiting_since = turn.now;
        let arrived = program.moves.under_way.as_ref().is_some_and(|transfer| transfer.to == node);
        turn.notice(Notice::Ended { program: id, node, epoch, cause, proof });
        self.transition(turn, id, closing);
        if arrived {
            self.move_failed(turn, id, format!("on node {node}: {cause}"));
        }
        self.write(turn, id);
    }

    pub(super) fn closed(&mut self, turn: &mut Turn, id: ProgramId, closed: Epoch) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let Stage::Closing { node, epoch, target, retry_at: None, .. } = program.stage else { return };
        if epoch != closed {
            return;
        }
        program.failed_writes = 0;
        match target {
            _ if program.gone.is_some() => {
                self.transition(turn, id, Stage::Unplaced);
                self.forget(turn, id);
            }
            Some(target) => self.closed_for_move(turn, id, node, epoch, target),
            None => self.transition(turn, id, Stage::Unplaced),
        }
    }

    fn forget(&mut self, turn: &mut Turn, id: ProgramId) {
        let node = match self.programs.get(&id).map(|program| &program.stage) {
            Some(Stage::Storing { node, .. }) => Some(*node),
            _ => None,
        };
        self.transition(turn, id, Stage::Forgetting { node, retry_at: None });
        self.write(turn, id);
    }

    pub(super) fn forgotten(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        if !matches!(program.stage, Stage::Forgetting { .. }) {
            return;
        }
        program.failed_writes = 0;
        program.unplaceable = None;
        let gone = program.gone.is_some();
        self.transition(turn, id, Stage::Unplaced);
        if gone {
            self.set_keeper(turn, id, |data| (data.confirmed, data.filling) = (None, None));
            let past = self.programs.remove(&id);
            if let Some(writer) = past.and_then(|program| program.data).and_then(|data| data.writer(id)) {
                self.past_writers.insert(id, writer);
            }
            self.changes.program(id, true);
        }
    }

    /// A write that failed is tried again after a while; whether it took effect is not known, and each is written so that
    /// it does not matter.
    pub(super) fn store_failed(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let Policy { retry, retry_most, .. } = self.policy;
        let when = Some(turn.now + doubled(retry, program.failed_writes, retry_most));
        program.failed_writes += 1;
        let gone = program.gone.is_some();
        match &mut program.stage {
            Stage::Storing { .. } if gone => return self.forget(turn, id),
            Stage::Storing { retry_at, .. } | Stage::Closing { retry_at, .. } | Stage::Forgetting { retry_at, .. } => {
                *retry_at = when;
            }
            Stage::Unplaced | Stage::Assigned(_) | Stage::Releasing { .. } | Stage::Settling { .. } => return,
        }
        self.settle(turn, id);
    }

    /// Writes what its stage waits for.
    fn write(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let write = match &mut program.stage {
            Stage::Storing { node, retry_at } => {
                *retry_at = None;
                let (spec, at_least) = (program.spec.clone(), program.at_least);
                let data = program.data.as_ref();
                let start = data.and_then(|data| data.start()).map(Box::new);
                let loss = data.and_then(|data| data.loss);
                Write::Assign { spec, node: *node, at_least, start, loss, at: turn.wall }
            }
            Stage::Closing { epoch, cause, proof, retry_at, .. } => {
                *retry_at = None;
                Write::Close { program: id, epoch: *epoch, cause: *cause, proof: *proof, at: turn.wall }
            }
            Stage::Forgetting { retry_at, .. } => {
                *retry_at = None;
                Write::Forget { program: id, cause: program.gone.unwrap_or(Gone::Forgotten), at: turn.wall }
            }
            _ => return,
        };
        turn.command(Command::Store(write));
    }

    /// Looks whether time alone moves it.
    pub(super) fn look_at_program(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let passed = |at: Option<BootTime>| at.is_some_and(|at| at <= turn.now);
        match &mut program.stage {
            Stage::Assigned(assignment) | Stage::Releasing { assignment, .. }
                if assignment.expiry.is_over(turn.now) =>
            {
                return self.end(turn, id, Cause::NodeSilent, Proof::LeaseOver);
            }
            Stage::Assigned(assignment) => {
                let failing = assignment.failing_since.map(|since| since + self.policy.fault_threshold);
                if passed(failing) && matches!(assignment.unwanted(), None | Some(Cause::Moved)) {
                    assignment.leave(Some(Cause::NodeFault), turn.wall);
                }
            }
            Stage::Storing { retry_at, .. } | Stage::Closing { retry_at, .. } | Stage::Forgetting { retry_at, .. }
                if passed(*retry_at) =>
            {
                return self.write(turn, id);
            }
            Stage::Settling { .. } => return self.look_at_arrival(turn, id),
            _ => {}
        }
        self.settle(turn, id);
        self.waiting.retry(&self.programs[&id]);
    }

    /// Leaves a node alone with this program for a while, longer each time in a row.
    pub(super) fn avoid(&mut self, now: BootTime, id: ProgramId, node: NodeId) {
        let Policy { avoid, avoid_most, .. } = self.policy;
        let Some(program) = self.programs.get_mut(&id) else { return };
        let times = program.avoid.get(&node).map_or(0, |avoid| avoid.times);
        let until = now + doubled(avoid, times, avoid_most);
        program.avoid.insert(node, Avoid { until, times: times + 1 });
    }
}

impl Program {
    /// When time alone may move it.
    pub(super) fn due(&self, now: BootTime, policy: &Policy) -> Option<BootTime> {
        let failing = match &self.stage {
            Stage::Assigned(assignment) if assignment.unwanted().is_none_or(|cause| cause == Cause::Moved) => {
                assignment.failing_since.map(|since| since + policy.fault_threshold)
            }
            _ => None,
        };
        let waits = self.data.as_ref().filter(|_| matches!(self.stage, Stage::Unplaced));
        let restore = waits.and_then(|data| data.restore_due(policy.restore_after));
        let all_heard = waits.and_then(|data| data.all_heard);
        let later = [self.held_until, failing, self.move_due(), restore, all_heard].into_iter().flatten();
        let avoided = self.avoid.values().map(|avoid| avoid.until);
        self.stage.due().into_iter().chain(later.chain(avoided).filter(|at| *at > now)).min()
    }
}

/// `first` doubled `times` times, but not more than `most`.
pub(super) fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(most)
}
