//! The life of one program's assignments.
//!
//! ```text
//!                  a node fits             stored
//!      Unplaced ────────────────▶ Storing ──────────▶ Assigned
//!       ▲    │                     │                   │    │
//!       │    └ gone ─┐             │ failed, and gone  │    │ gone, refused, given up,
//!       │            ▼             ▼                   │    │ moves to a node that fits
//!       │           Forgetting ◀───┘        lease over,│    ▼
//!       │            ▲    │              stale epoch,  │   Releasing
//!       │            │    └──▶ ∅         never granted │    │ released, lease over
//!       │            │ gone                            ▼    ▼
//!       ├────────────┴─────────────── closed ──────── Closing
//!       │                                                │ closed, and its data moves
//!       └── the other node has it all, or cannot ── Settling
//! ```
//!
//! Only [`super::Scheduler::handle`] moves it. `Storing`, `Closing` and `Forgetting` wait for the database and write again
//! when it fails, and the room on the node stays taken until it answers. An assignment enters `Closing` only with a
//! [`Proof`] that nothing of it runs any more, and a program returns to `Unplaced` only when that is durable: so at no moment
//! two assignments of one program are open. In `Settling` it runs nowhere while its last writes are copied to the node that it
//! moves to (see `moves`); from there it goes through `Unplaced` in the same moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use lease::{BootTime, IssuerExpiry};
use protocol::api::scheduler::ProgramState;
use protocol::control::{Directive, Failure, ReportedState, SetEntry};
use protocol::{Epoch, NodeId, ProgramId};

use super::data::Data;
use super::desired::ProgramSpec;
use super::event::{Cause, Gone, Proof};
use super::moves::{Leaving, Moves};

/// A program that is desired, or whose last assignment is not closed yet.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// What it is.
    pub(super) spec: Arc<ProgramSpec>,
    /// Why it is not desired any more.
    pub(super) gone: Option<Gone>,
    /// Where it is in its life.
    pub(super) stage: Stage,
    /// The epoch of its newest assignment.
    pub(super) last_epoch: Option<Epoch>,
    /// The lowest epoch for its next assignment.
    pub(super) at_least: Epoch,
    /// The nodes that refused or failed it.
    pub(super) avoid: BTreeMap<NodeId, Avoid>,
    /// Writes that failed in a row.
    pub(super) failed_writes: u32,
    /// It is not placed before this time: an earlier scheduler's lease may still live.
    pub(super) held_until: Option<BootTime>,
    /// Since when it waits for a node.
    pub(super) waiting_since: BootTime,
    /// Where its data is, if it has any.
    pub(super) data: Option<Box<Data>>,
    /// What the database says about its data, while it does not say what the program is.
    pub(super) unread: Option<Box<Data>>,
    /// Its planned moves.
    pub(super) moves: Moves,
    /// The last reason for which no node fitted.
    pub(super) unplaceable: Option<String>,
    /// What people were last told, and since when that is so.
    pub(super) shown: (ProgramState, DateTime<Utc>),
}

/// A node that refused or failed a program is left alone for a while, longer each time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avoid {
    /// Until when.
    pub(super) until: BootTime,
    /// How often in a row.
    pub(super) times: u32,
}

/// Where a program is in its life; see the module.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// It waits for a node.
    Unplaced,
    /// Its assignment to a node is being written. The room counts as taken.
    Storing {
        /// The node.
        node: NodeId,
        /// When to write it again after a failure; `None` while a write is under way.
        retry_at: Option<BootTime>,
    },
    /// A node shall run it.
    Assigned(Assignment),
    /// A node shall stop it.
    Releasing {
        /// What ends.
        assignment: Assignment,
        /// Why.
        cause: Cause,
        /// Where it goes next, when that is decided. The room there counts as taken.
        target: Option<(NodeId, DateTime<Utc>)>,
    },
    /// Nothing of the assignment runs any more; that is being written. Until it is, the room counts as taken: should the
    /// scheduler end before, the assignment is open when it starts again.
    Closing {
        /// Where it was.
        node: NodeId,
        /// What ended.
        epoch: Epoch,
        /// Why.
        cause: Cause,
        /// How that is known.
        proof: Proof,
        /// Where it goes next.
        target: Option<NodeId>,
        /// As in `Storing`.
        retry_at: Option<BootTime>,
    },
    /// Nothing of it runs, and what it wrote last is copied to the node that it moves to. The room on both counts as taken.
    Settling {
        /// Where it was.
        source: NodeId,
        /// What ended.
        epoch: Epoch,
        /// Where it goes next.
        target: NodeId,
        /// When it is waited for no longer.
        until: BootTime,
    },
    /// It is not desired and not assigned; that is being written.
    Forgetting {
        /// Where an assignment whose write failed would be, had it taken effect all the same.
        node: Option<NodeId>,
        /// As in `Storing`.
        retry_at: Option<BootTime>,
    },
}

