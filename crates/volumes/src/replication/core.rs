//! When the volumes of one live program are looked at, snapshots are taken and sent, and what may be said about it.
//!
//! ```text
//!            standby(node)           connected
//!   Alone ─────────────────▶ Apart ◀───────────▶ Together        the link to the standby
//!     ▲                        │  disconnected       │
//!     └────────────────────────┴─────────────────────┘ standby(none)
//!
//!           due, or flush          changed               taken            confirmed
//!   Idle ─────────────────▶ Looking ──────▶ Taking ─────────────▶ Sending ─────────▶ Idle      the job
//!    ▲ ▲                      │ unchanged     │ failed               │ failed, disconnected
//!    └─┴──────────────────────┴───────────────┴──────────────────────┘
//! ```
//!
//! The program's replicator moves it, with what its node's agent asks, what the pool answers and what the standby says;
//! nobody else. There is one job at a time, and it begins only together with a standby, or when somebody on this node wants a
//! snapshot: one that nobody waits for is of no use. A snapshot that was taken and not confirmed is sent before another is
//! taken, so together with a standby there are never more than two: that one and the newest that both sides have. All
//! snapshots of the program get their names here, whoever wants them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lease::BootTime;
use protocol::data::SnapshotId;
use protocol::{Epoch, NodeId};

/// The longest pause after a failure, or after a snapshot that took long.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Without a standby, older snapshots are deleted when there are more than so many. One of them may be the newest that the
/// standby has, which nobody knows before it is connected.
const MOST_APART: usize = 4;

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick,
    /// Who keeps copies now.
    Standby(Option<NodeId>),
    /// The standby says what it has complete.
    Connected(Vec<SnapshotId>),
    /// The connection to the standby is over.
    Disconnected,
    /// The answer to [`Command::Look`].
    Looked {
        /// Whether a volume was written since.
        changed: bool,
    },
    /// The snapshot is there.
    Taken,
    /// Looking or taking failed.
    Failed,
    /// The standby has this one complete.
    Confirmed(SnapshotId),
    /// The standby does not have the parent.
    UnknownParent(SnapshotId),
    /// The snapshot could not be sent, or not be taken in; the connection goes on.
    NotSent,
    /// What was written until now shall be on the standby. The number is greater than those before.
    Flush(u64),
    /// Somebody on this node wants a snapshot of what was written until now, also without a standby. The number is greater
    /// than those before.
    Wanted(u64),
    /// The program has ended, nothing is written any more.
    Ended,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Look whether a live volume has changed since this snapshot.
    Look(SnapshotId),
    /// Take this snapshot.
    Take(SnapshotId),
    /// Send this snapshot, as a difference from the parent if there is one.
    Send(SnapshotId, Option<SnapshotId>),
    /// Delete all snapshots but these and the newest.
    Prune(Vec<SnapshotId>),
    /// Flushes up to this number are done.
    Flushed(u64),
    /// There is no standby that flushes could wait for.
    NoStandby,
    /// This snapshot has what was wanted up to this number.
    Taken(u64, SnapshotId),
    /// There is no snapshot for what was wanted up to this number.
    NotTaken(u64),
}

/// How often, and how much of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From one snapshot to the next, when something changes.
    pub interval: Duration,
    /// How long to pause for each second that taking and sending took, in hundredths: 100 is half of the time. The
    /// pause is never longer than 30 s.
    pub pause_percent: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), pause_percent: 100 }
    }
}

/// What a snapshot has in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Contents {
    /// Everything that was written before; not known when that was before this machine booted.
    until: Option<BootTime>,
    /// What flushes up to this number asked for.
    flushes: u64,
    /// What somebody on this node wanted up to this number.
    wanted: u64,
    /// All that the program ever wrote.
    all: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Link {
    Alone,
    Apart(NodeId),
    Together { node: NodeId, have: BTreeSet<SnapshotId> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Idle,
    Looking { since: SnapshotId, contents: Contents },
    Taking { id: SnapshotId, contents: Contents },
    Sending { id: SnapshotId, parent: Option<SnapshotId> },
}

/// What may be said about the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The newest snapshot that the standby said it has.
    pub confirmed: Option<SnapshotId>,
    /// How long ago the oldest write can have happened that is in no confirmed snapshot; `None` when nobody knows.
    pub at_risk: Option<Duration>,
    /// Whether the program has ended and `confirmed` holds everything that it wrote.
    pub is_final: bool,
    /// Whether the standby is connected.
    pub connected: bool,
    /// How many snapshots are kept here.
    pub sets: usize,
}

