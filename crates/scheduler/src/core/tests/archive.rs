//! Stories about the archive: programs whose data is lost go on with what it has, and those whose owners want it.

use std::time::Duration;

use protocol::Epoch;
use protocol::api::scheduler::ProgramState;
use protocol::control::ReportedState;
use protocol::data::{ArchivedSet, Branch, DataBase, Lineage, SnapshotId};
use protocol::history::Fact;
use protocol::operation::Operation;
use serde_json::json;

use super::bench::*;
use super::data::{
    a_copy, base, bench_with_data, copy, dies, keeper, live, number_of, replicated, runs_on, snapshot, with_volume,
};
use crate::core::DataStart;

/// Three nodes, and a program with a volume that is in the archive, too.
fn bench_with_archive() -> Bench {
    let mut bench = Bench::with_nodes(&[(1, 1000), (2, 1000), (3, 1000)]);
    bench.desire(&with_volume(|content| content["volumes"][0]["persistence"] = json!("store")));
    bench.live(1, &[1, 2, 3]);
    bench
}

/// The node and its standby are lost.
fn all_copies_are_lost(bench: &mut Bench) -> u8 {
    let (primary, standby, other) = replicated(bench);
    bench.disconnect(standby);
    dies(bench, primary, &[other]);
    other
}

/// The newest set of the archive, when it began with nothing and these epochs went on from these snapshots.
fn from_archive(branches: &[(SnapshotId, u64)]) -> Option<DataBase> {
    let first = Branch { until: None, since: Epoch::FIRST };
    let later = branches.iter().map(|(until, since)| Branch { until: Some(*until), since: Epoch::new(*since) });
    let lineage = Lineage::from(Vec::from_iter([first].into_iter().chain(later)));
    Some(DataBase::Archive { snapshot: None, lineage })
}

fn facts(bench: &Bench) -> impl Iterator<Item = &Fact> {
    bench.database.facts.iter().map(|(_, fact)| fact)
}

#[test]
fn when_all_copies_are_lost_it_goes_on_with_what_the_archive_has_but_not_at_once() {
    let mut bench = bench_with_archive();
    let other = all_copies_are_lost(&mut bench);
    assert_eq!(bench.place(1), None);
    assert!(bench.reason(1).contains("60 s after its end it is restored from the archive"), "{}", bench.reason(1));
    bench.live(45, &[other]);
    assert_eq!(bench.place(1), None, "a node may come back with everything");
    bench.live(20, &[other]);
    assert_eq!(bench.place(1), Some((node(other), 2)));
    assert_eq!(base(&bench), from_archive(&[]));
    let loss = bench.scheduler.program_view(program(1)).unwrap().data.unwrap().loss.unwrap();
    assert_eq!((loss.epoch, loss.snapshot, loss.from_archive), (Epoch::FIRST, None, true));
    assert!(facts(&bench).any(|fact| matches!(fact, Fact::DataLost { from_archive: true, .. })));
}

/// Its standby is back without its disk: the room that it keeps for the program is the only one.
#[test]
fn the_room_that_is_kept_for_a_copy_is_there_for_what_comes_out_of_the_archive() {
    let mut bench = Bench::with_nodes(&[(1, 300), (2, 300), (3, 100)]);
    bench.desire(&with_volume(|content| content["volumes"][0]["persistence"] = json!("store")));
    bench.live(1, &[1, 2, 3]);
    let (primary, standby, small) = replicated(&mut bench);
    bench.data.insert(node(standby), Vec::new());
    dies(&mut bench, primary, &[standby, small]);
    assert_eq!(bench.place(1), None);
    bench.live(70, &[standby, small]);
    assert_eq!(bench.place(1), Some((node(standby), 2)), "{}", bench.reason(1));
    assert_eq!(base(&bench), from_archive(&[]));
}

/// It starts where the next standby was being filled: the room of the one before was given back when that began.
#[test]
fn a_standby_that_was_to_be_replaced_has_no_room_kept_when_the_program_starts_on_the_next_one() {
    let mut bench = bench_with_archive();
    let (primary, standby, other) = replicated(&mut bench);
    let kept = |bench: &Bench| bench.scheduler.nodes[&node(standby)].offer.used.pool_mib;
    bench.disconnect(standby);
    bench.live(15, &[primary, other]);
    assert_eq!((keeper(&bench), kept(&bench)), (Some(other), 0));
    dies(&mut bench, primary, &[other]);
    bench.live(70, &[other]);
    assert_eq!(bench.place(1), Some((node(other), 2)), "{}", bench.reason(1));
    assert_eq!(kept(&bench), 0);
}

