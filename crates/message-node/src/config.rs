//! What an operator can set. Plain data: where it comes from (flags, files) is the binary's business.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use protocol::message::{MessageTime, MessageType, PaymentKind};
use protocol::{Address, Aliases};
use serde_json::{Map, Value};
use url::Url;

use crate::core::chain;
use crate::core::quota::SenderRates;
use crate::place::StoragePlace;

const MIB: u64 = 1024 * 1024;

/// Settings of a message node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens. Port 0 takes a free one, which [`crate::run`] reports.
    pub listen: SocketAddr,
    /// Where it keeps everything: `messages.sqlite`, `files/`, `uploads/`, `snapshots/`, `snapshots.key` and a lock. Made when it
    /// does not exist.
    pub data_dir: PathBuf,
    /// Where files are kept; `files/` in the data directory if not given. The same for all processes on one database.
    pub files: Option<StoragePlace>,
    /// A PostgreSQL database instead of `messages.sqlite`: `postgres://user:password@host/database`. The URL may hold a
    /// password; it is shown to nobody.
    pub postgres: Option<Url>,
    /// The base URL (`http`) where other processes on the same PostgreSQL database reach this one; where it listens if not
    /// given, unless that is all addresses.
    pub advertise: Option<String>,
    /// A JSON file of balances, `{"0x…": "10000"}`, read again when it changes. Without one nothing has to be paid for.
    pub ledger: Option<PathBuf>,
    /// Accounts whose posts of the type `balances-update` say what accounts hold; not together with a ledger.
    pub balance_senders: Vec<Address>,
    /// A token whose holders can pay; not together with a ledger or trusted senders.
    pub token: Option<TokenConfig>,
    /// Which ways to pay are accepted.
    pub payment: PaymentRules,
    /// Who may send messages.
    pub senders: SenderRules,
    /// The account whose aggregates speak for the network: `pricing`, `settings`, `vm-images`, `corechannel`.
    pub authority: Option<Address>,
    /// Other names of files that programs refer to.
    pub aliases: Aliases,
    /// Products of the `pricing` aggregate that replace the built-in ones; what the authority publishes replaces both.
    pub pricing: Map<String, Value>,
    /// The archive of snapshot sets.
    pub archive: ArchiveConfig,
    /// Another message node whose messages and files this one takes in.
    pub follow: Option<FollowConfig>,
    /// Sizes and numbers.
    pub limits: Limits,
    /// Waits.
    pub timing: Timing,
}

/// A message node that is followed.
#[derive(Debug, Clone)]
pub struct FollowConfig {
    /// Its base URL.
    pub url: String,
    /// The types of messages to take in; all when empty.
    pub only: Vec<MessageType>,
}

/// Which ways to pay are accepted, besides holding tokens. Times are those of the messages' contents.
#[derive(Debug, Clone, Default)]
pub struct PaymentRules {
    /// Other ways that are accepted, and nothing is charged for them.
    pub without_charge: Vec<PaymentKind>,
    /// From this time on, only credits pay.
    pub hold_until: Option<MessageTime>,
    /// From this time on, only credits pay for persistent programs.
    pub hold_persistent_until: Option<MessageTime>,
    /// Before this time, programs on demand are free.
    pub free_on_demand_until: Option<MessageTime>,
}

/// Who may send messages, and how much.
#[derive(Debug, Clone, Default)]
pub struct SenderRules {
    /// Only these accounts, the operators and the authority; everybody if empty. Then files need a message, too.
    pub allowed: Vec<Address>,
    /// Accounts without limits.
    pub operators: Vec<Address>,
    /// How much each sender may send.
    pub rates: SenderRates,
}

/// A token on a chain, read over JSON-RPC.
#[derive(Debug, Clone)]
pub struct TokenConfig {
    /// The RPC node. The URL may hold a key; it is shown to nobody.
    pub rpc: Url,
    /// The token's contract.
    pub contract: TokenAddress,
    /// Digits of the token after the decimal point.
    pub decimals: u8,
    /// Blocks on top of a block before it counts.
    pub confirmations: u64,
    /// How often the chain is looked at.
    pub interval: Duration,
    /// How long the RPC node may take for an answer.
    pub timeout: Duration,
    /// Balances of accounts with nothing in force that are remembered.
    pub passing_accounts: usize,
}

/// The address of a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenAddress(pub [u8; 20]);

impl fmt::Display for TokenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "0x{}", hex::encode(self.0))
    }
}

impl FromStr for TokenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        chain::account(text).map(Self).ok_or_else(|| "expected 0x and 40 hexadecimal digits".to_owned())
    }
}

impl TokenConfig {
    /// The token with this contract and the default settings.
    pub fn new(rpc: Url, contract: TokenAddress) -> Self {
        Self {
            rpc,
            contract,
            decimals: 18,
            confirmations: 12,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
            passing_accounts: 10_000,
        }
    }
}

