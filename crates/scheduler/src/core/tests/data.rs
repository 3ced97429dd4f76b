//! Stories about the data of programs: it is never left behind in silence.

use std::sync::Arc;
use std::time::Duration;

use protocol::api::scheduler::ProgramState;
use protocol::control::ReportedState;
use protocol::data::{Branch, CopyReport, DataBase, DataEntry, DataOrder, DataReport, LiveReport, SnapshotId};
use protocol::history::Fact;
use protocol::operation::Operation;
use protocol::{Epoch, NodeId};
use serde_json::json;

use super::bench::*;
use crate::core::ProgramSpec;

/// Three nodes, and a program with a volume.
pub(super) fn bench_with_data() -> Bench {
    let mut bench = Bench::with_nodes(&[(1, 1000), (2, 1000), (3, 1000)]);
    bench.desire(&with_volume(|_| ()));
    bench.live(1, &[1, 2, 3]);
    bench
}

pub(super) fn with_volume(change: impl FnOnce(&mut serde_json::Value)) -> Arc<ProgramSpec> {
    let mut content = super::content(1, 300);
    content["volumes"] = json!([{"mount": "/data", "name": "db", "persistence": "host", "size_mib": 100}]);
    change(&mut content);
    Arc::new(ProgramSpec::read(program(1), content.to_string()).unwrap().unwrap())
}

pub(super) fn snapshot(epoch: u64, sequence: u64) -> SnapshotId {
    SnapshotId::new(Epoch::new(epoch), sequence)
}

fn number_of(id: NodeId) -> u8 {
    (1..=3).find(|number| node(*number) == id).unwrap()
}

pub(super) fn runs_on(bench: &Bench) -> u8 {
    number_of(bench.place(1).unwrap().0)
}

/// What nodes are told about the data: who it is live on with what base, and who keeps copies.
pub(super) fn orders(bench: &Bench) -> Vec<(u8, DataEntry)> {
    let set = |number: u8| bench.scheduler.nodes.get(&node(number)).map(|node| node.set.data()).unwrap_or_default();
    (1..=3).flat_map(|number| set(number).into_iter().map(move |entry| (number, entry))).collect()
}

pub(super) fn base(bench: &Bench) -> Option<DataBase> {
    orders(bench).into_iter().find_map(|(_, entry)| match entry.order {
        DataOrder::Live { base, .. } => Some(base),
        DataOrder::Keep { .. } | DataOrder::Retire => None,
    })
}

/// A program begins with a copy that began with nothing under its first epoch.
pub(super) fn a_copy(at_least: SnapshotId) -> Option<DataBase> {
    a_copy_after(None, 1, at_least)
}

/// The same, when an epoch went on from a snapshot before.
pub(super) fn a_copy_after(until: Option<SnapshotId>, since: u64, at_least: SnapshotId) -> Option<DataBase> {
    let branch = Some(Branch { until, since: Epoch::new(since) });
    Some(DataBase::Copy { at_least: Some(at_least), branch })
}

pub(super) fn keeper(bench: &Bench) -> Option<u8> {
    orders(bench)
        .into_iter()
        .find_map(|(number, entry)| matches!(entry.order, DataOrder::Keep { .. }).then_some(number))
}

pub(super) fn live(epoch: u64, confirmed: Option<SnapshotId>, is_final: bool) -> Vec<DataReport> {
    let live = LiveReport { epoch: Epoch::new(epoch), confirmed, at_risk_ms: 700, is_final };
    vec![DataReport { program: program(1), live: Some(live), copy: None }]
}

pub(super) fn copy(newest: SnapshotId) -> Vec<DataReport> {
    vec![DataReport { program: program(1), live: None, copy: Some(CopyReport { newest, age_ms: 900 }) }]
}

