//! A scheduler that ends and starts again.

use protocol::api::message_node::MessageStatus;
use protocol::api::scheduler::ProgramState;

use crate::compute_node::FakeNode;
use crate::network::{LEASE, Network, until};

#[tokio::test]
async fn a_restart_keeps_assignments_and_epochs_and_moves_nothing() {
    for crash in [false, true] {
        let (network, scheduler, mut nodes) = Network::with_nodes(&[4000, 4000]).await;
        let programs: Vec<_> = (0..5).map(|number| network.publish(500 + number)).collect();
        let mut places = Vec::new();
        for program in &programs {
            places.push(scheduler.until_ready(*program).await);
        }
        if crash {
            scheduler.crash().await;
        } else {
            scheduler.stop().await;
        }
        let scheduler = network.start().await;
        for node in &mut nodes {
            node.kill().await;
            node.connect(&scheduler.url).await;
        }
        let grants = nodes[0].memory(|memory| memory.grants);
        until("more than a lease has passed", async || {
            (nodes[0].memory(|memory| memory.grants) > grants + 20).then_some(())
        })
        .await;
        for (program, place) in programs.iter().zip(places) {
            assert_eq!(scheduler.until_ready(*program).await, place);
            assert_eq!(scheduler.history(*program).await.len(), 1);
        }
        scheduler.stop().await;
    }
}

#[tokio::test]
async fn a_program_that_was_forgotten_in_between_is_released() {
    let (network, scheduler, mut nodes) = Network::with_nodes(&[4000]).await;
    let (forgotten, kept) = (network.publish(500), network.publish(501));
    scheduler.until_ready(forgotten).await;
    scheduler.until_ready(kept).await;
    scheduler.stop().await;
    network.messages.set_status(forgotten, MessageStatus::Forgotten);
    let missed = network.publish(502);
    let scheduler = network.start().await;
    nodes[0].kill().await;
    nodes[0].connect(&scheduler.url).await;
    scheduler.until_gone(forgotten).await;
    scheduler.until_ready(missed).await;
    assert_eq!(scheduler.until_ready(kept).await, (nodes[0].id, 1));
    assert_eq!(nodes[0].runs(forgotten), None);
    assert_eq!(scheduler.history(forgotten).await[0].proof.as_deref(), Some("released"));
}

#[tokio::test]
async fn with_the_message_node_down_it_serves_and_renews_what_it_knows() {
    let (mut network, scheduler, mut nodes) = Network::with_nodes(&[4000]).await;
    let program = network.publish(500);
    scheduler.until_ready(program).await;
    let address = scheduler.client.health().await.unwrap().address;
    scheduler.stop().await;
    network.messages.stop().await;

    let scheduler = network.start().await;
    let vm = scheduler.vm(program).await.unwrap();
    assert_eq!((vm.state, vm.allocated_node), (ProgramState::Unknown, Some(nodes[0].id)));
    nodes[0].kill().await;
    nodes[0].connect(&scheduler.url).await;
    let grants = nodes[0].memory(|memory| memory.grants);
    until("it renewed for longer than a lease", async || {
        (nodes[0].memory(|memory| memory.grants) > grants + 20).then_some(())
    })
    .await;
    assert_eq!(scheduler.until_ready(program).await, (nodes[0].id, 1));
    let health = scheduler.client.health().await.unwrap();
    assert_eq!((health.status.as_str(), health.address), ("starting", address));
    assert!(health.message_node.contains("cannot reach"), "{}", health.message_node);

    network.messages.resume().await;
    scheduler.until_synced().await;
    assert_eq!(scheduler.until_ready(program).await, (nodes[0].id, 1));
}

#[tokio::test]
async fn a_node_that_died_with_the_scheduler_loses_its_programs_after_the_restart() {
    let (network, scheduler, mut nodes) = Network::with_nodes(&[1000, 4000]).await;
    let program = network.publish(500);
    assert_eq!(scheduler.until_ready(program).await.0, nodes[0].id);
    scheduler.crash().await;
    nodes[0].kill().await;
    let restarted = std::time::Instant::now();
    let scheduler = network.start().await;
    nodes[1].kill().await;
    nodes[1].connect(&scheduler.url).await;
    assert_eq!(scheduler.until_epoch(program, 2).await, nodes[1].id);
    assert!(restarted.elapsed() >= LEASE.lease, "the scheduler before may have renewed it just before it ended");
}

#[tokio::test]
async fn a_lost_database_starts_nothing_twice() {
    let (network, scheduler, mut nodes) = Network::with_nodes(&[1000, 4000]).await;
    let program = network.publish(500);
    assert_eq!(scheduler.until_ready(program).await.0, nodes[0].id);
    scheduler.stop().await;
    for name in ["scheduler.sqlite", "scheduler.sqlite-wal", "scheduler.sqlite-shm"] {
        let _ = std::fs::remove_file(network.folder.path().join(name));
    }
    let restarted = std::time::Instant::now();
    let scheduler = network.start().await;
    let mut fresh = FakeNode::new(3, 600);
    network.messages.register(fresh.listed());
    for node in nodes.iter_mut().chain([&mut fresh]) {
        node.kill().await;
        node.connect(&scheduler.url).await;
    }
    let (_, epoch) = scheduler.until_ready(program).await;
    assert_eq!(epoch, 2, "above the epoch that a node still held");
    assert!(restarted.elapsed() >= LEASE.lease, "only when leases of the lost database had ended");
}
