//! Signed orders: who may give them, and what becomes of them.

use chrono::Utc;
use protocol::api::scheduler::{MoveOutcome, MovePhase, SchedulerEvent};
use protocol::client::http_client;
use protocol::history::{Entry, Fact, Trust, verify};
use protocol::operation::{Operation, SignedOrder};
use protocol::{Account, ProgramId};
use serde_json::{Value, json};

use crate::compute_node::{FakeNode, Mood};
use crate::network::{Network, Running, until};

/// What the scheduler answers to an order: the status, and what it says.
async fn send(scheduler: &Running, order: &SignedOrder) -> (u16, String) {
    let url = format!("{}/api/v1/orders", scheduler.url);
    let response = http_client().post(url).json(order).send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["message"].as_str().unwrap_or_default().to_owned())
}

async fn signed(scheduler: &Running, by: &Account, operation: Operation) -> SignedOrder {
    let address = scheduler.client.health().await.unwrap().address;
    SignedOrder::new(by, address, Utc::now(), operation)
}

async fn order(scheduler: &Running, by: &Account, operation: Operation) -> (u16, String) {
    send(scheduler, &signed(scheduler, by, operation).await).await
}

/// A network with a program of somebody who is no operator, and the nodes: first the one that it runs on.
async fn with_program() -> (Network, Running, Vec<FakeNode>, Account, ProgramId) {
    let (network, scheduler, nodes) = Network::with_nodes(&[1000, 2000]).await;
    let owner = Account::generate();
    let mut content = network.content(500);
    content["address"] = json!(owner.address());
    let program = network.messages.publish(&owner, &content);
    assert_eq!(scheduler.until_ready(program).await.0, nodes[0].id);
    (network, scheduler, nodes, owner, program)
}

#[tokio::test]
async fn an_owner_moves_a_program_and_everybody_can_follow() {
    let (_network, scheduler, nodes, owner, program) = with_program().await;
    let mut events = scheduler.client.events().await.unwrap();
    let there = signed(&scheduler, &owner, Operation::Move { program, to: Some(nodes[1].id) }).await;
    assert_eq!(send(&scheduler, &there).await, (200, String::new()));
    assert_eq!(scheduler.until_epoch(program, 2).await, nodes[1].id);
    assert_eq!((nodes[0].runs(program), nodes[1].runs(program)), (None, Some(2)));
    let mut phases = Vec::new();
    while phases.last() != Some(&None) {
        if let SchedulerEvent::VmMoving { phase, vm_hash, .. } = events.next().await.unwrap().unwrap() {
            assert_eq!(vm_hash, program);
            phases.push(phase);
        }
    }
    assert_eq!(phases, [Some(MovePhase::Waiting), Some(MovePhase::Stopping), Some(MovePhase::Starting), None]);
    let vm = scheduler.vm(program).await.unwrap();
    let end = vm.last_move.unwrap();
    assert_eq!((vm.moving, end.outcome, end.from, end.to), (None, MoveOutcome::Done, nodes[0].id, Some(nodes[1].id)));
    assert!(end.not_ready_ms.is_some_and(|ms| ms < 30_000), "{end:?}");
    assert_eq!(scheduler.history(program).await[1].cause.as_deref(), Some("moved"));

    let history = scheduler.client.signed_history(&program).await.unwrap();
    let asked = history.iter().any(|signed| {
        let entry: Entry = serde_json::from_str(&signed.entry).unwrap();
        entry.fact == Fact::MoveAsked { by: owner.address().clone(), to: Some(nodes[1].id) }
    });
    let schedulers = vec![scheduler.client.health().await.unwrap().address];
    verify(program, &history, &Trust { schedulers, ..Trust::default() }).unwrap();
    assert!(asked, "{history:?}");

    assert_eq!(send(&scheduler, &there).await.0, 409, "it is there already, and the order was taken once");
    let metrics = http_client().get(format!("{}/metrics", scheduler.url)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("aleph_scheduler_moves_total{outcome=\"done\"} 1"), "{metrics}");
    assert!(metrics.contains("aleph_scheduler_programs_without_standby 0"), "{metrics}");
}

#[tokio::test]
async fn an_order_is_taken_once() {
    let (_network, scheduler, nodes, owner, program) = with_program().await;
    let away = signed(&scheduler, &owner, Operation::Move { program, to: None }).await;
    assert_eq!(send(&scheduler, &away).await.0, 200);
    assert_eq!(scheduler.until_epoch(program, 2).await, nodes[1].id);
    until("the move is over", async || scheduler.vm(program).await?.last_move).await;
    let (status, why) = send(&scheduler, &away).await;
    assert_eq!((status, why.as_str()), (409, "this order was taken before; sign a new one"));
    assert_eq!(scheduler.vm(program).await.unwrap().epoch.unwrap().get(), 2);
}

