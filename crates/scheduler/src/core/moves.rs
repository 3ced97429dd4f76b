//! Planned moves: of a program whose node is drained, left the network or keeps failing, and of one that somebody ordered to
//! move.
//!
//! ```text
//!            a node fits            copy near, or long       nothing runs         has it all
//!   Waiting ─────────────▶ Copying ────────────────▶ Stopping ──────────▶ Finishing ────────▶ Starting ──▶ done
//!    ▲  ▲                                                                  │                   │   ready
//!    │  └──────── pause, unless somebody ordered it ────────── failed ◀────┴───────────────────┘
//!    └ ordered, drained, …      it goes on where its newest data is          refused, silent, gone
//! ```
//! Until a program is told to stop, nothing has happened that cannot be taken back. Copying has a bound, as a program that
//! writes faster than the copy grows would never be near: it is stopped after [`PRECOPY_AT_MOST`] all the same. What is
//! missing then is no more than its volumes hold. Finishing has one, too: after [`SETTLE_AT_MOST`] it goes on where it was,
//! with everything that it wrote, and the move has failed. A program without data has nothing to copy.
//!
//! What somebody ordered ends with success, with a failure, or by another order. What a node's state causes is tried again
//! as long as that state lasts, after a pause that grows.

use std::time::Duration;

use chrono::{DateTime, Utc};
use lease::BootTime;
use protocol::api::scheduler::{MoveOutcome, MovePhase};
use protocol::history::Fact;
use protocol::operation::Operation;
use protocol::{Address, Epoch, NodeId, ProgramId};

use super::assignment::{Avoid, Program, Stage};
use super::event::{AskedMove, Cause, Command, Notice, Write};
use super::nodes::{Life, Node};
use super::placement::{cannot_take, explain, obstacle};
use super::programs::doubled;
use super::turn::Turn;
use super::{Policy, Scheduler};

/// A program is stopped at the latest this long after the node that it moves to had its first complete copy.
pub const PRECOPY_AT_MOST: Duration = Duration::from_secs(60);
/// What a program wrote last has so long to arrive, from the end of its assignment on.
pub const SETTLE_AT_MOST: Duration = Duration::from_secs(30);

/// Why a program should leave its node.
#[derive(Debug, Clone)]
pub(super) struct Leaving {
    pub(super) cause: Cause,
    /// Since when, for people.
    pub(super) since: DateTime<Utc>,
    /// The node that it can move to as that has a complete copy, and since when.
    pub(super) copied: Option<(NodeId, BootTime)>,
}

/// The moves of a program.
#[derive(Debug, Clone, Default)]
pub(super) struct Moves {
    /// What somebody ordered.
    pub(super) asked: Option<Asked>,
    /// The one for which it was stopped.
    pub(super) under_way: Option<Transfer>,
    /// No other is begun for a while, as the last ones failed.
    pub(super) pause: Option<Avoid>,
    /// How the last one ended.
    pub(super) last: Option<MoveEnd>,
    /// A failure that is not in the history yet: it is written with the next assignment.
    pub(super) unrecorded: Option<String>,
    /// What people were last told.
    pub(super) shown: Option<(MovePhase, Option<NodeId>)>,
}

/// Somebody's order.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// The node that it is to leave.
    pub(super) from: NodeId,
    /// The node that it is to run on; `None` for any other.
    pub(super) to: Option<NodeId>,
    pub(super) by: Address,
    /// When it was recorded.
    pub(super) at: DateTime<Utc>,
}

/// A move for which the program was stopped, until it is ready.
#[derive(Debug, Clone)]
pub(super) struct Transfer {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) cause: Cause,
    /// Since when it is to move.
    pub(super) since: DateTime<Utc>,
    /// When it was told to stop, if this scheduler told it.
    pub(super) stopped: Option<DateTime<Utc>>,
}

/// How a move ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveEnd {
    /// In one word.
    pub outcome: MoveOutcome,
    /// The node that it was to leave.
    pub from: NodeId,
    /// The node that it was to move to, if that was decided.
    pub to: Option<NodeId>,
    /// When.
    pub at: DateTime<Utc>,
    /// Why it failed.
    pub reason: Option<String>,
    /// From the order to stop until it was ready again, when that is known.
    pub not_ready: Option<Duration>,
}

