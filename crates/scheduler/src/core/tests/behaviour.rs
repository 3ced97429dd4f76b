//! What happens to programs when nothing fails.

use protocol::api::scheduler::{NodeStatus, ProgramState, VmStatus};
use protocol::control::{Failure, FailureKind, FromScheduler, Refusal, ReportedState};

use super::bench::*;
use crate::core::event::ConnectionId;
use crate::core::{Cause, Command, Event, Gone, Notice, Origin, Proof};

#[test]
fn a_program_is_assigned_before_its_node_is_told() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.broken = Some(false);
    bench.desire(&spec(1, 100));
    assert_eq!((bench.place(1), bench.set(1)), (None, vec![]), "it is not durable yet");
    bench.broken = None;
    bench.advance(std::time::Duration::from_secs(1));
    assert_eq!((bench.place(1), bench.set(1)), (Some((node(1), 1)), vec![run(1, 1)]));
    let grant = bench.beat(1, &[]);
    assert_eq!(grant.entries, Some(vec![run(1, 1)]));
    assert_eq!(bench.beat(1, &[]).entries, None, "the node has applied that version");
}

#[test]
fn a_node_is_poked_as_soon_as_its_set_changes() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.sent.clear();
    bench.desire(&spec(1, 100));
    assert_eq!(bench.sent, [(ConnectionId(1), FromScheduler::Poke)]);
}

#[test]
fn programs_that_wait_are_placed_in_the_order_of_their_messages() {
    let mut bench = Bench::new();
    for number in [3, 1, 2] {
        bench.desire(&spec(number, 400));
    }
    bench.list(&[1]);
    bench.connect(1, 1000);
    bench.beat(1, &[]);
    assert_eq!((bench.place(1).is_some(), bench.place(2).is_some(), bench.place(3)), (true, true, None));
    assert_eq!(bench.reason(3), "no node fits: 1 node, 1 with too little memory (needs 400 MiB, most free 200 MiB)");
    assert_eq!(bench.scheduler.program_view(program(3)).unwrap().status, VmStatus::Unschedulable);
}

#[test]
fn room_that_gets_free_goes_to_who_waits() {
    let mut bench = Bench::with_nodes(&[(1, 500)]);
    bench.desire(&spec(1, 400));
    bench.desire(&spec(2, 400));
    bench.beat(1, &[]);
    bench.gone(1);
    assert_eq!(bench.place(2), None, "the first one still runs");
    bench.beat(1, &[says(1, 1, ReportedState::Ready)]);
    bench.beat(1, &[says(1, 1, ReportedState::Released)]);
    assert_eq!(bench.place(2), Some((node(1), 1)));
    assert!(bench.scheduler.program_view(program(1)).is_none());
}

#[test]
fn states_and_failures_are_shown_as_the_node_reports_them() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    assert_eq!(bench.state(1), ProgramState::Assigned);
    for (reported, shown) in [
        (ReportedState::Preparing, ProgramState::Preparing),
        (ReportedState::Starting, ProgramState::Starting),
        (ReportedState::Ready, ProgramState::Ready),
    ] {
        bench.beat(1, &[says(1, 1, reported)]);
        assert_eq!(bench.state(1), shown);
        let epoch = protocol::Epoch::FIRST;
        assert!(bench.took_notice(&Notice::State { program: program(1), epoch, state: shown }));
    }
    let failure = Failure { kind: FailureKind::Exited, message: "x".repeat(5000) };
    bench.beat(1, &[says(1, 1, ReportedState::Failing(failure))]);
    let view = bench.scheduler.program_view(program(1)).unwrap();
    assert_eq!(view.note.as_deref(), Some("the program exited"));
    assert_eq!(view.place.unwrap().failure.unwrap().message.len(), protocol::control::MAX_FAILURE_BYTES);
}

#[test]
fn a_release_counts_only_after_the_node_was_told() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    bench.beat_all(1, &ReportedState::Ready);
    bench.gone(1);
    assert_eq!(bench.set(1), [release(1, 1)]);
    // Sent before the node saw the release: an order to run it may still be on its way.
    bench.beat(1, &[says(1, 1, ReportedState::Released)]);
    assert!(bench.scheduler.program_view(program(1)).is_some());
    bench.beat(1, &[says(1, 1, ReportedState::Stopping)]);
    assert_eq!(bench.state(1), ProgramState::Stopping);
    bench.beat(1, &[says(1, 1, ReportedState::Released)]);
    assert!(bench.scheduler.program_view(program(1)).is_none());
    let cause = Cause::Gone(Gone::Forgotten);
    assert_eq!(bench.database.closed, [(program(1), protocol::Epoch::FIRST, cause, Proof::Released)]);
}

#[test]
fn a_program_that_was_never_granted_ends_at_once() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    bench.gone(1);
    assert!(bench.scheduler.program_view(program(1)).is_none());
    assert_eq!(bench.database.closed[0].3, Proof::NeverGranted);
}

