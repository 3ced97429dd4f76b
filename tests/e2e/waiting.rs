//! Parts that start before the message node: they wait for it, say so, and work once it is there.

use aleph_tests::{
    Aleph, Network, Role, UpOptions, arguments_of, eventually, folder_with, free_ports, is_running, reqwest_client,
    signal,
};
use rustix::process::Signal;
use serde_json::Value;

const WELL: &str = "async def app(scope, receive, send):\n\
    \x20   assert scope['type'] == 'http'\n\
    \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
    \x20   await send({'type': 'http.response.body', 'body': b'well'})\n";

/// Ends a process that `aleph-node up` started; says what it was started with.
async fn end(pid: i32) -> Vec<String> {
    let arguments = arguments_of(pid);
    signal(pid, Signal::TERM);
    eventually("the process ends", async || (!is_running(pid)).then_some(())).await;
    arguments
}

/// The arguments of another compute node, which is new to the network.
fn of_another_node(arguments: &[String], data_dir: &str) -> (Vec<String>, String) {
    let address = format!("127.0.0.1:{}", free_ports(1));
    let url = format!("http://{address}");
    let mut arguments = arguments.to_vec();
    for (option, value) in [
        ("--listen", address.as_str()),
        ("--url", &url),
        ("--name", "another"),
        ("--data-dir", data_dir),
        ("--first-uid", "1950351360"),
        ("--network", "100.80.0.0/16"),
    ] {
        let at = arguments.iter().position(|argument| argument == option).expect("every node has it");
        value.clone_into(&mut arguments[at + 1]);
    }
    (arguments, url)
}

async fn health(url: &str) -> Value {
    reqwest_client().get(format!("{url}/health")).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn what_starts_before_the_message_node_waits_for_it_and_says_so() {
    let network = Network::up(UpOptions::new(1, &[])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", WELL);
    let program = aleph.upload(folder.path(), "main:app", &["--persistent"]).await;
    let known_node = &network.compute_nodes[0];
    let node_arguments = end(known_node.pid).await;
    let scheduler_arguments = end(network.scheduler_pid).await;
    let message_node_arguments = end(network.message_node_pid).await;

    // Each answers at once, although there is nobody to ask.
    let log = |name: &str| network.root().join(format!("logs/late-{name}.log"));
    let mut scheduler = Role::ready(&scheduler_arguments, &log("scheduler")).await;
    let mut node = Role::ready(&node_arguments, &log("node")).await;
    let other_data = network.root().join("nodes/another");
    let (other_arguments, other_url) = of_another_node(&node_arguments, other_data.to_str().unwrap());
    let mut other = Role::ready(&other_arguments, &log("other")).await;

    // They say what they wait for, in their health and in their logs.
    let message_node = network.message_node_url.strip_prefix("http://").unwrap();
    eventually("the scheduler says that the message node does not answer", async || {
        health(&network.scheduler_url).await["message_node"].as_str().unwrap().contains(message_node).then_some(())
    })
    .await;
    assert_eq!(health(&network.scheduler_url).await["status"], "starting", "it has not read what shall run");
    assert_eq!(health(&other_url).await["node"], Value::Null, "it has no id yet");
    for (name, what) in [
        ("scheduler", "the message node cannot be followed"),
        ("node", "the message node cannot be followed"),
        ("other", "cannot register this node"),
    ] {
        eventually("the log says so", async || {
            let text = std::fs::read_to_string(log(name)).unwrap();
            text.lines().any(|line| line.contains("WARN") && line.contains(what)).then_some(())
        })
        .await;
    }
    // Nobody knows whether there is such a program, so nobody says that there is none.
    let unknown = format!("{}/{}", network.program_url(&"ab".repeat(32)), "");
    assert_eq!(reqwest_client().get(unknown).send().await.unwrap().status(), 503);
    assert!(scheduler.is_running() && node.is_running() && other.is_running());

    // It comes, and everything goes its way by itself.
    let _message_node = Role::ready(&message_node_arguments, &log("message-node")).await;
    eventually("the program from before runs", async || (aleph.find(&program).await["state"] == "ready").then_some(()))
        .await;
    assert_eq!(reqwest_client().get(network.program_url(&program)).send().await.unwrap().status(), 200);
    eventually("both nodes are connected", async || {
        let health = health(&network.scheduler_url).await;
        (health["nodes_healthy"] == 2 && health["message_node"] == "ok" && health["status"] == "ok").then_some(())
    })
    .await;
    assert_eq!(health(&known_node.url).await["node"], known_node.id.as_str(), "the same node as before");
    assert_ne!(health(&other_url).await["node"], Value::Null);
    let program = aleph.upload(folder.path(), "main:app", &["--persistent", "--name", "later"]).await;
    assert_eq!(reqwest_client().get(network.program_url(&program)).send().await.unwrap().status(), 200);
    for role in [node, other, scheduler] {
        assert_eq!(role.end(Signal::TERM).await.code(), Some(0));
    }
}
