//! Stories about planned moves: a program runs on another node with all its data, or goes on where it was.

use std::time::Duration;

use protocol::Epoch;
use protocol::api::scheduler::{MoveOutcome, MovePhase, ProgramState};
use protocol::control::{Refusal, ReportedState};
use protocol::data::{DataBase, DataOrder, DataReport, LiveReport};
use protocol::history::Fact;
use protocol::operation::Operation;

use super::bench::*;
use super::data::{
    a_copy, a_copy_after, base, bench_with_data, copy, dies, keeper, live, orders, replicated, runs_on, snapshot,
    with_volume,
};
use crate::core::moves::{MoveEnd, Objection, PRECOPY_AT_MOST, SETTLE_AT_MOST};
use crate::core::view::MovingView;
use crate::core::{Cause, Notice};

fn to(number: u8) -> Operation {
    Operation::Move { program: program(1), to: Some(node(number)) }
}

fn anywhere() -> Operation {
    Operation::Move { program: program(1), to: None }
}

fn cancel() -> Operation {
    Operation::CancelMove { program: program(1) }
}

fn drain(number: u8) -> Operation {
    Operation::Drain { node: node(number), reason: "new kernel".into() }
}

fn moving(bench: &Bench) -> Option<MovingView> {
    bench.scheduler.program_view(program(1)).unwrap().moving
}

fn phase(bench: &Bench) -> Option<MovePhase> {
    moving(bench).map(|moving| moving.phase)
}

fn last(bench: &Bench) -> MoveEnd {
    bench.scheduler.program_view(program(1)).unwrap().last_move.expect("a move ended")
}

fn lost(bench: &Bench) -> bool {
    bench.scheduler.program_view(program(1)).unwrap().data.unwrap().loss.is_some()
}

fn objection(bench: &Bench, operation: &Operation) -> String {
    bench.scheduler.objection(operation).expect("it is refused").to_string()
}

/// A program without data on the first of three nodes.
fn plain() -> Bench {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 300));
    bench.live(1, &[1]);
    bench.list(&[1, 2, 3]);
    for number in [2, 3] {
        bench.connect(number, 1000);
    }
    bench.live(1, &[1, 2, 3]);
    bench
}

/// What it wrote under an epoch, and how much of it was never copied.
fn writes(epoch: u64, sequence: u64, at_risk: Duration) -> Vec<DataReport> {
    let (confirmed, at_risk_ms) = (Some(snapshot(epoch, sequence)), at_risk.as_millis().try_into().unwrap());
    let live = LiveReport { epoch: Epoch::new(epoch), confirmed, at_risk_ms, is_final: false };
    vec![DataReport { program: program(1), live: Some(live), copy: None, earlier: Vec::new() }]
}

/// The node says that nothing of it runs any more.
fn lets_go(bench: &mut Bench, number: u8, epoch: u64) {
    bench.beat(number, &[]);
    bench.beat(number, &[says(1, epoch, ReportedState::Released)]);
}

/// It was stopped for its standby, which has 1-7 only, while 1-8 is on its way.
fn stopped() -> (Bench, u8, u8, u8) {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    bench.order(to(standby));
    bench.live(1, &[1, 2, 3]);
    assert_eq!((bench.state(1), phase(&bench)), (ProgramState::Stopping, Some(MovePhase::Stopping)));
    lets_go(&mut bench, primary, 1);
    assert_eq!((bench.place(1), phase(&bench)), (None, Some(MovePhase::Finishing)));
    (bench, primary, standby, other)
}

/// It is assigned to the standby, which has everything and has not been heard since.
fn handed_over() -> (Bench, u8, u8, u8) {
    let (mut bench, primary, standby, other) = stopped();
    let report =
        DataReport { copy: copy(snapshot(1, 8))[0].copy.clone(), ..live(1, Some(snapshot(1, 8)), true)[0].clone() };
    bench.data.insert(node(primary), vec![report]);
    bench.data.insert(node(standby), copy(snapshot(1, 8)));
    bench.live(1, &[primary]);
    bench.beat(standby, &[]);
    assert_eq!((bench.place(1), phase(&bench)), (Some((node(standby), 2)), Some(MovePhase::Starting)));
    (bench, primary, standby, other)
}

