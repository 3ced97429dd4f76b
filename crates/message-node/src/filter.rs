//! What lists and streams select messages by.

use protocol::Address;
use protocol::api::message_node::MessageStatus;
use protocol::message::{Envelope, MessageType};
use serde::{Deserialize, Serialize};

use crate::core::content::Content;
use crate::events::News;

/// What a message is filtered by: the columns of its row, or the fields of one that was just processed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Traits {
    /// Its hash.
    pub item_hash: String,
    /// Its type.
    pub message_type: MessageType,
    /// The word of its chain.
    pub chain: String,
    /// Its channel.
    pub channel: Option<String>,
    /// Its sender, canonical.
    pub sender: String,
    /// Its owner, canonical; unknown when the content could not be read.
    pub owner: Option<String>,
    /// The envelope's time, microseconds since 1970.
    pub time_us: i64,
    /// `content.type`.
    pub content_type: Option<String>,
    /// `content.ref`.
    pub content_ref: Option<String>,
    /// `content.item_hash`.
    pub content_hash: Option<String>,
    /// `content.key`.
    pub content_key: Option<String>,
    /// `content.content.tags`.
    pub tags: Vec<String>,
}

impl Traits {
    /// The traits of a message; `content` is `None` when it could not be read.
    pub(crate) fn new(envelope: &Envelope, content: Option<&Content>) -> Self {
        let text = |get: fn(&Content) -> Option<&str>| content.and_then(get).map(str::to_owned);
        Self {
            item_hash: envelope.item_hash.clone(),
            message_type: envelope.message_type,
            chain: envelope.chain.to_string(),
            channel: envelope.channel.clone(),
            sender: envelope.sender.canonical(),
            owner: content.map(|content| content.owner().canonical()),
            time_us: envelope.time.as_micros(),
            content_type: text(Content::type_word),
            content_ref: text(Content::reference),
            content_hash: text(Content::file_hash),
            content_key: text(Content::key),
            tags: content.map(Content::tags).unwrap_or_default().into_iter().map(str::to_owned).collect(),
        }
    }
}

/// Which messages are wanted. An empty list wants all.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Filter {
    /// Types.
    pub types: Vec<MessageType>,
    /// Places in the life cycle; processed and removing when empty.
    pub statuses: Vec<MessageStatus>,
    /// Senders, canonical.
    pub senders: Vec<String>,
    /// Owners, canonical.
    pub owners: Vec<String>,
    /// Hashes.
    pub hashes: Vec<String>,
    /// `content.ref`.
    pub refs: Vec<String>,
    /// `content.item_hash`.
    pub content_hashes: Vec<String>,
    /// `content.key`.
    pub content_keys: Vec<String>,
    /// `content.type`.
    pub content_types: Vec<String>,
    /// `content.content.tags`.
    pub tags: Vec<String>,
    /// Words of chains.
    pub chains: Vec<String>,
    /// Channels.
    pub channels: Vec<String>,
    /// Not before this time of the envelope, microseconds since 1970.
    pub start_us: Option<i64>,
    /// Before this time of the envelope, microseconds since 1970.
    pub end_us: Option<i64>,
}

impl Filter {
    /// Whether something that is told of a message now is wanted. Times are not compared: they are the sender's clock, and a
    /// follower that asked for messages "from now on" wants those of senders whose clock is behind, too.
    ///
    /// Another status is told only to those who name it: other clients take every message of a stream for a new one.
    pub(crate) fn wants_live(&self, traits: &Traits, news: News) -> bool {
        fn any<T: PartialEq>(wanted: &[T], value: &T) -> bool {
            wanted.is_empty() || wanted.contains(value)
        }
        fn some(wanted: &[String], value: Option<&String>) -> bool {
            wanted.is_empty() || value.is_some_and(|value| wanted.contains(value))
        }
        let status = match news {
            News::Arrived | News::Back => any(&self.statuses, &MessageStatus::Processed),
            News::Status(status) => self.statuses.contains(&status),
        };
        status
            && any(&self.types, &traits.message_type)
            && any(&self.senders, &traits.sender)
            && any(&self.hashes, &traits.item_hash)
            && any(&self.chains, &traits.chain)
            && some(&self.owners, traits.owner.as_ref())
            && some(&self.refs, traits.content_ref.as_ref())
            && some(&self.content_hashes, traits.content_hash.as_ref())
            && some(&self.content_keys, traits.content_key.as_ref())
            && some(&self.content_types, traits.content_type.as_ref())
            && some(&self.channels, traits.channel.as_ref())
            && (self.tags.is_empty() || traits.tags.iter().any(|tag| self.tags.contains(tag)))
    }

