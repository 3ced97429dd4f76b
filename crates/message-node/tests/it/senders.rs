//! Who may send messages, and how much.

use std::time::Duration;

use aleph_message_node::{Config, Rate};
use protocol::Account;
use protocol::api::message_node::MessageStatus;
use protocol::message::Envelope;
use reqwest::Response;
use serde_json::{Value, json};

use crate::described::check_refusal;
use crate::support::*;

const HOUR: Duration = Duration::from_secs(3600);

fn submission(message: &Envelope) -> Value {
    json!({"sync": true, "message": message})
}

/// Sends a message that is not taken: status, code, sentence, and when to come back.
async fn refused(node: &TestNode, message: &Envelope) -> (u16, String, String, Option<u64>) {
    let url = format!("{}/api/v0/messages", node.url);
    explain(node, node.http.post(url).json(&submission(message)).send().await.unwrap()).await
}

async fn explain(node: &TestNode, response: Response) -> (u16, String, String, Option<u64>) {
    let path = response.url().path().to_owned();
    let status = response.status().as_u16();
    let retry = response.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
    let body: Value = response.json().await.unwrap();
    check_refusal(node, "post", &path, status, &body).await;
    let text = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
    (status, text("code"), text("message"), retry)
}

fn note(account: &Account, n: u32) -> Envelope {
    post(account, "note", json!({"n": n}))
}

#[tokio::test]
async fn only_those_whom_the_operator_names_may_send() {
    let [allowed, operator, authority, stranger] = [(); 4].map(|()| Account::generate());
    let node = TestNode::with(|config| {
        config.senders.allowed = vec![allowed.address().clone()];
        config.senders.operators = vec![operator.address().clone()];
        config.authority = Some(authority.address().clone());
    })
    .await;
    for account in [&allowed, &operator, &authority] {
        node.accept(&note(account, 1)).await;
        node.publish(account, b"file").await;
    }
    let (status, code, sentence, _) = refused(&node, &note(&stranger, 1)).await;
    assert_eq!((status, code.as_str()), (403, "sender_not_allowed"));
    assert!(sentence.contains("ask the operator") && sentence.contains(stranger.address().as_str()), "{sentence}");
    let message = store(&stranger, &protocol::FileHash::of(b"file").to_string(), json!({}));
    assert!(node.add_file(&message, b"file").await.unwrap_err().to_string().contains("ask the operator"));
    let forged = forged(&note(&allowed, 2));
    let (status, code, ..) = refused(&node, &forged).await;
    assert_eq!((status, code.as_str()), (403, "invalid_signature"));
    assert_eq!(node.json(&format!("/api/v0/messages/{}", forged.item_hash)).await.0, 404, "it was not taken");
    for path in ["storage/add_file", "storage/add_json", "ipfs/add_json"] {
        let sent = node.http.post(format!("{}/api/v0/{path}", node.url)).body("{}").send().await.unwrap();
        let (status, code, sentence, _) = explain(&node, sent).await;
        assert_eq!((status, code.as_str()), (403, "sender_not_allowed"), "{path}");
        assert!(sentence.contains("'metadata'"), "{sentence}");
    }
    let form = reqwest::multipart::Form::new().part("file", reqwest::multipart::Part::bytes(&b"x"[..]));
    let sent = node.http.post(format!("{}/api/v0/storage/add_file", node.url)).multipart(form).send().await.unwrap();
    assert_eq!(explain(&node, sent).await.1, "sender_not_allowed");
}

fn limits(messages: Option<u64>, bytes: Option<u64>, operator: &Account) -> impl FnOnce(&mut Config) {
    let rate = |most: Option<u64>| most.map(|most| Rate { most, per: HOUR });
    let operator = operator.address().clone();
    move |config| {
        config.senders.rates.messages = rate(messages);
        config.senders.rates.bytes = rate(bytes);
        config.senders.operators = vec![operator];
    }
}

#[tokio::test]
async fn a_sender_who_has_sent_too_many_messages_is_told_when_to_come_back() {
    let [greedy, other, operator] = [(); 3].map(|()| Account::generate());
    let node = TestNode::with(limits(Some(3), None, &operator)).await;
    // Nobody else can use up what is somebody's.
    for n in 0..5 {
        assert_eq!(refused(&node, &forged(&note(&greedy, n))).await.1, "invalid_signature");
    }
    for n in 0..3 {
        node.accept(&note(&greedy, n)).await;
    }
    let (status, code, sentence, retry) = refused(&node, &note(&greedy, 4)).await;
    assert_eq!((status, code.as_str()), (429, "sender_limit"));
    assert!(sentence.contains("at most 3 messages") && sentence.contains("try again in"), "{sentence}");
    assert!((1100..=1200).contains(&retry.unwrap()), "a third of the hour: {retry:?}");
    node.accept(&note(&other, 1)).await;
    for n in 0..5 {
        node.accept(&note(&operator, n)).await;
    }
}

#[tokio::test]
async fn bytes_of_files_count_for_those_who_publish_them() {
    let [greedy, operator] = [(); 2].map(|()| Account::generate());
    let node = TestNode::with(limits(None, Some(100_000), &operator)).await;
    node.publish(&greedy, &[1; 60_000]).await;
    let message = |file: &[u8]| store(&greedy, &protocol::FileHash::of(file).to_string(), json!({}));
    let error = node.add_file(&message(&[2; 60_000]), &[2; 60_000]).await.unwrap_err().to_string();
    assert!(error.contains("100000 bytes") && error.contains("try again"), "{error}");
    let error = node.add_file(&message(&[3; 200_000]), &[3; 200_000]).await.unwrap_err().to_string();
    assert!(error.contains("more by itself"), "{error}");
    node.publish(&greedy, &[4; 30_000]).await;
    node.publish(&operator, &[5; 200_000]).await;
    assert_eq!(node.submit(&note(&greedy, 1)).await, MessageStatus::Processed);
}
