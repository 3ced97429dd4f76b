//! The data of a node's programs: the shell of `compute-node/src/programs/data` around the product's records and cores.
//!
//! ```text
//!   grants ─▶ orders ─▶ replicas (replication::core) ══ streams ══▶ another node: receiver ─▶ its pool
//!                │                     ▲ looks, takes, sends
//!   start ───────┴─▶ core::data::plan ─┴─▶ pool: live ◀── writes of the program
//! ```

mod archiving;
mod guest;
mod pool;
mod receiver;
mod replica;
mod restoring;
mod stream;

use std::collections::BTreeMap;
use std::time::Duration;

use compute_node::core::data::{NoPlan, Plan, Seen, is_live, plan};
use compute_node::core::persistent::{Assignment, Event};
use lease::BootTime;
use protocol::data::{DataEntry, DataOrder, DataReport, SnapshotId};
use protocol::{Epoch, ProgramId};
use scheduler::core::data::OnLoss;
use volumes::Evidence;

use super::{AgentRun, Happening, MachineId, World, name, say};

pub(crate) use archiving::{Archiver, ArchiverId};
pub(super) use guest::pace_of_writes;
pub(crate) use pool::{Pool, Trouble, VOLUME_MIB, Volumes};
pub(crate) use receiver::Incoming;
pub(crate) use replica::{Replica, ReplicaId};
pub(crate) use restoring::{RestoreId, Restoring};
pub(crate) use stream::{Stream, StreamId};

/// As in the product.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_secs(60);

/// What an agent knows of data while it runs.
#[derive(Debug, Default)]
pub(crate) struct AgentData {
    orders: BTreeMap<ProgramId, DataEntry>,
    /// What was there at the last look.
    seen: Vec<Seen>,
    live_since: BTreeMap<Assignment, BootTime>,
    replicas: BTreeMap<ProgramId, Replica>,
    incoming: BTreeMap<ProgramId, Incoming>,
    is_due: bool,
    archivers: BTreeMap<ProgramId, Archiver>,
    restoring: BTreeMap<Assignment, Restoring>,
    /// What came from the archive for an assignment.
    restored: BTreeMap<Assignment, SnapshotId>,
}

impl AgentData {
    /// The programs that are archived.
    pub(super) fn archived_programs(&self) -> Vec<ProgramId> {
        self.archivers.keys().copied().collect()
    }

    pub(super) fn is_archiving(&self) -> bool {
        self.archivers.values().any(Archiver::is_sending)
    }

    pub(super) fn is_restoring(&self) -> bool {
        !self.restoring.is_empty()
    }
}

impl World {
    /// What a program's owner wants when its data cannot be reached; `None` when it has none.
    pub(super) fn data_of(&self, program: ProgramId) -> Option<OnLoss> {
        self.message_node.spec(program)?.data
    }

    fn is_full(&self, id: MachineId) -> bool {
        self.machine(id).disk_full_until > self.now
    }

    // Orders and reports.

    /// Keeps house from now on.
    pub(super) fn data_begins(&mut self, run: AgentRun) {
        if self.plan.has_data() {
            self.look(run);
            self.after(HOUSEKEEPING, Happening::KeepsHouse(run));
            self.after(ASK, Happening::AsksWhatIsOver(run));
        }
    }

    /// The scheduler's newest orders, all of them.
    pub(super) fn take_orders(&mut self, run: AgentRun, orders: Vec<DataEntry>) {
        if let Some(agent) = self.agent_mut(run) {
            agent.data.orders = orders.into_iter().map(|order| (order.program, order)).collect();
            self.carry_out_soon(run);
        }
    }

    fn carry_out_soon(&mut self, run: AgentRun) {
        let Some(agent) = self.agent_mut(run) else { return };
        if !std::mem::replace(&mut agent.data.is_due, true) {
            let takes = self.data_chance.millis(1, 30);
            self.after(takes, Happening::CarriesOut(run));
        }
    }

    pub(super) fn keeps_house(&mut self, run: AgentRun) {
        if self.agent_puts_off(run, || Happening::KeepsHouse(run)) {
            return;
        }
        if self.agent(run).is_some() {
            self.carries_out(run);
            self.after(HOUSEKEEPING, Happening::KeepsHouse(run));
        }
    }

    /// Brings replication in line with the orders.
    pub(super) fn carries_out(&mut self, run: AgentRun) {
        if self.agent_puts_off(run, || Happening::CarriesOut(run)) {
            return;
        }
        let Some(agent) = self.agent_mut(run) else { return };
        agent.data.is_due = false;
        let orders: Vec<_> = agent.data.orders.values().cloned().collect();
        // What is held for the archive could not be removed.
        self.keep_archivers(run, |program, epoch| is_live(&orders, program, epoch));
        for DataEntry { program, epoch, order } in &orders {
            let DataOrder::Live { standby, .. } = order else { continue };
            let live = self.machine(run.0).pool.get(*program).and_then(|volumes| volumes.known.live());
            if live.is_some_and(|live| live.epoch == *epoch) {
                self.start_archiver(run, *program, *epoch);
                self.start_replica(run, *program, *epoch);
                self.set_standby(run, *program, standby.as_ref().map(|peer| peer.node));
            }
        }
        self.keep_replicas(run, |program, epoch| is_live(&orders, program, epoch));
        self.look(run);
    }