    /// The statuses that are wanted.
    pub(crate) fn statuses(&self) -> &[MessageStatus] {
        const IN_FORCE: [MessageStatus; 2] = [MessageStatus::Processed, MessageStatus::Removing];
        if self.statuses.is_empty() { &IN_FORCE } else { &self.statuses }
    }
}

/// The canonical form of an address that a client wrote.
pub(crate) fn canonical(address: &str) -> String {
    Address::new(address).canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits() -> Traits {
        Traits {
            item_hash: "h".into(),
            message_type: MessageType::Store,
            chain: "ETH".into(),
            channel: Some("here".into()),
            sender: "0xs".into(),
            owner: Some("0xo".into()),
            time_us: 5,
            content_type: None,
            content_ref: Some("r".into()),
            content_hash: Some("f".into()),
            content_key: None,
            tags: vec!["a".into(), "b".into()],
        }
    }

    #[test]
    fn every_list_that_is_set_must_hold_the_value() {
        let list = |value: &str| vec!["other".to_owned(), value.to_owned()];
        type Field = fn(&mut Filter) -> &mut Vec<String>;
        let cases: [(Field, &str); 8] = [
            (|f| &mut f.senders, "0xs"),
            (|f| &mut f.owners, "0xo"),
            (|f| &mut f.hashes, "h"),
            (|f| &mut f.refs, "r"),
            (|f| &mut f.content_hashes, "f"),
            (|f| &mut f.chains, "ETH"),
            (|f| &mut f.channels, "here"),
            (|f| &mut f.tags, "b"),
        ];
        for (field, value) in cases {
            let mut filter = Filter::default();
            *field(&mut filter) = list(value);
            assert!(filter.wants_live(&traits(), News::Arrived), "{value}");
            *field(&mut filter) = list("wrong");
            assert!(!filter.wants_live(&traits(), News::Arrived), "{value}");
        }
        let filter = Filter { content_types: list("note"), ..Filter::default() };
        assert!(!filter.wants_live(&traits(), News::Arrived), "a message without the field is not wanted");
        let filter = Filter { types: vec![MessageType::Post], ..Filter::default() };
        assert!(!filter.wants_live(&traits(), News::Arrived));
    }

    #[test]
    fn other_statuses_are_told_to_those_who_name_them() {
        use MessageStatus::{Processed, Removed, Removing};
        let news = [News::Arrived, News::Back, News::Status(Removing), News::Status(Removed), News::Status(Processed)];
        for (statuses, wanted) in [
            (vec![], [true, true, false, false, false]),
            (vec![Processed], [true, true, false, false, true]),
            (vec![Removed], [false, false, false, true, false]),
            (vec![Processed, Removing, Removed], [true; 5]),
        ] {
            let filter = Filter { statuses, ..Filter::default() };
            assert_eq!(news.map(|news| filter.wants_live(&traits(), news)), wanted, "{:?}", filter.statuses);
        }
    }

    #[test]
    fn live_messages_are_not_compared_by_time() {
        let filter = Filter { start_us: Some(10), end_us: Some(11), ..Filter::default() };
        assert!(filter.wants_live(&traits(), News::Arrived));
    }
}
