//! Files in and out.

use std::time::Duration;

use protocol::api::message_node::MessageStatus;
use protocol::{Account, FileHash};
use reqwest::multipart::{Form, Part};
use reqwest::{Response, header};
use serde_json::{Value, json};

use crate::support::*;

const ADD_FILE: &str = "/api/v0/storage/add_file";

async fn send(node: &TestNode, form: Form) -> Response {
    node.http.post(format!("{}{ADD_FILE}", node.url)).multipart(form).send().await.unwrap()
}

async fn upload(node: &TestNode, body: Vec<u8>) -> Response {
    node.http.post(format!("{}{ADD_FILE}", node.url)).body(body).send().await.unwrap()
}

fn hash(content: &[u8]) -> String {
    FileHash::of(content).to_string()
}

fn metadata(account: &Account, content: &[u8], sync: bool) -> String {
    json!({"message": store(account, &hash(content), json!({})), "sync": sync}).to_string()
}

#[tokio::test]
async fn the_parts_of_a_form_may_come_in_either_order() {
    let (node, account) = (TestNode::start().await, Account::generate());
    for (first, content) in [("file", b"one".as_slice()), ("metadata", b"two")] {
        let metadata = metadata(&account, content, true);
        let file = Part::bytes(content.to_vec()).file_name("f");
        let form = match first {
            "file" => Form::new().part("file", file).text("metadata", metadata).text("other", "ignored"),
            _ => Form::new().text("metadata", metadata).part("file", file),
        };
        let response = send(&node, form).await;
        assert_eq!(response.status(), 200);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body, json!({"status": "success", "hash": hash(content)}));
        assert_eq!(node.text(&format!("/api/v0/storage/raw/{}", hash(content))).await.as_bytes(), content);
    }
}

#[tokio::test]
async fn without_sync_an_upload_is_accepted_before_it_is_processed() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let metadata = metadata(&account, b"x", false);
    let message: Value = serde_json::from_str(&metadata).unwrap();
    let form = Form::new().text("metadata", metadata).part("file", Part::bytes(b"x".to_vec()));
    assert_eq!(send(&node, form).await.status(), 202);
    node.until(message["message"]["item_hash"].as_str().unwrap(), MessageStatus::Processed).await;
}

#[tokio::test]
async fn bad_uploads_are_refused_with_what_is_wrong() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let file = || Part::bytes(b"x".to_vec());
    let other_file = metadata(&account, b"other", true);
    let mut forged_message: Value = serde_json::from_str(&metadata(&account, b"x", true)).unwrap();
    forged_message["message"]["signature"] = json!(account.sign(b"something else"));
    let note = json!({"message": post(&account, "note", json!({})), "sync": true}).to_string();
    let stranger = Account::generate();
    let for_another = store(&stranger, &hash(b"x"), json!({"address": account.address()}));
    let for_another = json!({"message": for_another, "sync": true}).to_string();
    for (form, status, word) in [
        (Form::new().part("file", file()).text("metadata", "no json"), 422, "expected"),
        (Form::new().part("file", file()).text("metadata", "{}"), 422, "message"),
        (Form::new().part("file", file()).text("metadata", note), 422, "STORE"),
        (Form::new().part("file", file()).text("metadata", other_file), 422, "does not match"),
        (Form::new().part("file", file()).text("metadata", forged_message.to_string()), 403, "signature"),
        (Form::new().part("file", file()).text("metadata", for_another), 422, "may not act"),
        (Form::new().text("metadata", metadata(&account, b"x", true)), 400, "no part 'file'"),
        (Form::new().part("file", file()).part("file", file()), 400, "two parts"),
    ] {
        let response = send(&node, form).await;
        let (got, body) = (response.status(), response.json::<Value>().await.unwrap());
        assert_eq!(got, status, "{body}");
        assert!(body["message"].as_str().unwrap().contains(word), "{word}: {body}");
    }
    let (status, _) = node.json(&format!("/api/v0/storage/metadata/{}", hash(b"other"))).await;
    assert_eq!(status, 404, "nothing was stored");
    let garbage = node.http.post(format!("{}{ADD_FILE}", node.url));
    let garbage = garbage.header(header::CONTENT_TYPE, "multipart/form-data").body("x").send().await.unwrap();
    assert_eq!(garbage.status(), 400);
}