#[test]
fn a_program_without_data_moves_at_once_to_the_node_that_was_named() {
    let mut bench = plain();
    bench.order(to(3));
    assert_eq!(phase(&bench), Some(MovePhase::Stopping));
    lets_go(&mut bench, 1, 1);
    assert_eq!((bench.place(1), phase(&bench)), (Some((node(3), 2)), Some(MovePhase::Starting)));
    assert_eq!(bench.database.moves.len(), 1, "it is not over before it is ready");
    bench.live(1, &[1, 2, 3]);
    let end = last(&bench);
    assert_eq!((end.outcome, end.from, end.to), (MoveOutcome::Done, node(1), Some(node(3))));
    assert_eq!((phase(&bench), end.not_ready), (None, Some(Duration::ZERO)));
    assert_eq!((bench.database.closed[0].2, bench.database.moves.len()), (Cause::Moved, 0));
    let by = protocol::Address::new("0x01");
    assert_eq!(bench.database.facts[0].1, Fact::MoveAsked { by, to: Some(node(3)) });
    assert!(bench.took_notice(&Notice::Moving { program: program(1), epoch: Some(Epoch::new(2)), phase: None }));
}

#[test]
fn without_a_name_any_other_node_will_do() {
    let mut bench = plain();
    bench.order(anywhere());
    lets_go(&mut bench, 1, 1);
    bench.live(1, &[1, 2, 3]);
    assert_ne!(bench.place(1).unwrap().0, node(1));
    assert_eq!(last(&bench).outcome, MoveOutcome::Done);
    bench.live(30, &[1, 2, 3]);
    assert_eq!(bench.place(1).unwrap().1, 2, "and it stays there");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let mut bench = plain();
    let unknown = Operation::Move { program: program(9), to: None };
    assert!(matches!(bench.scheduler.objection(&unknown), Some(Objection::Unknown(_))));
    assert!(matches!(bench.scheduler.objection(&to(9)), Some(Objection::Unknown(_))));
    assert!(objection(&bench, &to(1)).contains("already"));
    assert!(objection(&bench, &cancel()).contains("nothing to cancel"));
    assert!(objection(&bench, &Operation::CancelMove { program: program(9) }).contains("no persistent program"));
    bench.order(drain(2));
    assert!(objection(&bench, &to(2)).ends_with("cannot take it: draining"), "{}", objection(&bench, &to(2)));
    bench.connect(3, 100);
    bench.live(1, &[1, 3]);
    let full = objection(&bench, &to(3));
    assert!(full.ends_with("too little memory (needs 300 MiB, most free 100 MiB)"), "{full}");
    let nowhere = objection(&bench, &anywhere());
    assert!(
        nowhere.starts_with("it cannot leave its node: no node fits: 2 nodes, 1 draining, 1 with too"),
        "{nowhere}"
    );
    // What is ordered all the same, as things were otherwise a moment ago, does nothing and is not remembered.
    bench.order(to(3));
    assert_eq!((phase(&bench), bench.database.moves.len()), (None, 0));
    bench.gone(1);
    assert!(objection(&bench, &to(3)).contains("its message was forgotten"));
}

#[test]
fn a_program_that_runs_nowhere_is_not_moved() {
    let mut bench = Bench::with_nodes(&[(1, 100), (2, 100)]);
    bench.desire(&spec(1, 300));
    assert!(objection(&bench, &to(1)).contains("runs nowhere now"));
}

