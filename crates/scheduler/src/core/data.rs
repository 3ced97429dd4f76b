//! Where the data of a program with persistent volumes is, and on which nodes it may therefore start.
//!
//! ```text
//!   Nothing ──first assignment that ran──▶ Written by (node, epoch) ◀──────────────────┐
//!                                            │        │                                │
//!                     that node has it still │        │ it has not, or is not heard of │ the next one ran
//!                                            ▼        ▼                                │
//!                                   goes on there,   a copy that is known to be the newest: goes on with it,
//!                                   or where a copy  and what is lost is said ─────────┤
//!                                   is as new ───────┘  none: waits, and says for whom │
//! ```
//! Volumes of the class `store` are also in the message node's archive: when no copy is heard of for a while, the program goes on
//! with what is there, on any node.
//!
//! Reports of nodes and ends of assignments move it. What no node reports is unknown, not absent: nothing is started with less
//! than what may still come back, unless the program's owner said so ([`OnLoss::Fresh`]).
//!
//! The *standby* is the node that keeps copies. It is *confirmed*, and the database told so, when it has its first complete
//! snapshot; until then it is only being filled, and the one before it counts.

use std::collections::BTreeMap;
use std::time::Duration;

use lease::BootTime;
use protocol::data::{
    ArchivedSet, Branch, CopyReport, DataBase, DataEntry, DataReport, Lineage, LiveReport, MAX_EARLIER_COPIES,
    SnapshotId,
};
use protocol::{Epoch, NodeId, ProgramId};

use super::restores::AskedRestore;
use super::start::{DataStart, Loss, Writer};

/// Snapshots whose times are remembered: those that nodes report, and those that they had before.
const DATED: usize = 16;

/// What to do when no copy of a program's data can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLoss {
    /// Wait for one.
    #[default]
    Wait,
    /// Start with empty volumes.
    Fresh,
    /// Wait for a while, then start with what the archive has: the program has volumes with the persistence `store`.
    Archive,
}

/// A copy on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) newest: SnapshotId,
    /// It was taken after this; not known when that was before the scheduler's machine booted.
    pub(super) taken: Option<BootTime>,
}

/// What a node last said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Held {
    pub(super) live: Option<LiveReport>,
    pub(super) copy: Option<Copy>,
}

/// Which snapshots count.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Line {
    /// The newest snapshot that another node than the writer has complete, as far as this scheduler heard.
    pub(super) floor: Option<SnapshotId>,
    /// Whether it heard that from a node that knows: the writer, or the confirmed standby.
    pub(super) is_floor_known: bool,
    /// Which copies of earlier epochs do not count.
    pub(super) branch: Option<Branch>,
    /// Which sets of the archive do not.
    pub(super) archived: Lineage,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Data {
    /// The last assignment that may have written, and may still.
    pub(super) last: Option<(NodeId, Epoch)>,
    /// The one before.
    pub(super) before: Option<(NodeId, Epoch)>,
    /// When the last one had ended at the latest, if it has.
    pub(super) ended: Option<BootTime>,
    /// Until then not every node has had the time to say what it has: the scheduler had just started when it learned of this.
    pub(super) all_heard: Option<BootTime>,
    /// The node that keeps copies, and has one.
    pub(super) confirmed: Option<NodeId>,
    /// The node that shall keep copies, and has none yet.
    pub(super) filling: Option<NodeId>,
    /// What nodes that are heard say.
    pub(super) held: BTreeMap<NodeId, Held>,
    /// When the newest snapshots were taken that were heard of.
    pub(super) dated: BTreeMap<SnapshotId, Option<BootTime>>,
    /// What of it counts.
    pub(super) line: Line,
    /// What counted before the last assignment: again, should that turn out to have written nothing.
    pub(super) line_before: Line,
    /// Whether the keeper will not keep it any longer, and another has to be found.
    pub(super) is_keeper_gone: bool,
    /// What the current assignment starts with.
    pub(super) base: Option<DataBase>,
    /// The snapshot of the archive that the current assignment began with, as somebody wanted.
    pub(super) restored: Option<ArchivedSet>,
    /// What the start of the current assignment cost.
    pub(super) loss: Option<Loss>,
    /// What the nodes were told, each once.
    pub(super) told: Vec<(NodeId, DataEntry)>,
    pub(super) on_loss: OnLoss,
    /// What somebody wants it to go back to.
    pub(super) wanted: Option<AskedRestore>,
}

/// Where a program may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sources {
    /// On any node, with nothing.
    Anywhere,
    /// On these nodes; those of an earlier group are to be preferred.
    On(Vec<Vec<(NodeId, DataBase)>>),
    /// On any node, with this of the archive.
    Archive(DataBase),
    /// Nowhere yet.
    Nowhere(String),
}