/// Its assignment ends while the scheduler cannot read what it is.
#[test]
fn what_ended_while_it_could_not_be_read_comes_out_of_the_archive_as_well() {
    let mut bench = bench_with_archive();
    let (_, _, other) = replicated(&mut bench);
    bench.restart_unread(1);
    bench.connect(other, 1000);
    bench.live(8, &[other]);
    assert_eq!(bench.place(1), None);
    bench.desire(&with_volume(|content| content["volumes"][0]["persistence"] = json!("store")));
    bench.live(70, &[other]);
    assert_eq!(bench.place(1), Some((node(other), 2)), "{}", bench.reason(1));
    assert_eq!(base(&bench), from_archive(&[]));
}

/// The archive may have newer sets than the copy that the program went on with: of writes that it does not know any more.
#[test]
fn what_the_archive_has_of_writes_that_were_lost_does_not_come_back() {
    let mut bench = bench_with_archive();
    let (primary, standby, other) = replicated(&mut bench);
    dies(&mut bench, primary, &[standby, other]);
    assert_eq!(base(&bench), a_copy(snapshot(1, 7)));
    bench.data.insert(node(standby), live(2, None, false));
    bench.live(2, &[standby, other]);
    dies(&mut bench, standby, &[other]);
    bench.live(70, &[other]);
    let wanted = from_archive(&[(snapshot(1, 7), 2)]);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(other), 3)), wanted));
    // A scheduler that starts again knows that as well, and so does the next assignment.
    bench.restart();
    bench.connect(other, 1000);
    assert_eq!(base(&bench), wanted);
    bench.data.insert(node(other), live(3, None, false));
    bench.live(2, &[other]);
    dies(&mut bench, other, &[]);
    bench.data.insert(node(primary), Vec::new());
    bench.connect(primary, 1000);
    bench.live(70, &[primary]);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(primary), 4)), wanted));
}

/// Nor what was archived after the snapshot that an owner went back to.
#[test]
fn what_an_owner_turned_away_from_does_not_come_back() {
    let mut bench = bench_with_archive();
    let (primary, standby, other) = replicated(&mut bench);
    let wanted = SnapshotId::new(Epoch::FIRST, 3);
    bench.order(Operation::Restore { program: program(1), snapshot: wanted, from: None });
    bench.beat(primary, &[]);
    bench.beat(primary, &[report(program(1), Epoch::FIRST, ReportedState::Released)]);
    bench.live(1, &[1, 2, 3]);
    assert!(bench.database.restores.is_empty(), "it was ready");
    bench.disconnect(standby);
    dies(&mut bench, primary, &[other]);
    bench.live(70, &[other]);
    assert_eq!(base(&bench), from_archive(&[(wanted, 2)]));
}

/// Rows of earlier versions say nothing of what does not count in the archive.
#[test]
fn what_an_assignment_starts_with_is_read_as_earlier_versions_wrote_it() {
    let earlier = json!({ "base": { "base": "archive", "snapshot": null }, "branch": { "until": "1-7", "since": 2 } });
    let start: DataStart = serde_json::from_value(earlier.clone()).unwrap();
    assert_eq!(start.base, DataBase::Archive { snapshot: None, lineage: Lineage::STRAIGHT });
    assert!(start.branch.is_some() && start.archived.is_straight());
    assert_eq!(serde_json::to_value(start).unwrap(), earlier);
}

#[test]
fn a_copy_that_comes_back_in_time_is_better_than_the_archive() {
    let mut bench = bench_with_archive();
    let other = all_copies_are_lost(&mut bench);
    bench.live(30, &[other]);
    let standby = keeper_in_database(&bench);
    bench.data.insert(node(standby), copy(snapshot(1, 7)));
    bench.connect(standby, 1000);
    bench.live(2, &[standby, other]);
    assert_eq!(bench.place(1), Some((node(standby), 2)));
    assert_eq!(base(&bench), a_copy(snapshot(1, 7)));
}

fn keeper_in_database(bench: &Bench) -> u8 {
    number_of(bench.database.standbys[&program(1)])
}

#[test]
fn a_scheduler_that_starts_again_is_as_patient_as_the_one_before() {
    let mut bench = bench_with_archive();
    let other = all_copies_are_lost(&mut bench);
    bench.live(50, &[other]);
    bench.restart();
    bench.connect(other, 1000);
    bench.live(45, &[other]);
    assert_eq!(bench.place(1), None, "it has not heard of anybody for long enough");
    bench.live(30, &[other]);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(other), 2)), from_archive(&[])));
}

