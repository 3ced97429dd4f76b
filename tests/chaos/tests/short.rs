//! A few faults of each sort, in every run of the tests; `make chaos` has all of them, and more time.

use aleph_chaos::Options;
use aleph_chaos::fault::{Fault, Host, Part};
use aleph_chaos::hosts::Cut;

#[test]
fn promises_are_kept_while_parts_die_hang_and_cannot_reach_each_other() {
    let faults = vec![
        Fault::Kill(Part::Leader),
        Fault::Stop(Part::Node),
        Fault::Link(Host::Node, Cut::NoOut),
        Fault::Kill(Part::Postgres),
    ];
    let options = Options { runs: faults.len(), programs: 2, faults: Some(faults), ..Options::default() };
    let report = aleph_chaos::run(&options).unwrap();
    println!("{report}");
    assert_eq!(report.runs.len(), options.runs, "{report}");
    assert!(report.holds(), "{report}\n{report:#?}");
    assert!(report.instants > 100 && report.seen.samples > 100 && report.epochs >= options.programs, "{report}");
}
