//! The databases that message nodes are measured on, and a message node alone.

use std::path::Path;

use aleph_tests::{Postgres, Role};
use anyhow::ensure;
use rustix::process::Signal;

/// A database for a message node.
pub(crate) enum Store {
    /// A file in its data directory.
    Sqlite,
    /// A database of a server of its own, on the same disk.
    Postgres {
        /// The database.
        url: String,
        /// It runs as long as this is there.
        _server: Postgres,
    },
}

impl Store {
    /// SQLite, and PostgreSQL if that is wanted.
    pub(crate) fn all(postgres: bool) -> Vec<Self> {
        let server = postgres.then(Postgres::start);
        let with_database = |server: Postgres| {
            let url = server.database();
            Self::Postgres { url, _server: server }
        };
        [Some(Self::Sqlite), server.map(with_database)].into_iter().flatten().collect()
    }

    /// What people call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres { .. } => "PostgreSQL",
        }
    }

    /// Starts a message node on this port with this data directory, whose messages are in this database.
    pub(crate) async fn start(&self, port: u16, data: &Path) -> Role {
        let mut arguments = ["--json", "message-node", "--listen"].map(str::to_owned).to_vec();
        arguments.extend([format!("127.0.0.1:{port}"), "--data-dir".to_owned(), data.display().to_string()]);
        if let Self::Postgres { url, .. } = self {
            arguments.extend(["--store".to_owned(), url.clone()]);
        }
        Role::ready(&arguments, &data.with_extension("log")).await
    }
}

/// Stops a message node in order.
pub(crate) async fn stop(role: Role) -> anyhow::Result<()> {
    ensure!(role.end(Signal::TERM).await.success(), "the message node did not end well");
    Ok(())
}
