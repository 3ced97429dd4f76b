//! Files: the client sends those above 4 MiB by their CID, smaller ones by their SHA-256.

use aleph_tests::{User, noise};
use protocol::{FileHash, FileNames};
use serde_json::Value;

use crate::shared::network;

/// Uploads, lists, downloads and forgets a file whose name on the network is `name`. `item_type` is how it is sent.
async fn a_files_life(length: usize, name: impl FnOnce(&[u8]) -> String, item_type: &str) {
    let (network, content) = (network().await, noise(length));
    let (user, name) = (User::with(network, 0).await, name(&content));
    std::fs::write(user.path("file.bin"), &content).unwrap();
    let uploaded = user.python.json(&["file", "upload", "file.bin", "--metadata", "kind=noise"]).await;
    let message = uploaded["item_hash"].as_str().unwrap();
    network.until_status(message, "processed").await;
    let stored = &network.message(message).await["message"]["content"];
    assert_eq!((&stored["item_type"], &stored["item_hash"]), (&item_type.into(), &name.clone().into()));
    assert_eq!(stored["metadata"]["kind"], "noise");

    let listed = user.python.json(&["file", "list", "--json"]).await;
    let files = listed["files"].as_array().unwrap();
    assert_eq!((files.len(), &files[0]["item_hash"]), (1, &message.into()), "{listed}");
    assert_eq!((&files[0]["file_hash"], &files[0]["size"]), (&name.clone().into(), &length.into()));

    user.python.succeed(&["file", "download", &name, "--file-name", "again", "--file-extension", ".bin"]).await;
    assert!(std::fs::read(user.path("again.bin")).unwrap() == content, "what is downloaded is what was uploaded");

    user.python.succeed(&["file", "forget", message, "--reason", "not needed any more"]).await;
    network.until_status(message, "forgotten").await;
    let by = network.message(message).await["forgotten_by"][0].as_str().unwrap().to_owned();
    assert_eq!(network.message(&by).await["message"]["content"]["reason"], "not needed any more");
    let listed = user.python.json(&["file", "list", "--json"]).await;
    assert_eq!((&listed["files"], &listed["total_size"]), (&Value::Array(Vec::new()), &0.into()));
}

#[tokio::test]
async fn a_small_file_is_uploaded_listed_downloaded_and_forgotten() {
    a_files_life(1 << 20, |content| FileHash::of(content).to_string(), "storage").await;
}

#[tokio::test]
async fn a_large_file_is_uploaded_listed_downloaded_and_forgotten() {
    a_files_life(5 << 20, |content| FileNames::of(content).v0.to_string(), "ipfs").await;
}
