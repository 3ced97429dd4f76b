//! The user's tutorial, word by word.

use aleph_tests::{Aleph, Network, UpOptions, repository, reqwest_client};

/// An account that holds exactly what the tutorial asks for.
#[tokio::test]
async fn the_tutorial_works_as_written() {
    let options = UpOptions::new(2, &["--balance", "2000"]);
    let network = Network::up(options).await;
    let aleph = Aleph::of(&network);
    let balance = aleph.json(&["account", "balance"]).await;
    assert_eq!(balance["balance"].to_string().trim_matches('"').parse::<f64>().unwrap(), 2000.0);

    let output = aleph
        .command(&["program", "upload", "--persistent", "./src/", "main:app"])
        .current_dir(repository("examples/fastapi"))
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();

    let programs = aleph.json(&["program", "list"]).await;
    let message_id = programs[0]["item_hash"].as_str().unwrap();
    let found = aleph.find(message_id).await;
    assert_eq!((&found["state"], &found["epoch"]), (&"ready".into(), &1.into()));
    let (url, node) = (found["url"].as_str().unwrap(), found["node_url"].as_str().unwrap());
    assert!(printed.contains(message_id) && printed.contains(url) && printed.contains(node), "{printed}");

    let answer: serde_json::Value =
        reqwest_client().get(network.program_url(message_id)).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer, serde_json::json!({ "message": "Hello World" }));
    assert_eq!(network.nodes_with(message_id).await, [node]);

    // A second one is more than the account can pay for, and says so.
    let error = aleph.error(&["program", "upload", "--persistent", &source(), "main:app"]).await;
    assert_eq!(error["code"], "insufficient_balance");
    assert_eq!((&error["details"]["required"], &error["details"]["available"]), (&"2000".into(), &"0".into()));

    let finished = aleph.run(&["unpersist", message_id]).await;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    network.until_gone(message_id).await;
    let gone = aleph.find(message_id).await;
    assert_eq!(gone["message_status"], "forgotten");
    let answer = reqwest_client().get(network.program_url(message_id)).send().await.unwrap();
    assert_eq!(answer.status(), 410);

    // What is left of it runs on demand, and persisting it again makes it run always.
    let on_demand = aleph.json(&["program", "list"]).await[0]["item_hash"].as_str().unwrap().to_owned();
    assert_eq!(reqwest_client().get(network.program_url(&on_demand)).send().await.unwrap().status(), 200);
    let again = aleph.json(&["persist", &on_demand]).await;
    assert_eq!((&again["state"], &again["epoch"]), (&"ready".into(), &1.into()));
}

fn source() -> String {
    repository("examples/fastapi/src").display().to_string()
}