#[test]
fn a_program_that_is_desired_again_gets_the_next_epoch() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    bench.beat_all(1, &ReportedState::Ready);
    bench.gone(1);
    bench.desire(&spec(1, 100));
    assert_eq!(bench.set(1), [release(1, 1)], "what was told to end, ends first");
    bench.beat(1, &[]);
    bench.beat(1, &[says(1, 1, ReportedState::Released)]);
    assert_eq!(bench.place(1), Some((node(1), 2)));
    bench.gone(1);
    bench.desire(&spec(1, 100));
    assert_eq!(bench.place(1), Some((node(1), 3)));
}

#[test]
fn the_same_event_again_changes_nothing() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    bench.desire(&spec(2, 5000));
    bench.beat_all(1, &ReportedState::Ready);
    for number in [1, 2] {
        assert!(!writes(&bench.desire(&spec(number, 100))));
    }
    assert!(bench.event(Event::Tick).is_empty());
    assert!(bench.event(Event::NodesListed(vec![registration(1)])).is_empty());
    let late = Event::Stored { program: program(1), node: node(1), epoch: protocol::Epoch::new(9) };
    assert!(bench.event(late).is_empty());
    assert_eq!(bench.place(1), Some((node(1), 1)));
}

#[test]
fn a_node_that_refuses_is_told_to_leave_it_and_left_alone_for_a_while() {
    let mut bench = Bench::with_nodes(&[(1, 1000), (2, 2000)]);
    bench.desire(&spec(1, 100));
    assert_eq!(bench.place(1), Some((node(1), 1)), "the best fit");
    bench.beat(1, &[]);
    bench.beat(1, &[says(1, 1, ReportedState::Refused(Refusal::NoCapacity))]);
    assert_eq!(bench.set(1), [release(1, 1)]);
    bench.beat(1, &[says(1, 1, ReportedState::Refused(Refusal::NoCapacity))]);
    assert_eq!(bench.place(1), Some((node(2), 2)));
    assert_eq!(bench.database.closed[0].2, Cause::Refused);
}

#[test]
fn a_program_waits_out_the_only_node_that_refused_it() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    for _ in 0..2 {
        bench.beat(1, &[says(1, 1, ReportedState::Refused(Refusal::Draining))]);
    }
    assert_eq!(bench.reason(1), "no node fits: 1 node, 1 that refused or failed it a short while ago");
    bench.live(9, &[1]);
    assert_eq!(bench.place(1), None);
    bench.live(1, &[1]);
    assert_eq!(bench.place(1), Some((node(1), 2)));
}

#[test]
fn a_node_that_has_seen_a_higher_epoch_gets_one_above_it() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    bench.beat(1, &[]);
    let highest = protocol::Epoch::new(41);
    bench.beat(1, &[says(1, 1, ReportedState::Refused(Refusal::StaleEpoch { highest }))]);
    assert_eq!(bench.database.closed[0].3, Proof::Refused);
    bench.live(5, &[1]);
    assert_eq!(bench.place(1), None, "epoch 41 may live somewhere until leases of that time have ended");
    bench.live(1, &[1]);
    assert_eq!(bench.place(1), Some((node(1), 42)));
    let highest = protocol::Epoch::new(50);
    bench.beat(1, &[says(1, 42, ReportedState::Refused(Refusal::StaleEpoch { highest }))]);
    assert_eq!(bench.place(1), Some((node(1), 51)));
    let highest = protocol::Epoch::new(60);
    bench.beat(1, &[says(1, 51, ReportedState::Refused(Refusal::StaleEpoch { highest }))]);
    assert_eq!(bench.place(1), None, "once more in a row: the node is left alone for a while");
}

#[test]
fn a_node_cannot_use_up_the_epochs() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    bench.beat(1, &[]);
    for highest in [protocol::Epoch::new(u64::MAX), protocol::Epoch::new(0)] {
        bench.beat(1, &[says(1, 1, ReportedState::Refused(Refusal::StaleEpoch { highest }))]);
    }
    assert_eq!(bench.place(1), None, "it is taken for a refusal");
    bench.live(10, &[1]);
    assert_eq!(bench.place(1), Some((node(1), 2)));
}

#[test]
fn a_draining_node_keeps_what_it_has_and_gets_nothing_new() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    bench.beat(1, &[]);
    bench.beat_with(1, |heartbeat| heartbeat.draining = Some("its disk is full".into()));
    bench.desire(&spec(2, 100));
    assert_eq!(bench.reason(2), "no node fits: 1 node, 1 draining");
    assert_eq!(bench.set(1), [run(1, 1)]);
    bench.beat(1, &[]);
    assert_eq!(bench.place(2), Some((node(1), 1)));
}

