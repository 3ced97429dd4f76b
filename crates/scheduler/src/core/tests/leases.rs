//! Leases: what their end brings about, and that nothing else does.

use std::time::Duration;

use protocol::Epoch;
use protocol::api::scheduler::{NodeStatus, ProgramState, VmStatus};
use protocol::control::ReportedState;

use super::bench::*;
use crate::core::{Cause, Event, Notice, Proof};

const NANOSECOND: Duration = Duration::from_nanos(1);

/// Two nodes, and a program that runs on the first.
fn running() -> Bench {
    let mut bench = Bench::with_nodes(&[(1, 1000), (2, 2000)]);
    bench.desire(&spec(1, 100));
    bench.beat_all(1, &ReportedState::Ready);
    assert_eq!(bench.place(1), Some((node(1), 1)));
    bench
}

#[test]
fn a_silent_node_loses_its_programs_when_the_lease_is_over_and_not_before() {
    let mut bench = running();
    let over = bench.now + bench.times.longest_wait();
    for _ in 0..5 {
        bench.advance(Duration::from_secs(1));
        bench.beat(2, &[]);
    }
    bench.advance(bench.now.until(over) - NANOSECOND);
    assert_eq!(bench.place(1), Some((node(1), 1)), "the lease may still live");
    assert_eq!(bench.scheduler.next_wakeup(), Some(over), "the timer stands exactly at its end");
    bench.advance(NANOSECOND);
    assert_eq!(bench.place(1), Some((node(2), 2)));
    assert_eq!(bench.database.closed, [(program(1), Epoch::FIRST, Cause::NodeSilent, Proof::LeaseOver)]);
}

#[test]
fn an_end_of_the_connection_ends_no_lease() {
    let mut bench = running();
    bench.disconnect(1);
    bench.live(4, &[2]);
    assert_eq!(bench.place(1), Some((node(1), 1)));
    bench.connect(1, 1000);
    bench.beat(1, &[]);
    bench.live(10, &[1, 2]);
    assert_eq!(bench.place(1), Some((node(1), 1)), "it came back in time");
}

#[test]
fn a_node_that_reports_nothing_keeps_its_programs() {
    let mut bench = running();
    for _ in 0..20 {
        bench.advance(Duration::from_secs(1));
        bench.beat(1, &[]);
        bench.beat(2, &[]);
    }
    assert_eq!(bench.place(1), Some((node(1), 1)));
}

#[test]
fn silence_is_shown_before_the_lease_is_over() {
    let mut bench = running();
    bench.live(2, &[2]);
    assert_eq!(bench.state(1), ProgramState::Unknown);
    assert_eq!(bench.scheduler.program_view(program(1)).unwrap().status, VmStatus::Missing);
    assert_eq!(bench.scheduler.node_view(node(1)).unwrap().status, NodeStatus::Unknown);
    assert!(bench.took_notice(&Notice::NodeSilent { node: node(1) }));
    bench.beat_all(1, &ReportedState::Ready);
    assert_eq!(bench.state(1), ProgramState::Ready);
    bench.live(6, &[2]);
    assert_eq!(bench.scheduler.node_view(node(1)).unwrap().status, NodeStatus::Unreachable);
}

#[test]
fn a_node_that_comes_back_releases_what_is_not_its_own_any_more() {
    let mut bench = running();
    bench.live(6, &[2]);
    assert_eq!(bench.place(1), Some((node(2), 2)));
    let grant = bench.beat(1, &[says(1, 1, ReportedState::Ready)]);
    assert_eq!(grant.entries, Some(vec![release(1, 1)]));
    assert!(bench.took_notice(&Notice::Stray { node: node(1), program: program(1), epoch: Epoch::FIRST }));
    // Invariant I2: what it says about the old epoch changes nothing.
    assert_eq!((bench.place(1), bench.state(1)), (Some((node(2), 2)), ProgramState::Ready));
    bench.beat(1, &[says(1, 1, ReportedState::Released)]);
    assert_eq!((bench.place(1), bench.set(1)), (Some((node(2), 2)), vec![]));
}

