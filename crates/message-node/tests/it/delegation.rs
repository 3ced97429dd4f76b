//! Acting for another account.

use protocol::Account;
use protocol::api::message_node::MessageStatus;
use protocol::message::{Envelope, ErrorCode, MessageType};
use serde_json::{Value, json};

use crate::support::*;

/// A message that `sender` signs for `owner`.
fn on_behalf(sender: &Account, owner: &Account, message_type: MessageType, content: Value) -> Envelope {
    message(sender, message_type, with(content, json!({"address": owner.address()})))
}

fn note(post_type: &str) -> Value {
    json!({"type": post_type, "content": {}, "n": uuid()})
}

/// Contents must differ, or they would be the same message.
fn uuid() -> String {
    Account::generate().address().to_string()
}

fn authorize(owner: &Account, friend: &Account, conditions: Value) -> Envelope {
    let entry = with(json!({"address": friend.address()}), conditions);
    aggregate(owner, "security", json!({"authorizations": [entry]}))
}

#[tokio::test]
async fn nobody_acts_for_another_without_leave() {
    let (node, owner, friend) = (TestNode::start().await, Account::generate(), Account::generate());
    let attempts = [
        on_behalf(&friend, &owner, MessageType::Post, note("note")),
        on_behalf(&friend, &owner, MessageType::Aggregate, json!({"key": "security", "content": {}})),
        on_behalf(&friend, &owner, MessageType::Store, json!({"item_type": "storage", "item_hash": "ab".repeat(32)})),
    ];
    for attempt in attempts {
        node.reject(&attempt, ErrorCode::PermissionDenied).await;
    }
}

#[tokio::test]
async fn leave_is_given_by_type_and_taken_back() {
    let (node, owner, friend) = (TestNode::start().await, Account::generate(), Account::generate());
    let post_for = |kind| on_behalf(&friend, &owner, MessageType::Post, note(kind));
    node.accept(&authorize(&owner, &friend, json!({"types": ["POST"], "post_types": ["note"]}))).await;
    let original = node.accept(&post_for("note")).await;
    node.reject(&post_for("other"), ErrorCode::PermissionDenied).await;
    let aggregate_for = on_behalf(&friend, &owner, MessageType::Aggregate, json!({"key": "k", "content": {}}));
    node.reject(&aggregate_for, ErrorCode::PermissionDenied).await;
    // Whoever may make a note may amend it, although an amend is of another type.
    let change = json!({"type": "amend", "ref": original, "content": {"v": 2}});
    node.accept(&on_behalf(&friend, &owner, MessageType::Post, change)).await;
    node.accept(&aggregate(&owner, "security", json!({"authorizations": []}))).await;
    node.reject(&post_for("note"), ErrorCode::PermissionDenied).await;
}

#[tokio::test]
async fn who_may_make_a_message_may_forget_it() {
    let (node, owner, friend) = (TestNode::start().await, Account::generate(), Account::generate());
    node.accept(&authorize(&owner, &friend, json!({"types": ["POST"]}))).await;
    let by_owner = node.accept(&post(&owner, "note", json!({}))).await;
    let key = node.accept(&aggregate(&owner, "k", json!({"a": 1}))).await;
    node.accept(&forget(&friend, &[&by_owner])).await;
    assert_eq!(node.status(&by_owner).await, MessageStatus::Forgotten);
    node.reject(&forget(&friend, &[&key]), ErrorCode::PermissionDenied).await;
    let stranger = Account::generate();
    node.reject(&forget(&stranger, &[&by_owner]), ErrorCode::PermissionDenied).await;
    let known = node.get(&by_owner).await;
    assert_eq!(known.forgotten_by.unwrap().len(), 1, "a stranger leaves no trace");
}

#[tokio::test]
async fn conditions_bind_chain_and_channel() {
    let (node, owner, friend) = (TestNode::start().await, Account::generate(), Account::generate());
    node.accept(&authorize(&owner, &friend, json!({"channels": ["OTHER"]}))).await;
    node.reject(&on_behalf(&friend, &owner, MessageType::Post, note("note")), ErrorCode::PermissionDenied).await;
    node.accept(&authorize(&owner, &friend, json!({"channels": ["TEST"], "chain": "SOL"}))).await;
    node.reject(&on_behalf(&friend, &owner, MessageType::Post, note("note")), ErrorCode::PermissionDenied).await;
    node.accept(&authorize(&owner, &friend, json!({"channels": ["TEST"], "chain": "ETH"}))).await;
    node.accept(&on_behalf(&friend, &owner, MessageType::Post, note("note"))).await;
}
