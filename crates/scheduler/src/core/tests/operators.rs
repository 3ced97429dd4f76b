//! Operators' orders, brakes, and nodes that flap.

use std::time::Duration;

use protocol::Epoch;
use protocol::api::scheduler::ProgramState;
use protocol::control::ReportedState;
use protocol::operation::Operation;

use super::bench::*;
use crate::core::brake::{Brake, BrakePolicy};
use crate::core::{Cause, Notice, Proof};

fn drain(number: u8) -> Operation {
    Operation::Drain { node: node(number), reason: "new kernel".into() }
}

/// So many nodes, and a program that runs on each.
fn full(nodes: u8) -> Bench {
    let mut bench = Bench::with_nodes(&(1..=nodes).map(|number| (number, 1000)).collect::<Vec<_>>());
    for number in 1..=nodes {
        bench.desire(&spec(number, 600));
    }
    bench.live(1, &(1..=nodes).collect::<Vec<_>>());
    bench
}

#[test]
fn a_drained_node_gets_nothing_new_and_its_programs_move_when_there_is_room() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    bench.live(1, &[1]);
    bench.order(drain(1));
    bench.desire(&spec(2, 100));
    bench.live(3, &[1]);
    assert_eq!(bench.place(1), Some((node(1), 1)), "there is nowhere to go");
    assert!(bench.reason(2).contains("1 draining"), "{}", bench.reason(2));
    bench.list(&[1, 2]);
    bench.connect(2, 1000);
    bench.live(1, &[2]);
    // It is asked to stop, and only when it is gone there the other one runs it.
    assert_eq!(bench.state(1), ProgramState::Stopping);
    let released = report(program(1), Epoch::FIRST, ReportedState::Released);
    bench.beat(1, &[]);
    bench.beat(1, &[released]);
    bench.live(1, &[2]);
    assert_eq!((bench.place(1), bench.place(2)), (Some((node(2), 2)), Some((node(2), 1))));
    assert_eq!(bench.database.closed[0].2, Cause::Draining);
}

#[test]
fn draining_outlives_the_scheduler_and_ends_by_order() {
    let mut bench = full(1);
    bench.order(drain(1));
    bench.restart();
    bench.connect(1, 1000);
    bench.live(1, &[1]);
    bench.desire(&spec(2, 100));
    assert!(bench.reason(2).contains("draining"));
    bench.list(&[1, 2]);
    bench.connect(2, 1000);
    bench.order(Operation::Undrain { node: node(1) });
    bench.live(1, &[1, 2]);
    assert_eq!(bench.place(1), Some((node(1), 1)), "it stays after all");
    assert_eq!(bench.place(2), Some((node(1), 1)));
}

#[test]
fn a_node_that_is_given_up_is_not_waited_for_unless_it_lives() {
    let mut bench = Bench::with_nodes(&[(1, 700), (2, 1000)]);
    bench.desire(&spec(1, 600));
    bench.live(1, &[1, 2]);
    bench.order(Operation::Lost { node: node(1) });
    assert_eq!(bench.place(1), Some((node(1), 1)), "it sends heartbeats: that is no word to take");
    bench.live(3, &[2]);
    assert_eq!(bench.state(1), ProgramState::Unknown);
    bench.order(Operation::Lost { node: node(1) });
    assert_eq!(bench.place(1), Some((node(2), 2)), "without waiting for the lease");
    assert_eq!(bench.database.closed[0].3, Proof::Declared);
}

#[test]
fn when_most_nodes_vanish_nothing_moves_until_they_return() {
    let mut bench = full(8);
    let vanish = |bench: &Bench, number: u8| (1..=5).any(|gone| bench.place(number).unwrap().0 == node(gone));
    let (lost, kept): (Vec<u8>, Vec<u8>) = (1..=8).partition(|number| vanish(&bench, *number));
    // Room for all on the nodes that stay.
    bench.list(&(1..=9).collect::<Vec<_>>());
    bench.connect(9, 100_000);
    bench.live(1, &[6, 7, 8, 9]);
    bench.live(10, &[6, 7, 8, 9]);
    assert!(lost.iter().all(|number| bench.place(*number).is_none()), "their leases are over");
    let view = bench.scheduler.program_view(program(lost[0])).unwrap();
    assert!(view.note.unwrap().contains("5 of 9 nodes"), "and it says why they wait");
    assert!(bench.notices.iter().any(|notice| matches!(notice, Notice::Brake { stopped: Some(_) })));
    assert_eq!(bench.place(kept[0]).unwrap().1, 1, "what runs, runs on");
    bench.desire(&spec(20, 100));
    assert!(bench.place(20).is_some(), "what is new is placed");
    bench.connect(1, 1000);
    bench.live(1, &[1, 6, 7, 8, 9]);
    assert!(lost.iter().all(|number| bench.place(*number).unwrap().1 == 2), "four of nine are not most");
}

#[test]
fn an_operator_lets_it_go_on() {
    let mut bench = full(8);
    bench.list(&(1..=9).collect::<Vec<_>>());
    bench.connect(9, 100_000);
    bench.live(1, &[9]);
    bench.live(10, &[9]);
    assert_eq!(bench.place(3), None);
    bench.order(Operation::Resume);
    bench.live(1, &[9]);
    assert!((1..=8).all(|number| bench.place(number).is_some_and(|(at, _)| at == node(9))));
    assert_eq!(bench.scheduler.brake(), None);
}

#[test]
fn reallocations_keep_a_pace() {
    let mut bench = Bench::with_nodes(&[(1, 100_000)]);
    bench.scheduler.brake = Brake::new(BrakePolicy { burst: 20, ..BrakePolicy::default() });
    let programs = 1..=40;
    for number in programs.clone() {
        bench.desire(&spec(number, 100));
    }
    bench.live(1, &[1]);
    bench.list(&[1, 2]);
    bench.connect(2, 200_000);
    bench.live(5, &[2]);
    let moved = |bench: &Bench| programs.clone().filter(|n| bench.place(*n).is_some_and(|(_, e)| e == 2)).count();
    assert_eq!(moved(&bench), 0);
    bench.advance(Duration::from_millis(210));
    assert!((20..25).contains(&moved(&bench)), "{} at once", moved(&bench));
    bench.live(1, &[2]);
    assert_eq!(moved(&bench), 40, "the rest in its time");
}

#[test]
fn a_node_that_falls_silent_again_and_again_is_not_preferred() {
    let mut bench = Bench::with_nodes(&[(1, 500), (2, 100_000)]);
    bench.desire(&spec(1, 100));
    assert_eq!(bench.place(1), Some((node(1), 1)), "it fits better");
    for _ in 0..2 {
        bench.live(4, &[2]);
        bench.live(1, &[1, 2]);
    }
    bench.desire(&spec(2, 100));
    assert_eq!(bench.place(2), Some((node(2), 1)));
    bench.live(700, &[1, 2]);
    bench.desire(&spec(3, 100));
    assert_eq!(bench.place(3), Some((node(1), 1)), "it is forgiven");
}
