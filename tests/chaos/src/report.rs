//! What came of it: a line for each fault, a table of kinds, JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::check::{Asked, Overlap, median};
use crate::data::{Broken, Judgement};
use crate::witness::Seen;

/// One fault and what came of it. Times are nanoseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// From 1.
    pub number: usize,
    /// Which fault.
    pub fault: String,
    /// The compute node that was hit, if one was.
    pub node: Option<usize>,
    /// When it began, by `CLOCK_BOOTTIME`.
    pub from: u64,
    /// How long the fault lasted.
    pub lasted: u64,
    /// How long after that everything was well.
    pub well_after: u64,
    /// The longest time without a sign of life, for each program.
    pub gaps: Vec<u64>,
    /// How many programs were not back in time.
    pub late: usize,
    /// Requests that were over meanwhile.
    pub asked: usize,
    /// Those that got no answer, by reason.
    pub lost: BTreeMap<String, usize>,
    /// Answers of an older epoch after a newer one.
    pub stale: usize,
    /// Copies that ran at the same time.
    pub overlaps: usize,
    /// Parts that ended although nobody killed them.
    pub ended: Vec<String>,
    /// What was not well after it was healed, in order.
    pub ailments: Vec<String>,
    /// What was still not well when patience was over.
    pub sick: Option<String>,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What it was drawn with.
    pub seed: u64,
    /// How long a lease lasted, in seconds.
    pub lease: f64,
    /// The longest first start of a program, in seconds.
    pub start: f64,
    /// Within what time programs have to be back, in seconds.
    pub bound: f64,
    /// By fault.
    pub runs: Vec<Run>,
    /// Copies that ran at the same time.
    pub overlaps: Vec<Overlap>,
    /// Answers of an older epoch after a newer one.
    pub stale: Vec<Asked>,
    /// What was seen of processes.
    pub seen: Seen,
    /// How many instants programs wrote.
    pub instants: usize,
    /// How many epochs their histories have.
    pub epochs: usize,
    /// What became of data.
    pub data: Judgement,
    /// Histories that do not hold, or that disagree with the witness.
    pub broken_histories: Vec<String>,
}

impl Run {
    fn lost(&self) -> usize {
        self.lost.values().sum()
    }

    fn longest_gap(&self) -> u64 {
        self.gaps.iter().copied().max().unwrap_or_default()
    }
}

impl Report {
    /// Whether all that is promised was kept.
    pub fn holds(&self) -> bool {
        let each = self.runs.iter().all(|run| run.late == 0 && run.sick.is_none());
        let none = self.overlaps.is_empty() && self.stale.is_empty() && self.seen.coexistences.is_empty();
        each && none && self.broken_histories.is_empty() && self.data.broken.is_empty()
    }

    /// Writes it as JSON. Says where.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self) -> anyhow::Result<PathBuf> {
        let folder = aleph_tests::repository("target").join("chaos");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{}.json", self.seed));
        std::fs::write(&file, serde_json::to_vec_pretty(self)?)?;
        Ok(file)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node.map(|node| format!(" node {node}")).unwrap_or_default();
        let Self { number, fault, asked, overlaps, late, stale, .. } = self;
        write!(
            f,
            "{number:4}  {fault:50}{node:7}  {} s, well after {} s: gap {} s, lost {} of {asked}, overlaps {overlaps}",
            seconds(self.lasted),
            seconds(self.well_after),
            seconds(self.longest_gap()),
            self.lost(),
        )?;
        for (what, count) in [("late", late), ("stale", stale)] {
            if *count > 0 {
                write!(f, ", {what} {count}")?;
            }
        }
        if !self.lost.is_empty() {
            write!(f, ", {:?}", self.lost)?;
        }
        if !self.ended.is_empty() {
            write!(f, ", ended by itself: {}", self.ended.join(", "))?;
        }
        self.sick.as_ref().map_or(Ok(()), |sick| write!(f, ", NOT WELL: {sick}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
        self.runs.iter().for_each(|run| kinds.entry(&run.fault).or_default().push(run));
        let mut table = Table::new();
        let columns =
            ["fault", "runs", "overlaps", "longest gap s", "median gap s", "late", "requests", "lost", "well after s"];
        table.load_style(presets::ASCII_MARKDOWN).set_header(columns);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let all: Vec<_> = self.runs.iter().collect();
        for (kind, runs) in kinds.iter().map(|(kind, runs)| (*kind, runs)).chain([("all", &all)]) {
            let sum = |of: fn(&Run) -> usize| runs.iter().map(|run| of(run)).sum::<usize>().to_string();
            table.add_row(vec![
                kind.to_owned(),
                runs.len().to_string(),
                sum(|run| run.overlaps),
                seconds(runs.iter().map(|run| run.longest_gap()).max().unwrap_or_default()),
                seconds(median(runs.iter().flat_map(|run| run.gaps.clone()).collect())),
                sum(|run| run.late),
                sum(|run| run.asked),
                sum(Run::lost),
                seconds(median(runs.iter().map(|run| run.well_after).collect())),
            ]);
        }
        writeln!(f, "{table}\n")?;
        let Seen { samples, longest_blink, sandboxes, coexistences } = &self.seen;
        writeln!(
            f,
            "{} overlaps, {} answers of an older epoch, in {} instants of {} epochs. {} pairs of sandboxes at once, in \
             {samples} looks at the processes of {sandboxes} sandboxes, {} s apart at most.",
            self.overlaps.len(),
            self.stale.len(),
            self.instants,
            self.epochs,
            coexistences.len(),
            seconds(*longest_blink),
        )?;
        let Self { seed, lease, start, bound, .. } = self;
        writeln!(
            f,
            "Seed {seed}, lease {lease} s; programs start in {start:.1} s and have to be back in {bound:.1} s."
        )?;
        if self.data.found > 0 {
            write_data(f, &self.data)?;
        }
        match self.broken_histories.as_slice() {
            [] => writeln!(f, "All histories hold and agree with the witness."),
            broken => writeln!(f, "Histories: {}", broken.join("; ")),
        }
    }
}

fn write_data(f: &mut fmt::Formatter<'_>, data: &Judgement) -> fmt::Result {
    let Judgement { written, unsaid, flushed, found, lost, broken } = data;
    let counts = Broken::WORDS.map(|words| format!("{} {words}", broken.iter().filter(|b| b.words() == words).count()));
    writeln!(
        f,
        "{} in {written} records and {unsaid} that a full disk kept out of the log, {flushed} flushes, {found} starts.",
        counts.join(", ")
    )?;
    let spans: Vec<_> = lost.iter().map(|lost| lost.span).collect();
    let claims: Vec<_> = lost.iter().filter_map(|lost| lost.at_most).collect();
    let worst = |values: &[u64]| seconds(values.iter().copied().max().unwrap_or_default());
    writeln!(
        f,
        "{} starts went on with less than was written: {} records, over {} s at most, {} s in the middle; the history \
         says {} s at most, {} s in the middle.",
        lost.len(),
        lost.iter().map(|lost| lost.records).sum::<u64>(),
        worst(&spans),
        seconds(median(spans.clone())),
        worst(&claims),
        seconds(median(claims.clone())),
    )?;
    broken.iter().try_for_each(|broken| writeln!(f, "BROKEN: {broken:?}"))
}

fn seconds(nanos: u64) -> String {
    format!("{:.2}", std::time::Duration::from_nanos(nanos).as_secs_f64())
}
