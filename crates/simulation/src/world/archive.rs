//! The archive of snapshot sets at the message node: a model of its rows and objects, and the product's rules of
//! `message-node/src/core` asked in the same order as `message-node/src/archive` does.
//!
//! ```text
//!   Open ──all has arrived──▶ Complete ──what is stored is another thing──▶ Damaged
//!    └──────deleted───────────────┴──given up by retention──────────────────────┴──▶ gone
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use message_node::core::archive::{
    Completion, Holder, Refusal, budget, check_completion, check_draft, check_epoch, check_reader, check_writer, quota,
};
use message_node::core::retention::{Progress, SetFacts, Sets};
use protocol::api::archive::{
    ArchiveList, SentStream, SetDraft, SetRecord, SetState, StreamReceived, VolumeDraft, VolumeRecord, volume_key,
};
use protocol::data::SnapshotId;
use protocol::{Address, Epoch, FileHash, NodeId, ProgramId};
use scheduler::core::data::OnLoss;

use crate::check::Invariant;
use crate::store::Health;
use crate::time::{Moment, nanos};
use crate::trap::Trap;
use crate::writes::Content;

use super::data::VOLUME_MIB;
use super::{MachineId, World, name, say};

/// As in the product.
const GOOD_FOR: Duration = Duration::from_secs(3);
const QUOTA: u64 = 4;
const RETENTION_US: i64 = 7 * 24 * 3600 * 1_000_000;
const ABANDONED_US: i64 = 24 * 3600 * 1_000_000;

/// The streams of a set, as one thing: what they say that the volume holds, and on top of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) bytes: u64,
    pub(crate) parent: Content,
    pub(crate) whole: Content,
}

impl Load {
    fn digest(self) -> FileHash {
        FileHash::of(format!("{self:?}").as_bytes())
    }

    /// What comes out of it on top of what is there.
    pub(crate) fn on_top_of(self, there: Content) -> Content {
        there.with_difference(self.parent, self.whole)
    }
}

/// What is asked of the archive.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    List,
    Delete(SnapshotId),
    Begin(SetDraft, Content),
    Send(SnapshotId, Load),
    Complete(SnapshotId, Load),
    Read(SnapshotId),
}

/// What it answers.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    List(ArchiveList),
    Done,
    Stream(Load),
}

/// Why it does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It does not answer, or the answer is lost.
    Silent,
    /// It says no.
    No(String),
    /// What is stored is not what was written.
    Damaged,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::No(refusal.message)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Complete(i64),
    Damaged(i64),
}

/// A set and what is stored of it.
#[derive(Debug)]
struct Kept {
    draft: SetDraft,
    stage: Stage,
    begun_us: i64,
    arrived: Option<Load>,
    is_rotten: bool,
    /// What it is the snapshot of.
    truth: Content,
}

/// What there is of a program.
#[derive(Debug, Default)]
struct Shelf {
    highest: Option<Epoch>,
    sets: BTreeMap<SnapshotId, Kept>,
    over_since_us: Option<i64>,
}

impl Shelf {
    fn facts(&self) -> Vec<SetFacts> {
        let facts = |(id, kept): (&SnapshotId, &Kept)| SetFacts {
            id: *id,
            parent: kept.draft.parent,
            bytes: kept.arrived.map_or(0, |load| load.bytes),
            progress: match kept.stage {
                Stage::Open => Progress::Open,
                Stage::Complete(at_us) => Progress::Complete { at_us, usable: true },
                Stage::Damaged(at_us) => Progress::Complete { at_us, usable: false },
            },
        };
        self.sets.iter().map(facts).collect()
    }

    fn bytes(&self) -> u64 {
        self.sets.values().filter_map(|kept| kept.arrived).map(|load| load.bytes).sum()
    }

    /// What comes out of a set's chain, whether that is known to be damaged or not; `None` when something is missing.
    fn restored(&self, id: SnapshotId) -> Option<Content> {
        let kept = self.sets.get(&id)?;
        let below = kept.draft.parent.map_or(Some(Content::EMPTY), |parent| self.restored(parent))?;
        Some(kept.arrived.map_or(Content::Mixed, |load| load.on_top_of(below)))
    }

