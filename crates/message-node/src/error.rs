//! Why a message node cannot run.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why [`crate::run`] ended or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory cannot be made or written to.
    #[error("cannot use the data directory {path}: {source}; give one that this user can write to")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody else uses the data directory.
    #[error("another message node runs with the data directory {0}; stop it or give another directory")]
    Locked(PathBuf),
    /// The database cannot be opened or brought to the current schema.
    #[error("cannot open the database {database}: {cause}")]
    Database {
        /// The file, or the URL without its password.
        database: String,
        /// What the database said.
        cause: String,
    },
    /// The ledger of balances cannot be read.
    #[error("cannot read the ledger {path}: {cause}; it is a JSON object such as {{\"0x…\": \"10000\"}}")]
    Ledger {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// Balances have two sources.
    #[error("balances have one source; give --ledger, --balances-from or --token-rpc, and not two of them")]
    TwoBalances,
    /// The file store cannot be opened.
    #[error("cannot use the files at {place}: {source}; set --files, or what the service needs")]
    Files {
        /// The folder or URL.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// The database belongs to other places than those that were given.
    #[error("{0}")]
    OtherPlace(String),
    /// The archive cannot be opened.
    #[error("cannot use the archive of snapshots at {place}: {source}; set --snapshots, or what the service needs")]
    Snapshots {
        /// The folder or URL.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// The key of the archive cannot be read or made.
    #[error("cannot use the key of the archive, {path}: {source}")]
    SnapshotsKey {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another program using this port?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// A part of the node ended that must not.
    #[error("{0} ended unexpectedly; see the log")]
    Ended(&'static str),
}
