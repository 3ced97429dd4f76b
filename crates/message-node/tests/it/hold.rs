//! What was accepted and is not paid for any more, and what is paid for again.

use std::time::Duration;

use aleph_message_node::Config;
use protocol::Account;
use protocol::api::message_node::{MessageFilter, MessageStatus};
use protocol::message::{ErrorCode, MessageType};
use serde_json::json;

use crate::support::*;

const LONG: Duration = Duration::from_secs(3600);

/// Balances are looked at often, and these are the terms.
fn terms(grace: Duration, retention: Duration) -> impl FnOnce(&mut Config) {
    move |config| {
        config.timing.review_every = Duration::from_millis(30);
        config.timing.grace = grace;
        config.timing.retention = retention;
    }
}

async fn node(account: &Account, tokens: u32, grace: Duration, retention: Duration) -> (TestNode, String) {
    let node = TestNode::with_ledger(json!({account.address().as_str(): tokens}), terms(grace, retention)).await;
    let file = node.publish(account, b"code").await;
    (node, file)
}

fn set(node: &TestNode, account: &Account, tokens: u32) {
    node.set_ledger(&json!({account.address().as_str(): tokens}));
}

fn seconds_until(text: &str) -> f64 {
    let at = chrono::DateTime::parse_from_rfc3339(text).unwrap();
    (at.timestamp_micros() as f64 / 1e6) - now()
}

#[tokio::test]
async fn the_newest_is_removing_with_a_deadline_and_goes_on_when_it_is_paid_for_in_time() {
    let account = Account::generate();
    let (node, file) = node(&account, 2200, LONG, LONG).await;
    let old = node.accept(&program(&account, &file, &file, persistent())).await;
    let new = node.accept(&program(&account, &file, &file, json!({}))).await;
    set(&node, &account, 2199);
    let known = node.until(&new, MessageStatus::Removing).await;
    assert_eq!(known.reason.as_deref(), Some("balance_insufficient"));
    assert!((3500.0..3601.0).contains(&seconds_until(known.until.as_deref().unwrap())), "{known:?}");
    assert!(known.message.unwrap().content.is_some(), "it is in force");
    assert_eq!(node.status(&old).await, MessageStatus::Processed);
    let balance = node.client.balance(account.address()).await.unwrap();
    assert_eq!((balance.balance, balance.locked_amount), (2199.0, 2200.0));
    let filter = MessageFilter { types: vec![MessageType::Program], ..MessageFilter::default() };
    assert_eq!(node.client.all_messages(&filter).await.unwrap().len(), 2, "what is being removed is listed");
    let deadline = known.until;
    set(&node, &account, 100);
    node.until(&old, MessageStatus::Removing).await;
    assert_eq!(node.get(&new).await.until, deadline, "a deadline stands");
    set(&node, &account, 2200);
    for hash in [&old, &new] {
        let known = node.until(hash, MessageStatus::Processed).await;
        assert_eq!((known.reason, known.until), (None, None));
    }
}

#[tokio::test]
async fn what_is_removed_comes_back_under_its_id_and_followers_are_told() {
    let account = Account::generate();
    let (node, file) = node(&account, 2000, Duration::ZERO, LONG).await;
    let hash = node.accept(&program(&account, &file, &file, persistent())).await;
    let filter = MessageFilter { types: vec![MessageType::Program], ..MessageFilter::default() };
    let mut stream = node.client.watch(&filter, 0).await.unwrap();
    set(&node, &account, 1999);
    let known = node.until(&hash, MessageStatus::Removed).await;
    assert_eq!(known.reason.as_deref(), Some("balance_insufficient"));
    assert!(seconds_until(known.until.as_deref().unwrap()) > 3500.0);
    assert_eq!(node.client.balance(account.address()).await.unwrap().locked_amount, 0.0);
    assert_eq!(node.json(&format!("/api/v0/price/{hash}")).await.0, 410);
    assert_eq!(node.client.all_messages(&filter).await.unwrap().len(), 0);
    set(&node, &account, 2000);
    let known = node.until(&hash, MessageStatus::Processed).await;
    assert_eq!((known.reason, known.until), (None, None));
    let told = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(told.envelope.item_hash, hash);
    assert!(told.envelope.verify().is_ok() && told.content.is_some(), "it is the message as it was sent");
    assert_eq!(node.client.balance(account.address()).await.unwrap().locked_amount, 2000.0);
    assert_eq!(node.client.price(&hash).await.unwrap().unwrap().required_tokens, 2000.0);
    // Its files are its own again.
    node.reject(&forget(&account, &[&file]), ErrorCode::ForgetNotAllowed).await;
}

