//! Ephemeral volumes: of their size, empty at each start, gone with their sandbox.

use std::fs;
use std::path::Path;

use aleph_tests::{Aleph, Network, UpOptions, eventually, folder_with, reqwest_client, signal};
use rustix::process::Signal;
use serde_json::Value;

/// Says what it found in its volume when it started, and fills it.
const FILLER: &str = r#"
import errno, json, os

found = os.listdir("/scratch/deep")

def write():
    open("/scratch/deep/left", "w").write("here")

def fill():
    written = 0
    try:
        with open("/scratch/deep/fill", "wb", 0) as file:
            while written < 200 << 20:
                written += file.write(os.urandom(1 << 20))
    except OSError as error:
        return [errno.errorcode[error.errno], written >> 20]
    return ["no limit", written >> 20]

async def app(scope, receive, send):
    assert scope["type"] == "http"
    said = {"/fill": fill, "/write": write}.get(scope["path"], lambda: None)()
    body = json.dumps({"found": found, "there": os.listdir("/scratch/deep"), "said": said}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"#;

/// Asks a program of which a copy has just died: who asks meanwhile may be told so.
async fn ask_after_death(network: &Network, program: &str, path: &str) -> Value {
    let url = format!("{}{path}", network.program_url(program));
    eventually("another copy answers", async || {
        let answer = reqwest_client().get(&url).send().await.ok()?;
        if answer.status() != 200 {
            return None;
        }
        answer.json().await.ok()
    })
    .await
}

async fn ask(network: &Network, program: &str, path: &str) -> Value {
    let answer = reqwest_client().get(format!("{}{path}", network.program_url(program))).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    answer.json().await.unwrap()
}

/// The loop devices whose file is, or was, below this directory.
fn devices_below(directory: &Path) -> usize {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let file = |device: fs::DirEntry| fs::read_to_string(device.path().join("loop/backing_file")).ok();
    devices.filter_map(file).filter(|file| Path::new(file).starts_with(directory)).count()
}

#[tokio::test]
async fn they_are_of_their_size_and_empty_at_each_start() {
    let network = Network::up(UpOptions::new(1, &["--idle-after", "2s"])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", FILLER);
    let node = &network.compute_nodes[0];
    let taken_in = node.data_dir.join("ephemeral");
    let nothing_left = async || {
        eventually("its room is given back", async || (devices_below(&taken_in) == 0).then_some(())).await;
        assert_eq!(fs::read_dir(&taken_in).unwrap().count(), 0, "no file has a name");
    };
    // One in the other, on a node without a pool.
    let volumes =
        ["--ephemeral-volume", "mount=/scratch,size_mib=5", "--ephemeral-volume", "mount=/scratch/deep,size_mib=40"];
    for options in [&["--persistent"][..], &[]] {
        let program = aleph.upload(folder.path(), "main:app", &[&volumes[..], options].concat()).await;
        assert_eq!(ask(&network, &program, "/write").await["there"], serde_json::json!(["left"]));
        assert_eq!(devices_below(&taken_in), 2);
        let filled = ask(&network, &program, "/fill").await;
        let (error, mib) = (&filled["said"][0], filled["said"][1].as_u64().unwrap());
        assert!(error == "ENOSPC" && (30..=40).contains(&mib), "{filled}");

        // The sandbox dies, in the worst way.
        let sandboxes = node.supervisors();
        sandboxes.iter().for_each(|pid| signal(*pid, Signal::KILL));
        let gone = async || (!node.supervisors().contains(&sandboxes[0])).then_some(());
        eventually("the sandbox is gone", gone).await;
        if options.is_empty() {
            network.until_gone(&program).await;
            nothing_left().await;
        }
        let again = ask_after_death(&network, &program, "/").await;
        assert_eq!((&again["found"], &again["there"]), (&serde_json::json!([]), &serde_json::json!([])));
        aleph.json(&["program", "delete", &program, "--yes"]).await;
        network.until_gone(&program).await;
        nothing_left().await;
    }
}

#[tokio::test]
async fn a_program_that_asks_for_too_much_is_refused() {
    let network = Network::up(UpOptions::new(1, &[])).await;
    let aleph = Aleph::of(&network);
    let folder = folder_with("main.py", FILLER);
    let volumes: Vec<_> = (0..11).map(|n| format!("mount=/scratch/{n},size_mib=1000")).collect();
    let options: Vec<_> =
        volumes.iter().flat_map(|volume| ["--ephemeral-volume", volume]).chain(["--no-wait"]).collect();
    let program = aleph.upload(folder.path(), "main:app", &options).await;
    let answer = reqwest_client().get(network.program_url(&program)).send().await.unwrap();
    assert!(answer.status().is_server_error());
    let text = answer.text().await.unwrap();
    assert!(text.contains("something that is not offered"), "{text}");
    // What exactly is for its owner.
    let log = aleph.run(&["program", "logs", &program]).await;
    assert!(format!("{log:?}").contains("more than 10000 MiB of ephemeral volumes"), "{log:?}");
}
