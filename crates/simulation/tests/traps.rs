//! The checker can fail: each planted mistake is caught within a bounded number of seeds, and the same seeds hold without it.

use aleph_simulation::{Invariant, Options, Trap, run};

const PARTITIONS: &[&str] = &["partition", "one-way partition, to the node", "one-way partition, to the scheduler"];

/// Plants the mistake in seeds 0, 1, … until the invariant breaks; then the same worlds without it must hold.
fn is_caught(trap: Trap, watched: Invariant, faults: &'static [&'static str], within: u64) {
    let fair = Options { faults: Some(faults), ..Options::default() };
    let planted = Options { trap: Some(trap), watches: Some(watched), ..fair };
    let caught =
        (0..within).map(|seed| run(seed, &planted)).find_map(|report| report.violation.map(|v| (report.seed, v)));
    let Some((seed, violation)) = caught else { panic!("{trap} breaks {watched} in none of {within} seeds") };
    println!("{trap}: seed {seed}: {violation}");
    for same in 0..=seed {
        let report = run(same, &fair);
        assert_eq!(report.violation, None, "seed {same} without the trap");
    }
}

/// It ends too early, so nothing runs twice: what breaks is the order of the deadlines, and with it the program's grace.
#[test]
fn the_hard_deadline_taken_from_the_soft_constant() {
    is_caught(Trap::SoftConstantAsHard, Invariant::Deadlines, PARTITIONS, 10);
}

/// The time that a start takes hides the overlap: what breaks is that the holder's lease ends first.
#[test]
fn the_issuers_constant_at_the_holder() {
    is_caught(Trap::IssuerConstantAtHolder, Invariant::Deadlines, PARTITIONS, 50);
}

#[test]
fn leases_measured_with_the_wall_clock() {
    let faults = &["wall clock jumped", "partition", "agent killed"];
    is_caught(Trap::WallClockLease, Invariant::OneCopy, faults, 300);
}

#[test]
fn counting_from_the_arrival_of_the_answer() {
    let faults = &["messages delayed", "one-way partition, to the node", "one-way partition, to the scheduler"];
    is_caught(Trap::CountFromArrival, Invariant::OneCopy, faults, 300);
}

/// Short of that, the rule is broken in almost every world.
#[test]
fn counting_from_the_arrival_of_the_answer_ends_after_the_issuers_lease() {
    is_caught(Trap::CountFromArrival, Invariant::Deadlines, &["messages delayed"], 20);
}

#[test]
fn a_deadline_that_only_the_agent_enforces() {
    is_caught(Trap::DeadlineInAgentOnly, Invariant::OneCopy, &["agent killed", "agent paused"], 50);
}

#[test]
fn epochs_from_a_clock() {
    let faults = &["wall clock jumped", "machine crashed", "partition"];
    is_caught(Trap::EpochFromClock, Invariant::Epochs, faults, 100);
}

#[test]
fn a_late_report_of_an_older_epoch() {
    let faults = &["messages delayed", "partition", "all nodes vanish"];
    is_caught(Trap::LateReportWins, Invariant::OneCopy, faults, 1000);
}

#[test]
fn a_scheduler_that_does_not_wait() {
    is_caught(Trap::NoWaitAfterRestart, Invariant::OneCopy, &["scheduler killed"], 10);
}

#[test]
fn a_leader_that_goes_on_until_it_is_told() {
    let faults = &["scheduler cut off from the store", "scheduler paused", "partition"];
    is_caught(Trap::LeadsUntilTold, Invariant::OneCopy, faults, 500);
}

#[test]
fn an_empty_answer_that_stops_everything() {
    let faults = &["message node lists nothing", "scheduler killed"];
    is_caught(Trap::EmptyMeansStop, Invariant::Evidence, faults, 50);
}

#[test]
fn a_release_acted_on_before_the_sandbox_is_gone() {
    let faults = &["node withdrawn", "sandboxes cannot be made"];
    is_caught(Trap::ReleaseBeforeGone, Invariant::OneCopy, faults, 100);
}

#[test]
fn an_older_copy_of_the_database_in_haste() {
    is_caught(Trap::HastyRestore, Invariant::OneCopy, &["store restored from an older copy", "agent killed"], 100);
}

#[test]
fn routes_that_ignore_epochs() {
    is_caught(Trap::RouteIgnoresEpoch, Invariant::Routes, &["partition", "machine crashed"], 50);
}

const CRASHES: &[&str] = &["machine crashed", "partition", "machine lost with everything"];

/// What came of it was never written by any program.
#[test]
fn a_copy_that_counts_although_it_was_cut_off() {
    let faults = &["copies broken off", "machine crashed", "node cut off from the others"];
    is_caught(Trap::TornCopyCounts, Invariant::Lineage, faults, 100);
}

#[test]
fn a_difference_on_top_of_whatever_there_is() {
    let faults = &["copies broken off", "machine crashed", "node cut off from the others", "agent killed"];
    is_caught(Trap::AnyParent, Invariant::Lineage, faults, 300);
}

/// What is lost is said, but less than it is.
#[test]
fn the_age_of_a_copy_counted_from_its_arrival() {
    // A stream that is long on its way makes the mistake larger than what a heartbeat's age allows for.
    let faults = &["copies broken off", "machine crashed", "node cut off from the others", "partition"];
    is_caught(Trap::AgeFromArrival, Invariant::Losses, faults, 400);
}

#[test]
fn starting_with_nothing_when_no_copy_is_heard_of() {
    is_caught(Trap::FreshForWait, Invariant::Nothing, CRASHES, 50);
}

/// Whatever its owner wanted, it starts with something else.
#[test]
fn the_newest_set_instead_of_the_one_that_was_wanted() {
    let faults = &["owner goes back to a snapshot", "agent killed"];
    is_caught(Trap::RestoresTheNewest, Invariant::Restores, faults, 50);
}

/// After its owner went back, and then all copies were lost before the next set was in the archive.
#[test]
fn the_newest_set_although_it_is_of_lost_writes() {
    let faults = &["all copies of a program lost", "owner goes back to a snapshot"];
    is_caught(Trap::LostWritesComeBack, Invariant::Lineage, faults, 300);
}

/// It is listed, and what it builds on is gone.
#[test]
fn retention_that_does_not_look_what_a_set_builds_on() {
    let faults = &["owner goes back to a snapshot", "streams to the archive cut off"];
    is_caught(Trap::CompactionForgetsChains, Invariant::Archive, faults, 200);
}

#[test]
fn a_set_that_counts_before_it_is_complete() {
    let faults = &["machine crashed while it archives", "streams to the archive cut off"];
    is_caught(Trap::OpenSetCounts, Invariant::Archive, faults, 50);
}

/// What comes of it was never written by any program.
#[test]
fn a_damaged_object_that_is_given_out() {
    let faults = &["archived snapshot damaged", "owner goes back to a snapshot", "all copies of a program lost"];
    is_caught(Trap::DamageIsServed, Invariant::Lineage, faults, 200);
}

/// The node that has the program by now has read the archive already, and goes on from there.
#[test]
fn an_archive_that_takes_what_an_earlier_epoch_sends() {
    let faults = &["all copies of a program lost", "partition", "agent paused", "owner goes back to a snapshot"];
    is_caught(Trap::ArchiveIgnoresEpochs, Invariant::Streams, faults, 500);
}
