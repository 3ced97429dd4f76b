//! What people see: the state of programs and nodes at one moment, made from the core and free of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lease::BootTime;
use protocol::api::scheduler::{MovePhase, NodeStatus, ProgramState, VmStatus};
use protocol::control::Failure;
use protocol::data::ArchivedSet;
use protocol::{Address, Epoch, NodeId, ProgramId};

use super::Scheduler;
use super::assignment::{Program, Stage};
use super::data::Sources;
use super::desired::ProgramSpec;
use super::event::{Cause, Notice};
use super::moves::MoveEnd;
use super::placement::Offer;
use super::start::Loss;
use super::turn::Turn;

/// A program as people see it.
#[derive(Debug, Clone)]
pub struct ProgramView {
    /// What it is.
    pub spec: Arc<ProgramSpec>,
    /// What it does.
    pub state: ProgramState,
    /// Since when.
    pub since: DateTime<Utc>,
    /// The same in the words of the Aleph scheduler.
    pub status: VmStatus,
    /// The epoch of its newest assignment.
    pub epoch: Option<Epoch>,
    /// Its assignment.
    pub place: Option<Place>,
    /// Where it was stopped for, and since when.
    pub target: Option<(NodeId, DateTime<Utc>)>,
    /// Why it is not ready. `None` for a program that waits for a node: there [`super::placement::explain`] knows.
    pub note: Option<String>,
    /// The nodes that it leaves alone for now.
    pub avoids: BTreeSet<NodeId>,
    /// Where its data is, if it has any.
    pub data: Option<DataView>,
    /// Its move, when one is under way or waited for.
    pub moving: Option<MovingView>,
    /// How its last move ended.
    pub last_move: Option<MoveEnd>,
}

impl ProgramView {
    /// Whether it has data, runs, and no other node has a complete copy of it.
    pub fn lacks_standby(&self) -> bool {
        let has_standby = |data: &DataView| data.standby.is_some_and(|(_, is_complete)| is_complete);
        self.place.is_some() && self.data.as_ref().is_some_and(|data| !has_standby(data))
    }
}

/// A move as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovingView {
    /// How far it is.
    pub phase: MovePhase,
    /// Where it goes, when that is decided.
    pub to: Option<NodeId>,
    /// Since when it is to move.
    pub since: DateTime<Utc>,
    /// Why.
    pub cause: Cause,
    /// Who ordered it.
    pub by: Option<Address>,
    /// How far the copy is behind while the program runs, when that is known.
    pub behind: Option<Duration>,
}

/// The data of a program as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataView {
    /// The node that keeps copies, and whether it has a complete one.
    pub standby: Option<(NodeId, bool)>,
    /// Writes of at most this long would be lost now; `None` when nobody knows, or no node has a copy.
    pub at_risk: Option<Duration>,
    /// What the last start cost.
    pub loss: Option<Loss>,
    /// The snapshot of the archive that it started with, when somebody ordered that.
    pub restored: Option<ArchivedSet>,
    /// The nodes that had its data, when it waits for one of them.
    pub waits_for: Vec<NodeId>,
}

/// An assignment as people see it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Since when.
    pub at: DateTime<Utc>,
    /// When the node last reported it.
    pub observed_at: Option<DateTime<Utc>>,
    /// Its last failure.
    pub failure: Option<Failure>,
    /// How often it was started again.
    pub restarts: u32,
}

/// A node as people see it.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// What it offers.
    pub offer: Offer,
    /// What people call it.
    pub name: String,
    /// An account that may act for it beside its owner.
    pub manager: Option<Address>,
    /// Whether the message that registered it is not in force any more.
    pub is_gone: bool,
    /// Its public base URL.
    pub url: String,
    /// The name and version of its software.
    pub software: Option<String>,
    /// Whether it is heard of.
    pub status: NodeStatus,
    /// When it last changed or was heard.
    pub updated_at: DateTime<Utc>,
    /// What it holds although it is not its own.
    pub strays: BTreeSet<ProgramId>,
}

