//! The options of a message node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ::message_node::StoragePlace;
use clap::{Args, Subcommand};
use protocol::message::MessageType;
use protocol::{Address, Alias};
use url::Url;

use super::payment::PaymentOptions;
use super::senders::SenderOptions;
use super::{base_url, retention, store};

/// `aleph-node message-node`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct MessageNodeOptions {
    #[command(subcommand)]
    pub(crate) command: Option<MessageNodeCommand>,

    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:4024", env = "ALEPH_NODE_LISTEN")]
    pub(crate) listen: SocketAddr,

    /// Where everything is kept that has no other place; a directory of its own for each process
    #[arg(long, default_value = "/var/lib/aleph-node/message-node", env = "ALEPH_NODE_DATA_DIR")]
    pub(crate) data_dir: PathBuf,

    /// A PostgreSQL database for messages, postgres://user:password@host/database, that several processes of one message
    /// node share; if not given, a SQLite file in the data directory, for this process alone
    #[arg(long, env = "ALEPH_NODE_STORE", value_parser = store)]
    pub(crate) store: Option<Url>,

    /// Where the other processes on the same PostgreSQL database reach this one, http://host:port; where it listens if not
    /// given, unless that is all addresses
    #[arg(long, value_parser = plain_url, env = "ALEPH_NODE_ADVERTISE")]
    pub(crate) advertise: Option<String>,

    /// Where files are kept: a folder, or s3://bucket/prefix with the AWS_… environment, the same for all processes on one
    /// database; files/ in the data directory if not given
    #[arg(long, env = "ALEPH_NODE_FILES")]
    pub(crate) files: Option<StoragePlace>,

    #[command(flatten)]
    pub(crate) payment: PaymentOptions,

    #[command(flatten)]
    pub(crate) senders: SenderOptions,

    /// The account whose aggregates speak for this network: pricing, settings, vm-images
    #[arg(long, env = "ALEPH_NODE_AUTHORITY")]
    pub(crate) authority: Option<Address>,

    /// Another name of a file, NAME=OF: programs that name the first mean the STORE message OF
    #[arg(long = "alias", value_delimiter = ',', env = "ALEPH_NODE_ALIASES")]
    pub(crate) aliases: Vec<Alias>,

    /// Base URLs that it is reached at: requests to the archive of snapshots are signed for their host; where it listens
    /// if not given
    #[arg(long = "url", value_delimiter = ',', value_parser = base_url, env = "ALEPH_NODE_URL")]
    pub(crate) urls: Vec<String>,

    /// Base URLs of the schedulers, which know who may archive snapshots; nobody may if not given
    #[arg(long = "scheduler", value_delimiter = ',', value_parser = base_url, env = "ALEPH_NODE_SCHEDULERS")]
    pub(crate) schedulers: Vec<String>,

    /// Where snapshots of volumes are archived: a folder, or s3://bucket/prefix with the AWS_… environment; snapshots/ in
    /// the data directory if not given
    #[arg(long, env = "ALEPH_NODE_SNAPSHOTS")]
    pub(crate) snapshots: Option<StoragePlace>,

    /// How much of a program may be archived, in multiples of the sizes of its volumes
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=1000), env = "ALEPH_NODE_SNAPSHOTS_QUOTA")]
    pub(crate) snapshots_quota: u64,

    /// How long the archive of a forgotten program is kept
    #[arg(long, default_value = "7d", value_parser = retention, env = "ALEPH_NODE_SNAPSHOTS_RETENTION")]
    pub(crate) snapshots_retention: Duration,

    /// Base URL of another message node, whose messages and files this one takes in
    #[arg(long, value_parser = base_url, env = "ALEPH_NODE_FOLLOW")]
    pub(crate) follow: Option<String>,

    /// Take in these types of messages only: PROGRAM,STORE,FORGET,AGGREGATE, say
    #[arg(long, requires = "follow", value_delimiter = ',', value_parser = message_type, env = "ALEPH_NODE_FOLLOW_ONLY")]
    pub(crate) only: Vec<MessageType>,
}

/// What else there is to do with a message node.
#[derive(Debug, Subcommand)]
pub(crate) enum MessageNodeCommand {
    /// Copy the SQLite database of a message node that is stopped into a new PostgreSQL database
    Copy(CopyOptions),
}

/// `aleph-node message-node copy`.
#[derive(Debug, Args)]
pub(crate) struct CopyOptions {
    /// The data directory with messages.sqlite; files stay where they are
    #[arg(long, default_value = "/var/lib/aleph-node/message-node", env = "ALEPH_NODE_DATA_DIR")]
    pub(crate) data_dir: PathBuf,

    /// The PostgreSQL database, postgres://user:password@host/database; nothing may be in it
    #[arg(long, env = "ALEPH_NODE_STORE", value_parser = store)]
    pub(crate) to: Url,
}

fn message_type(text: &str) -> Result<MessageType, String> {
    serde_json::from_value(text.to_uppercase().into())
        .map_err(|_| "expected a type of message: PROGRAM, STORE, FORGET, AGGREGATE, POST".to_owned())
}

/// A URL that requests are passed on to as they are.
fn plain_url(text: &str) -> Result<String, String> {
    let expected = "expected http://host:port";
    let url: Url = text.parse().map_err(|e| format!("{e}; {expected}"))?;
    let is_plain = url.scheme() == "http" && url.host_str().is_some() && url.path() == "/" && url.query().is_none();
    if is_plain { Ok(text.trim_end_matches('/').to_owned()) } else { Err(expected.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_reach_each_other_without_tls_and_without_a_path() {
        assert_eq!(plain_url("http://10.0.0.1:4024/").as_deref(), Ok("http://10.0.0.1:4024"));
        for wrong in ["https://node.example", "http://node.example/path", "node.example:4024", "http://"] {
            assert!(plain_url(wrong).unwrap_err().contains("expected http://host:port"), "{wrong}");
        }
    }
}
