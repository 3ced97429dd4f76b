//! Where programs are placed, and when they move.

use std::time::Instant;

use protocol::api::scheduler::{ProgramState, SchedulerEvent, VmStatus};
use protocol::control::{Failure, FailureKind, Refusal, ReportedState};

use crate::compute_node::Mood;
use crate::network::{Network, longest_wait, until};

#[tokio::test]
async fn a_program_runs_where_it_fits_best_and_is_found() {
    let (network, scheduler, nodes) = Network::with_nodes(&[4000, 2000]).await;
    let program = network.publish(1500);
    assert_eq!(scheduler.until_ready(program).await, (nodes[1].id, 1));
    assert_eq!((nodes[0].runs(program), nodes[1].runs(program)), (None, Some(1)));
    let vm = scheduler.vm(program).await.unwrap();
    assert_eq!((vm.status, vm.scheduling_status.as_str()), (VmStatus::Dispatched, "scheduled"));
    assert_eq!(vm.node_url.as_deref(), Some("http://node-2.example"));
    assert_eq!(vm.url.unwrap(), format!("http://{}.localhost:8080/", program.host_label()));
    assert_eq!((vm.owner, vm.name.as_deref()), (network.owner.address().clone(), Some("demo")));
    assert_eq!((vm.reason, vm.failure, vm.restarts), (None, None, 0));
}

#[tokio::test]
async fn what_fits_nowhere_says_why_and_is_placed_as_soon_as_it_fits() {
    let (network, scheduler, mut nodes) = Network::with_nodes(&[1000]).await;
    let program = network.publish(4096);
    let reason = scheduler.until_unplaced(program).await;
    assert_eq!(reason, "no node fits: 1 node, 1 with too little memory (needs 4096 MiB, most free 1000 MiB)");
    assert_eq!(scheduler.vm(program).await.unwrap().status, VmStatus::Unschedulable);
    nodes[0].kill().await;
    nodes[0].memory_mib = 8000;
    nodes[0].connect(&scheduler.url).await;
    scheduler.until_ready(program).await;
}

