//! What the signed history of a program says, in the words of the witnesses.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use protocol::history::{Entry, Fact};

use crate::check::Live;
use crate::data::Claim;
use crate::witness::now;

/// A history that was verified.
pub(crate) struct History {
    entries: Vec<Entry>,
    /// When the machine booted, by the clock on the wall. All hosts have one clock.
    booted: u64,
}

impl History {
    /// Reads what `aleph program history --json` prints.
    ///
    /// # Errors
    /// When it is no history.
    pub(crate) fn read(json: &str) -> Result<Self, String> {
        let history: serde_json::Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let entries = serde_json::from_value(history["entries"].clone()).map_err(|e| e.to_string())?;
        Ok(Self { entries, booted: nanos(Utc::now()) - now() })
    }

    /// Nanoseconds of `CLOCK_BOOTTIME`.
    fn boottime(&self, at: DateTime<Utc>) -> u64 {
        nanos(at).saturating_sub(self.booted)
    }

    /// Each epoch, with when it had ended.
    fn epochs(&self) -> BTreeMap<u64, Option<u64>> {
        let mut epochs = BTreeMap::new();
        for entry in &self.entries {
            match &entry.fact {
                Fact::Assigned => drop(epochs.insert(entry.epoch.get(), None)),
                Fact::Ended { .. } => drop(epochs.insert(entry.epoch.get(), Some(self.boottime(entry.at)))),
                _ => {}
            }
        }
        epochs
    }

    /// Whether it says the same as the witness: each epoch that ran was assigned, and ran no more when the scheduler wrote
    /// that it had ended. Says how many epochs there were.
    ///
    /// # Errors
    /// Where they differ.
    pub(crate) fn agrees<'a>(&self, live: impl Iterator<Item = &'a Live>) -> Result<usize, String> {
        let epochs = self.epochs();
        for instant in live {
            match epochs.get(&instant.epoch) {
                None => return Err(format!("epoch {} ran and was never assigned", instant.epoch)),
                Some(Some(ended)) if *ended < instant.at => {
                    let late = Duration::from_nanos(instant.at - ended);
                    return Err(format!("epoch {} ran {late:?} after it was written to have ended", instant.epoch));
                }
                Some(_) => {}
            }
        }
        Ok(epochs.len())
    }

    /// What it says was lost.
    pub(crate) fn claims(&self) -> Vec<Claim> {
        let epochs = self.epochs();
        let claim = |entry: &Entry| match &entry.fact {
            Fact::DataLost { of, at_most_ms, .. } => Some(Claim {
                epoch: entry.epoch.get(),
                ended: epochs.get(&of.get()).copied().flatten()?,
                at_most: at_most_ms.map(|ms| ms.saturating_mul(1_000_000)),
            }),
            _ => None,
        };
        self.entries.iter().filter_map(claim).collect()
    }
}

fn nanos(at: DateTime<Utc>) -> u64 {
    u64::try_from(at.timestamp_nanos_opt().unwrap_or_default()).unwrap_or_default()
}
