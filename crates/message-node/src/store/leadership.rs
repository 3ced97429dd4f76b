//! Which of several processes on one PostgreSQL database leads: the one whose connection holds the lock of [`super::engine`].

use super::engine::{self, Engine, OTHER_TABLES};
use super::{Connection, Store, StoreError, Stored};

/// Who has the right to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lock {
    /// This process.
    Ours,
    /// Another one.
    Theirs(Leader),
    /// Nobody.
    Free,
}

/// Another process that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Its name, where it is and since when, for people.
    pub who: String,
    /// Where it is reached; `None` while it has not said so.
    pub url: Option<String>,
}

impl Store {
    /// Whether other processes may use the database, too.
    pub(crate) fn is_shared(&self) -> bool {
        self.engine == Engine::Postgres
    }

    /// Who has the right to write at the moment.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub(crate) async fn lock(&self) -> Stored<Lock> {
        if !self.is_shared() {
            return Ok(Lock::Ours);
        }
        let mut db = self.read().await?;
        let Some((pid, who)) = engine::writer(&mut db).await? else { return Ok(Lock::Free) };
        if self.term.backend() == Some(pid) {
            return Ok(Lock::Ours);
        }
        let url: Option<Option<String>> = sqlx::query_scalar("SELECT url FROM leader WHERE backend_pid = $1")
            .bind(pid)
            .fetch_optional(&mut *db)
            .await?;
        Ok(Lock::Theirs(Leader { who, url: url.flatten() }))
    }

    /// Shows the database that this process, which has the right to write, does not hang. Whether the connection broke is seen
    /// by whoever uses it next.
    pub(crate) async fn keep_alive(&self) {
        // A connection that is in use needs no sign of life.
        if let Some(mut connection) = self.writer.try_acquire() {
            let _ = sqlx::Connection::ping(&mut *connection).await;
        }
    }

    /// Makes sure that the tables are those that this program knows: a process that was left behind by an upgrade must not
    /// write to them.
    ///
    /// # Errors
    /// When they are not, or cannot be looked at.
    pub(crate) async fn check_tables(&self) -> Stored<()> {
        match engine::is_current(&mut *self.read().await?).await {
            true => Ok(()),
            false => Err(StoreError::OtherTables(OTHER_TABLES)),
        }
    }
}

/// Says where the process is reached that writes this.
pub(crate) async fn announce(db: &mut Connection, url: Option<&str>) -> Stored<()> {
    sqlx::query(
        "INSERT INTO leader (only_row, backend_pid, url) VALUES (1, pg_backend_pid(), $1)
         ON CONFLICT (only_row) DO UPDATE SET backend_pid = excluded.backend_pid, url = excluded.url",
    )
    .bind(url)
    .execute(db)
    .await?;
    Ok(())
}
