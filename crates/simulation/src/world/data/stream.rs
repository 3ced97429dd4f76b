//! Connections that bring copies from one machine to another, and the sender's end of them, as `volumes/src/replication/link.rs`
//! and `wire.rs` have it. The bytes of a snapshot are a few pieces: what matters is that it can be cut in between.

use std::time::Duration;

use chrono::{DateTime, Utc};
use protocol::Epoch;
use protocol::data::SnapshotId;
use volumes::replication::core::Event;

use crate::writes::Content;

use super::replica::{QUICKEST, ReplicaId, SLOWEST};
use crate::world::wire::Pipe;
use crate::world::{AgentRun, Happening, MachineId, World, machine_of, name, say};

/// Pieces of each snapshot.
pub(super) const PIECES: u8 = 2;
/// As in the product: how long connecting may take, and what a sender waits for an answer.
const HANDSHAKE: Duration = Duration::from_secs(10);
const PATIENCE_MS: u64 = 60_000;
/// What passes later because it was lost once.
const RETRANSMISSION: Duration = Duration::from_millis(1500);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamId(u64);

/// What is there of a snapshot that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partial {
    pub(super) snapshot: SnapshotId,
    pub(super) parent: Option<SnapshotId>,
    pub(super) pieces: u8,
}

/// From the node whose volumes they are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ToStandby {
    Open,
    Begin {
        snapshot: SnapshotId,
        parent: Option<SnapshotId>,
        taken: DateTime<Utc>,
        resume: bool,
    },
    Age(Duration),
    Piece,
    /// What the snapshot and its parent hold at the sender; and whether the digest is right.
    End {
        whole: Content,
        parent: Content,
        is_right: bool,
    },
}

/// From the node that keeps copies.
#[derive(Debug, Clone)]
pub(crate) enum ToPrimary {
    Have { snapshots: Vec<SnapshotId>, partial: Option<Partial> },
    Ready(SnapshotId),
    UnknownParent(SnapshotId),
    Failed,
    Done(SnapshotId),
}

/// A snapshot on its way.
#[derive(Debug, Clone, Copy)]
struct Sending {
    whole: Content,
    parent: Content,
    taken: DateTime<Utc>,
    /// How many pieces are sent.
    pieces: u8,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(super) from: ReplicaId,
    pub(super) epoch: Epoch,
    pub(super) to: AgentRun,
    up: Pipe<ToStandby>,
    down: Pipe<ToPrimary>,
    sending: Option<Sending>,
    partial: Option<Partial>,
    /// At the standby: whether it may send, and whether what comes before the next beginning is of no use.
    pub(super) is_open: bool,
    pub(super) has_failed: bool,
}

impl Stream {
    pub(crate) fn standby(&self) -> MachineId {
        self.to.0
    }

    pub(crate) fn touches(&self, id: MachineId) -> bool {
        self.from.run.0 == id || self.to.0 == id
    }
}

impl World {
    fn peers_cut_until(&self, one: MachineId, other: MachineId) -> crate::time::Moment {
        self.machine(one).peers_cut_until.max(self.machine(other).peers_cut_until)
    }

    /// The link connects to the standby.
    pub(in crate::world) fn dials(&mut self, from: ReplicaId) {
        if self.agent_puts_off(from.run, || Happening::Dials(from)) {
            return;
        }
        let now = self.now;
        let Some(replica) = self.replica_mut(from) else { return };
        let epoch = replica.epoch();
        let Some(link) = replica.link.as_mut().filter(|link| link.stream.is_none()) else { return };
        (link.begun, link.confirmed) = (now, false);
        let to = machine_of(link.node);
        let peer = self.machine(to);
        let is_reached = peer.is_on && self.peers_cut_until(from.run.0, to) <= now;
        let stream = StreamId(self.fresh_number());
        if let Some(link) = self.replica_mut(from).and_then(|replica| replica.link.as_mut()) {
            link.stream = Some(stream);
        }
        if !is_reached || self.machine(to).agent.is_none() {
            let notices = if is_reached { QUICKEST / 20 } else { HANDSHAKE };
            return self.after(notices, Happening::StreamLost(from, stream));
        }
        let to = AgentRun(to, self.machine(to).run);
        let (up, down) = (Pipe::new(), Pipe::new());
        let (sending, partial) = (None, None);
        let new = Stream { from, epoch, to, up, down, sending, partial, is_open: false, has_failed: false };
        self.streams.insert(stream, new);
        self.stream_up(stream, ToStandby::Open);
    }

