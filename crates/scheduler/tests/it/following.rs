//! What the scheduler makes of what its message node says, and does not say.

use axum::http::StatusCode;
use protocol::Account;
use protocol::api::message_node::MessageStatus;
use protocol::message::{Envelope, MessageTime, MessageType};

use crate::network::{Network, until};

#[tokio::test]
async fn programs_are_found_in_lists_of_several_pages() {
    let network = Network::new().await;
    let programs: Vec<_> = (0..7).map(|_| network.publish(100)).collect();
    let scheduler = network.start().await;
    for program in programs {
        until("it is known", async || scheduler.vm(program).await).await;
    }
}

#[tokio::test]
async fn only_signed_persistent_programs_are_desired() {
    let (network, scheduler, _nodes) = Network::with_nodes(&[2000]).await;
    let mut on_demand = network.content(100);
    on_demand["on"]["persistent"] = false.into();
    let on_demand = network.messages.publish(&network.owner, &on_demand);
    let text = network.content(101).to_string();
    let signed = Envelope::sign_inline(&network.owner, MessageType::Program, text, MessageTime::now(), None);
    let invented = Envelope { sender: Account::generate().address().clone(), ..signed };
    let invented = network.messages.publish_as_is(invented);
    let nonsense = network.messages.publish(&network.owner, &serde_json::json!({"address": "0x1"}));
    let program = network.publish(102);
    scheduler.until_ready(program).await;
    for other in [on_demand, invented, nonsense] {
        assert!(scheduler.vm(other).await.is_none());
    }
}

#[tokio::test]
async fn a_program_that_the_message_node_does_not_know_any_more_is_not_gone() {
    let (network, scheduler, nodes) = Network::with_nodes(&[2000]).await;
    let (lost, broken) = (network.publish(500), network.publish(500));
    for program in [lost, broken] {
        scheduler.until_ready(program).await;
    }
    network.messages.lose_everything();
    network.messages.fail_about(broken, StatusCode::INTERNAL_SERVER_ERROR);
    for program in [lost, broken] {
        until("it was asked about", async || (network.messages.asked_about(program) > 2).then_some(())).await;
        assert_eq!(scheduler.until_ready(program).await, (nodes[0].id, 1));
    }
}

#[tokio::test]
async fn a_program_that_is_not_paid_for_any_more_is_found_by_listing() {
    let (network, scheduler, nodes) = Network::with_nodes(&[2000]).await;
    let program = network.publish(500);
    scheduler.until_ready(program).await;
    network.messages.set_status(program, MessageStatus::Removing);
    let listed = network.messages.listed();
    until("it was listed again", async || (network.messages.listed() > listed + 1).then_some(())).await;
    assert_eq!(nodes[0].runs(program), Some(1), "it is in force until its grace period ends");
    network.messages.set_status(program, MessageStatus::Removed);
    scheduler.until_gone(program).await;
    assert_eq!(scheduler.history(program).await[0].cause.as_deref(), Some("removed"));
}

#[tokio::test]
async fn a_program_that_is_removed_and_paid_for_again_is_heard_of_at_once() {
    let (mut network, scheduler, _) = Network::with_nodes(&[]).await;
    scheduler.stop().await;
    network.resync = std::time::Duration::from_secs(3600);
    let scheduler = network.start().await;
    scheduler.until_synced().await;
    let program = network.publish(500);
    until("it is known", async || scheduler.vm(program).await).await;
    network.messages.tell_status(program, MessageStatus::Removing);
    network.messages.tell_status(program, MessageStatus::Removed);
    scheduler.until_gone(program).await;
    network.messages.tell_status(program, MessageStatus::Processed);
    until("it is known again", async || scheduler.vm(program).await).await;
    let other = network.publish(400);
    until("it is known", async || scheduler.vm(other).await).await;
    network.messages.claim_status(other, MessageStatus::Removed);
    network.messages.tell_status(program, MessageStatus::Removed);
    scheduler.until_gone(program).await;
    assert!(network.messages.asked_about(other) > 0, "what is said is asked about");
    assert!(scheduler.vm(other).await.is_some(), "and stops nothing that is not so");
}