    fn is_rotten(&self, id: SnapshotId) -> bool {
        let Some(kept) = self.sets.get(&id) else { return false };
        kept.is_rotten || kept.draft.parent.is_some_and(|parent| self.is_rotten(parent))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    shelves: BTreeMap<ProgramId, Shelf>,
    pub(crate) silent_until: Moment,
    /// Who has a program, as a scheduler said then.
    holders: BTreeMap<ProgramId, (Moment, Option<(NodeId, Epoch)>)>,
    /// Its clock goes so much faster than all others: retention counts hours and days, which no world lasts.
    haste: i64,
}

impl Archive {
    pub(crate) fn new(haste: i64) -> Self {
        Self { haste, ..Self::default() }
    }

    fn now_us(&self, now: Moment) -> i64 {
        i64::try_from(nanos(now.since(Moment::ZERO)) / 1000).unwrap_or(i64::MAX / 10_000) * self.haste
    }

    /// The sets of a program that are complete, oldest first.
    pub(crate) fn complete(&self, program: ProgramId) -> Vec<SnapshotId> {
        let Some(shelf) = self.shelves.get(&program) else { return Vec::new() };
        let complete = shelf.sets.iter().filter(|(_, kept)| matches!(kept.stage, Stage::Complete(_)));
        complete.map(|(id, _)| *id).collect()
    }

    /// Whether anything of a program that counts can be restored, as far as anybody knows and if that is so.
    pub(crate) fn can_restore(&self, program: ProgramId, counts: impl Fn(Content) -> bool) -> bool {
        let Some(shelf) = self.shelves.get(&program) else { return false };
        let facts = shelf.facts();
        let sets = Sets::new(&facts);
        let is_good = |id: SnapshotId| sets.usable_chain(id).is_some() && !shelf.is_rotten(id);
        shelf.sets.iter().any(|(id, kept)| counts(kept.truth) && is_good(*id))
    }

    /// What a set is the snapshot of.
    pub(crate) fn truth(&self, program: ProgramId, id: SnapshotId) -> Option<Content> {
        Some(self.shelves.get(&program)?.sets.get(&id)?.truth)
    }

    /// Something happens to an object.
    pub(crate) fn rot(&mut self, program: ProgramId, id: SnapshotId) {
        if let Some(kept) = self.shelves.get_mut(&program).and_then(|shelf| shelf.sets.get_mut(&id)) {
            kept.is_rotten = true;
        }
    }

    fn record(&self, shelf: &Shelf, id: SnapshotId, opens_count: bool) -> SetRecord {
        let kept = &shelf.sets[&id];
        let volume = |draft: &VolumeDraft| VolumeRecord {
            name: draft.name.clone(),
            key: volume_key(&draft.name),
            size_mib: draft.size_mib,
            bytes: kept.arrived.map(|load| load.bytes),
            sha256: kept.arrived.map(Load::digest),
        };
        SetRecord {
            id,
            parent: kept.draft.parent,
            state: match kept.stage {
                Stage::Open if opens_count => SetState::Complete,
                Stage::Open => SetState::Open,
                Stage::Complete(_) => SetState::Complete,
                Stage::Damaged(_) => SetState::Damaged,
            },
            taken: kept.draft.taken,
            format: kept.draft.format,
            made_by: Address::new("0x"),
            volumes: kept.draft.volumes.iter().map(volume).collect(),
        }
    }
}

/// The volumes that are archived.
pub(crate) fn archived_volumes() -> Vec<VolumeDraft> {
    vec![VolumeDraft { name: "db".to_owned(), size_mib: VOLUME_MIB }]
}

impl World {
    /// Whether the volumes of a program are of the class that is archived.
    pub(super) fn is_archived(&self, program: ProgramId) -> bool {
        self.data_of(program) == Some(OnLoss::Archive)
    }

    /// Whether a machine reaches the archive.
    pub(super) fn reaches_archive(&self, id: MachineId) -> bool {
        let (now, machine) = (self.now, self.machine(id));
        self.message_node.answers(now) && self.archive.silent_until <= now && machine.fetch_fails_until <= now
    }