#[tokio::test]
async fn size_limits_depend_on_whether_a_message_comes_with_the_file() {
    let node = TestNode::with(|config| {
        config.limits.upload_bytes = 2000;
        config.limits.anonymous_upload_bytes = 1000;
    })
    .await;
    let account = Account::generate();
    let (_, limits) = node.json("/api/v0/storage/limits.json").await;
    assert_eq!(limits["storage"]["max_file_size"], 2000);
    assert_eq!(upload(&node, vec![1; 1000]).await.status(), 200);
    assert_eq!(upload(&node, vec![1; 1001]).await.status(), 413);
    let form = |bytes: usize, signed: bool| {
        let content = vec![2; bytes];
        let form = Form::new().part("file", Part::bytes(content.clone()));
        if signed { form.text("metadata", metadata(&account, &content, true)) } else { form }
    };
    for (bytes, signed, status) in [(1000, false, 200), (1001, false, 413), (2000, true, 200), (2001, true, 413)] {
        let response = send(&node, form(bytes, signed)).await;
        let (got, body) = (response.status(), response.text().await.unwrap());
        assert_eq!(got, status, "{bytes} {signed} {body}");
    }
    // What was too large goes.
    eventually(async || (kept_files(&node).len() == 3).then_some(())).await;
}

#[tokio::test]
async fn too_many_uploads_at_once_are_turned_away() {
    let node = TestNode::with(|config| config.limits.uploads = 1).await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let body = reqwest::Body::wrap_stream(futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    }));
    let slow = tokio::spawn(node.http.post(format!("{}{ADD_FILE}", node.url)).body(body).send());
    sender.send(Ok(b"slow".to_vec())).await.unwrap();
    eventually(async || node.text("/metrics").await.contains("\naleph_uploads 1\n").then_some(())).await;
    let turned_away = upload(&node, vec![1]).await;
    assert_eq!(turned_away.status(), 503);
    assert!(turned_away.headers().contains_key(header::RETRY_AFTER));
    drop(sender);
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    assert_eq!(upload(&node, vec![1]).await.status(), 200, "then there is room again");
}

#[tokio::test]
async fn files_are_served_as_a_whole_in_part_and_described() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let content: Vec<u8> = (0..200_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let message = node.publish(&account, &content).await;
    let file = hash(&content);
    let url = format!("{}/api/v0/storage/raw/{file}", node.url);

    let head = node.http.head(&url).send().await.unwrap();
    assert_eq!(
        (head.status(), head.headers()[header::CONTENT_LENGTH].to_str().unwrap()),
        (200.try_into().unwrap(), "200000")
    );
    assert!(head.bytes().await.unwrap().is_empty());
    let whole = node.http.get(&url).send().await.unwrap();
    assert_eq!(whole.headers()[header::CONTENT_TYPE], "application/octet-stream");
    assert_eq!(whole.bytes().await.unwrap(), content);
    for (range, expected) in [("bytes=5-9", 5..10), ("bytes=199990-", 199_990..200_000), ("bytes=-3", 199_997..200_000)]
    {
        let part = node.http.get(&url).header(header::RANGE, range).send().await.unwrap();
        assert_eq!(part.status(), 206);
        let named = format!("bytes {}-{}/200000", expected.start, expected.end - 1);
        assert_eq!(part.headers()[header::CONTENT_RANGE].to_str().unwrap(), named);
        assert_eq!(part.bytes().await.unwrap(), content[expected]);
    }
    let outside = node.http.get(&url).header(header::RANGE, "bytes=200000-").send().await.unwrap();
    assert_eq!(
        (outside.status().as_u16(), &outside.headers()[header::CONTENT_RANGE]),
        (416, &"bytes */200000".parse().unwrap())
    );

    let (_, json) = node.json(&format!("/api/v0/storage/{file}")).await;
    assert_eq!((&json["status"], &json["engine"]), (&json!("success"), &json!("storage")));
    assert_eq!(data_encoding::BASE64.decode(json["content"].as_str().unwrap().as_bytes()).unwrap(), content);
    let (_, described) = node.json(&format!("/api/v0/storage/metadata/{file}")).await;
    let download_url = format!("/api/v0/storage/raw/{file}");
    assert_eq!(described, json!({"file_hash": file, "type": "file", "size": 200_000, "download_url": download_url}));
    assert_eq!(node.json(&format!("/api/v0/storage/count/{file}")).await.1, 1);
    let (_, by_message) = node.json(&format!("/api/v0/storage/by-message-hash/{message}")).await;
    assert_eq!((&by_message["file_hash"], &by_message["owner"]), (&json!(file), &json!(account.address())));
    for path in ["raw/", "", "metadata/", "by-message-hash/"] {
        assert_eq!(node.json(&format!("/api/v0/storage/{path}{}", "ab".repeat(32))).await.0, 404, "{path}");
    }
    assert_eq!(node.json("/api/v0/storage/raw/..%2f..%2fmessages.sqlite").await.0, 400);
}