/// It runs, and its standby has snapshot 1-7. Returns who runs it, who keeps copies and who does neither.
pub(super) fn replicated(bench: &mut Bench) -> (u8, u8, u8) {
    let (primary, standby) = (runs_on(bench), keeper(bench).unwrap());
    bench.data.insert(node(primary), live(1, Some(snapshot(1, 7)), false));
    bench.data.insert(node(standby), copy(snapshot(1, 7)));
    bench.live(1, &[1, 2, 3]);
    assert_eq!(bench.database.standbys.get(&program(1)), Some(&node(standby)));
    (primary, standby, 6 - primary - standby)
}

/// The node dies, and its lease ends.
pub(super) fn dies(bench: &mut Bench, number: u8, others: &[u8]) {
    bench.disconnect(number);
    bench.live(8, others);
}

#[test]
fn a_program_starts_empty_once_and_another_node_keeps_copies() {
    let bench = bench_with_data();
    assert_eq!(base(&bench), Some(DataBase::Empty));
    let (primary, standby) = (runs_on(&bench), keeper(&bench).unwrap());
    assert_ne!(primary, standby);
    let used = |number: u8| bench.scheduler.nodes[&node(number)].offer.used;
    assert_eq!((used(standby).memory_mib, used(standby).pool_mib), (300, 100), "room to take over is kept");
    let (_, entry) = orders(&bench).into_iter().find(|(number, _)| *number == primary).unwrap();
    let DataOrder::Live { standby: Some(peer), .. } = entry.order else { panic!("{entry:?}") };
    assert_eq!((peer.node, peer.account), (node(standby), account(standby)));
}

#[test]
fn nodes_without_a_pool_get_no_program_that_writes_to_volumes() {
    let mut bench = Bench::new();
    bench.list(&[1]);
    bench.connect(1, 1000);
    bench.beat_with(1, |heartbeat| heartbeat.capacity.pool_mib = 0);
    bench.desire(&with_volume(|_| ()));
    assert!(bench.reason(1).contains("too little room for volumes (needs 100 MiB"), "{}", bench.reason(1));
}

#[test]
fn after_a_crash_it_goes_on_where_the_newest_copy_is_and_the_loss_is_said() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    dies(&mut bench, primary, &[standby, other]);
    assert_eq!(bench.place(1), Some((node(standby), 2)));
    assert_eq!(base(&bench), a_copy(snapshot(1, 7)));
    let loss = bench.scheduler.program_view(program(1)).unwrap().data.unwrap().loss.unwrap();
    assert_eq!((loss.epoch, loss.snapshot), (Epoch::FIRST, Some(snapshot(1, 7))));
    // The copy was said to be 900 ms old one heartbeat before the node fell silent; then its lease had to end.
    let at_most = loss.at_most.unwrap();
    assert!(at_most > bench.times.longest_wait() && at_most < bench.times.longest_wait() * 2, "{at_most:?}");
    assert_eq!(keeper(&bench), Some(other), "and a new standby is found");
}

#[test]
fn without_its_data_it_is_not_started() {
    let mut bench = bench_with_data();
    let primary = runs_on(&bench);
    bench.data.insert(node(primary), live(1, None, false));
    let others: Vec<u8> = (1..=3).filter(|number| *number != primary).collect();
    bench.live(1, &[1, 2, 3]);
    dies(&mut bench, primary, &others);
    assert_eq!((bench.place(1), bench.state(1)), (None, ProgramState::Unplaced));
    assert!(bench.reason(1).contains(&format!("waits for its data: node {}", node(primary))), "{}", bench.reason(1));
    // Its node returns, with its data.
    bench.connect(primary, 1000);
    bench.live(2, &[1, 2, 3]);
    assert_eq!(bench.place(1), Some((node(primary), 2)));
    assert_eq!(base(&bench), Some(DataBase::Own { epoch: Epoch::FIRST }));
    assert_eq!(bench.scheduler.program_view(program(1)).unwrap().data.unwrap().loss, None);
}

