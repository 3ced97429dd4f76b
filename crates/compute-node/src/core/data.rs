//! What a program's volumes hold when it starts, from whom copies of others' volumes are taken, and what is said about all of
//! them.
//!
//! ```text
//!                              live in this very epoch
//!   order to start ──────────────────────────────────────────────────▶ go on
//!        │                     live in the epoch before, as ordered      ▲
//!        ├─ Own ─────────────────────────────────────────────────────────┘
//!        │      └ not live, or of another epoch ──────────────────────▶ refused: not here
//!        ├─ Copy ── a complete snapshot, not older than ordered and
//!        │      │   not of writes that were lost ─────────────────────▶ promote the newest of these
//!        │      └ none ───────────────────────────────────────────────▶ refused: not here
//!        ├─ Archive, Foreign ─────────────────────────────────────────▶ restore
//!        └─ Empty ────────────────────────────────────────────────────▶ create
//! ```
//! Whatever the order says, a program that is live in the epoch that it starts under was started in it before, and goes on
//! with what it wrote. Writes that were lost stay lost: the order's branch says up to where snapshots of earlier epochs count,
//! and newer ones are not promoted, however new they look. Without an order nothing starts: a node never guesses what it may
//! begin with. Nothing starts under an epoch below one that this node has seen, in a stream for example: the scheduler that asks for it has an old database.

use std::time::Duration;

use lease::BootTime;
use protocol::data::{
    ArchivedSet, CopyReport, DataBase, DataEntry, DataOrder, DataReport, LiveReport, MAX_EARLIER_COPIES, Peer,
    SnapshotId,
};
use protocol::{Epoch, NodeId, ProgramId};
use volumes::Program;

use super::archive::Wanted;
use super::persistent::{Assignment, Event};

/// How the volumes become what a program starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// They are live on this node, and go on.
    GoOn,
    /// They are new.
    Create,
    /// They are a copy of this snapshot.
    Promote(SnapshotId),
    /// They come from the archive.
    Restore(Wanted),
}

/// Why a program cannot start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    /// Nobody said what it shall start with.
    #[error("the scheduler did not say yet what the program's volumes shall hold")]
    NoOrder,
    /// It shall start with what this node does not have.
    #[error("this node does not have the data that the program shall go on with")]
    NotHere,
    /// A later epoch has been seen, by this node's copies if by nothing else.
    #[error("epoch {highest} of the program has been seen: this one is over")]
    Stale {
        /// The highest that was seen.
        highest: Epoch,
    },
}

impl NoPlan {
    /// What the core of the node's programs is told when one is not started for this.
    pub fn event(self, assignment: Assignment) -> Event {
        match self {
            Self::Stale { highest } => Event::Overtaken(assignment, highest),
            Self::NotHere | Self::NoOrder => Event::NoData(assignment),
        }
    }
}

/// What a program starts with under this epoch, on a node that has `known` of its volumes. `order` is the newest that came
/// about its data.
///
/// # Errors
/// [`NoPlan`]; then the program must not start.
pub fn plan(known: &Program, order: Option<&DataEntry>, epoch: Epoch) -> Result<Plan, NoPlan> {
    let (live, highest) = (known.live().map(|live| live.epoch), known.highest());
    if epoch < highest {
        return Err(NoPlan::Stale { highest });
    }
    if live == Some(epoch) {
        return Ok(Plan::GoOn);
    }
    match base(order, epoch).ok_or(NoPlan::NoOrder)? {
        DataBase::Empty => Ok(Plan::Create),
        DataBase::Own { epoch: own } if live == Some(own) => Ok(Plan::GoOn),
        DataBase::Own { .. } => Err(NoPlan::NotHere),
        DataBase::Archive { snapshot: None, lineage } => Ok(Plan::Restore(Wanted::Newest(lineage))),
        DataBase::Archive { snapshot: Some(snapshot), .. } => {
            Ok(Plan::Restore(Wanted::Set(ArchivedSet { snapshot, from: None })))
        }
        DataBase::Foreign { program, snapshot } => {
            Ok(Plan::Restore(Wanted::Set(ArchivedSet { snapshot, from: Some(program) })))
        }
        DataBase::Copy { at_least, branch } => {
            let sets = known.sets().map(|set| set.id);
            let newest = sets.filter(|id| branch.is_none_or(|branch| !branch.cuts_off(*id))).max();
            let newest = newest.filter(|id| at_least.is_none_or(|least| *id >= least));
            newest.map(Plan::Promote).ok_or(NoPlan::NotHere)
        }
    }
}

fn base(order: Option<&DataEntry>, epoch: Epoch) -> Option<DataBase> {
    match order {
        Some(DataEntry { epoch: of, order: DataOrder::Live { base, .. }, .. }) if *of == epoch => Some(*base),
        _ => None,
    }
}

