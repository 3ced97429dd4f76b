//! The receiving side, as `volumes/src/replication/receiver.rs` and `arriving.rs` have it: the same questions to the same
//! records, in the same order.

use std::time::Duration;

use chrono::{DateTime, Utc};
use compute_node::core::data::sender;
use lease::BootTime;
use protocol::ProgramId;
use protocol::data::{MAX_EARLIER_COPIES, SnapshotId};
use volumes::{Refusal, SnapshotSet};

use crate::trap::Trap;
use crate::writes::Content;

use super::stream::{PIECES, Partial, StreamId, ToPrimary, ToStandby};
use crate::world::{AgentRun, Happening, World, name, say};

/// As in the product.
const KEEP_CUT: Duration = Duration::from_secs(60);

/// The copy of one program, as the agent's process knows it.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    current: Option<StreamId>,
    arriving: Option<Arriving>,
    newest: Option<Newest>,
}

/// How old a snapshot was at some time, at most.
#[derive(Debug, Clone, Copy)]
struct Newest {
    id: SnapshotId,
    at: BootTime,
    age: Duration,
}

/// A snapshot that is coming in. It outlives its connection for a while.
#[derive(Debug, Clone, Copy)]
struct Arriving {
    snapshot: SnapshotId,
    parent: Option<SnapshotId>,
    taken: DateTime<Utc>,
    pieces: u8,
    ready: BootTime,
    taken_ago: Option<Duration>,
    cut: Option<BootTime>,
}

impl World {
    fn incoming(&mut self, run: AgentRun, program: ProgramId) -> Option<&mut Incoming> {
        Some(self.agent_mut(run)?.data.incoming.entry(program).or_default())
    }

    /// The newest complete snapshots of a program here, and how old they are. After a restart of the agent, and of all but the
    /// newest, only the clock on the wall tells.
    pub(super) fn copies_here(&mut self, run: AgentRun, program: ProgramId) -> Vec<(SnapshotId, Duration)> {
        let (now, wall) = (self.lease_now(run.0), self.machine(run.0).clock.wall(self.now));
        let sets = self.machine(run.0).pool.get(program).into_iter().flat_map(|volumes| volumes.known.sets());
        let age = |set: &SnapshotSet| (set.id, (wall - set.taken).to_std().unwrap_or_default());
        let mut copies: Vec<_> = sets.map(age).collect();
        copies.reverse();
        copies.truncate(1 + MAX_EARLIER_COPIES);
        let known = self.agent(run).and_then(|agent| agent.data.incoming.get(&program)?.newest);
        let is_known = |id: SnapshotId| known.is_some_and(|newest| newest.id == id);
        for (id, _) in copies.iter().filter(|(id, _)| !is_known(*id)) {
            self.checker.data.dated_by_wall(program, *id);
        }
        if let (Some(newest), Some(first)) = (known, copies.first_mut().filter(|(id, _)| is_known(*id))) {
            first.1 = now.since(newest.at) + newest.age;
        }
        copies
    }

