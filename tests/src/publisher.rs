//! Messages that the client does not make: files and programs as other clients of the network publish them.

use std::path::PathBuf;

use bytes::Bytes;
use protocol::FileNames;
use protocol::message::{Envelope, ItemType, MessageTime, MessageType, StoreContent};
use protocol::network::{SETTINGS_ADDRESS, VM_IMAGES_KEY, VmImages};
use serde_json::{Value, json};

use crate::Network;

/// An account that publishes messages itself.
pub struct Publisher {
    account: protocol::Account,
    node: protocol::client::MessageNode,
}

impl Publisher {
    /// The network's first account.
    ///
    /// # Panics
    /// When its key cannot be read.
    pub fn of(network: &Network) -> Self {
        let account = protocol::Account::from_file(&network.account_key).expect("the account's key is a key");
        Self::new(account, &network.message_node_url)
    }

    /// An account, and the message node that it publishes at.
    pub fn new(account: protocol::Account, message_node_url: &str) -> Self {
        Self { account, node: protocol::client::MessageNode::new(message_node_url) }
    }

    /// The account.
    pub fn account(&self) -> &protocol::Account {
        &self.account
    }

    /// Publishes a message with this content, to which the account and the time are added.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn message(&self, message_type: MessageType, mut content: Value) -> Envelope {
        content["address"] = json!(self.account.address());
        content["time"] = json!(MessageTime::now());
        let envelope = Envelope::sign_inline(
            &self.account,
            message_type,
            content.to_string(),
            MessageTime::now(),
            Some("TEST".into()),
        );
        let status = self.node.submit(&envelope, true).await.expect("the message node answers");
        assert_eq!(status.as_str(), "processed");
        envelope
    }

    /// Publishes bytes as a file of the account. Says the STORE message.
    ///
    /// # Panics
    /// When they are refused.
    pub async fn file(&self, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let envelope = self.store(ItemType::Storage, protocol::FileHash::of(&bytes).to_string());
        let length = bytes.len() as u64;
        let stream = futures_util::stream::iter([Ok(bytes)]);
        self.node.add_file(&envelope, true, length, stream).await.expect("the file is accepted");
        envelope.item_hash
    }

    /// Publishes bytes as a file that is called by its CID, as clients do with large files: first the file without a word, then
    /// the message. Says the STORE message.
    ///
    /// # Panics
    /// When they are refused.
    pub async fn ipfs_file(&self, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let cid = FileNames::of(&bytes).v0.to_string();
        let url = format!("{}/api/v0/ipfs/add_file", self.node.url());
        let form =
            reqwest::multipart::Form::new().part("file", reqwest::multipart::Part::stream(bytes).file_name("file"));
        let answer = crate::reqwest_client().post(url).multipart(form).send().await.expect("the message node answers");
        let answer: Value = answer.json().await.expect("it answers in JSON");
        assert_eq!(answer["hash"], json!(cid), "{answer}");
        let envelope = self.store(ItemType::Ipfs, cid);
        let status = self.node.submit(&envelope, true).await.expect("the message node answers");
        assert_eq!(status.as_str(), "processed");
        envelope.item_hash
    }

    fn store(&self, item_type: ItemType, item_hash: String) -> Envelope {
        let content = StoreContent {
            address: self.account.address().clone(),
            time: MessageTime::now(),
            item_type,
            item_hash,
            reference: None,
            payment: None,
            metadata: None,
        };
        let content = serde_json::to_string(&content).expect("a content is JSON");
        Envelope::sign_inline(&self.account, MessageType::Store, content, MessageTime::now(), None)
    }

    /// Publishes a program. `changes` are merged into a program on demand that runs this code in this runtime: objects
    /// field by field, everything else as it is. Says its id.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn program(&self, code: &str, runtime: &str, changes: Value) -> String {
        let mut content = json!({
            "address": self.account.address(), "time": MessageTime::now(), "allow_amend": true,
            // All fields, because others compare what they read with what was sent (`aleph-message`).
            "type": "vm-function", "volumes": [],
            "environment": { "reproducible": false, "internet": false, "aleph_api": false, "shared_cache": false },
            "resources": { "memory": 128, "vcpus": 1, "seconds": 30 },
            "code": { "encoding": "plain", "entrypoint": "main:app", "ref": code, "use_latest": false },
            "runtime": { "ref": runtime, "use_latest": true, "comment": "" }, "on": { "http": true },
        });
        merge(&mut content, changes);
        let (content, time) = (content.to_string(), MessageTime::now());
        let envelope = Envelope::sign_inline(&self.account, MessageType::Program, content, time, None);
        let status = self.node.submit(&envelope, true).await.expect("the message node answers");
        assert_eq!(status.as_str(), "processed");
        envelope.item_hash
    }
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (name, value) in changes {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, value) => *into = value,
    }
}

impl Network {
    /// The STORE message of a runtime image of the network.
    ///
    /// # Panics
    /// When there is no such image.
    pub async fn runtime(&self, name: &str) -> String {
        let node = protocol::client::MessageNode::new(&self.message_node_url);
        let images: Option<VmImages> = node.aggregate(SETTINGS_ADDRESS, VM_IMAGES_KEY).await.expect("it answers");
        let image = images.and_then(|mut images| images.runtimes.remove(name));
        image.unwrap_or_else(|| panic!("no runtime {name}")).hash
    }

    /// Where the message node keeps the bytes of a file.
    ///
    /// # Panics
    /// When it does not have them.
    pub fn stored_file(&self, bytes: &[u8]) -> PathBuf {
        let folders = std::fs::read_dir(self.root().join("message-node/files")).expect("there are files");
        let folders = folders.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
        let files = folders.flat_map(|folder| std::fs::read_dir(folder).expect("it is a folder").flatten());
        let mut files = files.map(|entry| entry.path());
        files.find(|path| std::fs::read(path).is_ok_and(|kept| kept == bytes)).expect("the file is kept")
    }
}
