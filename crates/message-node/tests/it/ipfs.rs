//! Files and contents that are called by a CID.

use std::time::Duration;

use aleph_cid::car::{write_block_frame, write_carv1_header};
use aleph_cid::folder_hash::build_folder_dag;
use aleph_cid::{UploadFolderOptions, collect_folder_files};
use protocol::api::message_node::MessageStatus;
use protocol::message::{Envelope, ErrorCode, ItemType, MessageType};
use protocol::{Account, FileName, FileNames};
use reqwest::Response;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::*;

const ADD_FILE: &str = "/api/v0/ipfs/add_file";
const ADD_CAR: &str = "/api/v0/ipfs/add_car";

async fn send(node: &TestNode, path: &str, form: Form) -> (u16, Value) {
    let response = node.http.post(format!("{}{path}", node.url)).multipart(form).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn post_body(node: &TestNode, path: &str, body: impl Into<reqwest::Body>) -> Response {
    node.http.post(format!("{}{path}", node.url)).body(body).send().await.unwrap()
}

fn file_part(content: &[u8]) -> Part {
    Part::bytes(content.to_vec()).file_name("a file")
}

/// The STORE message of a file by its CID.
fn ipfs_store(account: &Account, cid: &str, fields: Value) -> Envelope {
    store(account, cid, with(json!({"item_type": "ipfs"}), fields))
}

fn metadata(message: &Envelope, sync: bool) -> String {
    json!({"message": message, "sync": sync}).to_string()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// All texts that name these bytes.
fn all_names(content: &[u8]) -> [String; 5] {
    let names = FileNames::of(content);
    [
        names.sha256.to_string(),
        FileName::Sha256(names.sha256).to_cid_v1(),
        names.v0.to_string(),
        names.v0.to_cid_v1(),
        names.v1.to_cid_v1(),
    ]
}

async fn is_there(node: &TestNode, name: &str) -> bool {
    node.json(&format!("/api/v0/storage/metadata/{name}")).await.0 == 200
}

async fn until_no_uploads_are_left(node: &TestNode) {
    let uploads = node.config().data_dir.join("uploads");
    eventually(async || walk(&uploads).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_file_has_the_cid_that_ipfs_gives_it_and_is_found_by_all_its_names() {
    let node = TestNode::start().await;
    let (status, answer) = send(&node, ADD_FILE, Form::new().part("file", file_part(b"hello world"))).await;
    let cid = "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD";
    let expected = json!({"status": "success", "hash": cid, "name": "a file", "size": 11});
    assert_eq!((status, answer), (200, expected));
    for name in all_names(b"hello world") {
        assert_eq!(node.text(&format!("/api/v0/storage/raw/{name}")).await, "hello world", "{name}");
        let (_, described) = node.json(&format!("/api/v0/storage/metadata/{name}")).await;
        assert_eq!((&described["file_hash"], &described["size"]), (&json!(name), &json!(11)));
        let (_, in_json) = node.json(&format!("/api/v0/storage/{name}")).await;
        let engine = if name.len() == 64 { "storage" } else { "ipfs" };
        assert_eq!((&in_json["engine"], &in_json["content"]), (&json!(engine), &json!("aGVsbG8gd29ybGQ=")));
        assert_eq!(node.json(&format!("/api/v0/storage/count/{name}")).await, (200, json!(0)));
    }
    let part = node.http.get(format!("{}/api/v0/storage/raw/{cid}", node.url)).header("range", "bytes=6-8");
    assert_eq!(part.send().await.unwrap().text().await.unwrap(), "wor");

    // The other way round, with a body instead of a form, and bytes of several blocks.
    let content = pattern(600_000);
    let added = post_body(&node, "/api/v0/storage/add_file", content.clone()).await;
    assert_eq!(added.json::<Value>().await.unwrap()["hash"], json!(all_names(&content)[0]));
    for name in all_names(&content) {
        let bytes = node.http.get(format!("{}/api/v0/storage/raw/{name}", node.url)).send().await.unwrap();
        assert_eq!(bytes.bytes().await.unwrap(), content, "{name}");
    }
    assert_eq!(post_body(&node, ADD_FILE, content.clone()).await.status(), 200);
    // The same bytes are stored once.
    eventually(async || (kept_files(&node).len() == 2).then_some(())).await;

    let unknown = FileNames::of(b"unknown").v0;
    assert_eq!(node.json(&format!("/api/v0/storage/raw/{unknown}")).await.0, 404);
    assert_eq!(node.json(&format!("/api/v0/storage/count/{unknown}")).await, (200, json!(0)));
    for bad in ["Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyf0", "ipfs"] {
        for path in ["raw/", "", "metadata/", "count/"] {
            assert_eq!(node.json(&format!("/api/v0/storage/{path}{bad}")).await.0, 400, "{path}{bad}");
        }
    }
}

#[tokio::test]
async fn a_file_is_published_by_its_cid_as_the_python_client_does_it() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let content = pattern(5 << 20);
    let (_, answer) = send(&node, ADD_FILE, Form::new().part("file", file_part(&content))).await;
    let cid = answer["hash"].as_str().unwrap();
    assert_eq!((cid, &answer["size"]), (FileNames::of(&content).v0.to_string().as_str(), &json!(5 << 20)));
    let message = node.accept(&ipfs_store(&account, cid, json!({"ref": "my-site"}))).await;

    let (_, list) = node.json(&format!("/api/v0/addresses/{}/files", account.address())).await;
    assert_eq!((&list["files"][0]["file_hash"], &list["total_size"]), (&json!(cid), &json!(5 << 20)));
    let (_, by_message) = node.json(&format!("/api/v0/storage/by-message-hash/{message}")).await;
    let (_, by_ref) = node.json(&format!("/api/v0/storage/by-ref/{}/my-site", account.address())).await;
    for described in [&by_message, &by_ref] {
        assert_eq!((&described["file_hash"], &described["size"]), (&json!(cid), &json!(5 << 20)));
        let bytes = node.http.get(format!("{}{}", node.url, described["download_url"].as_str().unwrap())).send().await;
        assert_eq!(bytes.unwrap().bytes().await.unwrap(), content);
    }
    for name in all_names(&content) {
        assert_eq!(node.json(&format!("/api/v0/storage/count/{name}")).await.1, 1, "{name}");
    }
    let filter = format!("/api/v0/messages.json?contentHashes={cid}");
    assert_eq!(node.json(&filter).await.1["messages"][0]["item_hash"], json!(message));
}

#[tokio::test]
async fn the_message_may_come_with_the_file_and_says_which_cid_it_means() {
    let (node, account) = (TestNode::start().await, Account::generate());
    for (content, sync, version, status) in
        [(pattern(300_000), true, 0, 200), (pattern(300_001), true, 1, 200), (pattern(300_002), false, 0, 202)]
    {
        let names = FileNames::of(&content);
        let cid = if version == 0 { names.v0.to_string() } else { names.v1.to_cid_v1() };
        let message = ipfs_store(&account, &cid, json!({}));
        let form = Form::new().text("metadata", metadata(&message, sync)).part("file", file_part(&content));
        let (got, answer) = send(&node, ADD_FILE, form).await;
        assert_eq!((got, &answer["hash"]), (status, &json!(cid)));
        node.until(&message.item_hash, MessageStatus::Processed).await;
    }
}

#[tokio::test]
async fn bad_uploads_are_refused_with_what_is_wrong() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let cid = FileNames::of(b"x").v0.to_string();
    let with_message =
        |message: &Envelope| Form::new().part("file", file_part(b"x")).text("metadata", metadata(message, true));
    let storage = store(&account, &FileNames::of(b"x").sha256.to_string(), json!({}));
    let other = ipfs_store(&account, &FileNames::of(b"other").v0.to_string(), json!({}));
    let right = ipfs_store(&account, &cid, json!({}));
    let for_another = ipfs_store(&Account::generate(), &cid, json!({"address": account.address()}));
    for (form, status, word) in [
        (with_message(&storage), 422, "item_type=ipfs"),
        (with_message(&other), 422, "does not match"),
        (with_message(&forged(&right)), 403, "signature"),
        (with_message(&for_another), 422, "may not act"),
        (Form::new().text("metadata", metadata(&right, true)), 400, "no part 'file'"),
        (Form::new().part("file", file_part(b"x")).text("metadata", "no json"), 422, "expected"),
    ] {
        let (got, body) = send(&node, ADD_FILE, form).await;
        assert_eq!(got, status, "{body}");
        assert!(body["message"].as_str().unwrap().contains(word), "{word}: {body}");
    }
    assert!(!is_there(&node, &FileNames::of(b"other").v0.to_string()).await);
    until_no_uploads_are_left(&node).await;
}

#[tokio::test]
async fn limits_are_those_of_the_configuration() {
    let node = TestNode::with_ledger(json!({}), |config| {
        config.limits.upload_bytes = 1000;
        config.limits.ipfs_upload_bytes = 3000;
        config.limits.car_upload_bytes = 4000;
        config.limits.anonymous_upload_bytes = 2000;
    })
    .await;
    let expected = json!({
        "max_upload_file_size": 3000, "max_upload_car_size": 4000, "max_unauthenticated_upload_file_size": 2000,
    });
    assert_eq!(node.json("/api/v0/storage/limits.json").await.1["ipfs"], expected);
    let account = Account::generate();
    for (bytes, signed, status) in [(2000, false, 200), (2001, false, 413), (3000, true, 200), (3001, true, 413)] {
        let content = pattern(bytes);
        let message = ipfs_store(&account, &FileNames::of(&content).v0.to_string(), json!({}));
        let form = Form::new().part("file", file_part(&content));
        let form = if signed { form.text("metadata", metadata(&message, true)) } else { form };
        let (got, body) = send(&node, ADD_FILE, form).await;
        assert_eq!(got, status, "{bytes} {signed} {body}");
    }
    assert_eq!(post_body(&node, ADD_FILE, pattern(2001)).await.status(), 413);
    let long = format!("\"{}\"", "x".repeat(2000));
    assert_eq!(post_body(&node, "/api/v0/ipfs/add_json", long).await.status(), 413);
    until_no_uploads_are_left(&node).await;
}

#[tokio::test]
async fn files_on_ipfs_are_paid_for_by_their_real_size() {
    let poor = Account::generate();
    let node = TestNode::with_ledger(json!({}), |_| ()).await;
    let content = pattern(26 << 20);
    let cid = FileNames::of(&content).v0.to_string();
    let message = ipfs_store(&poor, &cid, json!({}));
    let form = Form::new().text("metadata", metadata(&message, true)).part("file", file_part(&content));
    let (status, body) = send(&node, ADD_FILE, form).await;
    assert_eq!((status, &body["details"]["error_code"]), (402, &json!(5)), "{body}");
    assert!(!is_there(&node, &cid).await, "what nobody pays for is not kept");

    node.set_ledger(&json!({ poor.address().as_str(): 10 }));
    let form = Form::new().text("metadata", metadata(&message, true)).part("file", file_part(&content));
    assert_eq!(send(&node, ADD_FILE, form).await.0, 200);
    let (_, price) = node.json(&format!("/api/v0/price/{}", message.item_hash)).await;
    assert_eq!(price["cost"], "8.666666658000000000", "{price}");
    let estimate = json!({"message": ipfs_store(&poor, &cid, json!({"time": 1}))});
    assert_eq!(node.post("/api/v0/price/estimate", &estimate).await.1["cost"], price["cost"]);
    let second = ipfs_store(&poor, &cid, json!({"time": 2}));
    node.reject(&second, ErrorCode::BalanceInsufficient).await;
}

#[tokio::test]
async fn a_message_waits_for_its_file_by_whichever_name_that_comes() {
    let node = TestNode::with(|config| config.timing.retry_window = PATIENCE).await;
    let account = Account::generate();
    for (path, content) in [("/api/v0/storage/add_file", pattern(10)), (ADD_FILE, pattern(11))] {
        let names = FileNames::of(&content);
        let waiting = [
            store(&account, &names.sha256.to_string(), json!({})),
            ipfs_store(&account, &names.v0.to_string(), json!({})),
            ipfs_store(&account, &names.v0.to_cid_v1(), json!({})),
        ];
        for message in &waiting {
            node.send(message).await;
        }
        assert_eq!(post_body(&node, path, content).await.status(), 200);
        for message in &waiting {
            node.until(&message.item_hash, MessageStatus::Processed).await;
        }
    }
}

#[tokio::test]
async fn files_stay_as_long_as_one_of_their_names_is_referred_to() {
    let node = TestNode::with(|config| {
        config.timing.file_grace = Duration::from_millis(100);
        config.timing.collect_every = Duration::from_millis(50);
    })
    .await;
    let account = Account::generate();
    let content = pattern(300_000);
    let names = all_names(&content);
    let all_there = async || {
        let mut there = Vec::new();
        for name in &names {
            there.push(is_there(&node, name).await);
        }
        there
    };
    let by_hash = node.publish(&account, &content).await;
    let by_cid = node.accept(&ipfs_store(&account, &names[2], json!({}))).await;
    assert_eq!(node.json(&format!("/api/v0/storage/count/{}", names[0])).await.1, 2, "both count");
    // A file that nothing refers to shows that the collector has been here.
    let collected = async |witness: &[u8]| {
        assert_eq!(post_body(&node, ADD_FILE, witness.to_vec()).await.status(), 200);
        let name = FileNames::of(witness).v0.to_string();
        eventually(async || (!is_there(&node, &name).await).then_some(())).await;
    };
    node.accept(&forget(&account, &[&by_hash])).await;
    collected(b"first").await;
    assert_eq!(all_there().await, [true; 5], "the CID keeps it");
    let by_hash = node.accept(&store(&account, &names[0], json!({"time": 2}))).await;
    node.accept(&forget(&account, &[&by_cid])).await;
    collected(b"second").await;
    assert_eq!(all_there().await, [true; 5], "the SHA-256 keeps it");
    node.accept(&forget(&account, &[&by_hash])).await;
    eventually(async || (all_there().await == [false; 5]).then_some(())).await;
    eventually(async || kept_files(&node).is_empty().then_some(())).await;
    assert_eq!(post_body(&node, ADD_FILE, content.clone()).await.status(), 200);
    assert!(is_there(&node, &names[2]).await, "it may come again");
}

#[tokio::test]
async fn files_from_before_cids_were_kept_get_theirs() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let content = pattern(300_000);
    node.publish(&account, &content).await;
    let (config, folder) = node.stop().await;
    let mut db = TestNode::database(&config).await;
    sqlx::query("DELETE FROM file_cids").execute(&mut db).await.unwrap();
    sqlx::Connection::close(db).await.unwrap();
    let node = TestNode::launch(config, folder).await.unwrap();
    for name in all_names(&content) {
        eventually(async || is_there(&node, &name).await.then_some(())).await;
    }
    node.accept(&ipfs_store(&account, &all_names(&content)[2], json!({}))).await;
}

/// A message whose content is on IPFS.
fn on_ipfs(account: &Account, message_type: MessageType, content: &str, item_hash: String) -> Envelope {
    let mut envelope = sign(account, message_type, content.to_owned());
    (envelope.item_type, envelope.item_content, envelope.item_hash) = (ItemType::Ipfs, None, item_hash);
    envelope.signature = Some(account.sign(envelope.signed_text().as_bytes()));
    envelope
}

#[tokio::test]
async fn contents_of_messages_may_be_on_ipfs_and_keep_their_bytes() {
    let node = TestNode::with(|config| {
        config.timing.file_grace = Duration::from_secs(1);
        config.timing.collect_every = Duration::from_millis(50);
    })
    .await;
    let account = Account::generate();
    let text = format!(
        "{{\"b\": 1.10,  \"address\":\"{}\",\"time\":7,\"type\":\"note\",\"content\":{{\"n\":1}}}}",
        account.address()
    );
    let answer: Value = post_body(&node, "/api/v0/ipfs/add_json", text.clone()).await.json().await.unwrap();
    let cid = FileNames::of(text.as_bytes()).v0.to_string();
    assert_eq!(answer, json!({"status": "success", "hash": cid}));
    assert_eq!(post_body(&node, "/api/v0/ipfs/add_json", "no json").await.status(), 422);
    node.accept(&on_ipfs(&account, MessageType::Post, &text, cid.clone())).await;
    let stored = node.get(&cid).await.message.unwrap();
    assert_eq!(
        (stored.envelope.item_type, stored.content.unwrap()["content"]["n"].clone()),
        (ItemType::Ipfs, json!(1))
    );
    assert_eq!(node.client.item_content(&stored.envelope).await.unwrap(), text);
    let witness = post_body(&node, ADD_FILE, "witness").await.json::<Value>().await.unwrap()["hash"].clone();
    eventually(async || (!is_there(&node, witness.as_str().unwrap()).await).then_some(())).await;
    assert!(is_there(&node, &cid).await, "the message keeps its content");
    node.accept(&forget(&account, &[&cid])).await;
    eventually(async || (!is_there(&node, &cid).await).then_some(())).await;
}

#[tokio::test]
async fn contents_on_ipfs_that_cannot_be_used_are_refused() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let unknown = FileNames::of(b"{}").v0.to_string();
    let message = on_ipfs(&account, MessageType::Post, "{}", unknown);
    node.reject(&message, ErrorCode::ContentUnavailable).await;
    for bad in [FileNames::of(b"{}").v1.to_cid_v1(), "ab".repeat(32), "Q".repeat(46)] {
        let message = on_ipfs(&account, MessageType::Post, "{}", bad);
        let (status, body) = node.post("/api/v0/messages", &json!({"sync": true, "message": message})).await;
        assert_eq!(status, 422, "{body}");
    }
    // A program is known by 32 bytes.
    let (code, runtime) = (node.publish(&account, b"code").await, node.publish(&account, b"runtime").await);
    let content = program(&account, &code, &runtime, json!({})).item_content.unwrap();
    let added = post_body(&node, "/api/v0/ipfs/add_json", content.clone()).await.json::<Value>().await.unwrap();
    let cid = added["hash"].as_str().unwrap().to_owned();
    let message = on_ipfs(&account, MessageType::Program, &content, cid);
    let details = node.reject(&message, ErrorCode::InvalidFormat).await;
    assert!(details["errors"][0].as_str().unwrap().contains("SHA-256"), "{details}");
}