/// What changed since somebody last asked.
#[derive(Debug, Default)]
pub struct Changes {
    /// Programs that changed, came or went.
    pub programs: BTreeSet<ProgramId>,
    /// Nodes that changed, came or went.
    pub nodes: BTreeSet<NodeId>,
    /// Whether somebody waits for it: more than the time of a report changed.
    pub is_loud: bool,
}

impl Changes {
    pub(super) fn program(&mut self, program: ProgramId, is_loud: bool) {
        self.programs.insert(program);
        self.is_loud |= is_loud;
    }

    pub(super) fn node(&mut self, node: NodeId, is_loud: bool) {
        self.nodes.insert(node);
        self.is_loud |= is_loud;
    }
}

impl Scheduler {
    /// What changed since this was last called.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Whether something changed that somebody waits for.
    pub fn has_loud_changes(&self) -> bool {
        self.changes.is_loud
    }

    /// A program as it is now; `None` when it is not desired and not assigned.
    pub fn program_view(&self, id: ProgramId) -> Option<ProgramView> {
        let program = self.programs.get(&id)?;
        let (state, since) = program.shown;
        let assignment = program.stage.assignment();
        Some(ProgramView {
            spec: program.spec.clone(),
            state,
            since,
            status: status(program, state),
            epoch: program.last_epoch,
            place: assignment.map(|assignment| Place {
                node: assignment.node,
                at: assignment.at,
                observed_at: assignment.observed.as_ref().map(|o| o.at),
                failure: assignment.observed.as_ref().and_then(|o| o.failure.clone()),
                restarts: assignment.observed.as_ref().map_or(0, |o| o.restarts),
            }),
            target: program
                .moves
                .under_way
                .as_ref()
                .filter(|transfer| assignment.is_none_or(|assignment| assignment.node != transfer.to))
                .map(|transfer| (transfer.to, transfer.stopped.unwrap_or(transfer.since))),
            note: note(program, state, self.now, self.policy.restore_after).or_else(|| self.brake_note(program)),
            data: program.data.as_ref().map(|data| DataView {
                standby: data.keeper().map(|node| (node, data.filling.is_none())),
                at_risk: data.keeper().and_then(|node| data.behind(node)),
                loss: data.loss,
                restored: data.restored,
                waits_for: if assignment.is_none() {
                    data.waits_for(self.now, self.policy.restore_after)
                } else {
                    Vec::new()
                },
            }),
            moving: moving(program, self.now),
            last_move: program.moves.last.clone(),
            avoids: program.avoid.keys().copied().filter(|node| program.avoids(*node, self.now)).collect(),
        })
    }

    /// Why no program gets another node for now, if so.
    pub fn brake(&self) -> Option<String> {
        self.brake.reason()
    }

    fn brake_note(&self, program: &Program) -> Option<String> {
        let waits = matches!(program.stage, Stage::Unplaced) && program.last_epoch.is_some();
        waits.then(|| self.brake.reason()).flatten()
    }

    /// A node as it is now; `None` when it is not known.
    pub fn node_view(&self, id: NodeId) -> Option<NodeView> {
        let node = self.nodes.get(&id)?;
        Some(NodeView {
            offer: node.offer.clone(),
            name: node.name.clone(),
            manager: node.manager.clone(),
            is_gone: node.is_gone,
            url: node.public_url().to_owned(),
            software: node.software.clone(),
            status: node.status(),
            updated_at: node.updated_at,
            strays: node.set.strays().collect(),
        })
    }

    /// Brings what people see of a program up to date.
    pub(super) fn show(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        let state = program.state(|node| self.nodes.get(&node).is_some_and(super::nodes::Node::is_heard));
        let phase = program.move_phase(turn.now);
        if program.moves.shown != phase {
            program.moves.shown = phase;
            turn.notice(Notice::Moving { program: id, epoch: program.last_epoch, phase });
            self.changes.program(id, true);
        }
        let Some(program) = self.programs.get_mut(&id) else { return };
        let is_new = program.shown.0 != state;
        if is_new {
            let observed = program.stage.assignment().and_then(|a| a.observed.as_ref());
            let since = observed.filter(|_| state != ProgramState::Unknown).map_or(turn.wall, |o| o.since);
            program.shown = (state, since);
            if let Some(epoch) = program.stage.assignment().map(|a| a.epoch) {
                turn.notice(Notice::State { program: id, epoch, state });
            }
        }
        self.changes.program(id, is_new);
    }
}

