//! The sending side: a shell around the product's [`Core`], as `volumes/src/replication/sender.rs` and `link.rs` have it.

use std::time::Duration;

use compute_node::core::persistent::Assignment;
use lease::BootTime;
use protocol::data::{LiveReport, SnapshotId};
use protocol::{Epoch, NodeId, ProgramId};
use volumes::replication::core::{Command, Core, Event};

use crate::time::Moment;
use crate::writes::WriteId;

use super::stream::StreamId;
use crate::world::sandbox::Body;
use crate::world::{AgentRun, Happening, World, name, say};

/// As in the product.
const SETTLE: Duration = Duration::from_secs(60);
pub(super) const QUICKEST: Duration = Duration::from_millis(100);
pub(super) const SLOWEST: Duration = Duration::from_secs(10);

/// One run of the replication of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplicaId {
    pub(crate) run: AgentRun,
    pub(crate) program: ProgramId,
    /// Never used twice.
    number: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Replica {
    number: u64,
    epoch: Epoch,
    core: Core,
    pub(super) link: Option<Link>,
    has_ended: bool,
    is_settling: bool,
    /// Flushes that were asked for, with what was written last before each.
    asked: u64,
    /// Snapshots that the archive wanted.
    wanted: u64,
    flushes: Vec<(u64, Option<WriteId>)>,
    armed: Option<Moment>,
}

/// The connection to the standby, dialed again and again.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) node: NodeId,
    pub(super) stream: Option<StreamId>,
    pub(super) pause: Duration,
    pub(super) begun: Moment,
    pub(super) confirmed: bool,
}

impl Replica {
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn report(&self, now: BootTime) -> LiveReport {
        let standing = self.core.standing(now);
        let at_risk = standing.at_risk.map(|at_risk| at_risk.as_nanos().div_ceil(1_000_000));
        LiveReport {
            epoch: self.epoch,
            confirmed: standing.confirmed,
            at_risk_ms: at_risk.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(u64::MAX),
            is_final: standing.is_final,
        }
    }

    /// How long ago a snapshot was taken, if this run knows.
    pub(super) fn age(&self, id: SnapshotId, now: BootTime) -> Option<Duration> {
        self.core.taken_at(id).map(|taken| now.since(taken))
    }
}

impl World {
    pub(super) fn replica(&self, id: ReplicaId) -> Option<&Replica> {
        let replica = self.agent(id.run)?.data.replicas.get(&id.program)?;
        Some(replica).filter(|replica| replica.number == id.number)
    }

    pub(super) fn replica_mut(&mut self, id: ReplicaId) -> Option<&mut Replica> {
        let replica = self.agent_mut(id.run)?.data.replicas.get_mut(&id.program)?;
        if replica.number == id.number { Some(replica) } else { None }
    }

    pub(super) fn replica_of(&self, run: AgentRun, program: ProgramId, epoch: Epoch) -> Option<ReplicaId> {
        let replica = self.agent(run)?.data.replicas.get(&program)?;
        (replica.epoch == epoch).then_some(ReplicaId { run, program, number: replica.number })
    }

    /// Sends this program's volumes from now on, if it does not already.
    pub(super) fn start_replica(&mut self, run: AgentRun, program: ProgramId, epoch: Epoch) {
        if self.replica_of(run, program, epoch).is_some() {
            return;
        }
        let (now, wall) = (self.lease_now(run.0), self.machine(run.0).clock.wall(self.now));
        let Some(volumes) = self.machine(run.0).pool.get(program) else { return };
        let taken = |taken: chrono::DateTime<chrono::Utc>| {
            let ago = (wall - taken).to_std().unwrap_or_default();
            (ago.as_nanos() < u128::from(now.as_nanos())).then(|| now - ago)
        };
        let sets: Vec<_> = volumes.known.sets().map(|set| (set.id, taken(set.taken))).collect();
        let pace = self.plan.pace();
        let number = self.fresh_number();
        let Some(agent) = self.agent_mut(run) else { return };
        let since = agent.data.live_since.get(&Assignment { program, epoch }).copied();
        let replica = Replica {
            number,
            epoch,
            core: Core::new(pace, epoch, sets, since),
            link: None,
            has_ended: false,
            is_settling: false,
            asked: 0,
            wanted: 0,
            flushes: Vec::new(),
            armed: None,
        };
        if let Some(before) = agent.data.replicas.insert(program, replica) {
            self.drop_replica(run, program, before);
        }
    }

