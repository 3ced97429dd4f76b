//! The database that all schedulers share, by the rules of the SQL store: writes of one transaction take effect together or
//! not at all, epochs only count up, one assignment of a program is open at most. It fails as databases fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use protocol::data::{ArchivedSet, DataBase, SnapshotId};
use protocol::{Address, Epoch, NodeId, ProgramId};
use scheduler::core::leadership::{LeaderEpoch, LeaderRow};
use scheduler::core::restores::AskedRestore;
use scheduler::core::{
    AskedMove, Cause, Event, Loss, OpenAssignment, ProgramSpec, Proof, Registration, Restored, Write, Writer,
};

use crate::chance::Chance;
use crate::time::Moment;

/// Copies that are kept at most.
const MAX_COPIES: usize = 4;

/// What became of somebody's wish to go back to a snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wish {
    /// An assignment begins with this.
    Begins(SnapshotId),
    /// The one that was recorded then is over.
    Over(DateTime<Utc>),
}

/// What is in the database.
#[derive(Debug, Clone, Default)]
pub(crate) struct Database {
    epochs: BTreeMap<ProgramId, Epoch>,
    open: BTreeMap<ProgramId, Writer>,
    programs: BTreeMap<ProgramId, Arc<ProgramSpec>>,
    nodes: BTreeMap<NodeId, Registration>,
    lease_wait: Option<Duration>,
    is_complete: bool,
    leader: Option<LeaderRow>,
    draining: BTreeMap<NodeId, String>,
    moves: BTreeMap<ProgramId, AskedMove>,
    restores: BTreeMap<ProgramId, AskedRestore>,
    /// The newest closed assignment of each program that may have written, and who keeps copies.
    writers: BTreeMap<ProgramId, Writer>,
    standbys: BTreeMap<ProgramId, NodeId>,
    /// What nodes stated to have started.
    pub(crate) seen: BTreeSet<(ProgramId, Epoch)>,
    /// Programs that were dropped, for the checker.
    forgotten: Vec<ProgramId>,
    /// What became of wishes to go back, for the checker.
    went_back: Vec<(ProgramId, Wish)>,
    /// What the starts cost that were written down, for the checker.
    losses: Vec<(ProgramId, Epoch, Loss)>,
}

impl Database {
    /// Carries out one write and says what to answer. `clock_epoch` is the mistake of taking epochs from a clock.
    fn apply(&mut self, write: &Write, clock_epoch: Option<Epoch>) -> Option<Event> {
        match write {
            Write::Remember(spec) => {
                self.remember(spec);
                None
            }
            Write::Assign { spec, node, at_least, start, loss, .. } => {
                self.remember(spec);
                let (program, counted) = (spec.id, self.next_epoch(spec.id).max(*at_least));
                let (epochs, losses, went_back) = (&mut self.epochs, &mut self.losses, &mut self.went_back);
                let Writer { node, epoch, .. } = *self.open.entry(program).or_insert_with(|| {
                    let epoch = clock_epoch.unwrap_or(counted);
                    epochs.insert(program, epoch);
                    losses.extend(loss.map(|loss| (program, epoch, loss)));
                    if let Some(DataBase::Archive { snapshot: Some(snapshot), .. }) =
                        start.as_ref().map(|start| start.base)
                    {
                        went_back.push((program, Wish::Begins(snapshot)));
                    }
                    Writer { program, node: *node, epoch, start: start.as_deref().copied() }
                });
                Some(Event::Stored { program, node, epoch })
            }
            Write::Close { program, epoch, cause, proof, .. } => {
                if let Some(open) = self.open.get(program).copied().filter(|open| open.epoch == *epoch) {
                    self.open.remove(program);
                    let may_have_written = !matches!(proof, Proof::NeverGranted | Proof::Refused);
                    if may_have_written && *cause != Cause::Refused {
                        self.writers.insert(*program, open);
                    }
                }
                Some(Event::Closed { program: *program, epoch: *epoch })
            }
            Write::Forget { program, .. } => {
                self.open.remove(program);
                self.programs.remove(program);
                self.moves.remove(program);
                self.restores.remove(program);
                self.standbys.remove(program);
                self.forgotten.push(*program);
                Some(Event::Forgotten { program: *program })
            }
            // The signed history is the real store's; its own tests check it.
            Write::Record { .. } => None,
            Write::RestoreOver { program, ordered } => {
                self.restores.retain(|id, asked| id != program || asked.at != *ordered);
                self.went_back.push((*program, Wish::Over(*ordered)));
                None
            }
            Write::MoveOver { program, ordered } => {
                self.moves.retain(|id, asked| id != program || asked.at != *ordered);
                None
            }
            Write::Standby { program, node } => {
                self.standbys.insert(*program, *node);
                None
            }
            Write::Node(registration) => {
                self.nodes.insert(registration.node, registration.clone());
                None
            }
            Write::ForgetNode(node) => {
                self.nodes.remove(node);
                None
            }
            Write::EarlierLeasesEnded { lease_wait } => {
                (self.lease_wait, self.is_complete) = (Some(*lease_wait), true);
                None
            }
        }
    }