/// Why an order cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// It names what nobody knows.
    #[error("{0}")]
    Unknown(String),
    /// Not as things are.
    #[error("{0}")]
    NotNow(String),
}

/// Where a program goes on whose last writes are being copied.
enum Arrival {
    /// There: it has everything.
    Now,
    /// That is not known yet.
    Later,
    /// Not there.
    Never(String),
}

impl Asked {
    /// Whether this is where it shall run.
    pub(super) fn is_met(&self, node: NodeId) -> bool {
        self.to.map_or(node != self.from, |to| to == node)
    }
}

impl Program {
    /// The node where somebody wants it, unless it is there.
    pub(super) fn wish(&self) -> Option<NodeId> {
        let here = self.stage.assignment().map(|assignment| assignment.node);
        self.moves.asked.as_ref()?.to.filter(|to| Some(*to) != here)
    }

    /// Why it should leave this node, if nothing is wrong with the node but that it may be drained.
    pub(super) fn reason_to_leave(&self, node: NodeId, is_drained: bool) -> Option<Cause> {
        let asked = || self.moves.asked.as_ref().filter(|asked| !asked.is_met(node)).map(|_| Cause::Moved);
        if is_drained { Some(Cause::Draining) } else { asked() }
    }

    /// Whether it is not stopped for a move again yet.
    pub(super) fn pauses(&self, now: BootTime) -> bool {
        self.moves.pause.is_some_and(|pause| now < pause.until)
    }

    /// Whether it is on this node, or about to be, as the end of a move that is not over yet.
    fn arrives_on(&self, node: NodeId) -> bool {
        self.moves.under_way.as_ref().is_some_and(|transfer| transfer.to == node)
    }

    /// Whether the node that it left may have to take it back: it keeps what it has until then.
    pub(super) fn may_go_back(&self) -> bool {
        self.stage.assignment().is_some_and(|a| self.arrives_on(a.node) && !a.was_seen)
    }

    /// How far its move is, and where it goes.
    pub(super) fn move_phase(&self, now: BootTime) -> Option<(MovePhase, Option<NodeId>)> {
        // A program without data has nothing to copy when it has stopped.
        let stopped = if self.data.is_some() { MovePhase::Finishing } else { MovePhase::Stopping };
        Some(match &self.stage {
            Stage::Releasing { target: Some((to, _)), .. } => (MovePhase::Stopping, Some(*to)),
            Stage::Closing { target: Some(to), .. } | Stage::Settling { target: to, .. } => (stopped, Some(*to)),
            Stage::Unplaced if self.moves.under_way.is_some() => (stopped, self.moves.under_way.as_ref().map(|t| t.to)),
            Stage::Storing { node, .. } if self.arrives_on(*node) => (MovePhase::Starting, Some(*node)),
            Stage::Assigned(assignment) if self.arrives_on(assignment.node) => {
                (MovePhase::Starting, Some(assignment.node))
            }
            Stage::Assigned(assignment) if assignment.leaving.is_some() => {
                let wish = self.wish();
                let data = self.data.as_ref().filter(|data| !data.is_keeper_gone && !self.pauses(now));
                let copies = data.and_then(|data| data.keeper()).filter(|node| wish.is_none_or(|wish| wish == *node));
                match copies {
                    Some(node) => (MovePhase::Copying, Some(node)),
                    None => (MovePhase::Waiting, wish),
                }
            }
            Stage::Unplaced | Stage::Storing { .. } if self.moves.asked.is_some() => (MovePhase::Waiting, self.wish()),
            _ => return None,
        })
    }

    /// When a move that waits for nothing but time goes on.
    pub(super) fn move_due(&self) -> Option<BootTime> {
        let Stage::Assigned(assignment) = &self.stage else { return None };
        let leaving = assignment.leaving.as_ref()?;
        let (pause, copied) = (self.moves.pause.map(|pause| pause.until), leaving.copied.map(|(_, at)| at));
        pause.into_iter().chain(copied.map(|at| at + PRECOPY_AT_MOST)).max()
    }
}