    fn stream_delay(&mut self) -> Duration {
        let usual = self.data_chance.millis(1, 15);
        if self.is_chaotic && self.data_chance.percent(4) {
            usual + self.data_chance.mostly_short(Duration::from_secs(3))
        } else {
            usual
        }
    }

    fn stream_up(&mut self, id: StreamId, what: ToStandby) {
        let arrives = self.now + self.stream_delay();
        if let Some(stream) = self.streams.get_mut(&id) {
            let arrives = stream.up.put(what, arrives);
            self.at(arrives, Happening::ArrivesAtStandby(id));
        }
    }

    pub(super) fn stream_down(&mut self, id: StreamId, what: ToPrimary) {
        let arrives = self.now + self.stream_delay();
        if let Some(stream) = self.streams.get_mut(&id) {
            let arrives = stream.down.put(what, arrives);
            self.at(arrives, Happening::ArrivesAtPrimary(id));
        }
    }

    pub(in crate::world) fn arrives_at_standby(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (from, to) = (stream.from.run.0, stream.to);
        let cut = self.peers_cut_until(from, to.0);
        if cut > self.now {
            let again = cut + self.data_chance.mostly_short(RETRANSMISSION);
            return self.at(again, Happening::ArrivesAtStandby(id));
        }
        if self.agent_puts_off(to, || Happening::ArrivesAtStandby(id)) {
            return;
        }
        let Some(what) = self.streams.get_mut(&id).and_then(|stream| stream.up.take()) else { return };
        if self.agent(to).is_none() {
            return self.break_stream(id);
        }
        self.standby_receives(id, what);
    }

    pub(in crate::world) fn arrives_at_primary(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (from, to) = (stream.from, stream.to.0);
        let cut = self.peers_cut_until(from.run.0, to);
        if cut > self.now {
            let again = cut + self.data_chance.mostly_short(RETRANSMISSION);
            return self.at(again, Happening::ArrivesAtPrimary(id));
        }
        if self.agent_puts_off(from.run, || Happening::ArrivesAtPrimary(id)) {
            return;
        }
        let Some(what) = self.streams.get_mut(&id).and_then(|stream| stream.down.take()) else { return };
        if self.replica(from).is_none() {
            return self.break_stream(id);
        }
        self.primary_receives(id, from, what);
    }

