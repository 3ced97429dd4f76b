//! The documents that describe the network: `pricing`, `settings`, `vm-images` and `corechannel`.
//!
//! Clients look for them under two well-known addresses whose keys nobody holds on a network of our own. The node answers:
//! 1. with what messages of the well-known address itself say, if there are any (a mirror of the public network);
//! 2. otherwise with what the network's authority published under the same key, name by name over
//! 3. what is built in: the default prices, empty settings and images, and the compute nodes that are registered.

use std::collections::HashSet;

use protocol::Address;
use protocol::message::PostContent;
use protocol::network::{
    CORECHANNEL_ADDRESS, CORECHANNEL_KEY, CREATE_RESOURCE_NODE, NODE_OPERATION_POST, NodeOperation, PRICING_KEY,
    SETTINGS_ADDRESS, SETTINGS_KEY, VM_IMAGES_KEY,
};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::aggregate::Document;
use crate::prices::default_pricing;

/// The name and URL of a node have at most this many characters.
const MAX_NODE_TEXT: usize = 512;

/// The parent of nodes that belong to no message node in particular. Clients want a hash there.
const NO_PARENT: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A registered compute node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// The POST that registered it.
    pub item_hash: String,
    /// Who registered it.
    pub owner: Address,
    /// What people call it.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// When it was registered, microseconds since 1970.
    pub time_us: i64,
}

/// The documents of a well-known address; none for all others.
pub(crate) fn keys_of(address: &Address) -> &'static [&'static str] {
    if *address == Address::new(SETTINGS_ADDRESS) {
        &[PRICING_KEY, SETTINGS_KEY, VM_IMAGES_KEY]
    } else if *address == Address::new(CORECHANNEL_ADDRESS) {
        &[CORECHANNEL_KEY]
    } else {
        &[]
    }
}

/// What is built in for one of the keys. `pricing` is what the operator set, `nodes` the registered nodes, oldest first.
pub(crate) fn built_in(key: &str, pricing: &Map<String, Value>, nodes: &[Node]) -> Map<String, Value> {
    let document = match key {
        PRICING_KEY => return effective_pricing(pricing),
        SETTINGS_KEY => json!({
            "compatible_gpus": [],
            "last_crn_version": "0.0.0",
            "community_wallet_address": "0x0000000000000000000000000000000000000000",
            "community_wallet_timestamp": 0,
            "scheduler_urls": [],
        }),
        VM_IMAGES_KEY => json!({ "runtimes": {}, "rootfs": {}, "firmwares": {}, "defaults": {} }),
        CORECHANNEL_KEY => corechannel(nodes),
        _ => json!({}),
    };
    match document {
        Value::Object(document) => document,
        _ => unreachable!("every document above is an object"),
    }
}

/// The built-in prices with the products that the operator set.
fn effective_pricing(pricing: &Map<String, Value>) -> Map<String, Value> {
    let mut prices = default_pricing().clone();
    prices.extend(pricing.clone());
    prices
}

/// What the authority published over what is built in.
pub(crate) fn overlay(built_in: Map<String, Value>, published: Option<Document>) -> Document {
    let mut document: Document = built_in.into_iter().map(|(name, value)| (name, raw(&value))).collect();
    document.extend(published.into_iter().flatten());
    document
}

fn raw(value: &Value) -> Box<RawValue> {
    to_raw_value(value).expect("a JSON value is JSON")
}

/// The node that a post registers, if it registers one.
pub(crate) fn registration(content: &PostContent, item_hash: &str) -> Option<Node> {
    if content.post_type != NODE_OPERATION_POST {
        return None;
    }
    let operation: NodeOperation = serde_json::from_value(content.content.clone()).ok()?;
    let details = operation.details;
    let fits = |text: &str| !text.is_empty() && text.chars().count() <= MAX_NODE_TEXT;
    (operation.action == CREATE_RESOURCE_NODE && fits(&details.name) && fits(&details.address)).then(|| Node {
        item_hash: item_hash.to_owned(),
        owner: content.address.clone(),
        name: details.name,
        url: details.address,
        time_us: content.time.as_micros(),
    })
}

/// The list of nodes. An owner that registered the same URL several times (after its node lost its disk, say) has one entry,
/// the first, so that the node keeps its id.
fn corechannel(nodes: &[Node]) -> Value {
    let mut seen = HashSet::new();
    let resource_nodes: Vec<Value> =
        nodes.iter().filter(|node| seen.insert((node.owner.canonical(), node.url.as_str()))).map(entry).collect();
    json!({ "nodes": [], "resource_nodes": resource_nodes })
}