impl Line {
    /// Whether a copy is of writes that the program knows.
    fn counts(&self, copy: SnapshotId) -> bool {
        !self.archived.cuts_off(copy) && self.branch.is_none_or(|branch| !branch.cuts_off(copy))
    }
}

impl Data {
    pub(super) fn new(on_loss: OnLoss) -> Self {
        Self { on_loss, ..Self::default() }
    }

    /// The node whose room is kept for it.
    pub(super) fn keeper(&self) -> Option<NodeId> {
        self.filling.or(self.confirmed)
    }

    /// Takes in what a node says, and said after `made_after`, if anybody knows. Returns whether its standby has its first
    /// complete snapshot with that.
    pub(super) fn hear(&mut self, node: NodeId, report: &DataReport, made_after: Option<BootTime>) -> bool {
        let copies = report.copy.iter().chain(report.earlier.iter().take(MAX_EARLIER_COPIES));
        let copies: Vec<_> = copies.map(|copy| self.dated(copy, made_after)).collect();
        let copy = copies.into_iter().find(|copy| self.line.counts(copy.newest));
        self.learn_writer(node, report);
        let is_writer = |live: &&LiveReport| self.last == Some((node, live.epoch));
        let writer = report.live.as_ref().filter(is_writer);
        self.line.is_floor_known |= writer.is_some() || (self.confirmed == Some(node) && copy.is_some());
        // What the writer has taken and nobody else has is lost with it.
        let is_elsewhere = self.last.is_none_or(|(writer, _)| writer != node);
        let elsewhere = copy.as_ref().filter(|_| is_elsewhere).map(|copy| copy.newest);
        self.line.floor = self.line.floor.max(elsewhere).max(writer.and_then(|live| live.confirmed));
        let is_filled = self.filling == Some(node) && self.is_acceptable(node, copy.as_ref());
        self.held.insert(node, Held { live: report.live.clone(), copy });
        is_filled
    }

    fn dated(&mut self, copy: &CopyReport, made_after: Option<BootTime>) -> Copy {
        let (newest, age) = (copy.newest, Duration::from_millis(copy.age_ms));
        let taken = made_after.filter(|made| age < BootTime::BOOT.until(*made)).map(|made| made - age);
        // It does not become younger, whatever is said of it.
        let earlier = self.dated.get(&newest).copied().flatten();
        let taken = earlier.map_or(taken, |earlier| Some(taken.map_or(earlier, |taken| taken.min(earlier))));
        self.dated.insert(newest, taken);
        while self.dated.len() > DATED {
            self.dated.pop_first();
        }
        Copy { newest, taken }
    }

    /// Data of an epoch that the database does not know is newer than all that it knows of: the database is an old copy.
    fn learn_writer(&mut self, node: NodeId, report: &DataReport) {
        let Some((_, last)) = self.last else { return };
        let live = report.live.as_ref().map(|live| live.epoch);
        let newest = live.max(report.copy.as_ref().map(|copy| copy.newest.epoch));
        if let Some(newest) = newest.filter(|newest| *newest > last) {
            self.before = self.last.replace((node, newest));
            // What was cut off from the archive before, is for good.
            self.line = Line { archived: self.line.archived, ..Line::default() };
        }
    }

    /// A copy that is known to be as new as any.
    fn is_acceptable(&self, node: NodeId, copy: Option<&Copy>) -> bool {
        let Some(copy) = copy else { return false };
        if self.line.is_floor_known {
            return self.line.floor.is_none_or(|floor| copy.newest >= floor);
        }
        // Of a scheduler that has just started nothing is known but what the database says.
        self.confirmed == Some(node)
    }

    /// Whether the node that wrote last is heard of and has its data.
    fn live(&self) -> Option<(NodeId, &LiveReport)> {
        let (node, epoch) = self.last?;
        let live = self.held.get(&node)?.live.as_ref().filter(|live| live.epoch == epoch)?;
        Some((node, live))
    }

    /// Whether this node wrote last, is heard of and has its data.
    pub(super) fn has_live(&self, node: NodeId) -> bool {
        self.live().is_some_and(|(writer, _)| writer == node)
    }

    /// The nodes beside the writer and the keeper of copies that have something of it, once that is known to be of no use
    /// any more: the one that writes now is heard of with its data, and the standby with a copy of that. A copy that is left
    /// from an earlier epoch could be older than what is elsewhere.
    pub(super) fn overtaken(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        let epoch = self.live().filter(|(writer, _)| *writer == node).map(|(_, live)| live.epoch);
        let copy = |node: &NodeId| self.held.get(node).and_then(|held| held.copy.as_ref());
        let is_of_now = |standby: &NodeId| copy(standby).is_some_and(|copy| Some(copy.newest.epoch) == epoch);
        let standby = self.confirmed.filter(|_| self.filling.is_none()).filter(is_of_now);
        let others = self.held.iter().filter(move |(other, _)| **other != node && Some(**other) != standby);
        let others = others.filter(|(_, held)| held.live.is_some() || held.copy.is_some()).map(|(other, _)| *other);
        others.filter(move |_| standby.is_some())
    }

