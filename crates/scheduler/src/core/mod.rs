//! The decisions: events and time in, commands out. No I/O, no clock, no randomness, so that the same events give the same
//! commands, here and in a simulator.
//!
//! What it keeps, and where to read on:
//! * [`desired`]: what shall run.
//! * `nodes`: what the compute nodes are and whether they are heard of; `membership`: how they come and go.
//! * `assignment`: the life of a program's assignments, with its diagram; `programs`: what moves it.
//! * `operations`: what operators order.
//! * [`placement`]: which node fits best; `waiting`: who waits for one.
//! * [`data`]: where the data of a program is, so where it may start; `copies`: who keeps copies of it.
//! * `moves`: planned moves, which people order or which empty a node; `restores`: snapshots that people go back to.
//! * `grants`: what a node is told to run; `heartbeat`: what it reports, and the leases that the answer renews.
//! * [`brake`]: what keeps it from moving everything at once.
//! * [`leadership`]: which of several schedulers decides.
//! * `timers`: when to look again. [`view`]: what people see.
//!
//! Three things keep a program from running twice (invariant I1). The epoch comes from the database, where one transaction
//! counts it up and opens the assignment, and only its answer brings the program into a node's set. An assignment ends only
//! with a [`Proof`]. And a lease is counted from when its grant was computed, which is after the heartbeat was sent that it
//! answers: so it ends here after it ended at the holder.

mod assignment;
pub mod brake;
mod cause;
mod copies;
pub mod data;
pub mod desired;
mod event;
mod grants;
mod heartbeat;
pub mod leadership;
mod membership;
pub mod moves;
mod nodes;
mod operations;
pub mod placement;
mod programs;
pub mod restores;
mod start;
#[cfg(test)]
pub(crate) mod tests;
mod timers;
mod turn;
pub mod view;
mod waiting;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lease::{BootTime, LeaseTimes};
use protocol::control::FromScheduler;
use protocol::{NodeId, ProgramId};

pub use desired::ProgramSpec;
pub use event::{
    AskedMove, Cause, Command, ConnectionId, Event, Gone, Notice, OpenAssignment, Origin, Proof, Registration,
    Restored, Write,
};
pub use start::{DataStart, Loss, Writer};

use assignment::{Program, Stage};
use brake::{Brake, BrakePolicy};
use grants::{AssignedSet, Versions};
use nodes::Node;
use timers::{Timer, Timers};
use turn::Turn;
use view::Changes;
use waiting::Waiting;

/// A node that restarts or loses power for a moment is back by then, with everything that was written.
pub const RESTORE_AFTER: Duration = Duration::from_secs(60);

/// The waits that are no part of a lease.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How long a node may fail a program before the program moves.
    pub fault_threshold: Duration,
    /// How long a node that refused or failed a program is left alone by it; doubles each time.
    pub avoid: Duration,
    /// The longest that a node is left alone.
    pub avoid_most: Duration,
    /// How soon a failed write is tried again; doubles each time.
    pub retry: Duration,
    /// The longest wait before a write is tried again.
    pub retry_most: Duration,
    /// How long a program waits for its data, from the end of its assignment on, before it goes on with what the archive has.
    pub restore_after: Duration,
    /// When not to move programs.
    pub brake: BrakePolicy,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            fault_threshold: Duration::from_secs(30),
            avoid: Duration::from_secs(10),
            avoid_most: Duration::from_secs(300),
            retry: Duration::from_millis(100),
            retry_most: Duration::from_secs(10),
            restore_after: RESTORE_AFTER,
            brake: BrakePolicy::default(),
        }
    }
}

/// The scheduler's decisions; see the module.
#[derive(Debug)]
pub struct Scheduler {
    times: LeaseTimes,
    policy: Policy,
    programs: BTreeMap<ProgramId, Program>,
    nodes: BTreeMap<NodeId, Node>,
    waiting: Waiting,
    brake: Brake,
    timers: Timers,
    versions: Versions,
    changes: Changes,
    /// Where programs wrote last that are not desired any more, should they be again.
    past_writers: BTreeMap<ProgramId, Writer>,
    /// The time of the last event.
    now: BootTime,
    /// Whether the database knew every assignment that could live when this process started.
    is_complete: bool,
    /// Until then this scheduler leads, and may grant leases; always, if there is no other.
    leads_until: Option<BootTime>,
    /// Until then, leases of earlier processes may live.
    earlier_leases_until: Option<BootTime>,
}

impl Scheduler {
    /// A scheduler that knows nothing yet; its first event is [`Event::Restored`]. `process` names this run of it: no two
    /// runs may share the name.
    pub fn new(times: LeaseTimes, policy: Policy, process: String) -> Self {
        Self {
            times,
            policy,
            programs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            waiting: Waiting::default(),
            brake: Brake::new(policy.brake),
            timers: Timers::default(),
            versions: Versions::new(process),
            changes: Changes::default(),
            past_writers: BTreeMap::new(),
            now: BootTime::BOOT,
            is_complete: false,
            leads_until: None,
            earlier_leases_until: None,
        }
    }