#[tokio::test]
async fn programs_use_files_on_ipfs() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let mut files = Vec::new();
    for content in [b"code".as_slice(), b"runtime"] {
        let cid = post_body(&node, ADD_FILE, content.to_vec()).await.json::<Value>().await.unwrap()["hash"].clone();
        files.push(node.accept(&ipfs_store(&account, cid.as_str().unwrap(), json!({}))).await);
    }
    let id = node.accept(&program(&account, &files[0], &files[1], json!({}))).await;
    node.reject(&forget(&account, &[&files[0]]), ErrorCode::ForgetNotAllowed).await;
    node.accept(&forget(&account, &[&id])).await;
    node.accept(&forget(&account, &[&files[0]])).await;
}

/// The blocks of a folder with one file, as `aleph-cid` and kubo make them: the folder is the last, the file the one before.
fn blocks(content: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), content).unwrap();
    let (entries, mut blocks) = (collect_folder_files(folder.path(), true).unwrap(), Vec::new());
    let mut keep = |cid: &[u8], block: &[u8]| {
        blocks.push((cid.to_vec(), block.to_vec()));
        Ok(())
    };
    build_folder_dag(&entries, &UploadFolderOptions::default(), &mut keep).unwrap();
    blocks
}

/// A CAR file of these blocks; the last one is the root.
fn car(blocks: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut car = Vec::new();
    write_carv1_header(&mut car, &blocks.last().unwrap().0).unwrap();
    for (cid, block) in blocks {
        write_block_frame(&mut car, cid, block).unwrap();
    }
    car
}

