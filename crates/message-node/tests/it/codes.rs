//! Every error code that a sender can reach.

use protocol::message::{Envelope, ErrorCode, MessageType};
use protocol::{Account, FileHash};
use serde_json::json;

use crate::support::*;

fn unknown() -> String {
    "ab".repeat(32)
}

#[tokio::test]
async fn code_0_names_the_field() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let wrong = program(&account, "c", "r", json!({"resources": {"vcpus": 0}}));
    let details = node.reject(&wrong, ErrorCode::InvalidFormat).await;
    assert_eq!(details["errors"][0]["loc"], json!(["content", "resources.vcpus"]));
    node.reject(&sign(&account, MessageType::Post, "no json".into()), ErrorCode::InvalidFormat).await;
    node.reject(&message(&account, MessageType::Instance, json!({})), ErrorCode::InvalidFormat).await;
    node.reject(&store(&account, "no-hash", json!({})), ErrorCode::InvalidFormat).await;
    let much: Vec<String> = (0..1001).map(|n| format!("{n:064x}")).collect();
    let much: Vec<&str> = much.iter().map(String::as_str).collect();
    node.reject(&forget(&account, &much), ErrorCode::InvalidFormat).await;
}

#[tokio::test]
async fn code_0_for_contents_and_documents_that_are_too_large() {
    let node = TestNode::with(|config| {
        config.limits.content_bytes = 2000;
        config.limits.aggregate_bytes = 3000;
    })
    .await;
    let account = Account::generate();
    let content =
        json!({"address": account.address(), "time": 1, "type": "t", "content": "x".repeat(3000)}).to_string();
    let upload = node.http.post(format!("{}/api/v0/storage/add_file", node.url)).body(content.clone()).send().await;
    assert_eq!(upload.unwrap().status(), 200);
    node.reject(&stored_message(&account, MessageType::Post, &content), ErrorCode::InvalidFormat).await;
    node.accept(&aggregate(&account, "k", json!({"a": "x".repeat(2000)}))).await;
    node.reject(&aggregate(&account, "k", json!({"b": "x".repeat(2000)})), ErrorCode::InvalidFormat).await;
    node.accept(&aggregate(&account, "k", json!({"a": "y".repeat(2000)}))).await;
}

#[tokio::test]
async fn code_1_for_signatures_that_are_not_the_senders() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let real = post(&account, "note", json!({}));
    node.reject(&forged(&real), ErrorCode::InvalidSignature).await;
    node.reject(&Envelope { signature: None, ..real.clone() }, ErrorCode::InvalidSignature).await;
    node.reject(&Envelope { signature: Some("0x00".into()), ..real }, ErrorCode::InvalidSignature).await;
}

#[tokio::test]
async fn codes_3_and_4_for_what_is_nowhere_to_be_had() {
    let (node, account) = (TestNode::start().await, Account::generate());
    node.reject(&stored_message(&account, MessageType::Post, "{}"), ErrorCode::ContentUnavailable).await;
    node.reject(&store(&account, &unknown(), json!({})), ErrorCode::FileUnavailable).await;
    let cid = "QmYULJoNGPDmoRq4WNWTDTUvJGJv1hosox8H6vVd1kCsY8";
    let details = node.reject(&store(&account, cid, json!({"item_type": "ipfs"})), ErrorCode::FileUnavailable).await;
    assert!(details["errors"][0].as_str().unwrap().contains("does not fetch files from IPFS"), "{details}");
    node.reject(&store(&account, "QmNone", json!({"item_type": "ipfs"})), ErrorCode::InvalidFormat).await;
}

#[tokio::test]
async fn codes_100_to_102_for_amends() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let original = node.accept(&post(&account, "note", json!({}))).await;
    let second = node.accept(&amend(&account, &original, json!({}))).await;
    let aimless = post(&account, "amend", json!({}));
    node.reject(&aimless, ErrorCode::PostAmendNoTarget).await;
    node.reject(&amend(&account, &unknown(), json!({})), ErrorCode::PostAmendTargetNotFound).await;
    node.reject(&amend(&account, &second, json!({})), ErrorCode::PostAmendAmend).await;
    node.reject(&amend(&Account::generate(), &original, json!({})), ErrorCode::PermissionDenied).await;
    let key = node.accept(&aggregate(&account, "k", json!({}))).await;
    node.reject(&amend(&account, &key, json!({})), ErrorCode::PostAmendTargetNotFound).await;
}