    /// Takes in an event. `now` never goes back; `wall` is for people only.
    pub fn handle(&mut self, now: BootTime, wall: DateTime<Utc>, event: Event) -> Vec<Command> {
        let mut turn = Turn::new(now, wall);
        self.now = now;
        self.take_in(&mut turn, event);
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Program(program) => self.look_at_program(&mut turn, program),
                Timer::Node(node) => self.look_at_node(&mut turn, node),
                Timer::Brake => self.waiting.retry_all(),
                Timer::EarlierLeases => {
                    let lease_wait = self.times.longest_wait();
                    turn.command(Command::Store(Write::EarlierLeasesEnded { lease_wait }));
                }
            }
        }
        self.place(&mut turn);
        self.poke(&mut turn);
        turn.into_commands()
    }

    /// When [`Event::Tick`] is due, should nothing happen before.
    pub fn next_wakeup(&self) -> Option<BootTime> {
        self.timers.next()
    }

    fn take_in(&mut self, turn: &mut Turn, event: Event) {
        match event {
            Event::Leads { until } => self.leads_until = Some(until),
            Event::Restored(restored) => self.restore(turn, *restored),
            Event::ProgramDesired { spec, origin } => self.desire(turn, spec, origin),
            Event::ProgramGone { program, evidence } => self.program_gone(turn, program, evidence),
            Event::NodesListed(list) => self.nodes_listed(turn, &list),
            Event::NodeGone { node } => self.node_gone(turn, node),
            Event::NodeConnected { node, connection, account, url, software } => {
                self.node_connected(turn, node, connection, account, url, &software);
            }
            Event::NodeDisconnected { node, connection } => self.node_disconnected(turn, node, connection),
            Event::Heartbeat { node, connection, heartbeat } => self.heartbeat(turn, node, connection, &heartbeat),
            Event::Stated(statement) => self.stated(turn, statement),
            Event::Stored { program, node, epoch } => self.stored(turn, program, node, epoch),
            Event::Closed { program, epoch } => self.closed(turn, program, epoch),
            Event::Forgotten { program } => self.forgotten(turn, program),
            Event::StoreFailed { program } => self.store_failed(turn, program),
            Event::Ordered { operation, by, at } => self.ordered(turn, operation, by, at),
            Event::Tick => {}
        }
    }

    /// The one place where a program's stage changes: the room on nodes, the nodes' sets, the queues, the timers and what
    /// people see follow from it.
    fn transition(&mut self, turn: &mut Turn, id: ProgramId, stage: Stage) {
        let Some(program) = self.programs.get_mut(&id) else { return };
        // What is kept for it there already is not taken twice.
        let keeper = program.data.as_ref().and_then(|data| data.keeper());
        let (was, is) = (program.stage.occupies(keeper), stage.occupies(keeper));
        let (old_entry, new_entry) = (program.stage.entry(id), stage.entry(id));
        program.stage = stage;
        let needs = program.spec.needs;

        for node in was.into_iter().flatten() {
            self.node(turn, node).vacate(needs);
            self.waiting.improve(node);
        }
        for node in is.into_iter().flatten() {
            self.node(turn, node).occupy(needs);
        }
        self.changes.nodes.extend(was.into_iter().chain(is).flatten());

        if old_entry != new_entry {
            let kept = new_entry.as_ref().map(|(node, _)| *node);
            if let Some((node, _)) = old_entry.filter(|(node, _)| Some(*node) != kept) {
                self.change_set(turn, node, |set, versions| set.remove(id, versions));
            }
            if let Some((node, entry)) = new_entry {
                self.change_set(turn, node, |set, versions| set.put(entry, versions));
            }
        }
        self.settle(turn, id);
        self.sync_data(turn, id);
        self.changes.is_loud = true;
        for node in was.into_iter().flatten() {
            self.drop_if_unused(turn, node);
        }
    }

    /// Brings the queues, the timer and what people see up to date with a program.
    fn settle(&mut self, turn: &mut Turn, id: ProgramId) {
        let Some(program) = self.programs.get(&id) else { return };
        self.waiting.enlist(program);
        if let Some(due) = program.due(turn.now, &self.policy) {
            self.timers.arm(Timer::Program(id), due);
        }
        self.show(turn, id);
    }

    /// The node, which is made when nothing but its id is known yet.
    fn node(&mut self, turn: &Turn, id: NodeId) -> &mut Node {
        self.nodes.entry(id).or_insert_with(|| {
            let node = Node::new(id, AssignedSet::new(&mut self.versions), turn.now, turn.wall);
            if let Some(due) = node.due(&self.times) {
                self.timers.arm(Timer::Node(id), due);
            }
            node
        })
    }

    fn change_set(&mut self, turn: &mut Turn, id: NodeId, change: impl FnOnce(&mut AssignedSet, &mut Versions)) {
        if let Some(node) = self.nodes.get_mut(&id) {
            change(&mut node.set, &mut self.versions);
            turn.pokes.insert(id);
        }
    }

    /// Asks the nodes whose sets changed for a heartbeat; the answer brings the set.
    fn poke(&self, turn: &mut Turn) {
        for node in std::mem::take(&mut turn.pokes) {
            if let Some(connection) = self.nodes.get(&node).and_then(|node| node.connection) {
                turn.command(Command::Send { connection, frame: FromScheduler::Poke });
            }
        }
    }
}