    fn primary_receives(&mut self, id: StreamId, from: ReplicaId, what: ToPrimary) {
        let event = match what {
            ToPrimary::Have { snapshots, partial } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.partial = partial;
                }
                Event::Connected(snapshots)
            }
            ToPrimary::Ready(snapshot) => return self.may_send(id, from, snapshot),
            ToPrimary::UnknownParent(snapshot) => Event::UnknownParent(snapshot),
            ToPrimary::Failed => Event::NotSent,
            ToPrimary::Done(snapshot) => {
                self.tally.copies += 1;
                if let Some(link) = self.replica_mut(from).and_then(|replica| replica.link.as_mut()) {
                    link.confirmed = true;
                }
                Event::Confirmed(snapshot)
            }
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.sending = None;
        }
        self.step_replica(from, event);
    }

    /// Sends a snapshot to the standby, if it is still there.
    pub(super) fn send_snapshot(&mut self, from: ReplicaId, snapshot: SnapshotId, parent: Option<SnapshotId>) {
        let Some(id) = self.replica(from).and_then(|replica| replica.link.as_ref()).and_then(|link| link.stream) else {
            return;
        };
        let volumes = self.machine(from.run.0).pool.get(from.program);
        let content = |id| volumes.and_then(|volumes| volumes.set(id));
        let set = volumes.and_then(|volumes| volumes.known.set(snapshot).ok()).map(|set| set.taken);
        let base = parent.map_or(Some(Content::EMPTY), content);
        let (Some(taken), Some(whole), Some(base)) = (set, content(snapshot), base) else {
            return self.after(Duration::ZERO, Happening::ReplicaHears(from, Event::NotSent));
        };
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let is_same = |partial: &Partial| partial.snapshot == snapshot && partial.parent == parent;
        let pieces = stream.partial.take().filter(is_same).map(|partial| partial.pieces);
        let resume = pieces.is_some();
        stream.sending = Some(Sending { whole, parent: base, taken, pieces: pieces.unwrap_or(0) });
        self.stream_up(id, ToStandby::Begin { snapshot, parent, taken, resume });
    }

    fn may_send(&mut self, id: StreamId, from: ReplicaId, snapshot: SnapshotId) {
        let now = self.lease_now(from.run.0);
        let wall = self.machine(from.run.0).clock.wall(self.now);
        let Some(sending) = self.streams.get(&id).and_then(|stream| stream.sending) else { return };
        let known = self.replica(from).and_then(|replica| replica.age(snapshot, now));
        if known.is_none() {
            self.checker.data.dated_by_wall(from.program, snapshot);
        }
        let age = known.or_else(|| (wall - sending.taken).to_std().ok()).unwrap_or_default();
        self.stream_up(id, ToStandby::Age(age));
        self.piece_later(id);
    }

    fn piece_later(&mut self, id: StreamId) {
        let takes = self.data_chance.mostly_short(Duration::from_millis(1200));
        self.after(takes, Happening::SendsPiece(id));
    }

    pub(in crate::world) fn sends_piece(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let from = stream.from;
        if self.agent_puts_off(from.run, || Happening::SendsPiece(id)) {
            return;
        }
        let Some(sending) = self.streams.get_mut(&id).and_then(|stream| stream.sending.as_mut()) else { return };
        sending.pieces = (sending.pieces + 1).min(PIECES);
        let Sending { whole, parent, pieces, .. } = *sending;
        self.stream_up(id, ToStandby::Piece);
        if pieces < PIECES {
            return self.piece_later(id);
        }
        let is_right = !self.is_chaotic || !self.data_chance.percent(2);
        self.stream_up(id, ToStandby::End { whole, parent, is_right });
    }

    /// The connection is over; each side notices in its time, a sender late when the machine on the other side is off.
    pub(in crate::world) fn break_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.cut_arriving(stream.to, stream.from.program, id);
        let is_on = self.machine(stream.to.0).is_on;
        let notices = if is_on { self.data_chance.millis(1, 50) } else { self.data_chance.millis(1000, PATIENCE_MS) };
        self.after(notices, Happening::StreamLost(stream.from, id));
    }

    pub(in crate::world) fn stream_lost(&mut self, from: ReplicaId, id: StreamId) {
        if self.agent_puts_off(from.run, || Happening::StreamLost(from, id)) {
            return;
        }
        let now = self.now;
        let Some(replica) = self.replica_mut(from) else { return };
        let Some(link) = replica.link.as_mut().filter(|link| link.stream == Some(id)) else { return };
        link.stream = None;
        if link.confirmed || now.since(link.begun) > SLOWEST {
            link.pause = QUICKEST;
        }
        let pause = link.pause;
        link.pause = (pause * 2).min(SLOWEST);
        say!(self, "{} {} has no connection to its standby", from.run.0, name(from.program));
        self.after(pause, Happening::Dials(from));
        self.step_replica(from, Event::Disconnected);
    }
}
