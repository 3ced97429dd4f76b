//! Balances that trusted senders publish.

use aleph_message_node::{Config, RunError};
use protocol::Account;
use protocol::api::message_node::MessageStatus;
use protocol::message::{Envelope, ErrorCode};
use serde_json::{Value, json};

use crate::support::*;

/// A node that believes these senders.
async fn trusting(senders: &[&Account], change: impl FnOnce(&mut Config)) -> TestNode {
    TestNode::with(|config| {
        config.balance_senders = senders.iter().map(|sender| sender.address().clone()).collect();
        config.timing.review_every = std::time::Duration::from_millis(30);
        change(config);
    })
    .await
}

fn update(sender: &Account, height: u64, balances: Value) -> Envelope {
    post(sender, "balances-update", json!({"chain": "ETH", "main_height": height, "balances": balances}))
}

fn of(account: &Account, tokens: f64) -> Value {
    json!({ account.address().as_str(): tokens })
}

async fn balance(node: &TestNode, account: &Account) -> f64 {
    node.client.balance(account.address()).await.unwrap().balance
}

#[tokio::test]
async fn what_a_trusted_sender_publishes_decides_and_the_newest_block_wins() {
    let (sender, account) = (Account::generate(), Account::generate());
    let node = trusting(&[&sender], |_| ()).await;
    let file = node.publish(&account, b"code").await;
    node.accept(&update(&sender, 10, of(&account, 1999.0))).await;
    let one = program(&account, &file, &file, persistent());
    node.reject(&one, ErrorCode::BalanceInsufficient).await;
    node.accept(&update(&sender, 11, of(&account, 2000.0))).await;
    assert_eq!(balance(&node, &account).await, 2000.0);
    let one = node.accept(&program(&account, &file, &file, persistent())).await;
    for ignored in [
        update(&sender, 11, of(&account, 1.0)),
        update(&sender, 9, of(&account, 2.0)),
        update(&Account::generate(), 99, of(&account, 3.0)),
        post(&sender, "note", json!({"chain": "ETH", "main_height": 99, "balances": of(&account, 4.0)})),
    ] {
        node.accept(&ignored).await;
        assert_eq!(balance(&node, &account).await, 2000.0, "{ignored:?}");
    }
    node.accept(&update(&sender, 12, of(&account, 1999.0))).await;
    node.until(&one, MessageStatus::Removing).await;
    node.accept(&update(&sender, 13, json!({}))).await;
    assert_eq!(balance(&node, &account).await, 1999.0, "who is not named keeps what it had");
    node.accept(&update(&sender, 14, of(&account, 2000.0))).await;
    node.until(&one, MessageStatus::Processed).await;
}