impl Scheduler {
    /// Why an order cannot be carried out now, if so.
    pub fn objection(&self, operation: &Operation) -> Option<Objection> {
        match operation {
            Operation::Move { program, to } => self.object_to_move(*program, *to),
            Operation::CancelMove { program } => self.object_to_cancel(*program),
            Operation::Restore { program, .. } => self.object_to_restore(*program),
            Operation::Drain { .. } | Operation::Undrain { .. } | Operation::Lost { .. } | Operation::Resume => None,
        }
    }

    fn object_to_move(&self, id: ProgramId, to: Option<NodeId>) -> Option<Objection> {
        let Some(program) = self.programs.get(&id) else { return Some(unknown(id)) };
        let not_now = |why: String| Some(Objection::NotNow(why));
        if let Some(gone) = program.gone {
            return not_now(format!("it is not moved any more: {}", Cause::Gone(gone)));
        }
        let here = match &program.stage {
            Stage::Assigned(assignment) if !program.arrives_on(assignment.node) => assignment.node,
            _ => match &program.moves.under_way {
                Some(transfer) => {
                    return not_now(format!("it moves to node {} already: wait until it runs", transfer.to));
                }
                None => return not_now("it runs nowhere now: wait until it is placed".to_owned()),
            },
        };
        match to {
            Some(to) if to == here => not_now(format!("it is on node {here} already")),
            Some(to) => match self.offer_to(program, to) {
                None => Some(Objection::Unknown(format!("there is no node {to}"))),
                Some(offer) => cannot_take(&program.spec, &offer, program.avoids(to, self.now)).and_then(not_now),
            },
            None => {
                let others = self.nodes.keys().filter(|node| **node != here);
                let offers: Vec<_> = others.filter_map(|node| self.offer_to(program, *node)).collect();
                let avoided = |node| program.avoids(node, self.now);
                let fits = offers.iter().any(|offer| obstacle(&program.spec, offer, avoided(offer.node)).is_none());
                match fits && program.spec.impossible.is_none() {
                    true => None,
                    false => {
                        not_now(format!("it cannot leave its node: {}", explain(&program.spec, offers.iter(), avoided)))
                    }
                }
            }
        }
    }

    fn object_to_cancel(&self, id: ProgramId) -> Option<Objection> {
        let Some(program) = self.programs.get(&id) else { return Some(unknown(id)) };
        let why = match (&program.moves.asked, &program.moves.under_way) {
            (None, _) => "nobody ordered to move it, or the move is over: there is nothing to cancel".to_owned(),
            (Some(_), Some(transfer)) => {
                format!("it is too late to cancel: it is stopped already and goes to node {}", transfer.to)
            }
            (Some(_), None) => return None,
        };
        Some(Objection::NotNow(why))
    }

    /// Somebody wants a program to run elsewhere. An order before counts no more.
    pub(super) fn ask_to_move(
        &mut self,
        turn: &mut Turn,
        id: ProgramId,
        to: Option<NodeId>,
        by: Address,
        at: DateTime<Utc>,
    ) {
        let is_possible = self.object_to_move(id, to).is_none();
        let Some(program) = self.programs.get_mut(&id) else { return };
        let Some(assignment) = program.stage.assignment_mut().filter(|_| is_possible) else {
            // What changed between question and order.
            return turn.command(Command::Store(Write::MoveOver { program: id, ordered: at }));
        };
        let (node, epoch) = (assignment.node, assignment.epoch);
        if assignment.leaving.is_none() {
            assignment.leave(Some(Cause::Moved), turn.wall);
        }
        program.moves.asked = Some(Asked { from: node, to, by: by.clone(), at });
        program.moves.pause = None;
        let fact = Fact::MoveAsked { by, to };
        turn.command(Command::Store(Write::Record { program: id, epoch, node, at: turn.wall, fact }));
        self.settle(turn, id);
        self.waiting.retry(&self.programs[&id]);
    }

