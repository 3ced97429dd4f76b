//! What people order: drain a node, give it up, go on, move a program, go back to a snapshot.

use chrono::{DateTime, Utc};
use protocol::data::ArchivedSet;
use protocol::operation::Operation;
use protocol::{Address, NodeId};

use super::Scheduler;
use super::assignment::Stage;
use super::event::{Cause, Notice, Proof};
use super::restores::AskedRestore;
use super::turn::Turn;

impl Scheduler {
    pub(super) fn ordered(&mut self, turn: &mut Turn, operation: Operation, by: Address, at: DateTime<Utc>) {
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
            Operation::Move { program, to } => self.ask_to_move(turn, program, to, by, at),
            Operation::CancelMove { program } => self.cancel_move(turn, program, by),
            Operation::Restore { program, snapshot, from } => {
                let (set, of) = (ArchivedSet { snapshot, from }, None);
                self.ask_to_restore(turn, AskedRestore { program, set, of, by, at });
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
            let Some(moved) = self.programs.get_mut(&program) else { continue };
            let cause = moved.reason_to_leave(id, is_drained);
            let Stage::Assigned(assignment) = &mut moved.stage else { continue };
            if !matches!(assignment.unwanted(), None | Some(Cause::Draining | Cause::Moved)) {
                continue;
            }
            assignment.leave(cause, turn.wall);
            self.settle(turn, program);
        }
        self.review_keeper(turn, id);
        self.look_at_arrivals(turn, id);
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