#[tokio::test]
async fn codes_200_to_202_for_files() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let first = node.publish(&account, b"first").await;
    let second = node.publish_with(&account, b"second", json!({"ref": first})).await;
    let file = FileHash::of(b"first").to_string();
    node.reject(&store(&account, &file, json!({"ref": unknown()})), ErrorCode::StoreRefNotFound).await;
    node.reject(&store(&account, &file, json!({"ref": second})), ErrorCode::StoreUpdateUpdate).await;
    node.reject(&store(&Account::generate(), &file, json!({"ref": first})), ErrorCode::PermissionDenied).await;
    for payment in ["credit", "superfluid"] {
        let message = program(&account, &first, &first, json!({"payment": {"type": payment}}));
        let details = node.reject(&message, ErrorCode::InvalidPaymentMethod).await;
        assert!(details["errors"][0].as_str().unwrap().contains(payment), "{details}");
    }
    // Some clients always write `credit` for files; small ones are free anyway.
    node.accept(&store(&account, &file, json!({"payment": {"type": "credit"}}))).await;
}

#[tokio::test]
async fn codes_300_to_304_for_programs() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let file = node.publish(&account, &[7; 2 * 1024 * 1024]).await;
    let make = |fields| program(&account, &file, &file, fields);
    let final_one = node.accept(&make(json!({"allow_amend": false}))).await;
    let open_one = node.accept(&make(json!({}))).await;

    node.reject(&make(json!({"replaces": unknown()})), ErrorCode::VmRefNotFound).await;
    node.reject(&make(json!({"replaces": file})), ErrorCode::VmRefNotFound).await;
    node.reject(&program(&account, &unknown(), &file, json!({})), ErrorCode::VmVolumeNotFound).await;
    node.reject(&program(&account, &file, &open_one, json!({})), ErrorCode::VmVolumeNotFound).await;
    node.reject(&make(json!({"volumes": [{"ref": unknown(), "mount": "/x"}]})), ErrorCode::VmVolumeNotFound).await;
    node.reject(&make(json!({"replaces": final_one})), ErrorCode::VmAmendNotAllowed).await;
    let small = json!([{"parent": {"ref": file}, "size_mib": 1, "name": "db", "mount": "/db"}]);
    let details = node.reject(&make(json!({"volumes": small})), ErrorCode::VmVolumeTooSmall).await;
    assert_eq!(details["errors"][0]["parent_size"], 2 * 1024 * 1024);
    let stranger = Account::generate();
    let stolen = program(&stranger, &file, &file, json!({"replaces": open_one}));
    node.reject(&stolen, ErrorCode::PermissionDenied).await;
    // 303 is never given: switching a program back and forth makes chains of replacements.
    let second = node.accept(&make(json!({"replaces": open_one}))).await;
    node.accept(&make(json!({"replaces": second}))).await;
}

#[tokio::test]
async fn codes_500_to_504_for_forgets() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let code = node.publish(&account, b"code").await;
    let runtime = node.publish(&account, b"runtime").await;
    let image = node.publish(&account, b"image").await;
    let running = program(&account, &code, &runtime, json!({"volumes": [{"ref": image, "mount": "/x"}]}));
    let running = node.accept(&running).await;

    node.reject(&forget(&account, &[]), ErrorCode::ForgetNoTarget).await;
    let details = node.reject(&forget(&account, &[&unknown()]), ErrorCode::ForgetTargetNotFound).await;
    assert_eq!(details["errors"][0]["message"], unknown());
    for file in [&code, &runtime, &image] {
        let details = node.reject(&forget(&account, &[file]), ErrorCode::ForgetNotAllowed).await;
        assert!(details["errors"][0].as_str().unwrap().contains(&running), "{details}");
    }
    let together = node.accept(&forget(&account, &[&code, &running])).await;
    node.reject(&forget(&account, &[&together]), ErrorCode::ForgetForget).await;
    let other = node.accept(&post(&account, "note", json!({}))).await;
    node.reject(&forget(&Account::generate(), &[&other]), ErrorCode::PermissionDenied).await;
}