/// Who may send copies of a program's volumes in this epoch from that node, by the newest order about its data.
pub fn sender(order: Option<&DataEntry>, epoch: Epoch, node: NodeId) -> Option<&Peer> {
    match order {
        Some(DataEntry { epoch: of, order: DataOrder::Keep { from }, .. }) if *of == epoch && from.node == node => {
            Some(from)
        }
        _ => None,
    }
}

/// Whether a program's volumes are this node's to write in this epoch, by the newest orders.
pub fn is_live<'a>(orders: impl IntoIterator<Item = &'a DataEntry>, program: ProgramId, epoch: Epoch) -> bool {
    orders
        .into_iter()
        .any(|entry| (entry.program, entry.epoch) == (program, epoch) && matches!(entry.order, DataOrder::Live { .. }))
}

/// What a look found of a program.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The program.
    pub program: ProgramId,
    /// The epoch of what is live.
    pub live: Option<Epoch>,
    /// The complete snapshots that are told of, the newest first, and how old they were.
    pub copies: Vec<(SnapshotId, Duration)>,
    /// When it was looked.
    pub at: BootTime,
}

impl Seen {
    /// What a heartbeat says of it at `now`: ages are those of now. `live` is what the replica of this epoch says, if there is
    /// one.
    pub fn report(&self, now: BootTime, live: impl FnOnce(Epoch) -> Option<LiveReport>) -> DataReport {
        // Without a replica no other node has any of it.
        let unknown = |epoch| LiveReport { epoch, confirmed: None, at_risk_ms: u64::MAX, is_final: false };
        let mut copies = self.copies.iter().map(|(newest, age)| CopyReport {
            newest: *newest,
            // Never less than it is.
            age_ms: u64::try_from((*age + now.since(self.at)).as_millis()).unwrap_or(u64::MAX).saturating_add(1),
        });
        DataReport {
            program: self.program,
            live: self.live.map(|epoch| live(epoch).unwrap_or_else(|| unknown(epoch))),
            copy: copies.next(),
            earlier: copies.take(MAX_EARLIER_COPIES).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use protocol::Address;
    use protocol::data::{Branch, Lineage};
    use volumes::SnapshotSet;
    use volumes::core::snapshot::Origin;

    use super::*;

    fn live_in(epoch: u64) -> Program {
        let mut known = Program::default();
        known.create_live(Epoch::new(epoch), Vec::new()).unwrap();
        known
    }

    fn with_copies(copies: &[SnapshotId]) -> Program {
        let mut known = Program::default();
        for id in copies {
            let (taken, volumes, origin) = (DateTime::UNIX_EPOCH, Vec::new(), Origin::Received);
            known.add_set(SnapshotSet { id: *id, taken, volumes, origin });
        }
        known
    }

    fn snapshot(epoch: u64, sequence: u64) -> SnapshotId {
        SnapshotId::new(Epoch::new(epoch), sequence)
    }

    fn ordered(epoch: u64, order: DataOrder) -> DataEntry {
        DataEntry { program: ProgramId::from_bytes([1; 32]), epoch: Epoch::new(epoch), order }
    }

    fn live(epoch: u64, base: DataBase) -> DataEntry {
        ordered(epoch, DataOrder::Live { base, standby: None })
    }

    #[test]
    fn what_started_in_this_epoch_goes_on_whatever_the_order_says() {
        let order = live(3, DataBase::Empty);
        assert_eq!(plan(&live_in(3), Some(&order), Epoch::new(3)), Ok(Plan::GoOn));
        assert_eq!(plan(&live_in(3), None, Epoch::new(3)), Ok(Plan::GoOn));
    }

    #[test]
    fn without_an_order_for_this_epoch_nothing_starts() {
        let earlier = live(3, DataBase::Empty);
        for order in [None, Some(&earlier)] {
            assert_eq!(plan(&Program::default(), order, Epoch::new(4)), Err(NoPlan::NoOrder));
        }
    }

    #[test]
    fn what_the_archive_has_is_restored_whoever_wrote_it_and_only_once() {
        let set = ArchivedSet { snapshot: snapshot(9, 1), from: Some(ProgramId::from_bytes([2; 32])) };
        let own = ArchivedSet { from: None, ..set };
        let lineage = Lineage::from(vec![Branch { until: Some(snapshot(2, 4)), since: Epoch::new(3) }]);
        let newest = DataBase::Archive { snapshot: None, lineage };
        for (base, wanted) in
            [(set.base(), Wanted::Set(set)), (own.base(), Wanted::Set(own)), (newest, Wanted::Newest(lineage))]
        {
            for known in [live_in(3), Program::default(), with_copies(&[snapshot(9, 1)])] {
                assert_eq!(plan(&known, Some(&live(9, base)), Epoch::new(9)), Ok(Plan::Restore(wanted)));
            }
            assert_eq!(plan(&live_in(9), Some(&live(9, base)), Epoch::new(9)), Ok(Plan::GoOn));
        }
    }

    #[test]
    fn its_own_data_has_to_be_of_the_epoch_that_wrote_last() {
        let order = live(4, DataBase::Own { epoch: Epoch::new(3) });
        assert_eq!(plan(&live_in(3), Some(&order), Epoch::new(4)), Ok(Plan::GoOn));
        for known in [live_in(2), Program::default(), with_copies(&[snapshot(3, 9)])] {
            assert_eq!(plan(&known, Some(&order), Epoch::new(4)), Err(NoPlan::NotHere));
        }
    }

    #[test]
    fn the_newest_copy_is_promoted_unless_it_is_older_than_ordered() {
        let known = with_copies(&[snapshot(2, 9), snapshot(3, 4), snapshot(3, 5)]);
        let copy = |at_least| plan(&known, Some(&live(4, DataBase::Copy { at_least, branch: None })), Epoch::new(4));
        assert_eq!(copy(None), Ok(Plan::Promote(snapshot(3, 5))));
        assert_eq!(copy(Some(snapshot(3, 5))), Ok(Plan::Promote(snapshot(3, 5))));
        assert_eq!(copy(Some(snapshot(3, 6))), Err(NoPlan::NotHere));
        let order = live(4, DataBase::Copy { at_least: None, branch: None });
        assert_eq!(plan(&live_in(3), Some(&order), Epoch::new(4)), Err(NoPlan::NotHere), "what is live is no copy");
    }

    #[test]
    fn a_copy_of_writes_that_were_lost_is_not_promoted_however_new_it_looks() {
        let known = with_copies(&[snapshot(2, 5), snapshot(2, 6)]);
        let branch = Some(Branch { until: Some(snapshot(2, 5)), since: Epoch::new(3) });
        let copy = |at_least| plan(&known, Some(&live(4, DataBase::Copy { at_least, branch })), Epoch::new(4));
        assert_eq!(copy(Some(snapshot(2, 5))), Ok(Plan::Promote(snapshot(2, 5))));
        assert_eq!(copy(Some(snapshot(2, 6))), Err(NoPlan::NotHere));
    }

    #[test]
    fn copies_are_taken_from_the_node_that_was_named_in_its_epoch_only() {
        let node = |number| NodeId::from_bytes([number; 32]);
        let from = Peer { node: node(1), url: String::new(), account: Address::new("0x01") };
        let keep = ordered(3, DataOrder::Keep { from: from.clone() });
        assert_eq!(sender(Some(&keep), Epoch::new(3), node(1)), Some(&from));
        assert_eq!(sender(Some(&keep), Epoch::new(2), node(1)), None);
        assert_eq!(sender(Some(&keep), Epoch::new(4), node(1)), None);
        assert_eq!(sender(Some(&keep), Epoch::new(3), node(2)), None);
        assert_eq!(sender(Some(&live(3, DataBase::Empty)), Epoch::new(3), node(1)), None);
        assert_eq!(sender(None, Epoch::new(3), node(1)), None);
    }

    #[test]
    fn what_was_seen_grows_older_until_it_is_said_and_without_a_replica_all_is_at_risk() {
        let at = BootTime::from_nanos(5_000_000_000);
        let age = |sequence| Duration::from_millis(1000 - sequence * 100);
        let copies = [7, 6, 3, 1].map(|sequence| (snapshot(2, sequence), age(sequence))).to_vec();
        let seen = Seen { program: ProgramId::from_bytes([1; 32]), live: Some(Epoch::new(3)), copies, at };
        let report = seen.report(at + Duration::from_millis(200), |_| None);
        assert_eq!(report.copy, Some(CopyReport { newest: snapshot(2, 7), age_ms: 501 }), "rounded up");
        let earlier = |sequence, age_ms| CopyReport { newest: snapshot(2, sequence), age_ms };
        assert_eq!(report.earlier, [earlier(6, 601), earlier(3, 901)], "not all");
        let live = report.live.unwrap();
        assert_eq!((live.epoch, live.confirmed, live.at_risk_ms), (Epoch::new(3), None, u64::MAX));
        let said = LiveReport { at_risk_ms: 4, ..live };
        assert_eq!(seen.report(at, |_| Some(said.clone())).live, Some(said));
    }

    #[test]
    fn volumes_are_live_under_the_epoch_of_their_order_only() {
        let program = ProgramId::from_bytes([1; 32]);
        let orders = [live(3, DataBase::Empty), ordered(4, DataOrder::Retire)];
        assert!(is_live(&orders, program, Epoch::new(3)));
        assert!(!is_live(&orders, program, Epoch::new(4)) && !is_live(&orders, program, Epoch::new(2)));
        assert!(!is_live(&orders, ProgramId::from_bytes([2; 32]), Epoch::new(3)));
    }
}