    /// Names who keeps copies.
    pub(super) fn set_standby(&mut self, run: AgentRun, program: ProgramId, node: Option<NodeId>) {
        let now = self.now;
        let Some(replica) = self.agent_mut(run).and_then(|agent| agent.data.replicas.get_mut(&program)) else { return };
        let id = ReplicaId { run, program, number: replica.number };
        if replica.link.as_ref().map(|link| link.node) != node {
            let new = node.map(|node| Link { node, stream: None, pause: QUICKEST, begun: now, confirmed: false });
            let before = std::mem::replace(&mut replica.link, new);
            if let Some(stream) = before.and_then(|link| link.stream) {
                self.break_stream(stream);
            }
            if node.is_some() {
                self.after(Duration::ZERO, Happening::Dials(id));
            }
        }
        self.step_replica(id, Event::Standby(node));
    }

    /// Stops sending what is not this node's to send any more.
    pub(super) fn keep_replicas(&mut self, run: AgentRun, is_live: impl Fn(ProgramId, Epoch) -> bool) {
        let Some(agent) = self.agent_mut(run) else { return };
        let over: Vec<_> = agent.data.replicas.extract_if(.., |id, replica| !is_live(*id, replica.epoch)).collect();
        for (program, replica) in over {
            self.drop_replica(run, program, replica);
        }
    }

    /// The program is going to write again in this epoch: what was said to be its last word is not.
    pub(super) fn goes_on(&mut self, run: AgentRun, program: ProgramId, epoch: Epoch) {
        let Some(agent) = self.agent_mut(run) else { return };
        let replicas = &mut agent.data.replicas;
        if replicas.get(&program).is_some_and(|replica| replica.epoch == epoch && replica.has_ended)
            && let Some(replica) = replicas.remove(&program)
        {
            self.drop_replica(run, program, replica);
        }
    }

    /// Whoever waits for it to finish waits no longer: its assignment is over, or goes on.
    fn drop_replica(&mut self, run: AgentRun, program: ProgramId, replica: Replica) {
        self.snapshot_for_archive(run, program, u64::MAX, None);
        if let Some(stream) = replica.link.and_then(|link| link.stream) {
            self.break_stream(stream);
        }
        if replica.is_settling {
            let assignment = Assignment { program, epoch: replica.epoch };
            self.after(Duration::ZERO, Happening::Settled(run, assignment));
        }
    }

    /// Brings the rest to the standby. Returns whether that takes a while.
    pub(super) fn finish_replica(&mut self, run: AgentRun, assignment: Assignment) -> bool {
        let Some(id) = self.replica_of(run, assignment.program, assignment.epoch) else { return false };
        let Some(replica) = self.replica_mut(id) else { return false };
        replica.has_ended = true;
        if replica.link.is_none() {
            return false;
        }
        replica.is_settling = true;
        self.after(SETTLE, Happening::SettleEnds(id));
        self.step_replica(id, Event::Ended);
        true
    }

    /// It took too long.
    pub(in crate::world) fn settle_ends(&mut self, id: ReplicaId) {
        if let Some(replica) = self.replica_mut(id)
            && std::mem::replace(&mut replica.is_settling, false)
        {
            let assignment = Assignment { program: id.program, epoch: replica.epoch };
            self.settled(id.run, assignment);
        }
    }

    /// A number for the next snapshot that somebody wants.
    pub(super) fn count_wanted(&mut self, id: ReplicaId) -> u64 {
        let Some(replica) = self.replica_mut(id) else { return 0 };
        replica.wanted += 1;
        replica.wanted
    }

    /// What was written until now shall be on the standby.
    pub(super) fn flush(&mut self, id: ReplicaId, write: Option<WriteId>) {
        let Some(replica) = self.replica_mut(id) else { return };
        replica.asked += 1;
        let number = replica.asked;
        replica.flushes.push((number, write));
        self.step_replica(id, Event::Flush(number));
    }

    pub(in crate::world) fn replica_hears(&mut self, id: ReplicaId, event: Event) {
        if !self.agent_puts_off(id.run, || Happening::ReplicaHears(id, event.clone())) {
            if event == Event::Tick
                && let Some(replica) = self.replica_mut(id)
            {
                replica.armed = None;
            }
            self.step_replica(id, event);
        }
    }