#[test]
fn a_program_that_returns_to_the_same_node_is_told_from_what_it_was() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    bench.beat_all(1, &ReportedState::Ready);
    bench.live(6, &[]);
    assert_eq!(bench.place(1), None);
    bench.beat(1, &[says(1, 1, ReportedState::Ready)]);
    bench.beat(1, &[says(1, 1, ReportedState::Ready)]);
    assert_eq!((bench.place(1), bench.set(1)), (Some((node(1), 2)), vec![run(1, 2), release(1, 1)]));
}

#[test]
fn a_release_that_nobody_confirms_ends_with_the_lease() {
    let mut bench = running();
    bench.gone(1);
    for _ in 0..5 {
        bench.advance(Duration::from_secs(1));
        bench.beat(1, &[says(1, 1, ReportedState::Stopping)]);
    }
    assert!(bench.scheduler.program_view(program(1)).is_some());
    bench.advance(Duration::from_secs(1));
    assert!(bench.scheduler.program_view(program(1)).is_none(), "a release is not renewed");
    assert_eq!(bench.database.closed[0].3, Proof::LeaseOver);
    let grant = bench.beat(1, &[says(1, 1, ReportedState::Stopping)]);
    assert_eq!(grant.entries, Some(vec![release(1, 1)]), "and what still runs is still told to end");
}

#[test]
fn after_a_restart_every_assignment_counts_as_just_renewed() {
    let mut bench = running();
    bench.live(3, &[2]);
    bench.restart();
    assert_eq!((bench.place(1), bench.state(1)), (Some((node(1), 1)), ProgramState::Unknown));
    bench.connect(2, 2000);
    bench.beat(2, &[]);
    bench.live(5, &[2]);
    assert_eq!(bench.place(1), Some((node(1), 1)), "the old scheduler may have renewed it just before it ended");
    bench.live(1, &[2]);
    assert_eq!(bench.place(1), Some((node(2), 2)));
}

#[test]
fn a_restart_moves_nothing_when_the_nodes_come_back() {
    let mut bench = running();
    bench.restart();
    for number in [2, 1] {
        bench.connect(number, 1000);
    }
    let grant = bench.beat(1, &[says(1, 1, ReportedState::Ready)]);
    assert_eq!(grant.entries, Some(vec![run(1, 1)]), "versions of the old process are not known here");
    bench.live(20, &[1, 2]);
    assert_eq!((bench.place(1), bench.database.closed.len()), (Some((node(1), 1)), 0));
}

#[test]
fn a_restart_with_shorter_leases_waits_for_the_longer_ones() {
    let mut bench = running();
    bench.database.lease_wait = Some(Duration::from_secs(30));
    bench.restart();
    bench.connect(2, 2000);
    bench.live(29, &[2]);
    assert_eq!(bench.place(1), Some((node(1), 1)));
    assert_eq!(bench.database.lease_wait, Some(Duration::from_secs(30)), "another restart has to wait as well");
    bench.live(1, &[2]);
    assert_eq!(bench.place(1), Some((node(2), 2)));
    assert_eq!(bench.database.lease_wait, Some(bench.times.longest_wait()));
}

#[test]
fn what_a_silent_node_was_never_told_is_placed_elsewhere_without_waiting() {
    let mut bench = running();
    bench.desire(&spec(2, 100));
    assert_eq!(bench.place(2), Some((node(1), 1)));
    bench.live(2, &[2]);
    assert_eq!(bench.place(2), Some((node(2), 2)));
    assert_eq!(bench.database.closed[0].3, Proof::NeverGranted);
    assert_eq!(bench.place(1), Some((node(1), 1)), "this one may run");
}

#[test]
fn a_heartbeat_of_an_older_connection_or_out_of_order_counts_for_nothing() {
    let mut bench = running();
    let heartbeat = |connection, sequence| Event::Heartbeat {
        node: node(1),
        connection: crate::core::ConnectionId(connection),
        heartbeat: protocol::control::Heartbeat {
            sequence,
            capacity: capacity(1000),
            applied: None,
            programs: vec![],
            draining: None,
            heard: None,
            data: Vec::new(),
        },
    };
    bench.connect(1, 1000);
    for (connection, sequence) in [(1, 99), (2, 99), (3, 7)] {
        assert_eq!(bench.event(heartbeat(connection, sequence)).is_empty(), connection != 3);
    }
    assert!(bench.event(heartbeat(3, 7)).is_empty(), "the same once more");
    assert!(bench.event(heartbeat(3, 6)).is_empty(), "an older one");
}
