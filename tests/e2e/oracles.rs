//! Independent witnesses: the Python packages `eth-account` and `aleph-message` judge what we sign and send.

use aleph_tests::{Aleph, folder_with, repository};
use serde_json::Value;
use tokio::process::Command;

use crate::shared::{aleph, network};

/// Runs a script of `tests/oracles` with the Python that has the packages; its output is one JSON document.
async fn python(script: &str, input: &Value) -> Value {
    use tokio::io::AsyncWriteExt;
    let mut child = Command::new(repository("target/tools/oracles").join("bin/python"))
        .arg(repository("tests/oracles").join(script))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{script} failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn eth_account_and_we_agree_on_keys_and_signatures() {
    let account = protocol::Account::generate();
    let payloads = ["", "hello", "ETH\n0x1\nPOST\nabc", "é\u{1f680}"];
    let ours: Vec<_> = payloads.iter().map(|payload| account.sign(payload.as_bytes())).collect();
    let secret: String = account.secret().iter().map(|byte| format!("{byte:02x}")).collect();
    let input = serde_json::json!({ "key": secret, "payloads": payloads, "signatures": ours });
    let theirs = python("eth_account_signatures.py", &input).await;
    assert_eq!(theirs["address"], account.address().as_str(), "the same key has the same address");
    for ((payload, ours), index) in payloads.iter().zip(&ours).zip(0..) {
        assert_eq!(theirs["recovered"][index], account.address().as_str(), "eth-account verifies ours: {payload}");
        let signature = theirs["signatures"][index].as_str().unwrap();
        assert!(
            protocol::account::verify(payload.as_bytes(), signature, account.address()).is_ok(),
            "we verify theirs"
        );
        assert_eq!(ours.trim_start_matches("0x"), signature.trim_start_matches("0x"), "signatures are deterministic");
    }
}

#[tokio::test]
async fn aleph_message_reads_everything_that_the_network_holds() {
    let (network, aleph) = (network().await, aleph().await);
    let folder = folder_with("main.py", "async def app(scope, receive, send):\n    raise RuntimeError()\n");
    let options = ["--no-wait", "--persistent", "--env", "A=b", "--internet", "--memory", "1GiB", "--vcpus", "2"];
    let program = aleph.upload(folder.path(), "main:app", &options).await;
    aleph.json(&["unpersist", "--no-wait", &program]).await;
    let node = protocol::client::MessageNode::new(&network.message_node_url);
    let messages = node.all_messages(&Default::default()).await.unwrap();
    let kinds: std::collections::BTreeSet<_> = messages.iter().map(|m| m.envelope.message_type.to_string()).collect();
    assert!(["AGGREGATE", "FORGET", "POST", "PROGRAM", "STORE"].iter().all(|kind| kinds.contains(*kind)), "{kinds:?}");
    let judged = python("aleph_message_schema.py", &serde_json::to_value(&messages).unwrap()).await;
    assert_eq!(judged["read"], messages.len(), "{judged}");
    assert_eq!(judged["errors"], serde_json::json!([]));
}

#[tokio::test]
async fn keys_of_the_python_client_are_ours_and_the_other_way_round() {
    let folder = tempfile::tempdir().unwrap();
    let made = python("python_client_key.py", &serde_json::json!({ "home": folder.path() })).await;
    let ours = Aleph::new("http://127.0.0.1:1", folder.path()).json(&["account", "show"]).await;
    assert_eq!(ours["address"], made["address"]);
    let other = tempfile::tempdir().unwrap();
    let created = Aleph::new("http://127.0.0.1:1", other.path()).json(&["account", "create"]).await;
    let read = python("python_client_key.py", &serde_json::json!({ "home": other.path() })).await;
    assert_eq!(read["address"], created["address"]);
}
