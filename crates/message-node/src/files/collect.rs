//! Deletes what nothing needs any more: files without reference after their grace time, bytes without a row, old rejections,
//! and what every process has read in the journal.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::TryStreamExt;
use object_store::ObjectStoreExt as _;
use tokio_util::sync::CancellationToken;

use super::Files;
use super::naming::name_old_files;
use crate::clock::{micros, now_us};
use crate::config::{Limits, Timing};
use crate::pipeline::Context;
use crate::store::{Store, Stored, files as store_files, journal, messages};

/// Files that are deleted before others get a turn at the file store.
const BATCH: u32 = 64;

/// For how long a process that lost the database for a while can go on where it was in the journal.
const JOURNAL_KEPT: Duration = Duration::from_secs(600);

/// For how long bytes may have no row. No upload takes as long.
const STRAY_AFTER: TimeDelta = TimeDelta::days(1);

/// What was deleted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Files.
    pub files: u64,
    /// Rejected messages.
    pub rejected: u64,
}

/// Collects now and then until the shutdown, and first gives old files the names that they lack.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let naming = async {
        let named = shutdown.run_until_cancelled(name_old_files(&context.files, &context.store)).await;
        if let Some(Err(error)) = named {
            tracing::warn!(%error, "could not find the CIDs of all old files; trying again at the next start");
        }
    };
    tokio::join!(naming, collect_until(&context, &shutdown));
}

async fn collect_until(context: &Context, shutdown: &CancellationToken) {
    let Context { files, store, limits, timing, .. } = context;
    if let Err(error) = delete_strays(files, store, Utc::now()).await {
        tracing::warn!(%error, "could not look for stray files; trying again at the next start");
    }
    // The first look comes soon after the start, so that nodes which restart often collect, too.
    let mut wait = timing.collect_every.min(Duration::from_secs(60));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        match collect(files, store, limits, timing, now_us()).await {
            Ok(Collected { files: 0, rejected: 0 }) => {}
            Ok(done) => tracing::info!(files = done.files, rejected = done.rejected, "collected what nothing needs"),
            Err(error) => tracing::warn!(%error, "could not collect; trying again later"),
        }
        wait = timing.collect_every;
    }
}

/// Collects once, as of `now_us`.
pub(crate) async fn collect(
    files: &Files,
    store: &Store,
    limits: &Limits,
    timing: &Timing,
    now_us: i64,
) -> Stored<Collected> {
    let mut done = Collected::default();
    loop {
        // Looked for without keeping anybody from anything: there may be very many files.
        let unneeded = store_files::unneeded(&mut *store.read().await?, now_us, BATCH).await?;
        done.files += delete(files, store, &unneeded, now_us).await?;
        if unneeded.len() < BATCH as usize {
            break;
        }
    }
    let mut tx = store.write().await?;
    let before_us = now_us - micros(timing.rejected_retention);
    done.rejected = messages::prune_rejected(&mut tx, before_us, limits.rejected).await?;
    if store.is_shared() {
        journal::prune(&mut tx, now_us - micros(JOURNAL_KEPT)).await?;
    }
    tx.commit().await?;
    Ok(done)
}

/// Deletes files, except those that came to be needed since they were looked for.
async fn delete(files: &Files, store: &Store, unneeded: &[String], now_us: i64) -> Stored<u64> {
    let mut tx = store.write().await?;
    let mut deleted = Vec::new();
    for hash in unneeded {
        deleted.extend(store_files::delete_if_unneeded(&mut tx, hash, now_us).await?);
    }
    tx.commit().await?;
    for file in &deleted {
        files.delete(file).await?;
    }
    Ok(deleted.len() as u64)
}

/// Deletes bytes that have had no row for long, left by a crash between the two. Those that are young may be about to get one, by
/// another process: that this one still leads, it finds out with a delay.
async fn delete_strays(files: &Files, store: &Store, now: DateTime<Utc>) -> Stored<()> {
    let mut objects = files.place.objects.list(None);
    while let Some(object) = objects.try_next().await? {
        let mut parts = object.location.parts();
        let (Some(_folder), Some(name)) = (parts.next(), parts.next()) else { continue };
        // In this order: what is not arriving any more has got its row before.
        let is_arriving = files.arriving.objects().contains(name.as_ref());
        let is_young = now - object.last_modified < STRAY_AFTER;
        if is_arriving || is_young || store_files::is_object(&mut *store.read().await?, name.as_ref()).await? {
            continue;
        }
        tracing::info!(object = %object.location, "deleting a stray file");
        files.place.objects.delete(&object.location).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, open, upload};
    use super::*;
    use crate::store::stores::{self, NewStore};
    use protocol::FileHash;

    async fn run_once(files: &Files, store: &Store, now_us: i64) -> Collected {
        collect(files, store, &Limits::default(), &Timing::default(), now_us).await.unwrap()
    }

    #[tokio::test]
    async fn files_go_when_nothing_refers_to_them_and_their_time_is_over() {
        let (_folder, files, store) = open().await;
        let kept = FileHash::of(b"kept").to_string();
        for content in [b"kept".as_slice(), b"dropped"] {
            files.publish(upload(&files, content).await, &store, 100).await.unwrap();
        }
        let mut tx = store.write().await.unwrap();
        let row = NewStore {
            item_hash: "m",
            owner: "o",
            address: "O",
            file_hash: &kept,
            named_as: &kept,
            tag: "m",
            reference: None,
            time_us: 1,
        };
        stores::insert(&mut tx, &row).await.unwrap();
        tx.commit().await.unwrap();
        let unneeded = found(&store, b"dropped").await.unwrap();
        assert_eq!(run_once(&files, &store, 100).await.files, 0, "the grace time is not over");
        assert_eq!(run_once(&files, &store, 101).await.files, 1);
        assert!(files.bytes(&found(&store, b"kept").await.unwrap()).await.is_ok());
        assert_eq!(found(&store, b"dropped").await, None);
        assert!(files.bytes(&unneeded).await.is_err());
        assert_eq!(run_once(&files, &store, 101).await.files, 0);
    }

    #[tokio::test]
    async fn bytes_without_a_row_go() {
        let (_folder, files, store) = open().await;
        files.publish(upload(&files, b"known").await, &store, 0).await.unwrap();
        let [mut stray, arriving] = [upload(&files, b"stray").await, upload(&files, b"arriving").await];
        let object = super::super::location(stray.spooled.object());
        stray.spooled.keep();
        drop(stray);
        delete_strays(&files, &store, Utc::now()).await.unwrap();
        assert!(files.place.objects.get(&object).await.is_ok(), "it may be about to get a row");
        delete_strays(&files, &store, Utc::now() + STRAY_AFTER).await.unwrap();
        assert!(files.bytes(&found(&store, b"known").await.unwrap()).await.is_ok());
        assert!(matches!(files.place.objects.get(&object).await, Err(object_store::Error::NotFound { .. })));
        files.publish(arriving, &store, 0).await.unwrap();
        assert!(files.bytes(&found(&store, b"arriving").await.unwrap()).await.is_ok());
    }
}
