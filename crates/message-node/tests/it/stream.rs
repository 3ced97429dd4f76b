//! The WebSocket stream.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use protocol::Account;
use protocol::api::message_node::{MessageFilter, StoredMessage};
use protocol::client::EventStream;
use protocol::message::{MessageTime, MessageType};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::*;

async fn next(stream: &mut EventStream<StoredMessage>) -> String {
    let event = timeout(PATIENCE, stream.next()).await.expect("an event comes in time");
    event.unwrap().expect("the stream is open").envelope.item_hash
}

#[tokio::test]
async fn history_comes_first_oldest_to_newest_and_then_what_happens() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let mut sent = Vec::new();
    for n in 0..4u32 {
        let mut message = post(&account, "note", json!({"n": n}));
        message.time = MessageTime::from_seconds((100 + n).into()).unwrap();
        sent.push(node.accept(&message).await);
    }
    let mut stream = node.client.watch(&MessageFilter::default(), 2).await.unwrap();
    let live = node.accept(&aggregate(&account, "k", json!({}))).await;
    for expected in [&sent[2], &sent[3], &live] {
        assert_eq!(next(&mut stream).await, *expected);
    }
    let event = post(&account, "note", json!({"last": true}));
    node.accept(&event).await;
    let seen = timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(seen.envelope, event, "whole messages are sent");
    assert_eq!(seen.content.unwrap()["content"]["last"], true);
}

#[tokio::test]
async fn filters_select_and_times_only_the_history() {
    let (node, account, other) = (TestNode::start().await, Account::generate(), Account::generate());
    let old = node.accept(&post(&account, "note", json!({}))).await;
    let filter = MessageFilter {
        types: vec![MessageType::Post],
        senders: vec![account.address().clone()],
        start_date: Some(now() + 3600.0),
        ..MessageFilter::default()
    };
    let mut stream = node.client.watch(&filter, 10).await.unwrap();
    node.accept(&post(&other, "note", json!({}))).await;
    node.accept(&aggregate(&account, "k", json!({}))).await;
    node.submit(&program(&account, "c", "r", json!({"colour": "red"}))).await;
    let wanted = node.accept(&post(&account, "note", json!({"n": 2}))).await;
    assert_eq!(next(&mut stream).await, wanted, "the sender's clock may be behind; {old} is before the start");
    let refs = MessageFilter { refs: vec![wanted.clone()], ..MessageFilter::default() };
    let mut stream = node.client.watch(&refs, 0).await.unwrap();
    node.accept(&post(&account, "note", json!({"n": 3}))).await;
    let amended = node.accept(&amend(&account, &wanted, json!({}))).await;
    assert_eq!(next(&mut stream).await, amended);
}

#[tokio::test]
async fn whoever_subscribes_and_then_lists_misses_nothing() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let all: Vec<_> = (0..60).map(|n| post(&account, "note", json!({"n": n}))).collect();
    let sending = async {
        for message in &all {
            node.send(message).await;
        }
    };
    let following = async {
        let mut stream = node.client.watch(&MessageFilter::default(), 10).await.unwrap();
        let listed = node.client.all_messages(&MessageFilter::default()).await.unwrap();
        let mut seen: BTreeSet<String> = listed.into_iter().map(|message| message.envelope.item_hash).collect();
        while seen.len() < all.len() {
            seen.insert(next(&mut stream).await);
        }
        seen
    };
    let (seen, ()) = tokio::join!(following, sending);
    assert_eq!(seen, all.iter().map(|message| message.item_hash.clone()).collect());
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Reads until the server closes; gives code and reason.
async fn closing(mut socket: Socket) -> (u16, String) {
    loop {
        match timeout(PATIENCE, socket.next()).await.expect("it closes in time") {
            Some(Ok(Message::Close(Some(frame)))) => return (frame.code.into(), frame.reason.to_string()),
            Some(Ok(_)) => {}
            other => panic!("closed without a reason: {other:?}"),
        }
    }
}

fn ws_url(node: &TestNode, query: &str) -> String {
    format!("{}/api/ws0/messages?{query}", node.url.replace("http", "ws"))
}

#[tokio::test]
async fn who_is_too_slow_is_closed_with_a_reason() {
    let node = TestNode::with(|config| {
        config.limits.stream_queue = 4;
        config.timing.stream_send = PATIENCE;
    })
    .await;
    let account = Account::generate();
    let (slow, _) = connect_async(ws_url(&node, "history=0")).await.unwrap();
    // Nothing is read until far more was sent than fits into the buffers of the operating system.
    let text = "x".repeat(150_000);
    let all: Vec<_> = (0..60).map(|n| post(&account, "note", json!({"n": n, "text": text}))).collect();
    join_all(all.iter().map(|message| node.accept(message))).await;
    let (code, reason) = closing(slow).await;
    assert_eq!(code, 1008, "{reason}");
    assert!(reason.contains("too slow"), "{reason}");
    let metrics = node.text("/metrics").await;
    assert!(metrics.contains("aleph_slow_streams_total 1"), "{metrics}");
}

#[tokio::test]
async fn too_many_streams_are_turned_away() {
    let node = TestNode::with(|config| config.limits.streams = 1).await;
    let (mut first, _) = connect_async(ws_url(&node, "")).await.unwrap();
    let (second, _) = connect_async(ws_url(&node, "")).await.unwrap();
    assert_eq!(closing(second).await.0, 1013);
    first.send(Message::Close(None)).await.unwrap();
    eventually(async || {
        let (mut third, _) = connect_async(ws_url(&node, "history=0")).await.unwrap();
        third.send(Message::Ping("x".into())).await.ok()?;
        matches!(third.next().await, Some(Ok(Message::Ping(_) | Message::Pong(_)))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn streams_are_closed_in_order_when_the_node_stops() {
    let node = TestNode::start().await;
    let (socket, _) = connect_async(ws_url(&node, "history=0")).await.unwrap();
    let start = std::time::Instant::now();
    let (stopped, (code, _)) = tokio::join!(node.stop(), closing(socket));
    drop(stopped);
    assert_eq!(code, 1001);
    assert!(start.elapsed() < Duration::from_secs(2), "nothing was waited for");
}

#[tokio::test]
async fn bad_filters_are_refused_before_the_stream_opens() {
    let node = TestNode::start().await;
    let Err(error) = connect_async(ws_url(&node, "msgTypes=NONE")).await else { panic!("it must be refused") };
    assert!(error.to_string().contains("422"), "{error}");
}
