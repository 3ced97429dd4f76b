//! The envelope that every message travels in, its hash and its signature.

use aleph_types::chain::Chain;
use aleph_types::item_hash::ItemHash;
use aleph_types::message::MessageType;
use serde::{Deserialize, Serialize};

use super::{ItemType, MessageTime, signature};
use crate::account::Account;
use crate::{Address, FileHash, FileName, FileNames};

/// Clients send content up to this many bytes inside the envelope, and longer content as a stored file (`MAX_INLINE_SIZE`
/// of the Python SDK).
pub const MAX_INLINE_BYTES: usize = 50_000;

/// The longest inline content a message node accepts, in characters (`MAX_INLINE_SIZE` of pyaleph).
pub const MAX_ITEM_CONTENT_CHARS: usize = 200_000;

/// The longest channel name, in characters.
const MAX_CHANNEL_CHARS: usize = 128;

/// The longest sender, in bytes. Addresses of all chains are much shorter.
const MAX_SENDER_BYTES: usize = 256;

/// A message as it is sent, stored and streamed. Unknown fields are ignored: nodes add `confirmations`, `size` and others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Envelope {
    /// Who signed it.
    pub sender: Address,
    /// The chain of the sender's account; it decides how the signature is checked.
    #[cfg_attr(feature = "openapi", schema(schema_with = crate::openapi::chain))]
    pub chain: Chain,
    /// Over chain, sender, type and item hash; see [`Envelope::signed_text`].
    #[serde(default, deserialize_with = "signature::deserialize", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(schema_with = crate::openapi::signature))]
    pub signature: Option<String>,
    /// What the content is.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "openapi", schema(schema_with = crate::openapi::message_type))]
    pub message_type: MessageType,
    /// Where the content is: inside, or in a file under the item hash. Old clients leave it out for `inline`.
    #[serde(default = "inline")]
    pub item_type: ItemType,
    /// The content as JSON, byte for byte; absent unless the item type is `inline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_content: Option<String>,
    /// The content's hash, which names the message.
    pub item_hash: String,
    /// The sender's clock; not signed.
    pub time: MessageTime,
    /// A free label; not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

fn inline() -> ItemType {
    ItemType::Inline
}

