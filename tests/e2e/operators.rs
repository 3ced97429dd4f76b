//! What operators order, and the signed history of what came of it.

use std::time::{Duration, Instant};

use aleph_tests::{Aleph, Network, UpOptions, eventually, folder_with, reqwest_client};
use serde_json::Value;

const HELLO: &str = "async def app(scope, receive, send):\n\
    \x20   assert scope['type'] == 'http'\n\
    \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
    \x20   await send({'type': 'http.response.body', 'body': b'hello'})\n";

async fn started(arguments: &[&str]) -> (Network, Aleph, String) {
    let network = Network::up(UpOptions::new(2, arguments)).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", HELLO);
    let program = aleph.upload(folder.path(), "main:app", &["--persistent"]).await;
    (network, aleph, program)
}

/// The id of the node that a program is on.
async fn node_of(aleph: &Aleph, program: &str) -> String {
    aleph.find(program).await["allocated_node"].as_str().unwrap().to_owned()
}

async fn ready_under(aleph: &Aleph, program: &str, epoch: u64) -> Value {
    eventually("the program runs under the next epoch", async || {
        let found = aleph.find(program).await;
        (found["state"] == "ready" && found["epoch"] == epoch).then_some(found)
    })
    .await
}

/// What a history says, in a word for each entry.
fn words(history: &Value) -> Vec<String> {
    let entries = history["entries"].as_array().unwrap();
    let word = |entry: &Value| match entry["fact"].as_str().unwrap() {
        "stated" => entry["statement"]["stated"].as_str().unwrap().to_owned(),
        "ended" => entry["proof"].as_str().unwrap().to_owned(),
        other => other.to_owned(),
    };
    entries.iter().map(word).collect()
}

#[tokio::test]
async fn a_drained_nodes_program_moves_and_the_history_tells_it() {
    let (network, aleph, program) = started(&[]).await;
    let first = node_of(&aleph, &program).await;
    aleph.json(&["node", "drain", &first[..12], "--reason", "new kernel"]).await;
    let moved = ready_under(&aleph, &program, 2).await;
    assert_ne!(moved["allocated_node"], first.as_str());
    assert_eq!(reqwest_client().get(network.program_url(&program)).send().await.unwrap().status(), 200);
    let shown = aleph.json(&["node", "show", &first]).await;
    assert_eq!((&shown["node"]["draining"], &shown["programs"]), (&"new kernel".into(), &serde_json::json!([])));

    let history = aleph.json(&["program", "history", &program, "--verify"]).await;
    let verified = &history["verified"];
    assert_eq!((&verified["assignments"], &verified["is_open"]), (&2.into(), &true.into()), "{history}");
    assert_eq!((&verified["unchecked"], &verified["declared"]), (&0.into(), &0.into()));
    let first_epoch = ["assigned", "started", "ready", "releasing", "stopped", "released"];
    assert_eq!(words(&history)[..6], first_epoch, "{history}");
    // Whoever trusts another account sees that it did not sign.
    let stranger = "0x000000000000000000000000000000000000dEaD";
    let error = aleph.error(&["program", "history", &program, "--verify", "--scheduler-address", stranger]).await;
    assert_eq!(error["code"], "bad_history");

    aleph.json(&["node", "undrain", &first]).await;
    let shown = aleph.json(&["node", "show", &first]).await;
    assert_eq!(shown["node"]["draining"], Value::Null);

    let finished = aleph.run(&["unpersist", &program]).await;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let history = aleph.json(&["program", "history", &program, "--verify"]).await;
    assert_eq!(history["verified"]["is_open"], false, "it is known after the program, too");
}

#[tokio::test]
async fn a_node_that_is_given_up_is_not_waited_for() {
    // Nobody would wait for this lease.
    let (network, aleph, program) = started(&["--lease", "120s", "--heartbeat", "1s"]).await;
    let found = aleph.find(&program).await;
    let node = network.node(found["node_url"].as_str().unwrap()).clone();
    let error = aleph.error(&["node", "lost", &node.id]).await;
    assert_eq!(error["code"], "usage", "it needs --yes: {error}");
    let error = aleph.error(&["node", "lost", &node.id, "--yes"]).await;
    assert!(error["message"].as_str().unwrap().contains("sends heartbeats"), "{error}");
    assert_eq!(aleph.find(&program).await["epoch"], 1);

    node.kill_everything();
    eventually("the scheduler misses it", async || {
        let shown = aleph.json(&["node", "show", &node.id]).await;
        (shown["node"]["status"] != "Healthy").then_some(())
    })
    .await;
    let told = Instant::now();
    aleph.json(&["node", "lost", &node.id, "--yes"]).await;
    ready_under(&aleph, &program, 2).await;
    assert!(told.elapsed() < Duration::from_secs(60), "long before the lease was over");
    let history = aleph.json(&["program", "history", &program, "--verify"]).await;
    assert_eq!(history["verified"]["declared"], 1, "and the history says whose word it was: {history}");
}

#[tokio::test]
async fn only_operators_give_orders() {
    let (network, aleph, program) = started(&[]).await;
    let node = node_of(&aleph, &program).await;
    let key = network.root().join("authority.key");
    let error = aleph.error(&["node", "drain", &node, "--private-key-file", key.to_str().unwrap()]).await;
    assert!(error["message"].as_str().unwrap().contains("no operator"), "{error}");
    let error = aleph.error(&["node", "drain", "0123"]).await;
    assert_eq!(error["code"], "usage");
    let error = aleph.error(&["node", "drain", "0123456789abcdef"]).await;
    assert_eq!(error["code"], "not_found");
    let shown = aleph.json(&["node", "show", &node]).await;
    assert_eq!(shown["node"]["draining"], Value::Null);
}
