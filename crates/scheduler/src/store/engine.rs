//! The database engines: SQLite in one file, for a scheduler alone, and PostgreSQL, for several.
//!
//! Both run the same statements on the same schema. What differs is here: how a connection is set up, how a transaction
//! begins, and how it makes sure that its scheduler still leads.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, AnyPool, ConnectOptions};
use url::Url;

use super::StoreError;

/// Connections that read at the same time.
const READERS: u32 = 4;
/// How long a request waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How each connection to SQLite is set up: what was committed is on the disk, and a lock of another process (a backup,
/// say) is waited for.
const SQLITE: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000";

/// How each connection to PostgreSQL is set up: a statement that hangs, or a scheduler that hangs in a transaction, stops
/// others for 5 s at most; and what was committed is on the disk, whatever the database's default is.
const POSTGRES: &str = "SET statement_timeout = '5s'; SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '5s';
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// The same for connections that only read.
const POSTGRES_READER: &str = "SET statement_timeout = '5s'; SET default_transaction_read_only = on";

/// Where a scheduler's database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A file, which no other scheduler uses.
    Sqlite(PathBuf),
    /// A PostgreSQL server, `postgres://user:password@host/database`, which other schedulers use as well.
    Postgres(Url),
}

/// The kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    /// The statement that begins a transaction that writes.
    pub(super) fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN",
        }
    }

    /// The statement that finds a row as long as a leader epoch is the newest, and keeps it that way until the
    /// transaction ends. SQLite needs no more: nobody else writes meanwhile.
    pub(super) fn leader_check(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT leader_epoch FROM leader WHERE leader_epoch = $1",
            Self::Postgres => "SELECT leader_epoch FROM leader WHERE leader_epoch = $1 FOR SHARE",
        }
    }
}

/// Opens the connections that write and those that read.
pub(super) async fn connect(database: &Database) -> Result<(Engine, AnyPool, AnyPool), StoreError> {
    sqlx::any::install_default_drivers();
    let pool = || AnyPoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT).max_lifetime(None).idle_timeout(None);
    match database {
        Database::Sqlite(path) => {
            let path = std::path::absolute(path).map_err(sqlx::Error::from)?;
            let mut url = Url::parse("sqlite:///").expect("it is a URL");
            url.set_path(path.to_str().ok_or_else(|| StoreError::NotText(path.clone()))?);
            let options = |mode: &str| {
                let mut url = url.clone();
                url.set_query(Some(&format!("mode={mode}")));
                AnyConnectOptions::from_url(&url).map(ConnectOptions::disable_statement_logging)
            };
            let writer = pool().max_connections(1).after_connect(|c, _| Box::pin(execute(c, SQLITE)));
            let writer = writer.connect_with(options("rwc")?).await?;
            let readers = pool().max_connections(READERS).connect_with(options("ro")?).await?;
            Ok((Engine::Sqlite, writer, readers))
        }
        Database::Postgres(url) => {
            let options = AnyConnectOptions::from_str(url.as_str())?.disable_statement_logging();
            // One writes transactions, one says that the leader lives, and nobody waits for the other.
            let writer = pool().max_connections(2).after_connect(|c, _| Box::pin(execute(c, POSTGRES)));
            let readers = pool().max_connections(READERS).after_connect(|c, _| Box::pin(execute(c, POSTGRES_READER)));
            let writer = writer.connect_with(options.clone()).await?;
            Ok((Engine::Postgres, writer, readers.connect_lazy_with(options)))
        }
    }
}

async fn execute(connection: &mut AnyConnection, statements: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(statements).execute(connection).await.map(drop)
}