    /// Whether a node has something of it that neither writes nor keeps copies.
    pub(super) fn is_elsewhere(&self) -> bool {
        let writer = self.last.map(|(node, _)| node);
        self.held.keys().any(|node| Some(*node) != writer && Some(*node) != self.keeper())
    }

    /// Whether this node has everything that was written, so that the program can move there without loss.
    pub(super) fn is_exact(&self, node: NodeId) -> bool {
        let Some((writer, live)) = self.live() else { return false };
        let copy = self.held.get(&node).and_then(|held| held.copy.as_ref());
        node == writer || (live.is_final && copy.is_some_and(|copy| Some(copy.newest) >= live.confirmed))
    }

    /// How far a copy on this node is behind a program that runs; `None` while it has none, or nobody knows.
    pub(super) fn behind(&self, node: NodeId) -> Option<Duration> {
        let (_, live) = self.live()?;
        let copy = self.held.get(&node)?.copy.as_ref()?;
        (Some(copy.newest) >= live.confirmed).then(|| Duration::from_millis(live.at_risk_ms))
    }

    /// Where it may start, by what nodes say that are heard of now. `patience` is how long a copy is waited for that may come
    /// back, if there is the archive.
    pub(super) fn sources(&self, now: BootTime, patience: Duration) -> Sources {
        if let Some(wanted) = &self.wanted {
            return Sources::Archive(wanted.set.base());
        }
        let Some((node, epoch)) = self.last else { return Sources::Anywhere };
        if let Some((writer, _)) = self.live() {
            let copies = self.held.keys().filter(|node| **node != writer && self.is_exact(**node));
            let base = DataBase::Copy { at_least: self.line.floor, branch: self.line.branch };
            let copies = copies.map(|node| (*node, base)).collect();
            return Sources::On(vec![vec![(writer, DataBase::Own { epoch })], copies]);
        }
        let mut copies: Vec<_> = self
            .held
            .iter()
            .filter(|(node, held)| self.is_acceptable(**node, held.copy.as_ref()))
            .filter_map(|(node, held)| Some((held.copy.as_ref()?.newest, *node)))
            .collect();
        copies.sort_unstable_by(|a, b| b.cmp(a));
        let base = |newest| DataBase::Copy { at_least: Some(newest), branch: self.line.branch };
        if self.all_heard.is_some_and(|until| now < until) {
            return Sources::Nowhere("it waits until every node has had the time to say what it has".to_owned());
        }
        match (copies.is_empty(), self.on_loss) {
            (false, _) => Sources::On(copies.into_iter().map(|(newest, node)| vec![(node, base(newest))]).collect()),
            (true, OnLoss::Fresh) => Sources::Anywhere,
            (true, OnLoss::Archive) if self.restore_due(patience).is_some_and(|at| at <= now) => {
                Sources::Archive(DataBase::Archive { snapshot: None, lineage: self.line.archived })
            }
            (true, OnLoss::Archive) => {
                let (waits, seconds) = (self.waits_in_words(node), patience.as_secs());
                Sources::Nowhere(format!("{waits}; {seconds} s after its end it is restored from the archive"))
            }
            (true, OnLoss::Wait) => Sources::Nowhere(self.waits_in_words(node)),
        }
    }

    /// When it goes on with what the archive has, if no copy comes back.
    pub(super) fn restore_due(&self, patience: Duration) -> Option<BootTime> {
        Some(self.ended.filter(|_| self.on_loss == OnLoss::Archive)? + patience)
    }

    /// The nodes that had its data, when it waits for one of them.
    pub(super) fn waits_for(&self, now: BootTime, patience: Duration) -> Vec<NodeId> {
        match (self.sources(now, patience), self.last) {
            (Sources::Nowhere(_), Some((writer, _))) => [writer].into_iter().chain(self.confirmed).collect(),
            _ => Vec::new(),
        }
    }

    fn waits_in_words(&self, writer: NodeId) -> String {
        let others: Vec<_> = self.confirmed.iter().map(|standby| format!("its standby {standby}")).collect();
        let others = if others.is_empty() { "no other has a copy".to_owned() } else { others.join(", ") };
        format!("it waits for its data: node {writer} had it, {others}; none of them is heard of with it")
    }

