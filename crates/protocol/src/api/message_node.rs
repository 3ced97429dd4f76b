//! The message node's API, in the shapes that existing Aleph clients read (`/api/v0`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Address;
use crate::message::{Envelope, MessageType};

/// A stored message: the envelope, the parsed content and what the node adds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StoredMessage {
    /// The message as it was sent.
    #[serde(flatten)]
    pub envelope: Envelope,
    /// The parsed item content, unchanged; absent for forgotten messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// Where the message was written to a chain; nowhere so far.
    #[serde(default)]
    pub confirmations: Vec<Value>,
    /// Whether it was written to a chain.
    #[serde(default)]
    pub confirmed: bool,
    /// Bytes of the item content.
    #[serde(default)]
    pub size: u64,
    /// Where the message is in its life now, when a stream tells that this has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<MessageStatus>,
}

/// Where a message is in its life.
///
/// ```text
///  pending ──▶ processed ──▶ forgotten
///     │            │ ▲
///     │            ▼ │ (balance)
///     ▼         removing ──▶ removed ──▶ processed (balance, for a while)
///  rejected
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum MessageStatus {
    /// Stored, not yet checked.
    Pending,
    /// In force.
    Processed,
    /// Against a rule; it has no effect.
    Rejected,
    /// Taken back by a FORGET.
    Forgotten,
    /// In force until its grace period ends: not paid for any more.
    Removing,
    /// Not in force: it was not paid for.
    Removed,
}

impl MessageStatus {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Processed => "processed",
            Self::Rejected => "rejected",
            Self::Forgotten => "forgotten",
            Self::Removing => "removing",
            Self::Removed => "removed",
        }
    }

    /// Whether the message is in force.
    pub const fn is_in_force(self) -> bool {
        matches!(self, Self::Processed | Self::Removing)
    }

    /// Whether it certainly has no effect. `Pending` is not: it is undecided. A removed message may come back.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Rejected | Self::Forgotten | Self::Removed)
    }
}

/// `GET /api/v0/messages/{hash}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MessageWithStatus {
    /// Where it is in its life.
    pub status: MessageStatus,
    /// Its name.
    pub item_hash: String,
    /// When this node received it, ISO 8601.
    pub reception_time: String,
    /// The message; for forgotten ones without content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<StoredMessage>,
    /// The message while it is pending (in a list, as pyaleph does).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<StoredMessage>>,
    /// Why it was rejected ([`crate::message::ErrorCode`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<i32>,
    /// Details of the rejection: `{"errors": [...]}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    /// Who took it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten_by: Option<Vec<String>>,
    /// Why it is being removed or was, `balance_insufficient`; or why it has been pending for long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it goes out of force (`removing`), or until when it comes back once it is paid for (`removed`), ISO 8601. Not in
    /// pyaleph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// The details of a rejection for want of balance (error code 5), in tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BalanceError {
    /// What the owner has.
    pub account_balance: String,
    /// What all its messages together and this one need.
    pub required_balance: String,
}

/// `GET /api/v0/messages.json`, by page or by cursor.
///
/// A message that cannot be read, of a chain or type that was invented later, say, does not hide the others.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "RawMessageList")]
pub struct MessageList {
    /// The messages that can be read.
    pub messages: Vec<StoredMessage>,
    /// How many cannot.
    pub unreadable: usize,
    /// In lists by cursor: where the next page starts; absent at the end.
    pub next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct RawMessageList {
    messages: Vec<Value>,
    #[serde(default)]
    next_cursor: Option<String>,
}

impl From<RawMessageList> for MessageList {
    fn from(raw: RawMessageList) -> Self {
        let listed = raw.messages.len();
        let messages: Vec<_> = raw.messages.into_iter().filter_map(|m| serde_json::from_value(m).ok()).collect();
        Self { unreadable: listed - messages.len(), messages, next_cursor: raw.next_cursor }
    }
}

/// `POST /api/v0/messages`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SubmitRequest {
    /// Whether to wait (at most 30 s) until the message is processed or rejected.
    #[serde(default)]
    pub sync: bool,
    /// The message.
    pub message: Envelope,
}

/// The answer to [`SubmitRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SubmitResponse {
    /// Whether the message was passed on.
    pub publication_status: PublicationStatus,
    /// Where the message is in its life.
    pub message_status: MessageStatus,
}

/// Whether a message was passed on; the node itself is the network here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublicationStatus {
    /// `success`, `warning` or `error`.
    pub status: String,
    /// Where it failed.
    pub failed: Vec<String>,
}

