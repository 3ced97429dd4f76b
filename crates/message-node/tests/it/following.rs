//! One message node takes in what another one has.

use std::sync::Arc;

use aleph_message_node::FollowConfig;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use protocol::api::message_node::MessageStatus;
use protocol::message::{Envelope, MessageType};
use protocol::{Account, FileHash};
use serde_json::{Value, json};

use crate::support::*;

/// A node that follows another one.
async fn follower(url: &str, only: &[MessageType]) -> TestNode {
    let follow = FollowConfig { url: url.to_owned(), only: only.to_vec() };
    TestNode::with(|config| config.follow = Some(follow)).await
}

/// Waits until a message that may not be known yet is in this status.
async fn arrives(node: &TestNode, hash: &str, status: MessageStatus) {
    eventually(async || {
        let known = node.client.message(hash).await.unwrap();
        known.filter(|message| message.status == status)
    })
    .await;
}

async fn knows(node: &TestNode, hash: &str) -> bool {
    node.client.message(hash).await.unwrap().is_some()
}

/// Uploads the content of a message that is not inline.
async fn publish_content(node: &TestNode, text: &str) {
    let document: Value = serde_json::from_str(text).unwrap();
    let (status, answer) = node.post("/api/v0/storage/add_json", &document).await;
    assert_eq!((status, answer["hash"].as_str()), (200, Some(FileHash::of(text.as_bytes()).to_string().as_str())));
}