    fn remember(&mut self, spec: &Arc<ProgramSpec>) {
        if !spec.is_unknown() {
            self.programs.insert(spec.id, spec.clone());
        }
    }

    fn next_epoch(&self, program: ProgramId) -> Epoch {
        self.epochs.get(&program).map_or(Epoch::FIRST, |epoch| epoch.next())
    }

    /// What a scheduler reads when it starts, in the transaction that notes how long its leases last.
    pub(crate) fn restore(&mut self, own_wait: Duration) -> Restored {
        let programs = self.programs.values().map(|spec| (spec.clone(), self.epochs.get(&spec.id).copied()));
        let open = self.open.values().map(|open| OpenAssignment {
            writer: *open,
            at: DateTime::UNIX_EPOCH,
            was_seen: self.seen.contains(&(open.program, open.epoch)),
        });
        let restored = Restored {
            programs: programs.collect(),
            assignments: open.collect(),
            writers: self.writers.values().copied().collect(),
            standbys: self.standbys.iter().map(|(program, node)| (*program, *node)).collect(),
            moves: self.moves.values().cloned().collect(),
            restores: self.restores.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            draining: self.draining.clone().into_iter().collect(),
            earlier_wait: self.lease_wait,
            is_complete: self.is_complete,
        };
        self.lease_wait = Some(self.lease_wait.unwrap_or(own_wait).max(own_wait));
        restored
    }