impl PublicationStatus {
    /// It was passed on.
    pub fn success() -> Self {
        Self { status: "success".to_owned(), failed: Vec::new() }
    }
}

/// The `metadata` part of `POST /api/v0/storage/add_file` and `/api/v0/ipfs/add_file`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AddFileMetadata {
    /// A signed STORE message for the file.
    pub message: Envelope,
    /// Whether to wait until the message is processed or rejected.
    #[serde(default)]
    pub sync: bool,
}

/// The answer to `POST /api/v0/storage/add_file` and `/api/v0/ipfs/add_file`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AddFileResponse {
    /// `success`.
    pub status: String,
    /// The file's SHA-256 or CID.
    pub hash: String,
}

/// `GET /api/v0/storage/limits.json`: the most bytes that a signed upload may have, where the node says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UploadLimits {
    /// By `storage/add_file`.
    pub storage: Option<u64>,
    /// By `ipfs/add_file`.
    pub ipfs: Option<u64>,
}

/// `GET /api/v0/addresses/{address}/balance`, in tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Balance {
    /// The account.
    pub address: Address,
    /// What it holds on all chains together.
    pub balance: f64,
    /// What it holds by chain.
    #[serde(default)]
    pub details: Option<Value>,
    /// What its messages need it to hold.
    pub locked_amount: f64,
    /// Its credits; none on this network.
    #[serde(default)]
    pub credit_balance: i64,
}

/// `GET /api/v0/price/{hash}` and `POST /api/v0/price/estimate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Price {
    /// The price in tokens, as a number.
    pub required_tokens: f64,
    /// `hold`.
    pub payment_type: String,
    /// The price in tokens with 18 decimals.
    pub cost: String,
    /// What it is made of.
    pub detail: Vec<PriceDetail>,
    /// Who pays.
    pub charged_address: Address,
}

/// One part of a price.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PriceDetail {
    /// `EXECUTION`, `EXECUTION_PROGRAM_VOLUME_CODE`, `EXECUTION_VOLUME_DISCOUNT` and so on (pyaleph's `CostType`).
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is for.
    pub name: String,
    /// Tokens to hold.
    pub cost_hold: String,
    /// Tokens per second; not used.
    pub cost_stream: String,
    /// Credits per second; not used.
    pub cost_credit: String,
    /// MiB, for volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_mib: Option<f64>,
}

/// `GET /api/v0/aggregates/{address}.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Aggregates {
    /// The owner.
    pub address: Address,
    /// The documents by key.
    pub data: serde_json::Map<String, Value>,
    /// Dates and hashes by key.
    #[serde(default)]
    pub info: Value,
}

/// The error body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// A short word for programs.
    pub code: String,
    /// A sentence for people: what is wrong and what to do.
    pub message: String,
    /// More, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// Filters of `GET /api/v0/messages.json` and of the WebSocket, by the names that clients use. All lists are
/// comma-separated on the wire.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MessageFilter {
    /// `msgTypes`: any of these types.
    pub types: Vec<MessageType>,
    /// `msgStatuses`: any of these; processed and removing when empty. A stream that names them tells also when a message
    /// gets one of them, if the node can do that.
    pub statuses: Vec<MessageStatus>,
    /// `addresses`: any of these senders.
    pub senders: Vec<Address>,
    /// `owners`: any of these owners (`content.address`).
    pub owners: Vec<Address>,
    /// `hashes`: any of these messages.
    pub hashes: Vec<String>,
    /// `refs`: any of these in `content.ref`.
    pub refs: Vec<String>,
    /// `startDate`: not before this time, seconds since 1970.
    pub start_date: Option<f64>,
    /// `sortOrder`: lists begin with the oldest; they begin with the newest otherwise.
    pub oldest_first: bool,
}

impl MessageFilter {
    /// The query parameters.
    pub fn to_query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        let mut list = |name, values: Vec<String>| {
            if !values.is_empty() {
                query.push((name, values.join(",")));
            }
        };
        list("msgTypes", self.types.iter().map(ToString::to_string).collect());
        list("msgStatuses", self.statuses.iter().map(|s| s.as_str().to_owned()).collect());
        list("addresses", self.senders.iter().map(ToString::to_string).collect());
        list("owners", self.owners.iter().map(ToString::to_string).collect());
        list("hashes", self.hashes.clone());
        list("refs", self.refs.clone());
        list("startDate", self.start_date.iter().map(ToString::to_string).collect());
        list("sortOrder", self.oldest_first.then(|| "1".to_owned()).into_iter().collect());
        query
    }
}
