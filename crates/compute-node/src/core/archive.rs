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

use protocol::api::archive::{ArchiveList, Misfit, NextSet, SetRecord, SetState, VolumeDraft};
use protocol::data::{ArchivedSet, Lineage, SnapshotId};
use protocol::{Epoch, ProgramId};

/// The first set is looked for after this long, if the interval is longer: a node may not live that long.
const FIRST: Duration = Duration::from_secs(10);

/// How soon it is tried again after a failure; doubles each time.
const RETRY: Duration = Duration::from_secs(5);

/// The longest wait before it is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// The archive does not have what a program shall start with, or not for this program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotArchived {
    /// It has nothing that could be restored.
    #[error("nothing of the program is in the archive that could be restored")]
    Nothing,
    /// It has not this set, or not all that it builds on.
    #[error(
        "snapshot {0} is not in the archive, or a set that it builds on is damaged; list those that can be restored"
    )]
    NoSet(SnapshotId),
    /// This set of another program is not for this one.
    #[error("snapshot {0} of the other program is not for this one: {1}")]
    Misfit(SnapshotId, Misfit),
}

/// What of the archive a program shall start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// This set, as somebody wants.
    Set(ArchivedSet),
    /// The newest of its own that can be restored, but none of writes that it does not know any more.
    Newest(Lineage),
}

impl Wanted {
    /// The set that somebody wants.
    pub const fn set(self) -> Option<ArchivedSet> {
        match self {
            Self::Set(set) => Some(set),
            Self::Newest(_) => None,
        }
    }

    /// The other program whose archive has it.
    pub fn from(self) -> Option<ProgramId> {
        self.set()?.from
    }
}

/// A set of the archive, and what it is called in the pool of the program that is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The set.
    pub set: SetRecord,
    /// Its name there.
    pub name: SnapshotId,
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

/// The sets to apply, in this order, to have what is wanted. It has at least one. Those of another program have names of their
/// own here, as its epochs are not this program's.
///
/// # Errors
/// [`NotArchived`].
pub fn chain(list: &ArchiveList, wanted: Wanted, epoch: Epoch) -> Result<Vec<Link>, NotArchived> {
    let sets = match wanted {
        Wanted::Set(ArchivedSet { snapshot, .. }) => list.chain_of(snapshot).ok_or(NotArchived::NoSet(snapshot))?,
        Wanted::Newest(lineage) => {
            let mut newest_first = list.sets.iter().rev().filter(|set| !lineage.cuts_off(set.id));
            newest_first.find_map(|set| list.chain_of(set.id)).ok_or(NotArchived::Nothing)?
        }
    };
    let last = sets.len() - 1;
    let is_foreign = wanted.from().is_some();
    let name = |(at, set): (usize, &SetRecord)| match is_foreign {
        false => set.id,
        true if at == last => SnapshotId::foreign(epoch),
        true => SnapshotId::below_foreign(at as u64),
    };
    Ok(sets.into_iter().enumerate().map(|(at, set)| Link { name: name((at, set)), set: set.clone() }).collect())
}

/// Checks that the last set is for a program with these archived volumes; its own sets always are.
///
/// # Errors
/// [`NotArchived::Misfit`].
pub fn check_volumes(chain: &[Link], wanted: Wanted, archived: &[VolumeDraft]) -> Result<(), NotArchived> {
    match (chain.last(), wanted) {
        (Some(last), Wanted::Set(ArchivedSet { snapshot, from: Some(_) })) => {
            last.set.fits(archived).map_err(|why| NotArchived::Misfit(snapshot, why))
        }
        _ => Ok(()),
    }
}

