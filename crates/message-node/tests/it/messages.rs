//! Submitting messages of every type, and what is answered.

use std::time::Duration;

use futures_util::future::join_all;
use protocol::api::message_node::MessageStatus;
use protocol::message::{ErrorCode, MessageType};
use protocol::{Account, FileHash};
use serde_json::{Value, json};

use crate::support::*;

#[tokio::test]
async fn every_type_is_accepted_and_served_as_it_was_sent() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let code = node.publish(&account, b"the code").await;
    let runtime = node.publish(&account, b"the runtime").await;
    let messages = [
        post(&account, "note", json!({"text": "é", "number": 0.1})),
        aggregate(&account, "profile", json!({"name": "x"})),
        program(&account, &code, &runtime, json!({})),
        forget(&account, &[&node.accept(&post(&account, "note", json!({}))).await]),
    ];
    for message in &messages {
        node.accept(message).await;
        let known = node.get(&message.item_hash).await;
        assert_eq!(known.status, MessageStatus::Processed);
        let stored = known.message.unwrap();
        assert_eq!(stored.envelope, *message, "byte for byte");
        let content: Value = serde_json::from_str(message.item_content.as_deref().unwrap()).unwrap();
        assert_eq!(stored.content, Some(content));
        assert_eq!(node.client.price(&message.item_hash).await.is_ok(), message.message_type == MessageType::Program);
    }
    let (status, document) = node.json(&format!("/api/v0/messages/{}/content", messages[0].item_hash)).await;
    assert_eq!((status, document), (200, json!({"text": "é", "number": 0.1})), "of a post, the document in it");
    let (_, head) = node.json(&format!("/api/v0/messages/{}/status", messages[0].item_hash)).await;
    assert_eq!((&head["status"], head.as_object().unwrap().len()), (&json!("processed"), 3));
}

#[tokio::test]
async fn the_content_keeps_its_bytes() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let address = account.address();
    let content = format!(
        "{{ \"address\":\"{address}\", \"time\":1795324003.4256161,\n\"type\":\"t\",\"content\":{{\"b\":1e3,\"a\":10000000000000000000001}} }}"
    );
    let hash = node.accept(&sign(&account, MessageType::Post, content.clone())).await;
    for path in [format!("/api/v0/messages/{hash}"), "/api/v0/messages.json".to_owned()] {
        let text = node.text(&path).await;
        assert!(text.contains(&format!("\"content\":{content}")), "{text}");
    }
}

#[tokio::test]
async fn without_sync_the_answer_is_always_pending() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let (good, bad) = (post(&account, "note", json!({})), program(&account, "c", "r", json!({"colour": "red"})));
    for _ in 0..2 {
        for message in [&good, &bad, &forged(&good)] {
            let body = json!({"sync": false, "message": message});
            let (status, answer) = node.post("/api/v0/messages", &body).await;
            assert_eq!((status, &answer["message_status"]), (202, &json!("pending")));
            assert_eq!(answer["publication_status"], json!({"status": "success", "failed": []}));
        }
        node.until(&good.item_hash, MessageStatus::Processed).await;
        node.until(&bad.item_hash, MessageStatus::Rejected).await;
    }
}

#[tokio::test]
async fn with_sync_the_answer_is_the_outcome() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let good = post(&account, "note", json!({}));
    let submit = async |message: &_| node.post("/api/v0/messages", &json!({"sync": true, "message": message})).await;
    let (status, answer) = submit(&good).await;
    assert_eq!((status, &answer["message_status"]), (200, &json!("processed")));
    let (status, answer) = submit(&program(&account, "c", "r", json!({"colour": "red"}))).await;
    assert_eq!((status, &answer["message_status"], &answer["error_code"]), (422, &json!("rejected"), &json!(0)));
    assert_eq!(answer["publication_status"]["status"], "success");
    assert!(answer["details"]["errors"][0]["msg"].as_str().unwrap().contains("colour"), "{answer}");
    node.accept(&forget(&account, &[&good.item_hash])).await;
    let (status, answer) = submit(&good).await;
    assert_eq!((status, &answer["message_status"]), (410, &json!("forgotten")));
    assert_eq!(node.status(&good.item_hash).await, MessageStatus::Forgotten);
}

