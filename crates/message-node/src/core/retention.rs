//! Which sets of a program's archive may go, and what the next one should be.
//!
//! A set that is a difference needs its parent, and that one its own, down to a full one: its chain. Kept are the newest set
//! that can be restored, all of the last hour, the newest of each hour for a day, the newest of each day for a week, sets
//! that are being written, and the chains of all of these. When they do not leave room for the next full set, the oldest go first, but
//! never the newest.

use std::collections::{BTreeMap, BTreeSet};

use protocol::api::archive::NextSet;
use protocol::data::SnapshotId;

const SECOND_US: i64 = 1_000_000;
const HOUR_US: i64 = 3600 * SECOND_US;
const DAY_US: i64 = 24 * HOUR_US;
/// For how long every set is kept.
const ALL_FOR_US: i64 = HOUR_US;
/// For how long the newest set of each hour is kept.
const HOURLY_FOR_US: i64 = DAY_US;
/// For how long the newest set of each day is kept.
const DAILY_FOR_US: i64 = 7 * DAY_US;

/// Differences in a row after which a full set is due.
pub const DIFFERENCES: usize = 32;
/// The longest chain that is taken, for nodes that do not send full sets when they are due.
pub const LONGEST_CHAIN: usize = 4 * DIFFERENCES;

/// What there is to know of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetFacts {
    /// Its name.
    pub id: SnapshotId,
    /// The set that it is the difference from.
    pub parent: Option<SnapshotId>,
    /// Bytes of its streams.
    pub bytes: u64,
    /// How far it is.
    pub progress: Progress,
}

/// How far a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is being written.
    Open,
    /// It is there.
    Complete {
        /// Since when, by this node's clock, microseconds since 1970.
        at_us: i64,
        /// Whether it can be read: not damaged, and its key is known.
        usable: bool,
    },
}

/// The sets of one program.
#[derive(Debug)]
pub struct Sets<'a>(BTreeMap<SnapshotId, &'a SetFacts>);

impl<'a> Sets<'a> {
    /// These sets.
    pub fn new(sets: &'a [SetFacts]) -> Self {
        Self(sets.iter().map(|set| (set.id, set)).collect())
    }

