//! Programs that nobody uses: frozen, then stopped; and what keeps them from that.

use std::time::{Duration, Instant};

use aleph_tests::{Aleph, ComputeNode, Network, UpOptions, eventually, folder_with, reqwest_client};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Counts in a thread of its own, and what it is asked; sends back what a WebSocket brings.
const COUNTER: &str = r#"
import json, threading, time, uuid
who, asked, counted = str(uuid.uuid4()), 0, 0

def count():
    global counted
    while True:
        counted += 1
        time.sleep(0.01)

threading.Thread(target=count, daemon=True).start()

async def app(scope, receive, send):
    global asked
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    assert scope["type"] == "http"
    asked += 1
    body = json.dumps({"who": who, "asked": asked, "counted": counted}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"#;

async fn ask(network: &Network, program: &str) -> Value {
    let answer = reqwest_client().get(network.program_url(program)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

async fn until_frozen(node: &ComputeNode, program: &str) {
    eventually("it is frozen", async || (node.is_frozen(program)?).then_some(())).await;
}

/// Whether a node says that a program is frozen.
async fn is_said_to_be_frozen(node: &ComputeNode, program: &str) -> bool {
    let url = format!("{}/v2/about/executions/list", node.url);
    let list: Value = reqwest_client().get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(list[program]["running"], true, "{list}");
    list[program]["frozen"] == true
}

#[tokio::test]
async fn what_nobody_uses_is_frozen_goes_on_where_it_was_and_is_stopped() {
    let network = Network::up(UpOptions::new(1, &[])).await;
    let (aleph, node) = (Aleph::of(&network), &network.compute_nodes[0]);
    let folder = folder_with("main.py", COUNTER);
    // As its message says, which is sooner than this node does it.
    let program = aleph.upload(folder.path(), "main:app", &["--freeze-after", "1", "--idle-after", "15"]).await;
    let first = ask(&network, &program).await;
    assert!(!is_said_to_be_frozen(node, &program).await);
    until_frozen(node, &program).await;
    eventually("the node says so", async || is_said_to_be_frozen(node, &program).await.then_some(())).await;
    assert_eq!(node.counted("aleph_sandboxes{kind=\"frozen\"}").await, 1);

    // Its thread stands still, though it is looked at.
    let (used, began) = (node.processor_time(&program), Instant::now());
    while began.elapsed() < Duration::from_millis(500) {
        assert!(is_said_to_be_frozen(node, &program).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(node.processor_time(&program), used);
    assert_eq!(node.is_frozen(&program), Some(true));

    // What it had in memory is there, and its thread goes on.
    let second = ask(&network, &program).await;
    assert_eq!((&second["who"], &second["asked"]), (&first["who"], &2.into()));
    eventually("its thread counts", async || (node.processor_time(&program) != used).then_some(())).await;
    assert_eq!(node.counted("aleph_thaw_seconds_count").await, 1);

    until_frozen(node, &program).await;
    network.until_gone(&program).await;
    assert_eq!(node.counted("aleph_sandboxes{kind=\"frozen\"}").await, 0);
    assert_ne!(ask(&network, &program).await["who"], first["who"], "another one");
}

#[tokio::test]
async fn an_open_websocket_keeps_a_program_going_and_persistent_programs_always_go() {
    let network = Network::up(UpOptions::new(1, &["--freeze-after", "500ms"])).await;
    let (aleph, node) = (Aleph::of(&network), &network.compute_nodes[0]);
    let folder = folder_with("main.py", COUNTER);
    let persistent = aleph.upload(folder.path(), "main:app", &["--persistent"]).await;
    let program = aleph.upload(folder.path(), "main:app", &[]).await;
    let before = ask(&network, &persistent).await["counted"].as_u64().unwrap();
    let url = network.program_url(&program).replace("http://", "ws://");
    let (mut socket, _) = tokio_tungstenite::connect_async(url.into_client_request().unwrap()).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        assert_eq!(node.is_frozen(&program), Some(false));
        assert_eq!(node.is_frozen(&persistent), Some(false));
        // Bytes of a WebSocket wake nobody, so it goes on by itself.
        socket.send(Message::text("still there?")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still there?"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = ask(&network, &persistent).await["counted"].as_u64().unwrap();
    assert!(after > before + 100, "its thread counted from {before} to {after} in four seconds");
    socket.close(None).await.unwrap();
    drop(socket);
    until_frozen(node, &program).await;
}

#[tokio::test]
async fn what_is_frozen_makes_way() {
    let network = Network::up(UpOptions::new(1, &["--freeze-after", "0s"])).await;
    let (aleph, node) = (Aleph::of(&network), &network.compute_nodes[0]);
    let folder = folder_with("main.py", COUNTER);
    // More than half of what copies on demand get: see `aleph-node up`.
    let processors = std::thread::available_parallelism().unwrap().get().max(2).to_string();
    let upload = async |name: &str| {
        let options = ["--vcpus", &processors, "--name", name, "--env", &format!("NAME={name}")];
        aleph.upload(folder.path(), "main:app", &options).await
    };
    let (first, second) = (upload("first").await, upload("second").await);
    ask(&network, &first).await;
    until_frozen(node, &first).await;
    assert_eq!(ask(&network, &second).await["asked"], 1);
    assert_eq!(node.is_frozen(&first), None, "it is gone");
    assert_eq!(node.counted("aleph_sandboxes_ended_total{kind=\"on_demand\",outcome=\"stopped\"}").await, 1);
}