#[test]
fn an_owner_may_prefer_to_start_with_nothing() {
    let mut bench = Bench::with_nodes(&[(1, 1000), (2, 1000), (3, 1000)]);
    bench.desire(&with_volume(|content| content["metadata"] = json!({"on_data_loss": "fresh"})));
    bench.live(1, &[1, 2, 3]);
    let primary = runs_on(&bench);
    let others: Vec<u8> = (1..=3).filter(|number| *number != primary).collect();
    dies(&mut bench, primary, &others);
    assert_eq!(base(&bench), Some(DataBase::Empty));
    let loss = bench.scheduler.program_view(program(1)).unwrap().data.unwrap().loss.unwrap();
    assert_eq!((loss.snapshot, loss.at_most), (None, None));
}

#[test]
fn an_older_copy_is_not_taken_for_the_newest() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    bench.data.insert(node(other), copy(snapshot(1, 3)));
    bench.live(1, &[1, 2, 3]);
    bench.disconnect(standby);
    dies(&mut bench, primary, &[other]);
    assert_eq!(bench.place(1), None, "the newest copy may come back");
    // A scheduler that has just started knows from the database whose copy counts.
    bench.restart();
    bench.connect(other, 1000);
    bench.live(8, &[other]);
    assert_eq!(bench.place(1), None);
    bench.connect(standby, 1000);
    bench.live(2, &[standby, other]);
    assert_eq!(bench.place(1), Some((node(standby), 2)));
}

#[test]
fn a_stale_copy_that_returns_is_not_served() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    dies(&mut bench, primary, &[standby, other]);
    bench.data.insert(node(standby), live(2, None, false));
    bench.live(1, &[standby, other]);
    bench.connect(primary, 1000);
    bench.live(2, &[1, 2, 3]);
    assert_eq!(bench.place(1), Some((node(standby), 2)));
    // The one that has the newer data dies as well: what the first one wrote last was overtaken.
    bench.disconnect(standby);
    bench.live(8, &[primary, other]);
    assert_eq!(bench.place(1), None, "{}", bench.reason(1));
}

#[test]
fn a_lost_standby_is_replaced_and_counts_until_the_next_one_is_filled() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    dies(&mut bench, standby, &[primary, other]);
    assert_eq!(keeper(&bench), Some(other));
    assert_eq!(bench.database.standbys.get(&program(1)), Some(&node(standby)));
    bench.data.insert(node(primary), live(1, Some(snapshot(1, 9)), false));
    bench.data.insert(node(other), copy(snapshot(1, 9)));
    bench.live(1, &[primary, other]);
    assert_eq!(bench.database.standbys.get(&program(1)), Some(&node(other)));
    assert_eq!(bench.place(1), Some((node(primary), 1)), "it ran on");
}

#[test]
fn a_drained_node_gives_up_its_program_when_the_copy_is_near_and_nothing_is_lost() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    let reason = "new kernel".to_owned();
    bench.order(Operation::Drain { node: node(primary), reason });
    bench.live(1, &[1, 2, 3]);
    assert_eq!(bench.state(1), ProgramState::Stopping);
    assert_eq!(keeper(&bench), Some(standby), "the last difference still goes there");
    let released = || vec![report(program(1), Epoch::FIRST, ReportedState::Released)];
    bench.data.insert(node(primary), live(1, Some(snapshot(1, 8)), true));
    bench.beat(primary, &[]);
    bench.beat(primary, &released());
    assert_eq!(bench.place(1), None, "the standby did not say yet that it has 1-8");
    bench.data.insert(node(standby), copy(snapshot(1, 8)));
    bench.live(1, &[standby, other]);
    assert_eq!(bench.place(1), Some((node(standby), 2)));
    assert_eq!(base(&bench), a_copy(snapshot(1, 8)));
    assert_eq!(bench.scheduler.program_view(program(1)).unwrap().data.unwrap().loss, None);
}

