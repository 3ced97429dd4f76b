//! Lists of messages, posts and aggregates.

use std::collections::BTreeSet;

use protocol::Account;
use protocol::api::message_node::MessageFilter;
use protocol::message::{Envelope, MessageTime, MessageType};
use serde_json::{Value, json};

use crate::support::*;

/// A post whose envelope has this time.
fn at(account: &Account, seconds: u32, content: Value) -> Envelope {
    let mut message = post(account, "note", content);
    message.time = MessageTime::from_seconds(seconds.into()).unwrap();
    message
}

async fn hashes(node: &TestNode, query: &str) -> Vec<String> {
    let (status, list) = node.json(&format!("/api/v0/messages.json?{query}")).await;
    assert_eq!(status, 200, "{query}: {list}");
    list["messages"].as_array().unwrap().iter().map(|m| m["item_hash"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_filter_selects() {
    let (node, a, b) = (TestNode::start().await, Account::generate(), Account::generate());
    let file = node.publish(&a, b"code").await;
    let revision = node.publish_with(&a, b"code 2", json!({"ref": file})).await;
    let running = node.accept(&program(&a, &file, &file, json!({}))).await;
    let entry = json!({"authorizations": [{"address": b.address()}]});
    let security = node.accept(&aggregate(&a, "security", entry)).await;
    let for_a = message(&b, MessageType::Post, json!({"address": a.address(), "type": "t1", "content": {}}));
    let for_a = node.accept(&for_a).await;
    let mut elsewhere = post(&b, "t2", json!({}));
    elsewhere.channel = Some("ELSEWHERE".into());
    let elsewhere = node.accept(&elsewhere).await;
    let (a, b) = (a.address().as_str().to_lowercase(), b.address().as_str());
    let code = protocol::FileHash::of(b"code").to_string();
    for (query, expected) in [
        ("msgType=PROGRAM".to_owned(), vec![&running]),
        ("msgTypes=PROGRAM,AGGREGATE&sortOrder=1".to_owned(), vec![&running, &security]),
        (format!("addresses={a}&msgTypes=STORE&sort_order=1"), vec![&file, &revision]),
        (format!("addresses={b}&sortOrder=1"), vec![&for_a, &elsewhere]),
        (format!("owners={a}&msgType=POST"), vec![&for_a]),
        (format!("refs={file}"), vec![&revision]),
        (format!("hashes={running},{revision}&msgTypes=PROGRAM"), vec![&running]),
        (format!("contentHashes={code}"), vec![&file]),
        ("contentKeys=security".to_owned(), vec![&security]),
        ("contentTypes=t1,vm-function&sortOrder=1".to_owned(), vec![&running, &for_a]),
        ("channels=ELSEWHERE".to_owned(), vec![&elsewhere]),
        ("chains=SOL".to_owned(), vec![]),
        ("msgStatuses=removed,forgotten".to_owned(), vec![]),
        (format!("msgType=STORE&sort_order=-1&refs={file}&owners={a}&pagination=1"), vec![&revision]),
    ] {
        assert_eq!(hashes(&node, &query).await.iter().collect::<Vec<_>>(), expected, "{query}");
    }
    assert_eq!(hashes(&node, "").await.len(), 6);
    for bad in ["msgTypes=NONE", "page=0", "startDate=x", "cursor=x", "sortOrder=7"] {
        assert_eq!(node.json(&format!("/api/v0/messages.json?{bad}")).await.0, 422, "{bad}");
    }
}

#[tokio::test]
async fn only_what_is_in_force_is_listed_unless_asked_for() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let gone = node.accept(&post(&account, "note", json!({}))).await;
    let by = node.accept(&forget(&account, &[&gone])).await;
    let bad = program(&account, "c", "r", json!({"colour": "red"}));
    node.submit(&bad).await;
    assert_eq!(hashes(&node, "").await, [by]);
    assert_eq!(hashes(&node, "msgStatuses=forgotten").await, [gone]);
    assert_eq!(hashes(&node, "msgStatuses=rejected").await, [bad.item_hash]);
}

#[tokio::test]
async fn dates_select_by_the_envelopes_time() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let mut all = Vec::new();
    for seconds in [100, 200, 300] {
        all.push(node.accept(&at(&account, seconds, json!({"n": seconds}))).await);
    }
    assert_eq!(hashes(&node, "startDate=200&sortOrder=1").await, all[1..]);
    assert_eq!(hashes(&node, "startDate=100.5&endDate=300").await, all[1..2], "the end is not included");
    assert_eq!(hashes(&node, "startDate=0&endDate=0&sortOrder=1").await, all);
}

#[tokio::test]
async fn tags_select_while_their_message_is_in_force() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let both = node.accept(&at(&account, 10, json!({"tags": ["red", "blue", "red"]}))).await;
    let blue = node.accept(&at(&account, 20, json!({"tags": ["blue"]}))).await;
    node.accept(&at(&account, 30, json!({"tags": "red"}))).await;
    let document = node.accept(&aggregate(&account, "k", json!({"tags": ["red"]}))).await;
    assert_eq!(hashes(&node, "tags=red&sortOrder=1").await, [both.as_str(), &document]);
    assert_eq!(hashes(&node, "tags=green,blue&msgTypes=POST&sortOrder=1").await, [both.as_str(), &blue]);
    assert!(hashes(&node, "tags=green").await.is_empty());

    let posts = async |tag: &str| {
        let (status, list) = node.json(&format!("/api/v0/posts.json?tags={tag}")).await;
        assert_eq!((status, &list["pagination_total"]), (200, &json!(list["posts"].as_array().unwrap().len())));
        list["posts"].as_array().unwrap().iter().map(|p| p["hash"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(posts("red").await, [both.as_str()]);
    let amend = json!({"address": account.address(), "type": "amend", "ref": both, "content": {"tags": ["green"]}});
    node.accept(&message(&account, MessageType::Post, amend)).await;
    assert_eq!(posts("green").await, [both.as_str()], "of what is shown");
    assert!(posts("red").await.is_empty());

    node.accept(&forget(&account, &[&blue])).await;
    assert_eq!(hashes(&node, "tags=blue&msgStatuses=processed,forgotten").await, [both]);
}

#[tokio::test]
async fn pages_count_and_are_bounded() {
    let node = TestNode::with(|config| config.limits.page = 3).await;
    let account = Account::generate();
    for n in 0..5 {
        node.accept(&at(&account, 100 + n, json!({"n": n}))).await;
    }
    let (_, page) = node.json("/api/v0/messages.json?pagination=2&page=3&sortBy=time&sortOrder=1").await;
    assert_eq!(page["messages"].as_array().unwrap().len(), 1);
    assert_eq!(page["messages"][0]["time"], 104.0);
    let rest = ["pagination_page", "pagination_total", "pagination_per_page", "pagination_item"].map(|key| &page[key]);
    assert_eq!(rest, [&json!(3), &json!(5), &json!(2), &json!("messages")]);
    let (_, page) = node.json("/api/v0/messages/page/2.json?pagination=2&sortOrder=1").await;
    assert_eq!(page["messages"][0]["time"], 102.0);
    for all in ["0", "5000"] {
        let (_, page) = node.json(&format!("/api/v0/messages.json?pagination={all}")).await;
        assert_eq!((page["messages"].as_array().unwrap().len(), &page["pagination_per_page"]), (3, &json!(3)));
    }
}

#[tokio::test]
async fn pages_are_bounded_in_bytes() {
    let node = TestNode::with(|config| config.limits.page_bytes = 5000).await;
    let account = Account::generate();
    for n in 0..4 {
        node.accept(&at(&account, 100 + n, json!({"n": n, "text": "x".repeat(2000)}))).await;
    }
    let (status, answer) = node.json("/api/v0/messages.json").await;
    assert_eq!((status, answer["message"].as_str().unwrap().contains("cursor")), (422, true), "{answer}");
    assert_eq!(
        node.client.all_messages(&MessageFilter::default()).await.unwrap().len(),
        4,
        "a cursor makes shorter pages"
    );
}

#[tokio::test]
async fn whoever_follows_a_cursor_misses_nothing_that_was_there() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let mut before = BTreeSet::new();
    for n in 0..30 {
        // Several have the same time.
        before.insert(node.accept(&at(&account, 1000 + n / 4, json!({"n": n}))).await);
    }
    for order in ["1", "-1"] {
        let (mut seen, mut cursor, mut n) = (Vec::new(), String::new(), 0);
        loop {
            let (_, page) =
                node.json(&format!("/api/v0/messages.json?cursor={cursor}&pagination=4&sortOrder={order}")).await;
            assert!(page.get("pagination_total").is_none() && page["pagination_per_page"] == 4);
            seen.extend(
                page["messages"].as_array().unwrap().iter().map(|m| m["item_hash"].as_str().unwrap().to_owned()),
            );
            // Others arrive before, between and after.
            for seconds in [1, 1003, 9999] {
                n += 1;
                node.accept(&at(&account, seconds, json!({"order": order, "new": n}))).await;
            }
            match page["next_cursor"].as_str() {
                // Those that arrive after the end are read for ever.
                Some(next) if !before.is_subset(&seen.iter().cloned().collect()) => cursor = next.to_owned(),
                _ => break,
            }
        }
        let once: BTreeSet<_> = seen.iter().cloned().collect();
        assert_eq!(once.len(), seen.len(), "nothing comes twice");
        assert!(before.is_subset(&once), "order {order}");
    }
}

#[tokio::test]
async fn the_last_page_has_no_cursor() {
    let (node, account) = (TestNode::start().await, Account::generate());
    for n in 0..4 {
        node.accept(&at(&account, 100 + n, json!({"n": n}))).await;
    }
    let (_, first) = node.json("/api/v0/messages.json?cursor=&pagination=2").await;
    let next = first["next_cursor"].as_str().unwrap();
    let (_, last) = node.json(&format!("/api/v0/messages.json?cursor={next}&pagination=2")).await;
    assert_eq!((last["messages"].as_array().unwrap().len(), &last["next_cursor"]), (2, &Value::Null));
}

#[tokio::test]
async fn posts_show_their_newest_amend() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let write = |kind: &str, time: u32, more: Value| {
        let content = with(json!({"type": kind, "time": time, "content": {"v": time}}), more);
        message(&account, MessageType::Post, content)
    };
    let original = node.accept(&write("note", 10, json!({"ref": "topic"}))).await;
    let third = node.accept(&write("amend", 30, json!({"ref": original}))).await;
    let second = node.accept(&write("amend", 20, json!({"ref": original}))).await;
    node.accept(&write("other", 40, json!({}))).await;
    let get = async |query: &str| node.json(&format!("/api/v0/posts.json?{query}")).await.1;
    let list = get("types=note").await;
    assert_eq!((&list["pagination_total"], &list["pagination_item"]), (&json!(1), &json!("posts")));
    let shown = &list["posts"][0];
    assert_eq!(shown["content"], json!({"v": 30}));
    assert_eq!((&shown["item_hash"], &shown["hash"]), (&json!(third), &json!(original)));
    assert_eq!((&shown["type"], &shown["original_type"]), (&json!("amend"), &json!("note")));
    assert_eq!((&shown["ref"], &shown["address"]), (&json!("topic"), &json!(account.address())));
    // Python clients forbid other fields.
    let fields: BTreeSet<_> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "address",
        "chain",
        "channel",
        "confirmations",
        "confirmed",
        "content",
        "hash",
        "item_content",
        "item_hash",
        "item_type",
        "original_item_hash",
        "original_signature",
        "original_type",
        "ref",
        "sender",
        "signature",
        "size",
        "time",
        "type",
    ];
    assert_eq!(fields, expected.into());
    node.accept(&forget(&account, &[&third])).await;
    assert_eq!(get("types=note").await["posts"][0]["item_hash"], json!(second));
    let address = account.address();
    for (query, count) in [
        ("".to_owned(), 2),
        (format!("addresses={address}&refs=topic"), 1),
        (format!("hashes={original}"), 1),
        ("channels=TEST&types=note,other".to_owned(), 2),
        ("chains=SOL,ETH".to_owned(), 2),
        ("chains=SOL".to_owned(), 0),
        ("startDate=40".to_owned(), 1),
        ("types=vouchers-update&addresses=0xB34f25f2&page=1&pagination=1".to_owned(), 0),
    ] {
        assert_eq!(get(&query).await["posts"].as_array().unwrap().len(), count, "{query}");
    }
    let first = get("cursor=&pagination=1&sortOrder=1").await;
    assert_eq!(first["posts"][0]["hash"], json!(original));
    let next = get(&format!("cursor={}&pagination=1&sortOrder=1", first["next_cursor"].as_str().unwrap())).await;
    assert_eq!((&next["posts"][0]["original_type"], &next["next_cursor"]), (&json!("other"), &Value::Null));
    let (_, v1) = node.json("/api/v1/posts.json?types=note").await;
    assert_eq!(v1["posts"][0]["created"], "1970-01-01T00:00:10.000000+00:00");
    assert_eq!(v1["posts"][0]["last_updated"], "1970-01-01T00:00:20.000000+00:00");
}

