//! The database engines: SQLite in one file, and PostgreSQL.
//!
//! Both run the same statements; each has its own migrations. What else differs is here: how a connection is set up, and how
//! it is made sure that one process writes.
//!
//! On PostgreSQL the connection that writes holds a lock of the database for as long as it is open. A process that loses the
//! connection loses the right to write with it, and needs the lock to have another: nobody compares clocks. The time with
//! one connection is a [`Term`]. Between two of them another process may have written.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AnyConnection, ConnectOptions};
use tokio::time::{Instant, sleep};
use url::Url;

use super::Store;
use crate::error::RunError;

pub(super) static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Connections that read at the same time.
const READERS: u32 = 8;
/// How long a request waits for a connection to SQLite.
const SQLITE_ACQUIRE: Duration = Duration::from_secs(30);
/// How long a request waits for a connection to PostgreSQL, also when the server restarts at that moment.
const POSTGRES_ACQUIRE: Duration = Duration::from_secs(5);
/// How long a process that starts waits for the tables as it knows them: the one that leads may be making them.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks meanwhile.
const START_INTERVAL: Duration = Duration::from_millis(100);

/// How each connection to SQLite is set up: what was committed is on the disk, and a lock of another process (a backup,
/// say) is waited for.
const SQLITE: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000";

/// How each connection to PostgreSQL that writes is set up: a process that hangs keeps others from writing for 30 s at most, a
/// machine that is gone is noticed in that time, and what was committed is on the disk, whatever the database's default is.
/// A process that does not hang shows that twice a second ([`crate::leadership`]); PostgreSQL before 14 does not look.
const POSTGRES: &str = "SET client_min_messages = warning; SET statement_timeout = '30s'; SET lock_timeout = '10s';
    SET idle_in_transaction_session_timeout = '30s';
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 4;
    SELECT set_config('idle_session_timeout', '20s', false)
        WHERE CAST(current_setting('server_version_num') AS INTEGER) >= 140000;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Makes a connection the one that writes, unless another one is; gives its number then.
const POSTGRES_LOCK: &str = "SELECT CASE WHEN pg_try_advisory_lock(1) THEN pg_backend_pid() END";

/// Who writes: the number of its connection; the name that it gave itself, where it is, since when.
const POSTGRES_WRITER: &str =
    "SELECT l.pid, CONCAT(a.application_name, ', from ', COALESCE(HOST(a.client_addr), 'the same machine'),
        ', since ', TO_CHAR(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), ' UTC')
    FROM pg_locks l JOIN pg_database d ON d.oid = l.database LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = 1 AND l.objsubid = 1
        AND d.datname = current_database()";

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
}

/// The right to write, as far as this process knows.
#[derive(Debug, Default)]
pub(super) struct Term {
    /// Grows with each connection that writes.
    number: AtomicU64,
    /// What PostgreSQL calls the last of them; 0 before the first.
    backend: AtomicI32,
    /// Why there is none, if the database said so.
    trouble: Mutex<Option<String>>,
}

impl Term {
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Why nothing can be written.
    pub(super) fn trouble(&self) -> String {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.clone().unwrap_or_else(|| "it does not answer".to_owned())
    }