#[test]
fn a_program_that_its_node_fails_moves_when_another_node_fits() {
    let mut bench = Bench::with_nodes(&[(1, 1000), (2, 2000)]);
    bench.desire(&spec(1, 100));
    bench.disconnect(2);
    let fault = ReportedState::Failing(Failure { kind: FailureKind::NodeFault, message: "disk".into() });
    for _ in 0..35 {
        bench.advance(bench.times.heartbeat());
        bench.beat_all(1, &fault);
        bench.beat_all(1, &ReportedState::Preparing);
    }
    assert_eq!(bench.place(1), Some((node(1), 1)), "no other node fits, so it stays");
    bench.connect(2, 2000);
    bench.beat(2, &[]);
    assert_eq!(bench.set(1), [release(1, 1)]);
    assert_eq!(bench.scheduler.program_view(program(1)).unwrap().target.unwrap().0, node(2));
    assert_eq!(bench.scheduler.program_view(program(1)).unwrap().status, VmStatus::Migrating);
    bench.beat(1, &[]);
    bench.beat(1, &[says(1, 1, ReportedState::Released)]);
    assert_eq!(bench.place(1), Some((node(2), 2)));
    assert_eq!(bench.database.closed[0].2, Cause::NodeFault);
}

#[test]
fn a_program_that_fails_by_itself_stays_where_it_is() {
    let mut bench = Bench::with_nodes(&[(1, 1000), (2, 2000)]);
    bench.desire(&spec(1, 100));
    let exit = ReportedState::Failing(Failure { kind: FailureKind::Exited, message: "1".into() });
    for _ in 0..100 {
        bench.advance(bench.times.heartbeat());
        bench.beat_all(1, &exit);
        bench.beat(2, &[]);
    }
    assert_eq!(bench.place(1), Some((node(1), 1)));
}

#[test]
fn a_node_that_leaves_the_network_loses_its_programs_to_others_that_fit() {
    let mut bench = Bench::with_nodes(&[(1, 1000), (2, 2000)]);
    bench.desire(&spec(1, 100));
    bench.beat(1, &[]);
    bench.list(&[2]);
    assert_eq!(bench.set(1), [run(1, 1)], "absence from the list moves nothing");
    bench.desire(&spec(2, 100));
    assert_eq!(bench.place(2), Some((node(2), 1)), "but brings nothing new either");
    bench.event(Event::NodeGone { node: node(1) });
    assert_eq!(bench.set(1), [release(1, 1)]);
    bench.beat(1, &[]);
    bench.beat(1, &[says(1, 1, ReportedState::Released)]);
    assert_eq!(bench.place(1), Some((node(2), 2)));
    bench.disconnect(1);
    assert!(bench.scheduler.node_view(node(1)).is_none());
    assert!(!bench.database.nodes.contains_key(&node(1)));
}

#[test]
fn a_node_that_is_registered_again_keeps_its_programs() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    bench.event(Event::NodeGone { node: node(1) });
    bench.list(&[1]);
    bench.list(&[1, 2]);
    bench.connect(2, 1000);
    bench.beat(2, &[]);
    assert_eq!(bench.place(1), Some((node(1), 1)));
}

#[test]
fn an_empty_list_of_nodes_is_not_believed() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.list(&[]);
    assert!(bench.took_notice(&Notice::EmptyNodeList));
    assert_eq!(bench.scheduler.node_view(node(1)).unwrap().status, NodeStatus::Healthy);
}

#[test]
fn a_new_address_of_a_node_is_told() {
    let mut bench = Bench::with_nodes(&[(1, 1000)]);
    bench.desire(&spec(1, 100));
    let connection = ConnectionId(7);
    let url = "http://elsewhere".to_owned();
    bench.event(Event::NodeConnected {
        node: node(1),
        connection,
        account: protocol::Address::new("0x01"),
        url: url.clone(),
        software: String::new(),
    });
    let told = |notice: &Notice| matches!(notice, Notice::Assigned { url: new, waited: None, .. } if *new == url);
    assert!(bench.notices.iter().any(told));
    assert_eq!(bench.database.nodes[&node(1)].url.as_deref(), Some("http://elsewhere"));
}

#[test]
fn with_a_new_database_old_programs_wait_until_old_leases_have_ended() {
    let mut bench = Bench::on(super::bench::Database::default());
    bench.restart();
    bench.list(&[1]);
    bench.connect(1, 1000);
    bench.beat(1, &[]);
    bench.event(Event::ProgramDesired { spec: spec(1, 100), origin: Origin::Listed });
    bench.desire(&spec(2, 100));
    assert_eq!((bench.place(1), bench.place(2)), (None, Some((node(1), 1))));
    assert!(bench.reason(1).contains("database is new"), "{}", bench.reason(1));
    // The node still holds it from the scheduler before: the next epoch is above that.
    bench.beat(1, &[says(1, 6, ReportedState::Ready)]);
    assert_eq!(bench.set(1), [run(2, 1), release(1, 6)]);
    bench.live(5, &[1]);
    assert_eq!(bench.place(1), None);
    bench.live(1, &[1]);
    assert_eq!(bench.place(1), Some((node(1), 7)));
}

#[test]
fn decisions_are_the_same_every_time() {
    let story = || -> Vec<Command> {
        let mut bench = Bench::with_nodes(&[(1, 1000), (2, 1000), (3, 1000)]);
        let mut all = Vec::new();
        for number in 1..20 {
            all.extend(bench.desire(&spec(number, 100)));
        }
        all
    };
    assert_eq!(format!("{:?}", story()), format!("{:?}", story()));
}