/// The replication of one live program.
#[derive(Debug, Clone)]
pub struct Core {
    pace: Pace,
    epoch: Epoch,
    /// The newest name that was ever given.
    last: u64,
    /// Nothing was written before this that had no copy, if anybody knows.
    unconfirmed_since: Option<BootTime>,
    /// The snapshots here.
    local: BTreeMap<SnapshotId, Contents>,
    link: Link,
    job: Job,
    /// The newest that the standby has, and what is in it, or not different from it.
    confirmed: Option<(SnapshotId, Contents)>,
    /// When the next job may begin.
    due: BootTime,
    /// When taking or sending of the newest snapshot began.
    begun: BootTime,
    /// Whether the newest snapshot was never tried to send.
    fresh: bool,
    failures: u32,
    asked: u64,
    answered: u64,
    /// What somebody on this node wants, and what was given.
    wanted: u64,
    given: u64,
    ended: bool,
}

impl Core {
    /// Of a program that is live in this epoch, with the snapshots that are on this node, and when those of this epoch
    /// were taken. What was written since `unconfirmed_since` may have no copy anywhere; `None` is not known.
    pub fn new(
        pace: Pace,
        epoch: Epoch,
        sets: impl IntoIterator<Item = (SnapshotId, Option<BootTime>)>,
        unconfirmed_since: Option<BootTime>,
    ) -> Self {
        let contents = |(id, taken): (SnapshotId, Option<BootTime>)| {
            // What is live came out of the snapshots of epochs before, so all that it wrote is newer.
            let until = if id.epoch == epoch { taken } else { unconfirmed_since };
            (id, Contents { until, flushes: 0, wanted: 0, all: false })
        };
        let local: BTreeMap<_, _> = sets.into_iter().map(contents).collect();
        let last = local.keys().filter(|id| id.epoch == epoch).map(|id| id.sequence).max().unwrap_or(0);
        Self {
            pace,
            epoch,
            last,
            unconfirmed_since,
            local,
            link: Link::Alone,
            job: Job::Idle,
            confirmed: None,
            due: BootTime::BOOT,
            begun: BootTime::BOOT,
            fresh: false,
            failures: 0,
            asked: 0,
            answered: 0,
            wanted: 0,
            given: 0,
            ended: false,
        }
    }