    /// What PostgreSQL calls the last connection that wrote.
    pub(super) fn backend(&self) -> Option<i32> {
        Some(self.backend.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    fn has_begun(&self, backend: i32) {
        self.backend.store(backend, Ordering::Release);
        self.number.fetch_add(1, Ordering::AcqRel);
        self.set_trouble(None);
    }

    /// The last connection that wrote is gone, and another process has the right: what PostgreSQL called it may be somebody
    /// else's name by now.
    fn is_over(&self) {
        self.backend.store(0, Ordering::Release);
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Opens the database and brings it to the current schema. On PostgreSQL another process may have the right to write: then it
/// has to have brought the database to that schema.
pub(super) async fn open(database: &Database) -> Result<Store, RunError> {
    sqlx::any::install_default_drivers();
    let store = connect(database).await.map_err(|error| database.failed(said(&error)))?;
    match store.engine {
        Engine::Sqlite => SQLITE_MIGRATIONS.run(&store.writer).await.map_err(|e| database.failed(e))?,
        Engine::Postgres => migrate_or_wait(&store).await.map_err(|cause| database.failed(cause))?,
    }
    Ok(store)
}

async fn migrate_or_wait(store: &Store) -> Result<(), String> {
    let until = Instant::now() + START_PATIENCE;
    loop {
        let mut reader = store.readers.acquire().await.map_err(|error| said(&error))?;
        let Some((_, who)) = writer(&mut reader).await.map_err(|error| said(&error))? else {
            drop(reader);
            match POSTGRES_MIGRATIONS.run(&store.writer).await {
                Ok(()) => return Ok(()),
                // Another one may have been faster.
                Err(MigrateError::Execute(sqlx::Error::PoolTimedOut)) if Instant::now() < until => continue,
                Err(error) => return Err(error.to_string()),
            }
        };
        if is_current(&mut reader).await {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(format!("{OTHER_TABLES}, which leads ({who}); start the same version, or stop that one first"));
        }
        sleep(START_INTERVAL).await;
    }
}

/// What is wrong with tables that this program does not know.
pub(super) const OTHER_TABLES: &str = "its tables are those of another version of this program";

/// Whether the tables are those that this program knows.
pub(super) async fn is_current(reader: &mut AnyConnection) -> bool {
    let done = "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version";
    let done: Result<Vec<i64>, _> = sqlx::query_scalar(done).fetch_all(reader).await;
    done.is_ok_and(|done| done.into_iter().eq(POSTGRES_MIGRATIONS.iter().map(|migration| migration.version)))
}

/// The pool that writes has one connection: the others wait here, and not in the database.
async fn connect(database: &Database) -> Result<Store, sqlx::Error> {
    let pool = |wait| AnyPoolOptions::new().acquire_timeout(wait).max_lifetime(None).idle_timeout(None);
    let term = Arc::<Term>::default();
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
            let pool = || pool(SQLITE_ACQUIRE);
            let writer = pool().max_connections(1).after_connect(|c, _| Box::pin(execute(c, SQLITE)));
            let writer = writer.connect_with(options("rwc")?).await?;
            let readers = pool().max_connections(READERS).connect_with(options("ro")?).await?;
            Ok(Store { engine: Engine::Sqlite, writer, readers, term })
        }
        Database::Postgres(url) => {
            let options = AnyConnectOptions::from_str(named(url).as_str())?.disable_statement_logging();
            let pool = || pool(POSTGRES_ACQUIRE);
            let its_term = Arc::clone(&term);
            let writer = pool().max_connections(1).after_connect(move |connection, _| {
                let term = Arc::clone(&its_term);
                Box::pin(async move {
                    let became = become_writer(connection, &term).await;
                    if let Err(error) = &became {
                        term.set_trouble(Some(said(error)));
                    }
                    became
                })
            });
            let readers = pool().max_connections(READERS).after_connect(|c, _| Box::pin(execute(c, POSTGRES_READER)));
            let writer = writer.connect_lazy_with(options.clone());
            Ok(Store { engine: Engine::Postgres, writer, readers: readers.connect_with(options).await?, term })
        }
    }
}

/// The URL with a name that tells whoever looks at the database's connections whose they are.
fn named(url: &Url) -> Url {
    let mut url = url.clone();
    if !url.query_pairs().any(|(key, _)| key == "application_name") {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = format!("aleph-node message-node on {}, process {}", host.trim(), std::process::id());
        url.query_pairs_mut().append_pair("application_name", &name);
    }
    url
}

async fn become_writer(connection: &mut AnyConnection, term: &Term) -> Result<(), sqlx::Error> {
    execute(connection, POSTGRES).await?;
    let backend: Option<i32> = sqlx::query_scalar(POSTGRES_LOCK).fetch_one(&mut *connection).await?;
    if let Some(backend) = backend {
        term.has_begun(backend);
        return Ok(());
    }
    term.is_over();
    let who = writer(connection).await?.map_or_else(|| "it ends just now".to_owned(), |(_, who)| who);
    Err(sqlx::Error::Configuration(format!("another process of this message node leads ({who})").into()))
}

/// Who has the right to write, if anybody: what PostgreSQL calls the connection, and what people do.
pub(super) async fn writer(connection: &mut AnyConnection) -> Result<Option<(i32, String)>, sqlx::Error> {
    sqlx::query_as(POSTGRES_WRITER).fetch_optional(connection).await
}

/// What an error says, without what sqlx calls it when it was made here.
fn said(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Configuration(cause) => cause.to_string(),
        error => error.to_string(),
    }
}

async fn execute(connection: &mut AnyConnection, statements: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(statements).execute(connection).await.map(drop)
}

/// Whether an error says that the database cannot be used at the moment, whatever it is asked.
pub(super) fn is_away(error: &sqlx::Error) -> bool {
    /// How PostgreSQL's codes begin: no connection, no resources, stopped by the operator, not the primary.
    const CLASSES: [&str; 4] = ["08", "53", "57P", "25006"];
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error
            .code()
            .is_some_and(|code| code.len() == SQLSTATE_CHARS && CLASSES.iter().any(|class| code.starts_with(class))),
        _ => false,
    }
}

/// Whether PostgreSQL was given a text with a NUL.
pub(super) fn is_nul(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "22021")
}

/// Characters of PostgreSQL's codes. SQLite's are shorter.
const SQLSTATE_CHARS: usize = 5;

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
