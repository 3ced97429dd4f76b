//! The messages that the client sends.

use protocol::message::{
    Envelope, ForgetContent, ItemType, MAX_ITEM_CONTENT_CHARS, MessageTime, MessageType, ProgramContent, StoreContent,
};
use protocol::{Account, FileName};
use serde::Serialize;

use crate::failure::{Code, Failure};

/// The channel that the Python client sends to, by which explorers sort messages.
const CHANNEL: &str = "ALEPH-CLOUDSOLUTIONS";

/// A message that publishes a file; a later version of what `revision_of` published, when that is given.
pub fn store(account: &Account, file: FileName, revision_of: Option<String>) -> Envelope {
    let content = StoreContent {
        address: account.address().clone(),
        time: MessageTime::now(),
        item_type: match file {
            FileName::Sha256(_) => ItemType::Storage,
            FileName::DagPb(_) => ItemType::Ipfs,
        },
        item_hash: file.to_string(),
        reference: revision_of,
        payment: None,
        metadata: None,
    };
    sign(account, MessageType::Store, content.time, json(&content))
}

/// A message that publishes a program.
///
/// # Errors
/// [`Failure`] when the content is against the schema, so that it is not even sent.
pub fn program(account: &Account, content: &ProgramContent) -> Result<Envelope, Failure> {
    content.validate().map_err(|e| Failure::usage(e.to_string()))?;
    let text = content.to_item_content();
    let length = text.chars().count();
    if length > MAX_ITEM_CONTENT_CHARS {
        return Err(Failure::new(
            Code::TooLarge,
            format!("the message has {length} characters, and message nodes take {MAX_ITEM_CONTENT_CHARS}"),
        )
        .hint("pass fewer or shorter environment variables, or put them into a file of the code"));
    }
    Ok(sign(account, MessageType::Program, content.time, text))
}

/// A message that takes messages back.
pub fn forget(account: &Account, hashes: Vec<String>, reason: &str) -> Envelope {
    let content = ForgetContent {
        address: account.address().clone(),
        time: MessageTime::now(),
        hashes,
        aggregates: Vec::new(),
        reason: Some(reason.to_owned()),
    };
    sign(account, MessageType::Forget, content.time, json(&content))
}

fn sign(account: &Account, kind: MessageType, time: MessageTime, item_content: String) -> Envelope {
    Envelope::sign_inline(account, kind, item_content, time, Some(CHANNEL.to_owned()))
}

fn json(content: &impl Serialize) -> String {
    serde_json::to_string(content).expect("contents have only string keys")
}