    /// A set and those that it builds on, itself first. Ends where a parent is missing.
    pub(crate) fn chain(&self, id: SnapshotId) -> Vec<&'a SetFacts> {
        let mut chain: Vec<&SetFacts> = Vec::new();
        let mut next = self.0.get(&id);
        while let Some(set) = next {
            chain.push(set);
            // Parents are older: no circle, whatever was written.
            next = set.parent.filter(|parent| *parent < set.id).and_then(|parent| self.0.get(&parent));
        }
        chain
    }

    /// The chain of a set that can be restored; `None` when it cannot.
    pub fn usable_chain(&self, id: SnapshotId) -> Option<Vec<&'a SetFacts>> {
        let chain = self.chain(id);
        let usable = |set: &SetFacts| matches!(set.progress, Progress::Complete { usable: true, .. });
        let whole = chain.last().is_some_and(|first| first.parent.is_none());
        (whole && chain.iter().all(|set| usable(set))).then_some(chain)
    }

    /// The chain of the newest set that can be restored.
    fn newest(&self) -> Option<Vec<&'a SetFacts>> {
        self.0.keys().rev().find_map(|id| self.usable_chain(*id))
    }

    /// What the next set should be.
    pub fn next(&self) -> NextSet {
        let Some(chain) = self.newest() else { return NextSet::Full };
        let (full, differences) = chain.split_last().expect("a chain has a set");
        let bytes: u64 = differences.iter().map(|set| set.bytes).fold(0, u64::saturating_add);
        if differences.len() >= DIFFERENCES || (!differences.is_empty() && bytes >= full.bytes) {
            NextSet::Full
        } else {
            NextSet::Difference { from: chain[0].id }
        }
    }

    /// Bytes to leave for the next full set: a little more than the newest one has, and at least so many.
    pub fn room_for_next(&self, least: u64) -> u64 {
        let full = self.newest().and_then(|chain| chain.last().map(|set| set.bytes)).unwrap_or_default();
        full.saturating_add(full / 8).max(least)
    }

    /// A set that builds on this one.
    pub fn child_of(&self, id: SnapshotId) -> Option<SnapshotId> {
        self.0.values().find(|set| set.parent == Some(id)).map(|set| set.id)
    }

    /// The sets that may go, each before the one that it builds on. `most_bytes` is what may be kept.
    pub fn surplus(&self, now_us: i64, most_bytes: u64) -> Vec<SnapshotId> {
        let (mut wanted, mut needed) = (self.in_time(now_us), self.needed_in_any_case());
        loop {
            let mut kept = needed.clone();
            kept.extend(wanted.iter().flat_map(|id| self.chain(*id)).map(|set| set.id));
            let bytes = kept.iter().map(|id| self.0[id].bytes).fold(0, u64::saturating_add);
            if bytes <= most_bytes || wanted.is_empty() {
                needed = kept;
                break;
            }
            wanted.pop_first();
        }
        self.0.keys().rev().filter(|id| !needed.contains(id)).copied().collect()
    }

    /// What is being written and the newest that can be restored, with what they build on.
    fn needed_in_any_case(&self) -> BTreeSet<SnapshotId> {
        let open = self.0.values().filter(|set| set.progress == Progress::Open);
        let newest = self.newest().into_iter().flatten().map(|set| set.id);
        open.flat_map(|set| self.chain(set.id)).map(|set| set.id).chain(newest).collect()
    }

    /// All of the last hour, because somebody may be downloading them, and the newest of each hour and of each day.
    fn in_time(&self, now_us: i64) -> BTreeSet<SnapshotId> {
        let (mut newest, mut recent) = (BTreeMap::new(), BTreeSet::new());
        for (id, set) in &self.0 {
            let Progress::Complete { at_us, .. } = set.progress else { continue };
            let age_us = now_us.saturating_sub(at_us);
            if age_us < ALL_FOR_US {
                recent.insert(*id);
            }
            for (unit, most) in [(HOUR_US, HOURLY_FOR_US), (DAY_US, DAILY_FOR_US)] {
                if age_us < most {
                    newest.insert((unit, at_us.div_euclid(unit)), *id);
                }
            }
        }
        recent.extend(newest.into_values());
        recent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::Epoch;

    fn id(number: u64) -> SnapshotId {
        SnapshotId::new(Epoch::new(number / 100), number % 100)
    }

    fn set(number: u64, parent: Option<u64>, bytes: u64, at_us: i64) -> SetFacts {
        let progress = Progress::Complete { at_us, usable: true };
        SetFacts { id: id(number), parent: parent.map(id), bytes, progress }
    }

    #[test]
    fn a_full_set_is_due_first_after_enough_differences_and_when_they_outweigh_it() {
        assert_eq!(Sets::new(&[]).next(), NextSet::Full);
        let mut sets = vec![set(101, None, 100, 0)];
        assert_eq!(Sets::new(&sets).next(), NextSet::Difference { from: id(101) });
        sets.push(set(102, Some(101), 99, 0));
        assert_eq!(Sets::new(&sets).next(), NextSet::Difference { from: id(102) });
        sets.push(set(103, Some(102), 1, 0));
        assert_eq!(Sets::new(&sets).next(), NextSet::Full);
        let many: Vec<_> = (0..=DIFFERENCES as u64).map(|n| set(n, n.checked_sub(1), 1 << (40 - n), 0)).collect();
        assert_eq!(Sets::new(&many).next(), NextSet::Full);
        assert_eq!(Sets::new(&many[1..]).next(), NextSet::Full, "the full one is missing");
    }

    #[test]
    fn nothing_builds_on_what_cannot_be_read() {
        let mut sets = vec![set(101, None, 100, 0), set(201, None, 100, 0), set(202, Some(201), 1, 0)];
        sets[1].progress = Progress::Complete { at_us: 0, usable: false };
        assert_eq!(Sets::new(&sets).next(), NextSet::Difference { from: id(101) });
        sets[0].progress = Progress::Open;
        assert_eq!(Sets::new(&sets).next(), NextSet::Full);
    }

    #[test]
    fn hours_stay_a_day_and_days_a_week() {
        let now = 100 * DAY_US + HOUR_US / 2;
        // Two full sets an hour for ten days, the newest now.
        let sets: Vec<_> = (0..480u64).map(|n| set(n, None, 1, now - (479 - n.cast_signed()) * HOUR_US / 2)).collect();
        let gone: BTreeSet<_> = Sets::new(&sets).surplus(now, u64::MAX).into_iter().collect();
        let kept: Vec<_> = sets.iter().filter(|set| !gone.contains(&set.id)).collect();
        let age = |set: &SetFacts| match set.progress {
            Progress::Complete { at_us, .. } => now - at_us,
            Progress::Open => 0,
        };
        assert_eq!(kept.iter().filter(|set| age(set) < DAY_US).count(), 25, "one an hour, and one more of the last");
        assert_eq!(kept.iter().filter(|set| age(set) >= DAY_US).count(), 6, "the days before");
        assert!(kept.iter().all(|set| age(set) < DAILY_FOR_US));
    }

    #[test]
    fn the_oldest_go_first_when_there_is_no_room_and_the_newest_never() {
        let sets: Vec<_> = (0..4u64).map(|n| set(n, None, 10, n.cast_signed() * HOUR_US)).collect();
        let surplus = |most| Sets::new(&sets).surplus(4 * HOUR_US, most);
        assert_eq!(surplus(40), []);
        assert_eq!(surplus(39), [id(0)]);
        assert_eq!(surplus(20), [id(1), id(0)]);
        assert_eq!(surplus(0), [id(2), id(1), id(0)]);
    }

    #[test]
    fn the_next_full_set_may_be_a_little_larger_than_the_newest() {
        let sets = [set(1, None, 800, 0), set(2, Some(1), 5000, 0)];
        assert_eq!(Sets::new(&sets).room_for_next(100), 900);
        assert_eq!(Sets::new(&sets).room_for_next(1000), 1000);
        assert_eq!(Sets::new(&[]).room_for_next(100), 100);
    }

    #[test]
    fn a_parent_says_who_needs_it() {
        let sets = [set(1, None, 1, 0), set(2, Some(1), 1, 0)];
        assert_eq!(Sets::new(&sets).child_of(id(1)), Some(id(2)));
        assert_eq!(Sets::new(&sets).child_of(id(2)), None);
    }

    prop_compose! {
        fn any_set(number: u64)(
            parent in prop::option::weighted(0.8, 0..number.max(1)),
            bytes in 0u64..1000,
            age in 0i64..10 * DAY_US,
            kind in 0u8..10,
        ) -> SetFacts {
            let mut set = set(number, parent.filter(|p| *p < number), bytes, 20 * DAY_US - age);
            match (kind, &mut set.progress) {
                (0, progress) => *progress = Progress::Open,
                (1, Progress::Complete { usable, .. }) => *usable = false,
                _ => {}
            }
            set
        }
    }

    fn any_sets() -> impl Strategy<Value = Vec<SetFacts>> {
        (0u64..40).prop_flat_map(|count| (0..count).map(any_set).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn nothing_that_is_needed_goes(sets in any_sets(), missing in 0usize..40, most in 0u64..20_000) {
            let mut sets = sets;
            if missing < sets.len() {
                sets.remove(missing);
            }
            let all = Sets::new(&sets);
            let gone = all.surplus(20 * DAY_US, most);
            let left: Vec<_> = sets.iter().filter(|set| !gone.contains(&set.id)).cloned().collect();
            for kept in &left {
                let parent_was_there = kept.parent.is_some_and(|parent| all.0.contains_key(&parent));
                prop_assert!(!parent_was_there || left.iter().any(|set| Some(set.id) == kept.parent));
            }
            for open in sets.iter().filter(|set| set.progress == Progress::Open) {
                prop_assert!(left.contains(open));
            }
            let newest = |sets: &Sets<'_>| sets.newest().map(|chain| chain.iter().map(|set| set.id).collect::<Vec<_>>());
            prop_assert_eq!(newest(&Sets::new(&left)), newest(&all));
            // In this order, each goes while nothing builds on it.
            let mut remaining = sets.clone();
            for id in gone {
                prop_assert_eq!(Sets::new(&remaining).child_of(id), None);
                remaining.retain(|set| set.id != id);
            }
        }
    }
}
