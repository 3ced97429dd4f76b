//! What the node says about the network and about itself.

use protocol::Account;
use protocol::network::{
    CORECHANNEL_ADDRESS, CORECHANNEL_KEY, CoreChannel, NODE_OPERATION_POST, NetworkSettings, NodeOperation,
    PRICING_KEY, SETTINGS_ADDRESS, SETTINGS_KEY, VM_IMAGES_KEY, VmImages,
};
use serde_json::{Value, json};

use crate::support::*;

async fn pricing(node: &TestNode) -> Value {
    node.client.aggregate(SETTINGS_ADDRESS, PRICING_KEY).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_new_network_has_prices_settings_images_and_no_nodes() {
    let node = TestNode::start().await;
    assert_eq!(pricing(&node).await["program_persistent"]["price"]["compute_unit"]["holding"], "2000");
    let settings: NetworkSettings = node.client.aggregate(SETTINGS_ADDRESS, SETTINGS_KEY).await.unwrap().unwrap();
    assert!(settings.scheduler_urls.is_empty());
    let images: VmImages = node.client.aggregate(SETTINGS_ADDRESS, VM_IMAGES_KEY).await.unwrap().unwrap();
    assert!(images.runtimes.is_empty());
    let nodes: CoreChannel = node.client.aggregate(CORECHANNEL_ADDRESS, CORECHANNEL_KEY).await.unwrap().unwrap();
    assert!(nodes.resource_nodes.is_empty());
    let (_, all) = node.json(&format!("/api/v0/aggregates/{SETTINGS_ADDRESS}.json")).await;
    assert_eq!(all["data"].as_object().unwrap().len(), 3);
    assert_eq!(all["info"], json!({}));
}

#[tokio::test]
async fn the_authority_speaks_for_the_network_and_nobody_else() {
    let authority = Account::generate();
    let address = authority.address().clone();
    let node = TestNode::with(|config| {
        config.authority = Some(address);
        config.pricing = json!({"storage": {"price": {"storage": {"holding": "1"}}}}).as_object().unwrap().clone();
    })
    .await;
    node.accept(&aggregate(&Account::generate(), PRICING_KEY, json!({"program": 0}))).await;
    node.accept(&aggregate(&authority, SETTINGS_KEY, json!({"scheduler_urls": ["http://s"]}))).await;
    let settings: Value = node.client.aggregate(SETTINGS_ADDRESS, SETTINGS_KEY).await.unwrap().unwrap();
    assert_eq!(settings["scheduler_urls"], json!(["http://s"]));
    assert!(settings.get("compatible_gpus").is_some(), "what is built in is underneath");

    let file = node.publish(&authority, b"code").await;
    let cost = async || {
        let message = program(&authority, &file, &file, json!({}));
        node.client.estimate(&message).await.unwrap().required_tokens
    };
    assert_eq!(cost().await, 200.0);
    let mut program = pricing(&node).await["program"].clone();
    program["price"]["compute_unit"]["holding"] = json!("150");
    node.accept(&aggregate(&authority, PRICING_KEY, json!({"program": program}))).await;
    assert_eq!(cost().await, 150.0, "what is served is what is charged");
    let prices = pricing(&node).await;
    assert_eq!(prices["storage"]["price"]["storage"]["holding"], "1", "what the operator set");
    assert_eq!(prices["program_persistent"]["price"]["compute_unit"]["holding"], "2000");
}

#[tokio::test]
async fn registered_nodes_are_listed_once_until_they_are_forgotten() {
    let (node, a, b) = (TestNode::start().await, Account::generate(), Account::generate());
    let register = |account: &Account, name: &str, url: &str| {
        let operation = NodeOperation::create_compute_node(name.to_owned(), url.to_owned());
        post(account, NODE_OPERATION_POST, serde_json::to_value(operation).unwrap())
    };
    let list = async || {
        let found: Option<CoreChannel> = node.client.aggregate(CORECHANNEL_ADDRESS, CORECHANNEL_KEY).await.unwrap();
        found.unwrap().resource_nodes
    };
    let first = node.accept(&register(&a, "one", "http://one")).await;
    let again = node.accept(&register(&a, "one again", "http://one")).await;
    node.accept(&register(&b, "two", "http://two")).await;
    node.accept(&post(&b, NODE_OPERATION_POST, json!({"action": "link"}))).await;
    let nodes = list().await;
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!((nodes[0].hash.to_string(), &nodes[0].owner), (first.clone(), a.address()));
    assert_eq!((nodes[0].status.as_str(), nodes[0].address.as_str()), ("linked", "http://one"));
    let (_, raw) = node.json(&format!("/api/v0/aggregates/{CORECHANNEL_ADDRESS}.json?keys=corechannel")).await;
    let entry = &raw["data"]["corechannel"]["resource_nodes"][0];
    for field in ["parent", "score", "decentralization", "reward", "stream_reward", "time"] {
        assert!(!entry[field].is_null(), "clients read {field}");
    }
    node.accept(&forget(&a, &[&first])).await;
    assert_eq!(list().await[0].hash.to_string(), again);
    node.accept(&forget(&a, &[&again])).await;
    assert_eq!(list().await.len(), 1);
}

#[tokio::test]
async fn programs_that_start_on_messages_are_listed() {
    let (node, account) = (TestNode::start().await, Account::generate());
    let file = node.publish(&account, b"code").await;
    let subscriptions = json!([{"sender": "0x1", "channel": "x"}]);
    let on = json!({"on": {"http": false, "message": subscriptions}});
    let hash = node.accept(&program(&account, &file, &file, on)).await;
    node.accept(&program(&account, &file, &file, json!({}))).await;
    let (_, list) = node.json("/api/v0/programs/on/message").await;
    assert_eq!(list, json!([{"item_hash": hash, "content": {"on": {"message": subscriptions}}}]));
}

#[tokio::test]
async fn the_node_describes_itself() {
    let (node, account) = (TestNode::start().await, Account::generate());
    node.accept(&post(&account, "note", json!({}))).await;
    assert_eq!(node.client.version().await.unwrap()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(node.json("/version").await.1, node.json("/api/v0/version").await.1);
    assert_eq!(node.json("/api/v0/info/public.json").await.1, json!({"node_multi_addresses": []}));
    assert_eq!(node.json("/api/v0/channels/list.json").await.1, json!({"channels": ["TEST"]}));
    let metrics = node.text("/metrics").await;
    for line in [
        r#"aleph_messages{type="POST",status="processed"} 1"#,
        r#"aleph_messages_decided_total{type="POST",status="processed"} 1"#,
        "aleph_messages_received_total 1",
        "aleph_messages_pending 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is missing in\n{metrics}");
    }
    let page = node.text("/status").await;
    assert!(page.contains("<td>POST</td><td>processed</td><td>1</td>"), "{page}");
    let response = node.http.get(format!("{}/version", node.url)).header("origin", "http://x").send().await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
}
