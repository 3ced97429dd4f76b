//! The places that belong to a database: where its files are, and the archive of snapshots with its key.
//!
//! Each has a name of its own, which the database remembers. A process that was given another place answers with what is not
//! there, and would lose what it takes: it is told so, and does not start.

use super::{Connection, StoreError, Stored};

/// A place that a process was given.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// What is there.
    pub what: &'static str,
    /// What it calls itself.
    pub name: String,
    /// What is wrong and what to do when the database knows another one.
    pub otherwise: String,
}

/// Makes sure that the database knows no other places. Says whether it knows these.
///
/// # Errors
/// [`StoreError::OtherPlace`].
pub(crate) async fn check(db: &mut Connection, places: &[Given]) -> Stored<bool> {
    let mut are_known = true;
    for place in places {
        let sql = "SELECT name FROM places WHERE what = $1";
        let known: Option<String> = sqlx::query_scalar(sql).bind(place.what).fetch_optional(&mut *db).await?;
        match known {
            Some(known) if known != place.name => {
                return Err(StoreError::OtherPlace(format!(
                    "{}; the database knows the right place by the name {known}, and this one is called {}",
                    place.otherwise, place.name
                )));
            }
            known => are_known &= known.is_some(),
        }
    }
    Ok(are_known)
}

/// The database knows these places from now on, unless it knows others.
///
/// # Errors
/// [`StoreError::OtherPlace`].
pub(crate) async fn enter(db: &mut Connection, places: &[Given]) -> Stored<()> {
    for place in places {
        sqlx::query("INSERT INTO places (what, name) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(place.what)
            .bind(&place.name)
            .execute(&mut *db)
            .await?;
    }
    check(db, places).await.map(drop)
}
