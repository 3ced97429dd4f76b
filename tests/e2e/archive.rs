//! Volumes with the persistence `store`: they are restored when no node has them any more, and when their owner wants an
//! earlier snapshot, in place or in another program.

use aleph_tests::{Aleph, ComputeNode, Network, UpOptions, eventually, folder_with, reqwest_client};
use serde_json::Value;

/// Counts its requests in a file on its archived volume, and in one on a volume that is not archived, and shows the counts.
const COUNTER: &str = r#"
import json, os

def look(path):
    return int(open(path).read()) if os.path.exists(path) else 0

def count(path):
    n = look(path) + 1
    with open(path + ".new", "w") as file:
        file.write(str(n))
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
    return n

if not os.path.exists("/data/noise"):
    with open("/data/noise", "wb") as file:
        file.write(os.urandom(1 << 20))

async def app(scope, receive, send):
    assert scope["type"] == "http"
    act = {"/count": count, "/look": look}.get(scope["path"])
    counts = [act("/data/n"), act("/cache/n")] if act else None
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(counts).encode()})
"#;

const VOLUMES: [&str; 5] = [
    "--persistent",
    "--persistent-volume",
    "name=db,mount=/data,size_mib=50,persistence=store",
    "--persistent-volume",
    "name=cache,mount=/cache,size_mib=50",
];

async fn count(network: &Network, program: &str) -> (u64, u64) {
    ask(network, program, "count").await
}

/// The counts, which stay as they are.
async fn look(network: &Network, program: &str) -> (u64, u64) {
    ask(network, program, "look").await
}

async fn ask(network: &Network, program: &str, what: &str) -> (u64, u64) {
    let url = format!("{}/{what}", network.program_url(program));
    let answer = reqwest_client().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

async fn snapshots(aleph: &Aleph, program: &str) -> Vec<Value> {
    let list = aleph.json(&["volume", "snapshots", program]).await;
    let sets = list["sets"].as_array().unwrap().clone();
    sets.into_iter().filter(|set| set["state"] == "complete").collect()
}

/// Waits until a set is in the archive that was begun after this call, or everything was there already. Returns the newest.
async fn archived(node: &str, aleph: &Aleph, program: &str) -> String {
    let since = std::time::Instant::now();
    let start = format!("aleph_archive_age_seconds{{program=\"{program}\"}} ");
    eventually("what was written is in the archive", async || {
        let text = reqwest_client().get(format!("{node}/metrics")).send().await.ok()?.text().await.ok()?;
        let age: f64 = text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())?;
        (age < since.elapsed().as_secs_f64()).then_some(())
    })
    .await;
    snapshots(aleph, program).await.last().expect("it has one")["id"].as_str().unwrap().to_owned()
}

async fn ready_elsewhere(aleph: &Aleph, program: &str, than: &[&ComputeNode]) -> Value {
    eventually("it runs on another node", async || {
        let found = aleph.find(program).await;
        let is_there = than.iter().all(|node| found["node_url"] != node.url.as_str());
        (found["state"] == "ready" && is_there).then_some(found)
    })
    .await
}