#[test]
fn the_second_order_counts_and_can_be_taken_back_until_it_is_stopped() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    bench.data.insert(node(primary), writes(1, 7, Duration::from_secs(9)));
    bench.live(1, &[1, 2, 3]);
    bench.order(to(standby));
    assert_eq!(moving(&bench).unwrap().behind, Some(Duration::from_secs(9)));
    bench.order(to(other));
    assert_eq!((phase(&bench), moving(&bench).unwrap().to), (Some(MovePhase::Copying), Some(node(other))));
    assert_eq!(keeper(&bench), Some(other));
    assert_eq!(
        bench.database.standbys.get(&program(1)),
        Some(&node(standby)),
        "which counts until the other is filled"
    );
    bench.order(cancel());
    bench.live(5, &[1, 2, 3]);
    assert_eq!((phase(&bench), bench.place(1)), (None, Some((node(primary), 1))));
    assert_eq!((last(&bench).outcome, bench.database.moves.len()), (MoveOutcome::Cancelled, 0));
    assert!(bench.database.facts.iter().any(|(_, fact)| matches!(fact, Fact::MoveCancelled { .. })));

    let (bench, ..) = stopped();
    assert!(objection(&bench, &cancel()).contains("too late"), "{}", objection(&bench, &cancel()));
    assert!(objection(&bench, &anywhere()).contains("moves to node"), "{}", objection(&bench, &anywhere()));
}

#[test]
fn a_program_with_data_is_stopped_when_the_copy_is_near_and_starts_when_it_is_exact() {
    let (mut bench, primary, standby, _) = stopped();
    let told = orders(&bench);
    assert!(told.iter().any(|(number, entry)| *number == primary && matches!(entry.order, DataOrder::Live { .. })));
    assert!(told.iter().any(|(number, entry)| *number == standby && matches!(entry.order, DataOrder::Keep { .. })));
    let used = |bench: &Bench, number: u8| bench.scheduler.nodes[&node(number)].offer.used.memory_mib;
    assert_eq!((used(&bench, primary), used(&bench, standby)), (300, 300), "it may have to go back");
    assert!(bench.reason(1).contains("what it wrote last is copied"), "{}", bench.reason(1));
    bench.data.insert(node(primary), live(1, Some(snapshot(1, 8)), true));
    bench.live(2, &[1, 2, 3]);
    assert_eq!(bench.place(1), None, "the standby did not say yet that it has 1-8");
    bench.data.insert(node(standby), copy(snapshot(1, 8)));
    bench.live(1, &[1, 2, 3]);
    assert_eq!(bench.place(1), Some((node(standby), 2)));
    assert_eq!(base(&bench), a_copy(snapshot(1, 8)));
    bench.live(1, &[1, 2, 3]);
    assert_eq!((last(&bench).outcome, lost(&bench)), (MoveOutcome::Done, false));
    assert_eq!(used(&bench, primary) + used(&bench, standby), if keeper(&bench) == Some(primary) { 600 } else { 300 });
}

#[test]
fn a_program_that_writes_faster_than_it_is_copied_is_stopped_after_a_while() {
    let mut bench = bench_with_data();
    let (primary, standby, _) = replicated(&mut bench);
    // It never gets near.
    bench.data.insert(node(primary), writes(1, 7, Duration::from_secs(20)));
    bench.live(1, &[1, 2, 3]);
    bench.order(to(standby));
    let seconds = u32::try_from(PRECOPY_AT_MOST.as_secs()).unwrap();
    let mut bench_of = |beats: u32| {
        bench.live(beats, &[1, 2, 3]);
        (bench.state(1), phase(&bench))
    };
    assert_eq!(bench_of(seconds - 2), (ProgramState::Ready, Some(MovePhase::Copying)));
    assert_eq!(bench_of(3), (ProgramState::Stopping, Some(MovePhase::Stopping)));
}

