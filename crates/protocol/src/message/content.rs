//! The contents of STORE, FORGET, AGGREGATE and POST messages. PROGRAM has a module of its own.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ItemType, MessageTime};
use crate::Address;

/// Content that does not follow the schema of its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ContentError {
    /// The field, as `resources.memory`; `.` for the whole.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl ContentError {
    pub(super) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// Reads an item content and names the field that is wrong.
///
/// # Errors
/// [`ContentError`] with the first field that does not fit.
pub fn parse_content<T: DeserializeOwned>(item_content: &str) -> Result<T, ContentError> {
    let mut deserializer = serde_json::Deserializer::from_str(item_content);
    let content = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|e| ContentError::new(e.path().to_string(), e.inner().to_string()))?;
    deserializer.end().map_err(|e| ContentError::new(".", e.to_string()))?;
    Ok(content)
}

/// STORE: publishes a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreContent {
    /// The owner of the file.
    pub address: Address,
    /// The sender's clock.
    pub time: MessageTime,
    /// Where the file is: `storage` or `ipfs`.
    pub item_type: ItemType,
    /// The file's hash.
    pub item_hash: String,
    /// The STORE message that this is a revision of, or a name of the owner's choice.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// How the file is paid for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<Payment>,
    /// Free remarks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
}

/// FORGET: takes messages back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForgetContent {
    /// The owner of what is forgotten.
    pub address: Address,
    /// The sender's clock.
    pub time: MessageTime,
    /// Item hashes of the messages, at most 1000.
    #[serde(default)]
    pub hashes: Vec<String>,
    /// Item hashes of aggregate messages, at most 1000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aggregates: Vec<String>,
    /// Why, at most 1000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl ForgetContent {
    /// Checks the lengths that the schema limits.
    ///
    /// # Errors
    /// [`ContentError`] with the field that is too long.
    pub fn validate(&self) -> Result<(), ContentError> {
        for (name, list) in [("hashes", &self.hashes), ("aggregates", &self.aggregates)] {
            if list.len() > 1000 {
                return Err(ContentError::new(name, "at most 1000 entries"));
            }
        }
        match &self.reason {
            Some(reason) if reason.chars().count() > 1000 => {
                Err(ContentError::new("reason", "at most 1000 characters"))
            }
            _ => Ok(()),
        }
    }
}

/// AGGREGATE: merges keys into a document of the owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AggregateContent {
    /// The owner.
    pub address: Address,
    /// The sender's clock; later values win.
    pub time: MessageTime,
    /// The name of the document.
    pub key: String,
    /// What to merge into it, one level deep.
    pub content: Map<String, Value>,
}

/// POST: any document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PostContent {
    /// The owner.
    pub address: Address,
    /// The sender's clock.
    pub time: MessageTime,
    /// What kind of document; `amend` replaces the one that `ref` names.
    #[serde(rename = "type")]
    pub post_type: String,
    /// The post it refers to.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<Value>,
    /// The document.
    #[serde(default)]
    pub content: Value,
}

/// How something is paid for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payment {
    /// The chain of the tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<super::Chain>,
    /// Who receives a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver: Option<String>,
    /// The way to pay.
    #[serde(rename = "type")]
    pub kind: PaymentKind,
}

/// The ways to pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PaymentKind {
    /// By holding tokens.
    Hold,
    /// By a stream of tokens.
    Superfluid,
    /// By credits.
    Credit,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_field() {
        let error = parse_content::<StoreContent>(r#"{"address":"0x1","time":1,"item_type":"moon","item_hash":"x"}"#)
            .unwrap_err();
        assert_eq!(error.path, "item_type");
        let error = parse_content::<ForgetContent>(r#"{"address":"0x1","time":1,"hashes":[1]}"#).unwrap_err();
        assert_eq!(error.path, "hashes[0]");
        assert!(parse_content::<AggregateContent>("{}").is_err());
        assert!(parse_content::<PostContent>(r#"{"address":"0x1","time":1,"type":"a","content":1} x"#).is_err());
    }

    #[test]
    fn forget_lists_are_bounded() {
        let json = format!(r#"{{"address":"0x1","time":1,"hashes":[{}]}}"#, vec!["\"h\""; 1001].join(","));
        let content: ForgetContent = parse_content(&json).unwrap();
        assert_eq!(content.validate().unwrap_err().path, "hashes");
    }
}