/// A node's right to run a program.
#[derive(Debug, Clone)]
pub(super) struct Assignment {
    /// The node.
    pub(super) node: NodeId,
    /// The epoch.
    pub(super) epoch: Epoch,
    /// When it was made.
    pub(super) at: DateTime<Utc>,
    /// When its lease is over, unless it is renewed before.
    pub(super) expiry: IssuerExpiry,
    /// Whether a grant ever named it. Until then the node has no right to start it.
    pub(super) granted: bool,
    /// Whether the node may have started it: it said so, or an earlier scheduler would know.
    pub(super) has_started: bool,
    /// Whether the node said that it runs, to this scheduler or in the history.
    pub(super) was_seen: bool,
    /// Whether it was ready.
    pub(super) was_ready: bool,
    /// What the node last said about it.
    pub(super) observed: Option<Observed>,
    /// Since when the node fails, without the program having been ready in between.
    pub(super) failing_since: Option<BootTime>,
    /// Why it should move as soon as another node fits.
    pub(super) leaving: Option<Leaving>,
}

/// What a node says about a program.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    /// What it does.
    pub(super) state: ReportedState,
    /// Since when.
    pub(super) since: DateTime<Utc>,
    /// When it was last said.
    pub(super) at: DateTime<Utc>,
    /// How often it was started again.
    pub(super) restarts: u32,
    /// Its last failure.
    pub(super) failure: Option<Failure>,
}

impl Program {
    pub(super) fn new(spec: Arc<ProgramSpec>, now: BootTime, wall: DateTime<Utc>) -> Self {
        let data = spec.data.map(|on_loss| Box::new(Data::new(on_loss)));
        Self {
            spec,
            gone: None,
            stage: Stage::Unplaced,
            last_epoch: None,
            at_least: Epoch::FIRST,
            avoid: BTreeMap::new(),
            failed_writes: 0,
            held_until: None,
            waiting_since: now,
            data,
            unread: None,
            moves: Moves::default(),
            unplaceable: None,
            shown: (ProgramState::Unplaced, wall),
        }
    }

    /// Where the database says that its data is.
    pub(super) fn restored_data(&mut self) -> Option<&mut Data> {
        if self.spec.is_unknown() { Some(self.unread.get_or_insert_default()) } else { self.data.as_deref_mut() }
    }

    /// Whether this node is left alone for now.
    pub(super) fn avoids(&self, node: NodeId, now: BootTime) -> bool {
        self.avoid.get(&node).is_some_and(|avoid| now < avoid.until)
    }

    /// The program's key in the order in which programs are placed.
    pub(super) fn turn(&self) -> (i64, ProgramId) {
        (self.spec.time, self.spec.id)
    }

    /// What it does, for people. `is_heard` says whether its node sends heartbeats.
    pub(super) fn state(&self, is_heard: impl Fn(NodeId) -> bool) -> ProgramState {
        match &self.stage {
            Stage::Unplaced
            | Stage::Storing { .. }
            | Stage::Closing { .. }
            | Stage::Settling { .. }
            | Stage::Forgetting { .. } => ProgramState::Unplaced,
            Stage::Assigned(assignment) if !is_heard(assignment.node) => ProgramState::Unknown,
            Stage::Assigned(assignment) => assignment.state(),
            Stage::Releasing { assignment, .. } if !is_heard(assignment.node) => ProgramState::Unknown,
            Stage::Releasing { .. } => ProgramState::Stopping,
        }
    }
}

impl Stage {
    /// The assignment that is open and may run.
    pub(super) fn assignment(&self) -> Option<&Assignment> {
        match self {
            Self::Assigned(assignment) | Self::Releasing { assignment, .. } => Some(assignment),
            _ => None,
        }
    }

    /// The same, to change.
    pub(super) fn assignment_mut(&mut self) -> Option<&mut Assignment> {
        match self {
            Self::Assigned(assignment) | Self::Releasing { assignment, .. } => Some(assignment),
            _ => None,
        }
    }

