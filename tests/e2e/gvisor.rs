//! Programs that ask for gVisor between them and the machine, on nodes that offer it and on nodes that do not.

use aleph_tests::{Aleph, Network, UpOptions, eventually, folder_with, reqwest_client, runsc};
use serde_json::Value;

/// Says which kernel it talks to, and how often it was asked.
const WHICH_KERNEL: &str = r#"
import json
asked = 0

async def app(scope, receive, send):
    global asked
    assert scope["type"] == "http"
    asked += 1
    body = json.dumps({"kernel": open("/proc/version").read(), "asked": asked}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"#;

/// What gVisor says that it is (`pkg/sentry/kernel`, the release it implements).
const GVISOR: &str = "Linux version 4.4.0";

async fn ask(network: &Network, program: &str) -> Value {
    let answer = reqwest_client().get(network.program_url(program)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

fn is_gvisor(answer: &Value) -> bool {
    answer["kernel"].as_str().unwrap().starts_with(GVISOR)
}

#[tokio::test]
async fn a_program_gets_gvisor_if_it_asks_for_it() {
    let runsc = runsc();
    let network = Network::up(UpOptions::new(1, &["--isolation", "container,gvisor", "--runsc", &runsc])).await;
    let (aleph, node) = (Aleph::of(&network), &network.compute_nodes[0]);
    let folder = folder_with("main.py", WHICH_KERNEL);
    let upload = async |options: &[&str]| aleph.upload(folder.path(), "main:app", options).await;

    let usual = upload(&[]).await;
    assert!(!is_gvisor(&ask(&network, &usual).await), "what a node names first is usual");

    // On demand: started, frozen, thawed where it was.
    let on_demand = upload(&["--isolation", "gvisor", "--freeze-after", "1"]).await;
    assert!(is_gvisor(&ask(&network, &on_demand).await));
    eventually("it is frozen", async || (node.is_frozen(&on_demand)?).then_some(())).await;
    // What stands still is gVisor's kernel, with the program in it, and not only what started it.
    let frozen = node.processes_that_freeze(&on_demand);
    assert!(frozen.iter().any(|command| command.contains("runsc-sandbox")), "{frozen:?}");
    assert_eq!(ask(&network, &on_demand).await["asked"], 2);

    let persistent = upload(&["--isolation", "gvisor", "--persistent"]).await;
    assert!(is_gvisor(&ask(&network, &persistent).await));

    // The next one finds a sandbox of its kind that waits.
    let name = "aleph_sandboxes{kind=\"waiting_with_interpreter\"}";
    eventually("sandboxes of both kinds wait", async || (node.counted(name).await >= 2).then_some(())).await;
    let waited = async || node.counted("aleph_sandboxes_claimed_total{start=\"waited\"}").await;
    let before = waited().await;
    let next = upload(&["--isolation", "gvisor", "--env", "ANOTHER=1"]).await;
    assert!(is_gvisor(&ask(&network, &next).await));
    assert_eq!(waited().await, before + 1);
}

#[tokio::test]
async fn a_node_without_gvisor_runs_no_program_that_asks_for_it() {
    let network = Network::up(UpOptions::new(1, &[])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", WHICH_KERNEL);
    let path = folder.path().to_str().unwrap();
    let upload = async |options: &[&str]| {
        let arguments = ["program", "upload", "--no-wait", "--isolation", "gvisor", path, "main:app"];
        let uploaded = aleph.json(&[&arguments[..], options].concat()).await;
        uploaded["item_hash"].as_str().unwrap().to_owned()
    };

    let on_demand = upload(&[]).await;
    let answer = reqwest_client().get(network.program_url(&on_demand)).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert_eq!(status, 503);
    assert!(text.contains("the node does not offer the isolation that the program asks for"), "{text}");

    let persistent = upload(&["--persistent"]).await;
    let found = eventually("it is unplaced", async || {
        let found = aleph.find(&persistent).await;
        (found["state"] == "unplaced").then_some(found)
    })
    .await;
    let reason = found["reason"].as_str().unwrap();
    assert_eq!(reason, "no node fits: 1 node, 1 without the isolation that it asks for");
}
