//! What is counted, of one world or of many.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Counts.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Things that happened.
    pub steps: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// How assignments ended.
    pub ends: BTreeMap<&'static str, u64>,
    /// Programs that were published, taken back, and given new code.
    pub programs: u64,
    pub(crate) taken_back: u64,
    pub(crate) updates: u64,
    /// Assignments, and those of programs that had one before.
    pub assignments: u64,
    /// Programs that were assigned again.
    pub again: u64,
    /// Messages that were lost with their connection, and news that came twice.
    pub(crate) messages_lost: u64,
    pub(crate) sent_again: u64,
    pub(crate) failed_transactions: u64,
    pub(crate) failed_sandboxes: u64,
    pub(crate) crashes: u64,
    pub(crate) fuses: u64,
    pub(crate) skips: u64,
    pub(crate) terms: u64,
    pub(crate) lapses: u64,
    pub(crate) deposed: u64,
    pub(crate) brakes: u64,
    /// What programs wrote, how often they were told that it is on the standby, snapshots, and what became of their copies.
    pub writes: u64,
    pub(crate) flushes: u64,
    pub(crate) snapshots: u64,
    pub(crate) copies: u64,
    pub(crate) torn_copies: u64,
    pub(crate) refused_copies: u64,
    /// Starts without the last writes, how many those were, and starts of which nobody could say so.
    pub(crate) data_losses: u64,
    pub(crate) lost_writes: u64,
    pub(crate) unrecorded: u64,
    /// Moves that owners ordered, and programs that were forgotten while they moved.
    pub(crate) moves_ordered: u64,
    pub(crate) forgotten_moving: u64,
    pub(crate) archive: ArchiveTally,
    /// Programs with data that stayed on a node which was drained in a calm world, and those that moved.
    pub moves: [u64; 2],
    /// Programs that answered on when a leader died in a calm world, and those that did not.
    pub outlived: [u64; 2],
    /// How long programs that had answered did not answer, while they were desired.
    pub gaps: Vec<Duration>,
    /// Machines that were lost in a calm world, and the gaps of the programs on them that fitted elsewhere.
    pub losses: u64,
    /// See above.
    pub recoveries: Vec<Duration>,
    /// How long it took until all was well after all had healed; of many worlds, the longest.
    pub settled_after: Duration,
}

impl Tally {
    /// Adds the counts of another world.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [(&mut self.faults, &other.faults), (&mut self.ends, &other.ends)] {
            for (kind, count) in theirs {
                *mine.entry(kind).or_default() += count;
            }
        }
        self.steps += other.steps;
        self.programs += other.programs;
        self.taken_back += other.taken_back;
        self.updates += other.updates;
        self.assignments += other.assignments;
        self.again += other.again;
        self.messages_lost += other.messages_lost;
        self.sent_again += other.sent_again;
        self.failed_transactions += other.failed_transactions;
        self.failed_sandboxes += other.failed_sandboxes;
        self.crashes += other.crashes;
        self.fuses += other.fuses;
        self.skips += other.skips;
        self.terms += other.terms;
        self.lapses += other.lapses;
        self.deposed += other.deposed;
        self.brakes += other.brakes;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.snapshots += other.snapshots;
        self.copies += other.copies;
        self.torn_copies += other.torn_copies;
        self.refused_copies += other.refused_copies;
        self.data_losses += other.data_losses;
        self.lost_writes += other.lost_writes;
        self.unrecorded += other.unrecorded;
        self.moves_ordered += other.moves_ordered;
        self.forgotten_moving += other.forgotten_moving;
        self.archive.add(&other.archive);
        for (mine, theirs) in self.moves.iter_mut().zip(other.moves) {
            *mine += theirs;
        }
        for (mine, theirs) in self.outlived.iter_mut().zip(other.outlived) {
            *mine += theirs;
        }
        self.gaps.extend(&other.gaps);
        self.losses += other.losses;
        self.recoveries.extend(&other.recoveries);
        self.settled_after = self.settled_after.max(other.settled_after);
    }
}

/// What is counted of the archive.
#[derive(Debug, Clone, Default)]
pub(crate) struct ArchiveTally {
    /// Sets that became complete, by kind, and tries that failed.
    pub(crate) full: u64,
    pub(crate) differences: u64,
    pub(crate) failed: u64,
    /// Streams that were cut, that arrived as another thing, and for which there was no room.
    pub(crate) cut: u64,
    pub(crate) wrong_digests: u64,
    pub(crate) over_quota: u64,
    /// Sets that were given up, and archives of forgotten programs.
    pub(crate) collected: u64,
    pub(crate) forgotten: u64,
    /// Objects that were damaged, and those of which that was noticed.
    pub(crate) damaged: u64,
    pub(crate) damage_noticed: u64,
    /// Orders of owners, tries to restore, and those that failed and succeeded.
    pub(crate) ordered: u64,
    pub(crate) restores_begun: u64,
    pub(crate) restores_failed: u64,
    pub(crate) restored: u64,
    /// Programs that began with that: as their owners wanted, and because all copies were lost.
    pub(crate) began: [u64; 2],
    /// What struck in the middle of what.
    pub(crate) ambushed: BTreeMap<(&'static str, &'static str), u64>,
}

