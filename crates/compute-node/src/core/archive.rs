//! When a program's volumes are sent to the message node's archive, as a difference from what, and what is taken from there.
//!
//! ```text
//!             due              changed            changed               taken            complete
//!   waiting ───────▶ looking ─────────▶ listing ─────────▶ taking ─────────────▶ sending ─────────▶ waiting
//!      ▲                │ unchanged        │ unchanged        │                     │
//!      └────────────────┴──────────────────┴──────────────────┴──── failed ─────────┘
//! ```
//! The shell moves it, for each program that is live on the node. Only the newest set that can be restored is a point to go on
//! from, and only while its snapshot is in this node's pool.

use std::time::Duration;

use protocol::Epoch;
use protocol::api::archive::{ArchiveList, NextSet, SetRecord, SetState};
use protocol::data::SnapshotId;

/// The first set is looked for after this long, if the interval is longer: a node may not live that long.
const FIRST: Duration = Duration::from_secs(10);

/// How soon it is tried again after a failure; doubles each time.
const RETRY: Duration = Duration::from_secs(5);

/// The longest wait before it is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// The archive does not have what a program shall start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotArchived {
    /// It has nothing that could be restored.
    #[error("nothing of the program is in the archive that could be restored")]
    Nothing,
    /// It has not this set, or not all that it builds on.
    #[error(
        "snapshot {0} is not in the archive, or a set that it builds on is damaged; list those that can be restored"
    )]
    NoSet(SnapshotId),
}

/// How long to wait for the first look, when there is one every `interval`.
pub fn first_pause(interval: Duration) -> Duration {
    interval.min(FIRST)
}

/// How long to wait for the next try, after so many failures in a row.
pub fn pause(interval: Duration, failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => interval,
        Some(times) => RETRY.saturating_mul(2_u32.saturating_pow(times)).min(LONGEST_RETRY),
    }
}

/// The set that the next one goes on from: the newest that can be restored.
pub fn point(list: &ArchiveList) -> Option<&SetRecord> {
    list.restore_chain().last().copied()
}

/// The sets that were begun and never became complete, and would take the place of what a writer of this epoch sends.
pub fn left_open(list: &ArchiveList, epoch: Epoch) -> impl Iterator<Item = SnapshotId> {
    list.sets.iter().filter(move |set| set.state == SetState::Open && set.id.epoch <= epoch).map(|set| set.id)
}

/// The set that a new one is the difference from: what the archive advises, if it is here.
pub fn parent_of(id: SnapshotId, next: NextSet, here: impl IntoIterator<Item = SnapshotId>) -> Option<SnapshotId> {
    match next {
        NextSet::Full => None,
        NextSet::Difference { from } => here.into_iter().find(|held| *held == from && *held < id),
    }
}

/// The sets to apply, in this order, to have the wanted one, or the newest if none is named. It has at least one.
///
/// # Errors
/// [`NotArchived`].
pub fn chain(list: &ArchiveList, wanted: Option<SnapshotId>) -> Result<Vec<&SetRecord>, NotArchived> {
    match wanted {
        Some(id) => list.chain_of(id).ok_or(NotArchived::NoSet(id)),
        None => Some(list.restore_chain()).filter(|chain| !chain.is_empty()).ok_or(NotArchived::Nothing),
    }
}

/// What of a chain has to come from the archive, on a node with these complete snapshots.
pub fn missing<'a, 'b>(chain: &'a [&'b SetRecord], here: &[SnapshotId]) -> &'a [&'b SetRecord] {
    let first = chain.iter().rposition(|set| here.contains(&set.id)).map_or(0, |at| at + 1);
    &chain[first..]
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use protocol::Address;
    use protocol::api::archive::StreamFormat;

    use super::*;

    fn id(text: &str) -> SnapshotId {
        text.parse().unwrap()
    }

    fn set(name: &str, parent: Option<&str>, state: SetState) -> SetRecord {
        let (taken, format, made_by) = (DateTime::UNIX_EPOCH, StreamFormat::BtrfsZstd, Address::new("0x1"));
        SetRecord { id: id(name), parent: parent.map(id), state, taken, format, made_by, volumes: Vec::new() }
    }

    fn list(sets: Vec<SetRecord>) -> ArchiveList {
        ArchiveList { sets, next: NextSet::Full, bytes: 0, quota_bytes: 0 }
    }

    fn ids(sets: &[&SetRecord]) -> Vec<String> {
        sets.iter().map(|set| set.id.to_string()).collect()
    }

    #[test]
    fn a_difference_is_from_what_the_archive_advises_if_that_is_here() {
        let next = NextSet::Difference { from: id("1-4") };
        assert_eq!(parent_of(id("1-9"), next, [id("1-3"), id("1-4")]), Some(id("1-4")));
        assert_eq!(parent_of(id("1-9"), next, [id("1-3")]), None);
        assert_eq!(parent_of(id("1-9"), NextSet::Full, [id("1-4")]), None);
        assert_eq!(parent_of(id("1-4"), next, [id("1-4")]), None, "a parent comes before its child");
    }

    #[test]
    fn failures_are_tried_again_sooner_than_the_interval_and_then_less_and_less_often() {
        let interval = Duration::from_secs(600);
        assert_eq!((first_pause(interval), first_pause(RETRY)), (FIRST, RETRY));
        assert_eq!(pause(interval, 0), interval);
        assert_eq!((pause(interval, 1), pause(interval, 2)), (RETRY, RETRY * 2));
        assert_eq!(pause(interval, 1000), LONGEST_RETRY);
    }

    #[test]
    fn what_does_not_count_is_no_point_to_go_on_from() {
        let (complete, damaged, open) = (SetState::Complete, SetState::Damaged, SetState::Open);
        let full = || set("1-1", None, complete);
        let sets =
            vec![full(), set("1-2", Some("1-1"), damaged), set("1-3", Some("1-2"), complete), set("2-1", None, open)];
        let list = list(sets);
        assert_eq!(point(&list).map(|set| set.id), Some(id("1-1")));
        assert_eq!(left_open(&list, Epoch::new(2)).collect::<Vec<_>>(), [id("2-1")]);
        assert_eq!(left_open(&list, Epoch::new(1)).count(), 0, "a later writer has begun that");
    }

    #[test]
    fn only_what_is_not_here_already_is_fetched() {
        let complete = SetState::Complete;
        let list = list(vec![
            set("1-1", None, complete),
            set("1-2", Some("1-1"), complete),
            set("1-3", Some("1-2"), complete),
        ]);
        let newest = chain(&list, None).unwrap();
        assert_eq!(ids(&newest), ["1-1", "1-2", "1-3"]);
        assert_eq!(ids(missing(&newest, &[])), ["1-1", "1-2", "1-3"]);
        assert_eq!(ids(missing(&newest, &[id("1-1"), id("1-2")])), ["1-3"]);
        assert_eq!(ids(missing(&newest, &[id("1-3")])), Vec::<String>::new());
        assert_eq!(ids(&chain(&list, Some(id("1-2"))).unwrap()), ["1-1", "1-2"]);
    }

    #[test]
    fn what_the_archive_has_not_is_said() {
        let list = list(vec![set("1-2", Some("1-1"), SetState::Complete)]);
        assert_eq!(chain(&list, None), Err(NotArchived::Nothing));
        let error = chain(&list, Some(id("1-2"))).unwrap_err();
        assert_eq!(error, NotArchived::NoSet(id("1-2")));
        assert!(error.to_string().contains("list those that can be restored"), "{error}");
    }
}
