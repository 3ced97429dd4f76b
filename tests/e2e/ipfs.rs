//! Files that are called by a CID: programs made of them run, and the unmodified Python client uploads large files so.

use std::path::{Path, PathBuf};

use aleph_tests::{Finished, Publisher, folder_with, repository, reqwest_client};
use protocol::FileNames;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::shared::{aleph, network};

const READER: &str = "async def app(scope, receive, send):\n\
    \x20   assert scope['type'] == 'http'\n\
    \x20   body = b' '.join(open(path, 'rb').read() for path in ('/opt/code/word', '/opt/packages/word'))\n\
    \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
    \x20   await send({'type': 'http.response.body', 'body': body})\n";

/// Bytes that no packer makes shorter.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

async fn get(url: &str) -> Value {
    reqwest_client().get(url).send().await.unwrap().json().await.unwrap()
}

/// The bytes of a program's code, as our client packs it.
async fn packed(folder: &Path) -> Vec<u8> {
    let program = aleph().await.upload(folder, "main:app", &["--no-wait"]).await;
    let node = &network().await.message_node_url;
    let message = get(&format!("{node}/api/v0/messages/{program}")).await;
    let code = message["message"]["content"]["code"]["ref"].as_str().unwrap();
    let store = get(&format!("{node}/api/v0/storage/by-message-hash/{code}")).await;
    let url = format!("{node}{}", store["download_url"].as_str().unwrap());
    reqwest_client().get(url).send().await.unwrap().bytes().await.unwrap().into()
}

#[tokio::test]
async fn code_and_volumes_by_their_cids_run() {
    let publisher = Publisher::of(network().await);
    let folder = folder_with("main.py", READER);
    std::fs::write(folder.path().join("word"), "hello").unwrap();
    std::fs::write(folder.path().join("noise"), noise(1 << 20)).unwrap();
    let image = packed(folder.path()).await;
    assert!(image.starts_with(b"hsqs") && image.len() > 1 << 20, "an image of several blocks");
    let code = publisher.ipfs_file(image).await;
    let runtime = network().await.runtime("python3").await;
    let changes = json!({
        "code": { "encoding": "squashfs" },
        "volumes": [{ "ref": code, "mount": "/opt/packages", "use_latest": false }],
    });
    let program = publisher.program(&code, &runtime, changes).await;
    let answer = reqwest_client().get(network().await.program_url(&program)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "hello hello"));
}

#[tokio::test]
async fn a_runtime_by_its_cid_runs() {
    let publisher = Publisher::of(network().await);
    let read = |path| std::fs::read(repository(path)).unwrap();
    let runtime = publisher.ipfs_file(read("target/runtimes/minimal.squashfs")).await;
    let code = publisher.ipfs_file(read("target/examples/static-server/static-server")).await;
    let program = publisher.program(&code, &runtime, json!({ "code": { "entrypoint": "static-server" } })).await;
    let answer = reqwest_client().get(network().await.program_url(&program)).send().await.unwrap();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    assert!(status == 200 && text.contains("rust"), "{status} {text}");
}

/// The client of the network that others know, `aleph-client` from PyPI, with an account of its own.
struct PythonClient {
    home: tempfile::TempDir,
}

impl PythonClient {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs a command in its folder.
    async fn run(&self, arguments: &[&str]) -> Finished {
        let secret = protocol::Account::from_file(&network().await.account_key).unwrap().secret();
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let output = Command::new(repository("target/tools/aleph-client").join("bin/aleph"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("COLUMNS", "400")
            .env("ALEPH_API_HOST", &network().await.message_node_url)
            .env("ALEPH_CONFIG_HOME", self.home.path())
            .env("ALEPH_PRIVATE_KEY_STRING", secret)
            .current_dir(self.home.path())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Finished { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs a command that must succeed; gives what it printed.
    async fn succeed(&self, arguments: &[&str]) -> String {
        let finished = self.run(arguments).await;
        assert_eq!(finished.code, 0, "{arguments:?}: {} {}", finished.stdout, finished.stderr);
        finished.stdout
    }
}

#[tokio::test]
async fn the_python_client_uploads_lists_downloads_and_forgets_a_large_file() {
    let (client, content) = (PythonClient::new(), noise(5 << 20));
    let cid = FileNames::of(&content).v0.to_string();
    std::fs::write(client.path("large.bin"), &content).unwrap();
    let uploaded = client.succeed(&["file", "upload", "large.bin"]).await;
    assert!(uploaded.contains(&cid), "{uploaded}");

    let node = &network().await.message_node_url;
    let account = protocol::Account::from_file(&network().await.account_key).unwrap();
    let files = get(&format!("{node}/api/v0/addresses/{}/files?pagination=1000", account.address())).await;
    let entry =
        files["files"].as_array().unwrap().iter().find(|file| file["file_hash"] == cid.as_str()).unwrap().clone();
    assert_eq!(entry["size"], 5 << 20, "{entry}");
    let message = entry["item_hash"].as_str().unwrap();
    let listed = client.succeed(&["file", "list"]).await;
    assert!(listed.contains(&cid), "{listed}");

    client.succeed(&["file", "download", &cid, "--file-name", "again", "--file-extension", ".bin"]).await;
    assert_eq!(std::fs::read(client.path("again.bin")).unwrap(), content);

    client.succeed(&["file", "forget", message, "--reason", "not needed any more"]).await;
    aleph_tests::eventually("it is forgotten", async || {
        let found = get(&format!("{node}/api/v0/messages/{message}")).await;
        (found["status"] == "forgotten").then_some(())
    })
    .await;
    assert_eq!(get(&format!("{node}/api/v0/storage/count/{cid}")).await, 0);
}

#[tokio::test]
async fn a_program_whose_code_is_large_is_uploaded_by_the_python_client_and_runs() {
    let (client, runtime) = (PythonClient::new(), network().await.runtime("python3").await);
    let folder = client.path("source");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("main.py"), READER.replace("/opt/packages/word", "/opt/code/word")).unwrap();
    std::fs::write(folder.join("word"), "large").unwrap();
    std::fs::write(folder.join("noise"), noise(5 << 20)).unwrap();
    let uploaded = client
        .succeed(&[
            "program",
            "upload",
            "source",
            "main:app",
            "--name",
            "large",
            "--runtime",
            &runtime,
            "--compute-units",
            "1",
            "--skip-volume",
            "--skip-env-var",
        ])
        .await;
    let node = &network().await.message_node_url;
    let programs = get(&format!("{node}/api/v0/messages.json?msgType=PROGRAM&pagination=1000")).await;
    let named = |message: &&Value| message["content"]["metadata"]["name"] == "large";
    let message = programs["messages"].as_array().unwrap().iter().find(named).unwrap();
    let program = message["item_hash"].as_str().unwrap();
    assert!(uploaded.contains(program), "{uploaded}");
    let code = message["content"]["code"]["ref"].as_str().unwrap();
    let store = get(&format!("{node}/api/v0/messages/{code}")).await;
    assert_eq!(store["message"]["content"]["item_type"], "ipfs");
    // Its smallest program has more memory than a node has here for copies on demand: the same code with less.
    let encoding = json!({ "code": { "encoding": message["content"]["code"]["encoding"] } });
    let smaller = Publisher::of(network().await).program(code, &runtime, encoding).await;
    let answer = reqwest_client().get(network().await.program_url(&smaller)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "large large"));
}