/// What of a chain has to come from the archive, on a node with these complete snapshots.
pub fn missing<'a>(chain: &'a [Link], here: &[SnapshotId]) -> &'a [Link] {
    let first = chain.iter().rposition(|link| here.contains(&link.name)).map_or(0, |at| at + 1);
    &chain[first..]
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use protocol::Address;
    use protocol::api::archive::{StreamFormat, VolumeRecord, volume_key};
    use protocol::data::Branch;

    use super::*;

    const EPOCH: Epoch = Epoch::new(9);
    const NEWEST: Wanted = Wanted::Newest(Lineage::STRAIGHT);

    fn id(text: &str) -> SnapshotId {
        text.parse().unwrap()
    }

    fn set(name: &str, parent: Option<&str>, state: SetState) -> SetRecord {
        let (taken, format, made_by) = (DateTime::UNIX_EPOCH, StreamFormat::BtrfsZstd, Address::new("0x1"));
        let volume = VolumeRecord { name: "db".into(), key: volume_key("db"), size_mib: 50, bytes: None, sha256: None };
        SetRecord { id: id(name), parent: parent.map(id), state, taken, format, made_by, volumes: vec![volume] }
    }

    fn list(sets: Vec<SetRecord>) -> ArchiveList {
        ArchiveList { sets, next: NextSet::Full, bytes: 0, quota_bytes: 0 }
    }

    fn own(snapshot: &str) -> Wanted {
        Wanted::Set(ArchivedSet { snapshot: id(snapshot), from: None })
    }

    fn of_another(snapshot: &str) -> Wanted {
        Wanted::Set(ArchivedSet { snapshot: id(snapshot), from: Some(ProgramId::from_bytes([7; 32])) })
    }

    fn names(chain: &[Link]) -> Vec<String> {
        chain.iter().map(|link| link.name.to_string()).collect()
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
        let newest = chain(&list, NEWEST, EPOCH).unwrap();
        assert_eq!(names(&newest), ["1-1", "1-2", "1-3"]);
        assert_eq!(names(missing(&newest, &[])), ["1-1", "1-2", "1-3"]);
        assert_eq!(names(missing(&newest, &[id("1-1"), id("1-2")])), ["1-3"]);
        assert_eq!(names(missing(&newest, &[id("1-3")])), Vec::<String>::new());
        assert_eq!(names(&chain(&list, own("1-2"), EPOCH).unwrap()), ["1-1", "1-2"]);
        // Those of another program never take the names of its own.
        assert_eq!(names(&chain(&list, of_another("1-3"), EPOCH).unwrap()), ["0-0", "0-1", "9-0"]);
    }

    #[test]
    fn the_newest_is_none_of_writes_that_were_lost() {
        let complete = SetState::Complete;
        let sets = || vec![set("1-1", None, complete), set("1-2", None, complete), set("1-9", Some("1-2"), complete)];
        let branch = Branch { until: Some(id("1-7")), since: Epoch::new(2) };
        let lineage = Lineage::from(vec![branch]);
        let newest = |sets| chain(&list(sets), Wanted::Newest(lineage), EPOCH).map(|chain| names(&chain));
        assert_eq!(newest(sets()).unwrap(), ["1-2"]);
        assert_eq!(newest([sets(), vec![set("2-1", None, complete)]].concat()).unwrap(), ["2-1"]);
        // What counts may build on what does not: it holds no writes of that.
        assert_eq!(newest([sets(), vec![set("2-1", Some("1-9"), complete)]].concat()).unwrap(), ["1-2", "1-9", "2-1"]);
        assert_eq!(newest(vec![set("1-9", None, complete)]), Err(NotArchived::Nothing));
        let wanted = chain(&list(sets()), own("1-9"), EPOCH).unwrap();
        assert_eq!(names(&wanted), ["1-2", "1-9"], "its owner may go back there");
    }

    #[test]
    fn what_another_program_lacks_or_has_too_much_of_is_refused() {
        let draft = |name: &str, size_mib| VolumeDraft { name: name.to_owned(), size_mib };
        let list = list(vec![set("1-1", None, SetState::Complete)]);
        let check =
            |wanted, volumes: &[VolumeDraft]| check_volumes(&chain(&list, wanted, EPOCH).unwrap(), wanted, volumes);
        check(of_another("1-1"), &[draft("db", 50)]).unwrap();
        for volumes in [vec![draft("db", 49)], vec![draft("db", 50), draft("files", 1)], Vec::new()] {
            let error = check(of_another("1-1"), &volumes).unwrap_err();
            assert!(matches!(error, NotArchived::Misfit(..)), "{error}");
            check(own("1-1"), &volumes).unwrap();
        }
    }

    #[test]
    fn what_the_archive_has_not_is_said() {
        let list = list(vec![set("1-2", Some("1-1"), SetState::Complete)]);
        assert_eq!(chain(&list, NEWEST, EPOCH), Err(NotArchived::Nothing));
        let error = chain(&list, own("1-2"), EPOCH).unwrap_err();
        assert_eq!(error, NotArchived::NoSet(id("1-2")));
        assert!(error.to_string().contains("list those that can be restored"), "{error}");
    }
}