#[tokio::test]
async fn a_program_survives_all_nodes_that_had_its_data() {
    let options = ["--pool-mib", "512", "--archive-interval", "1s", "--restore-after", "3s"];
    let network = Network::up(UpOptions::new(3, &options)).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", COUNTER);
    let program = aleph.upload(folder.path(), "main:app", &VOLUMES).await;
    for n in 1..=3 {
        assert_eq!(count(&network, &program).await, (n, n));
    }
    let first = aleph.find(&program).await;
    let primary = network.node(first["node_url"].as_str().unwrap());
    archived(&primary.url, &aleph, &program).await;
    let standby = eventually("another node has a copy", async || {
        let data = aleph.find(&program).await["data"].clone();
        let is_complete = data["standby_is_complete"] == true;
        is_complete.then(|| data["standby"].as_str().unwrap().to_owned())
    })
    .await;
    let standby = network.node(&standby);

    primary.kill_everything();
    standby.kill_everything();
    eventually("it waits, and says for what and how long", async || {
        let found = aleph.find(&program).await;
        let reason = found["reason"].as_str().unwrap_or_default().to_owned();
        (reason.contains("waits for its data") && reason.contains("restored from the archive")).then_some(())
    })
    .await;
    let found = ready_elsewhere(&aleph, &program, &[primary, standby]).await;
    assert_eq!(count(&network, &program).await, (4, 1), "what is not archived is empty");
    assert_eq!(found["data"]["loss"]["from_archive"], true);
    let history = aleph.json(&["program", "history", &program, "--verify"]).await;
    let lost = history["entries"].as_array().unwrap().iter().find(|entry| entry["fact"] == "data_lost");
    assert_eq!(lost.expect("what it cost is in the history")["from_archive"], true);
    // It is archived from there, as a difference from what it was restored with.
    let newest = archived(found["node_url"].as_str().unwrap(), &aleph, &program).await;
    let sets = snapshots(&aleph, &program).await;
    let newest = sets.iter().find(|set| set["id"] == newest.as_str()).unwrap();
    assert!(newest["parent"].is_string(), "{newest}");
}

#[tokio::test]
async fn an_owner_goes_back_to_an_earlier_snapshot_and_downloads_it() {
    let options = ["--pool-mib", "512", "--archive-interval", "1s"];
    let network = Network::up(UpOptions::new(1, &options)).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", COUNTER);
    let program = aleph.upload(folder.path(), "main:app", &VOLUMES).await;
    let node = &network.compute_nodes[0];
    assert_eq!(count(&network, &program).await, (1, 1));
    assert_eq!(count(&network, &program).await, (2, 2));
    let earlier = archived(&node.url, &aleph, &program).await;
    assert_eq!(count(&network, &program).await, (3, 3));
    let later = archived(&node.url, &aleph, &program).await;
    assert_ne!(earlier, later);

    let listed = aleph.json(&["volume", "list", &program]).await;
    assert_eq!(listed["archive"]["newest"]["id"], later.as_str());
    let classes = listed["volumes"].as_array().unwrap().iter().map(|v| (v["name"].clone(), v["class"].clone()));
    assert!(classes.clone().any(|volume| volume == ("db".into(), "store".into())), "{listed}");
    assert!(classes.clone().any(|volume| volume == ("cache".into(), "host".into())), "{listed}");

    let error = aleph.error(&["volume", "restore", &program, "--snapshot", "99-1"]).await;
    assert_eq!(error["code"], "not_found", "{error}");
    let restored = aleph.json(&["volume", "restore", &program, "--snapshot", &earlier]).await;
    assert_eq!((restored["outcome"].as_str(), restored["epoch"].as_u64()), (Some("done"), Some(2)));
    let (stored, _) = count(&network, &program).await;
    assert_eq!(stored, 3, "the third request was after the snapshot");
    let history = aleph.json(&["program", "history", &program, "--verify"]).await;
    let fact = history["entries"].as_array().unwrap().iter().find(|entry| entry["fact"] == "restoring").unwrap();
    assert_eq!(fact["snapshot"], earlier.as_str());

    // What is downloaded can be applied: to the pool itself, here.
    let to = tempfile::tempdir().unwrap();
    let to = to.path().join("db");
    let words = ["volume", "download", &program, "--volume", "db", "--snapshot", &later, "--to"];
    let words: Vec<_> = words.into_iter().chain([to.to_str().unwrap()]).collect();
    let downloaded = aleph.json(&words).await;
    let applied = node.data_dir.join("pool/applied");
    let mut last = applied.clone();
    for file in downloaded["files"].as_array().unwrap() {
        let file = std::path::Path::new(file.as_str().unwrap());
        last = applied.join(file.file_stem().unwrap());
        // The pool is mounted where only the node sees it.
        let script = format!("mkdir -p '{0}' && btrfs -q receive -f '{1}' '{0}'", last.display(), file.display());
        let mut receive = std::process::Command::new("nsenter");
        let received = receive.args(["--mount", "--target", &node.pid.to_string(), "sh", "-c", &script]).status();
        assert!(received.unwrap().success(), "{}", file.display());
    }
    let seen_by_node = format!("/proc/{}/root{}", node.pid, last.display());
    let volume = std::fs::read_dir(seen_by_node).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read_to_string(volume.join("n")).unwrap(), "3");
}