    /// The assignments that are open.
    pub(crate) fn open(&self) -> impl Iterator<Item = (ProgramId, NodeId, Epoch)> + '_ {
        self.open.values().map(|open| (open.program, open.node, open.epoch))
    }

    /// Who keeps copies of a program's data, as far as is known here.
    pub(crate) fn standby(&self, program: ProgramId) -> Option<NodeId> {
        self.standbys.get(&program).copied()
    }

    /// The newest assignment of a program that may have written.
    pub(crate) fn writer(&self, program: ProgramId) -> Option<(NodeId, Epoch)> {
        self.open.get(&program).or_else(|| self.writers.get(&program)).map(|writer| (writer.node, writer.epoch))
    }

    /// Whether a snapshot of a program is of its newest assignment that may have written, or what that goes on with. Of others
    /// nobody knows how much they lack.
    pub(crate) fn is_newest_line(&self, program: ProgramId, id: SnapshotId) -> bool {
        let writer = self.open.get(&program).or_else(|| self.writers.get(&program));
        let Some(Writer { epoch, start: Some(start), .. }) = writer else { return true };
        match start.base {
            DataBase::Copy { at_least: Some(copy), .. } => id.epoch >= *epoch || id == copy,
            _ => true,
        }
    }

    /// The programs that were dropped since this was last asked.
    pub(crate) fn take_forgotten(&mut self) -> Vec<ProgramId> {
        std::mem::take(&mut self.forgotten)
    }

    /// What starts cost, as it was written down since this was last asked.
    pub(crate) fn take_losses(&mut self) -> Vec<(ProgramId, Epoch, Loss)> {
        std::mem::take(&mut self.losses)
    }

    /// An operator drains a node, or does so no more.
    pub(crate) fn drain(&mut self, node: NodeId, reason: Option<String>) {
        match reason {
            Some(reason) => drop(self.draining.insert(node, reason)),
            None => drop(self.draining.remove(&node)),
        }
    }

    /// Somebody wants a program to run elsewhere.
    pub(crate) fn ask_to_move(&mut self, program: ProgramId, to: Option<NodeId>, by: Address, at: DateTime<Utc>) {
        if let Some(from) = self.open.get(&program).map(|open| open.node) {
            self.moves.insert(program, AskedMove { program, from, to, by, at });
        }
    }

    /// Somebody wants a program to stay after all.
    pub(crate) fn cancel_move(&mut self, program: ProgramId) {
        self.moves.remove(&program);
    }

    /// Whether somebody wants that.
    pub(crate) fn is_to_move(&self, program: ProgramId) -> bool {
        self.moves.contains_key(&program)
    }

    /// Somebody wants a program to go back to a snapshot.
    pub(crate) fn ask_to_restore(&mut self, program: ProgramId, set: ArchivedSet, by: Address, at: DateTime<Utc>) {
        let of = self.open.get(&program).map(|open| open.epoch);
        self.restores.insert(program, AskedRestore { program, set, of, by, at });
    }

    /// What assignments went back to since this was last asked, and which wishes are over.
    pub(crate) fn take_went_back(&mut self) -> Vec<(ProgramId, Wish)> {
        std::mem::take(&mut self.went_back)
    }

    /// The nodes that are drained.
    pub(crate) fn draining(&self) -> Vec<NodeId> {
        self.draining.keys().copied().collect()
    }

    /// Who leads.
    pub(crate) fn leader(&self) -> Option<&LeaderRow> {
        self.leader.as_ref()
    }

    /// Whether this is the leader's epoch.
    pub(crate) fn leads(&self, epoch: LeaderEpoch) -> bool {
        self.leader.as_ref().is_some_and(|row| row.epoch == epoch)
    }

    /// Takes over from the leader that was seen, unless the row has changed since.
    pub(crate) fn claim(&mut self, seen: Option<&LeaderRow>, url: &str) -> Option<LeaderEpoch> {
        let is_seen = match (&self.leader, seen) {
            (None, None) => true,
            (Some(row), Some(seen)) => (row.epoch, row.beat) == (seen.epoch, seen.beat),
            _ => false,
        };
        if !is_seen {
            return None;
        }
        let epoch = LeaderEpoch::new(self.leader.as_ref().map_or(0, |row| row.epoch.get()) + 1);
        self.leader = Some(LeaderRow { epoch, beat: 0, url: url.to_owned(), has_resigned: false });
        Some(epoch)
    }

    /// The leader of this epoch lives; `false` when it leads no more.
    pub(crate) fn beat(&mut self, epoch: LeaderEpoch) -> bool {
        let row = self.leader.as_mut().filter(|row| row.epoch == epoch);
        row.map(|row| row.beat += 1).is_some()
    }

    /// The leader of this epoch steps down.
    pub(crate) fn resign(&mut self, epoch: LeaderEpoch) {
        if let Some(row) = self.leader.as_mut().filter(|row| row.epoch == epoch) {
            row.has_resigned = true;
        }
    }

    /// The mistake of taking leases for ended: closes everything that is open.
    pub(crate) fn close_all(&mut self) {
        self.open.clear();
    }
}

/// How a transaction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    /// It failed, and nothing of it took effect.
    Refused,
    /// Whoever asked does not lead any more.
    Deposed,
    /// Its answer was lost: it took effect, but whoever asked cannot know.
    Unknown,
}