#[tokio::test]
async fn a_dead_node_loses_its_programs_after_lease_and_margin_and_not_before() {
    let (network, scheduler, mut nodes) = Network::with_nodes(&[2000, 4000]).await;
    let program = network.publish(1000);
    scheduler.until_ready(program).await;
    nodes[0].kill().await;
    let renewed = nodes[0].memory(|memory| memory.renewed).unwrap();
    let seen = until("its node's silence is seen", async || {
        let vm = scheduler.vm(program).await.unwrap();
        (vm.state == ProgramState::Unknown).then_some(vm)
    })
    .await;
    assert_eq!((seen.status, seen.allocated_node), (VmStatus::Missing, Some(nodes[0].id)));
    let moved = until("the other node runs it", async || nodes[1].runs(program).map(|epoch| (Instant::now(), epoch)));
    let (at, epoch) = moved.await;
    assert_eq!(epoch, 2);
    assert!(at.duration_since(renewed) >= longest_wait(), "{:?}", at.duration_since(renewed));
    assert_eq!(scheduler.until_ready(program).await, (nodes[1].id, 2));
    let history = scheduler.history(program).await;
    assert_eq!(history.iter().map(|record| record.epoch.get()).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((history[1].cause.as_deref(), history[1].proof.as_deref()), (Some("node_silent"), Some("lease_over")));

    // The node comes back with what it ran: it is told to stop that.
    nodes[0].connect(&scheduler.url).await;
    until("the old copy is released", async || nodes[0].runs(program).is_none().then_some(())).await;
    assert_eq!(scheduler.until_ready(program).await, (nodes[1].id, 2));
}

#[tokio::test]
async fn a_node_that_comes_back_in_time_keeps_its_programs() {
    let (network, scheduler, mut nodes) = Network::with_nodes(&[2000, 4000]).await;
    let program = network.publish(1000);
    scheduler.until_ready(program).await;
    for _ in 0..5 {
        nodes[0].kill().await;
        nodes[0].connect(&scheduler.url).await;
    }
    let grants = nodes[0].memory(|memory| memory.grants);
    // Longer than a lease.
    until("it was renewed twenty times", async || {
        (nodes[0].memory(|memory| memory.grants) > grants + 20).then_some(())
    })
    .await;
    assert_eq!(scheduler.until_ready(program).await, (nodes[0].id, 1));
    assert_eq!(scheduler.history(program).await.len(), 1);
}

#[tokio::test]
async fn a_node_that_reports_nothing_keeps_its_programs() {
    let (network, scheduler, nodes) = Network::with_nodes(&[2000, 4000]).await;
    let program = network.publish(1000);
    scheduler.until_ready(program).await;
    let grants = nodes[0].memory(|memory| {
        memory.mood = Mood { is_mute: true, ..Mood::default() };
        memory.grants
    });
    until("it was renewed twenty times", async || {
        (nodes[0].memory(|memory| memory.grants) > grants + 20).then_some(())
    })
    .await;
    assert_eq!(nodes[0].runs(program), Some(1));
    assert_eq!(scheduler.history(program).await.len(), 1);
}

#[tokio::test]
async fn a_forgotten_program_is_released_and_its_room_is_free() {
    let (network, scheduler, nodes) = Network::with_nodes(&[2000]).await;
    let (first, second) = (network.publish(1500), network.publish(1400));
    scheduler.until_ready(first).await;
    scheduler.until_unplaced(second).await;
    network.messages.forget(&network.owner, first);
    scheduler.until_gone(first).await;
    assert_eq!(scheduler.until_ready(second).await, (nodes[0].id, 1));
    assert_eq!(nodes[0].runs(first), None);
    let history = scheduler.history(first).await;
    assert_eq!((history[0].cause.as_deref(), history[0].proof.as_deref()), (Some("forgotten"), Some("released")));
    let (status, body) = scheduler.error(&format!("/api/v1/vms/{first}")).await;
    assert_eq!((status, body["code"].as_str()), (404, Some("not_found")));
}

#[tokio::test]
async fn a_node_that_does_not_let_go_is_waited_for_until_its_lease_is_over() {
    let (network, scheduler, nodes) = Network::with_nodes(&[2000]).await;
    let program = network.publish(1000);
    scheduler.until_ready(program).await;
    nodes[0].memory(|memory| memory.mood = Mood { clings: true, ..Mood::default() });
    network.messages.forget(&network.owner, program);
    let vm = until("it is being stopped", async || {
        scheduler.vm(program).await.filter(|vm| vm.state == ProgramState::Stopping)
    })
    .await;
    assert_eq!((vm.status, vm.scheduling_status.as_str()), (VmStatus::Orphaned, "unscheduled"));
    assert_eq!(vm.reason.as_deref(), Some("it is being stopped: its message was forgotten"));
    assert_eq!(scheduler.error(&format!("/api/v0/allocation/{program}")).await.0, 404);
    scheduler.until_gone(program).await;
    assert_eq!(scheduler.history(program).await[0].proof.as_deref(), Some("lease_over"));
}

#[tokio::test]
async fn a_refused_program_goes_elsewhere() {
    let (network, scheduler, nodes) = Network::with_nodes(&[2000, 4000]).await;
    let refusal = ReportedState::Refused(Refusal::NoCapacity);
    nodes[0].memory(|memory| memory.mood = Mood { reports: Some(refusal), ..Mood::default() });
    let program = network.publish(1000);
    assert_eq!(scheduler.until_ready(program).await, (nodes[1].id, 2));
    assert_eq!(scheduler.history(program).await[1].cause.as_deref(), Some("refused"));
}

#[tokio::test]
async fn failures_are_shown_with_their_words() {
    let (network, scheduler, nodes) = Network::with_nodes(&[2000]).await;
    let failure = Failure { kind: FailureKind::StartupError, message: "ImportError: no module".into() };
    let reports = Some(ReportedState::Failing(failure.clone()));
    nodes[0].memory(|memory| memory.mood = Mood { reports, ..Mood::default() });
    let program = network.publish(1000);
    let vm = until("it fails", async || scheduler.vm(program).await.filter(|vm| vm.failure.is_some())).await;
    assert_eq!((vm.state, vm.failure), (ProgramState::Failing, Some(failure)));
    assert_eq!(vm.reason.as_deref(), Some("the program failed while starting"));
}

#[tokio::test]
async fn events_tell_what_happens_in_order() {
    let (network, scheduler, nodes) = Network::with_nodes(&[2000]).await;
    let mut events = scheduler.client.events().await.unwrap();
    let program = network.publish(1000);
    let mut next = async || events.next().await.unwrap().unwrap();
    let SchedulerEvent::VmScheduled { vm_hash, node_hash, epoch, node_url } = next().await else { panic!() };
    assert_eq!((vm_hash, node_hash, epoch.get()), (program, nodes[0].id, 1));
    assert_eq!(node_url, nodes[0].url);
    // What an event tells is in the lists already.
    assert_eq!(scheduler.vm(program).await.unwrap().allocated_node, Some(nodes[0].id));
    let mut states = Vec::new();
    while states.last() != Some(&ProgramState::Ready) {
        let SchedulerEvent::VmState { state, .. } = next().await else { panic!() };
        states.push(state);
    }
    network.messages.forget(&network.owner, program);
    let SchedulerEvent::VmState { state: ProgramState::Stopping, .. } = next().await else { panic!() };
    let SchedulerEvent::VmUnscheduled { reason, .. } = next().await else { panic!() };
    assert_eq!(reason, "its message was forgotten");
    let large = network.publish(9000);
    let SchedulerEvent::VmUnschedulable { vm_hash, reason } = next().await else { panic!() };
    assert_eq!(vm_hash, large);
    assert!(reason.contains("too little memory"), "{reason}");
}
