//! Who can pay for what.

use std::time::Duration;

use aleph_message_node::PaymentRules;
use protocol::Account;
use protocol::api::message_node::MessageStatus;
use protocol::message::{ErrorCode, MessageTime, PaymentKind};
use serde_json::{Value, json};

use crate::support::*;

/// A node whose ledger gives an account this.
async fn node_with(account: &Account, tokens: &str) -> (TestNode, String) {
    let node = TestNode::with_ledger(json!({account.address().as_str(): tokens}), |_| ()).await;
    let file = node.publish(account, b"code").await;
    (node, file)
}

#[tokio::test]
async fn an_exact_balance_is_enough_and_less_is_explained() {
    let account = Account::generate();
    let (node, file) = node_with(&account, "2000").await;
    let first = node.accept(&program(&account, &file, &file, persistent())).await;
    let details = node.reject(&program(&account, &file, &file, json!({})), ErrorCode::BalanceInsufficient).await;
    let expected = json!({"errors": [{"account_balance": "2000", "required_balance": "2200"}]});
    assert_eq!(details, expected);
    let balance = node.client.balance(account.address()).await.unwrap();
    assert_eq!((balance.balance, balance.locked_amount), (2000.0, 2000.0));
    let price = node.client.price(&first).await.unwrap().unwrap();
    assert_eq!((price.cost.as_str(), price.payment_type.as_str()), ("2000.000000000000000000", "hold"));
    assert_eq!(price.charged_address, *account.address());
    node.accept(&forget(&account, &[&first])).await;
    let balance = node.client.balance(account.address()).await.unwrap();
    assert_eq!(balance.locked_amount, 0.0, "what is forgotten costs nothing");
    assert_eq!(node.json(&format!("/api/v0/price/{first}")).await.0, 410);
}

#[tokio::test]
async fn who_is_not_in_the_ledger_has_nothing() {
    let (node, file) = node_with(&Account::generate(), "1").await;
    let stranger = Account::generate();
    assert_eq!(node.client.balance(stranger.address()).await.unwrap().balance, 0.0);
    node.reject(&program(&stranger, &file, &file, json!({})), ErrorCode::BalanceInsufficient).await;
}

#[tokio::test]
async fn an_account_with_exactly_2000_can_unpersist_and_persist() {
    let account = Account::generate();
    let (node, file) = node_with(&account, "2000").await;
    let mut last = node.accept(&program(&account, &file, &file, persistent())).await;
    for fields in [json!({}), persistent()] {
        let next = program(&account, &file, &file, with(fields, json!({"replaces": last})));
        node.send(&next).await;
        let gone = forget(&account, &[&last]);
        node.send(&gone).await;
        node.until(&gone.item_hash, MessageStatus::Processed).await;
        assert_eq!(node.status(&next.item_hash).await, MessageStatus::Processed);
        last = next.item_hash;
    }
}

#[tokio::test]
async fn a_replacement_that_keeps_both_is_removed_when_it_is_not_covered() {
    let account = Account::generate();
    let ledger = json!({account.address().as_str(): "2000"});
    let node = TestNode::with_ledger(ledger, |config| {
        config.timing.replacement_window = Duration::from_millis(300);
    })
    .await;
    let file = node.publish(&account, b"code").await;
    let old = node.accept(&program(&account, &file, &file, persistent())).await;
    let replacing = |fields| program(&account, &file, &file, with(fields, json!({"replaces": old})));
    let next = node.accept(&replacing(json!({}))).await;
    let known = node.until(&next, MessageStatus::Removed).await;
    assert_eq!(known.reason.as_deref(), Some("balance_insufficient"));
    assert_eq!(known.message.unwrap().content, None);
    assert_eq!(node.status(&old).await, MessageStatus::Processed);
    assert_eq!(node.client.balance(account.address()).await.unwrap().locked_amount, 2000.0);
    assert_eq!(node.submit(&replacing(json!({"metadata": {"name": "again"}}))).await, MessageStatus::Processed);
    node.accept(&forget(&account, &[&next])).await;
    assert_eq!(node.status(&next).await, MessageStatus::Removed, "there is nothing to forget");
}

