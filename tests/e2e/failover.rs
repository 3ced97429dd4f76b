//! Nodes that die, hang, restart.

use std::time::{Duration, Instant};

use aleph_tests::{Aleph, Network, UpOptions, eventually, folder_with, reqwest_client, within};
use rustix::process::Signal;
use serde_json::Value;

/// Answers with what identifies the process.
const WHO: &str = "import json, os\n\
    async def app(scope, receive, send):\n\
    \x20   assert scope['type'] == 'http'\n\
    \x20   body = json.dumps({'epoch': os.environ['ALEPH_EPOCH'], 'start': os.stat('/proc/1').st_ctime}).encode()\n\
    \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
    \x20   await send({'type': 'http.response.body', 'body': body})\n";

async fn network_with_program() -> (Network, Aleph, String) {
    let network = Network::up(UpOptions::default()).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", WHO);
    let program = aleph.upload(folder.path(), "main:app", &["--persistent"]).await;
    (network, aleph, program)
}

async fn ask(network: &Network, program: &str) -> Value {
    let answer = reqwest_client().get(network.program_url(program)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

async fn epoch_reached(aleph: &Aleph, program: &str, epoch: u64) -> Value {
    eventually("the program runs under the next epoch", async || {
        let found = aleph.find(program).await;
        (found["state"] == "ready" && found["epoch"] == epoch).then_some(found)
    })
    .await
}

#[tokio::test]
async fn a_dead_nodes_program_goes_on_elsewhere_and_requests_wait_for_it() {
    let (network, aleph, program) = network_with_program().await;
    let first = aleph.find(&program).await;
    let node = network.node(first["node_url"].as_str().unwrap());
    node.kill_everything();
    let killed = Instant::now();
    // Asked at once, answered by the next copy.
    let answer = ask(&network, &program).await;
    assert_eq!(answer["epoch"], "2");
    assert!(
        killed.elapsed() > Duration::from_secs(4),
        "nobody could know before the lease's end: {:?}",
        killed.elapsed()
    );
    let second = epoch_reached(&aleph, &program, 2).await;
    assert_ne!(second["node_url"], first["node_url"]);
}

#[tokio::test]
async fn a_node_whose_agent_died_stops_its_programs_in_time() {
    let (network, aleph, program) = network_with_program().await;
    let first = aleph.find(&program).await;
    let node = network.node(first["node_url"].as_str().unwrap());
    assert_eq!(node.supervisors().len(), 1);
    node.signal(Signal::KILL);
    // Its supervisor lives on and ends the program before anybody may start another copy.
    let alive = || node.supervisors().into_iter().any(aleph_tests::is_running);
    let gone =
        within(Duration::from_secs(6), "the supervisor ends the program", async || (!alive()).then(Instant::now)).await;
    let answer = ask(&network, &program).await;
    assert_eq!(answer["epoch"], "2");
    assert!(gone < Instant::now());
}

#[tokio::test]
async fn a_node_that_hung_does_not_bring_its_copy_back() {
    let (network, aleph, program) = network_with_program().await;
    let first = aleph.find(&program).await;
    let node = network.node(first["node_url"].as_str().unwrap());
    // The agent and its supervisors: nothing of this node can act.
    let supervisors = node.supervisors();
    node.signal(Signal::STOP);
    supervisors.iter().for_each(|pid| aleph_tests::signal(*pid, Signal::STOP));
    let second = epoch_reached(&aleph, &program, 2).await;
    assert_ne!(second["node_url"], first["node_url"]);
    assert!(!supervisors.into_iter().any(aleph_tests::is_running), "the kernel ended what was stopped");
    node.signal(Signal::CONT);
    eventually("the node is back", async || {
        let nodes = aleph.json(&["node", "list"]).await;
        let mut nodes = nodes.as_array().unwrap().iter();
        nodes.any(|n| n["node_hash"] == node.id.as_str() && n["status"] == "Healthy").then_some(())
    })
    .await;
    assert_eq!(network.nodes_with(&program).await, [second["node_url"].as_str().unwrap()]);
    assert_eq!(ask(&network, &program).await["epoch"], "2");
}

#[tokio::test]
async fn schedulers_and_message_nodes_may_fail_while_programs_run_on() {
    let (network, _aleph, program) = network_with_program().await;
    let before = ask(&network, &program).await;
    aleph_tests::signal(network.message_node_pid, Signal::KILL);
    assert_eq!(ask(&network, &program).await, before);
    // Longer than a lease: renewing it needs no message node.
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        assert_eq!(ask(&network, &program).await, before);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_network_comes_back_with_its_programs() {
    let (mut network, aleph, program) = network_with_program().await;
    let before = aleph.find(&program).await;
    assert_eq!(network.interrupt().await, Some(0));
    for node in &network.compute_nodes {
        assert!(!node.run_dir().exists(), "nothing of {} is left", node.url);
    }
    let network = network.up_again().await;
    let after = epoch_reached(&aleph, &program, 1).await;
    assert_eq!(after["node_url"], before["node_url"], "the same assignment");
    assert_eq!(ask(&network, &program).await["epoch"], "1");
}
