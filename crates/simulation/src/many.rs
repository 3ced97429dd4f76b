//! Many worlds on several threads, one world a seed.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::options::Options;
use crate::report::Report;
use crate::tally::Tally;

/// What became of many seeds.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was counted in all of them.
    pub tally: Tally,
    /// Those that broke an invariant, in order, without their stories.
    pub failed: Vec<Report>,
}

/// Runs every seed. The result does not depend on the threads.
pub fn run_many(seeds: Range<u64>, threads: usize, options: &Options) -> Outcome {
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new(Outcome::default());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mine = run_some(&next, seeds.end, options);
                let mut all = all.lock().expect("no thread panics while it holds this lock");
                all.tally.add(&mine.tally);
                all.failed.extend(mine.failed);
            });
        }
    });
    let mut all = all.into_inner().expect("no thread panics while it holds this lock");
    all.failed.sort_unstable_by_key(|report| report.seed);
    all.tally.gaps.sort_unstable();
    all
}

fn run_some(next: &AtomicU64, end: u64, options: &Options) -> Outcome {
    let mut mine = Outcome::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return mine;
        }
        let report = crate::run(seed, options);
        mine.tally.add(&report.tally);
        if report.violation.is_some() {
            mine.failed.push(report);
        }
    }
}
