//! Connections between nodes and schedulers, and the paths that they take.
//!
//! A connection keeps its order, as TCP does: what a path stalls arrives later, not in between. Different connections
//! overtake each other freely. Each end learns of the other's end by what arrives, or never.

use std::collections::VecDeque;
use std::time::Duration;

use protocol::control::{FromScheduler, Heartbeat};
use scheduler::core::ConnectionId;

use crate::time::Moment;

use super::{AgentRun, Happening, MachineId, Run, SchedulerId, SchedulerRun, World};

/// What a path adds at most when packets that were lost are sent again.
const RETRANSMISSION: Duration = Duration::from_millis(1500);

/// The way between a machine and a scheduler.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Path {
    /// Until then nothing passes to the scheduler.
    pub(crate) up_cut_until: Moment,
    /// Until then nothing passes to the node.
    pub(crate) down_cut_until: Moment,
    /// Until then it is slow, by so much at most.
    pub(crate) slow_until: Moment,
    pub(crate) slow_by: Duration,
}

/// From node to scheduler.
#[derive(Debug)]
pub(crate) enum Up {
    Hello,
    /// With the time when it was sent, for the checker.
    Beat(Box<Heartbeat>, Moment),
    End,
}

/// From scheduler to node.
#[derive(Debug)]
pub(crate) enum Down {
    Welcome,
    Frame(FromScheduler),
    End,
}

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Pipe<T> {
    under_way: VecDeque<T>,
    last: Moment,
}

impl<T> Pipe<T> {
    pub(crate) fn new() -> Self {
        Self { under_way: VecDeque::new(), last: Moment::ZERO }
    }

    /// Puts something in. Returns when it arrives: not before what was put in earlier.
    pub(crate) fn put(&mut self, what: T, at: Moment) -> Moment {
        self.under_way.push_back(what);
        self.last = self.last.max(at);
        self.last
    }

    /// What was put in first.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.under_way.pop_front()
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) machine: MachineId,
    pub(crate) agent: Run,
    pub(crate) scheduler: SchedulerId,
    pub(crate) process: Run,
    /// Whether each end still takes part.
    pub(crate) node_is_open: bool,
    pub(crate) scheduler_is_open: bool,
    up: Pipe<Up>,
    down: Pipe<Down>,
    /// The last heartbeat.
    pub(crate) heard: Moment,
}

impl World {
    /// Opens a connection, with a hello under way.
    pub(super) fn open_wire(&mut self, AgentRun(machine, agent): AgentRun, scheduler: SchedulerId) -> ConnectionId {
        let id = ConnectionId(self.fresh_number());
        let process = self.host(scheduler).run;
        let wire = Wire {
            machine,
            agent,
            scheduler,
            process,
            node_is_open: true,
            scheduler_is_open: true,
            up: Pipe::new(),
            down: Pipe::new(),
            heard: self.now,
        };
        self.wires.insert(id, wire);
        self.send_up(id, Up::Hello);
        id
    }

    pub(super) fn send_up(&mut self, id: ConnectionId, what: Up) {
        let Some(wire) = self.wires.get(&id) else { return };
        let path = self.paths[&(wire.machine, wire.scheduler)];
        let arrives = self.now + self.delay(&path);
        if let Some(wire) = self.wires.get_mut(&id) {
            let arrives = wire.up.put(what, arrives);
            self.at(arrives, Happening::ArrivesUp(id));
        }
    }

    pub(super) fn send_down(&mut self, id: ConnectionId, what: Down) {
        let Some(wire) = self.wires.get(&id) else { return };
        let path = self.paths[&(wire.machine, wire.scheduler)];
        let arrives = self.now + self.delay(&path);
        if let Some(wire) = self.wires.get_mut(&id) {
            let arrives = wire.down.put(what, arrives);
            self.at(arrives, Happening::ArrivesDown(id));
        }
    }

    fn delay(&mut self, path: &Path) -> Duration {
        let usual = self.chance.millis(1, 15);
        if path.slow_until > self.now { usual + self.chance.mostly_short(path.slow_by) } else { usual }
    }

    pub(super) fn arrives_up(&mut self, id: ConnectionId) {
        let Some(wire) = self.wires.get(&id) else { return };
        let path = self.paths[&(wire.machine, wire.scheduler)];
        if path.up_cut_until > self.now {
            let again = path.up_cut_until + self.chance.mostly_short(RETRANSMISSION);
            return self.at(again, Happening::ArrivesUp(id));
        }
        let (host, run) = (self.host(wire.scheduler), SchedulerRun(wire.scheduler, wire.process));
        if host.paused_until > self.now && host.run == run.1 {
            let until = host.paused_until;
            return self.at(until, Happening::ArrivesUp(id));
        }
        let is_there = host.run == run.1 && host.process.is_some();
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let Some(what) = wire.up.under_way.pop_front() else { return };
        if !is_there {
            // The machine of the scheduler says that nobody listens.
            self.close_at_scheduler(id);
        } else if wire.scheduler_is_open {
            self.scheduler_receives(run, id, what);
        }
        self.drop_if_done(id);
    }

    pub(super) fn arrives_down(&mut self, id: ConnectionId) {
        let Some(wire) = self.wires.get(&id) else { return };
        let path = self.paths[&(wire.machine, wire.scheduler)];
        if path.down_cut_until > self.now {
            let again = path.down_cut_until + self.chance.mostly_short(RETRANSMISSION);
            return self.at(again, Happening::ArrivesDown(id));
        }
        let (machine, run) = (self.machine(wire.machine), AgentRun(wire.machine, wire.agent));
        let sleeps = machine.agent_sleeps_until();
        if sleeps > self.now && machine.run == run.1 {
            return self.at(sleeps, Happening::ArrivesDown(id));
        }
        let is_there = machine.run == run.1 && machine.agent.is_some();
        let is_on = machine.is_on;
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let Some(what) = wire.down.under_way.pop_front() else { return };
        if is_there && wire.node_is_open {
            self.agent_receives(run, id, what);
        } else if is_on && !matches!(what, Down::End) {
            self.send_up(id, Up::End);
        }
        self.drop_if_done(id);
    }

    /// The node's end closes, and says so.
    pub(super) fn close_at_node(&mut self, id: ConnectionId) {
        if let Some(wire) = self.wires.get_mut(&id)
            && std::mem::replace(&mut wire.node_is_open, false)
        {
            self.send_up(id, Up::End);
        }
    }

    /// The scheduler's end closes, and says so.
    pub(super) fn close_at_scheduler(&mut self, id: ConnectionId) {
        if let Some(wire) = self.wires.get_mut(&id)
            && std::mem::replace(&mut wire.scheduler_is_open, false)
        {
            self.send_down(id, Down::End);
        }
    }

    /// Something in between breaks the connection: what is under way is lost, and both ends notice.
    pub(super) fn break_wire(&mut self, id: ConnectionId) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let lost = wire.up.under_way.len() + wire.down.under_way.len();
        wire.up.under_way.clear();
        wire.down.under_way.clear();
        self.tally.messages_lost += lost as u64;
        self.send_up(id, Up::End);
        self.send_down(id, Down::End);
    }

    fn drop_if_done(&mut self, id: ConnectionId) {
        let is_done = |wire: &Wire| !wire.node_is_open && !wire.scheduler_is_open;
        if self.wires.get(&id).is_some_and(is_done) {
            self.wires.remove(&id);
        }
    }
}