#[tokio::test]
async fn an_earlier_state_is_looked_at_in_another_program_while_the_first_runs_on() {
    let options = ["--pool-mib", "768", "--archive-interval", "1s"];
    let network = Network::up(UpOptions::new(1, &options)).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", COUNTER);
    let first = aleph.upload(folder.path(), "main:app", &VOLUMES).await;
    let node = network.compute_nodes[0].url.as_str();
    assert_eq!(count(&network, &first).await, (1, 1));
    archived(node, &aleph, &first).await;
    assert_eq!(count(&network, &first).await, (2, 2));
    let earlier = archived(node, &aleph, &first).await;
    assert_eq!(count(&network, &first).await, (3, 3));
    archived(node, &aleph, &first).await;

    let mut volumes = VOLUMES;
    volumes[2] = "name=db,mount=/data,size_mib=40,persistence=store";
    let small = aleph.upload(folder.path(), "main:app", &volumes).await;
    let restore = |into: &str| ["volume", "restore", &first, "--snapshot", &earlier, "--into", into].map(str::to_owned);
    let error = aleph.error(&restore(&small).each_ref().map(String::as_str)).await;
    assert!(error["code"] == "refused" && error["message"].as_str().unwrap().contains("40 MiB"), "{error}");
    assert_eq!(aleph.find(&small).await["epoch"], 1, "it was not stopped");

    // The other program has written, too, and the archive has a snapshot of that.
    let second = aleph.upload(folder.path(), "main:app", &VOLUMES).await;
    assert_eq!(count(&network, &second).await, (1, 1));
    let own = archived(node, &aleph, &second).await;
    let restored = aleph.json(&restore(&second).each_ref().map(String::as_str)).await;
    assert_eq!((restored["outcome"].as_str(), restored["epoch"].as_u64()), (Some("done"), Some(2)));
    assert_eq!(look(&network, &second).await, (2, 0), "what is not archived is empty");
    assert_eq!(look(&network, &first).await, (3, 3));
    assert_eq!(aleph.find(&first).await["epoch"], 1, "nothing happened to it");
    let history = aleph.json(&["program", "history", &second, "--verify"]).await;
    let fact = history["entries"].as_array().unwrap().iter().find(|entry| entry["fact"] == "restoring").unwrap();
    assert_eq!((&fact["from"], &fact["snapshot"]), (&first.clone().into(), &earlier.clone().into()));

    // Both go on, each in its own archive.
    assert_eq!(count(&network, &first).await, (4, 4));
    archived(node, &aleph, &first).await;
    assert_eq!(count(&network, &second).await, (3, 1));
    let later = archived(node, &aleph, &second).await;
    assert_eq!(count(&network, &second).await, (4, 2));
    for (snapshot, n) in [(later, 3), (own, 1)] {
        aleph.json(&["volume", "restore", &second, "--snapshot", &snapshot]).await;
        assert_eq!(look(&network, &second).await.0, n, "{snapshot}");
    }

    // What a program wrote that is forgotten can be had like that, too.
    aleph.json(&["program", "delete", &first, "--yes"]).await;
    aleph.json(&restore(&second).each_ref().map(String::as_str)).await;
    assert_eq!(look(&network, &second).await.0, 2);
}