    /// The nodes whose room it takes: where it is or was, and where it goes, unless that is where its data is kept.
    pub(super) fn occupies(&self, keeper: Option<NodeId>) -> [Option<NodeId>; 2] {
        match self {
            Self::Unplaced => [None, None],
            Self::Forgetting { node, .. } => [*node, None],
            Self::Storing { node, .. } => [Some(*node), None],
            Self::Assigned(assignment) => [Some(assignment.node), None],
            Self::Releasing { assignment, target, .. } => {
                [Some(assignment.node), target.map(|(node, _)| node).filter(|node| Some(*node) != keeper)]
            }
            Self::Closing { node, target, .. } => [Some(*node), target.filter(|node| Some(*node) != keeper)],
            Self::Settling { source, target, .. } => {
                [Some(*source), Some(*target).filter(|node| Some(*node) != keeper)]
            }
        }
    }

    /// The assignment whose data the nodes are told about: while it is open, and until its data has moved.
    pub(super) fn with_data(&self) -> Option<(NodeId, Epoch)> {
        match self {
            Self::Closing { node, epoch, target: Some(_), .. } | Self::Settling { source: node, epoch, .. } => {
                Some((*node, *epoch))
            }
            _ => self.assignment().map(|assignment| (assignment.node, assignment.epoch)),
        }
    }

    /// What its node is told to do with it.
    pub(super) fn entry(&self, program: ProgramId) -> Option<(NodeId, SetEntry)> {
        let directive = match self {
            Self::Assigned(_) => Directive::Run,
            Self::Releasing { .. } => Directive::Release,
            _ => return None,
        };
        let Assignment { node, epoch, .. } = self.assignment()?;
        Some((*node, SetEntry { program, epoch: *epoch, directive }))
    }

    /// When something has to be looked at again, should nothing happen before.
    pub(super) fn due(&self) -> Option<BootTime> {
        match self {
            Self::Unplaced => None,
            Self::Storing { retry_at, .. } | Self::Closing { retry_at, .. } | Self::Forgetting { retry_at, .. } => {
                *retry_at
            }
            Self::Settling { until, .. } => Some(*until),
            Self::Assigned(assignment) | Self::Releasing { assignment, .. } => Some(assignment.expiry.at()),
        }
    }
}

impl Assignment {
    /// A new one, of which nothing was heard yet.
    pub(super) fn new(node: NodeId, epoch: Epoch, at: DateTime<Utc>, expiry: IssuerExpiry, granted: bool) -> Self {
        let (has_started, was_seen, was_ready) = (granted, false, false);
        let (observed, failing_since, leaving) = (None, None, None);
        Self { node, epoch, at, expiry, granted, has_started, was_seen, was_ready, observed, failing_since, leaving }
    }

    /// Why it should move as soon as another node fits.
    pub(super) fn unwanted(&self) -> Option<Cause> {
        self.leaving.as_ref().map(|leaving| leaving.cause)
    }

    /// From now on it should move for this reason, or stay.
    pub(super) fn leave(&mut self, cause: Option<Cause>, at: DateTime<Utc>) {
        if self.unwanted() != cause {
            self.leaving = cause.map(|cause| Leaving { cause, since: at, copied: None });
        }
    }

    /// Takes in what its node says about it. `since` counts when the state is a new one.
    pub(super) fn observe(&mut self, state: &ReportedState, since: DateTime<Utc>, restarts: u32, at: DateTime<Utc>) {
        let runs = !matches!(state, ReportedState::Preparing | ReportedState::Stopping | ReportedState::Refused(_));
        self.has_started |= runs;
        self.was_seen |= runs;
        self.was_ready |= *state == ReportedState::Ready;
        let before = self.observed.take();
        let same = before.as_ref().filter(|o| std::mem::discriminant(&o.state) == std::mem::discriminant(state));
        let failure = match state {
            ReportedState::Failing(failure) => Some(failure.clone()),
            _ => before.as_ref().and_then(|o| o.failure.clone()),
        };
        let since = same.map_or(since, |o| o.since);
        self.observed = Some(Observed { state: state.clone(), since, at, restarts, failure });
    }

    fn state(&self) -> ProgramState {
        match self.observed.as_ref().map(|observed| &observed.state) {
            None | Some(ReportedState::Refused(_) | ReportedState::Released) => ProgramState::Assigned,
            Some(ReportedState::Preparing) => ProgramState::Preparing,
            Some(ReportedState::Starting) => ProgramState::Starting,
            Some(ReportedState::Ready) => ProgramState::Ready,
            Some(ReportedState::Failing(_)) => ProgramState::Failing,
            Some(ReportedState::Stopping) => ProgramState::Stopping,
        }
    }
}