/// Nothing happens but that time passes: no node says anything of the program.
#[test]
fn a_scheduler_that_starts_again_wakes_up_when_it_has_been_patient_enough() {
    let mut bench = bench_with_archive();
    let primary = runs_on(&bench);
    let others: Vec<u8> = (1..=3).filter(|number| *number != primary).collect();
    dies(&mut bench, primary, &others);
    assert_eq!(bench.place(1), None);
    bench.restart();
    others.iter().for_each(|number| bench.connect(*number, 1000));
    bench.live(50, &others);
    assert_eq!(bench.place(1), None);
    bench.live(20, &others);
    assert_eq!(
        (bench.place(1).map(|(_, epoch)| epoch), base(&bench)),
        (Some(2), from_archive(&[])),
        "{}",
        bench.reason(1)
    );
}

#[test]
fn a_node_for_which_the_archive_has_nothing_turns_it_down_and_the_lost_node_is_still_waited_for() {
    let mut bench = bench_with_archive();
    let primary = runs_on(&bench);
    let other = all_copies_are_lost(&mut bench);
    bench.live(45, &[other]);
    while bench.place(1).is_none() {
        bench.advance(Duration::from_secs(1));
        bench.beat(other, &[]);
    }
    let (_, epoch) = bench.place(1).unwrap();
    let refused = report(program(1), Epoch::new(epoch), ReportedState::Refused(protocol::control::Refusal::NoData));
    for _ in 0..4 {
        bench.beat(other, std::slice::from_ref(&refused));
    }
    assert_eq!(bench.place(1), None);
    bench.data.insert(node(primary), live(1, None, false));
    bench.connect(primary, 1000);
    bench.live(2, &[primary, other]);
    assert_eq!(base(&bench), Some(DataBase::Own { epoch: Epoch::FIRST }), "{}", bench.reason(1));
}

#[test]
fn an_owner_goes_back_to_a_snapshot_and_what_was_written_stays_where_it_is() {
    let mut bench = bench_with_archive();
    let (primary, ..) = replicated(&mut bench);
    let wanted = SnapshotId::new(Epoch::FIRST, 3);
    bench.order(Operation::Restore { program: program(1), snapshot: wanted, from: None });
    bench.live(1, &[1, 2, 3]);
    assert_eq!(bench.state(1), ProgramState::Stopping);
    let released = report(program(1), Epoch::FIRST, ReportedState::Released);
    bench.beat(primary, &[]);
    bench.beat(primary, &[released]);
    assert_eq!(bench.place(1), Some((node(primary), 2)), "where it was");
    assert_eq!(base(&bench), Some(ArchivedSet { snapshot: wanted, from: None }.base()));
    assert_eq!(bench.scheduler.program_view(program(1)).unwrap().data.unwrap().loss, None, "that is no loss");
    assert!(facts(&bench).any(|fact| matches!(fact, Fact::Restoring { snapshot, .. } if *snapshot == wanted)));
    // A scheduler that starts again knows with what it starts.
    bench.restart();
    assert!(bench.database.restores.contains_key(&program(1)));
    assert_eq!(base(&bench), Some(ArchivedSet { snapshot: wanted, from: None }.base()));
    (1..=3).for_each(|number| bench.connect(number, 1000));
    bench.live(1, &[1, 2, 3]);
    assert_eq!(bench.place(1), Some((node(primary), 2)));
    assert!(bench.database.restores.is_empty(), "the order is over");
}