#[tokio::test]
async fn chains_are_added_up_and_what_something_else_holds_is_not() {
    let (sender, account) = (Account::generate(), Account::generate());
    let node = trusting(&[&sender], |_| ()).await;
    node.accept(&update(&sender, 1, of(&account, 100.5))).await;
    for (chain, dapp, tokens) in [("AVAX", Value::Null, 20.0), ("ETH", json!("SABLIER"), 5000.0)] {
        let content = json!({"chain": chain, "dapp": dapp, "main_height": 1, "balances": of(&account, tokens)});
        node.accept(&post(&sender, "balances-update", content)).await;
    }
    let answer = node.client.balance(account.address()).await.unwrap();
    assert_eq!((answer.balance, answer.details), (120.5, Some(json!({"AVAX": 20.0, "ETH": 100.5}))));
    let (_, page) = node.json("/api/v0/balances?pagination=1&page=2").await;
    assert_eq!((&page["pagination_total"], &page["balances"][0]["chain"]), (&json!(2), &json!("ETH")), "{page}");
    assert_eq!(page["balances"][0]["balance"], 100.5);
    assert_eq!(page["balances"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn until_the_first_update_nothing_is_known_and_messages_wait() {
    let (sender, rich, poor) = (Account::generate(), Account::generate(), Account::generate());
    let node = trusting(&[&sender], |_| ()).await;
    let file = node.publish(&rich, b"code").await;
    let waiting = [&rich, &poor].map(|account| program(account, &file, &file, json!({})));
    for message in &waiting {
        node.send(message).await;
    }
    let known = eventually(async || Some(node.get(&waiting[1].item_hash).await).filter(|k| k.reason.is_some())).await;
    assert_eq!(known.status, MessageStatus::Pending);
    assert!(known.reason.unwrap().contains("no trusted sender"));
    let (status, error) = node.json(&format!("/api/v0/addresses/{}/balance", rich.address())).await;
    assert!(status == 503 && error.to_string().contains("no trusted sender"), "{status} {error}");
    node.accept(&update(&sender, 1, of(&rich, 200.0))).await;
    node.until(&waiting[0].item_hash, MessageStatus::Processed).await;
    let refused = node.until(&waiting[1].item_hash, MessageStatus::Rejected).await;
    assert_eq!(refused.error_code, Some(ErrorCode::BalanceInsufficient.code()), "who is not listed holds nothing");
}

#[tokio::test]
async fn updates_that_cannot_be_read_are_rejected_with_what_is_wrong() {
    let (sender, account) = (Account::generate(), Account::generate());
    let node = trusting(&[&sender], |_| ()).await;
    for (content, why) in [
        (json!({"chain": "ETH", "balances": {}}), "main_height"),
        (json!({"chain": "ETH", "main_height": 1, "balances": of(&account, -1.0)}), "no amount of tokens"),
        (Value::Null, "balances"),
    ] {
        let details = node.reject(&post(&sender, "balances-update", content), ErrorCode::InvalidFormat).await;
        assert!(details.to_string().contains(why), "{details}");
    }
    node.accept(&post(&account, "balances-update", json!({"as": "it likes"}))).await;
}

#[tokio::test]
async fn balances_outlive_a_restart_and_not_the_trust_in_their_sender() {
    let (sender, other, account) = (Account::generate(), Account::generate(), Account::generate());
    let node = trusting(&[&sender], |_| ()).await;
    node.accept(&update(&sender, 1, of(&account, 7.0))).await;
    let (config, folder) = node.kill();
    let node = TestNode::launch(config, folder).await.unwrap();
    assert_eq!(balance(&node, &account).await, 7.0);
    let (mut config, folder) = node.stop().await;
    config.balance_senders = vec![other.address().clone()];
    let node = TestNode::launch(config, folder).await.unwrap();
    assert_eq!(node.json(&format!("/api/v0/addresses/{}/balance", account.address())).await.0, 503);
    node.accept(&update(&other, 1, json!({"0xAA": 1}))).await;
    assert_eq!(balance(&node, &account).await, 0.0);
}

#[tokio::test]
async fn two_sources_of_balances_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::new(([127, 0, 0, 1], 0).into(), folder.path().join("data"));
    config.ledger = Some(folder.path().join("ledger.json"));
    config.balance_senders = vec![Account::generate().address().clone()];
    let Err(error) = TestNode::launch(config, Some(folder)).await else { panic!("it started") };
    assert!(matches!(error, RunError::TwoBalances) && error.to_string().contains("--balances-from"), "{error}");
}

#[tokio::test]
async fn the_authority_holds_nothing() {
    let (authority, account) = (Account::generate(), Account::generate());
    let address = authority.address().clone();
    let node = TestNode::with_ledger(of(&account, 1.0), |config| config.authority = Some(address)).await;
    let file = node.publish(&authority, &vec![1; 26 * 1024 * 1024]).await;
    node.accept(&program(&authority, &file, &file, persistent())).await;
    node.reject(&program(&account, &file, &file, persistent()), ErrorCode::BalanceInsufficient).await;
}