#[tokio::test]
async fn a_replacement_stays_when_the_old_one_goes_or_both_are_covered() {
    let (poor, rich) = (Account::generate(), Account::generate());
    let ledger = json!({poor.address().as_str(): "200", rich.address().as_str(): 400});
    let node = TestNode::with_ledger(ledger, |config| {
        config.timing.replacement_window = Duration::from_millis(300);
    })
    .await;
    let file = node.publish(&poor, b"code").await;
    let mut kept = Vec::new();
    for account in [&poor, &rich] {
        let old = node.accept(&program(account, &file, &file, json!({}))).await;
        let next = program(account, &file, &file, json!({"replaces": old}));
        kept.push(node.accept(&next).await);
        if account.address() == poor.address() {
            node.accept(&forget(account, &[&old])).await;
        }
    }
    // The one that is removed tells that the window is over for those before it.
    let old = node.accept(&program(&rich, &file, &file, json!({"replaces": kept[1]}))).await;
    node.until(&old, MessageStatus::Removed).await;
    for hash in kept {
        assert_eq!(node.status(&hash).await, MessageStatus::Processed);
    }
}

#[tokio::test]
async fn the_ledger_counts_as_soon_as_it_changes_and_a_broken_one_changes_nothing() {
    let account = Account::generate();
    let (node, file) = node_with(&account, "199").await;
    let balance = async || node.client.balance(account.address()).await.unwrap().balance;
    let running = program(&account, &file, &file, json!({}));
    node.reject(&running, ErrorCode::BalanceInsufficient).await;
    node.set_ledger(&json!({account.address().as_str().to_lowercase(): 200.5}));
    assert_eq!(balance().await, 200.5);
    node.accept(&running).await;
    write_ledger(&node.ledger_path(), "{\"0x");
    assert_eq!(balance().await, 200.5);
    std::fs::remove_file(node.ledger_path()).unwrap();
    assert_eq!(balance().await, 200.5);
    node.set_ledger(&json!({}));
    assert_eq!(balance().await, 0.0);
    let (_, list) = node.json("/api/v0/balances").await;
    assert_eq!((&list["balances"], &list["pagination_total"]), (&json!([]), &json!(0)));
}

#[tokio::test]
async fn without_a_ledger_everybody_can_pay() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let file = node.publish(&account, b"code").await;
    let large = json!({"resources": {"vcpus": 200, "memory": 2048, "seconds": 30}});
    let hash = node.accept(&program(&account, &file, &file, large)).await;
    let balance = node.client.balance(account.address()).await.unwrap();
    assert!(balance.balance - balance.locked_amount > 1e6, "clients compare before they send");
    assert_eq!(node.client.price(&hash).await.unwrap().unwrap().required_tokens, 40_000.0);
}

#[tokio::test]
async fn large_files_have_to_be_paid_for() {
    let account = Account::generate();
    let (node, _) = node_with(&account, "9").await;
    let large = vec![1; 30 * 1024 * 1024];
    let message = store(&account, &protocol::FileHash::of(&large).to_string(), json!({}));
    let error = node.add_file(&message, &large).await.unwrap_err();
    assert_eq!(error.status(), Some(402), "{error}");
    assert_eq!(node.client.message(&message.item_hash).await.unwrap(), None, "the message was not taken");
    node.set_ledger(&json!({account.address().as_str(): "10"}));
    node.add_file(&message, &large).await.unwrap();
    let price = node.client.price(&message.item_hash).await.unwrap().unwrap();
    assert_eq!(price.cost, "9.999999990000000000");
    let balance = node.client.balance(account.address()).await.unwrap();
    assert_eq!(balance.locked_amount, 9.99999999);
}

#[tokio::test]
async fn prices_of_what_is_no_program_or_not_there() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let note = node.accept(&post(&account, "note", json!({}))).await;
    assert_eq!(node.json(&format!("/api/v0/price/{note}")).await.0, 400);
    assert_eq!(node.json(&format!("/api/v0/price/{}", "ab".repeat(32))).await.0, 404);
    let bad = program(&account, "c", "r", json!({"payment": {"type": "credit"}}));
    node.reject(&bad, ErrorCode::InvalidPaymentMethod).await;
    assert_eq!(node.json(&format!("/api/v0/price/{}", bad.item_hash)).await.0, 404);
}

/// What the Python client sends: a signature of zeros, times as text, and `null` for what is not set.
fn dumped(content: &Value) -> Value {
    json!({"message": {
        "sender": "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "chain": "ETH", "signature": format!("0x{}", "0".repeat(130)),
        "type": "PROGRAM", "item_type": "inline", "item_content": content.to_string(), "item_hash": "ab".repeat(32),
        "time": "2026-11-22T05:06:43.412577Z", "channel": "ALEPH-CLOUDSOLUTIONS", "confirmations": null, "confirmed": null,
        "content": content,
    }})
}