    /// Looks what there is.
    fn look(&mut self, run @ AgentRun(id, _): AgentRun) {
        let at = self.lease_now(id);
        let pool = &self.machine(id).pool;
        let there = pool.programs.iter().filter(|(_, volumes)| volumes.known.forgotten().is_none());
        let there = there.map(|(program, volumes)| (*program, volumes.known.live().map(|live| live.epoch)));
        let mut seen = Vec::new();
        for (program, live) in there.collect::<Vec<_>>() {
            let copies = self.copies_here(run, program);
            if live.is_some() || !copies.is_empty() {
                seen.push(Seen { program, live, copies, at });
            }
        }
        if let Some(agent) = self.agent_mut(run) {
            agent.data.seen = seen;
        }
    }

    /// What the next heartbeat says.
    pub(super) fn data_reports(&self, run: AgentRun) -> Vec<DataReport> {
        let now = self.lease_now(run.0);
        let Some(agent) = self.agent(run) else { return Vec::new() };
        let live = |program: ProgramId, epoch: Epoch| {
            let replica = agent.data.replicas.get(&program).filter(|replica| replica.epoch() == epoch);
            replica.map(|replica| replica.report(now))
        };
        agent.data.seen.iter().map(|seen| seen.report(now, |epoch| live(seen.program, epoch))).collect()
    }

    /// Asks the message node about programs that it has data of and no orders about. Only a clear answer counts.
    pub(super) fn asks_what_is_over(&mut self, run @ AgentRun(id, _): AgentRun) {
        if self.agent_puts_off(run, || Happening::AsksWhatIsOver(run)) {
            return;
        }
        let Some(agent) = self.agent(run) else { return };
        let there = self.machine(id).pool.programs.keys();
        let programs: Vec<_> = there.map(|program| (*program, agent.data.orders.contains_key(program))).collect();
        self.after(ASK, Happening::AsksWhatIsOver(run));
        if !self.message_node.answers(self.now) || self.message_node.empty_until > self.now || self.is_full(id) {
            return;
        }
        let wall = self.machine(id).clock.wall(self.now);
        for (program, is_ordered) in programs {
            let is_over = !self.message_node.is_in_force(program);
            if !is_over || !is_ordered {
                let evidence = if is_over { Evidence::Over } else { Evidence::InForce };
                self.machine_mut(id).pool.of(program).heed(evidence, wall);
            }
        }
    }

    // Starts and ends.

    /// Why this node does not start the program, as `compute-node/src/agent.rs` asks before it does.
    pub(super) fn refuses(&self, run: AgentRun, assignment: Assignment) -> Option<NoPlan> {
        let Assignment { program, epoch } = assignment;
        let agent = self.agent(run).filter(|_| self.data_of(program).is_some())?;
        let nothing = volumes::Program::default();
        let known = self.machine(run.0).pool.get(program).map_or(&nothing, |volumes| &volumes.known);
        let refusal = plan(known, agent.data.orders.get(&program), epoch).err();
        refusal.filter(|why| *why != NoPlan::NoOrder)
    }

    /// Makes a program's volumes what it shall start with. Returns their folder.
    pub(super) fn open_data(
        &mut self,
        run @ AgentRun(id, _): AgentRun,
        assignment: Assignment,
    ) -> Result<Option<u64>, Trouble> {
        let Assignment { program, epoch } = assignment;
        if self.data_of(program).is_none() {
            return Ok(None);
        }
        let (now, wall, is_full) = (self.lease_now(id), self.machine(id).clock.wall(self.now), self.is_full(id));
        self.goes_on(run, program, epoch);
        let data = self.agent(run).map(|agent| &agent.data);
        let order = data.and_then(|data| data.orders.get(&program)).cloned();
        let restored = data.and_then(|data| data.restored.get(&assignment)).copied();
        let opened = self.machine_mut(id).pool.of(program).open(order.as_ref(), epoch, wall, is_full, restored);
        say!(self, "{id} opens the data of {} under epoch {epoch}: {opened:?}", name(program));
        let (folder, plan) = opened?;
        self.checker.data.opened(id, program, epoch);
        if plan != Plan::GoOn {
            self.checker.data.made(program, epoch);
        }
        if let (Plan::Restore(wanted), Some(restored)) = (plan, restored) {
            self.tally.archive.restored += 1;
            let wanted = wanted.set().map(|wanted| wanted.snapshot);
            let truth = self.archive.truth(program, wanted.unwrap_or(restored));
            self.checker.data.went_back(program, epoch, wanted, truth);
        }
        if let Some(agent) = self.agent_mut(run).filter(|_| plan != Plan::GoOn) {
            agent.data.live_since.insert(assignment, now);
        }
        self.look(run);
        self.carry_out_soon(run);
        Ok(Some(folder))
    }

    /// Nothing of the program runs any more: the rest of what it wrote goes to its standby, if it has one.
    pub(super) fn settle_data(&mut self, run: AgentRun, assignment: Assignment) {
        if self.data_of(assignment.program).is_none() || !self.finish_replica(run, assignment) {
            self.settled(run, assignment);
        }
    }

    pub(super) fn settled(&mut self, run: AgentRun, assignment: Assignment) {
        if self.agent_puts_off(run, || Happening::Settled(run, assignment)) {
            return;
        }
        if self.data_of(assignment.program).is_some() {
            self.look(run);
        }
        self.tell_agent(run, Event::Settled(assignment));
    }

    /// An agent ends, and with it what it sends and takes in.
    pub(super) fn data_ends(&mut self, id: MachineId) {
        let streams: Vec<_> = self.streams.iter().filter(|(_, stream)| stream.touches(id)).map(|(id, _)| *id).collect();
        for stream in streams {
            self.break_stream(stream);
        }
    }
}
