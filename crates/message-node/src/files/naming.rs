//! Finds the CIDs of files that were stored before CIDs were kept, once.

use futures_util::TryStreamExt;
use protocol::FileHasher;

use super::Files;
use crate::store::files::Found;
use crate::store::{Store, StoreError, Stored, files as store_files};

/// Files that are looked up at once.
const BATCH: u32 = 64;

/// Gives every file that has none its CIDs. Files that cannot be read, or are damaged, are left as they are.
pub(super) async fn name_old_files(files: &Files, store: &Store) -> Stored<()> {
    let (mut last, mut named) = (String::new(), 0_u64);
    loop {
        let unnamed = store_files::without_cid(&mut *store.read().await?, &last, BATCH).await?;
        let Some(newest) = unnamed.last() else { break };
        last.clone_from(&newest.hash);
        for file in &unnamed {
            let hash = &file.hash;
            match name(files, store, file).await {
                Ok(true) => named += 1,
                Ok(false) => tracing::warn!(file = hash, "its bytes are not those of its SHA-256: it gets no CID"),
                Err(error @ StoreError::Files(_)) => tracing::warn!(file = hash, %error, "it gets no CID"),
                Err(error) => return Err(error),
            }
        }
    }
    if named > 0 {
        tracing::info!(files = named, "found the CIDs of files that were stored before CIDs were kept");
    }
    Ok(())
}

/// Whether the bytes were right.
async fn name(files: &Files, store: &Store, file: &Found) -> Stored<bool> {
    let (mut hasher, mut bytes) = (FileHasher::new(), files.stream(file, None).await?);
    while let Some(chunk) = bytes.try_next().await? {
        hasher.update(&chunk);
    }
    let names = hasher.finish();
    if names.sha256.to_string() != file.hash {
        return Ok(false);
    }
    let mut tx = store.write().await?;
    store_files::add_names(&mut tx, &file.hash, &names.all()).await?;
    tx.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, open, upload};
    use super::*;
    use protocol::FileNames;

    #[tokio::test]
    async fn old_files_get_their_cids_and_damaged_ones_do_not() {
        let (folder, files, store) = open().await;
        for content in [b"old".as_slice(), b"damaged", b"lost"] {
            files.publish(upload(&files, content).await, &store, 0).await.unwrap();
        }
        let mut tx = store.write().await.unwrap();
        sqlx::query("DELETE FROM file_cids").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let mut paths = Vec::new();
        for content in [b"damaged".as_slice(), b"lost"] {
            let row = found(&store, content).await.unwrap();
            paths.push(folder.path().join("files").join(super::super::location(row.object()).as_ref()));
        }
        std::fs::write(&paths[0], "DAMAGED").unwrap();
        std::fs::remove_file(&paths[1]).unwrap();
        for _ in 0..2 {
            name_old_files(&files, &store).await.unwrap();
            for (content, is_found) in
                [(b"old".as_slice(), true), (b"damaged", false), (b"DAMAGED", false), (b"lost", false)]
            {
                let name = FileNames::of(content).v0;
                let found = store_files::find(&mut store.read().await.unwrap(), name).await.unwrap();
                assert_eq!(found.is_some(), is_found, "{content:?}");
            }
        }
    }
}
