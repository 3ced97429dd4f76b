//! Volumes: what programs find in them, what is kept, and what is not started without it.

use std::process::Command;
use std::time::{Duration, Instant};

use aleph_tests::{Aleph, Network, UpOptions, eventually, folder_with, reqwest_client};
use rustix::process::Signal;
use serde_json::Value;

/// Counts its requests in a database on its volume, or fills the volume.
const COUNTER: &str = r#"
import errno, json, os, sqlite3

def count():
    database = sqlite3.connect("/data/count.sqlite")
    with database:
        database.execute("create table if not exists seen (n integer)")
        database.execute("insert into seen values (1)")
    n = database.execute("select count(*) from seen").fetchone()[0]
    database.close()
    return n

def fill():
    try:
        with open("/data/fill", "wb", 0) as file:
            for _ in range(200):
                file.write(os.urandom(1 << 20))
                os.fsync(file.fileno())
    except OSError as error:
        os.remove("/data/fill")
        return errno.errorcode[error.errno]
    return "no limit"

async def app(scope, receive, send):
    assert scope["type"] == "http"
    what = {"/count": count, "/fill": fill}.get(scope["path"], lambda: None)()
    body = json.dumps({"epoch": os.environ["ALEPH_EPOCH"], "answer": what}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"#;

async fn ask(network: &Network, program: &str, path: &str) -> Value {
    let answer = reqwest_client().get(format!("{}{path}", network.program_url(program))).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

#[tokio::test]
async fn data_outlives_its_sandbox_and_is_not_left_behind() {
    let network = Network::up(UpOptions::new(1, &["--pool-mib", "512"])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", COUNTER);
    let volume = ["--persistent", "--persistent-volume", "name=../../x,mount=/data,size_mib=50"];
    let program = aleph.upload(folder.path(), "main:app", &volume).await;
    for n in 1..=3 {
        assert_eq!(ask(&network, &program, "/count").await["answer"], n);
    }
    // The limit is the program's own.
    assert_eq!(ask(&network, &program, "/fill").await["answer"], "EDQUOT");
    assert_eq!(ask(&network, &program, "/count").await["answer"], 4);

    // Its supervisor dies, and with it the sandbox: the request waits for the next one, which has the data.
    let first = aleph.find(&program).await;
    let node = network.node(first["node_url"].as_str().unwrap());
    node.supervisors().iter().for_each(|pid| aleph_tests::signal(*pid, Signal::KILL));
    assert_eq!(ask(&network, &program, "/count").await, serde_json::json!({ "epoch": "1", "answer": 5 }));

    // Its node hangs for longer than its lease. Nobody has a copy.
    node.supervisors().iter().for_each(|pid| aleph_tests::signal(*pid, Signal::STOP));
    node.signal(Signal::STOP);
    eventually("the program waits for its data, and says so", async || {
        let found = aleph.find(&program).await;
        let waits = found["reason"].as_str().is_some_and(|reason| reason.contains("waits for its data"));
        (found["state"] == "unplaced" && waits).then_some(())
    })
    .await;
    node.signal(Signal::CONT);
    eventually("it goes on where its data is", async || {
        let found = aleph.find(&program).await;
        (found["state"] == "ready" && found["epoch"].as_u64() > Some(1)).then_some(())
    })
    .await;
    assert_eq!(aleph.find(&program).await["node_url"], first["node_url"]);
    assert_eq!(ask(&network, &program, "/count").await["answer"], 6);
}

/// A number that a node shows about a program.
async fn metric(node: &str, name: &str, program: &str) -> Option<f64> {
    let text = reqwest_client().get(format!("{node}/metrics")).send().await.ok()?.text().await.ok()?;
    let start = format!("{name}{{program=\"{program}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

/// Waits until everything that was written before this call is on the standby.
async fn replicated(node: &str, program: &str) {
    let since = Instant::now();
    eventually("what was written is on the standby", async || {
        let lag = metric(node, "aleph_replication_lag_seconds", program).await?;
        (Duration::from_secs_f64(lag) < since.elapsed()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_program_goes_on_with_its_data_on_another_node() {
    let (network, aleph, program, [first, _]) = counting(3).await;
    for n in 2..=3 {
        assert_eq!(ask(&network, &program, "/count").await["answer"], n);
    }
    replicated(&first, &program).await;

    // The machine hangs. The next request waits until the standby has taken over.
    let node = network.node(&first);
    node.supervisors().iter().for_each(|pid| aleph_tests::signal(*pid, Signal::STOP));
    node.signal(Signal::STOP);
    eventually("the standby has taken over", async || {
        let found = aleph.find(&program).await;
        (found["state"] == "ready" && found["node_url"] != first.as_str()).then_some(())
    })
    .await;
    assert_eq!(ask(&network, &program, "/count").await["answer"], 4);
    let second = aleph.find(&program).await["node_url"].as_str().unwrap().to_owned();
    let history = aleph.json(&["program", "history", &program, "--verify"]).await;
    let lost = history["entries"].as_array().unwrap().iter().find(|entry| entry["fact"] == "data_lost");
    let lost = lost.expect("what the crash cost is in the history");
    assert!(lost["snapshot"].is_string() && lost["at_most_ms"].is_u64(), "{lost}");

    // It returns with a copy that nobody wants any more: that is put aside, and never served.
    node.signal(Signal::CONT);
    replicated(&second, &program).await;
    eventually("the old copy is put aside", async || {
        network.logs().contains("another node has gone on with it").then_some(())
    })
    .await;
    assert_eq!(ask(&network, &program, "/count").await["answer"], 5);
    assert_eq!(aleph.find(&program).await["node_url"], second.as_str());

    // Its operator can look into it.
    let shown = node.volumes_json(&["list", &program]).await["programs"][0].clone();
    let point = &shown["recovery_points"][0];
    assert!(point["epoch"] == 1 && point["kept_until"].is_string(), "{shown}");
    let (number, folder) = (point["number"].to_string(), tempfile::tempdir().unwrap());
    let archive = folder.path().join("old.tar");
    let arguments = ["export", &program, "--recovery-point", &number, "--output", archive.to_str().unwrap()];
    node.volumes_json(&arguments).await;
    let listed = Command::new("tar").arg("-tf").arg(&archive).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().any(|line| line == "data/count.sqlite"), "{listed}");
}

/// A program that counts on a volume, with a complete copy on another node. Says where both are.
async fn counting(nodes: u16) -> (Network, Aleph, String, [String; 2]) {
    let network = Network::up(UpOptions::new(nodes, &["--pool-mib", "512"])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", COUNTER);
    let volume = ["--persistent", "--persistent-volume", "name=data,mount=/data,size_mib=50"];
    let program = aleph.upload(folder.path(), "main:app", &volume).await;
    assert_eq!(ask(&network, &program, "/count").await["answer"], 1);
    let node = aleph.find(&program).await["node_url"].as_str().unwrap().to_owned();
    replicated(&node, &program).await;
    let standby = eventually("the scheduler knows of the copy", async || standby(&aleph, &program).await).await;
    (network, aleph, program, [node, standby])
}

/// The node that keeps a complete copy.
async fn standby(aleph: &Aleph, program: &str) -> Option<String> {
    let data = &aleph.find(program).await["data"];
    let is_complete = data["standby_is_complete"] == true;
    data["standby"].as_str().filter(|_| is_complete).map(str::to_owned)
}

#[tokio::test]
async fn a_program_is_moved_there_and_back_with_everything_it_wrote() {
    let (network, aleph, program, [first, _]) = counting(2).await;
    let moved = aleph.json(&["program", "move", &program]).await;
    assert!(moved["outcome"] == "done" && moved["node_url"] != first.as_str(), "{moved}");
    assert_eq!(ask(&network, &program, "/count").await, serde_json::json!({ "epoch": "2", "answer": 2 }));
    let back = aleph.json(&["program", "move", &program, "--to", &network.node(&first).id]).await;
    assert_eq!(back["node_url"], first.as_str(), "{back}");
    assert_eq!(ask(&network, &program, "/count").await, serde_json::json!({ "epoch": "3", "answer": 3 }));
    let history = aleph.json(&["program", "history", &program, "--verify"]).await;
    assert!(history["entries"].as_array().unwrap().iter().all(|entry| entry["fact"] != "data_lost"), "{history}");
}

#[tokio::test]
async fn a_standby_that_is_lost_is_replaced_while_the_program_runs() {
    let (network, aleph, program, [first, lost]) = counting(3).await;
    network.node(&lost).kill_everything();
    let next = eventually("another node has a copy", async || {
        standby(&aleph, &program).await.filter(|standby| *standby != lost)
    })
    .await;
    let found = aleph.find(&program).await;
    assert_eq!((&found["epoch"], &found["node_url"]), (&1.into(), &first.as_str().into()), "it never stopped");
    assert_eq!(ask(&network, &program, "/count").await["answer"], 2);
    // The new one is as good as the first.
    replicated(&first, &program).await;
    network.node(&first).kill_everything();
    assert_eq!(ask(&network, &program, "/count").await["answer"], 3);
    assert_eq!(aleph.find(&program).await["allocated_node"].as_str(), Some(next.as_str()));
}

#[tokio::test]
async fn a_target_that_dies_in_the_middle_of_a_move_costs_nothing() {
    let (network, aleph, program, [first, target]) = counting(2).await;
    // It hangs: whatever it is told next, it does not do.
    network.node(&target).signal(Signal::STOP);
    aleph.json(&["program", "move", &program, "--to", &target, "--no-wait"]).await;
    // Either it was stopped already, and comes back, or it was not: then it waits for the node and runs on.
    eventually("it is where it was, and the move does not go on", async || {
        let found = aleph.find(&program).await;
        let rests = found["moving"].is_null() || found["moving"]["phase"] == "waiting";
        (rests && found["state"] == "ready" && found["node_url"] == first.as_str()).then_some(())
    })
    .await;
    if !aleph.find(&program).await["moving"].is_null() {
        aleph.json(&["program", "move", &program, "--cancel"]).await;
    }
    assert_eq!(ask(&network, &program, "/count").await["answer"], 2);
    network.node(&target).signal(Signal::CONT);
    replicated(&first, &program).await;
    assert_eq!(ask(&network, &program, "/count").await["answer"], 3);
}

#[tokio::test]
async fn images_are_mounted_where_the_message_says_and_not_over_the_code() {
    let network = Network::up(UpOptions::new(1, &[])).await;
    let aleph = Aleph::of(&network);
    let library = folder_with("main.py", "answer = 42\n");
    // Its code is an image like any other.
    let packed = aleph.upload(library.path(), "main:answer", &["--no-wait"]).await;
    let message = format!("{}/api/v0/messages/{packed}", network.message_node_url);
    let message: Value = reqwest_client().get(message).send().await.unwrap().json().await.unwrap();
    let image = message["message"]["content"]["code"]["ref"].as_str().unwrap().to_owned();
    let reader = folder_with(
        "main.py",
        "async def app(scope, receive, send):\n\
         \x20   body = open('/opt/packages/main.py').read().encode()\n\
         \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
         \x20   await send({'type': 'http.response.body', 'body': body})\n",
    );
    let at = |mount: &str| format!("mount={mount},ref={image}");
    let program = aleph.upload(reader.path(), "main:app", &["--immutable-volume", &at("/opt/packages")]).await;
    let answer = reqwest_client().get(network.program_url(&program)).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "answer = 42\n");
    let folder = reader.path().to_str().unwrap();
    let over = at("/opt/code/x");
    let arguments = ["program", "upload", folder, "main:app", "--persistent", "--immutable-volume", &over];
    let error = aleph.error(&arguments).await;
    assert_eq!(error["code"], "program_failing");
    assert!(error.to_string().contains("it would cover or lie in /opt/code"), "{error}");
}