#[test]
fn what_never_arrives_is_waited_for_and_then_it_goes_on_where_it_was() {
    let (mut bench, primary, standby, _) = stopped();
    let seconds = u32::try_from(SETTLE_AT_MOST.as_secs()).unwrap();
    bench.live(seconds - 2, &[1, 2, 3]);
    assert_eq!(phase(&bench), Some(MovePhase::Finishing));
    bench.live(3, &[1, 2, 3]);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(primary), 2)), Some(DataBase::Own { epoch: Epoch::FIRST })));
    let end = last(&bench);
    assert_eq!((end.outcome, end.to, lost(&bench)), (MoveOutcome::Failed, Some(node(standby)), false));
    assert!(end.reason.unwrap().contains("within 30 s"));
    assert_eq!((phase(&bench), bench.database.moves.len()), (None, 0), "an order is tried once");
    let is_failure = |(epoch, fact): &(Epoch, Fact)| epoch.get() == 2 && matches!(fact, Fact::MoveFailed { .. });
    assert!(bench.database.facts.iter().any(is_failure), "{:?}", bench.database.facts);
}

#[test]
fn a_silent_source_is_waited_for_and_a_lost_one_is_a_crash_whose_loss_is_said() {
    let (mut bench, primary, standby, other) = stopped();
    bench.disconnect(primary);
    bench.live(3, &[standby, other]);
    assert_eq!((bench.place(1), phase(&bench)), (None, Some(MovePhase::Finishing)));
    bench.live(6, &[standby, other]);
    assert_eq!(bench.place(1).map(|(node, _)| node), Some(node(standby)));
    assert!(lost(&bench), "it had written 1-8");
    assert_eq!(last(&bench).outcome, MoveOutcome::Failed);
}

#[test]
fn a_target_that_goes_silent_while_the_last_writes_are_copied_is_not_waited_for() {
    let (mut bench, primary, standby, other) = stopped();
    bench.disconnect(standby);
    bench.live(4, &[primary, other]);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(primary), 2)), Some(DataBase::Own { epoch: Epoch::FIRST })));
    assert!(last(&bench).reason.unwrap().contains("not heard of"));
}

#[test]
fn a_forgotten_program_moves_no_more() {
    let (mut bench, _, standby, _) = stopped();
    bench.gone(1);
    assert!(bench.scheduler.program_view(program(1)).is_none());
    assert_eq!((bench.scheduler.nodes[&node(standby)].offer.programs, bench.database.moves.len()), (0, 0));
    let mut bench = plain();
    bench.order(to(2));
    bench.gone(1);
    lets_go(&mut bench, 1, 1);
    assert!(bench.scheduler.program_view(program(1)).is_none());
}

#[test]
fn a_target_that_refuses_sends_it_back_with_everything() {
    for refusal in [Refusal::NoCapacity, Refusal::NoData] {
        let (mut bench, primary, standby, other) = handed_over();
        assert_ne!(keeper(&bench), Some(primary), "what it may go back to is not overwritten");
        let refused = says(1, 2, ReportedState::Refused(refusal));
        bench.beat(standby, std::slice::from_ref(&refused));
        bench.beat(standby, std::slice::from_ref(&refused));
        bench.beat(standby, &[refused]);
        bench.live(1, &[primary, other]);
        assert_eq!(bench.place(1), Some((node(primary), 3)));
        assert_eq!((base(&bench), lost(&bench)), (Some(DataBase::Own { epoch: Epoch::FIRST }), false));
        let end = last(&bench);
        assert!(end.outcome == MoveOutcome::Failed && end.reason.unwrap().contains("did not take it"));
        bench.live(5, &[primary, other]);
        assert_eq!((bench.place(1), bench.state(1)), (Some((node(primary), 3)), ProgramState::Ready));
    }
}

