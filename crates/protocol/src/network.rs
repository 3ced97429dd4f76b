//! What a network publishes about itself as aggregates, and how a compute node registers: the well-known addresses and
//! keys that existing clients look under.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use url::{Host, Url};

use crate::{Address, NodeId, ProgramId};

/// The address under which clients look for `pricing`, `settings` and `vm-images`. On a network of our own nobody holds its
/// key: the message node answers for it with what the network's authority published (see `docs/networks.md`).
pub const SETTINGS_ADDRESS: &str = "0xFba561a84A537fCaa567bb7A2257e7142701ae2A";

/// The address under which clients look for `corechannel`, the list of nodes.
pub const CORECHANNEL_ADDRESS: &str = "0xa1B3bb7d2332383D96b7796B908fB7f7F3c2Be10";

/// Prices; see [`SETTINGS_ADDRESS`].
pub const PRICING_KEY: &str = "pricing";
/// Settings of the network; see [`NetworkSettings`].
pub const SETTINGS_KEY: &str = "settings";
/// Runtime images by name; see [`VmImages`].
pub const VM_IMAGES_KEY: &str = "vm-images";
/// The list of nodes; see [`CoreChannel`].
pub const CORECHANNEL_KEY: &str = "corechannel";

/// The type of the POST that registers a node (`corechan-operation` of the Aleph network's nodestatus).
pub const NODE_OPERATION_POST: &str = "corechan-operation";
/// The action of the POST that registers a compute node.
pub const CREATE_RESOURCE_NODE: &str = "create-resource-node";

/// The fields of the `settings` aggregate that our programs read. Others are kept by whoever writes them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkSettings {
    /// Base URLs of the network's schedulers.
    #[serde(default)]
    pub scheduler_urls: Vec<String>,
    /// The accounts of the network's schedulers, which sign the histories of programs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scheduler_addresses: Vec<Address>,
    /// Base URL of the network's gateway, where programs are reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_url: Option<String>,
}

/// A program's stable URL at a gateway.
///
/// A gateway with a name gives every program a host of its own, below that name: `http://<label>.localhost:8080/` with
/// [`ProgramId::host_label`]. So programs are different origins for browsers. A gateway without one (an IP address) has the
/// form by path, `http://127.0.0.1:8080/vm/<hash>`, which every gateway answers.
pub fn program_url(gateway: &str, program: &ProgramId) -> String {
    let url = Url::parse(gateway);
    match url.as_ref().map(|url| (url.scheme(), url.host(), url.port())) {
        Ok((scheme, Some(Host::Domain(name)), port)) => {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("{scheme}://{}.{name}{port}/", program.host_label())
        }
        _ => format!("{}/vm/{program}", gateway.trim_end_matches('/')),
    }
}

/// The `vm-images` aggregate: runtime images by name, in the shape that the Aleph SDKs read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VmImages {
    /// Images that programs run in.
    #[serde(default)]
    pub runtimes: BTreeMap<String, VmImage>,
    /// Which of them is used when none is named.
    #[serde(default)]
    pub defaults: VmImageDefaults,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmImage {
    /// The STORE message of the image.
    pub hash: String,
    /// What people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Defaults of [`VmImages`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VmImageDefaults {
    /// The name of the default runtime of programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
}

impl VmImages {
    /// The STORE message of the image with this name, or of the default when no name is given.
    pub fn runtime(&self, name: Option<&str>) -> Option<&VmImage> {
        self.runtimes.get(name.or(self.defaults.runtime.as_deref())?)
    }
}

/// The `corechannel` aggregate. Message nodes (`nodes`) are listed for other clients only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CoreChannel {
    /// The compute nodes.
    #[serde(default)]
    pub resource_nodes: Vec<ResourceNode>,
}

/// A compute node as `corechannel` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResourceNode {
    /// The node's id.
    pub hash: NodeId,
    /// What people call it.
    pub name: String,
    /// The account that registered it; its key is the node's key, or names the node's key in `manager`.
    pub owner: Address,
    /// The node's public base URL.
    pub address: String,
    /// `linked` for nodes that take part.
    pub status: String,
    /// An account that may act for the node beside its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<Address>,
    /// When it registered, seconds since 1970.
    #[serde(default)]
    pub time: f64,
    /// The network's opinion of it, 0 to 1.
    #[serde(default)]
    pub score: f64,
}

/// The content of the POST that registers a compute node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeOperation {
    /// Always contains the action and `mainnet` on the Aleph network.
    #[serde(default)]
    pub tags: Vec<String>,
    /// [`CREATE_RESOURCE_NODE`] for compute nodes.
    pub action: String,
    /// The node.
    #[serde(default)]
    pub details: NodeDetails,
}

/// The node that a [`NodeOperation`] registers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeDetails {
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Its public base URL.
    #[serde(default)]
    pub address: String,
    /// `compute`.
    #[serde(default, rename = "type")]
    pub kind: String,
}

impl NodeOperation {
    /// The operation that registers a compute node.
    pub fn create_compute_node(name: String, url: String) -> Self {
        Self {
            tags: vec![CREATE_RESOURCE_NODE.to_owned(), "mainnet".to_owned()],
            action: CREATE_RESOURCE_NODE.to_owned(),
            details: NodeDetails { name, address: url, kind: "compute".to_owned() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_with_a_name_gives_each_program_a_host() {
        let program = ProgramId::from_bytes([0xa7; 32]);
        let label = program.host_label();
        for (gateway, url) in [
            ("http://localhost:8080", format!("http://{label}.localhost:8080/")),
            ("http://gw.localhost:8080/", format!("http://{label}.gw.localhost:8080/")),
            ("https://example.org", format!("https://{label}.example.org/")),
            ("http://127.0.0.1:8080/", format!("http://127.0.0.1:8080/vm/{program}")),
            ("http://[::1]:8080", format!("http://[::1]:8080/vm/{program}")),
        ] {
            assert_eq!(program_url(gateway, &program), url);
        }
    }
}