    /// A machine's request arrives.
    pub(super) fn asked_of_archive(
        &mut self,
        by: MachineId,
        program: ProgramId,
        epoch: Epoch,
        ask: Ask,
    ) -> Result<Told, Refused> {
        if !self.reaches_archive(by) {
            return Err(Refused::Silent);
        }
        match ask {
            Ask::List | Ask::Read(_) => self.may_read(by, program)?,
            _ => self.may_write(by, program, epoch)?,
        }
        let told = match ask {
            Ask::List => Told::List(self.list_archive(program)),
            Ask::Read(id) => Told::Stream(self.read_archive(program, id)?),
            Ask::Delete(id) => self.delete_of_archive(program, id)?,
            Ask::Begin(draft, truth) => self.begin_set(program, draft, truth)?,
            Ask::Send(id, load) => self.take_in_stream(program, id, load)?,
            Ask::Complete(id, load) => self.complete_set(program, id, load)?,
        };
        Ok(told)
    }

    /// Who has a program, as the first scheduler says that answers: one that leads, or thinks so, from what it knows, others
    /// from the database.
    fn ask_for_holder(&mut self, program: ProgramId) -> Result<Option<(NodeId, Epoch)>, Refused> {
        let is_readable = self.store.health != Health::Refuses;
        let said = self.schedulers.iter().filter(|host| host.is_up && host.paused_until <= self.now).find_map(|host| {
            if let Some(process) = &host.process {
                let view = process.core.program_view(program);
                return Some(view.and_then(|view| Some((view.place?.node, view.epoch?))));
            }
            let open = || self.store.database.open().find(|(open, ..)| *open == program);
            (is_readable && host.cut_until <= self.now).then(|| open().map(|(_, node, epoch)| (node, epoch)))
        });
        let said = said.ok_or_else(|| Refused::No("no scheduler says who has the program".to_owned()))?;
        self.archive.holders.insert(program, (self.now, said));
        Ok(said)
    }

    fn holder(&mut self, program: ProgramId, is_fresh: bool) -> Result<Option<Holder>, Refused> {
        let known = self.archive.holders.get(&program).copied();
        let known = known.filter(|(at, _)| !is_fresh && self.now.since(*at) < GOOD_FOR);
        let said = match known {
            Some((_, said)) => said,
            None => self.ask_for_holder(program)?,
        };
        Ok(said.map(|(node, epoch)| Holder {
            node,
            account: Some(account(super::machine_of(node))),
            epoch,
            starts_with: None,
        }))
    }

    fn may_write(&mut self, by: MachineId, program: ProgramId, epoch: Epoch) -> Result<(), Refused> {
        if !self.message_node.is_in_force(program) {
            return Err(Refused::No("it was forgotten or removed".to_owned()));
        }
        if self.has_trap(Trap::ArchiveIgnoresEpochs) {
            return Ok(());
        }
        check_epoch(epoch, self.archive.shelves.get(&program).and_then(|shelf| shelf.highest))?;
        let holder = self.holder(program, false)?;
        if check_writer(&account(by), epoch, holder.as_ref()).is_err() {
            let holder = self.holder(program, true)?;
            check_writer(&account(by), epoch, holder.as_ref())?;
        }
        self.raise(program, epoch);
        Ok(())
    }

    fn may_read(&mut self, by: MachineId, program: ProgramId) -> Result<(), Refused> {
        let holder = self.holder(program, false)?;
        let epoch = match check_reader(&account(by), holder.as_ref()) {
            Ok(epoch) => epoch,
            Err(_) => {
                let holder = self.holder(program, true)?;
                check_reader(&account(by), holder.as_ref())?
            }
        };
        check_epoch(epoch, self.archive.shelves.get(&program).and_then(|shelf| shelf.highest))?;
        self.raise(program, epoch);
        Ok(())
    }

    fn raise(&mut self, program: ProgramId, epoch: Epoch) {
        let highest = &mut self.archive.shelves.entry(program).or_default().highest;
        *highest = (*highest).max(Some(epoch));
    }

