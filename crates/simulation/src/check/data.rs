//! What must hold for the data of programs.
//!
//! There is one line of writes of a program: what the highest epoch that started has written, on top of what it started with.
//! A later start is with all of it, or with a beginning of it, and then the scheduler said so and how much it can be at most.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use protocol::data::SnapshotId;
use protocol::{Epoch, ProgramId};

use crate::time::Moment;
use crate::world::{MachineId, SchedulerRun, name};
use crate::writes::{Content, Missing, WriteId, Writes};

use super::Invariant;

/// Two clocks differ by less than 2 % (`lease`), and times are rounded to milliseconds on their way.
const DRIFT_PERCENT: u32 = 2;
const ROUNDING: Duration = Duration::from_millis(10);

/// What must hold, if it does not.
type Broken = (Invariant, String);

/// A program's code begins to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) program: ProgramId,
    pub(crate) epoch: Epoch,
    pub(crate) machine: MachineId,
    pub(crate) content: Content,
    /// The snapshot that its volumes were made of, if they were made of one.
    pub(crate) made_of: Option<SnapshotId>,
    /// Whether its owner wants it to wait for its data.
    pub(crate) waits: bool,
}

/// The scheduler said that a start costs something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recorded {
    /// Which scheduler.
    pub(crate) by: SchedulerRun,
    /// The epoch whose last writes are lost.
    pub(crate) of: Epoch,
    /// Those of this long before its end.
    pub(crate) at_most: Option<Duration>,
    /// The snapshot that it goes on with.
    pub(crate) snapshot: Option<SnapshotId>,
    /// Whether it goes on with the newest set of the archive.
    pub(crate) from_archive: bool,
}

/// An epoch begins with what the archive has.
#[derive(Debug, Clone, Copy)]
struct Back {
    /// The set that its owner wanted; `None` when all copies were lost.
    wanted: Option<SnapshotId>,
    /// What the set was taken of.
    truth: Option<Content>,
}

/// What the checker remembers of a program.
#[derive(Debug, Default)]
struct Known {
    /// The highest epoch that started, and what it has written since.
    line: Option<(Epoch, Option<WriteId>)>,
    /// The newest write of which the program was told that it is on the standby.
    flushed: Option<WriteId>,
    recorded: BTreeMap<Epoch, Recorded>,
    /// Epochs of which the scheduler that decides was told that the program has its data under them.
    reported: BTreeSet<Epoch>,
    /// Epochs in which it was started from the beginning again, before the scheduler heard of the first start.
    anew: BTreeSet<Epoch>,
    /// When a scheduler held an epoch for ended.
    ended: BTreeMap<(Epoch, SchedulerRun), Moment>,
    /// How long what said how old a copy is was on its way to the scheduler at least, which cannot know.
    late: BTreeMap<SnapshotId, Duration>,
    /// How often it started without its last writes.
    losses: u64,
    /// The highest epoch under which something was opened or taken in on a machine's disk.
    seen: BTreeMap<MachineId, Epoch>,
    /// Copies whose age was told by a clock on the wall.
    dated_by_wall: BTreeSet<SnapshotId>,
    /// Epochs that begin with what the archive has.
    back: BTreeMap<Epoch, Back>,
    /// What somebody wants it to go back to, and is not over, by when that was recorded.
    ordered: BTreeMap<DateTime<Utc>, SnapshotId>,
    /// The scheduler's database was lost, or one that is older than it was took its place, when the program was there already.
    is_doubted: bool,
    /// The highest epoch under which the archive was read in order to restore.
    read: Option<Epoch>,
}

