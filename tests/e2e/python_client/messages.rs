//! Posts and aggregates, and messages of any type found and watched.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use aleph_tests::{User, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::time::timeout;

use crate::shared::network;

/// How long a line of a running command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The next line that contains a text.
async fn line_with<R: AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>, text: &str) -> String {
    let read = async {
        loop {
            let line = lines.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("the command ended before it printed '{text}'"));
            if line.contains(text) {
                return line;
            }
        }
    };
    timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("nothing with '{text}' was printed"))
}

/// An editor for `message amend`: writes `two` where `one` was, into the same file.
fn editor(user: &User) -> String {
    let path = user.path("editor");
    std::fs::write(&path, "#!/bin/sh\nnew=$(sed s/one/two/ \"$1\")\necho \"$new\" >\"$1\"\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_post_is_written_found_amended_while_it_is_watched_and_forgotten() {
    let network = network().await;
    let user = User::with(network, 0).await;
    let document = |text: &str| json!({"text": text, "tags": ["red"]});
    std::fs::write(user.path("post.json"), document("one").to_string()).unwrap();
    let options = ["--path", "post.json", "--type", "note", "--ref", "topic", "--channel", "PYTHON"];
    let posted = user.python.json(&[&["message", "post"][..], &options].concat()).await;
    let original = posted["item_hash"].as_str().unwrap();
    network.until_status(original, "processed").await;
    let shown = async || network.get(&format!("/api/v0/posts.json?hashes={original}")).await["posts"][0].take();
    let post = shown().await;
    assert_eq!((&post["content"], &post["type"]), (&document("one"), &"note".into()));
    assert_eq!((&post["ref"], &post["channel"]), (&"topic".into(), &"PYTHON".into()));

    let got = user.python.succeed(&["--no-format", "message", "get", original]).await;
    let (status, message) = got.split_once('\n').unwrap();
    assert!(status.contains("processed"), "{status}");
    assert_eq!(serde_json::from_str::<Value>(message).unwrap()["content"]["content"], document("one"));

    let mut watching = user.python.command(&["message", "watch", original, "--debug"]);
    let mut watching = watching.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut printed = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut complaints = BufReader::new(watching.stderr.take().unwrap()).lines();
    line_with(&mut complaints, "WebSocket connected").await;
    let mut amend = user.python.command(&["message", "amend", original]);
    let amended = amend.env("EDITOR", editor(&user)).output().await.unwrap();
    assert!(amended.status.success(), "{}", String::from_utf8_lossy(&amended.stderr));
    let seen: Value = serde_json::from_str(&line_with(&mut printed, original).await).unwrap();
    watching.kill().await.unwrap();
    let amend = seen["item_hash"].as_str().unwrap();
    assert_eq!((&seen["content"]["ref"], &seen["content"]["content"]), (&original.into(), &document("two")));
    let post = shown().await;
    assert_eq!((&post["content"], &post["item_hash"]), (&document("two"), &amend.into()));

    let (hashes, address) = (format!("{original},{amend}"), user.address.as_str());
    let filters = ["--hashes", &hashes, "--message-types", "POST", "--addresses", address, "--channels", "PYTHON"];
    let by_type = ["--content-types", "amend", "--refs", original];
    let by_tag = ["--addresses", address, "--tags", "blue,red"];
    let both = vec![amend, original];
    for (filters, expected) in [(&filters[..], both.clone()), (&by_type, vec![amend]), (&by_tag, both)] {
        let found = user.python.json(&[&["--no-format", "message", "find"], filters].concat()).await;
        let found: Vec<_> = found["messages"].as_array().unwrap().iter().map(|m| &m["item_hash"]).collect();
        assert_eq!(found, expected, "{filters:?}");
    }

    user.python.succeed(&["message", "forget", original, "--reason", "over"]).await;
    network.until_status(original, "forgotten").await;
    assert_eq!(network.message(amend).await["status"], "forgotten", "its amends go with it");
    assert!(user.python.succeed(&["message", "get", original]).await.contains("has been forgotten"));
    assert!(user.python.succeed(&["message", "get", &"ab".repeat(32)]).await.contains("does not exist"));
}

#[tokio::test]
async fn an_aggregate_is_written_read_and_emptied() {
    let network = network().await;
    let user = User::with(network, 0).await;
    let until = async |expected: Value| {
        let what = format!("the aggregate is {expected}");
        eventually(&what, async || {
            let found = network.get(&format!("/api/v0/aggregates/{}.json?keys=profile", user.address)).await;
            (found["data"]["profile"] == expected).then_some(())
        })
        .await;
    };
    user.python.succeed(&["aggregate", "post", "profile", r#"{"name": "x", "n": 1}"#]).await;
    until(json!({"name": "x", "n": 1})).await;
    user.python.succeed(&["aggregate", "post", "profile", "blue", "--subkey", "colour"]).await;
    until(json!({"name": "x", "n": 1, "colour": "blue"})).await;

    let some = user.python.json(&["aggregate", "get", "profile", "--subkeys", "n,colour"]).await;
    assert_eq!(some, json!({"n": 1, "colour": "blue"}));
    let all = user.python.json(&["aggregate", "list", "--json"]).await;
    assert_eq!(all, json!({"profile": {"name": "x", "n": 1, "colour": "blue"}}));

    // It forgets by writing nothing over it.
    user.python.succeed(&["aggregate", "forget", "profile", "--subkeys", "n"]).await;
    until(json!({"name": "x", "n": null, "colour": "blue"})).await;
    user.python.succeed(&["aggregate", "forget", "profile"]).await;
    until(json!({"name": null, "n": null, "colour": null})).await;
}
