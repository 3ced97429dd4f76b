//! Sandboxes that wait for a program: who gets them, what does not need them, and what becomes of them.

use aleph_tests::{
    Aleph, ComputeNode, Network, Role, UpOptions, arguments_of, eventually, folder_with, reqwest_client, signal,
};
use rustix::process::Signal;

const TELL: &str = "import os, sys\n\
    from fastapi import FastAPI\n\
    app = FastAPI()\n\
    @app.get('/')\n\
    def tell():\n\
    \x20   return {'number': os.environ['NUMBER'], 'waited': sys.orig_argv[-1] == '--wait'}\n";

async fn until_one_waits(node: &ComputeNode) {
    eventually("a sandbox waits", async || {
        (node.counted("aleph_sandboxes{kind=\"waiting_with_interpreter\"}").await > 0).then_some(())
    })
    .await;
}

async fn ask(network: &Network, program: &str) -> serde_json::Value {
    let answer = reqwest_client().get(network.program_url(program)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

#[tokio::test]
async fn programs_get_the_sandboxes_that_wait_each_its_own() {
    let network = Network::up(UpOptions::new(1, &["--idle-after", "2s"])).await;
    let (aleph, node) = (Aleph::of(&network), &network.compute_nodes[0]);
    let folder = folder_with("main.py", TELL);
    let upload = async |number: &str, options: &[&str]| {
        let variable = format!("NUMBER={number}");
        aleph.upload(folder.path(), "main:app", &[options, &["--env", &variable]].concat()).await
    };
    let first = upload("1", &[]).await;
    assert_eq!(ask(&network, &first).await["waited"], false, "nothing was known of its image before");
    assert_eq!(node.counted("aleph_sandboxes_claimed_total{start=\"made\"}").await, 1);

    // One on demand, one that runs always.
    for (number, options) in [("2", &[][..]), ("3", &["--persistent"])] {
        until_one_waits(node).await;
        let before = node.counted("aleph_sandboxes_claimed_total{start=\"waited\"}").await;
        let program = upload(number, options).await;
        let answer = ask(&network, &program).await;
        assert_eq!((&answer["number"], &answer["waited"]), (&number.into(), &true.into()));
        assert_eq!(node.counted("aleph_sandboxes_claimed_total{start=\"waited\"}").await, before + 1);
    }

    // What it needs is there, so nobody is asked: not even whether there is somebody to ask.
    network.until_gone(&first).await;
    until_one_waits(node).await;
    signal(network.message_node_pid, Signal::STOP);
    let answer = ask(&network, &first).await;
    signal(network.message_node_pid, Signal::CONT);
    assert_eq!((&answer["number"], &answer["waited"]), (&"1".into(), &true.into()));
}

#[tokio::test]
async fn the_next_agent_ends_what_waited_for_the_one_before() {
    let network = Network::up(UpOptions::new(1, &[])).await;
    let (aleph, node) = (Aleph::of(&network), &network.compute_nodes[0]);
    let folder = folder_with("main.py", TELL);
    let program = aleph.upload(folder.path(), "main:app", &["--persistent", "--env", "NUMBER=1"]).await;
    until_one_waits(node).await;
    let arguments = arguments_of(node.pid);
    let (programs, all) = (node.supervisors(), node.all_supervisors());
    assert!(all.len() > programs.len());
    node.signal(Signal::KILL);
    eventually("the agent is dead", async || reqwest_client().get(&node.url).send().await.err()).await;

    let agent = Role::ready(&arguments, &network.root().join("logs/next.log")).await;
    assert_eq!(node.supervisors(), programs, "its programs go on");
    let ended = || all.iter().filter(|pid| !programs.contains(pid)).all(|pid| !node.all_supervisors().contains(pid));
    assert!(ended(), "what waited is nobody's");
    assert_eq!(ask(&network, &program).await["number"], "1");
    assert_eq!(agent.end(Signal::TERM).await.code(), Some(0));
    assert!(!node.run_dir().exists(), "nothing is left");
}

#[tokio::test]
async fn without_memory_for_it_nothing_waits() {
    let network = Network::up(UpOptions::new(1, &["--idle-after", "1s", "--spare-mib", "0"])).await;
    let (aleph, node) = (Aleph::of(&network), &network.compute_nodes[0]);
    let folder = folder_with("main.py", TELL);
    let program = aleph.upload(folder.path(), "main:app", &["--env", "NUMBER=1"]).await;
    for started in 1..=2 {
        assert_eq!(ask(&network, &program).await["waited"], false);
        assert_eq!(node.counted("aleph_sandboxes_claimed_total{start=\"made\"}").await, started);
        network.until_gone(&program).await;
    }
    assert!(node.all_supervisors().is_empty());
}