#[tokio::test]
async fn a_forget_that_takes_effect_later_is_not_missed() {
    let (mut network, scheduler, _) = Network::with_nodes(&[]).await;
    scheduler.stop().await;
    network.resync = std::time::Duration::from_secs(3600);
    let scheduler = network.start().await;
    scheduler.until_synced().await;
    let program = network.publish(500);
    until("it is known", async || scheduler.vm(program).await).await;
    network.messages.forget(&network.owner, program);
    network.messages.set_status(program, MessageStatus::Processed);
    until("it was asked about", async || (network.messages.asked_about(program) > 0).then_some(())).await;
    network.messages.set_status(program, MessageStatus::Forgotten);
    scheduler.until_gone(program).await;
}

#[tokio::test]
async fn a_message_node_that_breaks_off_is_followed_again_without_a_gap() {
    let (mut network, scheduler, _nodes) = Network::with_nodes(&[2000]).await;
    let before = network.publish(300);
    scheduler.until_ready(before).await;
    let subscribed = network.messages.subscribed();
    network.messages.stop().await;
    let health = until("the scheduler says so", async || {
        scheduler.client.health().await.ok().filter(|health| health.message_node != "ok")
    })
    .await;
    assert_eq!(health.status, "ok", "its programs are known and renewed");
    let (during, forgotten) = (network.publish(301), before);
    network.messages.set_status(forgotten, MessageStatus::Forgotten);
    network.messages.resume().await;
    scheduler.until_ready(during).await;
    scheduler.until_gone(forgotten).await;
    assert!(network.messages.subscribed() > subscribed);
}

#[tokio::test]
async fn a_message_node_without_a_stream_is_listed() {
    let network = Network::new().await;
    network.messages.have_no_stream();
    let scheduler = network.start().await;
    scheduler.until_synced().await;
    let program = network.publish(300);
    until("it is known", async || scheduler.vm(program).await).await;
    assert_eq!(scheduler.client.health().await.unwrap().message_node, "ok");
    network.messages.set_status(program, MessageStatus::Forgotten);
    scheduler.until_gone(program).await;
    assert_eq!(network.messages.subscribed(), 0);
}

#[tokio::test]
async fn a_node_whose_registration_was_taken_back_gets_nothing_new() {
    let (network, scheduler, nodes) = Network::with_nodes(&[2000]).await;
    let program = network.publish(500);
    scheduler.until_ready(program).await;
    network.messages.take_back_registration(&nodes[0]);
    until("the node has left", async || {
        let node = scheduler.client.node(&nodes[0].id).await.unwrap()?;
        (node.status == protocol::api::scheduler::NodeStatus::Removed).then_some(())
    })
    .await;
    let second = network.publish(501);
    assert!(scheduler.until_unplaced(second).await.contains("no longer in the list"));
    assert_eq!(scheduler.until_ready(program).await, (nodes[0].id, 1), "nothing else fits, so it stays");
}

#[tokio::test]
async fn nodes_that_vanish_from_the_list_keep_what_they_run() {
    let (network, scheduler, nodes) = Network::with_nodes(&[2000, 3000]).await;
    let program = network.publish(500);
    scheduler.until_ready(program).await;
    network.messages.unlist_nodes();
    network.messages.register(nodes[1].listed());
    until("it is not listed any more", async || {
        let node = scheduler.client.node(&nodes[0].id).await.unwrap().unwrap();
        (node.status == protocol::api::scheduler::NodeStatus::Removed).then_some(())
    })
    .await;
    let second = network.publish(500);
    assert_eq!(scheduler.until_ready(second).await.0, nodes[1].id, "it gets nothing new");
    assert_eq!(scheduler.until_ready(program).await, (nodes[0].id, 1));
}
