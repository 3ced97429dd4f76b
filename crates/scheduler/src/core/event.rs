//! What the core is told and what it asks for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lease::BootTime;
use protocol::api::scheduler::{MovePhase, ProgramState};
use protocol::control::{FromScheduler, Heartbeat};
use protocol::history::{Fact, Statement};
use protocol::operation::Operation;
use protocol::{Address, Epoch, NodeId, ProgramId};

pub use super::cause::{Cause, Gone, Proof};
use super::desired::ProgramSpec;
use super::moves::MoveEnd;
use super::restores::AskedRestore;
use super::start::{DataStart, Loss, Writer};

/// One connection of a node. Numbers are never used twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The scheduler starts with what its database holds: the first event beside [`Event::Leads`], and only that.
    Restored(Box<Restored>),
    /// Several schedulers use the database, and this one leads until then. Without this it always does.
    Leads {
        /// When it may grant leases no more, unless it is told a later time before.
        until: BootTime,
    },
    /// A message in force asks for this program.
    ProgramDesired {
        /// The program.
        spec: Arc<ProgramSpec>,
        /// Whether its message can be older than this process.
        origin: Origin,
    },
    /// The message node says that a program's message is not in force any more: positive evidence, never mere absence.
    ProgramGone {
        /// The program.
        program: ProgramId,
        /// What it said.
        evidence: Gone,
    },
    /// The network's list of nodes was read.
    NodesListed(Vec<Registration>),
    /// The message node says that the message that registered a node is not in force any more.
    NodeGone {
        /// The node.
        node: NodeId,
    },
    /// A node proved its key on a new connection, which replaces the one before.
    NodeConnected {
        /// The node.
        node: NodeId,
        /// The connection.
        connection: ConnectionId,
        /// The account that it proved itself with.
        account: Address,
        /// The node's public base URL.
        url: String,
        /// Name and version of its software.
        software: String,
    },
    /// A connection ended. That ends nothing else.
    NodeDisconnected {
        /// The node.
        node: NodeId,
        /// The connection that ended; it may have been replaced already.
        connection: ConnectionId,
    },
    /// A node lives and runs this.
    Heartbeat {
        /// The node.
        node: NodeId,
        /// Where it was received.
        connection: ConnectionId,
        /// What it said.
        heartbeat: Heartbeat,
    },
    /// A node states what only it can know. Its signature was checked.
    Stated(Statement),
    /// [`Write::Assign`] is durable.
    Stored {
        /// The program.
        program: ProgramId,
        /// Where it is assigned: the node that was asked for, or that of an earlier write whose answer was lost.
        node: NodeId,
        /// The epoch that the database gave it.
        epoch: Epoch,
    },
    /// [`Write::Close`] is durable.
    Closed {
        /// The program.
        program: ProgramId,
        /// The epoch that is over.
        epoch: Epoch,
    },
    /// [`Write::Forget`] is durable.
    Forgotten {
        /// The program.
        program: ProgramId,
    },
    /// [`Write::Assign`], [`Write::Close`] or [`Write::Forget`] of this program is not known to be durable.
    StoreFailed {
        /// The program.
        program: ProgramId,
    },
    /// The order of an operator or owner, which is durable.
    Ordered {
        /// What to do.
        operation: Operation,
        /// Who ordered it.
        by: Address,
        /// When it was recorded; no two orders about a program have the same time.
        at: DateTime<Utc>,
    },
    /// Time has passed.
    Tick,
}

/// How the scheduler learned of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a list: its message may be older than this process.
    Listed,
    /// As it was published: nobody can have run it before.
    Published,
}

/// What the database holds when the scheduler starts.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The programs that were desired.
    pub programs: Vec<(Arc<ProgramSpec>, Option<Epoch>)>,
    /// The assignments that were not closed.
    pub assignments: Vec<OpenAssignment>,
    /// The newest closed assignment of each program that may have written.
    pub writers: Vec<Writer>,
    /// The nodes that keep copies of programs' data, and have one.
    pub standbys: Vec<(ProgramId, NodeId)>,
    /// The moves that people ordered and that are not over.
    pub moves: Vec<AskedMove>,
    /// The snapshots that people want programs to go back to, and that is not over.
    pub restores: Vec<AskedRestore>,
    /// The nodes that were known.
    pub nodes: Vec<Registration>,
    /// The nodes that an operator drains, and why.
    pub draining: Vec<(NodeId, String)>,
    /// How long leases of earlier processes can last from now on, as far as the database knows.
    pub earlier_wait: Option<Duration>,
    /// Whether the database knows every assignment that can live. A new one does not: there may have been one before.
    pub is_complete: bool,
}

