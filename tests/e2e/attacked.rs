//! The message node describes its API, and machines attack it by that description.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use aleph_tests::{Publisher, Role, free_ports, repository, reqwest_client};
use protocol::message::MessageType;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

/// How long one judge may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A message node that has something of everything.
struct Attacked {
    url: String,
    /// By the names of parameters: what finds something; and bodies by the operation that takes them.
    known: Value,
    _role: Role,
}

impl Attacked {
    async fn start(folder: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_ports(1));
        let data = folder.join("data").display().to_string();
        let arguments = ["--json", "message-node", "--listen", &address, "--data-dir", &data];
        let role = Role::ready(&arguments.map(str::to_owned), &folder.join("log")).await;
        let url = format!("http://{address}");
        let publisher = Publisher::new(protocol::Account::generate(), &url);
        let known = publish(&publisher).await;
        Self { url, known, _role: role }
    }
}

async fn publish(publisher: &Publisher) -> Value {
    let bytes = b"bytes of a file".as_slice();
    let file = publisher.file(bytes).await;
    let named = publisher.ipfs_file(b"called by a CID".as_slice()).await;
    let program =
        publisher.program(&file, &file, json!({ "on": { "http": true, "message": [{ "sender": "0x1" }] } })).await;
    let post = publisher.message(MessageType::Post, json!({ "type": "note", "content": { "n": 1.5 } })).await;
    let amend = json!({ "type": "amend", "ref": post.item_hash, "content": { "n": 2 } });
    publisher.message(MessageType::Post, amend).await;
    publisher.message(MessageType::Aggregate, json!({ "key": "k", "content": { "a": 1 } })).await;
    let forgotten = publisher.message(MessageType::Post, json!({ "type": "note", "content": null })).await.item_hash;
    publisher.message(MessageType::Forget, json!({ "hashes": [forgotten] })).await;
    let owner = publisher.account().address().as_str();
    json!({
        "hash": [file, named, program, post.item_hash, forgotten, protocol::FileHash::of(bytes).to_string()],
        "reference": [file],
        "program": [program],
        "page": ["1.json", "2.json"],
        "address": [owner, format!("{owner}.json")],
        "addresses": [owner],
        "owners": [owner],
        "keys": ["k"],
        "POST /api/v0/messages": [{ "sync": true, "message": post }],
    })
}

/// Runs in a folder of its own: it leaves there what it remembers.
async fn python(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) {
    let mut command = Command::new(repository("target/tools/schemathesis").join("bin/python"));
    command
        .args(arguments)
        .current_dir(folder)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("the judge has judged in time").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_description_is_one_and_holds_under_attack() {
    let folder = tempfile::tempdir().unwrap();
    let node = Attacked::start(folder.path()).await;
    let description = format!("{}/api/v0/openapi.json", node.url);
    let document = reqwest_client().get(&description).send().await.unwrap().bytes().await.unwrap();
    let file = folder.path().join("openapi.json");
    fs::write(&file, document).unwrap();
    python(folder.path(), &["-m", "openapi_spec_validator", &file.display().to_string()], &[]).await;

    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                  response_schema_conformance,unsupported_method,allow_header_conformance";
    let attack = [
        ["-m", "schemathesis.cli"].as_slice(),
        &["run", &description, "--checks", checks, "--phases", "examples,coverage,fuzzing"],
        // The same requests every time, whatever earlier runs found.
        &["--seed", "7", "--generation-deterministic", "--max-examples", "10"],
        &["--continue-on-failure", "--request-timeout", "60", "--no-color"],
    ];
    let known = node.known.to_string();
    let hooks = repository("tests/oracles").display().to_string();
    let environment = [("SCHEMATHESIS_HOOKS", "known_values"), ("PYTHONPATH", &hooks), ("KNOWN_VALUES", &known)];
    python(folder.path(), &attack.concat(), &environment).await;
}