    pub(super) fn standby_receives(&mut self, id: StreamId, what: ToStandby) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (run, program, epoch) = (stream.to, stream.from.program, stream.epoch);
        if matches!(what, ToStandby::Open | ToStandby::Begin { .. }) && !self.may_send_copies(id) {
            say!(self, "{} takes nothing of {} under epoch {epoch}", run.0, name(program));
            return self.break_stream(id);
        }
        let answer = match what {
            ToStandby::Open => self.copies_open(id),
            _ if !self.streams.get(&id).is_some_and(|stream| stream.is_open) => return,
            ToStandby::Begin { snapshot, parent, taken, resume } => {
                Some(self.copy_begins(id, snapshot, parent, taken, resume))
            }
            _ if self.streams.get(&id).is_some_and(|stream| stream.has_failed) => None,
            ToStandby::Age(age) => {
                let arriving = self.incoming(run, program).and_then(|incoming| incoming.arriving.as_mut());
                if let Some(arriving) = arriving {
                    arriving.taken_ago = Some(age);
                }
                None
            }
            ToStandby::Piece => self.piece_arrives(id),
            ToStandby::End { whole, parent, is_right } => self.copy_ends(id, whole, parent, is_right),
        };
        if let Some(answer) = answer {
            self.stream_down(id, answer);
        }
        let highest = self.machine_mut(run.0).pool.of(program).known.highest();
        if epoch < highest && !self.has_trap(Trap::StandbyIgnoresEpochs) {
            self.break_stream(id);
        }
    }

    /// Whether the scheduler said that this node sends this program in this epoch, and it is not over.
    fn may_send_copies(&self, id: StreamId) -> bool {
        let Some(stream) = self.streams.get(&id) else { return false };
        let (run, from) = (stream.to, stream.from);
        let node = self.machine(from.run.0).node;
        let order = self.agent(run).and_then(|agent| agent.data.orders.get(&from.program));
        let highest = self.machine(run.0).pool.get(from.program).map(|volumes| volumes.known.highest());
        let is_over = highest.is_some_and(|highest| stream.epoch < highest);
        self.has_trap(Trap::StandbyIgnoresEpochs) || sender(order, stream.epoch, node).is_some() && !is_over
    }

    fn copies_open(&mut self, id: StreamId) -> Option<ToPrimary> {
        let stream = self.streams.get_mut(&id)?;
        stream.is_open = true;
        let (run, program, epoch) = (stream.to, stream.from.program, stream.epoch);
        let incoming = self.incoming(run, program)?;
        if let Some(before) = incoming.current.replace(id) {
            self.break_stream(before);
        }
        let incoming = self.incoming(run, program)?;
        incoming.arriving = incoming.arriving.filter(|arriving| arriving.snapshot.epoch == epoch);
        let partial =
            incoming.arriving.map(|Arriving { snapshot, parent, pieces, .. }| Partial { snapshot, parent, pieces });
        let known = &self.machine_mut(run.0).pool.of(program).known;
        let mut snapshots: Vec<_> = known.sets().map(|set| set.id).collect();
        if let Some(partial) = partial.filter(|_| self.has_trap(Trap::AnyParent)) {
            snapshots.push(partial.snapshot);
        }
        Some(ToPrimary::Have { snapshots, partial })
    }

    fn copy_begins(
        &mut self,
        id: StreamId,
        snapshot: SnapshotId,
        parent: Option<SnapshotId>,
        taken: DateTime<Utc>,
        resume: bool,
    ) -> ToPrimary {
        let failed = |world: &mut Self, answer| {
            if let Some(stream) = world.streams.get_mut(&id) {
                stream.has_failed = true;
            }
            answer
        };
        let Some(stream) = self.streams.get_mut(&id) else { return ToPrimary::Failed };
        stream.has_failed = false;
        let (run, program) = (stream.to, stream.from.program);
        let ready = self.lease_now(run.0);
        let takes_any_parent = self.has_trap(Trap::AnyParent);
        let known = &self.machine_mut(run.0).pool.of(program).known;
        let (is_there, has_parent) =
            (known.set(snapshot).is_ok(), parent.is_none_or(|parent| known.set(parent).is_ok() || takes_any_parent));
        let Some(incoming) = self.incoming(run, program) else { return ToPrimary::Failed };
        if let Some(arriving) = incoming.arriving.as_mut().filter(|_| resume)
            && (arriving.snapshot, arriving.parent, arriving.taken) == (snapshot, parent, taken)
        {
            (arriving.ready, arriving.taken_ago, arriving.cut) = (ready, None, None);
            return ToPrimary::Ready(snapshot);
        }
        incoming.arriving = None;
        if is_there {
            return failed(self, ToPrimary::Done(snapshot));
        }
        if resume {
            return failed(self, ToPrimary::Failed);
        }
        if !has_parent {
            return failed(self, ToPrimary::UnknownParent(snapshot));
        }
        incoming.arriving = Some(Arriving { snapshot, parent, taken, pieces: 0, ready, taken_ago: None, cut: None });
        ToPrimary::Ready(snapshot)
    }

    /// Asks the records whether the snapshot may come in, which remembers its epoch.
    fn may_receive(&mut self, run: AgentRun, program: ProgramId, snapshot: SnapshotId) -> bool {
        if self.is_full(run.0) {
            return false;
        }
        let ignores_epochs = self.has_trap(Trap::StandbyIgnoresEpochs);
        match self.machine_mut(run.0).pool.of(program).known.may_receive(snapshot) {
            Ok(()) => {
                if !ignores_epochs {
                    self.checker.data.opened(run.0, program, snapshot.epoch);
                }
                true
            }
            Err(Refusal::StaleEpoch { .. }) => ignores_epochs,
            Err(_) => false,
        }
    }

    fn fails(&mut self, id: StreamId, run: AgentRun, program: ProgramId) -> Option<ToPrimary> {
        self.incoming(run, program)?.arriving = None;
        self.streams.get_mut(&id)?.has_failed = true;
        self.tally.refused_copies += 1;
        Some(ToPrimary::Failed)
    }

    fn piece_arrives(&mut self, id: StreamId) -> Option<ToPrimary> {
        let stream = self.streams.get(&id)?;
        let (run, program) = (stream.to, stream.from.program);
        let snapshot = self.incoming(run, program)?.arriving?.snapshot;
        if !self.may_receive(run, program, snapshot) {
            return self.fails(id, run, program);
        }
        let arriving = self.incoming(run, program)?.arriving.as_mut()?;
        arriving.pieces = (arriving.pieces + 1).min(PIECES);
        None
    }

    fn copy_ends(&mut self, id: StreamId, whole: Content, parent: Content, is_right: bool) -> Option<ToPrimary> {
        let stream = self.streams.get(&id)?;
        let (run, program) = (stream.to, stream.from.program);
        let arriving = self.incoming(run, program)?.arriving?;
        let snapshot = arriving.snapshot;
        if !is_right || !self.may_receive(run, program, snapshot) {
            return self.fails(id, run, program);
        }
        let volumes = self.machine_mut(run.0).pool.of(program);
        let base = arriving.parent.map_or(Some(Content::EMPTY), |parent| volumes.set(parent));
        let content = base.unwrap_or(Content::EMPTY).with_difference(parent, whole);
        self.commit_copy(run, program, &arriving, content);
        self.incoming(run, program)?.arriving = None;
        Some(ToPrimary::Done(snapshot))
    }

    /// The snapshot is complete, and counts from now on.
    fn commit_copy(&mut self, run: AgentRun, program: ProgramId, arriving: &Arriving, content: Content) {
        let Arriving { snapshot, taken, ready, taken_ago, .. } = *arriving;
        say!(self, "{} has {snapshot} of {}", run.0, name(program));
        if let Some((invariant, what)) = self.checker.data.took_in(run.0, program, snapshot) {
            self.violated(invariant, what);
        }
        let now = self.lease_now(run.0);
        let newest = match self.trap {
            Some(Trap::AgeFromArrival) => Some(Newest { id: snapshot, at: now, age: Duration::ZERO }),
            _ => taken_ago.map(|age| Newest { id: snapshot, at: ready, age }),
        };
        let volumes = self.machine_mut(run.0).pool.of(program);
        volumes.add_received(snapshot, taken, content);
        let before = volumes.known.sets().map(|set| set.id).filter(|before| *before < snapshot).max();
        volumes.prune(&before.into_iter().chain([snapshot]).collect::<Vec<_>>());
        if let Some(incoming) = self.incoming(run, program) {
            incoming.newest = newest;
        }
    }

    /// The connection that brought something is over: the rest may come over another one, for a while.
    pub(super) fn cut_arriving(&mut self, run: AgentRun, program: ProgramId, id: StreamId) {
        let (now, counts) = (self.lease_now(run.0), self.has_trap(Trap::TornCopyCounts));
        let Some(incoming) = self.incoming(run, program).filter(|incoming| incoming.current == Some(id)) else {
            return;
        };
        incoming.current = None;
        let Some(arriving) = incoming.arriving.as_mut() else { return };
        arriving.cut = Some(now);
        let torn = *arriving;
        self.tally.torn_copies += 1;
        if counts && self.may_receive(run, program, torn.snapshot) {
            self.commit_copy(run, program, &torn, Content::Mixed);
        }
        self.after(KEEP_CUT, Happening::GivesUpCopy(run, program));
    }

    pub(in crate::world) fn gives_up_copy(&mut self, run: AgentRun, program: ProgramId) {
        let now = self.lease_now(run.0);
        if let Some(incoming) = self.incoming(run, program) {
            let is_over = |arriving: &Arriving| arriving.cut.is_some_and(|cut| now.since(cut) >= KEEP_CUT);
            incoming.arriving = incoming.arriving.filter(|arriving| !is_over(arriving));
        }
    }
}