impl ArchiveTally {
    fn add(&mut self, other: &Self) {
        self.full += other.full;
        self.differences += other.differences;
        self.failed += other.failed;
        self.cut += other.cut;
        self.wrong_digests += other.wrong_digests;
        self.over_quota += other.over_quota;
        self.collected += other.collected;
        self.forgotten += other.forgotten;
        self.damaged += other.damaged;
        self.damage_noticed += other.damage_noticed;
        self.ordered += other.ordered;
        self.restores_begun += other.restores_begun;
        self.restores_failed += other.restores_failed;
        self.restored += other.restored;
        for (mine, theirs) in self.began.iter_mut().zip(other.began) {
            *mine += theirs;
        }
        for (what, count) in &other.ambushed {
            *self.ambushed.entry(*what).or_default() += count;
        }
    }
}

impl fmt::Display for ArchiveTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { full, differences, failed, cut, wrong_digests, over_quota, collected, forgotten, .. } = self;
        writeln!(f, "archived             {full} full sets, {differences} differences; {failed} tries failed")?;
        writeln!(f, "  streams            cut {cut}, other than sent {wrong_digests}, over the quota {over_quota}")?;
        writeln!(f, "  given up           {collected} sets, {forgotten} times all of a forgotten program")?;
        let Self { damaged, damage_noticed, ordered, restores_begun, restores_failed, restored, .. } = self;
        writeln!(f, "  damaged            {damaged}, noticed {damage_noticed}")?;
        writeln!(
            f,
            "  restores           {ordered} ordered; {restores_begun} begun, {restores_failed} failed, {restored} done"
        )?;
        let [back, lost] = self.began;
        writeln!(f, "  began with it      {back} as ordered, {lost} because all copies were lost")?;
        for ((fault, step), count) in &self.ambushed {
            writeln!(f, "  while {step:<12} {fault}: {count}")?;
        }
        Ok(())
    }
}

/// The median, the 99th percentile and the longest, in seconds.
struct Spread([f64; 3]);

impl Spread {
    fn of(times: &[Duration]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        Self([50, 99, 100].map(|share| sorted.get(last * share / 100).map_or(0.0, Duration::as_secs_f64)))
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([median, high, longest]) = self;
        write!(f, "median {median:.2} s, 99 % {high:.2} s, longest {longest:.2} s")
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "steps                {}", self.steps)?;
        writeln!(f, "faults               {}", self.faults.values().sum::<u64>())?;
        for (kind, count) in &self.faults {
            writeln!(f, "  {kind:<36} {count}")?;
        }
        writeln!(f, "messages lost        {}, news sent again {}", self.messages_lost, self.sent_again)?;
        writeln!(f, "failed transactions  {}", self.failed_transactions)?;
        writeln!(f, "failed sandboxes     {}, crashes {}", self.failed_sandboxes, self.crashes)?;
        writeln!(f, "fuses burned         {}", self.fuses)?;
        let [outlived, stopped] = self.outlived;
        writeln!(f, "terms of leaders     {}, lapsed {}, deposed {}", self.terms, self.lapses, self.deposed)?;
        writeln!(f, "  of programs, {outlived} answered on when a leader died in calm, {stopped} had a gap")?;
        writeln!(f, "brakes on moves      {}", self.brakes)?;
        writeln!(f, "epochs skipped ahead {}", self.skips)?;
        writeln!(f, "writes               {}, flushed {}", self.writes, self.flushes)?;
        let (torn, refused) = (self.torn_copies, self.refused_copies);
        writeln!(
            f,
            "snapshots            {}, copied {}, torn {torn}, not taken in {refused}",
            self.snapshots, self.copies
        )?;
        let (lost, unrecorded) = (self.lost_writes, self.unrecorded);
        let [stayed, moved] = self.moves;
        writeln!(f, "drained in calm      {moved} programs with data moved, {stayed} stayed")?;
        let losses = self.data_losses;
        writeln!(f, "starts with less     {losses}, by {lost} writes; {unrecorded} that no scheduler knew of")?;
        write!(f, "{}", self.archive)?;
        let (ordered, forgotten) = (self.moves_ordered, self.forgotten_moving);
        writeln!(f, "moves by owners      {ordered}, programs forgotten while they moved {forgotten}")?;
        writeln!(
            f,
            "programs             {}, taken back {}, new code {}",
            self.programs, self.taken_back, self.updates
        )?;
        writeln!(f, "assignments          {}, moves {}", self.assignments, self.again)?;
        for (proof, count) in &self.ends {
            writeln!(f, "  ended: {proof:<29} {count}")?;
        }
        writeln!(f, "gaps of programs     {}: {}", self.gaps.len(), Spread::of(&self.gaps))?;
        let lost = format!("{} machines lost in calm", self.losses);
        writeln!(f, "  of {lost}: {}: {}", self.recoveries.len(), Spread::of(&self.recoveries))?;
        write!(f, "all well again after {:.2} s at most", self.settled_after.as_secs_f64())
    }
}
