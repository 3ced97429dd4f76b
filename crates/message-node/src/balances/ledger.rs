//! A ledger in a local JSON file, `{"0x…": "10000", "0x…": 12.5}`.
//!
//! The file is looked at whenever a balance is asked for and read again when it changed. A file that cannot be read keeps
//! the last good content in force, because taking it for an empty one would take everybody's programs away.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::balances::{ByAccount, by_account};
use crate::error::RunError;

/// The largest ledger that is read, in bytes.
const MAX_LEDGER_BYTES: u64 = 64 * 1024 * 1024;

/// A ledger in a file.
#[derive(Debug)]
pub(crate) struct LedgerFile {
    path: PathBuf,
    last: Mutex<Reading>,
    /// What was in force when changes were asked for last.
    reviewed: Mutex<Option<Arc<ByAccount>>>,
}

/// The last good content, and which state of the file was looked at last, good or not.
#[derive(Debug)]
struct Reading {
    ledger: Arc<ByAccount>,
    looked_at: Option<Stamp>,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl LedgerFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`RunError::Ledger`] when it cannot be read: at the start there is no last good content.
    pub(super) fn open(path: &Path) -> Result<Self, RunError> {
        let stamp = Stamp::of(path);
        let ledger = read(path).map_err(|cause| RunError::Ledger { path: path.into(), cause })?;
        let reading = Reading { ledger: Arc::new(ledger), looked_at: stamp };
        Ok(Self { path: path.into(), last: Mutex::new(reading), reviewed: Mutex::default() })
    }

    /// The accounts whose balance is another one than when this was asked before; at first nothing has changed.
    pub(super) fn changes(&self) -> Vec<String> {
        let now = self.current();
        let mut reviewed = self.reviewed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = reviewed.replace(Arc::clone(&now)).filter(|before| !Arc::ptr_eq(before, &now)) else {
            return Vec::new();
        };
        let mut accounts: Vec<String> = before.keys().chain(now.keys()).cloned().collect();
        accounts.retain(|account| before.get(account) != now.get(account));
        accounts
    }

    /// All balances as they are now.
    pub(super) fn current(&self) -> Arc<ByAccount> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.path);
        if stamp != last.looked_at {
            match read(&self.path) {
                Ok(ledger) => {
                    tracing::info!(path = %self.path.display(), accounts = ledger.len(), "the ledger changed");
                    last.ledger = Arc::new(ledger);
                }
                Err(cause) => {
                    let path = self.path.display();
                    tracing::error!(%path, %cause, "the ledger cannot be read; the last balances stay in force");
                }
            }
            last.looked_at = stamp;
        }
        Arc::clone(&last.ledger)
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata: Metadata = fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn read(path: &Path) -> Result<ByAccount, String> {
    let bytes = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if bytes > MAX_LEDGER_BYTES {
        return Err(format!("it has {bytes} bytes, at most {MAX_LEDGER_BYTES}"));
    }
    parse(&fs::read_to_string(path).map_err(|e| e.to_string())?)
}

fn parse(text: &str) -> Result<ByAccount, String> {
    by_account(&serde_json::from_str(text).map_err(|e| e.to_string())?)
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;

    fn of(ledger: &LedgerFile, account: &str) -> Option<Decimal> {
        ledger.current().get(account).copied()
    }

    #[test]
    fn changes_count_at_once_and_broken_files_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.json");
        assert!(matches!(LedgerFile::open(&path), Err(RunError::Ledger { .. })), "it must be there at the start");
        let replace = |text: &str| {
            let new = folder.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, &path).unwrap();
        };
        replace(r#"{"0xabcd": 1}"#);
        let ledger = LedgerFile::open(&path).unwrap();
        assert_eq!(of(&ledger, "0xabcd"), Some(Decimal::ONE));
        assert_eq!(of(&ledger, "0xother"), None);
        assert!(ledger.changes().is_empty(), "nothing is known to have changed");
        replace(r#"{"0xabcd": 2, "0xnew": 1}"#);
        assert_eq!(of(&ledger, "0xabcd"), Some(Decimal::TWO));
        replace(r#"{"0xabcd": "#);
        assert_eq!(of(&ledger, "0xabcd"), Some(Decimal::TWO));
        fs::remove_file(&path).unwrap();
        assert_eq!(of(&ledger, "0xabcd"), Some(Decimal::TWO));
        let mut changes = ledger.changes();
        changes.sort_unstable();
        changes.dedup();
        assert_eq!(changes, ["0xabcd", "0xnew"]);
        assert!(ledger.changes().is_empty());
        replace(r#"{"0xABCD": 3, "0xnew": 1}"#);
        assert_eq!(of(&ledger, "0xabcd"), Some(Decimal::from(3)));
        assert!(ledger.changes().iter().all(|account| account == "0xabcd"));
        replace(r#"{"0xABCD": 3}"#);
        assert_eq!(ledger.changes(), ["0xnew"], "what is not listed any more has changed");
    }
}
