//! Scripts that use the SDK. What it promises they check themselves; here is looked at what they leave on the network.

use aleph_tests::{Sdk, User, reqwest_client};
use serde_json::{Value, json};

use crate::shared::network;

#[tokio::test]
async fn a_script_writes_queries_watches_and_forgets_messages() {
    for sdk in [Sdk::OfTheClient, Sdk::Newest] {
        messages_with(sdk).await;
    }
}

async fn messages_with(sdk: Sdk) {
    let network = network().await;
    let (user, friend) = (User::with(network, 0).await, User::with(network, 0).await);
    let input = json!({ "friend": friend.path("private-keys/ethereum.key") });
    let left = user.python.script(sdk, "messages.py", &input).await;
    let hash = |name: &str| left[name].as_str().unwrap_or_else(|| panic!("no {name} in {left}")).to_owned();
    for (name, status) in [("post", "processed"), ("by_friend", "processed"), ("forgotten", "forgotten")] {
        assert_eq!(network.message(&hash(name)).await["status"], status, "{name}");
    }
    assert_eq!(network.message(&hash("by_friend")).await["message"]["sender"], friend.address);
    let aggregates = network.get(&format!("/api/v0/aggregates/{}.json?keys=profile", user.address)).await;
    assert_eq!(aggregates["data"]["profile"], json!({"name": "x", "n": 2}));
    // The newest version of a file, by the first one's message.
    let newest = network.get(&format!("/api/v0/storage/by-ref/{}", hash("file"))).await;
    assert_eq!(newest["file_hash"], left["revision"], "{newest}");
}

#[tokio::test]
async fn a_script_creates_programs_and_is_told_why_one_is_refused() {
    for sdk in [Sdk::OfTheClient, Sdk::Newest] {
        programs_with(sdk).await;
    }
}

async fn programs_with(sdk: Sdk) {
    let network = network().await;
    // A persistent program and one on demand.
    let user = User::with(network, 2200).await;
    let source = "async def app(scope, receive, send):\n\
        \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
        \x20   await send({'type': 'http.response.body', 'body': b'made by a script'})\n";
    let left = user.python.script(sdk, "programs.py", &json!({ "source": source, "holds": 2200 })).await;
    let program = left["program"].as_str().unwrap();
    let answer = reqwest_client().get(network.program_url(program)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "made by a script"));
    assert_eq!(network.nodes_with(program).await.len(), 1);
    for name in ["deleted", "deleted_code"] {
        assert_eq!(network.message(left[name].as_str().unwrap()).await["status"], "forgotten", "{name}");
    }
    let listed = user.aleph.json(&["program", "list"]).await;
    assert_eq!(listed.as_array().unwrap().iter().map(|p| &p["item_hash"]).collect::<Vec<&Value>>(), [program]);
    user.aleph.json(&["program", "delete", program, "--yes"]).await;
    network.until_gone(program).await;
}

/// Files are kept, not directories: an archive is what to upload instead (`docs/clients.md`).
#[tokio::test]
async fn a_folder_of_the_newest_sdk_is_refused() {
    let user = User::with(network().await, 0).await;
    let left = user.python.script(Sdk::Newest, "folders.py", &json!({})).await;
    assert_eq!(left, json!({ "status": 422 }));
}