/// Settings of the archive of snapshot sets.
#[derive(Debug, Clone)]
pub struct ArchiveConfig {
    /// Where the sets are kept; `snapshots/` in the data directory if not given.
    pub place: Option<StoragePlace>,
    /// Base URLs of the schedulers, which know who may write. Without one nobody may.
    pub schedulers: Vec<String>,
    /// Base URLs that this node is reached at: signed requests name their host. The address that it listens on counts
    /// as well, unless that is all addresses.
    pub urls: Vec<String>,
    /// Bytes that the sets of a program may have together, in multiples of the sizes of its volumes.
    pub quota: u64,
    /// For how long the archive of a program stays that is over.
    pub retention: Duration,
    /// For how long a set stays that was not completed.
    pub incomplete: Duration,
    /// Streams that arrive at the same time, of all programs.
    pub uploads: usize,
    /// How often what is not needed any more is looked for.
    pub collect_every: Duration,
}

/// The largest sizes and numbers that a message node accepts.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a file uploaded together with the STORE message that publishes it.
    pub upload_bytes: u64,
    /// Bytes of a file uploaded by `ipfs/add_file` together with its message, or held by a CAR file.
    pub ipfs_upload_bytes: u64,
    /// Bytes of a CAR file.
    pub car_upload_bytes: u64,
    /// Bytes of a file uploaded without a message.
    pub anonymous_upload_bytes: u64,
    /// Uploads at the same time.
    pub uploads: usize,
    /// Bytes of the content of a message whose item type is `storage` or `ipfs`.
    pub content_bytes: u64,
    /// Bytes of one aggregate, all its messages merged.
    pub aggregate_bytes: usize,
    /// Messages that wait to be decided.
    pub pending: usize,
    /// Those of them that may wait for a balance to be known, however long that takes.
    pub unfunded: usize,
    /// Messages in one page of a list, also when a client asks for all (`pagination=0`).
    pub page: u32,
    /// Bytes of item contents in one page of a list.
    pub page_bytes: u64,
    /// Bytes of large requests and answers that are in memory at the same time.
    pub body_bytes: u64,
    /// TCP connections.
    pub connections: usize,
    /// WebSocket streams.
    pub streams: usize,
    /// Messages that one stream may lag behind before it is closed.
    pub stream_queue: usize,
    /// Rejected messages that are remembered.
    pub rejected: u64,
}

/// How long a message node waits for things.
#[derive(Debug, Clone)]
pub struct Timing {
    /// For how long a message may wait for another one, or a file, that it refers to.
    pub retry_window: Duration,
    /// Within which time a replaced program has to be forgotten when the balance does not cover both versions.
    pub replacement_window: Duration,
    /// For how long what the balance does not cover any more stays in force.
    pub grace: Duration,
    /// For how long it comes back, once removed, when it is paid for again.
    pub retention: Duration,
    /// How often balances are looked at that nobody tells to have changed.
    pub review_every: Duration,
    /// For how long a request for a balance waits until it is read.
    pub balance_wait: Duration,
    /// For how long a `sync` submission waits for the outcome.
    pub sync_wait: Duration,
    /// For how long a file stays that nothing refers to.
    pub file_grace: Duration,
    /// How often unneeded files and old rejections are collected.
    pub collect_every: Duration,
    /// For how long a rejected message is remembered.
    pub rejected_retention: Duration,
    /// How long a client of a stream may take for one message before it is closed as too slow.
    pub stream_send: Duration,
    /// For how long requests under way may go on after a shutdown was asked for.
    pub drain: Duration,
}

impl Config {
    /// The default settings of a node that listens here and keeps its data there.
    pub fn new(listen: SocketAddr, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen,
            data_dir: data_dir.into(),
            files: None,
            postgres: None,
            advertise: None,
            ledger: None,
            balance_senders: Vec::new(),
            token: None,
            payment: PaymentRules::default(),
            senders: SenderRules::default(),
            authority: None,
            aliases: Aliases::default(),
            pricing: Map::new(),
            archive: ArchiveConfig::default(),
            follow: None,
            limits: Limits::default(),
            timing: Timing::default(),
        }
    }
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            place: None,
            schedulers: Vec::new(),
            urls: Vec::new(),
            quota: 4,
            retention: Duration::from_secs(7 * 24 * 3600),
            incomplete: Duration::from_secs(24 * 3600),
            uploads: 8,
            collect_every: Duration::from_secs(600),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            upload_bytes: 1024 * MIB,
            ipfs_upload_bytes: 1024 * MIB,
            // The tree of a file adds less than a thousandth.
            car_upload_bytes: 1040 * MIB,
            anonymous_upload_bytes: 25 * MIB,
            uploads: 16,
            content_bytes: MIB,
            aggregate_bytes: 8 * 1024 * 1024,
            pending: 20_000,
            unfunded: 5_000,
            page: 1000,
            page_bytes: 64 * MIB,
            body_bytes: 512 * MIB,
            connections: 4096,
            streams: 1024,
            stream_queue: 256,
            rejected: 10_000,
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry_window: Duration::from_secs(10),
            replacement_window: Duration::from_secs(60),
            grace: Duration::from_secs(24 * 3600),
            retention: Duration::from_secs(7 * 24 * 3600),
            review_every: Duration::from_secs(5),
            balance_wait: Duration::from_secs(5),
            sync_wait: Duration::from_secs(30),
            file_grace: Duration::from_secs(24 * 3600),
            collect_every: Duration::from_secs(600),
            rejected_retention: Duration::from_secs(7 * 24 * 3600),
            stream_send: Duration::from_secs(10),
            drain: Duration::from_secs(10),
        }
    }
}
