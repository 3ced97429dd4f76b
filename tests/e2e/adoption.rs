//! Agents that end and come back: their programs go on, and the new agent takes them over.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use aleph_tests::{
    Aleph, ComputeNode, Network, Role, UpOptions, arguments_of, eventually, folder_with, reqwest_client,
};
use rustix::process::Signal;
use serde_json::Value;

/// How long a lease lasts here: time for an agent to start on a busy machine.
const LEASE: Duration = Duration::from_secs(10);

/// Says which process it is, and counts what it is asked.
const WHO: &str = r#"
import asyncio, json, os, uuid
who = {"process": str(uuid.uuid4()), "pid_namespace": os.readlink("/proc/self/ns/pid"),
       "started": open("/proc/1/stat").read().rsplit(")", 1)[1].split()[19], "epoch": os.environ.get("ALEPH_EPOCH")}
asked = 0

async def app(scope, receive, send):
    global asked
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        await asyncio.sleep(1000)
    asked += 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps({"who": who, "asked": asked}).encode()})
"#;

/// A node whose agent is ended and started again.
struct Restarted {
    node: ComputeNode,
    arguments: Vec<String>,
    log: PathBuf,
    supervisors: Vec<i32>,
}

impl Restarted {
    fn new(network: &Network, node: &str) -> Self {
        let node = network.node(node).clone();
        let mut arguments = arguments_of(node.pid);
        arguments.retain(|argument| argument != "--stop-programs");
        let supervisors = sorted(node.supervisors());
        let log = network.root().join("logs/restarted.log");
        Self { node, arguments, log, supervisors }
    }

    /// Starts the next agent, in time, and checks that it finds what the one before it left.
    async fn next_agent(&self, more: &[&str]) -> Role {
        let ended = Instant::now();
        let found_before = self.found();
        let arguments = [&self.arguments[..], &more.iter().map(|&a| a.to_owned()).collect::<Vec<_>>()].concat();
        let agent = Role::ready(&arguments, &self.log).await;
        assert!(ended.elapsed() < LEASE / 2, "this machine is too slow for this test: {:?}", ended.elapsed());
        assert_eq!(self.found(), found_before + self.supervisors.len(), "each sandbox is found, once");
        assert_eq!(sorted(self.node.supervisors()), self.supervisors, "the same supervisors, and no others");
        agent
    }

    /// How many sandboxes agents have found so far.
    fn found(&self) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("found a sandbox")).count()
    }
}

fn sorted(mut numbers: Vec<i32>) -> Vec<i32> {
    numbers.sort_unstable();
    numbers
}

async fn ask(url: &str) -> (Value, u64) {
    let answer = reqwest_client().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    let mut answer: Value = answer.json().await.unwrap();
    (answer["who"].take(), answer["asked"].as_u64().unwrap())
}

