//! What a network's authority publishes before anything can run: the image of the runtime, and who the schedulers are.

use std::collections::BTreeMap;

use aleph_tests::repository;
use anyhow::Context;
use futures_util::stream;
use protocol::client::MessageNode;
use protocol::message::{AggregateContent, Envelope, ItemType, MessageTime, MessageType, StoreContent};
use protocol::network::{NetworkSettings, SETTINGS_KEY, VM_IMAGES_KEY, VmImage, VmImageDefaults, VmImages};
use protocol::{Account, FileHash};
use serde::Serialize;

/// The image that the programs run in.
const RUNTIME: &str = "python3";

/// Publishes the runtime's image.
///
/// # Errors
/// When it is not built, or refused.
pub(crate) async fn runtime(authority: &Account, node: &MessageNode) -> anyhow::Result<()> {
    let bytes = std::fs::read(repository(&format!("target/runtimes/{RUNTIME}.squashfs")))?;
    let content = StoreContent {
        address: authority.address().clone(),
        time: MessageTime::now(),
        item_type: ItemType::Storage,
        item_hash: FileHash::of(&bytes).to_string(),
        reference: None,
        payment: None,
        metadata: None,
    };
    let content = serde_json::to_string(&content)?;
    let envelope = Envelope::sign_inline(authority, MessageType::Store, content, MessageTime::now(), None);
    let length = bytes.len() as u64;
    let stored = node.add_file(&envelope, true, length, stream::iter([Ok(bytes.into())])).await;
    stored.context("the runtime's image is refused")?;
    let image = VmImage { hash: envelope.item_hash, display_name: None, description: None };
    let images = VmImages {
        runtimes: BTreeMap::from([(RUNTIME.to_owned(), image)]),
        defaults: VmImageDefaults { runtime: Some(RUNTIME.to_owned()) },
    };
    aggregate(authority, node, VM_IMAGES_KEY, &images).await
}

/// Publishes where schedulers and gateway are.
///
/// # Errors
/// When it is refused.
pub(crate) async fn settings(authority: &Account, node: &MessageNode, of: &NetworkSettings) -> anyhow::Result<()> {
    aggregate(authority, node, SETTINGS_KEY, of).await
}

async fn aggregate(
    authority: &Account,
    node: &MessageNode,
    key: &str,
    document: &impl Serialize,
) -> anyhow::Result<()> {
    let serde_json::Value::Object(content) = serde_json::to_value(document)? else {
        anyhow::bail!("a document is an object");
    };
    let time = MessageTime::now();
    let content = AggregateContent { address: authority.address().clone(), time, key: key.to_owned(), content };
    let content = serde_json::to_string(&content)?;
    let envelope = Envelope::sign_inline(authority, MessageType::Aggregate, content, time, None);
    let status = node.submit(&envelope, true).await?;
    anyhow::ensure!(status.as_str() == "processed", "the message node does not accept `{key}`: {}", status.as_str());
    Ok(())
}
