//! What there is. Everything that a state holds is a small number, so that states which mean the same are the same: times
//! are ticks of the true time, from which [`super::clocks`] makes what a machine's clock shows.

use std::collections::BTreeSet;

/// A moment of the true time, which nobody in the model can read.
pub(crate) type Tick = u8;
/// A program's epoch.
pub(crate) type Number = u64;
/// A leader's epoch, which also names its term, its process and the connections that nodes have to it.
pub(crate) type TermId = i64;

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) now: Tick,
    pub(crate) store: Store,
    pub(crate) schedulers: Vec<Scheduler>,
    /// In an order that only depends on what they are: nodes are interchangeable, and so are states that differ in their names.
    pub(crate) nodes: Vec<Node>,
    /// What may happen so many times more.
    pub(crate) left: Left,
    /// What a shell that sees everything at once has seen happen that must not.
    pub(crate) broken: Option<Broken>,
}

/// What is bounded because nothing new would come of more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) agent_deaths: u8,
    pub(crate) releases: u8,
    pub(crate) resignations: u8,
    pub(crate) lost_answers: u8,
}

/// What must not happen and cannot be seen in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Broken {
    /// An assignment was given an epoch that is not above all before.
    EpochUsedAgain,
    /// A scheduler wrote whose leader epoch is not the row's.
    DeposedWrote,
}

/// The database; every action on it is one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) leader: Option<Row>,
    /// The epoch that was given last.
    pub(crate) last_epoch: Number,
    /// The assignment that is not closed.
    pub(crate) open: Option<(usize, Number)>,
    /// How it is known that the last assignment ended which did.
    pub(crate) last_end: Option<End>,
}

/// The row that names the leader; see `scheduler::core::leadership::LeaderRow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) epoch: TermId,
    /// When the database took the last beat: like the real one it grows, and two of one tick need not be told apart.
    pub(crate) beat: Tick,
    pub(crate) has_resigned: bool,
}

/// See `scheduler::core::Proof`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum End {
    Released,
    LeaseOver,
    NeverGranted,
}

/// A scheduler's process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Scheduler {
    Following {
        /// The row that it saw last, and when it saw it first.
        seen: Option<(Row, Tick)>,
        /// It takes this row for that of a leader that is gone, since a look that began then.
        claims: Option<(Option<Row>, Tick)>,
    },
    Leading(Term),
}

/// A scheduler's time as the leader, which lasts in its own view until it learns that it is over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Term {
    pub(crate) id: TermId,
    /// When the last beat was sent that the database took.
    pub(crate) beaten: Tick,
    pub(crate) stage: Stage,
}

/// See `scheduler::core::assignment`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Unplaced,
    Storing { node: usize },
    Assigned(Assignment),
    Releasing(Assignment),
    Closing { node: usize, epoch: Number, end: End },
}

/// A node's right to run the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Assignment {
    pub(crate) node: usize,
    pub(crate) epoch: Number,
    /// When a grant renewed it last; `None` when its lease is over, however long ago that was.
    pub(crate) answered: Option<Tick>,
    pub(crate) granted: bool,
}

/// A compute node: agent, supervisor, and what is on its way from and to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct Node {
    pub(crate) is_agent_dead: bool,
    /// The heartbeats that it sent in this tick.
    pub(crate) beats: u8,
    /// The leader that it is connected to.
    pub(crate) term: Option<TermId>,
    /// The leader whose order to release is in the set that it applied last. In one term no order comes twice, so that this
    /// and the entry name the version of the set.
    pub(crate) applied: Option<TermId>,
    /// The highest epoch that it ever saw; durable.
    pub(crate) highest: Number,
    pub(crate) entry: Option<Entry>,
    /// When the heartbeat was sent from which the lease counts of an entry that has no sandbox yet; `None` when it is over.
    pub(crate) lease: Option<Tick>,
    pub(crate) sandbox: Option<Sandbox>,
    /// The network: what was sent stays until nobody would take it any more, and may arrive whenever it likes, or never.
    pub(crate) up: BTreeSet<Heartbeat>,
    pub(crate) down: BTreeSet<Grant>,
}

/// A supervisor with its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Sandbox {
    pub(crate) epoch: Number,
    /// When the heartbeat was sent from which its own deadline counts, and which leader's answer said so.
    pub(crate) lease: Tick,
    pub(crate) by: TermId,
    pub(crate) stops: bool,
}

/// What a node is to do about the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) epoch: Number,
    pub(crate) directive: Directive,
}

/// See `protocol::control::Directive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Directive {
    Run,
    Release,
}

/// A heartbeat's number: of those that a node sends, later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Sequence {
    pub(crate) sent: Tick,
    pub(crate) nth: u8,
}

/// What a node sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Heartbeat {
    pub(crate) term: TermId,
    pub(crate) sequence: Sequence,
    pub(crate) applied: Option<TermId>,
    /// Nothing of this epoch runs any more, as it was told.
    pub(crate) released: Option<Number>,
}

/// What a scheduler answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Grant {
    pub(crate) term: TermId,
    /// The heartbeat that it answers.
    pub(crate) sequence: Sequence,
    pub(crate) set: Option<Entry>,
}

impl Term {
    /// What its grants tell this node to do.
    pub(crate) fn set_of(&self, node: usize) -> Option<Entry> {
        let (assignment, directive) = match self.stage {
            Stage::Assigned(assignment) => (assignment, Directive::Run),
            Stage::Releasing(assignment) => (assignment, Directive::Release),
            _ => return None,
        };
        (assignment.node == node).then_some(Entry { epoch: assignment.epoch, directive })
    }
}

impl Stage {
    /// The assignment that is open and may run.
    pub(crate) fn assignment(&mut self) -> Option<&mut Assignment> {
        match self {
            Self::Assigned(assignment) | Self::Releasing(assignment) => Some(assignment),
            _ => None,
        }
    }

    /// The node that it is about.
    pub(crate) fn node(&mut self) -> Option<&mut usize> {
        match self {
            Self::Unplaced => None,
            Self::Storing { node } | Self::Closing { node, .. } => Some(node),
            Self::Assigned(assignment) | Self::Releasing(assignment) => Some(&mut assignment.node),
        }
    }
}

impl State {
    /// The same state with its nodes in order.
    pub(crate) fn in_order(mut self) -> Self {
        let signature = |index: usize| {
            let mut about = [false; 3];
            about[0] = self.store.open.is_some_and(|(node, _)| node == index);
            for (about, scheduler) in about[1..].iter_mut().zip(&self.schedulers) {
                let Scheduler::Leading(term) = scheduler else { continue };
                *about = { term.stage }.node().is_some_and(|node| *node == index);
            }
            about
        };
        let mut order: Vec<_> = (0..self.nodes.len()).map(|index| (signature(index), index)).collect();
        order.sort_by(|(a, i), (b, j)| (a, &self.nodes[*i]).cmp(&(b, &self.nodes[*j])));
        if order.iter().enumerate().all(|(place, (_, index))| place == *index) {
            return self;
        }
        let place = |index: usize| order.iter().position(|(_, i)| *i == index).expect("every node has a place");
        if let Some((node, _)) = &mut self.store.open {
            *node = place(*node);
        }
        for scheduler in &mut self.schedulers {
            if let Scheduler::Leading(term) = scheduler
                && let Some(node) = term.stage.node()
            {
                *node = place(*node);
            }
        }
        self.nodes = order.iter().map(|(_, index)| std::mem::take(&mut self.nodes[*index])).collect();
        self
    }
}
