//! Stories about the data of programs: it is never left behind in silence.

use std::sync::Arc;
use std::time::Duration;

use protocol::api::scheduler::ProgramState;
use protocol::control::ReportedState;
use protocol::data::{Branch, CopyReport, DataBase, DataEntry, DataOrder, DataReport, LiveReport, SnapshotId};
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

pub(super) fn number_of(id: NodeId) -> u8 {
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
    vec![DataReport { program: program(1), live: Some(live), copy: None, earlier: Vec::new() }]
}

pub(super) fn copy(newest: SnapshotId) -> Vec<DataReport> {
    copies(&[newest])
}

/// A node that has these, the newest first.
fn copies(all: &[SnapshotId]) -> Vec<DataReport> {
    let mut all = all.iter().map(|newest| CopyReport { newest: *newest, age_ms: 900 });
    vec![DataReport { program: program(1), live: None, copy: all.next(), earlier: all.collect() }]
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

/// What the database says of copies is not all that there is: another node may have a newer one by now.
#[test]
fn a_scheduler_that_has_just_started_hears_everybody_before_it_goes_on_with_a_copy() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    bench.disconnect(standby);
    dies(&mut bench, primary, &[other]);
    assert_eq!(bench.place(1), None);
    bench.restart();
    bench.connect(standby, 1000);
    bench.live(1, &[standby]);
    assert_eq!(bench.place(1), None);
    assert!(bench.reason(1).contains("until every node has had the time"), "{}", bench.reason(1));
    bench.data.insert(node(other), copy(snapshot(1, 9)));
    bench.connect(other, 1000);
    bench.live(8, &[standby, other]);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(other), 2)), a_copy(snapshot(1, 9))), "{}", bench.reason(1));
}

/// Nor does it begin with nothing before that.
#[test]
fn a_scheduler_that_has_just_started_hears_everybody_before_a_program_starts_fresh() {
    let mut bench = Bench::with_nodes(&[(1, 1000), (2, 1000), (3, 1000)]);
    bench.desire(&with_volume(|content| content["metadata"] = json!({"on_data_loss": "fresh"})));
    bench.live(1, &[1, 2, 3]);
    let (primary, standby, other) = replicated(&mut bench);
    bench.disconnect(standby);
    bench.disconnect(other);
    dies(&mut bench, primary, &[]);
    assert_eq!(bench.place(1), None);
    bench.restart();
    bench.connect(other, 1000);
    bench.live(1, &[other]);
    assert_eq!(bench.place(1), None);
    bench.connect(standby, 1000);
    bench.live(8, &[standby, other]);
    assert_eq!(
        (bench.place(1), base(&bench)),
        (Some((node(standby), 2)), a_copy(snapshot(1, 7))),
        "{}",
        bench.reason(1)
    );
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

/// The node whose newest copy is of lost writes may have an older one that is not, and nobody else has it any more.
#[test]
fn a_copy_before_the_newest_counts_when_the_newest_does_not() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    dies(&mut bench, primary, &[standby, other]);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(standby), 2)), a_copy(snapshot(1, 7))));
    dies(&mut bench, standby, &[other]);
    assert_eq!(bench.place(1), None, "{}", bench.reason(1));
    bench.data.insert(node(primary), copies(&[snapshot(1, 9), snapshot(1, 8)]));
    bench.connect(primary, 1000);
    bench.live(2, &[primary, other]);
    assert_eq!(bench.place(1), None, "{}", bench.reason(1));
    bench.data.insert(node(primary), copies(&[snapshot(1, 9), snapshot(1, 7)]));
    bench.live(2, &[primary, other]);
    let after = a_copy_after(Some(snapshot(1, 7)), 2, snapshot(1, 7));
    assert_eq!((bench.place(1), base(&bench)), (Some((node(primary), 3)), after), "{}", bench.reason(1));
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