#[tokio::test]
async fn references_lead_to_the_newest_version() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let first = node.publish_with(&account, b"v1", json!({"time": 10})).await;
    let third = node.publish_with(&account, b"v3", json!({"time": 30, "ref": first})).await;
    node.publish_with(&account, b"v2", json!({"time": 20, "ref": first})).await;
    let by_ref = async |reference: &str| node.json(&format!("/api/v0/storage/by-ref/{reference}")).await;
    let (_, newest) = by_ref(&first).await;
    assert_eq!((&newest["file_hash"], &newest["ref"]), (&json!(hash(b"v3")), &json!(first)));
    let latest = node.client.latest_revision(&first, account.address()).await.unwrap().unwrap();
    assert_eq!(latest.envelope.message_type, protocol::message::MessageType::Store);
    node.accept(&forget(&account, &[&third])).await;
    assert_eq!(by_ref(&first).await.1["file_hash"], json!(hash(b"v2")), "the next newest counts again");
    node.publish_with(&account, b"site", json!({"ref": "my-site"})).await;
    assert_eq!(by_ref("my-site").await.0, 400, "a name needs its owner");
    let (_, named) = by_ref(&format!("{}/my-site", account.address().as_str().to_lowercase())).await;
    assert_eq!(named["file_hash"], json!(hash(b"site")));
}

#[tokio::test]
async fn files_of_an_account_are_listed_by_page_and_by_cursor() {
    let (node, account) = (TestNode::start().await, Account::generate());
    for n in 0..5u8 {
        node.publish_with(&account, &[n; 100], json!({"time": 100 + n})).await;
    }
    let path = format!("/api/v0/addresses/{}/files", account.address().as_str().to_lowercase());
    let (_, page) = node.json(&format!("{path}?pagination=2&page=2&sort_order=-1")).await;
    assert_eq!((&page["pagination_total"], &page["total_size"]), (&json!(5), &json!(500)));
    assert_eq!(page["pagination_item"], "files");
    let created: Vec<_> =
        page["files"].as_array().unwrap().iter().map(|file| file["created"].as_str().unwrap()).collect();
    assert_eq!(created, ["1970-01-01T00:01:42.000000+00:00", "1970-01-01T00:01:41.000000+00:00"]);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, page) = node.json(&format!("{path}?pagination=2&sort_order=1&cursor={cursor}")).await;
        seen.extend(page["files"].as_array().unwrap().iter().map(|file| file["created"].as_f64().unwrap()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, [100.0, 101.0, 102.0, 103.0, 104.0]);
    let (status, none) = node.json("/api/v0/addresses/0xnobody/files").await;
    assert_eq!((status, &none["files"]), (200, &json!([])));
}

#[tokio::test]
async fn unneeded_files_go_after_their_grace_time_and_needed_ones_stay() {
    let node = TestNode::with(|config| {
        config.timing.file_grace = Duration::from_millis(100);
        config.timing.collect_every = Duration::from_millis(50);
    })
    .await;
    let account = Account::generate();
    let is_there =
        async |content: &[u8]| node.json(&format!("/api/v0/storage/metadata/{}", hash(content))).await.0 == 200;
    let (kept, dropped) = (node.publish(&account, b"kept").await, node.publish(&account, b"dropped").await);
    assert_eq!(upload(&node, b"anonymous".to_vec()).await.status(), 200);
    eventually(async || (!is_there(b"anonymous").await).then_some(())).await;
    assert!(is_there(b"dropped").await);
    node.accept(&forget(&account, &[&dropped])).await;
    eventually(async || (!is_there(b"dropped").await).then_some(())).await;
    assert!(is_there(b"kept").await);
    assert_eq!(node.status(&kept).await, MessageStatus::Processed);
    node.publish(&account, b"dropped").await;
    assert!(is_there(b"dropped").await, "it may come again");
}

#[tokio::test]
async fn json_documents_keep_their_bytes() {
    let node = TestNode::start().await;
    let text = "{\"b\": 1.10,  \"a\": [] }";
    let add = async |body: &str| {
        let request = node.http.post(format!("{}/api/v0/storage/add_json", node.url)).body(body.to_owned());
        request.send().await.unwrap()
    };
    let answer: Value = add(text).await.json().await.unwrap();
    assert_eq!(answer, json!({"status": "success", "hash": hash(text.as_bytes())}));
    assert_eq!(node.text(&format!("/api/v0/storage/raw/{}", hash(text.as_bytes()))).await, text);
    assert_eq!(add("no json").await.status(), 422);
    assert_eq!(add(&format!("\"{}\"", "x".repeat(2 << 20))).await.status(), 413);
}