#[tokio::test]
async fn sync_waits_no_longer_than_it_may() {
    let node = TestNode::with(|config| {
        config.timing.sync_wait = Duration::from_millis(50);
        config.timing.retry_window = Duration::from_secs(600);
    })
    .await;
    let waits = amend(&Account::generate(), &"ab".repeat(32), json!({}));
    let (status, answer) = node.post("/api/v0/messages", &json!({"sync": true, "message": waits})).await;
    assert_eq!((status, &answer["message_status"]), (202, &json!("pending")));
    let (_, known) = node.json(&format!("/api/v0/messages/{}", waits.item_hash)).await;
    assert_eq!(known["status"], "pending");
    assert_eq!(known["messages"][0]["item_hash"], json!(waits.item_hash));
    assert!(known.get("message").is_none());
    let (status, _) = node.json(&format!("/api/v0/messages/{}/content", waits.item_hash)).await;
    assert_eq!(status, 422);
}

#[tokio::test]
async fn malformed_envelopes_are_refused_at_once() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let good = serde_json::to_value(post(&account, "note", json!({}))).unwrap();
    let broken = |field: &str, value: Value| {
        let mut message = good.clone();
        message[field] = value;
        json!({"sync": false, "message": message})
    };
    for (body, word) in [
        (json!({"sync": true}), "message"),
        (json!(7), "invalid type"),
        (broken("type", json!("POTS")), "type"),
        (broken("item_hash", json!("12")), "item hash"),
        (broken("item_content", json!("{}")), "hashes to"),
        (broken("item_content", json!("x".repeat(200_001))), "too long"),
        (broken("item_type", json!("storage")), "item_content"),
        (broken("time", json!("yesterday")), "time"),
        (broken("channel", json!("c".repeat(129))), "channel"),
    ] {
        let (status, answer) = node.post("/api/v0/messages", &body).await;
        assert_eq!((status, &answer["code"]), (422, &json!("invalid")), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(word), "{word}: {answer}");
    }
    let text = node.http.post(format!("{}/api/v0/messages", node.url)).body("no json").send().await.unwrap();
    assert_eq!(text.status(), 422);
    let huge = node.http.post(format!("{}/api/v0/messages", node.url)).body("x".repeat(5 << 20)).send().await.unwrap();
    assert_eq!(huge.status(), 413);
    assert_eq!(huge.json::<Value>().await.unwrap()["code"], "too_large");
    let (status, _) = node.json(&format!("/api/v0/messages/{}", good["item_hash"].as_str().unwrap())).await;
    assert_eq!(status, 404, "nothing was stored");
}

#[tokio::test]
async fn a_spoiled_copy_never_stands_in_the_way() {
    let (node, account, thief) = (TestNode::start().await, Account::generate(), Account::generate());
    let real = post(&account, "note", json!({}));
    let mut stolen = real.clone();
    stolen.sender = thief.address().clone();
    stolen.signature = Some(thief.sign(stolen.signed_text().as_bytes()));

    node.reject(&forged(&real), ErrorCode::InvalidSignature).await;
    node.reject(&stolen, ErrorCode::PermissionDenied).await;
    node.accept(&real).await;
    // The thief's own signature is right, so that its copy is a duplicate of what is in force.
    for (copy, told) in [(forged(&real), MessageStatus::Rejected), (stolen, MessageStatus::Processed)] {
        assert_eq!(node.submit(&copy).await, told);
        let known = node.get(&real.item_hash).await;
        assert_eq!(known.status, MessageStatus::Processed);
        assert_eq!(known.message.unwrap().envelope, real);
    }
}

#[tokio::test]
async fn a_forged_copy_does_not_hide_why_the_real_one_was_rejected() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let real = program(&account, "c", "r", json!({"payment": {"type": "credit"}}));
    node.reject(&real, ErrorCode::InvalidPaymentMethod).await;
    assert_eq!(node.submit(&forged(&real)).await, MessageStatus::Rejected);
    let known = node.get(&real.item_hash).await;
    assert_eq!(known.error_code, Some(ErrorCode::InvalidPaymentMethod.code()));
}

#[tokio::test]
async fn copies_at_the_same_time_are_decided_one_by_one() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let real = post(&account, "note", json!({}));
    let copies = (0..20).map(|i| if i == 11 { real.clone() } else { forged(&real) });
    let outcomes = join_all(copies.map(async |copy| (copy.clone(), node.submit(&copy).await))).await;
    for (copy, outcome) in outcomes {
        let right = if copy == real { MessageStatus::Processed } else { MessageStatus::Rejected };
        assert_eq!(outcome, right);
    }
    assert_eq!(node.get(&real.item_hash).await.message.unwrap().envelope, real);
}