#[test]
fn what_was_turned_down_wrote_nothing() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&with_volume(|_| ()));
    bench.beat(1, &[]);
    let refused = report(program(1), Epoch::FIRST, ReportedState::Refused(protocol::control::Refusal::NoCapacity));
    bench.beat(1, std::slice::from_ref(&refused));
    bench.beat(1, std::slice::from_ref(&refused));
    bench.beat(1, &[refused]);
    bench.list(&[1, 2]);
    bench.connect(2, 1000);
    bench.live(2, &[2]);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(2), 2)), Some(DataBase::Empty)));
}

#[test]
fn a_forgotten_program_gives_back_the_room_of_its_standby() {
    let mut bench = bench_with_data();
    let (primary, standby, _) = replicated(&mut bench);
    bench.gone(1);
    bench.beat(primary, &[]);
    bench.beat(primary, &[report(program(1), Epoch::FIRST, ReportedState::Released)]);
    assert!(bench.scheduler.program_view(program(1)).is_none());
    assert_eq!(bench.scheduler.nodes[&node(standby)].offer.used.pool_mib, 0);
    assert_eq!(orders(&bench), []);
    bench.advance(Duration::from_secs(1));
}

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
    assert_eq!(base(&bench), Some(DataBase::Archive { snapshot: None }));
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
    assert_eq!(base(&bench), Some(DataBase::Archive { snapshot: None }));
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
    assert_eq!(base(&bench), Some(DataBase::Archive { snapshot: None }));
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
    assert_eq!((bench.place(1), base(&bench)), (Some((node(other), 2)), Some(DataBase::Archive { snapshot: None })));
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
    bench.order(Operation::Restore { program: program(1), snapshot: wanted });
    bench.live(1, &[1, 2, 3]);
    assert_eq!(bench.state(1), ProgramState::Stopping);
    let released = report(program(1), Epoch::FIRST, ReportedState::Released);
    bench.beat(primary, &[]);
    bench.beat(primary, &[released]);
    assert_eq!(bench.place(1), Some((node(primary), 2)), "where it was");
    assert_eq!(base(&bench), Some(DataBase::Archive { snapshot: Some(wanted) }));
    assert_eq!(bench.scheduler.program_view(program(1)).unwrap().data.unwrap().loss, None, "that is no loss");
    assert!(facts(&bench).any(|fact| matches!(fact, Fact::Restoring { snapshot, .. } if *snapshot == wanted)));
    // A scheduler that starts again knows with what it starts.
    bench.restart();
    assert!(bench.database.restores.contains_key(&program(1)));
    assert_eq!(base(&bench), Some(DataBase::Archive { snapshot: Some(wanted) }));
    (1..=3).for_each(|number| bench.connect(number, 1000));
    bench.live(1, &[1, 2, 3]);
    assert_eq!(bench.place(1), Some((node(primary), 2)));
    assert!(bench.database.restores.is_empty(), "the order is over");
}

#[test]
fn a_snapshot_that_the_archive_does_not_have_costs_nothing() {
    let mut bench = bench_with_archive();
    let (primary, ..) = replicated(&mut bench);
    bench.order(Operation::Restore { program: program(1), snapshot: SnapshotId::new(Epoch::FIRST, 3) });
    bench.beat(primary, &[]);
    bench.beat(primary, &[report(program(1), Epoch::FIRST, ReportedState::Released)]);
    let refused = report(program(1), Epoch::new(2), ReportedState::Refused(protocol::control::Refusal::NoData));
    for _ in 0..4 {
        bench.beat(primary, std::slice::from_ref(&refused));
    }
    bench.live(30, &[1, 2, 3]);
    assert_eq!(base(&bench), Some(DataBase::Own { epoch: Epoch::FIRST }), "{}", bench.reason(1));
    assert!(bench.database.restores.is_empty());
}