impl Restored {
    /// All programs that are desired, or were.
    pub fn known(&self) -> BTreeSet<ProgramId> {
        let assigned = self.assignments.iter().map(|assignment| assignment.writer.program);
        self.programs.iter().map(|(spec, _)| spec.id).chain(assigned).collect()
    }

    /// Those of which the database does not say what they are: the message node has to.
    pub fn unread(&self) -> BTreeSet<ProgramId> {
        let read: BTreeSet<_> =
            self.programs.iter().filter(|(spec, _)| !spec.is_unknown()).map(|(spec, _)| spec.id).collect();
        self.known().difference(&read).copied().collect()
    }
}

/// An assignment that was not closed when the scheduler ended.
#[derive(Debug, Clone)]
pub struct OpenAssignment {
    /// What it is.
    pub writer: Writer,
    /// When it was assigned.
    pub at: DateTime<Utc>,
    /// Whether its node stated that it started.
    pub was_seen: bool,
}

/// A move that somebody ordered.
#[derive(Debug, Clone)]
pub struct AskedMove {
    /// The program.
    pub program: ProgramId,
    /// The node that it is to leave.
    pub from: NodeId,
    /// The node that it is to run on; `None` for any other.
    pub to: Option<NodeId>,
    /// Who ordered it.
    pub by: Address,
    /// When it was recorded.
    pub at: DateTime<Utc>,
}

/// A compute node as it was registered.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// The node.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// Who registered it.
    pub owner: Address,
    /// An account that may act for it beside its owner.
    pub manager: Option<Address>,
    /// The URL that it is registered with.
    pub address: String,
    /// The URL that it named when it last connected.
    pub url: Option<String>,
}

/// What the core asks for.
#[derive(Debug, Clone)]
pub enum Command {
    /// Write this. Writes are carried out in their order; their answers may be late, but never overtake each other.
    Store(Write),
    /// Send this to a node, or drop the connection.
    Send {
        /// Where.
        connection: ConnectionId,
        /// What.
        frame: FromScheduler,
    },
    /// Tell people and programs that follow along.
    Notice(Notice),
}

/// A change of the database. [`Write::Assign`], [`Write::Close`] and [`Write::Forget`] are answered by an event each, and
/// there is never more than one of them under way for a program; of the others some are repeated until they are written
/// ([`Write::is_repeated`]), and the rest are caches, whose loss only costs time.
#[derive(Debug, Clone)]
pub enum Write {
    /// Keep what a program is, for a start without the message node.
    Remember(Arc<ProgramSpec>),
    /// Open an assignment under the program's next epoch, in one transaction. When one is open already, an earlier write
    /// whose answer was lost made it: that one is the answer.
    Assign {
        /// The program.
        spec: Arc<ProgramSpec>,
        /// Where.
        node: NodeId,
        /// The lowest epoch to use.
        at_least: Epoch,
        /// What it starts with, if it has data.
        start: Option<Box<DataStart>>,
        /// What that costs, for the signed history.
        loss: Option<Loss>,
        /// When, for people.
        at: DateTime<Utc>,
    },
    /// Close an assignment.
    Close {
        /// The program.
        program: ProgramId,
        /// The epoch that is over.
        epoch: Epoch,
        /// Why.
        cause: Cause,
        /// How that is known.
        proof: Proof,
        /// When, for people.
        at: DateTime<Utc>,
    },
    /// Record in the signed history what is known of an open assignment. It is written before what follows it, however often
    /// the database fails.
    Record {
        /// The program.
        program: ProgramId,
        /// The epoch.
        epoch: Epoch,
        /// The node.
        node: NodeId,
        /// When, for people.
        at: DateTime<Utc>,
        /// What.
        fact: Fact,
    },
    /// Drop a program that is not desired and not assigned, and close what a lost [`Write::Assign`] may have opened.
    Forget {
        /// The program.
        program: ProgramId,
        /// Why.
        cause: Gone,
        /// When, for people.
        at: DateTime<Utc>,
    },
    /// Keep which node has a copy of a program's data. Before it is known, the one before counts.
    Standby {
        /// The program.
        program: ProgramId,
        /// The node.
        node: NodeId,
    },
    /// Drop the order to move a program: it is over. A newer one stays.
    MoveOver {
        /// The program.
        program: ProgramId,
        /// When the order was recorded.
        ordered: DateTime<Utc>,
    },
    /// Drop the order to restore a program: it is over. A newer one stays.
    RestoreOver {
        /// The program.
        program: ProgramId,
        /// When the order was recorded.
        ordered: DateTime<Utc>,
    },
    /// Keep how a node was registered.
    Node(Registration),
    /// Drop a node that is no longer part of the network.
    ForgetNode(NodeId),
    /// Leases of earlier processes have ended: the database is complete, and the leases of this process count alone.
    EarlierLeasesEnded {
        /// How long those can last.
        lease_wait: Duration,
    },
}