    fn shelf(&mut self, program: ProgramId) -> &mut Shelf {
        self.archive.shelves.entry(program).or_default()
    }

    fn list_archive(&mut self, program: ProgramId) -> ArchiveList {
        self.shelf(program);
        let (shelf, opens_count) = (&self.archive.shelves[&program], self.has_trap(Trap::OpenSetCounts));
        let sets = shelf.sets.keys().map(|id| self.archive.record(shelf, *id, opens_count)).collect();
        let list = ArchiveList {
            sets,
            next: Sets::new(&shelf.facts()).next(),
            bytes: shelf.bytes(),
            quota_bytes: quota(&archived_volumes(), QUOTA),
        };
        self.check_list(program, &list);
        list
    }

    /// What is listed as complete is there with all that it builds on, and what comes out of it is what was archived, unless
    /// something has happened to it that nobody has noticed yet.
    fn check_list(&mut self, program: ProgramId, list: &ArchiveList) {
        if self.checker.counts_again || self.checker.data.began_anew(program) {
            // Then two snapshots may have one name.
            return;
        }
        let shelf = &self.archive.shelves[&program];
        let listed = list.sets.iter().filter(|set| set.state == SetState::Complete).map(|set| set.id);
        let wrong = listed.filter(|id| !shelf.is_rotten(*id)).find_map(|id| match shelf.restored(id) {
            None => Some(format!("snapshot {id} of {} is listed, and what it builds on is gone", name(program))),
            Some(content) if content != shelf.sets[&id].truth => {
                Some(format!("snapshot {id} of {} is listed, and is not what was archived", name(program)))
            }
            Some(_) => None,
        });
        if let Some(what) = wrong {
            self.violated(Invariant::Archive, what);
        }
    }

    fn read_archive(&mut self, program: ProgramId, id: SnapshotId) -> Result<Load, Refused> {
        let is_served = self.has_trap(Trap::DamageIsServed);
        let opens_count = self.has_trap(Trap::OpenSetCounts);
        let kept = self.shelf(program).sets.get_mut(&id).ok_or_else(|| Refused::No(format!("no snapshot {id}")))?;
        match kept.stage {
            Stage::Open if !opens_count => return Err(Refused::No(format!("snapshot {id} is not complete"))),
            Stage::Complete(at_us) if kept.is_rotten && !is_served => {
                kept.stage = Stage::Damaged(at_us);
                self.tally.archive.damage_noticed += 1;
                say!(self, "the archive notices that snapshot {id} of {} is damaged", name(program));
                return Err(Refused::Damaged);
            }
            Stage::Damaged(_) => return Err(Refused::Damaged),
            _ => {}
        }
        let nothing = Load { bytes: 0, parent: Content::EMPTY, whole: Content::Mixed };
        let load = kept.arrived.unwrap_or(nothing);
        Ok(if kept.is_rotten { Load { whole: Content::Mixed, ..load } } else { load })
    }

    fn delete_of_archive(&mut self, program: ProgramId, id: SnapshotId) -> Result<Told, Refused> {
        let shelf = self.shelf(program);
        if let Some(child) = Sets::new(&shelf.facts()).child_of(id) {
            return Err(Refused::No(format!("snapshot {child} builds on {id}")));
        }
        shelf.sets.remove(&id).map(|_| Told::Done).ok_or_else(|| Refused::No(format!("no snapshot {id}")))
    }

    fn begin_set(&mut self, program: ProgramId, draft: SetDraft, truth: Content) -> Result<Told, Refused> {
        let begun_us = self.archive.now_us(self.now);
        let shelf = self.shelf(program);
        check_draft(&draft, &archived_volumes(), &shelf.facts())?;
        if shelf.bytes() >= quota(&archived_volumes(), QUOTA) {
            return Err(Refused::No("it is over its quota".to_owned()));
        }
        let new = Kept { stage: Stage::Open, begun_us, arrived: None, is_rotten: false, truth, draft };
        shelf.sets.insert(new.draft.id, new);
        Ok(Told::Done)
    }