fn root(blocks: &[(Vec<u8>, Vec<u8>)]) -> String {
    FileName::read_cid(&mut &*blocks.last().unwrap().0).unwrap().to_cid_v1()
}

#[tokio::test]
async fn a_car_file_is_the_file_that_it_holds() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let content = pattern(1_000_000);
    let mut blocks = blocks(&content);
    blocks.pop();
    let cid = root(&blocks);
    assert_eq!(cid, FileNames::of(&content).v1.to_cid_v1());
    let message = ipfs_store(&account, &cid, json!({}));
    let form = Form::new().part("file", file_part(&car(&blocks))).text("metadata", metadata(&message, true));
    let (status, answer) = send(&node, ADD_CAR, form).await;
    assert_eq!((status, answer), (200, json!({"status": "success", "hash": cid, "size": 1_000_000})));
    assert_eq!(node.status(&message.item_hash).await, MessageStatus::Processed);
    for name in all_names(&content) {
        let bytes = node.http.get(format!("{}/api/v0/storage/raw/{name}", node.url)).send().await.unwrap();
        assert_eq!(bytes.bytes().await.unwrap(), content, "{name}");
    }
    until_no_uploads_are_left(&node).await;
}

#[tokio::test]
async fn car_files_that_hold_no_file_are_refused_with_what_is_wrong() {
    let node = TestNode::with(|config| {
        config.limits.car_upload_bytes = 2_000_000;
        config.limits.ipfs_upload_bytes = 1_000_000;
    })
    .await;
    let account = Account::generate();
    let folder = blocks(&pattern(600_000));
    let file = &folder[..folder.len() - 1];
    let lacking = &file[1..];
    let mut damaged = file.to_vec();
    damaged[0].1[0] ^= 1;
    let large = blocks(&pattern(1_100_000));
    let large = &large[..large.len() - 1];
    let larger = blocks(&pattern(2_100_000));
    let larger = &larger[..larger.len() - 1];
    let form = |car: Vec<u8>, cid: &str| {
        let message = ipfs_store(&account, cid, json!({}));
        Form::new().part("file", file_part(&car)).text("metadata", metadata(&message, true))
    };
    let storage = store(&account, &"ab".repeat(32), json!({}));
    let of_storage = Form::new().part("file", file_part(&car(file))).text("metadata", metadata(&storage, true));
    let forged_message = forged(&ipfs_store(&account, &root(file), json!({})));
    let of_forger = Form::new().part("file", file_part(&car(file))).text("metadata", metadata(&forged_message, true));
    let without_file = Form::new().text("metadata", metadata(&ipfs_store(&account, &root(file), json!({})), true));
    for (form, status, word) in [
        (form(car(&folder), &root(&folder)), 422, "directory"),
        (form(car(lacking), &root(file)), 422, "lacks the block"),
        (form(car(&damaged), &root(file)), 422, "not the one that its CID"),
        (form(car(file)[..100_000].to_vec(), &root(file)), 422, "ends too early"),
        (form(car(file), &root(&folder)), 422, "Root CID does not match"),
        (form(b"no car".to_vec(), &root(file)), 422, "CAR file"),
        (form(car(large), &root(large)), 413, "more than 1000000 bytes"),
        (form(car(larger), &root(larger)), 413, "more than 2000000 bytes"),
        (Form::new().part("file", file_part(&car(file))), 422, "metadata is required"),
        (of_storage, 422, "item_type=ipfs"),
        (of_forger, 403, "signature"),
        (without_file, 400, "no part 'file'"),
    ] {
        let (got, body) = send(&node, ADD_CAR, form).await;
        assert_eq!(got, status, "{word}: {body}");
        assert!(body["message"].as_str().unwrap().contains(word), "{word}: {body}");
    }
    assert_eq!(post_body(&node, ADD_CAR, car(file)).await.status(), 400, "it is a form");
    assert!(!is_there(&node, &root(file)).await, "nothing of it is kept");
    eventually(async || kept_files(&node).is_empty().then_some(())).await;
    until_no_uploads_are_left(&node).await;
}

#[tokio::test]
async fn too_expensive_car_files_are_not_kept() {
    let (node, account) = (TestNode::with_ledger(json!({}), |_| ()).await, Account::generate());
    let mut blocks = blocks(&pattern(26 << 20));
    blocks.pop();
    let message = ipfs_store(&account, &root(&blocks), json!({}));
    let form = Form::new().part("file", file_part(&car(&blocks))).text("metadata", metadata(&message, true));
    let (status, body) = send(&node, ADD_CAR, form).await;
    assert_eq!((status, &body["details"]["error_code"]), (402, &json!(5)), "{body}");
    eventually(async || kept_files(&node).is_empty().then_some(())).await;
}
