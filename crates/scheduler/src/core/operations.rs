//! What operators order: drain a node, give it up, go on.

use protocol::NodeId;
use protocol::operation::Operation;

use super::Scheduler;
use super::assignment::Stage;
use super::event::{Cause, Notice, Proof};
use super::turn::Turn;

impl Scheduler {
    pub(super) fn ordered(&mut self, turn: &mut Turn, operation: Operation) {
        turn.notice(Notice::Ordered(operation.clone()));
        match operation {
            Operation::Drain { node, reason } => self.drain(turn, node, Some(reason)),
            Operation::Undrain { node } => self.drain(turn, node, None),
            Operation::Lost { node } => self.give_up(turn, node),
            Operation::Resume => {
                if self.brake.release() {
                    self.brake_moved(turn);
                }
            }
        }
    }

    /// Gives a node no new programs and moves those that it has, or stops doing so.
    pub(super) fn drain(&mut self, turn: &mut Turn, id: NodeId, reason: Option<String>) {
        let is_drained = reason.is_some();
        self.node(turn, id).drain(reason);
        self.waiting.improve(id);
        self.changes.node(id, true);
        for program in self.programs_on(id) {
            let Some(Stage::Assigned(assignment)) = self.programs.get_mut(&program).map(|p| &mut p.stage) else {
                continue;
            };
            match assignment.unwanted {
                None if is_drained => assignment.unwanted = Some(Cause::Draining),
                Some(Cause::Draining) if !is_drained => assignment.unwanted = None,
                _ => continue,
            }
            self.settle(turn, program);
        }
        self.review_keeper(turn, id);
    }

    /// Takes an operator's word that nothing runs there any more. Of a node that is heard nobody can say that.
    fn give_up(&mut self, turn: &mut Turn, id: NodeId) {
        if self.nodes.get(&id).is_none_or(super::nodes::Node::is_heard) {
            return;
        }
        for program in self.programs_on(id) {
            self.end(turn, program, Cause::NodeGivenUp, Proof::Declared);
        }
        self.changes.node(id, true);
    }
}