fn moving(program: &Program, now: BootTime) -> Option<MovingView> {
    let (phase, to) = program.move_phase(now)?;
    let leaving = program.stage.assignment().and_then(|assignment| assignment.leaving.as_ref());
    let (asked, under_way) = (&program.moves.asked, &program.moves.under_way);
    let (cause, since) = match (under_way, leaving, asked) {
        (Some(transfer), ..) => (transfer.cause, transfer.since),
        (None, Some(leaving), _) => (leaving.cause, leaving.since),
        (None, None, asked) => (Cause::Moved, asked.as_ref()?.at),
    };
    let data = program.data.as_ref().filter(|_| phase == MovePhase::Copying);
    let behind = data.zip(to).and_then(|(data, node)| data.behind(node));
    Some(MovingView { phase, to, since, cause, by: asked.as_ref().map(|asked| asked.by.clone()), behind })
}

fn status(program: &Program, state: ProgramState) -> VmStatus {
    match &program.stage {
        Stage::Unplaced if program.unplaceable.is_some() => VmStatus::Unschedulable,
        Stage::Unplaced | Stage::Storing { .. } => VmStatus::Unscheduled,
        Stage::Assigned(_) if state == ProgramState::Unknown => VmStatus::Missing,
        Stage::Assigned(assignment) if assignment.observed.is_none() => VmStatus::Scheduled,
        Stage::Assigned(_) => VmStatus::Dispatched,
        Stage::Releasing { .. } | Stage::Closing { .. } | Stage::Settling { .. } if program.gone.is_some() => {
            VmStatus::Orphaned
        }
        Stage::Releasing { .. } | Stage::Closing { .. } | Stage::Settling { .. } => VmStatus::Migrating,
        Stage::Forgetting { .. } => VmStatus::Unscheduled,
    }
}

fn note(program: &Program, state: ProgramState, now: BootTime, patience: Duration) -> Option<String> {
    const DATABASE: &str = "the scheduler's database cannot be written; it is tried again";
    match &program.stage {
        Stage::Storing { retry_at: Some(_), .. } | Stage::Closing { retry_at: Some(_), .. } => {
            Some(DATABASE.to_owned())
        }
        Stage::Unplaced if program.held_until.is_some_and(|until| now < until) => {
            Some("the scheduler's database is new or an old copy: it waits until earlier leases have ended".into())
        }
        Stage::Unplaced => program.data.as_ref().and_then(|data| match data.sources(now, patience) {
            Sources::Nowhere(reason) => Some(reason),
            // Which nodes do not fit, or that it is being placed.
            Sources::Anywhere | Sources::On(_) | Sources::Archive(_) => None,
        }),
        Stage::Storing { .. } => Some("its assignment is being written".to_owned()),
        Stage::Assigned(_) if state == ProgramState::Unknown => {
            Some("its node is not heard of; it is assigned again when the node's lease is over".to_owned())
        }
        Stage::Assigned(assignment) => {
            let failure = assignment.observed.as_ref().and_then(|o| o.failure.as_ref());
            failure.filter(|_| state == ProgramState::Failing).map(|failure| failure.kind.words().to_owned())
        }
        Stage::Releasing { cause, .. } => Some(format!("it is being stopped: {cause}")),
        Stage::Closing { cause, .. } => Some(format!("its assignment ended: {cause}")),
        Stage::Settling { target, .. } => Some(format!("it moves: what it wrote last is copied to node {target}")),
        Stage::Forgetting { .. } => Some("it is not desired any more".to_owned()),
    }
}
