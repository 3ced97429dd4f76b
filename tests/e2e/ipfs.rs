//! Programs made of files that are called by a CID run.

use std::path::Path;

use aleph_tests::{Publisher, folder_with, noise, repository, reqwest_client};
use serde_json::json;

use crate::shared::{aleph, network};

const READER: &str = "async def app(scope, receive, send):\n\
    \x20   assert scope['type'] == 'http'\n\
    \x20   body = b' '.join(open(path, 'rb').read() for path in ('/opt/code/word', '/opt/packages/word'))\n\
    \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
    \x20   await send({'type': 'http.response.body', 'body': body})\n";

/// The bytes of a program's code, as our client packs it.
async fn packed(folder: &Path) -> Vec<u8> {
    let program = aleph().await.upload(folder, "main:app", &["--no-wait"]).await;
    let network = network().await;
    let message = network.message(&program).await;
    let code = message["message"]["content"]["code"]["ref"].as_str().unwrap();
    let store = network.get(&format!("/api/v0/storage/by-message-hash/{code}")).await;
    let url = format!("{}{}", network.message_node_url, store["download_url"].as_str().unwrap());
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
