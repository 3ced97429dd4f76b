//! Deletes what nothing needs any more: files without reference after their grace time, bytes without a row, and old
//! rejections.

use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use tokio_util::sync::CancellationToken;

use super::naming::name_old_files;
use super::{Files, UPLOADS};
use crate::clock::{micros, now_us};
use crate::config::{Limits, Timing};
use crate::store::{Store, Stored, files as store_files, messages};

/// Files that are deleted before others get a turn at the file store.
const BATCH: u32 = 64;

/// What was deleted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Files.
    pub files: u64,
    /// Rejected messages.
    pub rejected: u64,
}

/// Collects now and then until the shutdown, and first gives old files the names that they lack.
pub(crate) async fn run(files: Files, store: Store, limits: Limits, timing: Timing, shutdown: CancellationToken) {
    let naming = async {
        let named = shutdown.run_until_cancelled(name_old_files(&files, &store)).await;
        if let Some(Err(error)) = named {
            tracing::warn!(%error, "could not find the CIDs of all old files; trying again at the next start");
        }
    };
    tokio::join!(naming, collect_until(&files, &store, &limits, &timing, &shutdown));
}

async fn collect_until(files: &Files, store: &Store, limits: &Limits, timing: &Timing, shutdown: &CancellationToken) {
    if let Err(error) = delete_strays(files, store).await {
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
    tx.commit().await?;
    Ok(done)
}

/// Deletes files, except those that came to be needed since they were looked for.
async fn delete(files: &Files, store: &Store, unneeded: &[String], now_us: i64) -> Stored<u64> {
    let _naming = files.naming.write().await;
    let mut tx = store.write().await?;
    let mut deleted = Vec::new();
    for hash in unneeded {
        if store_files::delete_if_unneeded(&mut tx, hash, now_us).await? {
            deleted.push(hash);
        }
    }
    tx.commit().await?;
    for hash in &deleted {
        files.delete(hash).await?;
    }
    Ok(deleted.len() as u64)
}

/// Deletes bytes that have no row, left by a crash between the two.
async fn delete_strays(files: &Files, store: &Store) -> Stored<()> {
    let mut objects = files.objects.list(None);
    while let Some(object) = objects.try_next().await? {
        let mut parts = object.location.parts();
        let (Some(folder), Some(name)) = (parts.next(), parts.next()) else { continue };
        if folder.as_ref() == UPLOADS {
            continue;
        }
        let known = store_files::size(&mut *store.read().await?, name.as_ref()).await?.is_some();
        if known {
            continue;
        }
        // Nobody enters a row while this is held, so that what has none now is a stray.
        let _naming = files.naming.write().await;
        if store_files::size(&mut *store.read().await?, name.as_ref()).await?.is_none() {
            tracing::info!(file = name.as_ref(), "deleting a stray file");
            files.objects.delete(&object.location).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{open, upload};
    use super::*;
    use crate::store::stores::{self, NewStore};
    use protocol::FileHash;

    async fn run_once(files: &Files, store: &Store, now_us: i64) -> Collected {
        collect(files, store, &Limits::default(), &Timing::default(), now_us).await.unwrap()
    }

    #[tokio::test]
    async fn files_go_when_nothing_refers_to_them_and_their_time_is_over() {
        let (_folder, files, store) = open().await;
        let [kept, dropped] = [b"kept".as_slice(), b"dropped"].map(|content| FileHash::of(content).to_string());
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
        assert_eq!(run_once(&files, &store, 100).await.files, 0, "the grace time is not over");
        assert_eq!(run_once(&files, &store, 101).await.files, 1);
        assert!(files.bytes(&kept).await.is_ok());
        assert!(files.bytes(&dropped).await.is_err());
        assert_eq!(run_once(&files, &store, 101).await.files, 0);
    }

    #[tokio::test]
    async fn bytes_without_a_row_go() {
        let (_folder, files, store) = open().await;
        files.publish(upload(&files, b"known").await, &store, 0).await.unwrap();
        let mut stray = upload(&files, b"stray").await;
        files.objects.rename(&stray.spooled.location, &super::super::location(&stray.hash())).await.unwrap();
        stray.spooled.objects = None;
        delete_strays(&files, &store).await.unwrap();
        assert!(files.bytes(&FileHash::of(b"known").to_string()).await.is_ok());
        assert!(files.bytes(&stray.hash()).await.is_err());
    }
}
