//! AGGREGATE: messages that together make one document per account and key.
//!
//! Each message sets names of the document, one level deep. For each name the message with the latest content time wins
//! (ties: the larger item hash), so the document does not depend on the order in which messages arrive.

use std::collections::BTreeMap;

use protocol::message::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Rejection;

/// A document as it is served: each name with its value, byte for byte.
pub(crate) type Document = BTreeMap<String, Box<RawValue>>;

/// When something was said, for comparison.
pub(crate) type Moment = (i64, String);

/// A document that knows where each of its values came from.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Aggregate {
    entries: BTreeMap<String, Entry>,
}

/// A value, the content time of its message in microseconds since 1970, and the message's hash.
#[derive(Debug, Serialize, Deserialize)]
struct Entry(Box<RawValue>, i64, String);

impl Aggregate {
    /// Reads what [`Aggregate::to_json`] wrote.
    ///
    /// # Errors
    /// When it is something else.
    pub(crate) fn from_json(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// The form in which it is stored.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("names and values are JSON")
    }

    /// Applies one message.
    pub(crate) fn merge(&mut self, names: Document, moment: &Moment) {
        for (name, value) in names {
            let newer =
                self.entries.get(&name).is_none_or(|Entry(_, time, hash)| (*time, hash) < (moment.0, &moment.1));
            if newer {
                self.entries.insert(name, Entry(value, moment.0, moment.1.clone()));
            }
        }
    }

    /// Whether any value comes from one of these messages.
    pub(crate) fn has_values_of(&self, hashes: &[String]) -> bool {
        self.entries.values().any(|Entry(_, _, hash)| hashes.contains(hash))
    }

    /// The document.
    pub(crate) fn into_document(self) -> Document {
        self.entries.into_iter().map(|(name, Entry(value, ..))| (name, value)).collect()
    }
}

/// The names that a message sets. The content was parsed before, so that it has this shape.
///
/// # Errors
/// When the content is no AGGREGATE.
pub(crate) fn names(item_content: &str) -> serde_json::Result<Document> {
    #[derive(Deserialize)]
    struct Content {
        content: Document,
    }
    serde_json::from_str::<Content>(item_content).map(|content| content.content)
}

/// Checks the size of a document.
///
/// # Errors
/// [`ErrorCode::InvalidFormat`].
pub(crate) fn check_size(bytes: usize, most: usize) -> Result<(), Rejection> {
    if bytes <= most {
        return Ok(());
    }
    let sentence = format!("the aggregate would have {bytes} bytes, at most {most}; use another key");
    Err(Rejection::new(ErrorCode::InvalidFormat, sentence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document(aggregate: Aggregate) -> String {
        serde_json::to_string(&aggregate.into_document()).unwrap()
    }

    fn merged(messages: &[(i64, &str, &str)]) -> String {
        let mut aggregate = Aggregate::default();
        for (time, hash, content) in messages {
            aggregate.merge(names(&format!(r#"{{"content":{content}}}"#)).unwrap(), &(*time, (*hash).to_owned()));
        }
        document(aggregate)
    }

    #[test]
    fn later_values_win_one_level_deep() {
        assert_eq!(
            merged(&[(1, "a", r#"{"x":{"deep":1},"y":1}"#), (2, "b", r#"{"x":{"other":2}}"#)]),
            r#"{"x":{"other":2},"y":1}"#
        );
    }

    #[test]
    fn values_keep_their_bytes() {
        let content = r#"{"n":1795324003.4256161,"big":123456789012345678901234567890,"s":"\u00e9"}"#;
        let text = merged(&[(1, "a", content)]);
        for value in ["1795324003.4256161", "123456789012345678901234567890", r#""\u00e9""#] {
            assert!(text.contains(value), "{text}");
        }
        let mut aggregate = Aggregate::default();
        aggregate.merge(names(&format!(r#"{{"content":{content}}}"#)).unwrap(), &(1, "a".to_owned()));
        let restored = Aggregate::from_json(&aggregate.to_json()).unwrap();
        assert!(restored.has_values_of(&["a".to_owned()]));
        assert_eq!(document(restored), text);
    }

    #[test]
    fn size_is_limited() {
        assert!(check_size(10, 10).is_ok());
        assert_eq!(check_size(11, 10).unwrap_err().code, ErrorCode::InvalidFormat);
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_does_not_matter(
            messages in prop::collection::vec((0i64..4, 0u8..4, prop::collection::btree_map("[a-c]", 0u8..9, 0..3)), 0..8)
                .prop_flat_map(|messages| (Just(messages.clone()), Just(messages).prop_shuffle()))
        ) {
            let (sent, arrived) = messages;
            // A hash names one content: messages that are equal in time and hash are the same message.
            let build = |list: &[(i64, u8, BTreeMap<String, u8>)]| {
                let mut aggregate = Aggregate::default();
                for (time, salt, content) in list {
                    let hash = format!("{salt}{content:?}");
                    let content = serde_json::to_string(content).unwrap();
                    aggregate.merge(names(&format!(r#"{{"content":{content}}}"#)).unwrap(), &(*time, hash));
                }
                document(aggregate)
            };
            prop_assert_eq!(build(&sent), build(&arrived));
        }
    }
}
