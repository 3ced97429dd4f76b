//! The database engines: SQLite in one file, and PostgreSQL.
//!
//! Both run the same statements; each has its own migrations. What else differs is here: how a connection is set up, and how
//! it is made sure that one node writes.
//!
//! On PostgreSQL the connection that writes holds a lock of the database for as long as it is open. A node that loses the
//! connection loses the right to write with it, and needs the lock to have another: nobody compares clocks.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::Migrator;
use sqlx::{AnyConnection, ConnectOptions, Connection as _};
use url::Url;

use super::Store;
use crate::error::RunError;

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Connections that read at the same time.
const READERS: u32 = 8;
/// How long a request waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// How each connection to SQLite is set up: what was committed is on the disk, and a lock of another process (a backup,
/// say) is waited for.
const SQLITE: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000";

/// How each connection to PostgreSQL that writes is set up: whoever hangs in a transaction stops others for 30 s at most, a
/// machine that is gone is noticed in that time, and what was committed is on the disk, whatever the database's default is.
const POSTGRES: &str = "SET statement_timeout = '30s'; SET lock_timeout = '10s';
    SET idle_in_transaction_session_timeout = '30s';
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 4;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Makes a connection the one that writes. A node that was killed just now may still have it for a moment.
const POSTGRES_WRITER: &str = "SELECT pg_advisory_lock(1)";

/// PostgreSQL's code for a lock that was not free in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// How connections to PostgreSQL are set up that only read.
const POSTGRES_READER: &str = "SET statement_timeout = '30s'; SET default_transaction_read_only = on";

/// Where the database of a message node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// A PostgreSQL database, `postgres://user:password@host/database`.
    Postgres(Url),
}

impl Database {
    /// Its name for people, without the password.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Postgres(url) => {
                let mut url = url.clone();
                // Nothing is lost when a URL cannot have a password.
                let _ = url.set_password(None);
                // A password may also be given as a parameter.
                url.set_query(None);
                url.to_string()
            }
        }
    }

    /// The error of a node that cannot use it.
    pub(crate) fn failed(&self, cause: impl std::fmt::Display) -> RunError {
        RunError::Database { database: self.name(), cause: cause.to_string() }
    }
}

/// The kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    /// Begins a transaction in which nobody else writes.
    pub(super) fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            // Who has the connection that writes is alone.
            Self::Postgres => "BEGIN",
        }
    }

    /// Begins a transaction that takes messages in, and in which nobody else does. Messages become visible in the order of
    /// their places that way: without the lock a later one could be committed first, and who has read up to it would never
    /// see the earlier one. It only adds to what is pending, so whoever decides need not wait for it.
    pub(super) fn begin_intake(self) -> &'static str {
        match self {
            Self::Sqlite => self.begin(),
            Self::Postgres => "BEGIN; SELECT pg_advisory_xact_lock(2)",
        }
    }
}

/// Opens the database and brings it to the current schema.
pub(super) async fn open(database: &Database) -> Result<Store, RunError> {
    sqlx::any::install_default_drivers();
    let store = connect(database).await.map_err(|e| database.failed(e))?;
    let migrations = match store.engine {
        Engine::Sqlite => &SQLITE_MIGRATIONS,
        Engine::Postgres => &POSTGRES_MIGRATIONS,
    };
    migrations.run(&store.writer).await.map_err(|e| database.failed(e))?;
    Ok(store)
}

/// Every pool that writes has one connection: the others wait here, and not in the database.
async fn connect(database: &Database) -> Result<Store, sqlx::Error> {
    let pool = || AnyPoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT).max_lifetime(None).idle_timeout(None);
    match database {
        Database::Sqlite(path) => {
            let mut url = Url::parse("sqlite:///").expect("it is a URL");
            let path = std::path::absolute(path)?;
            let not_text = || sqlx::Error::Configuration("the path is no text; choose another".into());
            url.set_path(path.to_str().ok_or_else(not_text)?);
            let options = |mode: &str| {
                let mut url = url.clone();
                url.set_query(Some(&format!("mode={mode}")));
                AnyConnectOptions::from_str(url.as_str()).map(ConnectOptions::disable_statement_logging)
            };
            let writer = pool().max_connections(1).after_connect(|c, _| Box::pin(execute(c, SQLITE)));
            let writer = writer.connect_with(options("rwc")?).await?;
            let readers = pool().max_connections(READERS).connect_with(options("ro")?).await?;
            Ok(Store { engine: Engine::Sqlite, intake: writer.clone(), writer, readers })
        }
        Database::Postgres(url) => {
            let options = AnyConnectOptions::from_str(url.as_str())?.disable_statement_logging();
            try_once(&options).await?;
            let writer = pool().max_connections(1).after_connect(|c, _| Box::pin(become_writer(c)));
            let intake = pool().max_connections(1).after_connect(|c, _| Box::pin(execute(c, POSTGRES)));
            let readers = pool().max_connections(READERS).after_connect(|c, _| Box::pin(execute(c, POSTGRES_READER)));
            Ok(Store {
                engine: Engine::Postgres,
                writer: writer.connect_with(options.clone()).await?,
                intake: intake.connect_with(options.clone()).await?,
                readers: readers.connect_with(options).await?,
            })
        }
    }
}

/// Finds out whether this node can write. A pool would try again and again, and not say why not.
async fn try_once(options: &AnyConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection = AnyConnection::connect_with(options).await?;
    become_writer(&mut connection).await?;
    connection.close().await
}

async fn become_writer(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    execute(connection, POSTGRES).await?;
    execute(connection, POSTGRES_WRITER).await.map_err(|error| match &error {
        sqlx::Error::Database(cause) if cause.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => {
            sqlx::Error::Configuration("another message node uses it; stop it or give another database".into())
        }
        _ => error,
    })
}

async fn execute(connection: &mut AnyConnection, statements: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(statements).execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_database_has_no_password() {
        let url = "postgres://aleph:secret@db.example:5433/aleph?password=secret&sslmode=require";
        let name = Database::Postgres(url.parse().unwrap()).name();
        assert_eq!(name, "postgres://aleph@db.example:5433/aleph");
    }
}
