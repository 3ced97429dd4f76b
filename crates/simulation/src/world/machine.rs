//! A machine: its power, its clocks, its disk, and what runs on it.
//!
//! ```text
//!        suspended            crashes             lost with everything
//!   On ◀──────────▶ Asleep     On ──▶ Off ──▶ On     On ──▶ Off, disk empty ──▶ On, or never
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use lease::BootTime;
use protocol::control::Capacity;
use protocol::{Epoch, NodeId, ProgramId};

use crate::time::{Clock, Moment};
use crate::trap::Trap;

use super::agent::Agent;
use super::data::Pool;
use super::sandbox::Sandbox;
use super::{AgentRun, Happening, MachineId, Place, Run, SandboxId, World, say};

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) id: MachineId,
    pub(crate) node: NodeId,
    pub(crate) capacity: Capacity,
    pub(crate) clock: Clock,
    pub(crate) is_on: bool,
    /// Until then nothing on it runs, although its clocks go on.
    pub(crate) asleep_until: Moment,
    pub(crate) agent: Option<Agent>,
    /// The newest run of the agent.
    pub(crate) run: Run,
    pub(crate) sandboxes: BTreeMap<SandboxId, Sandbox>,
    /// The volumes on its disk.
    pub(crate) pool: Pool,
    /// Until then no other machine reaches it.
    pub(crate) peers_cut_until: Moment,
    /// The epochs on its disk.
    pub(crate) epochs: BTreeMap<ProgramId, Epoch>,
    /// Until then its disk takes no writes, its sandboxes cannot be made, its fetches fail.
    pub(crate) disk_full_until: Moment,
    pub(crate) faulty_until: Moment,
    pub(crate) fetch_fails_until: Moment,
}

impl Machine {
    pub(crate) fn new(id: MachineId, capacity: Capacity, clock: Clock) -> Self {
        Self {
            id,
            node: NodeId::from_bytes([id.0 + 1; 32]),
            capacity,
            clock,
            is_on: true,
            asleep_until: Moment::ZERO,
            agent: None,
            run: Run(0),
            sandboxes: BTreeMap::new(),
            pool: Pool::default(),
            peers_cut_until: Moment::ZERO,
            epochs: BTreeMap::new(),
            disk_full_until: Moment::ZERO,
            faulty_until: Moment::ZERO,
            fetch_fails_until: Moment::ZERO,
        }
    }

    /// Until when the agent does nothing.
    pub(crate) fn agent_sleeps_until(&self) -> Moment {
        let paused = self.agent.as_ref().map_or(Moment::ZERO, |agent| agent.paused_until);
        paused.max(self.asleep_until)
    }
}

impl World {
    /// The clock that leases are measured with on a machine.
    pub(super) fn lease_now(&self, id: MachineId) -> BootTime {
        let clock = &self.machine(id).clock;
        if self.has_trap(Trap::WallClockLease) {
            return BootTime::from_nanos(u64::try_from(clock.wall_nanos(self.now)).unwrap_or(0));
        }
        clock.boot_time(self.now)
    }

    /// When that clock will show this.
    pub(super) fn moment_of(&self, id: MachineId, time: BootTime) -> Moment {
        if self.has_trap(Trap::WallClockLease) {
            return self.now + self.lease_now(id).until(time);
        }
        self.machine(id).clock.moment_of(time)
    }

    /// The machine stops at once, and all that runs on it. A machine that is lost loses its disk as well.
    pub(super) fn machine_stops(&mut self, id: MachineId, with_disk: bool) {
        say!(self, "{id} goes off{}", if with_disk { ", and its disk is lost" } else { "" });
        let sandboxes: Vec<_> = self.machine(id).sandboxes.keys().copied().collect();
        for sandbox in sandboxes {
            self.body_gone(Place(id, sandbox));
        }
        let machine = self.machine_mut(id);
        machine.is_on = false;
        machine.agent = None;
        machine.run = Run(machine.run.0 + 1);
        machine.sandboxes.clear();
        machine.asleep_until = Moment::ZERO;
        if with_disk {
            machine.epochs.clear();
            machine.pool = Pool::default();
            self.checker.data.disk_lost(id);
        }
        self.data_ends(id);
        // Nobody is there to close connections.
        for wire in self.wires.values_mut().filter(|wire| wire.machine == id) {
            wire.node_is_open = false;
        }
    }

    pub(super) fn machine_boots(&mut self, id: MachineId) {
        let now = self.now;
        let machine = self.machine_mut(id);
        if machine.is_on {
            return;
        }
        machine.is_on = true;
        machine.clock.reboot(now);
        say!(self, "{id} boots");
        let wait = self.chance.millis(100, 2000);
        self.start_agent_in(id, wait);
    }

    /// The agent starts after a while.
    pub(super) fn start_agent_in(&mut self, id: MachineId, wait: Duration) {
        let machine = self.machine_mut(id);
        machine.run = Run(machine.run.0 + 1);
        let run = AgentRun(id, machine.run);
        self.after(wait, Happening::AgentStarts(run));
    }

    pub(super) fn machine_sleeps(&mut self, id: MachineId, how_long: Duration) {
        say!(self, "{id} is suspended for {how_long:?}");
        let until = self.now + how_long;
        let machine = self.machine_mut(id);
        machine.asleep_until = machine.asleep_until.max(until);
    }
}
