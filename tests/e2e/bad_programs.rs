//! Programs that do not work: their owner learns why, nobody else notices.

use aleph_tests::{Publisher, eventually, folder_with, reqwest_client};
use serde_json::Value;

use crate::shared::{aleph, network};

const WELL: &str = "async def app(scope, receive, send):\n\
    \x20   assert scope['type'] == 'http'\n\
    \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
    \x20   await send({'type': 'http.response.body', 'body': b'well'})\n";

/// Uploads a persistent program that must fail, and says what its owner is told.
async fn failing(file: &str, text: &str, entrypoint: &str, options: &[&str]) -> (String, Value) {
    let aleph = aleph().await;
    let folder = folder_with(file, text);
    let path = folder.path().to_str().unwrap();
    let arguments = [&["program", "upload", "--persistent", path, entrypoint], options].concat();
    let error = aleph.error(&arguments).await;
    let programs = aleph.json(&["program", "list"]).await;
    let name = folder.path().file_name().unwrap().to_str().unwrap();
    let mine = programs.as_array().unwrap().iter().find(|program| program["name"] == name);
    let program =
        mine.unwrap_or_else(|| panic!("no program {name}: {error}"))["item_hash"].as_str().unwrap().to_owned();
    // The client gave up on the first failure; the node goes on trying, so the state may be any moment of that.
    let found = eventually("the failure is seen", async || {
        let found = aleph.find(&program).await;
        (found["state"] == "failing").then_some(found)
    })
    .await;
    (program, found)
}

async fn clear(program: &str) {
    aleph().await.json(&["program", "delete", program, "--yes"]).await;
    network().await.until_gone(program).await;
}

#[tokio::test]
async fn a_module_that_raises_shows_its_traceback_to_its_owner() {
    let text = "def deep():\n    raise KeyError('configuration')\ndeep()\n";
    let (program, found) = failing("main.py", text, "main:app", &[]).await;
    assert_eq!(found["failure"]["kind"], "startup_error");
    assert!(found["failure"]["message"].as_str().unwrap().contains("KeyError: 'configuration'"), "{found}");
    let logs = aleph().await.logs(&program).await;
    assert!(logs.contains("in deep") && logs.contains("KeyError"), "{logs}");
    // Whoever asks the program is told that it failed, not how.
    let answer = reqwest_client().get(network().await.program_url(&program)).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let text = answer.text().await.unwrap();
    assert!(text.contains("failed while starting") && !text.contains("configuration"), "{text}");
    clear(&program).await;
}

#[tokio::test]
async fn entrypoints_that_are_not_there_are_named() {
    let (program, found) = failing("main.py", "application = 1\n", "main:app", &[]).await;
    assert_eq!(found["failure"]["kind"], "bad_entrypoint");
    assert!(found["failure"]["message"].as_str().unwrap().contains("no attribute 'app'"), "{found}");
    clear(&program).await;
}

#[tokio::test]
async fn programs_that_exit_are_started_again_ever_more_slowly() {
    let (program, found) = failing(
        "run",
        "#!/bin/sh\necho giving up >&2\nexit 3\n",
        "run",
        &["--interface", "binary", "--runtime", "python3"],
    )
    .await;
    assert_eq!(found["failure"]["kind"], "exited");
    assert!(found["failure"]["message"].as_str().unwrap().contains('3'), "{found}");
    eventually("it was started again", async || {
        let restarts = aleph().await.find(&program).await["restarts"].as_u64().unwrap();
        (restarts >= 2).then_some(())
    })
    .await;
    assert!(aleph().await.logs(&program).await.contains("giving up"));
    clear(&program).await;
}

#[tokio::test]
async fn programs_that_never_answer_are_given_up() {
    let options = ["--interface", "binary", "--runtime", "python3", "--wait-seconds", "60"];
    let (program, found) = failing("run", "#!/bin/sh\nexec sleep 1000\n", "run", &options).await;
    assert_eq!(found["failure"]["kind"], "never_ready");
    assert!(found["failure"]["message"].as_str().unwrap().contains("10 s"), "{found}");
    clear(&program).await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_called_by_its_name() {
    let text = "data = bytearray(500 << 20)\n".to_owned() + WELL;
    let (program, found) = failing("main.py", &text, "main:app", &[]).await;
    assert_eq!(found["failure"]["kind"], "out_of_memory");
    clear(&program).await;
}

/// Forks as long as it may.
const FORKS: &str = "import os, threading, time\n\
    def forks():\n\
    \x20   while True:\n\
    \x20       try:\n\
    \x20           if os.fork() == 0:\n\
    \x20               time.sleep(1000)\n\
    \x20       except OSError as e:\n\
    \x20           print('forks:', e, flush=True)\n\
    \x20           time.sleep(0.5)\n\
    threading.Thread(target=forks, daemon=True).start()\n";

/// Writes as long as it may.
const WRITES: &str = "try:\n\
    \x20   with open('/tmp/all', 'wb') as f:\n\
    \x20       while True:\n\
    \x20           f.write(b'x' * 65536)\n\
    except OSError as e:\n\
    \x20   print('disk:', e, flush=True)\n";

#[tokio::test]
async fn forks_and_writes_without_end_hurt_only_the_program_itself() {
    let (network, aleph) = (network().await, aleph().await);
    let well = folder_with("main.py", WELL);
    let well = aleph.upload(well.path(), "main:app", &["--persistent"]).await;
    for (bomb, memory, complaint) in
        [(FORKS, "1GiB", "Resource temporarily unavailable"), (WRITES, "128", "No space left on device")]
    {
        let folder = folder_with("main.py", &(bomb.to_owned() + WELL));
        let bomb = aleph.upload(folder.path(), "main:app", &["--memory", memory]).await;
        eventually("it reached its limit", async || {
            // It may answer or not; that is its own affair. Unused it would go before its time.
            let _ = reqwest_client().get(network.program_url(&bomb)).send().await;
            aleph.logs(&bomb).await.contains(complaint).then_some(())
        })
        .await;
        for _ in 0..20 {
            let answer = reqwest_client().get(network.program_url(&well)).send().await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "well"));
        }
        clear(&bomb).await;
    }
    assert_eq!(aleph.find(&well).await["restarts"], 0);
    clear(&well).await;
}

#[tokio::test]
async fn a_runtime_that_is_no_image_is_refused_by_name() {
    let runtime = Publisher::of(network().await).file("this is a text, not a file system").await;
    let (program, found) = failing("main.py", WELL, "main:app", &["--runtime", &runtime]).await;
    assert_eq!(found["failure"]["kind"], "bad_runtime");
    assert!(found["failure"]["message"].as_str().unwrap().contains("squashfs"), "{found}");
    clear(&program).await;
}

#[tokio::test]
async fn more_than_any_node_has_is_unplaceable_and_says_so() {
    let (network, aleph) = (network().await, aleph().await);
    let folder = folder_with("main.py", WELL);
    let path = folder.path().to_str().unwrap();
    let arguments = ["program", "upload", "--persistent", "--no-wait", "--memory", "900GiB", path, "main:app"];
    let program = aleph.json(&arguments).await["item_hash"].as_str().unwrap().to_owned();
    let found = eventually("it is unplaced", async || {
        let found = aleph.find(&program).await;
        (found["state"] == "unplaced").then_some(found)
    })
    .await;
    assert!(found["reason"].as_str().unwrap().contains("no node fits"), "{found}");
    let answer = reqwest_client().get(network.program_url(&program)).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.text().await.unwrap().contains("no node fits"));
    clear(&program).await;
}