    /// Somebody wants a program to stay after all.
    pub(super) fn cancel_move(&mut self, turn: &mut Turn, id: ProgramId, by: Address) {
        if self.object_to_cancel(id).is_some() {
            return;
        }
        let Some(program) = self.programs.get_mut(&id) else { return };
        let Some(asked) = program.moves.asked.take() else { return };
        if let Some(assignment) = program.stage.assignment_mut() {
            if assignment.unwanted() == Some(Cause::Moved) {
                assignment.leave(None, turn.wall);
            }
            let (node, epoch) = (assignment.node, assignment.epoch);
            let fact = Fact::MoveCancelled { by };
            turn.command(Command::Store(Write::Record { program: id, epoch, node, at: turn.wall, fact }));
        }
        let Asked { from, to, at, .. } = asked;
        let outcome = MoveOutcome::Cancelled;
        self.move_over(turn, id, MoveEnd { outcome, from, to, at: turn.wall, reason: None, not_ready: None });
        turn.command(Command::Store(Write::MoveOver { program: id, ordered: at }));
    }

    /// A program that is not desired any more moves no more.
    pub(super) fn drop_moves(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let moves = std::mem::take(&mut program.moves);
        program.moves.shown = moves.shown;
        if let Some(Asked { at, .. }) = moves.asked {
            turn.command(Command::Store(Write::MoveOver { program: id, ordered: at }));
        }
    }

    /// The order of an earlier scheduler's time.
    pub(super) fn restore_move(&mut self, turn: &mut Turn, asked: AskedMove) {
        let AskedMove { program: id, from, to, by, at } = asked;
        let Some(program) = self.programs.get_mut(&id) else {
            return turn.command(Command::Store(Write::MoveOver { program: id, ordered: at }));
        };
        let asked = Asked { from, to, by, at };
        if let Some(assignment) = program.stage.assignment_mut() {
            let node = assignment.node;
            if asked.is_met(node) {
                let (cause, since) = (Cause::Moved, at);
                program.moves.under_way = Some(Transfer { from, to: node, cause, since, stopped: None });
            } else if assignment.leaving.is_none() {
                assignment.leave(Some(Cause::Moved), at);
            }
        }
        program.moves.asked = Some(asked);
        self.settle(turn, id);
    }

    /// What made it leave is over; somebody may want it to leave all the same.
    pub(super) fn look_for_reason_to_leave(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let here = program.stage.assignment().map(|assignment| assignment.node);
        let is_drained = here.and_then(|node| self.nodes.get(&node)).is_some_and(Node::is_drained);
        let cause = here.and_then(|node| program.reason_to_leave(node, is_drained));
        if let Stage::Assigned(assignment) = &mut program.stage {
            assignment.leave(cause, turn.wall);
        }
    }

    /// Its assignment is closed, and it goes on elsewhere once that node has everything that it wrote.
    pub(super) fn closed_for_move(
        &mut self,
        turn: &mut Turn,
        id: ProgramId,
        source: NodeId,
        epoch: Epoch,
        target: NodeId,
    ) {
        let Some(program) = self.programs.get(&id) else { return };
        let ended = program.data.as_ref().map(|data| data.ended.unwrap_or(turn.now));
        let until = ended.unwrap_or(turn.now) + SETTLE_AT_MOST;
        self.transition(turn, id, Stage::Settling { source, epoch, target, until });
        self.look_at_arrival(turn, id);
    }

    /// Looks whether a program whose last writes are on their way can go on, and where.
    pub(super) fn look_at_arrival(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get(&id) else { return };
        let Stage::Settling { source, target, until, .. } = program.stage else { return };
        match self.arrival(program, source, target, turn.now >= until, turn.now) {
            Arrival::Later => self.settle(turn, id),
            Arrival::Now => {
                self.transition(turn, id, Stage::Unplaced);
                self.store(turn, id, target);
            }
            Arrival::Never(reason) => {
                let has_data = program.data.as_ref().is_some_and(|data| data.has_live(source));
                self.transition(turn, id, Stage::Unplaced);
                self.move_failed(turn, id, reason);
                // Where its data is, it need not fit as others must: it was there all the time.
                if has_data && self.nodes.get(&source).is_some_and(|node| node.offer.is_healthy) {
                    self.avoid(turn.now, id, target);
                    self.store(turn, id, source);
                }
            }
        }
    }