#[tokio::test]
async fn estimates_are_lenient_and_agree_with_what_is_charged() {
    let account = Account::generate();
    let (node, file) = node_with(&account, "10000").await;
    let message = program(&account, &file, &file, persistent());
    let mut content: Value = serde_json::from_str(message.item_content.as_deref().unwrap()).unwrap();
    content["data"] = Value::Null;
    content["code"]["interface"] = Value::Null;
    content["code"]["estimated_size_mib"] = json!(100);
    content["volumes"] = json!([{"ref": "x", "mount": "/x", "comment": null, "estimated_size_mib": 20480}]);
    let (status, price) = node.post("/api/v0/price/estimate", &dumped(&content)).await;
    // 20480 MiB come with the program; the runtime's few bytes and 100 MiB of code are beyond.
    assert_eq!((status, &price["payment_type"]), (200, &json!("hold")), "{price}");
    assert!(price["cost"].as_str().unwrap().starts_with("2005.0000"), "{price}");
    node.accept(&message).await;
    let estimate = node.client.estimate(&message).await.unwrap();
    assert_eq!(Some(estimate), node.client.price(&message.item_hash).await.unwrap());

    let content = json!({"address": "0x1", "estimated_size_mib": 30, "item_hash": "x"});
    let store = json!({"message": {"type": "STORE", "content": content}});
    let (_, price) = node.post("/api/v0/price/estimate", &store).await;
    assert_eq!(price["cost"], "9.999999990000000000");
    for bad in [json!({}), json!({"message": {"type": "POST", "content": {}}}), json!({"message": {"type": "PROGRAM"}})]
    {
        assert_eq!(node.post("/api/v0/price/estimate", &bad).await.0, 422, "{bad}");
    }
}

fn paid_by(kind: &str) -> Value {
    json!({"payment": {"chain": "ETH", "type": kind}})
}

#[tokio::test]
async fn other_ways_to_pay_are_free_where_the_operator_says_so() {
    let account = Account::generate();
    let node = TestNode::with_ledger(json!({account.address().as_str(): 0}), |config| {
        config.payment.without_charge = vec![PaymentKind::Credit];
    })
    .await;
    let file = node.publish(&account, b"code").await;
    let large = node.publish_with(&account, &vec![1; 30 * 1024 * 1024], paid_by("credit")).await;
    let fields = with(persistent(), paid_by("credit"));
    node.accept(&program(&account, &large, &file, fields)).await;
    let balance = node.client.balance(account.address()).await.unwrap();
    assert_eq!((balance.balance, balance.locked_amount), (0.0, 0.0));
    assert!(balance.credit_balance > 1_000_000, "clients compare it with prices before they send anything");
    let details =
        node.reject(&program(&account, &file, &file, paid_by("superfluid")), ErrorCode::InvalidPaymentMethod).await;
    assert!(details.to_string().contains("superfluid"), "{details}");
    node.reject(&program(&account, &file, &file, json!({})), ErrorCode::BalanceInsufficient).await;
}

#[tokio::test]
async fn cut_offs_are_those_of_the_messages_times() {
    let account = Account::generate();
    let at = |seconds| MessageTime::from_seconds(seconds);
    let node = TestNode::with_ledger(json!({account.address().as_str(): 2000}), |config| {
        config.payment = PaymentRules {
            without_charge: Vec::new(),
            hold_persistent_until: at(1_700_000_000.0),
            hold_until: at(1_710_000_000.0),
            free_on_demand_until: at(1_690_000_000.0),
        };
    })
    .await;
    let file = node.publish(&account, b"code").await;
    let sent = |seconds: u32, fields| program(&account, &file, &file, with(fields, json!({"time": seconds})));
    node.accept(&sent(1_689_999_999, json!({}))).await;
    assert_eq!(node.client.balance(account.address()).await.unwrap().locked_amount, 0.0);
    let details = node.reject(&sent(1_700_000_000, persistent()), ErrorCode::InvalidPaymentMethod).await;
    assert!(details.to_string().contains("since 2023-11-14T22:13:20"), "{details}");
    let held = node.accept(&sent(1_700_000_000, json!({}))).await;
    node.reject(&sent(1_710_000_000, json!({})), ErrorCode::InvalidPaymentMethod).await;
    node.accept(&forget(&account, &[&held])).await;
    node.accept(&sent(1_699_999_999, persistent())).await;
}