    /// It starts on this node: what that costs.
    pub(super) fn starts(&mut self, node: NodeId, base: DataBase) {
        self.loss = match (self.last, base) {
            (Some((_, epoch)), DataBase::Copy { .. }) if !self.is_exact(node) => {
                let copy = self.held.get(&node).and_then(|held| held.copy.as_ref());
                let at_most = copy.and_then(|copy| copy.taken).zip(self.ended).map(|(taken, ended)| ended.since(taken));
                Some(Loss { epoch, snapshot: copy.map(|copy| copy.newest), from_archive: false, at_most })
            }
            (Some((_, epoch)), DataBase::Empty | DataBase::Archive { snapshot: None, .. }) => {
                let from_archive = base != DataBase::Empty;
                Some(Loss { epoch, snapshot: None, from_archive, at_most: None })
            }
            _ => None,
        };
        self.begins_with(base);
        // While another is being filled, only the room there is kept: the one before may have given its own away.
        self.confirmed.take_if(|_| self.filling == Some(node));
        for keeper in [&mut self.confirmed, &mut self.filling] {
            keeper.take_if(|keeper| *keeper == node);
        }
    }

    fn begins_with(&mut self, base: DataBase) {
        (self.base, self.restored) = (Some(base), base.archived());
    }

    /// It has its data under this epoch now, and never starts anew in it: a node that loses its disk and is back before its
    /// lease ends would begin with nothing.
    pub(super) fn started(&mut self, epoch: Epoch) {
        self.base = Some(DataBase::Own { epoch });
    }

    /// What the database is to remember with an assignment that begins.
    pub(super) fn start(&self) -> Option<DataStart> {
        self.base.map(|base| self.start_with(base))
    }

    fn start_with(&self, base: DataBase) -> DataStart {
        DataStart { base, branch: self.line.branch, archived: self.line.archived }
    }

    /// What an assignment starts with of which that is not known. It may have started already.
    pub(super) fn unknown_base(&self, node: NodeId) -> DataBase {
        match self.before {
            None => DataBase::Empty,
            Some((writer, epoch)) if writer == node => DataBase::Own { epoch },
            Some(_) => DataBase::Copy { at_least: None, branch: self.line.branch },
        }
    }

    /// Who wrote last, should the program ever come back.
    pub(super) fn writer(&self, program: ProgramId) -> Option<Writer> {
        let (node, epoch) = self.last?;
        // Where it branched off itself is known already.
        let start = self.start_with(DataBase::Own { epoch });
        Some(Writer { program, node, epoch, start: Some(start) })
    }

    /// It is known that this assignment may have written.
    pub(super) fn recall(&mut self, writer: &Writer) {
        self.base = None;
        if let Some(DataStart { base, branch, archived }) = writer.start {
            self.begins_with(base);
            (self.line.branch, self.line.archived) = (branch, archived);
        }
        self.granted(writer.node, writer.epoch);
    }

    /// From now on this assignment may write.
    pub(super) fn granted(&mut self, node: NodeId, epoch: Epoch) {
        if self.last != Some((node, epoch)) {
            self.before = self.last.replace((node, epoch));
            self.ended = None;
            self.line_before = self.line;
            self.branch_off(epoch);
        }
    }

    /// What this epoch writes is on top of what it starts with.
    fn branch_off(&mut self, epoch: Epoch) {
        let until = match self.base {
            // Which set the newest of the archive was is not known here: older than all that is not in it. Nothing of what
            // another program wrote was this one's before.
            Some(DataBase::Empty | DataBase::Archive { snapshot: None, .. } | DataBase::Foreign { .. }) => None,
            Some(
                DataBase::Copy { at_least: Some(snapshot), .. } | DataBase::Archive { snapshot: Some(snapshot), .. },
            ) => Some(snapshot),
            // All that its node has, or nobody knows.
            Some(DataBase::Own { .. } | DataBase::Copy { at_least: None, .. }) | None => return,
        };
        let branch = Branch { until, since: epoch };
        self.line.branch = Some(branch);
        // The newest set of the archive that counted still does, and of earlier epochs there will be no newer ones.
        if !matches!(self.base, Some(DataBase::Archive { snapshot: None, .. })) {
            self.line.archived.branch_off(branch);
        }
        if self.line.floor > until {
            self.line.floor = until;
        }
        for held in self.held.values_mut() {
            held.copy.take_if(|copy| !self.line.counts(copy.newest));
        }
    }

    /// The assignment ended that could write. `has_run` is false when its node turned it down.
    pub(super) fn ended(&mut self, node: NodeId, epoch: Epoch, has_run: bool, now: BootTime) {
        match (self.last == Some((node, epoch)), has_run) {
            (true, true) => self.ended = Some(now),
            (true, false) => {
                // What it would have begun with, nobody went on from: all counts that did before.
                (self.last, self.line) = (self.before, self.line_before);
                self.ended.get_or_insert(now);
            }
            (false, _) => {}
        }
    }
}