#[test]
fn a_node_without_the_data_has_written_nothing_even_for_the_next_scheduler() {
    let (mut bench, primary, standby, other) = handed_over();
    bench.restart();
    for number in [primary, standby, other] {
        bench.connect(number, 1000);
    }
    assert_eq!(phase(&bench), Some(MovePhase::Starting));
    bench.live(1, &[primary, other]);
    let refused = says(1, 2, ReportedState::Refused(Refusal::NoData));
    for _ in 0..3 {
        bench.beat(standby, std::slice::from_ref(&refused));
    }
    bench.live(1, &[primary, other]);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(primary), 3)), Some(DataBase::Own { epoch: Epoch::FIRST })));
    assert_eq!(last(&bench).outcome, MoveOutcome::Failed);

    // One that ran it, and lost the data since, has written.
    let (mut bench, primary, standby, other) = handed_over();
    bench.beat(standby, &[says(1, 2, ReportedState::Starting)]);
    let refused = says(1, 2, ReportedState::Refused(Refusal::NoData));
    for _ in 0..3 {
        bench.beat(standby, std::slice::from_ref(&refused));
    }
    bench.live(1, &[primary, other]);
    assert!(lost(&bench), "what epoch 2 wrote");
}

#[test]
fn a_target_that_was_never_told_is_no_loss() {
    let (mut bench, primary, standby, other) = stopped();
    bench.data.insert(node(standby), copy(snapshot(1, 8)));
    bench.beat(standby, &[]);
    bench.data.insert(node(primary), live(1, Some(snapshot(1, 8)), true));
    bench.live(1, &[primary, other]);
    assert_eq!(bench.place(1), Some((node(standby), 2)));
    bench.disconnect(standby);
    bench.live(4, &[primary, other]);
    assert_eq!((bench.place(1), base(&bench)), (Some((node(primary), 3)), Some(DataBase::Own { epoch: Epoch::FIRST })));
    assert!(!lost(&bench));
    assert!(last(&bench).reason.unwrap().contains("silent"));
}

#[test]
fn a_target_that_dies_before_it_said_that_it_starts_may_have_written() {
    let (mut bench, primary, standby, other) = handed_over();
    // It was granted the assignment.
    bench.beat(standby, &[]);
    dies(&mut bench, standby, &[primary, other]);
    assert_eq!(bench.place(1), Some((node(primary), 3)), "{}", bench.reason(1));
    assert_eq!(base(&bench), a_copy_after(Some(snapshot(1, 8)), 2, snapshot(1, 8)));
    let loss = bench.scheduler.program_view(program(1)).unwrap().data.unwrap().loss.unwrap();
    assert_eq!((loss.epoch, loss.snapshot), (Epoch::new(2), Some(snapshot(1, 8))), "nobody can know, so it is said");
    assert_eq!(last(&bench).outcome, MoveOutcome::Failed);
}

#[test]
fn a_target_that_dies_after_it_was_ready_is_a_crash_like_any_other() {
    let (mut bench, primary, standby, other) = handed_over();
    bench.live(2, &[1, 2, 3]);
    assert_eq!(last(&bench).outcome, MoveOutcome::Done);
    let newest = snapshot(2, 1);
    bench.data.insert(node(standby), live(2, Some(newest), false));
    let copies = keeper(&bench).unwrap();
    bench.data.insert(node(copies), copy(newest));
    bench.live(1, &[1, 2, 3]);
    let others: Vec<_> = [primary, other].into();
    dies(&mut bench, standby, &others);
    assert_eq!(bench.place(1), Some((node(copies), 3)));
    assert_eq!(base(&bench), a_copy_after(Some(snapshot(1, 8)), 2, newest));
}

