//! Programs that are paid for by holding a token on a real chain.

use aleph_tests::{Aleph, Anvil, Network, UpOptions, eventually, folder_with, reqwest_client};
use protocol::Account;
use serde_json::{Value, json};

const HELLO: &str = "async def app(scope, receive, send):\n\
    \x20   assert scope['type'] == 'http'\n\
    \x20   await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n\
    \x20   await send({'type': 'http.response.body', 'body': b'hello'})\n";

async fn has(network: &Network, account: &str, tokens: f64) {
    let url = format!("{}/api/v0/addresses/{account}/balance", network.message_node_url);
    eventually("the balance is known", async || {
        let balance: Value = reqwest_client().get(&url).send().await.ok()?.json().await.ok()?;
        (balance["balance"] == json!(tokens)).then_some(())
    })
    .await;
}

async fn answers(network: &Network, program: &str) {
    eventually("the program answers", async || {
        let response = reqwest_client().get(network.program_url(program)).send().await.ok()?;
        (response.status() == 200 && response.text().await.ok()? == "hello").then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_has_1999_tokens_is_refused_and_who_sells_one_of_2000_is_stopped_until_it_buys() {
    let chain = Anvil::start().await;
    let token = ["--token-rpc", &chain.url, "--token-contract", &chain.token, "--token-confirmations", "1"];
    let terms = ["--token-interval", "500ms", "--grace", "10s"];
    let network = Network::up(UpOptions::new(1, &[&token[..], &terms].concat())).await;
    let aleph = Aleph::of(&network);
    let account = Account::from_file(&network.account_key).unwrap().address().canonical();
    chain.sells(&account, 1999).await;

    has(&network, &account, 1999.0).await;
    let folder = folder_with("main.py", HELLO);
    let path = folder.path().to_str().unwrap();
    let error = aleph.error(&["program", "upload", "--persistent", path, "main:app"]).await;
    assert_eq!(error["code"], "insufficient_balance", "{error}");

    chain.sells(&account, 1).await;
    has(&network, &account, 2000.0).await;
    let program = aleph.upload(folder.path(), "main:app", &["--persistent"]).await;
    answers(&network, &program).await;

    chain.buys(&account, 1).await;
    let removing = eventually("it is not covered", async || {
        Some(aleph.find(&program).await).filter(|found| found["message_status"] == "removing")
    })
    .await;
    assert!(removing["removal_at"].as_str().is_some_and(|at| at.starts_with("20")), "{removing}");
    let list = aleph.json(&["program", "list"]).await;
    assert_eq!(list[0]["removal_at"], removing["removal_at"], "{list}");
    assert_eq!(network.nodes_with(&program).await.len(), 1, "it runs until its time is over");
    network.until_gone(&program).await;
    let found = aleph.find(&program).await;
    assert_eq!((&found["message_status"], found["kept_until"].is_string()), (&json!("removed"), true), "{found}");
    eventually("its URL says so", async || {
        let stopped = reqwest_client().get(network.program_url(&program)).send().await.ok()?;
        (stopped.status() == 410).then_some(())
    })
    .await;

    chain.sells(&account, 1).await;
    answers(&network, &program).await;
    let found = aleph.find(&program).await;
    assert_eq!((&found["message_status"], &found["epoch"]), (&json!("processed"), &json!(2)), "{found}");
    assert_eq!(found.get("removal_at"), None);
}
