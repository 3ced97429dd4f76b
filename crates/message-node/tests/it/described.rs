//! The description of the API, and what it says of errors.

use std::collections::BTreeSet;

use protocol::message::Envelope;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::*;

/// Paths with something in place of their parameters, and what is described of them.
fn described(document: &Value) -> Vec<(String, BTreeSet<String>)> {
    let filled = |path: &str| {
        let parts = path.split('/').map(|part| if part.starts_with('{') { "1" } else { part });
        parts.collect::<Vec<_>>().join("/")
    };
    let methods = |item: &Value| item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
    let paths = document["paths"].as_object().unwrap();
    paths.iter().map(|(path, item)| (filled(path), methods(item))).collect()
}

/// Checks that an answer of this status and code is in the description, if its path and its method are and it is no success.
pub(crate) async fn check_refusal(node: &TestNode, method: &str, path: &str, status: u16, body: &Value) {
    static DOCUMENT: OnceCell<Value> = OnceCell::const_new();
    if status < 400 {
        return;
    }
    let read = async || {
        let response = node.http.get(format!("{}/api/v0/openapi.json", node.url)).send().await.unwrap();
        response.json().await.unwrap()
    };
    let document = DOCUMENT.get_or_init(read).await;
    let asked: Vec<&str> = path.split('?').next().unwrap().split('/').collect();
    let is_asked = |template: &str| {
        let parts: Vec<&str> = template.split('/').collect();
        parts.len() == asked.len() && parts.iter().zip(&asked).all(|(part, text)| part.starts_with('{') || part == text)
    };
    let paths = document["paths"].as_object().unwrap().iter().filter(|(template, _)| is_asked(template));
    // Paths without parameters come first.
    let Some((_, item)) = paths.min_by_key(|(template, _)| template.matches('{').count()) else { return };
    if let Some(operation) = item.get(method) {
        let schema = &operation["responses"][status.to_string()]["content"]["application/json"]["schema"];
        let codes = schema["allOf"][1]["properties"]["code"]["enum"].as_array();
        let is_described = codes.is_some_and(|codes| codes.contains(&body["code"]));
        assert!(is_described, "{method} {path} is refused as nobody expects: {status} {body}");
    }
}

#[tokio::test]
async fn each_path_takes_the_methods_that_are_described_and_says_so() {
    let node = TestNode::start().await;
    let (status, document) = node.json("/api/v0/openapi.json").await;
    assert_eq!(status, 200);
    assert!(node.text("/status").await.contains("/api/v0/openapi.json"), "people find it");
    for (path, methods) in described(&document) {
        let refused = node.http.request(Method::TRACE, format!("{}{path}", node.url)).send().await.unwrap();
        assert_eq!(refused.status(), 405, "{path}");
        let allowed = refused.headers()["allow"].to_str().unwrap().to_owned();
        let allowed: BTreeSet<String> = allowed.split(',').filter(|m| *m != "HEAD").map(str::to_owned).collect();
        assert_eq!(allowed, methods, "{path}");
        let body: Value = refused.json().await.unwrap();
        assert_eq!(body["code"], "method_not_allowed");
    }
}

#[tokio::test]
async fn refusals_of_the_framework_have_a_code_and_a_sentence_too() {
    let node = TestNode::start().await;
    for (path, status, code) in [
        ("/api/v0/messages/%ff", 400, "bad_request"),
        ("/api/v0/addresses/%c3%28/balance", 400, "bad_request"),
        ("/api/v1/programs/%ff/snapshots", 400, "bad_request"),
        ("/api/ws0/messages", 400, "bad_request"),
        ("/nothing", 404, "not_found"),
    ] {
        let (got, body) = node.json(path).await;
        assert_eq!((got, body["code"].as_str().unwrap()), (status, code), "{path}: {body}");
        assert!(body["message"].as_str().unwrap().contains(';'), "it says what to do: {body}");
    }
}

#[tokio::test]
async fn messages_that_are_refused_have_a_code_and_a_sentence_too() {
    let (node, account) = (TestNode::start().await, protocol::Account::generate());
    let refused = async |message: &Envelope, status, code: &str| {
        let (got, body) = node.post("/api/v0/messages", &json!({ "sync": true, "message": message })).await;
        assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{body}");
        assert!(body["message"].as_str().is_some_and(|sentence| sentence.len() > 10), "{body}");
    };
    let message = post(&account, "note", json!({}));
    refused(&forged(&message), 422, "rejected").await;
    node.accept(&message).await;
    node.accept(&forget(&account, &[&message.item_hash])).await;
    refused(&message, 410, "gone").await;
    refused(&Envelope { item_hash: "1".to_owned(), ..message }, 422, "invalid").await;
}