    fn take_in_stream(&mut self, program: ProgramId, id: SnapshotId, load: Load) -> Result<Told, Refused> {
        let most = quota(&archived_volumes(), QUOTA);
        let shelf = self.shelf(program);
        let used = shelf.bytes();
        let kept = shelf.sets.get_mut(&id).filter(|kept| kept.stage == Stage::Open);
        let kept = kept.ok_or_else(|| Refused::No(format!("no snapshot {id} is being written")))?;
        if used + load.bytes > most {
            self.tally.archive.over_quota += 1;
            return Err(Refused::No("it is over its quota".to_owned()));
        }
        kept.arrived = Some(load);
        Ok(Told::Done)
    }

    fn complete_set(&mut self, program: ProgramId, id: SnapshotId, sent: Load) -> Result<Told, Refused> {
        let now_us = self.archive.now_us(self.now);
        let shelf = self.shelf(program);
        let kept = shelf.sets.get_mut(&id).ok_or_else(|| Refused::No(format!("no snapshot {id}")))?;
        let received = |load: Load| StreamReceived { bytes: load.bytes, sha256: load.digest() };
        let volume = kept.draft.volumes[0].clone();
        let claim = SentStream { name: volume.name.clone(), bytes: sent.bytes, sha256: sent.digest() };
        match check_completion(&[(volume, kept.arrived.map(received))], &[claim])? {
            Completion::Whole if kept.stage == Stage::Open => kept.stage = Stage::Complete(now_us),
            Completion::Whole => return Ok(Told::Done),
            Completion::Wrong { refusal, .. } => {
                if kept.stage == Stage::Open {
                    kept.arrived = None;
                }
                self.tally.archive.wrong_digests += 1;
                return Err(refusal.into());
            }
        }
        let is_full = kept.draft.parent.is_none();
        self.tally.archive.full += u64::from(is_full);
        self.tally.archive.differences += u64::from(!is_full);
        say!(self, "the archive has {id} of {}", name(program));
        if let Some((invariant, what)) = self.checker.data.archived(program, id) {
            self.violated(invariant, what);
        }
        self.collect_archive(program);
        Ok(Told::Done)
    }

    /// Retention, as `message-node/src/archive/collect.rs` has it.
    pub(super) fn collect_archive(&mut self, program: ProgramId) {
        let (now_us, is_over) = (self.archive.now_us(self.now), !self.message_node.is_in_force(program));
        let forgets_chains = self.has_trap(Trap::CompactionForgetsChains);
        let Some(shelf) = self.archive.shelves.get_mut(&program) else { return };
        shelf.over_since_us = if is_over { shelf.over_since_us.or(Some(now_us)) } else { None };
        let is_past = shelf.over_since_us.is_some_and(|since| now_us - since >= RETENTION_US);
        let mut facts = shelf.facts();
        if forgets_chains {
            facts.iter_mut().for_each(|set| set.parent = None);
        }
        let sets = Sets::new(&facts);
        let most = budget(&archived_volumes(), QUOTA, &sets);
        let surplus = if is_over { Vec::new() } else { sets.surplus(now_us, most) };
        let before = shelf.sets.len();
        shelf.sets.retain(|id, kept| {
            let is_abandoned = kept.stage == Stage::Open && kept.begun_us < now_us - ABANDONED_US;
            !(is_past || is_abandoned || surplus.contains(id))
        });
        let gone = before - shelf.sets.len();
        if gone > 0 {
            self.tally.archive.collected += gone as u64;
            self.tally.archive.forgotten += u64::from(is_past);
            say!(self, "the archive gives up {gone} snapshots of {}", name(program));
            self.list_archive(program);
        }
    }

    /// The collector looks at everything.
    pub(super) fn collects(&mut self) {
        for program in self.archive.shelves.keys().copied().collect::<Vec<_>>() {
            self.collect_archive(program);
        }
        self.after(COLLECTS_EVERY, super::Happening::Collects);
    }
}

/// How often it looks, beside each time that a set is complete.
pub(super) const COLLECTS_EVERY: Duration = Duration::from_secs(5);

fn account(id: MachineId) -> Address {
    Address::new(format!("0x{:02x}", id.0))
}
