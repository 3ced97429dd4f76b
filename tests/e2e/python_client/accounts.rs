//! What an account holds, what things cost, and which nodes there are.

use std::collections::BTreeMap;

use aleph_tests::User;
use serde_json::Value;

use crate::shared::network;

#[tokio::test]
async fn it_shows_what_an_account_holds_and_what_programs_cost() {
    let user = User::with(network().await, 4321).await;
    let balance = user.python.succeed(&["account", "balance"]).await;
    assert!(balance.contains(&user.address) && balance.contains("Available: 4321"), "{balance}");
    let credits = user.python.json(&["credits", "show", "--json"]).await;
    assert_eq!((&credits["balance"], &credits["credit_balance"]), (&"4321.0".into(), &0.into()), "{credits}");
    // Of programs on demand, and of persistent ones: that of the tutorial.
    let pricing = user.python.succeed(&["--no-format", "pricing", "program", "--json"]).await;
    let pricing: Vec<Value> =
        serde_json::Deserializer::from_str(&pricing).into_iter().collect::<Result<_, _>>().unwrap();
    let held = |kind: &Value| kind["price"]["compute_unit"]["holding"].as_str().unwrap().parse::<f64>().unwrap();
    assert_eq!(pricing.iter().map(held).collect::<Vec<_>>(), [200.0, 2000.0]);
}

#[tokio::test]
async fn it_lists_the_compute_nodes() {
    let network = network().await;
    let user = User::with(network, 0).await;
    let nodes = user.python.json(&["node", "compute", "--json", "--active"]).await;
    let listed: BTreeMap<&str, &str> = nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["hash"].as_str().unwrap(), node["address"].as_str().unwrap()))
        .collect();
    let ours = network.compute_nodes.iter().map(|node| (node.id.as_str(), node.url.as_str()));
    assert_eq!(listed, ours.collect());
    // As a table, which reads more of what is said about a node; and the nodes that only a larger network has.
    let table = user.python.succeed(&["node", "compute"]).await;
    assert!(network.compute_nodes.iter().all(|node| table.contains(&node.id)), "{table}");
    assert_eq!(user.python.json(&["node", "core", "--json"]).await, serde_json::json!([]));
}