    fn arrival(&self, program: &Program, source: NodeId, target: NodeId, is_over: bool, now: BootTime) -> Arrival {
        let offer = self.offer_to(program, target);
        let objection = match &offer {
            Some(offer) => cannot_take(&program.spec, offer, program.avoids(target, now)),
            None => Some(format!("node {target} left the network")),
        };
        if let Some(objection) = objection {
            return Arrival::Never(objection);
        }
        let Some(data) = &program.data else { return Arrival::Now };
        let life = self.nodes.get(&source).map(|node| node.life);
        if data.is_exact(target) {
            Arrival::Now
        } else if is_over {
            let seconds = SETTLE_AT_MOST.as_secs();
            Arrival::Never(format!("what it wrote last was not on node {target} within {seconds} s"))
        } else if life.is_none_or(|life| life == Life::Lost) || (life == Some(Life::Heard) && !data.has_live(source)) {
            Arrival::Never(format!("node {source} was lost before what it wrote last was on node {target}"))
        } else {
            Arrival::Later
        }
    }

    /// Looks again at the programs that move from or to this node.
    pub(super) fn look_at_arrivals(&mut self, turn: &mut Turn, node: NodeId) {
        let programs = self.nodes.get(&node).map(|node| node.set.programs_with_data().collect::<Vec<_>>());
        for program in programs.into_iter().flatten() {
            self.look_at_arrival(turn, program);
        }
    }

    /// It is ready: if that is where it was to move, the move is over.
    pub(super) fn ready_after_move(&mut self, turn: &mut Turn, id: ProgramId, node: NodeId) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let transfer = program.moves.under_way.take_if(|transfer| transfer.to == node);
        let asked = program.moves.asked.take_if(|asked| asked.is_met(node));
        let from = transfer.as_ref().map(|transfer| transfer.from).or(asked.as_ref().map(|asked| asked.from));
        let Some(from) = from else { return };
        program.moves.pause = None;
        let observed = program.stage.assignment().and_then(|assignment| assignment.observed.as_ref());
        let ready = observed.map_or(turn.wall, |observed| observed.since);
        let stopped = transfer.and_then(|transfer| transfer.stopped);
        let not_ready = stopped.map(|stopped| (ready - stopped).to_std().unwrap_or_default());
        let outcome = MoveOutcome::Done;
        self.move_over(turn, id, MoveEnd { outcome, from, to: Some(node), at: ready, reason: None, not_ready });
        if let Some(Asked { at, .. }) = asked {
            turn.command(Command::Store(Write::MoveOver { program: id, ordered: at }));
        }
    }

    /// It was stopped for another node and does not come up there.
    pub(super) fn move_failed(&mut self, turn: &mut Turn, id: ProgramId, reason: String) {
        let Policy { avoid, avoid_most, .. } = self.policy;
        let Some(program) = self.programs.get_mut(&id) else { return };
        let Some(Transfer { from, to, cause, .. }) = program.moves.under_way.take() else { return };
        let times = program.moves.pause.map_or(0, |pause| pause.times);
        let until = turn.now + doubled(avoid, times, avoid_most);
        program.moves.pause = Some(Avoid { until, times: times + 1 });
        program.moves.unrecorded = Some(reason.clone());
        let asked = program.moves.asked.take_if(|asked| cause == Cause::Moved || asked.to == Some(to));
        if let Some(Asked { at, .. }) = asked {
            turn.command(Command::Store(Write::MoveOver { program: id, ordered: at }));
        }
        let (outcome, reason) = (MoveOutcome::Failed, Some(reason));
        self.move_over(turn, id, MoveEnd { outcome, from, to: Some(to), at: turn.wall, reason, not_ready: None });
    }

    fn move_over(&mut self, turn: &mut Turn, id: ProgramId, end: MoveEnd) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        program.moves.last = Some(end.clone());
        turn.notice(Notice::MoveOver { program: id, end });
        self.settle(turn, id);
        self.changes.program(id, true);
    }

    /// Records under the new assignment that the move before it failed.
    pub(super) fn record_failed_move(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let Some(reason) = program.moves.unrecorded.take() else { return };
        let Some(assignment) = program.stage.assignment() else { return };
        let (epoch, node, fact) = (assignment.epoch, assignment.node, Fact::MoveFailed { reason });
        turn.command(Command::Store(Write::Record { program: id, epoch, node, at: turn.wall, fact }));
    }
}

pub(super) fn unknown(program: ProgramId) -> Objection {
    Objection::Unknown(format!("no persistent program {program} is known to this scheduler"))
}