#[tokio::test]
async fn who_names_statuses_is_told_when_they_change_and_nobody_else() {
    let account = Account::generate();
    let (node, file) = node(&account, 2000, Duration::from_secs(2), LONG).await;
    let hash = node.accept(&program(&account, &file, &file, persistent())).await;
    let types = vec![MessageType::Program];
    let statuses = vec![MessageStatus::Processed, MessageStatus::Removing, MessageStatus::Removed];
    let named = MessageFilter { types: types.clone(), statuses, ..MessageFilter::default() };
    let mut told = node.client.watch(&named, 1).await.unwrap();
    let mut plain = node.client.watch(&MessageFilter { types, ..MessageFilter::default() }, 1).await.unwrap();
    for (tokens, statuses) in [
        (2000, vec![None]),
        (1999, vec![Some(MessageStatus::Removing)]),
        (2000, vec![Some(MessageStatus::Processed)]),
        (0, vec![Some(MessageStatus::Removing), Some(MessageStatus::Removed)]),
        (2000, vec![None]),
    ] {
        set(&node, &account, tokens);
        for status in statuses {
            let event = tokio::time::timeout(PATIENCE, told.next()).await.unwrap().unwrap().unwrap();
            assert_eq!((event.envelope.item_hash.as_str(), event.status), (hash.as_str(), status));
            assert!(event.content.is_some());
        }
    }
    // Other clients get what is new for them: the history, and the program once it is back.
    for _ in 0..2 {
        let event = tokio::time::timeout(PATIENCE, plain.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((event.envelope.item_hash.as_str(), event.status), (hash.as_str(), None));
    }
    set(&node, &account, 2200);
    let next = node.accept(&program(&account, &file, &file, json!({}))).await;
    let event = tokio::time::timeout(PATIENCE, plain.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(event.envelope.item_hash, next, "and nothing else");
}

#[tokio::test]
async fn after_the_retention_time_nothing_comes_back() {
    let account = Account::generate();
    let (node, file) = node(&account, 2000, Duration::ZERO, Duration::from_millis(1)).await;
    let hash = node.accept(&program(&account, &file, &file, persistent())).await;
    set(&node, &account, 0);
    let ended = eventually(async || {
        let known = node.get(&hash).await;
        known.message.as_ref().is_some_and(|message| message.content.is_none()).then_some(known)
    })
    .await;
    assert_eq!((ended.status, ended.until), (MessageStatus::Removed, None));
    set(&node, &account, 2000);
    // What comes after it is accepted with its tokens, so that the balance was looked at.
    node.accept(&program(&account, &file, &file, persistent())).await;
    assert_eq!(node.status(&hash).await, MessageStatus::Removed);
}

#[tokio::test]
async fn what_was_taken_back_does_not_come_back_and_makes_room() {
    let account = Account::generate();
    let (node, file) = node(&account, 4000, Duration::ZERO, LONG).await;
    let kept = node.accept(&program(&account, &file, &file, persistent())).await;
    let [taken, waits] = [1, 2].map(|n| program(&account, &file, &file, json!({"metadata": {"n": n}})));
    let [taken, waits] = [node.accept(&taken).await, node.accept(&waits).await];
    set(&node, &account, 1999);
    for hash in [&kept, &taken, &waits] {
        node.until(hash, MessageStatus::Removed).await;
    }
    node.accept(&forget(&account, &[&taken])).await;
    assert_eq!(node.status(&taken).await, MessageStatus::Forgotten);
    set(&node, &account, 2000);
    node.until(&kept, MessageStatus::Processed).await;
    assert_eq!(node.status(&waits).await, MessageStatus::Removed, "the oldest comes first");
    node.accept(&forget(&account, &[&kept])).await;
    node.until(&waits, MessageStatus::Processed).await;
    assert_eq!(node.status(&taken).await, MessageStatus::Forgotten);
}

#[tokio::test]
async fn a_program_whose_code_is_gone_stays_removed() {
    let account = Account::generate();
    let (node, runtime) = node(&account, 2200, Duration::ZERO, LONG).await;
    let code = node.publish(&account, b"other code").await;
    let whole = node.accept(&program(&account, &runtime, &runtime, persistent())).await;
    let broken = node.accept(&program(&account, &code, &runtime, json!({}))).await;
    set(&node, &account, 0);
    for hash in [&whole, &broken] {
        node.until(hash, MessageStatus::Removed).await;
    }
    node.accept(&forget(&account, &[&code])).await;
    set(&node, &account, 2200);
    node.until(&whole, MessageStatus::Processed).await;
    assert_eq!(node.status(&broken).await, MessageStatus::Removed);
}

#[tokio::test]
async fn large_files_go_after_the_programs_that_need_them_and_come_back_with_their_bytes() {
    let account = Account::generate();
    let (node, code) = node(&account, 210, Duration::ZERO, LONG).await;
    let large = vec![1; 30 * 1024 * 1024];
    let file = node.publish(&account, &large).await;
    let hash = node.accept(&program(&account, &file, &code, json!({}))).await;
    set(&node, &account, 209);
    node.until(&hash, MessageStatus::Removed).await;
    assert_eq!(node.status(&file).await, MessageStatus::Processed);
    set(&node, &account, 9);
    node.until(&file, MessageStatus::Removed).await;
    set(&node, &account, 210);
    node.until(&file, MessageStatus::Processed).await;
    node.until(&hash, MessageStatus::Processed).await;
    let raw = node.http.get(format!("{}/api/v0/storage/by-message-hash/{file}", node.url)).send().await.unwrap();
    assert!(raw.status().is_success());
}

#[tokio::test]
async fn deadlines_and_what_can_come_back_outlive_a_restart() {
    let account = Account::generate();
    let (node, file) = node(&account, 2200, LONG, LONG).await;
    let old = node.accept(&program(&account, &file, &file, persistent())).await;
    let new = node.accept(&program(&account, &file, &file, json!({}))).await;
    set(&node, &account, 2000);
    let deadline = node.until(&new, MessageStatus::Removing).await.until;
    let (config, folder) = node.kill();
    let node = TestNode::launch(config, folder).await.unwrap();
    assert_eq!(node.get(&new).await.until, deadline);
    set(&node, &account, 0);
    node.until(&old, MessageStatus::Removing).await;
    // What changes while it is down counts, too: the deadline of neither is over, and both are paid for.
    let (config, folder) = node.stop().await;
    write_ledger(config.ledger.as_ref().unwrap(), &json!({account.address().as_str(): 2000}).to_string());
    let node = TestNode::launch(config, folder).await.unwrap();
    node.until(&old, MessageStatus::Processed).await;
    assert_eq!(node.get(&new).await.until, deadline);
    // An operator who does not ask anybody to pay any more takes nothing away.
    let (mut config, folder) = node.stop().await;
    config.ledger = None;
    let node = TestNode::launch(config, folder).await.unwrap();
    node.until(&new, MessageStatus::Processed).await;
}

#[tokio::test]
async fn a_replacement_is_counted_once_it_is_settled() {
    let account = Account::generate();
    let node = TestNode::with_ledger(json!({account.address().as_str(): 2000}), |config| {
        terms(LONG, LONG)(config);
        config.timing.replacement_window = Duration::from_millis(500);
    })
    .await;
    let file = node.publish(&account, b"code").await;
    let old = node.accept(&program(&account, &file, &file, persistent())).await;
    let next = program(&account, &file, &file, with(persistent(), json!({"replaces": old})));
    let next = node.accept(&next).await;
    node.accept(&forget(&account, &[&old])).await;
    set(&node, &account, 1999);
    node.until(&next, MessageStatus::Removing).await;
}
