//! Who this node is: its key, and the message that registered it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::api::message_node::MessageStatus;
use protocol::client::{ClientError, MessageNode};
use protocol::message::{Envelope, MessageTime, MessageType, PostContent};
use protocol::network::{CORECHANNEL_ADDRESS, CORECHANNEL_KEY, CoreChannel, NODE_OPERATION_POST, NodeOperation};
use protocol::{Account, Address, NodeId};
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The channel of node operations on the Aleph network.
const CHANNEL: &str = "FOUNDATION";

/// The file of the node's id.
const ID_FILE: &str = "node-id";

/// The longest pause between two tries.
const SLOWEST: Duration = Duration::from_secs(10);

/// How this node is registered: its message, kept in the data directory, and its id once it is known.
pub(crate) struct Registration {
    data_dir: PathBuf,
    account: Arc<Account>,
    url: String,
    envelope: Envelope,
}

impl Registration {
    /// The registration that is remembered, or a new one when there is none of this name and URL.
    pub(crate) fn open(data_dir: &Path, account: &Arc<Account>, (name, url): (&str, &str)) -> Self {
        let file = data_dir.join("registration.json");
        let remembered = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Envelope>(&bytes).ok());
        let envelope = remembered.filter(|envelope| describes(envelope, name, url)).unwrap_or_else(|| {
            let _ = fs::remove_file(data_dir.join(ID_FILE));
            let envelope = sign(account, name, url);
            // Written before it is sent: however often this is interrupted, the node registers once.
            if let Err(error) = save(&file, &serde_json::to_vec(&envelope).expect("an envelope is JSON")) {
                warn!(%error, "cannot remember the registration, a restart will register the node anew");
            }
            envelope
        });
        Self { data_dir: data_dir.to_owned(), account: account.clone(), url: url.to_owned(), envelope }
    }

    /// The id of an earlier start, so that a node comes back while its message node is down.
    pub(crate) fn remembered(&self) -> Option<NodeId> {
        fs::read_to_string(self.data_dir.join(ID_FILE)).ok()?.trim().parse().ok()
    }

    /// Registers the node, if it is not, and says its id. Tries until it succeeds; `None` when it is asked to end first.
    pub(crate) async fn register(&self, message_node: &MessageNode, shutdown: &CancellationToken) -> Option<NodeId> {
        let mut pause = Duration::from_millis(200);
        loop {
            let registered = register(&self.envelope, self.account.address(), &self.url, message_node);
            match shutdown.run_until_cancelled(registered).await? {
                Ok(node) => {
                    info!(%node, url = self.url, "registered");
                    if let Err(error) = save(&self.data_dir.join(ID_FILE), node.to_string().as_bytes()) {
                        warn!(%error, "cannot remember the node's id; a restart needs the message node");
                    }
                    return Some(node);
                }
                Err(error) => warn!(%error, "cannot register this node, trying again"),
            }
            shutdown.run_until_cancelled(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(SLOWEST);
        }
    }
}

/// Why a node is not registered yet.
#[derive(Debug, thiserror::Error)]
enum RegistrationError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the registration is {}", .0.as_str())]
    Status(MessageStatus),
    #[error("the message node accepted the registration, and does not list this node yet")]
    NotListed,
}

/// Sends the registration and asks under which id the node is listed: a node that registered before, under another name
/// perhaps, keeps its first one.
async fn register(
    envelope: &Envelope,
    owner: &Address,
    url: &str,
    message_node: &MessageNode,
) -> Result<NodeId, RegistrationError> {
    match message_node.submit(envelope, true).await? {
        MessageStatus::Processed => {}
        status => return Err(RegistrationError::Status(status)),
    }
    let listed: Option<CoreChannel> = message_node.aggregate(CORECHANNEL_ADDRESS, CORECHANNEL_KEY).await?;
    let nodes = listed.unwrap_or_default().resource_nodes;
    let ours = nodes.into_iter().find(|node| node.owner == *owner && node.address == url);
    ours.map(|node| node.hash).ok_or(RegistrationError::NotListed)
}

fn operation(name: &str, url: &str) -> NodeOperation {
    NodeOperation::create_compute_node(name.to_owned(), url.to_owned())
}

fn sign(account: &Account, name: &str, url: &str) -> Envelope {
    let time = MessageTime::now();
    let content = PostContent {
        address: account.address().clone(),
        time,
        post_type: NODE_OPERATION_POST.to_owned(),
        reference: None,
        content: serde_json::to_value(operation(name, url)).expect("an operation is JSON"),
    };
    let content = serde_json::to_string(&content).expect("a post is JSON");
    Envelope::sign_inline(account, MessageType::Post, content, time, Some(CHANNEL.to_owned()))
}

/// Whether a remembered registration is of this name and URL.
fn describes(envelope: &Envelope, name: &str, url: &str) -> bool {
    let content = envelope.item_content.as_deref().and_then(|text| serde_json::from_str::<PostContent>(text).ok());
    content.and_then(|post| serde_json::from_value::<NodeOperation>(post.content).ok()) == Some(operation(name, url))
}

fn save(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = NamedTempFile::new_in(path.parent().expect("it is in the data directory"))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_remembered_as_long_as_name_and_url_stay() {
        let (folder, account) = (tempfile::tempdir().unwrap(), Arc::new(Account::generate()));
        let open = |url| Registration::open(folder.path(), &account, ("n", url));
        let first = open("http://a");
        assert_eq!(first.remembered(), None);
        let id = NodeId::from_bytes([7; 32]);
        save(&folder.path().join(ID_FILE), id.to_string().as_bytes()).unwrap();
        let again = open("http://a");
        assert_eq!((again.remembered(), &again.envelope), (Some(id), &first.envelope));
        assert_eq!(open("http://b").remembered(), None, "another URL is another registration");
    }

    #[test]
    fn a_node_with_another_url_registers_anew() {
        let envelope = sign(&Account::generate(), "n", "http://a");
        assert!(describes(&envelope, "n", "http://a"));
        assert!(!describes(&envelope, "n", "http://b"));
        assert!(envelope.verify().is_ok());
    }
}
