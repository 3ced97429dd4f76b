//! A node whose disk is too small for what it is asked to run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aleph_tests::{Aleph, Network, Publisher, UpOptions, eventually, repository, reqwest_client, within};
use protocol::FileHash;
use serde_json::{Value, json};

const WELL: &str = "async def app(scope, receive, send):\n\
    \x20   assert scope['type'] == 'http'\n\
    \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
    \x20   await send({'type': 'http.response.body', 'body': b'well'})\n";

/// A folder as a process sees it, whatever is mounted there for it only.
fn seen_by(pid: i32, folder: &Path) -> PathBuf {
    Path::new(&format!("/proc/{pid}/root")).join(folder.strip_prefix("/").unwrap())
}

/// Whether gateways ask this node first to run a program on demand: they order nodes by a hash of both.
fn is_first(node: &str, other: &str, program: &str) -> bool {
    let bytes = |hex: &str| hex.parse::<FileHash>().unwrap().as_bytes().to_vec();
    let order = |node: &str| FileHash::of(&[bytes(node), bytes(program)].concat()).to_string();
    order(node) < order(other)
}

#[tokio::test]
async fn what_does_not_fit_on_a_nodes_disk_runs_elsewhere_and_hurts_nobody() {
    // Smaller than the image of the Python runtime. The node offers the disk below it, and learns better.
    let prepare = "mkdir -p $ROOT/nodes/1; mount -t tmpfs -o size=40m small-disk $ROOT/nodes/1".to_owned();
    let network = Network::up(UpOptions { prepare: Some(prepare), ..UpOptions::new(2, &[]) }).await;
    let (aleph, publisher) = (Aleph::of(&network), Publisher::of(&network));
    let [small, large] = &network.compute_nodes[..] else { panic!("two nodes") };
    let (python, minimal) = (network.runtime("python3").await, network.runtime("minimal").await);
    let binary =
        publisher.file(std::fs::read(repository("target/examples/static-server/static-server")).unwrap()).await;
    let module = publisher.file(WELL).await;
    let on_small = |name: &str| {
        json!({
            "code": { "entrypoint": "static-server" }, "metadata": { "name": name },
            "on": { "persistent": true }, "requirements": { "node": { "node_hash": small.id } },
        })
    };
    let ready = async |program: &str| {
        eventually("it runs", async || {
            let found = aleph.find(program).await;
            (found["state"] == "ready").then_some(found)
        })
        .await
    };
    let get = async |program: &str| {
        let answer = reqwest_client().get(network.program_url(program)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };

    // What fits runs there.
    let resident = publisher.program(&binary, &minimal, on_small("resident")).await;
    ready(&resident).await;
    let residents = small.supervisors();

    // Nodes are filled up one after the other, so the next one goes there, too. It fails, and that is the node's fault.
    let program = publisher.program(&module, &python, json!({ "on": { "persistent": true } })).await;
    let found = eventually("it does not fit", async || {
        let found = aleph.find(&program).await;
        assert_ne!(found["state"], "ready", "it cannot run there: {found}");
        (found["state"] == "failing").then_some(found)
    })
    .await;
    assert_eq!((&found["node_url"], &found["epoch"]), (&json!(small.url), &json!(1)));
    assert_eq!(found["failure"]["kind"], "node_fault");
    let message = found["failure"]["message"].as_str().unwrap();
    assert!(message.contains("runtime") && message.contains("disk is full"), "{message}");

    // Others do not notice: who is there answers, and who comes starts, while it is tried again and again.
    let newcomer = publisher.program(&binary, &minimal, on_small("newcomer")).await;
    ready(&newcomer).await;
    let moved = within(Duration::from_secs(120), "it runs on the other node", async || {
        assert_eq!(get(&resident).await.0, 200);
        assert_eq!(get(&newcomer).await.0, 200);
        let found = aleph.find(&program).await;
        (found["state"] == "ready").then_some(found)
    })
    .await;
    assert_eq!((&moved["node_url"], &moved["epoch"]), (&json!(large.url), &json!(2)));
    assert_eq!(get(&program).await, (200, "well".to_owned()));

    // On demand: the node that would be asked first cannot, so another one does.
    let mut number = 0;
    let (on_demand, answer) = loop {
        let changes = json!({ "metadata": { "name": format!("on-demand-{number}") } });
        let program = publisher.program(&module, &python, changes).await;
        let answer = get(&program).await;
        assert_eq!(answer, (200, "well".to_owned()), "{program}");
        number += 1;
        if is_first(&small.id, &large.id, &program) {
            break (program, answer);
        }
    };
    assert_eq!(answer.0, 200);
    assert_eq!(network.nodes_with(&on_demand).await, [large.url.as_str()]);

    // Nothing was lost or left: the resident is the same process as ever, and no half of a file takes room.
    let found = aleph.find(&resident).await;
    assert_eq!((&found["epoch"], &found["restarts"]), (&json!(1), &json!(0)));
    assert!(residents.iter().all(|pid| small.supervisors().contains(pid)));
    let files = seen_by(small.pid, &small.data_dir).join("cache/files");
    let files: Vec<_> = std::fs::read_dir(files).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(files.iter().all(|name| name.to_str().unwrap().parse::<FileHash>().is_ok()), "{files:?}");
    let health: Value =
        reqwest_client().get(format!("{}/health", small.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(health["status"], "ok");
}

#[tokio::test]
async fn what_nobody_uses_makes_room_on_a_full_disk() {
    // Room for one image of the Python runtime, not for two.
    let prepare = "mkdir -p $ROOT/nodes/1; mount -t tmpfs -o size=110m small-disk $ROOT/nodes/1".to_owned();
    let options = UpOptions::new(1, &["--balance", "1000000", "--idle-after", "1s"]);
    let network = Network::up(UpOptions { prepare: Some(prepare), ..options }).await;
    let publisher = Publisher::of(&network);
    // Another file with the same file system in it.
    let mut image = std::fs::read(repository("target/runtimes/python3.squashfs")).unwrap();
    image.extend([0; 4096]);
    let runtimes = [network.runtime("python3").await, publisher.file(image).await];
    let module = publisher.file(WELL).await;
    let mut programs = Vec::new();
    for runtime in &runtimes {
        programs.push(publisher.program(&module, runtime, json!({})).await);
    }
    // There and back again: what was evicted is fetched and mounted anew.
    for program in [&programs[0], &programs[1], &programs[0]] {
        let answer = reqwest_client().get(network.program_url(program)).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "well"));
        network.until_gone(program).await;
    }
}