/// The same with what another program wrote: the other one is not even known here.
#[test]
fn a_program_starts_with_what_another_one_wrote_and_its_own_copies_do_not_count_then() {
    let mut bench = bench_with_archive();
    let (primary, standby, other) = replicated(&mut bench);
    let (wanted, from) = (snapshot(9, 4), program(7));
    let foreign = Some(DataBase::Foreign { program: from, snapshot: wanted });
    bench.order(Operation::Restore { program: program(1), snapshot: wanted, from: Some(from) });
    bench.beat(primary, &[]);
    bench.beat(primary, &[report(program(1), Epoch::FIRST, ReportedState::Released)]);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(primary), 2)), foreign));
    let fact = |fact: &Fact| matches!(fact, Fact::Restoring { snapshot, from: of, .. } if (*snapshot, *of) == (wanted, Some(from)));
    assert!(facts(&bench).any(fact));
    let view = bench.scheduler.program_view(program(1)).unwrap().data.unwrap();
    assert_eq!((view.loss, view.restored), (None, Some(ArchivedSet { snapshot: wanted, from: Some(from) })));
    // A scheduler that starts again goes on with the order, also when its node is lost before it was ready.
    bench.restart();
    assert!(bench.database.restores.contains_key(&program(1)));
    assert_eq!(base(&bench), foreign);
    [standby, other].into_iter().for_each(|number| bench.connect(number, 1000));
    bench.live(20, &[standby, other]);
    assert_eq!((bench.place(1).unwrap().1, base(&bench)), (3, foreign), "{}", bench.reason(1));
    let now = runs_on(&bench);
    bench.data.insert(node(now), live(3, None, false));
    bench.live(1, &[standby, other]);
    assert!(bench.database.restores.is_empty(), "the order is over");
    // What its standby had is of writes that it does not know: nothing is left that it could go on with at once.
    dies(&mut bench, now, &[if now == standby { other } else { standby }]);
    assert_eq!(bench.place(1), None, "{}", bench.reason(1));
}

#[test]
fn a_snapshot_that_the_archive_does_not_have_costs_nothing() {
    let mut bench = bench_with_archive();
    let (primary, standby, other) = replicated(&mut bench);
    let wanted = SnapshotId::new(Epoch::FIRST, 3);
    bench.order(Operation::Restore { program: program(1), snapshot: wanted, from: None });
    bench.beat(primary, &[]);
    bench.beat(primary, &[report(program(1), Epoch::FIRST, ReportedState::Released)]);
    let refused = report(program(1), Epoch::new(2), ReportedState::Refused(protocol::control::Refusal::NoData));
    for _ in 0..4 {
        bench.beat(primary, std::slice::from_ref(&refused));
    }
    bench.live(30, &[1, 2, 3]);
    assert_eq!(base(&bench), Some(DataBase::Own { epoch: Epoch::FIRST }), "{}", bench.reason(1));
    assert!(bench.database.restores.is_empty());
    // The copy of what it went on with counts as before, although it is newer than what was wanted.
    dies(&mut bench, primary, &[standby, other]);
    assert_eq!(
        (bench.place(1), base(&bench)),
        (Some((node(standby), 4)), a_copy(snapshot(1, 7))),
        "{}",
        bench.reason(1)
    );
}

/// The next order about the program was recorded before the one before it was over.
#[test]
fn the_end_of_an_order_takes_no_newer_one() {
    let mut bench = bench_with_archive();
    let (primary, ..) = replicated(&mut bench);
    let wanted = SnapshotId::new(Epoch::FIRST, 3);
    let operation = Operation::Restore { program: program(1), snapshot: wanted, from: None };
    bench.order(operation.clone());
    bench.beat(primary, &[]);
    bench.beat(primary, &[report(program(1), Epoch::FIRST, ReportedState::Released)]);
    let newer = bench.database.record(&operation, &protocol::Address::new("0x01"));
    bench.live(1, &[1, 2, 3]);
    assert_eq!(bench.state(1), ProgramState::Ready);
    assert_eq!(bench.database.restores[&program(1)].at, newer);
    // The same of a move.
    let operation = Operation::Move { program: program(2), to: None };
    bench.desire(&spec(2, 300));
    bench.live(2, &[1, 2, 3]);
    bench.order(operation.clone());
    let newer = bench.database.record(&operation, &protocol::Address::new("0x01"));
    bench.order(Operation::CancelMove { program: program(2) });
    assert!(bench.database.moves.is_empty(), "whoever cancels, cancels all");
    bench.order(operation.clone());
    let newest = bench.database.record(&operation, &protocol::Address::new("0x01"));
    assert_ne!(newer, newest);
    bench.gone(2);
    bench.live(1, &[1, 2, 3]);
    assert_eq!(bench.database.moves[&program(2)].at, newest);
}

#[test]
fn only_what_is_in_the_archive_can_be_restored() {
    let bench = bench_with_data();
    let objection = |number| {
        let operation = Operation::Restore { program: program(number), snapshot: snapshot(1, 1), from: None };
        bench.scheduler.objection(&operation).unwrap()
    };
    assert!(objection(1).to_string().contains("no volume with the persistence `store`"), "{}", objection(1));
    assert!(matches!(objection(9), crate::core::moves::Objection::Unknown(_)));
}
