//! Why a scheduler cannot run.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use lease::LeaseConfigError;
use protocol::account::AccountError;

use crate::store::{Database, StoreError};

/// Why [`crate::run`] ended or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The lease constants do not fit together.
    #[error("the lease constants do not fit together: {0}")]
    Lease(#[from] LeaseConfigError),
    /// A URL of the configuration is none.
    #[error("the {what} '{url}' is no http or https URL; give one as http://127.0.0.1:4024")]
    Url {
        /// Which URL.
        what: &'static str,
        /// What was given.
        url: String,
    },
    /// The data directory cannot be made or written to.
    #[error("cannot use the data directory {path}: {source}; give one that this user can write to")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody else uses the data directory.
    #[error("another scheduler runs with the data directory {0}; stop it or give another directory")]
    Locked(PathBuf),
    /// The key cannot be read or made.
    #[error("cannot use the scheduler's key: {0}")]
    Key(#[from] AccountError),
    /// The database cannot be opened, read or brought to the current schema.
    #[error("cannot use the database {database}: {cause}")]
    Database {
        /// The file, or the server without its password.
        database: String,
        /// What the database said.
        cause: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another program using this port?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// A part of the scheduler ended that must not.
    #[error("{0} ended unexpectedly; see the log")]
    Ended(&'static str),
}

impl RunError {
    pub(crate) fn database(database: &Database, error: &StoreError) -> Self {
        let name = match database {
            Database::Sqlite(path) => path.display().to_string(),
            Database::Postgres(url) => {
                let mut url = url.clone();
                // Nothing is lost when a URL cannot have a password.
                let _ = url.set_password(None);
                url.to_string()
            }
        };
        Self::Database { database: name, cause: error.to_string() }
    }
}
