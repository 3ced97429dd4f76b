//! Heartbeats: what a node reports, and the grant that answers it.
//!
//! A report counts only for the assignment that the node has now: everything it says about other epochs makes it stop them
//! and changes nothing else (invariant I2). What it does not mention is unknown, not absent.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::control::{
    Failure, FromScheduler, Grant, Heartbeat, MAX_FAILURE_BYTES, ProgramReport, Refusal, ReportedState, SetVersion,
};
use protocol::history::{Fact, Statement};
use protocol::{Epoch, NodeId, ProgramId};

use super::Scheduler;
use super::assignment::{Assignment, Stage};
use super::event::{Cause, Command, ConnectionId, Notice, Proof, Write};
use super::nodes::truncated;
use super::timers::Timer;
use super::turn::Turn;

/// How far a node can push a program's epoch ahead at once. It may have seen epochs that the database has lost, but its word
/// alone must not use up the numbers.
const MAX_EPOCH_SKIP: u64 = 1_000_000;

impl Scheduler {
    pub(super) fn heartbeat(&mut self, turn: &mut Turn, id: NodeId, connection: ConnectionId, heartbeat: &Heartbeat) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if !node.is_newest(connection, heartbeat.sequence) {
            return;
        }
        let was_heard = node.is_heard();
        if node.hear(heartbeat, turn.now, turn.wall) {
            self.waiting.improve(id);
        }
        let mut strays = BTreeSet::new();
        for report in &heartbeat.programs {
            if !self.report(turn, id, heartbeat.applied.as_ref(), report) {
                self.learn_epoch(report.program, report.epoch);
                if !matches!(report.state, ReportedState::Released | ReportedState::Refused(_)) {
                    strays.insert((report.program, report.epoch));
                }
            }
        }
        let mut new_strays = Vec::new();
        self.change_set(turn, id, |set, versions| new_strays = set.set_strays(strays, versions));
        for (program, epoch) in new_strays {
            turn.notice(Notice::Stray { node: id, program, epoch });
        }
        if !was_heard {
            self.node_heard(turn, id);
        }
        self.data_reported(turn, id, heartbeat);
        self.changes.node(id, false);
        self.grant(turn, id, connection, heartbeat);
    }

    /// Takes in a report about the node's current assignment of the program; `false` when it has none of that epoch.
    fn report(&mut self, turn: &mut Turn, node: NodeId, applied: Option<&SetVersion>, report: &ProgramReport) -> bool {
        let id = report.program;
        let Some(program) = self.programs.get_mut(&id) else { return false };
        let is_releasing = matches!(program.stage, Stage::Releasing { .. });
        let Some(assignment) = program.stage.assignment_mut() else { return false };
        if (assignment.node, assignment.epoch) != (node, report.epoch) {
            return false;
        }
        match &report.state {
            ReportedState::Refused(Refusal::StaleEpoch { highest })
                if *highest >= report.epoch && is_plausible(*highest, program.at_least) =>
            {
                self.epoch_behind(turn, id, node, *highest);
            }
            // Its answer to the release, or older than that: then it may still get to see an order to run.
            ReportedState::Released | ReportedState::Refused(_) if is_releasing => {
                let set = self.nodes.get(&node).map(|node| &node.set);
                if set.is_some_and(|set| set.is_acknowledged(id, applied, &self.versions)) {
                    self.end(turn, id, Cause::GivenUp, Proof::Released);
                }
            }
            ReportedState::Released => self.turned_down(turn, id, node, Cause::GivenUp),
            // Without its data the node cannot have started it, although it was allowed to.
            ReportedState::Refused(Refusal::NoData) if !assignment.was_seen => {
                assignment.has_started = false;
                self.restore_over(turn, id);
                self.turned_down(turn, id, node, Cause::Refused);
            }
            ReportedState::Refused(_) if assignment.has_started => self.turned_down(turn, id, node, Cause::GivenUp),
            ReportedState::Refused(_) => self.turned_down(turn, id, node, Cause::Refused),
            _ => {
                observe(assignment, report, turn);
                if assignment.failing_since.is_none() && assignment.unwanted() == Some(Cause::NodeFault) {
                    assignment.leave(None, turn.wall);
                    self.look_for_reason_to_leave(turn, id);
                }
                if report.state == ReportedState::Ready && !is_releasing {
                    self.programs.get_mut(&id).map(|program| program.avoid.remove(&node));
                    self.ready_after_move(turn, id, node);
                    self.restore_over(turn, id);
                }
                self.settle(turn, id);
            }
        }
        true
    }

    /// A statement about the node's current assignment goes into the history; others came too late.
    pub(super) fn stated(&mut self, turn: &mut Turn, statement: Statement) {
        let Statement { program, epoch, node, .. } = statement;
        let assignment = self.programs.get(&program).and_then(|program| program.stage.assignment());
        if assignment.is_some_and(|assignment| (assignment.node, assignment.epoch) == (node, epoch)) {
            let fact = Fact::Stated { statement };
            turn.command(Command::Store(Write::Record { program, epoch, node, at: turn.wall, fact }));
        }
    }

    /// The node does not run it, although it should. It is told to leave it alone before another gets it: an order to run it
    /// may still be on its way.
    fn turned_down(&mut self, turn: &mut Turn, id: ProgramId, node: NodeId, cause: Cause) {
        self.avoid(turn.now, id, node);
        self.release(turn, id, cause, None);
    }

    /// The node has seen a higher epoch than the database, so it never starts this one: the next one is above both. When that
    /// happens again, the node is left alone for a while.
    fn epoch_behind(&mut self, turn: &mut Turn, id: ProgramId, node: NodeId, highest: Epoch) {
        turn.notice(Notice::EpochBehind { program: id, node, highest });
        self.learn_epoch(id, highest);
        self.avoid(turn.now, id, node);
        let avoid = self.programs.get_mut(&id).and_then(|program| program.avoid.get_mut(&node));
        if let Some(first) = avoid.filter(|avoid| avoid.times == 1) {
            first.until = turn.now;
        }
        self.end(turn, id, Cause::StaleEpoch, Proof::Refused);
    }

    /// A node that has seen a higher epoch than the database knows got it from a database that was lost. The next epoch is
    /// above it, and waits until leases of that time have ended; what runs now is left alone, because one node's word is not
    /// enough to stop it.
    fn learn_epoch(&mut self, program: ProgramId, seen: Epoch) {
        let Some(program) = self.programs.get_mut(&program) else { return };
        if seen >= program.at_least && is_plausible(seen, program.at_least) {
            program.at_least = seen.next();
            if let Some(until) = self.earlier_leases_until {
                program.held_until = Some(until);
                self.timers.arm(Timer::Program(program.spec.id), until);
            }
        }
    }

    /// Answers a heartbeat: renews the lease of everything that the node shall run, and brings it the set if it has not
    /// applied it yet.
    fn grant(&mut self, turn: &mut Turn, id: NodeId, connection: ConnectionId, heartbeat: &Heartbeat) {
        // Another scheduler may lead already, and counts on this one granting nothing any more.
        if self.leads_until.is_some_and(|until| turn.now >= until) {
            return;
        }
        let Some(node) = self.nodes.get(&id) else { return };
        let set = node.set.version(&self.versions);
        let is_new = heartbeat.applied.as_ref() != Some(&set);
        let entries = is_new.then(|| node.set.entries());
        let data = if is_new { node.set.data() } else { Vec::new() };
        let expiry = self.times.issuer(turn.now);
        for program in node.set.renewed() {
            let Some(program) = self.programs.get_mut(&program) else { continue };
            if let Some(assignment) = program.stage.assignment_mut() {
                assignment.expiry = expiry;
                assignment.granted = true;
                if let Some(data) = &mut program.data {
                    data.granted(assignment.node, assignment.epoch);
                }
            }
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.grants(heartbeat.sequence, turn.now);
        }
        let grant = Grant { sequence: heartbeat.sequence, lease_ms: millis(self.times.lease()), set, entries, data };
        turn.command(Command::Send { connection, frame: FromScheduler::Grant(grant) });
        turn.pokes.remove(&id);
    }
}

/// Whether a node can have seen this epoch, when the next one is `at_least`.
fn is_plausible(seen: Epoch, at_least: Epoch) -> bool {
    seen.get() < at_least.get().saturating_add(MAX_EPOCH_SKIP)
}

fn observe(assignment: &mut Assignment, report: &ProgramReport, turn: &Turn) {
    let state = match &report.state {
        ReportedState::Failing(Failure { kind, message }) => {
            ReportedState::Failing(Failure { kind: *kind, message: truncated(message, MAX_FAILURE_BYTES) })
        }
        state => state.clone(),
    };
    let since = turn.wall - Duration::from_millis(report.for_ms.min(MAX_FOR_MS));
    assignment.observe(&state, since, report.restarts, turn.wall);
    assignment.failing_since = match &report.state {
        ReportedState::Failing(failure) if failure.kind.is_fault_of_node() => {
            assignment.failing_since.or(Some(turn.now))
        }
        ReportedState::Failing(_) | ReportedState::Ready => None,
        // It tries again; whether the node still fails is not known yet.
        _ => assignment.failing_since,
    };
}

/// The longest time that a node can claim for a state: a century.
const MAX_FOR_MS: u64 = 100 * 365 * 24 * 3600 * 1000;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