#[tokio::test]
async fn duplicates_at_the_same_time_are_one_message() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let message = aggregate(&account, "k", json!({"a": 1}));
    let outcomes = join_all((0..30).map(|_| node.submit(&message))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == MessageStatus::Processed), "{outcomes:?}");
    let (_, list) = node.json(&format!("/api/v0/messages.json?hashes={}", message.item_hash)).await;
    assert_eq!(list["pagination_total"], 1);
}

#[tokio::test]
async fn a_rejected_message_may_be_tried_again() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let content = b"late";
    let message = store(&account, &FileHash::of(content).to_string(), json!({}));
    node.reject(&message, ErrorCode::FileUnavailable).await;
    node.add_file(&message, content).await.unwrap();
    assert_eq!(node.status(&message.item_hash).await, MessageStatus::Processed);
}

#[tokio::test]
async fn contents_may_be_in_the_file_store() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let content =
        json!({"address": account.address(), "time": now(), "key": "big", "content": {"x": "y".repeat(60_000)}});
    let content = content.to_string();
    let message = stored_message(&account, MessageType::Aggregate, &content);
    node.reject(&message, ErrorCode::ContentUnavailable).await;
    node.send(&message).await;
    let answer = node.http.post(format!("{}/api/v0/storage/add_json", node.url)).body(content.clone()).send().await;
    let answer: Value = answer.unwrap().json().await.unwrap();
    assert_eq!(answer, json!({"status": "success", "hash": message.item_hash}));
    let known = node.until(&message.item_hash, MessageStatus::Processed).await;
    let stored = known.message.unwrap();
    assert_eq!(stored.envelope.item_content, None, "the content is not inside the envelope");
    assert_eq!(stored.content.unwrap()["key"], "big");
    assert_eq!(node.client.item_content(&stored.envelope).await.unwrap(), content);
    let (_, count) = node.json(&format!("/api/v0/storage/count/{}", message.item_hash)).await;
    assert_eq!(count, 1, "the file is needed");
}

#[tokio::test]
async fn too_many_pending_messages_are_turned_away() {
    let node = TestNode::with(|config| {
        config.limits.pending = 2;
        config.timing.retry_window = Duration::from_secs(600);
    })
    .await;
    let account = Account::generate();
    let waits = |n: u8| amend(&account, &format!("{n:064x}"), json!({"n": n}));
    let first = waits(1);
    for message in [&first, &first, &waits(2)] {
        node.send(message).await;
    }
    let response = node.http.post(format!("{}/api/v0/messages", node.url));
    let response = response.json(&json!({"message": waits(3)})).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(response.json::<Value>().await.unwrap()["code"], "busy");
}

#[tokio::test]
async fn old_rejections_are_not_remembered_for_ever() {
    let node = TestNode::with(|config| {
        config.limits.rejected = 2;
        config.timing.collect_every = Duration::from_millis(50);
    })
    .await;
    let account = Account::generate();
    let bad = |n: u32| program(&account, "c", "r", json!({"colour": n}));
    let all: Vec<_> = (0..4).map(bad).collect();
    for message in &all {
        assert_eq!(node.submit(message).await, MessageStatus::Rejected);
    }
    let kept = eventually(async || {
        let (_, list) = node.json("/api/v0/messages.json?msgStatuses=rejected").await;
        Some(list).filter(|list| list["pagination_total"] == 2)
    });
    let kept = kept.await;
    for message in &all[2..] {
        assert!(kept.to_string().contains(&message.item_hash), "the newest are kept");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered_in_json() {
    let node = TestNode::start().await;
    for path in ["/api/v0/nothing".to_owned(), format!("/api/v0/messages/{}", "ab".repeat(32))] {
        let (status, body) = node.json(&path).await;
        assert_eq!((status, &body["code"]), (404, &json!("not_found")), "{path}");
    }
    for path in ["/api/v0/messages", "/api/v0/storage/add_file", "/api/v0/price/estimate"] {
        let (status, body) = node.json(path).await;
        assert_eq!((status, &body["code"]), (405, &json!("method_not_allowed")), "{path}");
    }
}