/// How the database is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Well,
    /// It takes this much longer.
    Slow(Duration),
    /// It refuses every write.
    Refuses,
    /// A replica takes over: writes fail, and some have taken effect all the same.
    FailsOver,
}

/// The database, its copies and its troubles.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) database: Database,
    copies: Vec<Database>,
    pub(crate) health: Health,
    pub(crate) well_at: Moment,
    chance: Chance,
}

impl Store {
    pub(crate) fn new(chance: Chance) -> Self {
        let database = Database { is_complete: true, ..Database::default() };
        Self { database, copies: Vec::new(), health: Health::Well, well_at: Moment::ZERO, chance }
    }

    /// How long the next transaction takes.
    pub(crate) fn latency(&mut self) -> Duration {
        let usual = self.chance.millis(1, 20);
        match self.health {
            Health::Slow(more) => usual + self.chance.mostly_short(more),
            Health::FailsOver => usual + self.chance.millis(0, 500),
            Health::Well | Health::Refuses => usual,
        }
    }

    /// How the next thing that is asked of the database goes.
    pub(crate) fn outcome(&mut self) -> Outcome {
        match self.health {
            Health::Well | Health::Slow(_) => Outcome::Committed,
            Health::Refuses => Outcome::Refused,
            Health::FailsOver if self.chance.percent(40) => Outcome::Unknown,
            Health::FailsOver => Outcome::Refused,
        }
    }

    /// Carries out a transaction of the leader of this epoch, or of whoever uses the database alone.
    pub(crate) fn transact(
        &mut self,
        writes: &[Write],
        leader: Option<LeaderEpoch>,
        outcome: Outcome,
        clock_epoch: Option<Epoch>,
    ) -> (Outcome, Vec<Event>) {
        let is_deposed = leader.is_some_and(|epoch| !self.database.leads(epoch));
        let outcome = if is_deposed && outcome != Outcome::Refused { Outcome::Deposed } else { outcome };
        let failed = || writes.iter().filter_map(Write::answers_to).map(|program| Event::StoreFailed { program });
        match outcome {
            Outcome::Committed => (outcome, self.commit(writes, clock_epoch)),
            Outcome::Refused | Outcome::Deposed => (outcome, failed().collect()),
            Outcome::Unknown => {
                self.commit(writes, clock_epoch);
                (outcome, failed().collect())
            }
        }
    }

    /// What becomes of a transaction whose asker dies.
    pub(crate) fn abandon(&mut self, writes: &[Write], leader: Option<LeaderEpoch>, clock_epoch: Option<Epoch>) {
        if self.health != Health::Refuses && self.chance.percent(50) {
            self.transact(writes, leader, Outcome::Committed, clock_epoch);
        }
    }

    fn commit(&mut self, writes: &[Write], clock_epoch: Option<Epoch>) -> Vec<Event> {
        writes.iter().filter_map(|write| self.database.apply(write, clock_epoch)).collect()
    }

    /// Somebody makes a copy.
    pub(crate) fn copy(&mut self) {
        if self.copies.len() == MAX_COPIES {
            self.copies.remove(0);
        }
        self.copies.push(self.database.clone());
    }

    /// Somebody puts an older copy in place. Returns whether there was one.
    pub(crate) fn put_back(&mut self) -> bool {
        if self.copies.is_empty() {
            return false;
        }
        let index = usize::try_from(self.chance.between(0, self.copies.len() as u64 - 1)).unwrap_or(0);
        self.database = self.copies[index].clone();
        self.copies.truncate(index + 1);
        true
    }

    /// What these programs are cannot be read any more.
    pub(crate) fn make_unreadable(&mut self, programs: &[ProgramId]) {
        for (id, spec) in self.database.programs.iter_mut().filter(|(id, _)| programs.contains(id)) {
            *spec = Arc::new(ProgramSpec::unknown(*id, "it cannot be read"));
        }
    }

    /// The database is lost, its copies as well.
    pub(crate) fn lose(&mut self) {
        self.database = Database::default();
        self.copies.clear();
    }
}