    pub(super) fn step_replica(&mut self, id: ReplicaId, event: Event) {
        let now = self.lease_now(id.run.0);
        let Some(replica) = self.replica_mut(id) else { return };
        for command in replica.core.step(now, event) {
            self.replica_obeys(id, command);
        }
        let Some(replica) = self.replica_mut(id) else { return };
        if replica.is_settling && replica.core.standing(now).is_final {
            replica.is_settling = false;
            let assignment = Assignment { program: id.program, epoch: replica.epoch };
            self.after(Duration::ZERO, Happening::Settled(id.run, assignment));
        }
        self.arm_replica(id);
    }

    fn arm_replica(&mut self, id: ReplicaId) {
        let Some(at) = self.replica(id).and_then(|replica| replica.core.wake_at()) else { return };
        let at = self.moment_of(id.run.0, at).max(self.now);
        let Some(replica) = self.replica_mut(id) else { return };
        if replica.armed.is_none_or(|armed| at < armed) {
            replica.armed = Some(at);
            self.at(at, Happening::ReplicaHears(id, Event::Tick));
        }
    }

    fn replica_obeys(&mut self, id: ReplicaId, command: Command) {
        match command {
            Command::Look(since) => {
                let takes = self.data_chance.millis(1, 40);
                self.after(takes, Happening::LooksAtVolumes(id, since));
            }
            Command::Take(snapshot) => {
                let takes = self.data_chance.millis(2, 150);
                self.after(takes, Happening::TakesSnapshot(id, snapshot));
            }
            Command::Send(snapshot, parent) => self.send_snapshot(id, snapshot, parent),
            Command::Prune(mut keep) => {
                keep.extend(self.held_for_archive(id.run, id.program));
                self.machine_mut(id.run.0).pool.of(id.program).prune(&keep);
            }
            Command::Flushed(number) => self.flushed(id, number),
            Command::NoStandby => {
                if let Some(replica) = self.replica_mut(id) {
                    replica.flushes.clear();
                }
            }
            Command::Taken(number, taken) => self.snapshot_for_archive(id.run, id.program, number, Some(taken)),
            Command::NotTaken(number) => self.snapshot_for_archive(id.run, id.program, number, None),
        }
    }

    fn flushed(&mut self, id: ReplicaId, number: u64) {
        let Some(replica) = self.replica_mut(id) else { return };
        let epoch = replica.epoch;
        let done: Vec<_> = replica.flushes.extract_if(.., |(asked, _)| *asked <= number).collect();
        // Nobody is told who does not run any more.
        let runs = self.machine(id.run.0).sandboxes.values().any(|sandbox| {
            let Assignment { program, epoch: of } = sandbox.assignment;
            (program, of) == (id.program, epoch) && sandbox.body == Body::Occupied
        });
        for (_, write) in done.into_iter().filter(|_| runs) {
            say!(self, "{} {} is told that it is flushed", id.run.0, name(id.program));
            self.tally.flushes += 1;
            self.checker.data.flushed(id.program, write);
        }
    }

    // The jobs of a replica.

    pub(in crate::world) fn looks_at_volumes(&mut self, id: ReplicaId, since: SnapshotId) {
        if self.agent_puts_off(id.run, || Happening::LooksAtVolumes(id, since)) {
            return;
        }
        let looked = self.machine(id.run.0).pool.get(id.program).map(|volumes| volumes.has_changed(since));
        let event = match looked {
            Some(Ok(changed)) => Event::Looked { changed },
            _ => Event::Failed,
        };
        self.step_replica(id, event);
    }

    pub(in crate::world) fn takes_snapshot(&mut self, id: ReplicaId, snapshot: SnapshotId) {
        if self.agent_puts_off(id.run, || Happening::TakesSnapshot(id, snapshot)) {
            return;
        }
        if self.replica(id).is_none() {
            return;
        }
        let (machine, program) = (id.run.0, id.program);
        let (wall, is_full) = (self.machine(machine).clock.wall(self.now), self.is_full(machine));
        let taken = self.machine_mut(machine).pool.of(program).take(snapshot, wall, is_full);
        say!(self, "{machine} takes {snapshot} of {}: {taken:?}", name(program));
        self.tally.snapshots += u64::from(taken.is_ok());
        self.step_replica(id, if taken.is_ok() { Event::Taken } else { Event::Failed });
    }
}