/// Why an envelope is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Content that is not the one of the hash.
    #[error("the item hash is {expected}, but the content hashes to {actual}: send the exact bytes that were hashed")]
    WrongHash {
        /// What the envelope says.
        expected: String,
        /// What the content gives.
        actual: String,
    },
    /// A hash of neither known form, or not of the form the item type wants.
    #[error(
        "'{hash}' is no item hash of a message with item type '{item_type}': expected a SHA-256 in lower-case \
         hexadecimal, or with 'ipfs' a CID ('Qm…', 'bafy…')"
    )]
    HashForm {
        /// The hash.
        hash: String,
        /// The item type.
        item_type: ItemType,
    },
    /// Inline without content, or content where there must be none.
    #[error("item type '{0}' {1}")]
    Content(ItemType, &'static str),
    /// Inline content beyond [`MAX_ITEM_CONTENT_CHARS`].
    #[error("Message too long: {0} characters, at most {MAX_ITEM_CONTENT_CHARS}; send longer content as a stored file")]
    TooLong(usize),
    /// A channel name that is too long.
    #[error("the channel has {0} characters, at most {MAX_CHANNEL_CHARS}; shorten it")]
    Channel(usize),
    /// A sender that is too long to be an address of any chain.
    #[error("the sender has {0} bytes, at most {MAX_SENDER_BYTES}; give its address")]
    Sender(usize),
    /// A NUL character, which databases do not take. Other nodes of the network refuse it, too.
    #[error("`{0}` has the unsupported character \\u0000; leave it out")]
    Nul(&'static str),
    /// Unsigned, or signed by somebody else.
    #[error("invalid signature: {0}")]
    Signature(String),
}

impl Envelope {
    /// Makes and signs an inline message.
    pub fn sign_inline(
        account: &Account,
        message_type: MessageType,
        item_content: String,
        time: MessageTime,
        channel: Option<String>,
    ) -> Self {
        let mut envelope = Self {
            sender: account.address().clone(),
            chain: account.chain(),
            signature: None,
            message_type,
            item_type: ItemType::Inline,
            item_hash: FileHash::of(item_content.as_bytes()).to_string(),
            item_content: Some(item_content),
            time,
            channel,
        };
        envelope.signature = Some(account.sign(envelope.signed_text().as_bytes()));
        envelope
    }

    /// The text that the sender signs.
    pub fn signed_text(&self) -> String {
        format!("{}\n{}\n{}\n{}", self.chain, self.sender, self.message_type, self.item_hash)
    }

    /// Checks what can be checked without the content of other messages: the hash's form, that inline content has this
    /// hash, lengths and the signature. Costs one elliptic-curve recovery (about 100 µs).
    ///
    /// # Errors
    /// The first of the [`EnvelopeError`]s that applies.
    pub fn verify(&self) -> Result<(), EnvelopeError> {
        self.verify_form()?;
        self.verify_signature()
    }

    /// [`Envelope::verify`] without the signature.
    ///
    /// # Errors
    /// The first of the [`EnvelopeError`]s that applies.
    pub fn verify_form(&self) -> Result<(), EnvelopeError> {
        let hash = self.parsed_hash()?;
        let form_fits = match hash {
            ItemHash::Native(_) => {
                self.item_type != ItemType::Ipfs && self.item_hash.bytes().all(|b| !b.is_ascii_uppercase())
            }
            // Another text for the same CID would be another id for the same message.
            ItemHash::Ipfs(_) => self.item_type == ItemType::Ipfs && FileName::is_cid_of_item(&self.item_hash),
        };
        if !form_fits {
            return Err(self.hash_form_error());
        }
        if let Some(channel) = &self.channel
            && channel.chars().count() > MAX_CHANNEL_CHARS
        {
            return Err(EnvelopeError::Channel(channel.chars().count()));
        }
        let sender = self.sender.as_str();
        if sender.len() > MAX_SENDER_BYTES {
            return Err(EnvelopeError::Sender(sender.len()));
        }
        let texts = [
            ("sender", Some(sender)),
            ("channel", self.channel.as_deref()),
            ("signature", self.signature.as_deref()),
            ("item_content", self.item_content.as_deref()),
        ];
        if let Some((field, _)) = texts.into_iter().find(|(_, text)| text.is_some_and(|text| text.contains('\0'))) {
            return Err(EnvelopeError::Nul(field));
        }
        match (&self.item_type, &self.item_content) {
            (ItemType::Inline, None) => Err(EnvelopeError::Content(self.item_type, "needs `item_content`")),
            (ItemType::Inline, Some(content)) => self.verify_content(content),
            (_, Some(_)) => Err(EnvelopeError::Content(self.item_type, "must not carry `item_content`")),
            (_, None) => Ok(()),
        }
    }

    /// Checks a content against the item hash, a SHA-256 or a CID, and the length limit.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLong`] or [`EnvelopeError::WrongHash`].
    pub fn verify_content(&self, content: &str) -> Result<(), EnvelopeError> {
        let length = content.chars().count();
        if self.item_type == ItemType::Inline && length > MAX_ITEM_CONTENT_CHARS {
            return Err(EnvelopeError::TooLong(length));
        }
        let (right, actual) = match self.item_type {
            ItemType::Ipfs => {
                let names = FileNames::of(content.as_bytes());
                let right = self.item_hash.parse().is_ok_and(|name| names.contain(name));
                (right, names.v0.to_string())
            }
            ItemType::Inline | ItemType::Storage => {
                let actual = FileHash::of(content.as_bytes()).to_string();
                (actual == self.item_hash, actual)
            }
        };
        if !right {
            return Err(EnvelopeError::WrongHash { expected: self.item_hash.clone(), actual });
        }
        Ok(())
    }

    /// Checks the signature alone, for every EVM chain and Solana.
    ///
    /// # Errors
    /// [`EnvelopeError::Signature`].
    pub fn verify_signature(&self) -> Result<(), EnvelopeError> {
        signature::verify(self, &self.parsed_hash()?)
    }

    fn parsed_hash(&self) -> Result<ItemHash, EnvelopeError> {
        // `aleph-types` cuts the text at bytes and panics where one is within a character.
        let text = Some(self.item_hash.as_str()).filter(|text| text.is_ascii());
        text.and_then(|text| ItemHash::try_from(text).ok()).ok_or_else(|| self.hash_form_error())
    }

    fn hash_form_error(&self) -> EnvelopeError {
        EnvelopeError::HashForm { hash: self.item_hash.clone(), item_type: self.item_type }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> Envelope {
        let account = Account::generate();
        let content = r#"{"address":"0x1","time":1.5,"key":"k","content":{}}"#.to_owned();
        Envelope::sign_inline(&account, MessageType::Aggregate, content, MessageTime::now(), Some("TEST".into()))
    }

    #[test]
    fn what_we_sign_verifies_also_after_json() {
        let envelope = signed();
        assert_eq!(envelope.verify(), Ok(()));
        let json = serde_json::to_string(&envelope).unwrap();
        assert_eq!(serde_json::from_str::<Envelope>(&json).unwrap().verify(), Ok(()));
    }

    #[test]
    fn an_envelope_without_item_type_is_inline() {
        let envelope = signed();
        let mut json = serde_json::to_value(&envelope).unwrap();
        json.as_object_mut().unwrap().remove("item_type");
        assert_eq!(serde_json::from_value::<Envelope>(json).unwrap(), envelope);
    }

    #[test]
    fn every_signed_part_matters() {
        let wrong = |change: &dyn Fn(&mut Envelope)| {
            let mut envelope = signed();
            change(&mut envelope);
            envelope.verify().unwrap_err()
        };
        assert!(matches!(wrong(&|e| e.item_content = Some("{}".into())), EnvelopeError::WrongHash { .. }));
        assert!(matches!(
            wrong(&|e| e.sender = Address::new("0x0000000000000000000000000000000000000001")),
            EnvelopeError::Signature(_)
        ));
        assert!(matches!(wrong(&|e| e.message_type = MessageType::Post), EnvelopeError::Signature(_)));
        assert!(matches!(wrong(&|e| e.chain = Chain::Base), EnvelopeError::Signature(_)));
        assert!(matches!(wrong(&|e| e.signature = None), EnvelopeError::Signature(_)));
        assert!(matches!(wrong(&|e| e.signature = Some("0x00".into())), EnvelopeError::Signature(_)));
    }

    #[test]
    fn content_on_ipfs_is_the_one_that_the_cid_names() {
        let content = "{\"key\":\"k\"}";
        let names = FileNames::of(content.as_bytes());
        for item_hash in [names.v0.to_string(), names.v0.to_cid_v1()] {
            let envelope = Envelope { item_type: ItemType::Ipfs, item_content: None, item_hash, ..signed() };
            assert_eq!(envelope.verify_form(), Ok(()));
            assert_eq!(envelope.verify_content(content), Ok(()));
            let wrong = envelope.verify_content("{\"key\":\"K\"}").unwrap_err();
            assert!(matches!(wrong, EnvelopeError::WrongHash { expected, .. } if expected == envelope.item_hash));
        }
        // What other clients cannot read, and what is none.
        for item_hash in [names.v1.to_cid_v1(), "Q".repeat(46), names.v0.to_cid_v1().to_uppercase(), "ab".repeat(32)] {
            let envelope = Envelope { item_type: ItemType::Ipfs, item_content: None, item_hash, ..signed() };
            assert!(matches!(envelope.verify_form(), Err(EnvelopeError::HashForm { .. })), "{}", envelope.item_hash);
        }
    }

    #[test]
    fn malformed_envelopes_are_refused_by_name() {
        let wrong = |change: &dyn Fn(&mut Envelope)| {
            let mut envelope = signed();
            change(&mut envelope);
            envelope.verify_form().unwrap_err()
        };
        assert!(matches!(wrong(&|e| e.item_hash = "12".into()), EnvelopeError::HashForm { .. }));
        let foreign = format!("{}\u{65a}{}", "a".repeat(33), "a".repeat(29));
        assert!(matches!(wrong(&|e| e.item_hash = foreign.clone()), EnvelopeError::HashForm { .. }));
        assert!(matches!(wrong(&|e| e.item_hash = e.item_hash.to_uppercase()), EnvelopeError::HashForm { .. }));
        assert!(matches!(wrong(&|e| e.item_type = ItemType::Ipfs), EnvelopeError::HashForm { .. }));
        assert!(matches!(wrong(&|e| e.item_type = ItemType::Storage), EnvelopeError::Content(..)));
        assert!(matches!(wrong(&|e| e.item_content = None), EnvelopeError::Content(..)));
        assert!(matches!(wrong(&|e| e.item_content = Some("é".repeat(200_001))), EnvelopeError::TooLong(200_001)));
        assert!(matches!(wrong(&|e| e.channel = Some("c".repeat(129))), EnvelopeError::Channel(129)));
        assert!(matches!(wrong(&|e| e.sender = crate::Address::new("s".repeat(257))), EnvelopeError::Sender(257)));
        assert_eq!(wrong(&|e| e.sender = crate::Address::new("0x\0")), EnvelopeError::Nul("sender"));
        assert_eq!(wrong(&|e| e.channel = Some("\0".into())), EnvelopeError::Nul("channel"));
        assert_eq!(wrong(&|e| e.signature = Some("\0".into())), EnvelopeError::Nul("signature"));
        assert_eq!(wrong(&|e| e.item_content = Some("\0".into())), EnvelopeError::Nul("item_content"));
    }
}