#[tokio::test]
async fn an_owner_orders_nothing_else_and_a_stranger_nothing() {
    let (network, scheduler, nodes, owner, program) = with_program().await;
    let (stranger, node) = (Account::generate(), nodes[0].id);
    for operation in [Operation::Move { program, to: None }, Operation::CancelMove { program }] {
        let (status, why) = order(&scheduler, &stranger, operation).await;
        assert_eq!(status, 403);
        assert!(why.contains("neither the owner of the program"), "{why}");
    }
    for operation in [Operation::Drain { node, reason: "mine".into() }, Operation::Undrain { node }, Operation::Resume]
    {
        let (status, why) = order(&scheduler, &owner, operation).await;
        assert_eq!(status, 403);
        assert!(why.contains("is no operator"), "{why}");
    }
    let others = network.publish(100);
    scheduler.until_ready(others).await;
    assert_eq!(order(&scheduler, &owner, Operation::Move { program: others, to: None }).await.0, 403);
    assert_eq!(scheduler.vm(program).await.unwrap().moving, None);
}

#[tokio::test]
async fn operators_move_programs_and_hear_why_they_cannot() {
    let (network, scheduler, nodes, _, program) = with_program().await;
    let operator = &network.owner;
    let unknown = ProgramId::from_bytes([9; 32]);
    for operation in [Operation::Move { program: unknown, to: None }, Operation::CancelMove { program: unknown }] {
        for by in [operator, &Account::generate()] {
            let (status, why) = order(&scheduler, by, operation.clone()).await;
            assert!(status == 404 && why.contains(&unknown.to_string()), "{status} {why}");
        }
    }
    let (status, why) = order(&scheduler, operator, Operation::Move { program, to: Some(nodes[0].id) }).await;
    assert_eq!((status, why), (409, format!("it is on node {} already", nodes[0].id)));
    let nowhere = protocol::NodeId::from_bytes([9; 32]);
    assert_eq!(order(&scheduler, operator, Operation::Move { program, to: Some(nowhere) }).await.0, 404);
    let (status, why) = order(&scheduler, operator, Operation::CancelMove { program }).await;
    assert!(status == 409 && why.contains("nothing to cancel"), "{why}");
    let reason = "new kernel".to_owned();
    assert_eq!(order(&scheduler, operator, Operation::Drain { node: nodes[1].id, reason }).await.0, 200);
    let (status, why) = order(&scheduler, operator, Operation::Move { program, to: None }).await;
    assert!(status == 409 && why.contains("1 draining"), "{why}");
    assert_eq!(order(&scheduler, operator, Operation::Undrain { node: nodes[1].id }).await.0, 200);
    until("it may move", async || {
        (order(&scheduler, operator, Operation::Move { program, to: None }).await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(scheduler.until_epoch(program, 2).await, nodes[1].id);
}

#[tokio::test]
async fn a_scheduler_that_starts_again_goes_on_with_a_move() {
    let (network, scheduler, mut nodes, owner, program) = with_program().await;
    // It does not stop the program as long as this scheduler is there.
    nodes[0].memory(|memory| memory.mood = Mood { clings: true, ..Mood::default() });
    assert_eq!(order(&scheduler, &owner, Operation::Move { program, to: Some(nodes[1].id) }).await.0, 200);
    let (status, why) = order(&scheduler, &owner, Operation::CancelMove { program }).await;
    assert!(status == 409 && why.contains("too late"), "{why}");
    scheduler.crash().await;
    nodes[0].memory(|memory| memory.mood = Mood::default());
    let scheduler = network.start().await;
    for node in &mut nodes {
        node.kill().await;
        node.connect(&scheduler.url).await;
    }
    assert_eq!(scheduler.until_epoch(program, 2).await, nodes[1].id);
    let end = until("the move is over", async || scheduler.vm(program).await?.last_move).await;
    assert_eq!((end.outcome, end.from), (MoveOutcome::Done, nodes[0].id));
}

#[tokio::test]
async fn a_program_starts_with_what_another_one_wrote_only_if_both_are_the_same_owners() {
    let (mut network, scheduler, _nodes, owner, program) = with_program().await;
    let restore = |from| Operation::Restore { program, snapshot: "1-1".parse().unwrap(), from: Some(from) };
    let theirs = network.publish(100);
    let (status, why) = order(&scheduler, &owner, restore(theirs)).await;
    assert!(status == 403 && why.contains(network.owner.address().as_str()), "{status} {why}");
    assert_eq!(order(&scheduler, &network.owner, restore(theirs)).await.0, 403, "operators neither");
    let (status, why) = order(&scheduler, &owner, restore(ProgramId::from_bytes([9; 32]))).await;
    assert!(status == 404 && why.contains("knows no program"), "{status} {why}");
    let (status, why) = order(&scheduler, &owner, restore(program)).await;
    assert!(status == 400 && why.contains("the program's own snapshot"), "{status} {why}");
    // One of the same owner may be read, also when it is forgotten; this program has nothing to restore, though.
    let mut content = network.content(100);
    (content["address"], content["metadata"]) = (json!(owner.address()), json!({"name": "other"}));
    let other = network.messages.publish(&owner, &content);
    let passes = async || {
        let (status, why) = order(&scheduler, &owner, restore(other)).await;
        assert!(status == 409 && why.contains("persistence `store`"), "{status} {why}");
    };
    passes().await;
    network.messages.forget(&owner, other);
    passes().await;
    let stranger = Account::generate();
    assert_eq!(order(&scheduler, &stranger, restore(other)).await.0, 403);
    network.messages.stop().await;
    let (status, why) = order(&scheduler, &owner, restore(other)).await;
    assert!(status == 503 && why.contains("try again later"), "{status} {why}");
    assert_eq!(scheduler.vm(program).await.unwrap().epoch.unwrap().get(), 1, "it was never stopped");
}