#[allow(clippy::cast_precision_loss)] // Microseconds since 1970 need 51 bits; a f64 holds 53.
fn entry(node: &Node) -> Value {
    json!({
        "hash": node.item_hash,
        "name": node.name,
        "address": node.url,
        "owner": node.owner,
        "reward": node.owner,
        "stream_reward": "",
        "manager": null,
        "parent": NO_PARENT,
        "status": "linked",
        "type": "compute",
        "locked": false,
        "authorized": [],
        "time": node.time_us as f64 / 1e6,
        "score": 1.0,
        "decentralization": 1.0,
        "performance": 1.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::network::{CoreChannel, NetworkSettings, VmImages};

    fn node(hash: char, owner: &str, url: &str) -> Node {
        Node {
            item_hash: hash.to_string().repeat(64),
            owner: Address::new(owner),
            name: "node".into(),
            url: url.into(),
            time_us: 1_500_000,
        }
    }

    #[test]
    fn a_node_that_registers_again_is_listed_once_under_its_first_id() {
        let nodes = [node('a', "0xA", "http://a"), node('b', "0xa", "http://a"), node('c', "0xB", "http://a")];
        let list: CoreChannel = serde_json::from_value(corechannel(&nodes)).unwrap();
        let ids: Vec<_> = list.resource_nodes.iter().map(|node| node.hash.to_string()).collect();
        assert_eq!(ids, ["a".repeat(64), "c".repeat(64)]);
        let first = &list.resource_nodes[0];
        assert_eq!((first.status.as_str(), first.address.as_str(), first.time), ("linked", "http://a", 1.5));
        assert_eq!(first.manager, None);
    }

    #[test]
    fn built_in_documents_have_the_shapes_that_clients_read() {
        let document = |key| Value::Object(built_in(key, &Map::new(), &[]));
        assert_eq!(serde_json::from_value::<CoreChannel>(document(CORECHANNEL_KEY)).unwrap(), CoreChannel::default());
        assert_eq!(serde_json::from_value::<VmImages>(document(VM_IMAGES_KEY)).unwrap(), VmImages::default());
        let settings: NetworkSettings = serde_json::from_value(document(SETTINGS_KEY)).unwrap();
        assert_eq!(settings, NetworkSettings::default());
        assert_eq!(document(PRICING_KEY)["program_persistent"]["price"]["compute_unit"]["holding"], "2000");
        assert!(built_in("other", &Map::new(), &[]).is_empty());
    }

    #[test]
    fn the_authority_replaces_names_and_the_rest_stays() {
        let published = [("scheduler_urls".to_owned(), raw(&json!(["http://s"])))].into();
        let document = overlay(built_in(SETTINGS_KEY, &Map::new(), &[]), Some(published));
        assert_eq!(document["scheduler_urls"].get(), r#"["http://s"]"#);
        assert!(document.contains_key("compatible_gpus"));
    }

    #[test]
    fn the_operator_replaces_products() {
        let own: Map<String, Value> = [("storage".to_owned(), json!("own"))].into_iter().collect();
        let prices = built_in(PRICING_KEY, &own, &[]);
        assert_eq!(prices["storage"], "own");
        assert!(prices.contains_key("program"));
    }

    #[test]
    fn well_known_addresses_are_known_in_any_case_of_letters() {
        assert_eq!(keys_of(&Address::new(SETTINGS_ADDRESS.to_lowercase())).len(), 3);
        assert_eq!(keys_of(&Address::new(CORECHANNEL_ADDRESS)), [CORECHANNEL_KEY]);
        assert!(keys_of(&Address::new("0x1")).is_empty());
    }

    #[test]
    fn only_complete_registrations_make_a_node() {
        let post = |post_type: &str, content: Value| {
            let content = json!({"address": "0xA", "time": 1.5, "type": post_type, "content": content});
            registration(&serde_json::from_value(content).unwrap(), "h")
        };
        let operation = NodeOperation::create_compute_node("n".into(), "http://n".into());
        let operation = serde_json::to_value(operation).unwrap();
        let found = post(NODE_OPERATION_POST, operation.clone()).unwrap();
        assert_eq!((found.url.as_str(), found.time_us, found.item_hash.as_str()), ("http://n", 1_500_000, "h"));
        assert_eq!(post("other", operation.clone()), None);
        let mut other = operation.clone();
        other["action"] = json!("link");
        assert_eq!(post(NODE_OPERATION_POST, other), None);
        let mut nameless = operation;
        nameless["details"]["name"] = json!("");
        assert_eq!(post(NODE_OPERATION_POST, nameless), None);
        assert_eq!(post(NODE_OPERATION_POST, json!("text")), None);
    }
}
