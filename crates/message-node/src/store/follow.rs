//! How far other message nodes were followed.

use super::{Connection, Stored};
use crate::core::follow::Progress;

/// How far this source was followed.
pub(crate) async fn progress(db: &mut Connection, source: &str) -> Stored<Progress> {
    let row: Option<(i64, i64)> = sqlx::query_as("SELECT until_us, whole_us FROM follow WHERE source = $1")
        .bind(source)
        .fetch_optional(db)
        .await?;
    Ok(row.map(|(until_us, whole_us)| Progress { until_us, whole_us }).unwrap_or_default())
}

/// This source was followed so far.
pub(crate) async fn keep(db: &mut Connection, source: &str, progress: Progress) -> Stored<()> {
    sqlx::query(
        "INSERT INTO follow (source, until_us, whole_us) VALUES ($1, $2, $3)
         ON CONFLICT (source) DO UPDATE SET until_us = excluded.until_us, whole_us = excluded.whole_us",
    )
    .bind(source)
    .bind(progress.until_us)
    .bind(progress.whole_us)
    .execute(db)
    .await?;
    Ok(())
}
