//! What happens when the database fails.

use std::time::Duration;

use protocol::control::ReportedState;

use super::bench::*;
use crate::core::{Event, Proof, Writer};

#[test]
fn a_failed_store_never_starts_anything_and_is_tried_again() {
    for takes_effect in [false, true] {
        let mut bench = Bench::with_nodes(&[(1, 1000)]);
        bench.broken = Some(takes_effect);
        bench.desire(&spec(1, 600));
        bench.desire(&spec(2, 600));
        assert_eq!(bench.beat(1, &[]).entries, None);
        assert!(bench.reason(1).contains("database"), "{}", bench.reason(1));
        assert!(bench.reason(2).contains("too little memory"), "the room counts as taken: {}", bench.reason(2));
        bench.broken = None;
        bench.advance(Duration::from_secs(1));
        assert_eq!(bench.place(1), Some((node(1), 1)), "one epoch, however often it was tried");
    }
}

#[test]
fn a_failing_database_is_asked_less_and_less_often() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.broken = Some(false);
    bench.desire(&spec(1, 100));
    let mut waits = Vec::new();
    for _ in 0..9 {
        let next = bench.scheduler.next_wakeup().unwrap();
        waits.push(bench.now.until(next).as_millis());
        bench.beat(1, &[]);
        bench.advance(bench.now.until(next));
    }
    waits.retain(|wait| *wait > 0);
    assert!(waits.starts_with(&[100, 200, 400, 800]), "{waits:?}");
}

#[test]
fn an_end_that_could_not_be_written_is_written_before_the_next_assignment() {
    for takes_effect in [false, true] {
        let mut bench = Bench::with_nodes(&[(1, 1000), (2, 2000)]);
        bench.desire(&spec(1, 100));
        bench.beat_all(1, &ReportedState::Ready);
        bench.broken = Some(takes_effect);
        bench.live(6, &[2]);
        assert_eq!((bench.place(1), bench.set(1), bench.set(2)), (None, vec![], vec![]));
        bench.broken = None;
        bench.live(10, &[2]);
        assert_eq!(bench.place(1), Some((node(2), 2)));
        assert_eq!(bench.database.closed.len(), 1);
    }
}

#[test]
fn room_is_free_only_when_the_end_is_durable() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 600));
    bench.beat_all(1, &ReportedState::Ready);
    bench.broken = Some(false);
    bench.advance(Duration::from_secs(6));
    bench.desire(&spec(2, 600));
    bench.beat(1, &[]);
    bench.broken = None;
    bench.restart();
    bench.connect(1, 1000);
    bench.beat(1, &[]);
    assert_eq!((bench.place(1), bench.place(2)), (Some((node(1), 1)), None));
}

#[test]
fn a_program_that_goes_while_its_store_fails_leaves_nothing_behind() {
    for takes_effect in [false, true] {
        let mut bench = Bench::with_nodes(&[(1, 1000)]);
        bench.broken = Some(takes_effect);
        bench.desire(&spec(1, 100));
        bench.gone(1);
        bench.broken = None;
        bench.advance(Duration::from_secs(10));
        assert!(bench.scheduler.program_view(program(1)).is_none());
        assert!(bench.database.open.is_empty() && bench.database.programs.is_empty());
        assert_eq!(bench.scheduler.node_view(node(1)).unwrap().offer.programs, 0);
    }
}

/// Found by the simulation: the write may have taken effect, and then a scheduler that starts finds the assignment.
#[test]
fn room_of_a_program_that_goes_while_its_store_fails_is_free_only_when_that_is_durable() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.broken = Some(true);
    bench.desire(&spec(1, 600));
    bench.broken = Some(false);
    bench.gone(1);
    bench.desire(&spec(2, 600));
    bench.beat(1, &[]);
    assert!(bench.reason(2).contains("too little memory"), "{}", bench.reason(2));
    bench.broken = None;
    bench.advance(Duration::from_secs(1));
    assert!(bench.scheduler.program_view(program(1)).is_none());
    assert_eq!(bench.place(2), Some((node(1), 1)));
}

#[test]
fn a_program_that_goes_while_it_is_stored_is_never_started() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    let desired = Event::ProgramDesired { spec: spec(1, 100), origin: crate::core::Origin::Published };
    bench.scheduler.handle(bench.now, chrono::DateTime::UNIX_EPOCH, desired);
    bench.gone(1);
    let open = Writer { program: program(1), node: node(1), epoch: protocol::Epoch::FIRST, start: None };
    bench.database.open.insert(program(1), open);
    bench.event(Event::Stored { program: program(1), node: node(1), epoch: protocol::Epoch::FIRST });
    assert!(bench.scheduler.program_view(program(1)).is_none());
    assert_eq!(bench.database.closed[0].3, Proof::NeverGranted);
}

#[test]
fn a_crash_between_write_and_answer_keeps_the_assignment() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.broken = Some(true);
    bench.desire(&spec(1, 100));
    bench.broken = None;
    bench.restart();
    assert_eq!(bench.place(1), Some((node(1), 1)));
}

#[test]
fn an_assignment_of_a_program_that_is_not_known_is_kept_until_somebody_says_what_it_is() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 600));
    bench.database.programs.clear();
    bench.restart();
    bench.connect(1, 1000);
    let grant = bench.beat(1, &[]);
    assert_eq!(grant.entries, Some(vec![run(1, 1)]));
    bench.desire(&spec(1, 600));
    bench.desire(&spec(2, 600));
    assert!(bench.reason(2).contains("most free 400 MiB"), "{}", bench.reason(2));
    assert!(bench.database.programs.contains_key(&program(1)));
}
