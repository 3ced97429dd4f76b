//! A message node whose file store is damaged: what it sends is checked, and nothing of it runs.

use aleph_tests::{Aleph, Network, Publisher, UpOptions, eventually, reqwest_client};
use serde_json::json;

const WELL: &[u8] = b"async def app(scope, receive, send):\n\
    \x20   assert scope['type'] == 'http'\n\
    \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
    \x20   await send({'type': 'http.response.body', 'body': b'the right bytes'})\n";

/// The same length, so that only the hash can tell.
fn damaged() -> Vec<u8> {
    let text = String::from_utf8(WELL.to_vec()).unwrap().replace("the right bytes", "the wrong bytes");
    assert_eq!(text.len(), WELL.len());
    text.into_bytes()
}

#[tokio::test]
async fn files_with_wrong_bytes_never_run_and_right_ones_do() {
    let network = Network::up(UpOptions::new(1, &[])).await;
    let (aleph, publisher, runtime) = (Aleph::of(&network), Publisher::of(&network), network.runtime("python3").await);
    let code = publisher.file(WELL).await;
    // The same bytes by their CID are the same file, and checked as well.
    let code_by_cid = publisher.ipfs_file(WELL).await;
    let stored = network.stored_file(WELL);
    assert_eq!(std::fs::read(&stored).unwrap(), WELL);
    std::fs::write(&stored, damaged()).unwrap();

    let persistent = publisher.program(&code, &runtime, json!({ "on": { "persistent": true } })).await;
    let found = eventually("the node refuses the bytes", async || {
        let found = aleph.find(&persistent).await;
        (found["state"] == "failing").then_some(found)
    })
    .await;
    // The client never says "ready", and says what is wrong with what: the file and both hashes.
    let message = found["failure"]["message"].as_str().unwrap();
    assert_eq!(found["failure"]["kind"], "unavailable");
    let [right, wrong] = [WELL, &damaged()].map(|bytes| protocol::FileHash::of(bytes).to_string());
    assert!(message.contains("other bytes") && message.contains(&right) && message.contains(&wrong), "{message}");
    assert!(aleph.logs(&persistent).await.contains("other bytes"), "its owner can read it later, too");

    // On demand: whoever asks is told that it cannot be fetched.
    let on_demand = publisher.program(&code, &runtime, json!({})).await;
    let answer = reqwest_client().get(network.program_url(&on_demand)).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.text().await.unwrap().contains("cannot be fetched"));

    let by_cid = publisher.program(&code_by_cid, &runtime, json!({})).await;
    let answer = reqwest_client().get(network.program_url(&by_cid)).send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert!(answer.text().await.unwrap().contains("cannot be fetched"));
    let [right_cid, wrong_cid] = [WELL, &damaged()].map(|bytes| protocol::FileNames::of(bytes).v0.to_string());
    let words = ["other bytes", &right_cid, &wrong_cid];
    eventually("its owner can read why", async || {
        let logs = aleph.logs(&by_cid).await;
        words.iter().all(|word| logs.contains(word)).then_some(())
    })
    .await;

    // It is tried again, and again nothing starts.
    eventually("it was tried again", async || {
        (aleph.find(&persistent).await["restarts"].as_u64().unwrap() >= 2).then_some(())
    })
    .await;
    let node = &network.compute_nodes[0];
    assert!(node.all_supervisors().is_empty(), "no sandbox was made");
    assert!(!aleph.logs(&persistent).await.contains("starting"), "no sandbox was ever made");
    let kept = std::fs::read_dir(node.data_dir.join("cache/files")).unwrap();
    let kept: Vec<_> = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let none_of = [&right, &wrong, &right_cid, &wrong_cid];
    assert!(!none_of.into_iter().any(|name| kept.contains(name)), "nothing of it is kept: {kept:?}");

    // The right bytes are back.
    std::fs::write(&stored, WELL).unwrap();
    eventually("it runs", async || (aleph.find(&persistent).await["state"] == "ready").then_some(())).await;
    for program in [&persistent, &on_demand, &by_cid] {
        let text = eventually("it answers", async || {
            let answer = reqwest_client().get(network.program_url(program)).send().await.unwrap();
            if answer.status() == 200 { answer.text().await.ok() } else { None }
        })
        .await;
        assert_eq!(text, "the right bytes");
    }
}