impl Write {
    /// Whether it is written again for as long as it fails, before what follows it. Nobody asks for these again: an order
    /// that is over and still there would be carried out after a restart.
    pub fn is_repeated(&self) -> bool {
        matches!(self, Self::Record { .. } | Self::MoveOver { .. } | Self::RestoreOver { .. })
    }

    /// The program whose assignment it changes, which waits for the answer.
    pub fn answers_to(&self) -> Option<ProgramId> {
        match self {
            Self::Assign { spec, .. } => Some(spec.id),
            Self::Close { program, .. } | Self::Forget { program, .. } => Some(*program),
            Self::Remember(_)
            | Self::Record { .. }
            | Self::Standby { .. }
            | Self::MoveOver { .. }
            | Self::RestoreOver { .. }
            | Self::Node(_)
            | Self::ForgetNode(_)
            | Self::EarlierLeasesEnded { .. } => None,
        }
    }
}

/// What people and programs that follow along want to know.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A program has a node.
    Assigned {
        /// The program.
        program: ProgramId,
        /// Its node.
        node: NodeId,
        /// The epoch.
        epoch: Epoch,
        /// The node's base URL.
        url: String,
        /// How long it waited for that; `None` when only the URL is new.
        waited: Option<Duration>,
        /// Whether it ran elsewhere before.
        again: bool,
    },
    /// An assigned program does something else.
    State {
        /// The program.
        program: ProgramId,
        /// The epoch.
        epoch: Epoch,
        /// What it does.
        state: ProgramState,
    },
    /// An assignment ended.
    Ended {
        /// The program.
        program: ProgramId,
        /// The node that had it.
        node: NodeId,
        /// The epoch.
        epoch: Epoch,
        /// Why.
        cause: Cause,
        /// How that is known.
        proof: Proof,
    },
    /// No node fits.
    Unplaceable {
        /// The program.
        program: ProgramId,
        /// Why.
        reason: String,
    },
    /// A node sends heartbeats, for the first time or again.
    NodeHeard {
        /// The node.
        node: NodeId,
    },
    /// A node missed two heartbeats.
    NodeSilent {
        /// The node.
        node: NodeId,
    },
    /// Every lease that a node can have had is over.
    NodeLost {
        /// The node.
        node: NodeId,
    },
    /// A node runs what is not its own, and is told to stop it.
    Stray {
        /// The node.
        node: NodeId,
        /// The program.
        program: ProgramId,
        /// The epoch that it holds.
        epoch: Epoch,
    },
    /// A node has seen a higher epoch than the database: the database is older than what was handed out.
    EpochBehind {
        /// The program.
        program: ProgramId,
        /// The node.
        node: NodeId,
        /// The highest that it has seen.
        highest: Epoch,
    },
    /// Somebody's order is carried out.
    Ordered(Operation),
    /// A move to another node goes on; `None` when none is under way any more.
    Moving {
        /// The program.
        program: ProgramId,
        /// The epoch of its newest assignment.
        epoch: Option<Epoch>,
        /// How far it is, and where it goes, when that is decided.
        phase: Option<(MovePhase, Option<NodeId>)>,
    },
    /// A move ended.
    MoveOver {
        /// The program.
        program: ProgramId,
        /// How.
        end: MoveEnd,
    },
    /// A program goes on with less than it had written.
    DataLost {
        /// The program.
        program: ProgramId,
        /// What is lost.
        loss: Loss,
    },
    /// Reallocation stopped, or goes on.
    Brake {
        /// Why it stopped.
        stopped: Option<String>,
    },
    /// The list of nodes is empty, although nodes are known: it is not believed.
    EmptyNodeList,
}
