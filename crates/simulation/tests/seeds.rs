//! Every invariant holds in a thousand worlds. `make simulate SEEDS=10000` runs more.

use aleph_simulation::{Options, Tracing, run, run_many};

const SEEDS: u64 = 1000;

#[test]
fn every_invariant_holds_in_a_thousand_worlds() {
    let threads = std::thread::available_parallelism().map_or(2, Into::into);
    let outcome = run_many(0..SEEDS, threads, &Options::default());
    println!("{}", outcome.tally);
    if let Some(first) = outcome.failed.first() {
        let story = run(first.seed, &Options { trace: Tracing::Last(60), ..Options::default() });
        let violation = story.violation.expect("the same seed tells the same story");
        let seeds: Vec<_> = outcome.failed.iter().map(|report| report.seed).collect();
        panic!("seeds {seeds:?} fail; of seed {}: {violation}\n{}", first.seed, story.trace.join("\n"));
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let options = Options { trace: Tracing::Full, ..Options::default() };
    for seed in [3, 20, 77] {
        let (one, other) = (run(seed, &options), run(seed, &options));
        assert!(one.trace.len() > 100, "a story of {} lines", one.trace.len());
        assert_eq!(one.trace, other.trace);
        // A story that nobody listens to is the same.
        let untold = run(seed, &Options::default());
        assert_eq!((untold.tally.steps, untold.ended), (one.tally.steps, one.ended));
    }
}