/// The value of a metric without labels.
async fn metric(node: &TestNode, name: &str) -> u64 {
    let text = node.text("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("the metric is there");
    line.parse().unwrap()
}

#[tokio::test]
async fn what_is_in_force_is_taken_in_and_so_is_what_comes_later() {
    let (origin, account) = (TestNode::start().await, Account::generate());
    let file = origin.publish(&account, b"code").await;
    let runs = origin.accept(&program(&account, &file, &file, persistent())).await;
    origin.accept(&aggregate(&account, "k", json!({"a": 1}))).await;
    let gone = origin.accept(&post(&account, "note", json!({"n": 1}))).await;
    let taken_back = origin.accept(&forget(&account, &[&gone])).await;
    let text =
        json!({"address": account.address(), "time": now(), "type": "note", "content": {"long": true}}).to_string();
    publish_content(&origin, &text).await;
    let stored = origin.accept(&stored_message(&account, MessageType::Post, &text)).await;

    let follower = follower(&origin.url, &[]).await;
    for hash in [&file, &runs, &stored] {
        arrives(&follower, hash, MessageStatus::Processed).await;
    }
    assert_eq!(follower.text(&format!("/api/v0/storage/raw/{}", FileHash::of(b"code"))).await, "code");
    let aggregates = format!("/api/v0/aggregates/{}.json", account.address());
    assert_eq!(follower.json(&aggregates).await.1["data"], json!({"k": {"a": 1}}));
    assert!(!knows(&follower, &gone).await && !knows(&follower, &taken_back).await, "what is gone is not listed");

    // By the stream.
    let note = origin.accept(&post(&account, "note", json!({"n": 2}))).await;
    arrives(&follower, &note, MessageStatus::Processed).await;
    let newer = origin.publish(&account, b"newer").await;
    arrives(&follower, &newer, MessageStatus::Processed).await;
    origin.accept(&forget(&account, &[&note])).await;
    arrives(&follower, &note, MessageStatus::Forgotten).await;
}

#[tokio::test]
async fn after_a_pause_only_what_is_new_is_taken() {
    let (origin, account) = (TestNode::start().await, Account::generate());
    let before = origin.accept(&post(&account, "note", json!({"n": 1}))).await;
    let running = follower(&origin.url, &[]).await;
    arrives(&running, &before, MessageStatus::Processed).await;
    let (config, folder) = running.kill();
    let meanwhile = origin.publish(&account, b"meanwhile").await;
    let later = origin.accept(&post(&account, "note", json!({"n": 2}))).await;
    let again = TestNode::launch(config, folder).await.unwrap();
    for hash in [&meanwhile, &later] {
        arrives(&again, hash, MessageStatus::Processed).await;
    }
    assert_eq!(metric(&again, "aleph_followed_total").await, 2);
    assert_eq!(metric(&again, "aleph_following").await, 1);
}

#[tokio::test]
async fn types_that_are_not_wanted_stay_away() {
    let (origin, account) = (TestNode::start().await, Account::generate());
    let note = origin.accept(&post(&account, "note", json!({}))).await;
    let file = origin.publish(&account, b"code").await;
    let follower = follower(&origin.url, &[MessageType::Store, MessageType::Forget]).await;
    arrives(&follower, &file, MessageStatus::Processed).await;
    // It concerns nothing here, unlike the next one.
    let unseen = origin.accept(&forget(&account, &[&note])).await;
    let seen = origin.accept(&forget(&account, &[&file])).await;
    arrives(&follower, &seen, MessageStatus::Processed).await;
    assert!(!knows(&follower, &note).await && !knows(&follower, &unseen).await);
}

#[tokio::test]
async fn a_node_that_comes_later_is_waited_for() {
    let (origin, account) = (TestNode::start().await, Account::generate());
    let note = origin.accept(&post(&account, "note", json!({}))).await;
    let url = origin.url.clone();
    let (mut config, folder) = origin.stop().await;
    let follower = follower(&url, &[]).await;
    eventually(async || (metric(&follower, "aleph_following").await == 0).then_some(())).await;
    config.listen = url.strip_prefix("http://").unwrap().parse().unwrap();
    let _origin = TestNode::launch(config, folder).await.unwrap();
    arrives(&follower, &note, MessageStatus::Processed).await;
}

/// Files that the liar does not have.
const MISSING: &[u8] = b"nobody has it";
const FAILING: &[u8] = b"looked for in vain";

/// A node that lists these messages and gives the same bytes for every file that it has. It has no stream.
async fn liar(messages: Vec<Value>) -> String {
    let list = async |State(messages): State<Arc<Vec<Value>>>| {
        Json(json!({"messages": *messages, "pagination_per_page": 200, "next_cursor": null}))
    };
    let raw = async |Path(hash): Path<String>| match hash {
        hash if hash == FileHash::of(MISSING).to_string() => Err(StatusCode::NOT_FOUND),
        hash if hash == FileHash::of(FAILING).to_string() => Err(StatusCode::INTERNAL_SERVER_ERROR),
        _ => Ok("the same for all"),
    };
    let router = Router::new()
        .route("/api/v0/messages.json", get(list))
        .route("/api/v0/storage/raw/{hash}", get(raw))
        .with_state(Arc::new(messages));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test]
async fn nothing_is_believed_that_cannot_be_checked() {
    let account = Account::generate();
    let shown = |envelope: &Envelope| serde_json::to_value(envelope).unwrap();
    let good = post(&account, "note", json!({"n": "good"}));
    let signed_by_another = forged(&post(&account, "note", json!({"n": "forged"})));
    let mut changed = post(&account, "note", json!({"n": "changed"}));
    changed.item_content = Some(changed.item_content.unwrap().replace("changed", "altered"));
    let other_file = store(&account, &FileHash::of(b"something").to_string(), json!({}));
    let no_file = store(&account, &FileHash::of(MISSING).to_string(), json!({}));
    let failing_file = store(&account, &FileHash::of(FAILING).to_string(), json!({}));
    let right_file = store(&account, &FileHash::of(b"the same for all").to_string(), json!({}));
    let other_content = stored_message(&account, MessageType::Post, r#"{"type":"note"}"#);
    let of_the_future = json!({"chain": "NOT-INVENTED-YET", "sender": "x"});
    let bad = [&signed_by_another, &changed, &other_file, &no_file, &failing_file, &other_content];
    let mut messages: Vec<Value> = bad.map(shown).into();
    messages.extend([of_the_future, shown(&good), shown(&right_file)]);

    let follower = follower(&liar(messages).await, &[]).await;
    for message in [&good, &right_file] {
        arrives(&follower, &message.item_hash, MessageStatus::Processed).await;
    }
    for message in bad {
        assert!(!knows(&follower, &message.item_hash).await, "{message:?}");
    }
    assert_eq!(metric(&follower, "aleph_follow_refused_total").await, 7);
}
