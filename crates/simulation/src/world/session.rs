//! An agent's connection to the scheduler that leads, as `compute-node/src/control.rs` keeps it.
//!
//! ```text
//!   Dialing: all schedulers at once ──the first that welcomes──▶ Open ──silent, ended──▶ Dialing
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use compute_node::core::persistent::Event;
use lease::{BootTime, LeaseConfig, LeaseTimes};
use protocol::control::{FromScheduler, Grant, Heartbeat};
use scheduler::core::ConnectionId;

use crate::time::Moment;
use crate::trap::Trap;

use super::wire::{Down, Up};
use super::{AgentRun, Happening, SchedulerId, World, say};

/// As in the product.
const HANDSHAKE: Duration = Duration::from_secs(5);
const QUICKEST: Duration = Duration::from_millis(100);
const SLOWEST: Duration = Duration::from_millis(500);
const REMEMBERED: usize = 64;

#[derive(Debug)]
pub(super) enum Session {
    /// Schedulers that were dialed, by the connection; those that are not in it are dialed after a pause.
    Dialing { wires: BTreeMap<ConnectionId, SchedulerId>, pause: Duration },
    Open {
        wire: ConnectionId,
        sequence: u64,
        sent: VecDeque<(u64, BootTime)>,
        /// The newest grant that came.
        heard: Option<u64>,
        answered: Moment,
    },
}

impl Default for Session {
    fn default() -> Self {
        Self::Dialing { wires: BTreeMap::new(), pause: QUICKEST }
    }
}

impl Session {
    pub(super) fn wires(&self) -> Vec<ConnectionId> {
        match self {
            Self::Dialing { wires, .. } => wires.keys().copied().collect(),
            Self::Open { wire, .. } => vec![*wire],
        }
    }

    fn has(&self, wire: ConnectionId) -> bool {
        match self {
            Self::Dialing { wires, .. } => wires.contains_key(&wire),
            Self::Open { wire: open, .. } => *open == wire,
        }
    }
}

impl World {
    /// Dials every scheduler that it does not dial already.
    pub(super) fn agent_dials(&mut self, run: AgentRun) {
        if self.agent_puts_off(run, || Happening::AgentDials(run)) {
            return;
        }
        for scheduler in (0..self.schedulers.len()).filter_map(|n| u8::try_from(n).ok().map(SchedulerId)) {
            let Some(Session::Dialing { wires, .. }) = self.agent(run).map(|agent| &agent.session) else { return };
            if wires.values().any(|dialed| *dialed == scheduler) {
                continue;
            }
            let wire = self.open_wire(run, scheduler);
            if let Some(Session::Dialing { wires, .. }) = self.agent_mut(run).map(|agent| &mut agent.session) {
                wires.insert(wire, scheduler);
            }
            self.after(HANDSHAKE, Happening::HandshakeEnds(run, wire));
        }
    }

    pub(super) fn handshake_ends(&mut self, run: AgentRun, wire: ConnectionId) {
        if self.agent_puts_off(run, || Happening::HandshakeEnds(run, wire)) {
            return;
        }
        let session = self.agent(run).map(|agent| &agent.session);
        if matches!(session, Some(Session::Dialing { wires, .. }) if wires.contains_key(&wire)) {
            self.wire_ends(run, wire);
        }
    }

    /// One connection is over; its scheduler is dialed again after a pause, if no other welcomes first.
    fn wire_ends(&mut self, run: AgentRun, wire: ConnectionId) {
        self.close_at_node(wire);
        let Some(agent) = self.agent_mut(run) else { return };
        let pause = match &mut agent.session {
            Session::Dialing { wires, pause } => {
                wires.remove(&wire);
                std::mem::replace(pause, (*pause * 2).min(SLOWEST))
            }
            session @ Session::Open { .. } => {
                *session = Session::default();
                say!(self, "{} has no connection", run.0);
                QUICKEST
            }
        };
        self.after(pause, Happening::AgentDials(run));
    }