/// Asks until the lease that an ended agent was given last is over for certain: without a new one nothing lives that long.
async fn outlives_the_lease(ended: Instant, url: &str, who: &Value, mut asked: u64) -> u64 {
    while ended.elapsed() < LEASE + LEASE / 5 {
        assert_eq!(ask(url).await, (who.clone(), asked + 1), "the same process answers each request once");
        asked += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    asked
}

#[tokio::test]
async fn programs_survive_their_agent_and_the_next_one_takes_them_over() {
    let network = Network::up(UpOptions::new(2, &["--lease", "10s", "--heartbeat", "1s"])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", WHO);
    let program = aleph.upload(folder.path(), "main:app", &["--persistent"]).await;
    let before = aleph.find(&program).await;
    let url = network.program_url(&program);
    // The client has asked it, too.
    let (who, asked) = ask(&url).await;
    assert_eq!(who["epoch"], "1");

    // The agent dies. A request that comes now waits for the next one.
    let restarted = Restarted::new(&network, before["node_url"].as_str().unwrap());
    assert_eq!(restarted.supervisors.len(), 1);
    let ended = Instant::now();
    restarted.node.signal(Signal::KILL);
    eventually("the agent is dead", async || reqwest_client().get(&restarted.node.url).send().await.err()).await;
    let (waiting, agent) = tokio::join!(ask(&url), restarted.next_agent(&[]));
    assert_eq!(waiting, (who.clone(), asked + 1));
    let asked = outlives_the_lease(ended, &url, &who, asked + 1).await;

    // The agent is asked to end, without stopping programs. Nobody stops them, and the next one goes on with them.
    let ended = Instant::now();
    assert_eq!(agent.end(Signal::TERM).await.code(), Some(0));
    assert_eq!(sorted(restarted.node.supervisors()), restarted.supervisors);
    let agent = restarted.next_agent(&["--stop-programs"]).await;
    let asked = outlives_the_lease(ended, &url, &who, asked).await;

    // To the scheduler nothing happened.
    let after = aleph.find(&program).await;
    for unchanged in ["state", "epoch", "node_url", "allocated_at", "restarts"] {
        assert_eq!(after[unchanged], before[unchanged], "{unchanged}");
    }
    assert_eq!(network.nodes_with(&program).await, [restarted.node.url.as_str()]);
    assert_eq!(ask(&url).await.1, asked + 1);

    // What was taken over can be stopped, and nothing is left.
    assert_eq!(agent.end(Signal::TERM).await.code(), Some(0));
    assert!(!restarted.node.run_dir().exists(), "nothing of {} is left", restarted.node.url);
}

#[tokio::test]
async fn copies_on_demand_are_taken_over_with_their_limits() {
    let network = Network::up(UpOptions::new(1, &["--idle-after", "6s"])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", WHO);
    let program = aleph.upload(folder.path(), "main:app", &["--timeout-seconds", "2"]).await;
    let url = network.program_url(&program);
    let (who, _) = ask(&url).await;
    let restarted = Restarted::new(&network, &network.compute_nodes[0].url);
    restarted.node.signal(Signal::KILL);
    eventually("the agent is dead", async || reqwest_client().get(&restarted.node.url).send().await.err()).await;
    let agent = restarted.next_agent(&["--stop-programs"]).await;
    // Straight to the node: the scheduler may not have heard of it again.
    let at_node = format!("{}/vm/{program}", restarted.node.url);
    assert_eq!(ask(&at_node).await, (who, 2));
    // How long a request may take is in the program's message, not in the agent's memory.
    let slow = reqwest_client().get(format!("{at_node}/slow")).send().await.unwrap();
    assert_eq!(slow.status(), 504);
    assert!(slow.text().await.unwrap().contains("2 s"), "it says how long the program had");
    // Nobody uses it any more, so it goes.
    network.until_gone(&program).await;
    assert_eq!(agent.end(Signal::TERM).await.code(), Some(0));
}

#[tokio::test]
async fn an_agent_comes_back_while_the_message_node_is_down() {
    let network = Network::up(UpOptions::new(1, &["--lease", "10s", "--heartbeat", "1s"])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", WHO);
    let program = aleph.upload(folder.path(), "main:app", &["--persistent"]).await;
    let node_url = aleph.find(&program).await["node_url"].as_str().unwrap().to_owned();
    let url = format!("{node_url}/vm/{program}/");
    let (who, asked) = ask(&url).await;
    aleph_tests::signal(network.message_node_pid, Signal::KILL);
    let restarted = Restarted::new(&network, &node_url);
    let ended = Instant::now();
    restarted.node.signal(Signal::KILL);
    eventually("the agent is dead", async || reqwest_client().get(&restarted.node.url).send().await.err()).await;
    let _agent = restarted.next_agent(&[]).await;
    outlives_the_lease(ended, &url, &who, asked).await;
}

/// Freezes the sandboxes of a node, as its agent does while it takes a snapshot.
fn freeze_all(node: &ComputeNode) {
    for sandbox in node.claimed_sandboxes() {
        let spec = std::fs::read(sandbox.join("spec.json")).unwrap();
        let spec: Value = serde_json::from_slice(&spec).unwrap();
        let group = spec["driver"]["cgroup"].as_str().unwrap();
        let v1 = PathBuf::from("/sys/fs/cgroup/freezer").join(group).join("freezer.state");
        let v2 = PathBuf::from("/sys/fs/cgroup").join(group).join("cgroup.freeze");
        let (file, word) = if v1.exists() { (v1, "FROZEN") } else { (v2, "1") };
        std::fs::write(file, word).unwrap();
    }
}

#[tokio::test]
async fn a_program_that_was_frozen_when_its_agent_died_goes_on() {
    let network = Network::up(UpOptions::new(1, &["--lease", "10s", "--heartbeat", "1s"])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", WHO);
    let program = aleph.upload(folder.path(), "main:app", &["--persistent"]).await;
    let url = network.program_url(&program);
    let (who, asked) = ask(&url).await;
    let restarted = Restarted::new(&network, &network.compute_nodes[0].url);
    restarted.node.signal(Signal::KILL);
    eventually("the agent is dead", async || reqwest_client().get(&restarted.node.url).send().await.err()).await;
    freeze_all(&restarted.node);
    let agent = restarted.next_agent(&["--stop-programs"]).await;
    assert_eq!(ask(&url).await, (who, asked + 1), "the same process goes on");
    // And once more, to be ended: what is frozen is not in the way.
    freeze_all(&restarted.node);
    assert_eq!(agent.end(Signal::TERM).await.code(), Some(0));
    assert!(!restarted.node.run_dir().exists(), "nothing is left");
}

#[tokio::test]
async fn copies_on_demand_that_are_frozen_are_taken_over_as_they_are() {
    let network = Network::up(UpOptions::new(1, &["--freeze-after", "500ms", "--idle-after", "20s"])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", WHO);
    let program = aleph.upload(folder.path(), "main:app", &[]).await;
    let (who, _) = ask(&network.program_url(&program)).await;
    let restarted = Restarted::new(&network, &network.compute_nodes[0].url);
    let (node, at_node) = (&restarted.node, format!("{}/vm/{program}", restarted.node.url));
    let until_frozen = async || {
        eventually("it is frozen", async || (node.is_frozen(&program)?).then_some(())).await;
    };
    until_frozen().await;
    node.signal(Signal::KILL);
    eventually("the agent is dead", async || reqwest_client().get(&node.url).send().await.err()).await;
    let agent = restarted.next_agent(&["--stop-programs"]).await;
    assert_eq!(node.is_frozen(&program), Some(true), "nobody used it");
    assert_eq!(ask(&at_node).await, (who, 2), "the same process goes on");
    until_frozen().await;
    assert_eq!(agent.end(Signal::TERM).await.code(), Some(0));
    assert!(!node.run_dir().exists(), "nothing is left");
}