#[tokio::test]
async fn aggregates_merge_by_time_and_forget() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let put = |time: u32, content: Value| {
        message(&account, MessageType::Aggregate, json!({"key": "k", "time": time, "content": content}))
    };
    let newest = node.accept(&put(30, json!({"a": {"x": 3}}))).await;
    node.accept(&put(10, json!({"a": {"y": 1}, "b": 1}))).await;
    node.accept(&put(20, json!({"b": 2, "c": 2}))).await;
    node.accept(&aggregate(&account, "other", json!({"z": 1.10}))).await;
    let path = format!("/api/v0/aggregates/{}.json", account.address().as_str().to_lowercase());
    let get = async |query: &str| node.json(&format!("{path}?{query}")).await;
    let (_, found) = get("keys=k").await;
    assert_eq!(found["data"], json!({"k": {"a": {"x": 3}, "b": 2, "c": 2}}));
    assert_eq!(found["info"]["k"]["created"], "1970-01-01T00:00:10.000000+00:00");
    assert_eq!(found["info"]["k"]["last_update_item_hash"], json!(newest));
    assert_eq!(get("").await.1["data"].as_object().unwrap().len(), 2);
    assert_eq!(get("limit=1").await.1["data"].as_object().unwrap().len(), 1);
    assert_eq!(get("keys=other&value_only=true").await.1, json!({"z": 1.1}));
    assert_eq!(get("keys=none").await.0, 404);
    node.accept(&forget(&account, &[&newest])).await;
    assert_eq!(get("keys=k").await.1["data"]["k"], json!({"a": {"y": 1}, "b": 2, "c": 2}), "older values show again");
    let by_key = message(&account, MessageType::Forget, json!({"hashes": [], "aggregates": ["k"]}));
    node.accept(&by_key).await;
    assert_eq!(get("keys=k").await.0, 404);
    assert_eq!(get("").await.1["data"].as_object().unwrap().len(), 1);
    let by_hash = node.accept(&aggregate(&account, "k", json!({"again": 1}))).await;
    let by_hash = message(&account, MessageType::Forget, json!({"hashes": [], "aggregates": [by_hash]}));
    node.accept(&by_hash).await;
    assert_eq!(get("keys=k").await.0, 404);
}

#[tokio::test]
async fn documents_are_bounded_in_bytes() {
    let node = TestNode::with(|config| config.limits.page_bytes = 3000).await;
    let account = Account::generate();
    for key in ["a", "b"] {
        node.accept(&aggregate(&account, key, json!({"text": "x".repeat(2000)}))).await;
    }
    let path = format!("/api/v0/aggregates/{}.json", account.address());
    let (status, answer) = node.json(&path).await;
    assert_eq!((status, answer["message"].as_str().unwrap().contains("'keys'")), (422, true), "{answer}");
    assert_eq!(node.json(&format!("{path}?keys=a")).await.0, 200);
}
