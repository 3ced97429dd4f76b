//! Many want everything written out at the same time; one does it for all.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::btrfs::kernel;
use crate::error::Error;
use crate::pool::blocking;

/// Counts syncs of the file system.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    started: AtomicU64,
    /// The number of the last one that succeeded.
    finished: Mutex<u64>,
}

impl Syncs {
    /// Returns when a sync has succeeded that began after this call.
    pub(crate) async fn sync(&self, root: &Path) -> Result<(), Error> {
        let wanted = self.started.load(Ordering::SeqCst) + 1;
        let mut finished = self.finished.lock().await;
        if *finished >= wanted {
            return Ok(());
        }
        let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        let path = root.to_owned();
        blocking(move || kernel::sync(&path)).await.map_err(Error::at("sync", root))?;
        *finished = number;
        Ok(())
    }
}