    /// Something happened; what is to be done.
    pub fn step(&mut self, now: BootTime, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Tick => {}
            Event::Standby(standby) => self.standby(standby),
            Event::Connected(have) => self.connected(have, &mut commands),
            Event::Disconnected => self.disconnected(),
            Event::Looked { changed } => self.looked(now, changed, &mut commands),
            Event::Taken => self.taken(&mut commands),
            Event::Failed => {
                self.not_taken(&mut commands);
                self.failed(now);
            }
            Event::Confirmed(id) => self.confirm(now, id, &mut commands),
            Event::UnknownParent(id) => self.unknown_parent(now, id),
            Event::NotSent => {
                if matches!(self.job, Job::Sending { .. }) {
                    self.failed(now);
                }
            }
            Event::Flush(number) => self.asked = self.asked.max(number),
            Event::Wanted(number) => self.wanted = self.wanted.max(number),
            Event::Ended => self.ended = true,
        }
        if self.ended && self.wants() {
            self.give(self.wanted, None, &mut commands);
        }
        if self.link == Link::Alone && self.answered < self.asked {
            self.answered = self.asked;
            commands.push(Command::NoStandby);
        }
        commands.extend(self.begin(now));
        commands
    }

    /// When something is to be done without an event.
    pub fn wake_at(&self) -> Option<BootTime> {
        let sends = matches!(self.link, Link::Together { .. }) && !self.is_final();
        (self.job == Job::Idle && (sends || self.wants())).then_some(self.due)
    }

    /// What may be said now.
    pub fn standing(&self, now: BootTime) -> Standing {
        let until = self.confirmed.map_or(self.unconfirmed_since, |(_, contents)| contents.until);
        Standing {
            confirmed: self.confirmed.map(|(id, _)| id),
            at_risk: if self.is_final() { Some(Duration::ZERO) } else { until.map(|until| now.since(until)) },
            is_final: self.is_final(),
            connected: matches!(self.link, Link::Together { .. }),
            sets: self.local.len(),
        }
    }

    /// When a snapshot that is here was taken.
    pub fn taken_at(&self, id: SnapshotId) -> Option<BootTime> {
        self.local.get(&id).filter(|_| id.epoch == self.epoch)?.until
    }

    fn is_final(&self) -> bool {
        self.confirmed.is_some_and(|(_, contents)| contents.all)
    }

    fn standby(&mut self, standby: Option<NodeId>) {
        let current = match &self.link {
            Link::Alone => None,
            Link::Apart(node) | Link::Together { node, .. } => Some(*node),
        };
        if current == standby {
            return;
        }
        self.disconnected();
        self.confirmed = None;
        self.failures = 0;
        self.link = standby.map_or(Link::Alone, Link::Apart);
    }

    fn connected(&mut self, have: Vec<SnapshotId>, commands: &mut Vec<Command>) {
        let (Link::Apart(node) | Link::Together { node, .. }) = self.link else { return };
        self.disconnected();
        // Its newest is what it would be promoted with, so what is taken next has to be newer than that, too.
        let newest = have.iter().filter(|id| id.epoch == self.epoch).map(|id| id.sequence).max();
        self.last = self.last.max(newest.unwrap_or(0));
        self.link = Link::Together { node, have: have.into_iter().collect() };
        self.find_confirmed();
        self.answer(commands);
        self.prune(commands);
    }

    fn disconnected(&mut self) {
        if let Link::Together { node, .. } = self.link {
            self.link = Link::Apart(node);
        }
        if matches!(self.job, Job::Sending { .. }) {
            self.job = Job::Idle;
        }
    }

    /// The newest that both sides have. What a look has found out about it since stays true.
    fn find_confirmed(&mut self) {
        let Link::Together { have, .. } = &self.link else { return };
        let common = self.local.iter().rfind(|(id, _)| have.contains(id)).map(|(id, contents)| (*id, *contents));
        if self.confirmed.map(|(id, _)| id) != common.map(|(id, _)| id) {
            self.confirmed = common;
        }
    }

    fn looked(&mut self, now: BootTime, changed: bool, commands: &mut Vec<Command>) {
        let Job::Looking { since, contents } = self.job else { return };
        self.job = Job::Idle;
        if changed {
            if matches!(self.link, Link::Together { .. }) {
                commands.push(self.take(now));
            }
            return;
        }
        self.failures = 0;
        self.due = contents.until.unwrap_or(now) + self.pace.interval;
        if let Some((_, confirmed)) = self.confirmed.as_mut().filter(|(id, _)| *id == since) {
            *confirmed = contents;
            self.answer(commands);
        }
    }

    fn taken(&mut self, commands: &mut Vec<Command>) {
        let Job::Taking { id, contents } = self.job else { return };
        self.local.insert(id, contents);
        self.job = Job::Idle;
        self.fresh = matches!(self.link, Link::Together { .. });
        self.give(contents.wanted, Some(id), commands);
        if !self.fresh && self.local.len() > MOST_APART {
            self.prune(commands);
        }
    }

    /// What is tried again after a failure is what the standby has to have; who wants a snapshot for himself asks again.
    fn not_taken(&mut self, commands: &mut Vec<Command>) {
        if let Job::Taking { contents, .. } = self.job {
            self.give(contents.wanted, None, commands);
        }
    }

    fn give(&mut self, number: u64, snapshot: Option<SnapshotId>, commands: &mut Vec<Command>) {
        if number > self.given {
            self.given = number;
            commands.push(snapshot.map_or(Command::NotTaken(number), |id| Command::Taken(number, id)));
        }
    }

    /// Whether somebody on this node waits for a snapshot.
    fn wants(&self) -> bool {
        self.wanted > self.given
    }

    fn failed(&mut self, now: BootTime) {
        self.job = Job::Idle;
        self.failures = self.failures.saturating_add(1);
        let pause = self.pace.interval.saturating_mul(1 << self.failures.min(10));
        self.due = now + pause.min(LONGEST_PAUSE);
    }

    fn confirm(&mut self, now: BootTime, id: SnapshotId, commands: &mut Vec<Command>) {
        let Job::Sending { id: sent, parent } = self.job else { return };
        if sent != id {
            return;
        }
        self.job = Job::Idle;
        self.failures = 0;
        if let Link::Together { have, .. } = &mut self.link {
            have.insert(id);
        }
        self.find_confirmed();
        // A standby is filled once; after that, what was written meanwhile is late already.
        let cost = if parent.is_some() { now.since(self.begun) } else { Duration::ZERO };
        let pause = (cost.saturating_mul(self.pace.pause_percent) / 100).min(LONGEST_PAUSE);
        self.due = (now + pause).max(self.begun + self.pace.interval);
        self.answer(commands);
        self.prune(commands);
    }

    fn unknown_parent(&mut self, now: BootTime, id: SnapshotId) {
        let Job::Sending { id: sent, parent } = self.job else { return };
        if sent != id {
            return;
        }
        let Some(parent) = parent else { return self.failed(now) };
        if let Link::Together { have, .. } = &mut self.link {
            have.remove(&parent);
        }
        self.job = Job::Idle;
        self.find_confirmed();
    }

    /// Flushes that the confirmed snapshot answers.
    fn answer(&mut self, commands: &mut Vec<Command>) {
        let Some((_, contents)) = self.confirmed else { return };
        if contents.flushes > self.answered {
            self.answered = contents.flushes;
            commands.push(Command::Flushed(contents.flushes));
        }
    }

    /// Keeps the newest that both sides have, and the newest.
    fn prune(&mut self, commands: &mut Vec<Command>) {
        let newest = self.local.keys().next_back().copied();
        let kept: BTreeSet<_> = self.confirmed.map(|(id, _)| id).into_iter().chain(newest).collect();
        let before = self.local.len();
        self.local.retain(|id, _| kept.contains(id));
        if self.local.len() < before {
            commands.push(Command::Prune(kept.into_iter().collect()));
        }
    }

    /// Begins the next job, if one is due.
    fn begin(&mut self, now: BootTime) -> Option<Command> {
        if self.job != Job::Idle {
            return None;
        }
        let has_rested = self.failures == 0 || now >= self.due;
        self.begin_for_standby(now).or_else(|| (self.wants() && has_rested).then(|| self.take(now)))
    }

    fn begin_for_standby(&mut self, now: BootTime) -> Option<Command> {
        let Link::Together { have, .. } = &self.link else { return None };
        let asked = self.asked > self.answered;
        // Who waits for a flush or a move waits for no interval, but after failures.
        let at_once = self.failures == 0 && (asked || self.ended || self.has_unsent());
        if self.is_final() || (now < self.due && !at_once) {
            return None;
        }
        if self.has_unsent() {
            let (id, _) = self.local.last_key_value().expect("it has one to send");
            let parent = self.local.range(..id).rfind(|(id, _)| have.contains(id)).map(|(id, _)| *id);
            let id = *id;
            if !std::mem::take(&mut self.fresh) {
                self.begun = now;
            }
            self.job = Job::Sending { id, parent };
            return Some(Command::Send(id, parent));
        }
        match self.confirmed {
            // Who waits for a flush has written something.
            Some((since, _)) if since.epoch == self.epoch && !asked => {
                self.job = Job::Looking { since, contents: self.contents(now) };
                Some(Command::Look(since))
            }
            _ => Some(self.take(now)),
        }
    }

    /// Whether the newest snapshot of this epoch is not on the standby.
    fn has_unsent(&self) -> bool {
        let Link::Together { have, .. } = &self.link else { return false };
        self.local.keys().next_back().is_some_and(|id| id.epoch == self.epoch && !have.contains(id))
    }

    fn take(&mut self, now: BootTime) -> Command {
        self.last += 1;
        self.begun = now;
        self.fresh = false;
        let id = SnapshotId::new(self.epoch, self.last);
        self.job = Job::Taking { id, contents: self.contents(now) };
        Command::Take(id)
    }

    fn contents(&self, now: BootTime) -> Contents {
        Contents { until: Some(now), flushes: self.asked, wanted: self.wanted, all: self.ended }
    }
}

#[cfg(test)]
mod tests;
