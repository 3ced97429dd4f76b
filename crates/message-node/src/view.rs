//! Messages as clients read them.
//!
//! `content` is the item content itself, not a new serialisation of it: Python clients compare both, and a float or a large
//! integer that changes on the way makes a message unreadable for them.

use protocol::api::message_node::MessageStatus;
use protocol::message::{Envelope, ItemType};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::clock::seconds;
use crate::store::messages::MessageRow;
use crate::store::{StoreError, Stored};

/// A message with everything that lists and streams show of it.
#[derive(Debug, Serialize)]
pub(crate) struct MessageView<'a> {
    sender: &'a str,
    chain: &'a str,
    signature: Option<&'a str>,
    #[serde(rename = "type")]
    message_type: &'a str,
    item_type: &'a str,
    item_content: Option<&'a str>,
    item_hash: &'a str,
    time: f64,
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a RawValue>,
    confirmations: [(); 0],
    confirmed: bool,
    size: u64,
    /// Where it is in its life, when a stream tells that this has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<MessageStatus>,
}

impl<'a> MessageView<'a> {
    /// The view of a decided message. The content of rejected messages may be no JSON; it is left out then.
    pub(crate) fn of_row(row: &'a MessageRow) -> Self {
        let text = row.content.as_deref();
        let checked = row.status.0.is_in_force();
        Self {
            sender: &row.sender,
            chain: &row.chain,
            signature: row.signature.as_deref(),
            message_type: &row.message_type,
            item_type: &row.item_type,
            item_content: text.filter(|_| row.item_type == INLINE),
            item_hash: &row.item_hash,
            time: seconds(row.time_us),
            channel: row.channel.as_deref(),
            content: text.filter(|text| checked || is_readable(text)).and_then(|text| serde_json::from_str(text).ok()),
            confirmations: [],
            confirmed: false,
            size: row.size(),
            status: None,
        }
    }

    /// The same with where it is in its life.
    pub(crate) fn with_status(self, status: MessageStatus) -> Self {
        Self { status: Some(status), ..self }
    }
}

/// Whether clients can read all of a JSON text. What only has the form of one may hold half a character (`"\ud83d"`) or a
/// number beyond all bounds, and spoil the answer that it stands in.
fn is_readable(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok()
}

/// The word of [`ItemType::Inline`].
const INLINE: &str = "inline";

/// The content of a message in force as JSON.
///
/// # Errors
/// When the database holds something else.
pub(crate) fn content(row: &MessageRow) -> Stored<&RawValue> {
    raw(row.content.as_deref().unwrap_or_default(), &row.item_hash)
}

/// A text as JSON.
///
/// # Errors
/// When it is none.
pub(crate) fn raw<'a>(text: &'a str, of: &str) -> Stored<&'a RawValue> {
    serde_json::from_str(text).map_err(|e| StoreError::corrupt("content", of, e))
}

/// A message that was just processed, or waits to be, as JSON text.
pub(crate) fn to_json(envelope: &Envelope, content: Option<&str>) -> String {
    let (chain, message_type) = (envelope.chain.to_string(), envelope.message_type.to_string());
    let item_type = envelope.item_type.to_string();
    let view = MessageView {
        sender: envelope.sender.as_str(),
        chain: &chain,
        signature: envelope.signature.as_deref(),
        message_type: &message_type,
        item_type: &item_type,
        item_content: content.filter(|_| envelope.item_type == ItemType::Inline),
        item_hash: &envelope.item_hash,
        time: envelope.time.as_seconds(),
        channel: envelope.channel.as_deref(),
        content: content.filter(|text| is_readable(text)).and_then(|text| serde_json::from_str(text).ok()),
        confirmations: [],
        confirmed: false,
        size: content.map_or(0, |text| text.len() as u64),
        status: None,
    };
    serde_json::to_string(&view).expect("a message is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Account;
    use protocol::api::message_node::StoredMessage;
    use protocol::message::{MessageTime, MessageType};

    #[test]
    fn contents_are_served_byte_for_byte() {
        let content = r#"{"address":"0x1","time":1795324003.4256161,"type":"t","content":{"n":1E+30,"z":1,"a":0.10}}"#;
        let envelope = Envelope::sign_inline(
            &Account::generate(),
            MessageType::Post,
            content.to_owned(),
            MessageTime::from_seconds(1_795_324_003.425_616).unwrap(),
            None,
        );
        let json = to_json(&envelope, Some(content));
        assert!(json.contains(&format!(r#""content":{content}"#)), "{json}");
        assert!(json.contains(r#""time":1795324003.425616,"#), "{json}");
        assert!(json.contains(r#""channel":null,"#), "{json}");
    }

    #[test]
    fn our_own_client_reads_it() {
        let content = r#"{"address":"0x1","time":1.5,"key":"k","content":{}}"#;
        assert_eq!(stored_and_read(content).content, serde_json::from_str(content).unwrap());
        for unreadable in [r#"{"a":"\ud83d"}"#, r#"{"a":1e400}"#, "{"] {
            assert_eq!(stored_and_read(unreadable).content, None, "{unreadable}");
        }
    }

    fn stored_and_read(content: &str) -> StoredMessage {
        let account = Account::generate();
        let envelope = Envelope::sign_inline(
            &account,
            MessageType::Aggregate,
            content.into(),
            MessageTime::now(),
            Some("c".into()),
        );
        let stored: StoredMessage = serde_json::from_str(&to_json(&envelope, Some(content))).unwrap();
        assert_eq!(stored.envelope, envelope);
        assert_eq!(stored.size, content.len() as u64);
        stored
    }
}