impl Known {
    /// What of the archive an epoch begins with: its own, or what one made since the last start that never ran, as somebody
    /// wanted, and that it goes on with.
    fn went_back_to(&self, start: Start, before: Epoch) -> Option<Back> {
        let since = self.back.iter().rev().filter(|(epoch, _)| **epoch > before && **epoch <= start.epoch);
        let counts = |epoch: Epoch, back: &Back| {
            epoch == start.epoch || (back.wanted.is_some() && back.truth == Some(start.content))
        };
        since.map(|(epoch, back)| (*epoch, *back)).find(|(epoch, back)| counts(*epoch, back)).map(|(_, back)| back)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct DataChecker {
    pub(crate) writes: Writes,
    programs: BTreeMap<ProgramId, Known>,
    /// Whether somebody set a clock on the wall.
    pub(crate) walls_jumped: bool,
    /// Starts with less than everything, and those of them that no scheduler could record.
    pub(crate) losses: u64,
    pub(crate) unrecorded: u64,
    pub(crate) lost_writes: u64,
    restores: [u64; 2],
}

impl DataChecker {
    fn known(&mut self, program: ProgramId) -> &mut Known {
        self.programs.entry(program).or_default()
    }

    /// A program writes.
    pub(crate) fn write(&mut self, program: ProgramId, epoch: Epoch, to: Content, now: Moment) -> Content {
        let written = self.writes.write(to, epoch, now);
        let line = &mut self.known(program).line;
        if let (Content::UpTo(before), Content::UpTo(last)) = (to, written)
            && *line == Some((epoch, before))
        {
            *line = Some((epoch, last));
        }
        written
    }

    /// What the program has written, as far as it counts.
    pub(crate) fn line(&self, program: ProgramId) -> Option<WriteId> {
        self.programs.get(&program)?.line?.1
    }

    /// Whether this is what the program has written, or a beginning of it.
    pub(crate) fn is_on_line(&self, program: ProgramId, content: Content) -> bool {
        matches!(content, Content::UpTo(last) if self.writes.is_prefix(last, self.line(program)))
    }

    /// The newest epoch that a program with data was started under.
    pub(crate) fn newest_started(&self, program: ProgramId) -> Option<Epoch> {
        self.programs.get(&program)?.line.map(|(started, _)| started)
    }

    /// A program was told that this write is on its standby.
    pub(crate) fn flushed(&mut self, program: ProgramId, write: Option<WriteId>) {
        let known = self.programs.entry(program).or_default();
        // What others wrote under an epoch that is over by then does not count, whatever its node said.
        if let Some((_, line)) = known.line
            && self.writes.is_prefix(write, line)
        {
            known.flushed = known.flushed.max(write);
        }
    }

    /// The newest write that must not be lost.
    pub(crate) fn newest_flushed(&self, program: ProgramId) -> Option<WriteId> {
        self.programs.get(&program)?.flushed
    }

    pub(crate) fn recorded(&mut self, program: ProgramId, epoch: Epoch, recorded: Recorded) {
        self.known(program).recorded.insert(epoch, recorded);
    }

    /// A scheduler hears of a copy, so long after that was said.
    pub(crate) fn heard_of_copy(&mut self, program: ProgramId, copy: SnapshotId, late: Duration) {
        let known = self.known(program).late.entry(copy).or_insert(late);
        *known = late.min(*known);
    }

    /// How often a program started without its last writes.
    pub(crate) fn losses_of(&self, program: ProgramId) -> u64 {
        self.programs.get(&program).map_or(0, |known| known.losses)
    }

    /// A scheduler hears that a program has its data under an epoch.
    pub(crate) fn reported(&mut self, program: ProgramId, epoch: Epoch) {
        self.known(program).reported.insert(epoch);
    }

    /// A scheduler begins, which has heard nothing.
    pub(crate) fn scheduler_begins(&mut self) {
        for known in self.programs.values_mut() {
            known.reported.clear();
            known.late.clear();
        }
    }

    pub(crate) fn ended(&mut self, run: SchedulerRun, program: ProgramId, epoch: Epoch, now: Moment) {
        self.known(program).ended.insert((epoch, run), now);
    }

    pub(crate) fn dated_by_wall(&mut self, program: ProgramId, copy: SnapshotId) {
        self.known(program).dated_by_wall.insert(copy);
    }

    /// The scheduler forgot the program: it begins anew, should it ever come back.
    pub(crate) fn forgotten(&mut self, program: ProgramId) {
        let known = self.known(program);
        (known.line, known.flushed) = (None, None);
        known.ordered.clear();
    }

    /// A machine makes volumes under an epoch that may have had others.
    pub(crate) fn made(&mut self, program: ProgramId, epoch: Epoch) {
        let known = self.known(program);
        if known.line.is_some_and(|(started, _)| started == epoch) && !known.reported.contains(&epoch) {
            known.anew.insert(epoch);
        }
    }

    /// Somebody wants a program to go back to this.
    pub(crate) fn ordered(&mut self, program: ProgramId, snapshot: SnapshotId, at: DateTime<Utc>) {
        self.known(program).ordered.insert(at, snapshot);
    }

    /// Whether an assignment begins with what somebody wants.
    pub(crate) fn is_wanted(&self, program: ProgramId, snapshot: SnapshotId) -> bool {
        let mut known = self.programs.get(&program).into_iter().flat_map(|known| known.ordered.values());
        known.any(|ordered| *ordered == snapshot)
    }

    /// What was wanted then is over, and with it what was wanted before.
    pub(crate) fn over(&mut self, program: ProgramId, ordered: DateTime<Utc>) {
        self.known(program).ordered.retain(|at, _| *at > ordered);
    }

    /// A machine makes volumes of what the archive has.
    pub(crate) fn went_back(
        &mut self,
        program: ProgramId,
        epoch: Epoch,
        wanted: Option<SnapshotId>,
        truth: Option<Content>,
    ) {
        let known = self.known(program);
        known.back.insert(epoch, Back { wanted, truth });
        known.read = known.read.max(Some(epoch));
    }

    /// A set counts in the archive from now on.
    pub(crate) fn archived(&mut self, program: ProgramId, id: SnapshotId) -> Option<Broken> {
        let read = self.known(program).read.filter(|read| id.epoch < *read)?;
        let what = format!("the archive took in snapshot {id} of {} after epoch {read} went on", name(program));
        Some((Invariant::Streams, what))
    }

    /// Whether two snapshots of a program may have one name.
    pub(crate) fn began_anew(&self, program: ProgramId) -> bool {
        self.programs.get(&program).is_some_and(|known| !known.anew.is_empty())
    }

    /// How starts with what the archive has went: as somebody wanted, and because all copies were lost.
    pub(crate) fn restores(&self) -> [u64; 2] {
        self.restores
    }

    /// The scheduler's database is lost, or older than it was. What the programs that are there start with is not looked at from
    /// then on: such a database does not know who wrote last, so that less is started with and nobody says so, and it counts
    /// epochs again, so that two snapshots may have one name, however many epochs later. Programs that are published
    /// afterwards are looked at as all others.
    ///
    /// It is not enough to wait until a program has gone on in an epoch above all before. The first worlds in which that is seen
    /// were those of the seeds 202 (starts with nothing), 869 (the same, an epoch after it had gone on) and 1109 (a loss that
    /// nobody states).
    pub(crate) fn doubt(&mut self, programs: impl IntoIterator<Item = ProgramId>) {
        for program in programs {
            self.known(program).is_doubted = true;
        }
    }

    /// A machine opened volumes of a program under an epoch.
    pub(crate) fn opened(&mut self, machine: MachineId, program: ProgramId, epoch: Epoch) {
        let known = self.known(program);
        let seen = known.seen.entry(machine).or_insert(epoch);
        *seen = epoch.max(*seen);
    }

    /// A machine counts a snapshot from another one among its copies.
    pub(crate) fn took_in(&mut self, machine: MachineId, program: ProgramId, id: SnapshotId) -> Option<Broken> {
        let seen = self.known(program).seen.insert(machine, id.epoch).filter(|seen| *seen > id.epoch)?;
        self.opened(machine, program, seen);
        let what = format!("{machine} took in snapshot {id} of {} after epoch {seen}", name(program));
        Some((Invariant::Streams, what))
    }

    /// All disks of a machine are lost.
    pub(crate) fn disk_lost(&mut self, machine: MachineId) {
        for known in self.programs.values_mut() {
            known.seen.remove(&machine);
        }
    }

    /// A program's code begins to run. `is_kept` tells whether a write is on some disk.
    pub(crate) fn start(&mut self, start: Start, is_kept: impl Fn(WriteId) -> bool) -> Result<(), Broken> {
        let is_sure = !self.known(start.program).is_doubted;
        let Content::UpTo(content) = start.content else {
            let what = format!("{} starts on {} with what it never wrote", name(start.program), start.machine);
            let is_known = is_sure && self.known(start.program).anew.is_empty();
            return if is_known { Err((Invariant::Lineage, what)) } else { Ok(()) };
        };
        let Some((before, line)) = self.known(start.program).line.replace((start.epoch, content)) else {
            return Ok(());
        };
        // Where it began anew in the same epoch, two snapshots have one name.
        if !is_sure || (start.epoch > before && !self.known(start.program).anew.is_empty()) {
            return Ok(());
        }
        let back = self.known(start.program).went_back_to(start, before);
        if let Some(back) = back {
            self.restores[usize::from(back.wanted.is_none())] += 1;
            // It may be given up by now.
            if back.truth.is_some_and(|truth| truth != start.content) {
                let (epoch, program) = (start.epoch, name(start.program));
                let what =
                    format!("epoch {epoch} of {program} starts with another thing than it goes back to: {back:?}");
                return Err((Invariant::Restores, what));
            }
            if back.wanted.is_some() {
                self.known(start.program).flushed = content;
                return Ok(());
            }
        }
        if !self.writes.is_prefix(content, line) {
            let what = format!(
                "epoch {} of {} starts on {} with other writes than epoch {before} left",
                start.epoch,
                name(start.program),
                start.machine
            );
            return Err((Invariant::Lineage, what));
        }
        let Some(missing) = self.writes.missing(content, line) else { return Ok(()) };
        self.known(start.program).losses += 1;
        self.losses += 1;
        self.lost_writes += missing.count;
        if start.epoch == before && self.known(start.program).anew.contains(&before) {
            // Its machine has lost its disk, and no scheduler that lives has heard that it had started.
            self.unrecorded += 1;
            return Ok(());
        }
        self.check_loss(start, before, missing, back.is_some())?;
        // Who goes on with what the archive has does so because nothing else was heard of for a while.
        self.check_flushed(start, content, |write| back.is_none() && is_kept(write))
    }

    /// What is lost was said, and how much it is.
    fn check_loss(&mut self, start: Start, before: Epoch, missing: Missing, from_archive: bool) -> Result<(), Broken> {
        let Start { program, epoch, machine, .. } = start;
        let what = |but: &str| {
            let Missing { count, epoch: of, at } = missing;
            let who = format!("epoch {epoch} of {} starts on {machine}", name(program));
            format!("{who} without {count} writes, the first of epoch {of} at {at}{but}")
        };
        if start.content == Content::EMPTY && start.made_of.is_none() && start.waits {
            return Err((Invariant::Nothing, what(", with nothing")));
        }
        let walls_jumped = self.walls_jumped;
        let known = self.known(program);
        let since = known.recorded.iter().filter(|(of, _)| **of > before && **of <= epoch);
        let recorded: Vec<_> = since.map(|(_, recorded)| *recorded).collect();
        if recorded.is_empty() {
            return Err((Invariant::Losses, what(", and nobody said so")));
        }
        if from_archive && !recorded.iter().any(|recorded| recorded.from_archive) {
            return Err((Invariant::Losses, what(", and nobody said that it is what the archive had")));
        }
        let covers = |recorded: &Recorded| {
            let (Some(at_most), Some(ended)) = (recorded.at_most, known.ended.get(&(recorded.of, recorded.by))) else {
                return true;
            };
            let late = recorded.snapshot.and_then(|id| known.late.get(&id)).copied().unwrap_or_default();
            let is_unsure = recorded.snapshot.is_some_and(|id| known.dated_by_wall.contains(&id)) && walls_jumped;
            is_unsure || ended.since(missing.at) <= at_most + at_most * DRIFT_PERCENT / 100 + ROUNDING + late
        };
        if recorded.iter().any(covers) {
            return Ok(());
        }
        Err((Invariant::Losses, what(&format!(", and it was said: {recorded:?}, ended {:?}", known.ended))))
    }

    /// What was on the standby is there, as long as any disk has it, unless the owner does not want to wait.
    fn check_flushed(
        &mut self,
        start: Start,
        content: Option<WriteId>,
        is_kept: impl Fn(WriteId) -> bool,
    ) -> Result<(), Broken> {
        let Start { program, epoch, machine, made_of, .. } = start;
        let Some(flushed) = self.known(program).flushed else { return Ok(()) };
        if self.writes.is_prefix(Some(flushed), content) {
            return Ok(());
        }
        self.known(program).flushed = content;
        let is_excused = !is_kept(flushed) || (made_of.is_none() && !start.waits);
        if is_excused {
            return Ok(());
        }
        let what = format!("epoch {epoch} of {} starts on {machine} without what was flushed", name(program));
        Err((Invariant::Flushes, what))
    }
}