#[test]
fn a_drained_node_takes_its_program_back_and_the_pauses_grow() {
    let mut bench = bench_with_data();
    let (primary, standby, _) = replicated(&mut bench);
    bench.order(drain(primary));
    let mut stops = Vec::new();
    for second in 0_u64..400 {
        bench.live(1, &[1, 2, 3]);
        if bench.state(1) == ProgramState::Stopping {
            stops.push(second);
            let (writer, epoch) = bench.place(1).unwrap();
            assert_eq!(writer, node(primary));
            lets_go(&mut bench, primary, epoch);
        }
        // Every standby has what was written before, and never the rest.
        if let Some((_, epoch)) = bench.place(1) {
            let newest = snapshot(epoch, 1);
            bench.data.insert(node(primary), live(epoch, Some(newest), false));
            keeper(&bench).map(|number| bench.data.insert(node(number), copy(newest)));
        }
    }
    let waits: Vec<_> = stops.windows(2).map(|pair| pair[1] - pair[0] - SETTLE_AT_MOST.as_secs()).collect();
    assert!(waits.len() >= 3 && waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
    assert!(standby != primary && !lost(&bench));
}

#[test]
fn a_new_scheduler_goes_on_with_what_was_ordered() {
    let mut bench = bench_with_data();
    let (primary, standby, other) = replicated(&mut bench);
    bench.data.insert(node(primary), writes(1, 7, Duration::from_secs(9)));
    bench.live(1, &[1, 2, 3]);
    bench.order(to(other));
    bench.restart();
    assert_eq!(
        moving(&bench).map(|moving| (moving.cause, moving.by)),
        Some((Cause::Moved, Some(protocol::Address::new("0x01"))))
    );
    for number in [primary, standby, other] {
        bench.connect(number, 1000);
    }
    bench.live(2, &[1, 2, 3]);
    assert_eq!(keeper(&bench), Some(other));
    bench.data.insert(node(primary), live(1, Some(snapshot(1, 9)), false));
    bench.data.insert(node(other), copy(snapshot(1, 9)));
    bench.live(2, &[1, 2, 3]);
    assert_eq!(phase(&bench), Some(MovePhase::Stopping));
}

#[test]
fn what_is_overtaken_is_retired_and_nothing_before_that_is_sure() {
    let (mut bench, primary, standby, other) = handed_over();
    let retired = |bench: &Bench| -> Vec<(u8, u64)> {
        let retire = |(_, entry): &(u8, protocol::data::DataEntry)| entry.order == DataOrder::Retire;
        orders(bench).into_iter().filter(retire).map(|(number, entry)| (number, entry.epoch.get())).collect()
    };
    bench.beat(primary, &[]);
    assert_eq!(retired(&bench), [], "it is not ready yet");
    bench.live(2, &[1, 2, 3]);
    assert_eq!((runs_on(&bench), retired(&bench)), (standby, vec![]), "the new standby has nothing yet");
    let newest = snapshot(2, 1);
    bench.data.insert(node(standby), live(2, Some(newest), false));
    // Whoever keeps copies, another one has old ones.
    let copies = keeper(&bench).unwrap();
    let stale = primary + other - copies;
    bench.data.insert(node(copies), copy(newest));
    bench.data.insert(node(stale), copy(snapshot(1, 8)));
    bench.live(2, &[1, 2, 3]);
    assert_eq!(retired(&bench), [(stale, 2)]);
    // It has removed it.
    bench.data.remove(&node(stale));
    bench.live(1, &[1, 2, 3]);
    assert_eq!(retired(&bench), []);
    // The standby is lost: what is elsewhere may be needed again.
    bench.data.insert(node(stale), copy(snapshot(1, 8)));
    bench.live(1, &[1, 2, 3]);
    assert_eq!(retired(&bench), [(stale, 2)]);
    bench.disconnect(copies);
    bench.live(4, &[standby, stale]);
    assert_eq!(retired(&bench), []);
}

#[test]
fn a_program_waits_where_it_is_when_the_node_that_was_named_is_full() {
    let mut bench = Bench::with_nodes(&[(1, 1000), (2, 1000)]);
    bench.desire(&with_volume(|_| ()));
    bench.live(1, &[1, 2]);
    let (here, there) = (runs_on(&bench), 3 - runs_on(&bench));
    bench.order(to(there));
    bench.order(drain(there));
    bench.live(5, &[1, 2]);
    assert_eq!((phase(&bench), bench.place(1)), (Some(MovePhase::Waiting), Some((node(here), 1))));
    assert_eq!(moving(&bench).unwrap().to, Some(node(there)));
}
