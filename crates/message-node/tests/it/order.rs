//! Messages that refer to each other, closely one after the other or in the wrong order.

use std::time::{Duration, Instant};

use protocol::api::message_node::MessageStatus;
use protocol::message::ErrorCode;
use protocol::{Account, FileHash};
use serde_json::json;

use crate::support::*;

/// A node on which messages wait for long.
async fn patient_node() -> TestNode {
    TestNode::with(|config| config.timing.retry_window = PATIENCE).await
}

#[tokio::test]
async fn a_whole_program_may_arrive_in_reverse_order() {
    let (node, account) = (patient_node().await, Account::generate());
    let (code, runtime) = (b"code".as_slice(), b"runtime".as_slice());
    let stores = [code, runtime].map(|content| store(&account, &FileHash::of(content).to_string(), json!({})));
    let running = program(&account, &stores[0].item_hash, &stores[1].item_hash, json!({}));
    node.send(&running).await;
    for message in &stores {
        node.send(message).await;
    }
    for content in [code, runtime] {
        assert_eq!(node.status(&running.item_hash).await, MessageStatus::Pending);
        let upload =
            node.http.post(format!("{}/api/v0/storage/add_file", node.url)).body(content).send().await.unwrap();
        assert_eq!(upload.status(), 200);
    }
    let start = Instant::now();
    node.until(&running.item_hash, MessageStatus::Processed).await;
    assert!(start.elapsed() < PATIENCE / 2, "it is tried again as soon as the files are there");
}

#[tokio::test]
async fn what_never_arrives_is_rejected_when_the_window_ends() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let start = Instant::now();
    node.reject(&amend(&account, &"ab".repeat(32), json!({})), ErrorCode::PostAmendTargetNotFound).await;
    let window = node.config().timing.retry_window;
    assert!(start.elapsed() >= window, "{:?}", start.elapsed());
    // A row of hopeless messages does not add up their windows.
    let hopeless: Vec<_> = (1..=8).map(|n| forget(&account, &[&format!("{n:064x}")])).collect();
    let start = Instant::now();
    for message in &hopeless {
        node.send(message).await;
    }
    for message in &hopeless {
        node.until(&message.item_hash, MessageStatus::Rejected).await;
    }
    assert!(start.elapsed() < window * 4, "{:?}", start.elapsed());
}

#[tokio::test]
async fn replacing_and_forgetting_milliseconds_apart() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let file = node.publish(&account, b"code").await;
    let mut last = node.accept(&program(&account, &file, &file, persistent())).await;
    for round in 0..6 {
        let on = json!({"on": {"http": true, "persistent": round % 2 == 1}, "replaces": last});
        let next = program(&account, &file, &file, on);
        let gone = forget(&account, &[&last]);
        node.send(&next).await;
        node.send(&gone).await;
        node.until(&gone.item_hash, MessageStatus::Processed).await;
        assert_eq!(node.status(&next.item_hash).await, MessageStatus::Processed, "round {round}");
        assert_eq!(node.status(&last).await, MessageStatus::Forgotten);
        last = next.item_hash;
    }
}

#[tokio::test]
async fn a_forget_waits_for_the_program_that_still_needs_its_target() {
    let (node, account) = (patient_node().await, Account::generate());
    let file = node.publish(&account, b"code").await;
    let old = node.accept(&program(&account, &file, &file, json!({}))).await;
    let late = b"late runtime";
    let late_store = store(&account, &FileHash::of(late).to_string(), json!({}));
    let next = program(&account, &file, &late_store.item_hash, json!({"replaces": old}));
    let gone = forget(&account, &[&old]);
    node.send(&next).await;
    node.send(&gone).await;
    // Others overtake: they take nothing away.
    node.accept(&post(&account, "note", json!({}))).await;
    assert_eq!(node.status(&gone.item_hash).await, MessageStatus::Pending);
    assert_eq!(node.status(&old).await, MessageStatus::Processed);
    node.add_file(&late_store, late).await.unwrap();
    node.until(&gone.item_hash, MessageStatus::Processed).await;
    assert_eq!(node.status(&next.item_hash).await, MessageStatus::Processed);
    assert_eq!(node.status(&old).await, MessageStatus::Forgotten);
}

#[tokio::test]
async fn deleting_a_program_and_then_its_code() {
    let (node, account) = (TestNode::start().await, Account::generate());
    for _ in 0..3 {
        let code = node.publish(&account, b"code").await;
        let runtime = node.publish(&account, b"runtime").await;
        let running = node.accept(&program(&account, &code, &runtime, json!({}))).await;
        let forgets = [&running, &code].map(|target| forget(&account, &[target]));
        for message in &forgets {
            node.send(message).await;
        }
        node.until(&forgets[1].item_hash, MessageStatus::Processed).await;
        assert_eq!(node.status(&code).await, MessageStatus::Forgotten);
        let known = node.get(&running).await;
        assert_eq!(known.status, MessageStatus::Forgotten);
        assert_eq!(known.forgotten_by, Some(vec![forgets[0].item_hash.clone()]));
        let skeleton = known.message.unwrap();
        assert_eq!((skeleton.content, skeleton.envelope.item_content), (None, None));
        assert_eq!(skeleton.envelope.item_hash, running);
    }
}

#[tokio::test]
async fn a_forget_of_a_message_that_is_on_its_way_waits_for_it() {
    let (node, account, friend) = (patient_node().await, Account::generate(), Account::generate());
    let entry = json!({"authorizations": [{"address": friend.address()}]});
    node.accept(&aggregate(&account, "security", entry)).await;
    let note = post(&account, "note", json!({}));
    let gone = forget(&friend, &[&note.item_hash]);
    node.send(&gone).await;
    assert_eq!(node.submit(&note).await, MessageStatus::Processed);
    node.until(&gone.item_hash, MessageStatus::Processed).await;
    assert_eq!(node.status(&note.item_hash).await, MessageStatus::Forgotten);
}

#[tokio::test]
async fn forgetting_does_not_follow_replaces_but_follows_amends() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let file = node.publish(&account, b"code").await;
    let old = node.accept(&program(&account, &file, &file, json!({}))).await;
    let next = node.accept(&program(&account, &file, &file, json!({"replaces": old}))).await;
    let original = node.accept(&post(&account, "note", json!({"v": 1}))).await;
    let second = node.accept(&amend(&account, &original, json!({"v": 2}))).await;
    node.accept(&forget(&account, &[&old, &original])).await;
    assert_eq!(node.status(&next).await, MessageStatus::Processed);
    assert_eq!(node.status(&second).await, MessageStatus::Forgotten);
    let again = node.accept(&forget(&account, &[&old])).await;
    assert_eq!(node.get(&old).await.forgotten_by.unwrap().len(), 2);
    assert_eq!(node.status(&again).await, MessageStatus::Processed);
}

#[tokio::test]
async fn a_program_may_not_replace_what_was_forgotten() {
    let (node, account) = (patient_node().await, Account::generate());
    let file = node.publish(&account, b"code").await;
    let old = node.accept(&program(&account, &file, &file, json!({}))).await;
    node.accept(&forget(&account, &[&old])).await;
    let start = Instant::now();
    node.reject(&program(&account, &file, &file, json!({"replaces": old})), ErrorCode::VmRefNotFound).await;
    assert!(start.elapsed() < Duration::from_secs(5), "it is not waited for what never comes");
}