#[test]
fn only_what_is_in_the_archive_can_be_restored() {
    let bench = bench_with_data();
    let objection = |number| {
        let operation = Operation::Restore { program: program(number), snapshot: snapshot(1, 1) };
        bench.scheduler.objection(&operation).unwrap()
    };
    assert!(objection(1).to_string().contains("no volume with the persistence `store`"), "{}", objection(1));
    assert!(matches!(objection(9), crate::core::moves::Objection::Unknown(_)));
}

/// What was written after the copy that the program went on with is not what it knows any more, however new it looks.
#[test]
fn copies_of_writes_that_were_lost_do_not_come_back() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    dies(&mut bench, primary, &[standby, other]);
    assert_eq!(base(&bench), a_copy(snapshot(1, 7)));
    bench.data.insert(node(standby), live(2, None, false));
    bench.data.insert(node(primary), copy(snapshot(1, 9)));
    bench.connect(primary, 1000);
    bench.live(2, &[1, 2, 3]);
    dies(&mut bench, standby, &[primary, other]);
    assert_eq!(bench.place(1), None, "{}", bench.reason(1));
}

/// Nor for a scheduler that has just started: the database knows what the program went on with.
#[test]
fn copies_of_writes_that_were_lost_do_not_come_back_after_a_restart() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    dies(&mut bench, primary, &[standby, other]);
    bench.data.insert(node(standby), live(2, None, false));
    bench.data.insert(node(primary), copy(snapshot(1, 9)));
    bench.restart();
    bench.desire(&with_volume(|_| ()));
    for number in 1..=3 {
        bench.connect(number, 1000);
    }
    bench.live(2, &[1, 2, 3]);
    assert_eq!(base(&bench), Some(DataBase::Own { epoch: Epoch::new(2) }), "its node has it under this epoch");
    dies(&mut bench, standby, &[primary, other]);
    assert_eq!(bench.place(1), None, "{}", bench.reason(1));
}

/// An assignment that did not begin before the scheduler ended begins with what was decided.
#[test]
fn what_an_assignment_starts_with_outlives_the_scheduler() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    dies(&mut bench, primary, &[standby, other]);
    let decided = a_copy(snapshot(1, 7));
    assert_eq!((bench.place(1), base(&bench)), (Some((node(standby), 2)), decided));
    bench.restart();
    bench.connect(standby, 1000);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(standby), 2)), decided));
}

/// A node that lost its disk and is back before its lease is over does not begin anew.
#[test]
fn what_has_started_never_starts_with_nothing_again() {
    let mut bench = bench_with_data();
    let primary = runs_on(&bench);
    assert_eq!(base(&bench), Some(DataBase::Empty));
    bench.data.insert(node(primary), live(1, None, false));
    bench.live(1, &[1, 2, 3]);
    assert_eq!(base(&bench), Some(DataBase::Own { epoch: Epoch::FIRST }));
}

#[test]
fn data_is_not_forgotten_while_what_its_program_is_cannot_be_read() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    dies(&mut bench, primary, &[other]);
    assert_eq!(bench.place(1), None, "neither of those that have it is heard of");
    bench.restart_unread(1);
    bench.connect(other, 1000);
    bench.desire(&with_volume(|_| ()));
    bench.live(8, &[other]);
    assert_eq!(bench.place(1), None, "{}", bench.reason(1));
    bench.connect(standby, 1000);
    bench.live(2, &[standby, other]);
    assert_eq!(bench.place(1), Some((node(standby), 2)));
}

/// The writer has taken a snapshot that it has not sent yet when it dies: the standby's newest is the newest that there is.
#[test]
fn a_snapshot_that_only_the_lost_node_had_is_not_waited_for() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    let taken = CopyReport { newest: snapshot(1, 8), age_ms: 100 };
    let mut report = live(1, Some(snapshot(1, 7)), false);
    report[0].copy = Some(taken);
    bench.data.insert(node(primary), report);
    bench.live(1, &[1, 2, 3]);
    dies(&mut bench, primary, &[standby, other]);
    assert_eq!(bench.place(1), Some((node(standby), 2)), "{}", bench.reason(1));
}
