//! What a node's operator sees of programs' volumes: what was forgotten can be kept, and taken out.

use std::fs;
use std::path::Path;
use std::process::Command;

use aleph_tests::{Aleph, ComputeNode, Network, UpOptions, eventually, folder_with, reqwest_client};
use serde_json::Value;

/// Counts its requests in a file on its volume.
const COUNTER: &str = r#"
import os

def count():
    n = int(open("/data/n").read()) + 1 if os.path.exists("/data/n") else 1
    with open("/data/n", "w") as file:
        file.write(str(n))
    return n

async def app(scope, receive, send):
    assert scope["type"] == "http"
    n = count() if scope["path"] == "/count" else 0
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(n).encode()})
"#;

async fn count(network: &Network, program: &str) -> String {
    let url = format!("{}/count", network.program_url(program));
    reqwest_client().get(url).send().await.unwrap().text().await.unwrap()
}

async fn shown(node: &ComputeNode, program: &str) -> Value {
    node.volumes_json(&["list", program]).await["programs"][0].clone()
}

/// How often the node said that it keeps what is over: once in the life of each of its processes.
async fn kept(network: &Network, times: usize) {
    eventually("the node has asked about the program and keeps its data", async || {
        let log = fs::read_to_string(network.root().join("logs/compute-node-1.log")).unwrap();
        (log.matches("the operator undeleted them").count() == times).then_some(())
    })
    .await;
}

/// What the program has counted, by an archive of its volumes.
fn counted(archive: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder.path()).status().unwrap();
    assert!(unpacked.success());
    fs::read_to_string(folder.path().join("data/n")).unwrap()
}

async fn wrong_uses_of_what_is_live(node: &ComputeNode, program: &str, folder: &Path) {
    let error = node.volumes_error(&["undelete", program]).await;
    assert!(error.contains("not forgotten, so there is nothing to undelete"), "{error}");
    let error = node.volumes_error(&["forget", program]).await;
    assert!(error.contains("they are forgotten when its message is"), "{error}");
    for command in ["list", "undelete", "forget"] {
        let error = node.volumes_error(&[command, &"0".repeat(64)]).await;
        assert!(error.contains("`aleph-node volumes list` shows what it has"), "{error}");
        let error = node.volumes_error(&[command, "../x"]).await;
        assert!(error.contains("the first 8 digits or more"), "{error}");
    }
    let file = folder.join("there.tar");
    fs::write(&file, "mine").unwrap();
    let output = ["--output", file.to_str().unwrap()];
    let error = node.volumes_error(&[&["export", program], &output[..]].concat()).await;
    assert!(error.contains("name another file"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    let none = folder.join("none.tar");
    for copy in [["--snapshot", "7-7"], ["--recovery-point", "7"]] {
        let arguments = [&["export", program, "--output", none.to_str().unwrap()], &copy[..]].concat();
        let error = node.volumes_error(&arguments).await;
        assert!(error.contains("`aleph-node volumes list` shows what there is"), "{error}");
    }
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "what fails leaves no file");
}

#[tokio::test]
async fn what_was_forgotten_is_kept_when_its_operator_wants_it() {
    let mut network = Network::up(UpOptions::new(1, &["--pool-mib", "512", "--over-interval", "300ms"])).await;
    let aleph = Aleph::of(&network);
    let node = network.compute_nodes[0].clone();
    assert_eq!(node.volumes_json(&["list"]).await, serde_json::json!({ "programs": [] }));
    let code = folder_with("main.py", COUNTER);
    let (one, other) = ("name=data,mount=/data,size_mib=50", "name=../x,mount=/other,size_mib=16");
    let volumes = ["--persistent", "--persistent-volume", one, "--persistent-volume", other];
    let program = aleph.upload(code.path(), "main:app", &volumes).await;
    for n in ["1", "2"] {
        assert_eq!(count(&network, &program).await, n);
    }
    let live = shown(&node, &program[..8]).await;
    assert_eq!((&live["program"], &live["role"]), (&program.as_str().into(), &"live".into()), "{live}");
    let copy = &live["live"];
    assert_eq!((&copy["epoch"], &copy["volumes"][0]["name"]), (&1.into(), &"data".into()), "{live}");
    assert_eq!(copy["volumes"][0]["limit_bytes"], 50 << 20);
    let [_, other] = &copy["volumes"].as_array().unwrap()[..] else { panic!("two volumes: {live}") };
    let folder = other["folder_in_export"].as_str().unwrap();
    assert!(other["name"] == "../x" && folder.bytes().all(|b| b.is_ascii_hexdigit()), "{live}");
    let out = tempfile::tempdir().unwrap();
    wrong_uses_of_what_is_live(&node, &program, out.path()).await;
    // Also while it runs: it stands still for a moment, and goes on.
    let running = out.path().join("running.tar");
    let said = node.volumes_json(&["export", &program, "--output", running.to_str().unwrap()]).await;
    assert_eq!(said["exported"], "live", "{said}");
    assert_eq!(counted(&running), "2");
    assert_eq!(count(&network, &program).await, "3");

    let deleted = aleph.run(&["program", "delete", &program, "--yes"]).await;
    assert_eq!(deleted.code, 0, "{}", deleted.stderr);
    let forgotten = eventually("the node has noticed that it is over", async || {
        let shown = shown(&node, &program).await;
        (shown["role"] == "forgotten").then_some(shown)
    })
    .await;
    assert!(forgotten["kept_until"].is_string(), "{forgotten}");
    let text = node.volumes(&["list"]).await.stdout;
    assert!(text.starts_with(&format!("{program}  forgotten, kept until 20")), "{text}");
    assert!(text.contains("live, epoch 1: \"data\" "), "{text}");

    let undeleted = node.volumes_json(&["undelete", &program]).await;
    assert_eq!((&undeleted["role"], &undeleted["kept_until"]), (&"undeleted".into(), &Value::Null));
    kept(&network, 1).await;
    assert_eq!(shown(&node, &program).await["role"], "undeleted");
    // The next process of the node keeps it, too.
    network.interrupt().await;
    let error = node.volumes_error(&["list"]).await;
    assert!(error.contains("does not run: start it"), "{error}");
    let network = network.up_again().await;
    let node = network.compute_nodes[0].clone();
    kept(&network, 2).await;
    assert_eq!(shown(&node, &program).await["role"], "undeleted");
    let archive = out.path().join("kept.tar");
    node.volumes_json(&["export", &program, "--output", archive.to_str().unwrap()]).await;
    assert_eq!(counted(&archive), "3");

    let again = node.volumes_json(&["forget", &program]).await;
    assert_eq!(again["role"], "forgotten", "{again}");
    assert!(again["kept_until"].as_str() > forgotten["kept_until"].as_str(), "its time starts anew");
    let nowhere = ComputeNode { data_dir: out.path().join("nowhere"), ..node };
    let error = nowhere.volumes_error(&["list"]).await;
    assert!(error.contains("name its directory with --data-dir"), "{error}");
}
