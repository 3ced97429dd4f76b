//! What the network's authority publishes: runtime images, their names, where the scheduler and the gateway are.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use futures_util::{StreamExt, stream};
use protocol::alias::PUBLIC_RUNTIME;
use protocol::api::message_node::MessageStatus;
use protocol::client::MessageNode;
use protocol::message::{AggregateContent, Envelope, ItemType, MessageTime, MessageType, StoreContent};
use protocol::network::{NetworkSettings, SETTINGS_KEY, VM_IMAGES_KEY, VmImage, VmImageDefaults, VmImages};
use protocol::{Account, Address, Alias, FileHash};
use serde_json::{Map, Value};

use super::layout::Layout;

/// The channel of the network's own messages.
const CHANNEL: &str = "ALEPH-CLOUDSOLUTIONS";

/// The image that programs run in when they name none.
const DEFAULT_RUNTIME: &str = "python3";

/// How much of a file is read at a time, in bytes.
const CHUNK: usize = 256 << 10;

/// A runtime image, and the STORE message that names it on this network.
pub(super) struct Image {
    name: String,
    bytes: Vec<u8>,
    envelope: Envelope,
}

/// Reads the runtime images, and signs the messages of those that have none yet.
pub(super) fn images(layout: &Layout, runtimes: &Path) -> anyhow::Result<Vec<Image>> {
    image_files(runtimes)?.iter().map(|file| image(layout, file)).collect()
}

/// What clients of the public network name when their users name no runtime is the image for that here, of those in
/// `runtimes`.
pub(super) fn public_runtime(images: &[Image], runtimes: &Path) -> anyhow::Result<Alias> {
    let Some(image) = images.iter().find(|image| image.name == DEFAULT_RUNTIME) else {
        bail!(
            "the runtime image {DEFAULT_RUNTIME}.squashfs is missing in {}: `make runtimes` builds it",
            runtimes.display()
        );
    };
    Ok(Alias { name: PUBLIC_RUNTIME.to_owned(), of: image.envelope.item_hash.clone() })
}

/// Publishes the runtime images that are not published yet.
pub(super) async fn publish_images(
    layout: &Layout,
    message_node: &MessageNode,
    images: Vec<Image>,
) -> anyhow::Result<()> {
    let defaults = VmImageDefaults { runtime: Some(DEFAULT_RUNTIME.to_owned()) };
    let mut published = VmImages { runtimes: BTreeMap::new(), defaults };
    for image in images {
        let (name, hash) = (image.name.clone(), image.envelope.item_hash.clone());
        publish_image(message_node, image).await?;
        published.runtimes.insert(name, VmImage { hash, display_name: None, description: None });
    }
    publish_aggregate(layout.authority(), message_node, VM_IMAGES_KEY, &published).await
}

/// Publishes where the scheduler and the gateway are, and whose signature the scheduler's is.
pub(super) async fn publish_settings(
    layout: &Layout,
    message_node: &MessageNode,
    scheduler: &Address,
) -> anyhow::Result<()> {
    let settings = NetworkSettings {
        scheduler_urls: vec![layout.scheduler_url()],
        scheduler_addresses: vec![scheduler.clone()],
        gateway_url: Some(layout.gateway_url()),
    };
    publish_aggregate(layout.authority(), message_node, SETTINGS_KEY, &settings).await
}

fn image_files(runtimes: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(runtimes).with_context(|| {
        format!("there are no runtime images in {}: `make runtimes` builds them", runtimes.display())
    })?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "squashfs"));
    files.sort();
    Ok(files)
}

/// An image whose file stays the same keeps its message.
fn image(layout: &Layout, file: &Path) -> anyhow::Result<Image> {
    let name = file.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let hash = FileHash::of(&bytes);
    let remembered = layout.root().join(format!("runtime-{name}-{hash}.json"));
    let envelope = match fs::read(&remembered).ok().and_then(|json| serde_json::from_slice::<Envelope>(&json).ok()) {
        Some(envelope) => envelope,
        None => {
            let envelope = store_message(layout.authority(), hash, &name);
            fs::write(&remembered, serde_json::to_vec(&envelope)?)?;
            envelope
        }
    };
    Ok(Image { name, bytes, envelope })
}

/// Publishes an image, unless it is published already.
async fn publish_image(message_node: &MessageNode, Image { name, bytes, envelope }: Image) -> anyhow::Result<()> {
    let known = message_node.message(&envelope.item_hash).await?;
    if known.is_none_or(|known| known.status != MessageStatus::Processed) {
        let length = bytes.len() as u64;
        let chunks: Vec<_> = bytes.chunks(CHUNK).map(|chunk| Ok(chunk.to_vec().into())).collect();
        message_node
            .add_file(&envelope, true, length, stream::iter(chunks).boxed())
            .await
            .with_context(|| format!("cannot publish the runtime image {name}"))?;
    }
    Ok(())
}

fn store_message(authority: &Account, hash: FileHash, name: &str) -> Envelope {
    let time = MessageTime::now();
    let content = StoreContent {
        address: authority.address().clone(),
        time,
        item_type: ItemType::Storage,
        item_hash: hash.to_string(),
        reference: None,
        payment: None,
        metadata: Some(Map::from_iter([("name".to_owned(), Value::from(name))])),
    };
    let content = serde_json::to_string(&content).expect("a content is JSON");
    Envelope::sign_inline(authority, MessageType::Store, content, time, Some(CHANNEL.to_owned()))
}

/// Publishes a document, unless it is published as it is.
async fn publish_aggregate<T: serde::Serialize>(
    authority: &Account,
    message_node: &MessageNode,
    key: &str,
    document: &T,
) -> anyhow::Result<()> {
    let Value::Object(content) = serde_json::to_value(document)? else { bail!("a document is an object") };
    let published: Option<Map<String, Value>> = message_node.aggregate(authority.address().as_str(), key).await?;
    if published.is_some_and(|published| content.iter().all(|(name, value)| published.get(name) == Some(value))) {
        return Ok(());
    }
    let time = MessageTime::now();
    let content = AggregateContent { address: authority.address().clone(), time, key: key.to_owned(), content };
    let content = serde_json::to_string(&content)?;
    let envelope = Envelope::sign_inline(authority, MessageType::Aggregate, content, time, Some(CHANNEL.to_owned()));
    match message_node.submit(&envelope, true).await? {
        MessageStatus::Processed => Ok(()),
        status => bail!("the message node does not accept the network's `{key}`: it is {}", status.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_image_for_the_public_runtime_it_says_how_to_build_it() {
        let error = public_runtime(&[], Path::new("/images")).unwrap_err().to_string();
        assert!(error.contains("python3.squashfs is missing in /images") && error.contains("make runtimes"), "{error}");
    }
}