    fn welcomed(&mut self, run: AgentRun, wire: ConnectionId) {
        let now = self.now;
        let Some(agent) = self.agent_mut(run) else { return };
        let open = Session::Open { wire, sequence: 0, sent: VecDeque::new(), heard: None, answered: now };
        for other in std::mem::replace(&mut agent.session, open).wires() {
            if other != wire {
                self.close_at_node(other);
            }
        }
        say!(self, "{} is connected", run.0);
        self.after(self.times.patience(), Happening::PatienceEnds(run, wire));
        self.beats(run, wire);
    }

    pub(super) fn agent_receives(&mut self, run: AgentRun, wire: ConnectionId, what: Down) {
        if !self.agent(run).is_some_and(|agent| agent.session.has(wire)) {
            return;
        }
        match what {
            Down::Welcome => self.welcomed(run, wire),
            Down::Frame(FromScheduler::Grant(grant)) => self.granted(run, wire, grant),
            Down::Frame(FromScheduler::Poke) => self.heartbeat(run),
            Down::Frame(_) => {}
            Down::End => self.wire_ends(run, wire),
        }
    }

    /// No answer came for as long as a node waits, unless one did.
    pub(super) fn patience_ends(&mut self, run: AgentRun, wire: ConnectionId) {
        if self.agent_puts_off(run, || Happening::PatienceEnds(run, wire)) {
            return;
        }
        let Some(Session::Open { wire: open, answered, .. }) = self.agent(run).map(|agent| &agent.session) else {
            return;
        };
        if *open == wire && self.now.since(*answered) >= self.times.patience() {
            self.wire_ends(run, wire);
        }
    }

    /// The heartbeat's clock ticks.
    pub(super) fn beats(&mut self, run: AgentRun, wire: ConnectionId) {
        if self.agent_puts_off(run, || Happening::Beats(run, wire)) {
            return;
        }
        let session = self.agent(run).map(|agent| &agent.session);
        if matches!(session, Some(Session::Open { wire: open, .. }) if *open == wire) {
            self.heartbeat(run);
            self.after(self.times.heartbeat(), Happening::Beats(run, wire));
        }
    }

    pub(super) fn heartbeat(&mut self, run: AgentRun) {
        let now = self.lease_now(run.0);
        let capacity = self.machine(run.0).capacity.clone();
        let data = self.data_reports(run);
        let Some(agent) = self.agent_mut(run) else { return };
        let (applied, programs) = (agent.core.applied().cloned(), agent.core.reports(now));
        let Session::Open { wire, sequence, sent, heard, .. } = &mut agent.session else { return };
        *sequence += 1;
        sent.push_back((*sequence, now));
        if sent.len() > REMEMBERED {
            sent.pop_front();
        }
        let heartbeat =
            Heartbeat { sequence: *sequence, capacity, applied, programs, draining: None, data, heard: *heard };
        let wire = *wire;
        self.send_up(wire, Up::Beat(Box::new(heartbeat), self.now));
    }

    fn granted(&mut self, run: AgentRun, wire: ConnectionId, mut grant: Grant) {
        let (now, lease_now) = (self.now, self.lease_now(run.0));
        let Some(agent) = self.agent_mut(run) else { return };
        let Session::Open { answered, heard, .. } = &mut agent.session else { return };
        (*answered, *heard) = (now, Some(grant.sequence));
        self.after(self.times.patience(), Happening::PatienceEnds(run, wire));
        let Some(agent) = self.agent_mut(run) else { return };
        let Session::Open { sent, .. } = &agent.session else { return };
        let Some(sent) = sent.iter().find(|(number, _)| *number == grant.sequence).map(|(_, at)| *at) else { return };
        let lease = Duration::from_millis(grant.lease_ms);
        let config = LeaseConfig { lease, heartbeat: lease / 5, ..LeaseConfig::default() };
        let Ok(times) = LeaseTimes::new(config) else { return };
        let sent = match self.trap {
            Some(Trap::CountFromArrival) => lease_now,
            Some(Trap::IssuerConstantAtHolder) => {
                sent + times.longest_wait().saturating_sub(sent.until(times.holder(sent).fuse))
            }
            _ => sent,
        };
        if grant.entries.is_some() {
            let orders = std::mem::take(&mut grant.data);
            self.take_orders(run, orders);
        }
        self.tell_agent(run, Event::Granted { sent, times, grant });
    }
}
