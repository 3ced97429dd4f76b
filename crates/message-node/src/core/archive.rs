//! Who may do what with a program's archive, and which sets and streams it takes.

use protocol::api::archive::{ArchiveCode, SentStream, SetDraft, StreamReceived, VolumeDraft, volume_key};
use protocol::data::SnapshotId;
use protocol::message::{ProgramContent, place_volumes};
use protocol::{Address, Epoch, NodeId, ProgramId};

use super::retention::{LONGEST_CHAIN, Progress, SetFacts, Sets};

const MIB: u64 = 1 << 20;

/// Bytes of a stream beyond twice its volume: what is about the files rather than in them.
const STREAM_SLACK: u64 = 16 * MIB;
/// The largest volume that is archived, in MiB. Larger ones would need larger pieces in memory: S3 takes 10 000 in all.
const LARGEST_VOLUME_MIB: u64 = 256 * 1024;
/// Sets of one program that may be in the archive.
const MOST_SETS: usize = 1000;
/// Sets of one program that may be written at the same time.
const MOST_OPEN: usize = 4;

/// Why the archive says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The word for programs.
    pub code: ArchiveCode,
    /// The sentence for people.
    pub message: String,
    /// The highest epoch, if that is why.
    pub highest: Option<Epoch>,
}

impl Refusal {
    pub(crate) fn new(code: ArchiveCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), highest: None }
    }
}

/// Who has a program, as the scheduler says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub node: NodeId,
    /// The account that registered it; `None` when it is not registered here.
    pub account: Option<Address>,
    /// The epoch of the assignment.
    pub epoch: Epoch,
    /// The other program, and the set of its archive, that it starts with in this epoch, if it is one.
    pub starts_with: Option<(ProgramId, SnapshotId)>,
}

/// Refuses an epoch below the highest that was seen.
///
/// # Errors
/// [`ArchiveCode::StaleEpoch`].
pub fn check_epoch(epoch: Epoch, highest: Option<Epoch>) -> Result<(), Refusal> {
    match highest {
        Some(highest) if epoch < highest => {
            let message = format!(
                "epoch {epoch} of this program is over: epoch {highest} has used the archive; stop the program and its \
                 writes"
            );
            Err(Refusal { code: ArchiveCode::StaleEpoch, message, highest: Some(highest) })
        }
        _ => Ok(()),
    }
}

/// Only the account of the node that has the program in this epoch writes.
///
/// # Errors
/// [`ArchiveCode::NotAllowed`], or [`ArchiveCode::StaleEpoch`].
pub fn check_writer(signer: &Address, epoch: Epoch, holder: Option<&Holder>) -> Result<(), Refusal> {
    let Some(holder) = holder else {
        let message = "the scheduler has assigned the program to no node; nobody may write to its archive until it is";
        return Err(Refusal::new(ArchiveCode::NotAllowed, message));
    };
    check_epoch(epoch, Some(holder.epoch))?;
    check_node(signer, holder)?;
    if epoch > holder.epoch {
        let message = format!(
            "the scheduler knows no epoch {epoch} of the program: it is in epoch {}; write in that one",
            holder.epoch
        );
        return Err(Refusal::new(ArchiveCode::NotAllowed, message));
    }
    Ok(())
}

/// The account of the node that has the program now, or its owner, read. Returns the node's epoch.
///
/// # Errors
/// [`ArchiveCode::NotAllowed`].
pub fn check_reader(signer: &Address, holder: Option<&Holder>) -> Result<Epoch, Refusal> {
    let Some(holder) = holder else {
        let message = format!(
            "{signer} does not own the program, and the scheduler has assigned it to no node; sign as its owner"
        );
        return Err(Refusal::new(ArchiveCode::NotAllowed, message));
    };
    check_node(signer, holder).map(|()| holder.epoch)
}

/// The account of the node that has another program now reads what this one starts with in its present epoch: that set, and
/// what it builds on.
pub(crate) fn check_foreign_reader(
    signer: &Address,
    holder: Option<&Holder>,
    program: &ProgramId,
) -> Result<(Epoch, SnapshotId), Refusal> {
    let epoch = check_reader(signer, holder)?;
    match holder.and_then(|holder| holder.starts_with) {
        Some((from, snapshot)) if from == *program => Ok((epoch, snapshot)),
        _ => {
            let message =
                format!("the scheduler does not say that the program to read for starts with a snapshot of {program}");
            Err(Refusal::new(ArchiveCode::NotAllowed, message))
        }
    }
}

fn check_node(signer: &Address, holder: &Holder) -> Result<(), Refusal> {
    let Holder { node, account, .. } = holder;
    let refused = |message: String| Err(Refusal::new(ArchiveCode::NotAllowed, message));
    match account {
        Some(account) if account == signer => Ok(()),
        Some(account) => refused(format!(
            "the program is assigned to node {node} of account {account}; {signer} may not use its archive"
        )),
        None => refused(format!(
            "the program is assigned to node {node}, which is not registered at this message node; register it"
        )),
    }
}

/// The volumes of a program that are archived: the persistent ones with `persistence: "store"`.
pub(crate) fn archived_volumes(content: &ProgramContent) -> Result<Vec<VolumeDraft>, Refusal> {
    let placed = place_volumes(&content.volumes).map_err(|e| Refusal::new(ArchiveCode::Invalid, e.to_string()))?;
    Ok(VolumeDraft::archived(&placed))
}

/// Bytes that the archive of these volumes may have.
pub fn quota(volumes: &[VolumeDraft], multiple: u64) -> u64 {
    volumes_bytes(volumes).saturating_mul(multiple)
}

/// Bytes that retention may keep of these sets: the rest is for the next full one.
pub fn budget(volumes: &[VolumeDraft], multiple: u64, sets: &Sets<'_>) -> u64 {
    quota(volumes, multiple).saturating_sub(sets.room_for_next(volumes_bytes(volumes)))
}

fn volumes_bytes(volumes: &[VolumeDraft]) -> u64 {
    volumes.iter().fold(0, |sum: u64, volume| sum.saturating_add(volume.size_mib.saturating_mul(MIB)))
}

/// Decides on a new set of a program with these archived volumes and sets. A set of the same name that is open is replaced.
///
/// # Errors
/// [`Refusal`].
pub fn check_draft(draft: &SetDraft, volumes: &[VolumeDraft], sets: &[SetFacts]) -> Result<(), Refusal> {
    check_volumes(draft, volumes)?;
    if let Some(same) = sets.iter().find(|set| set.id == draft.id)
        && same.progress != Progress::Open
    {
        let message = format!("snapshot {} is in the archive already; begin the next one", draft.id);
        return Err(Refusal::new(ArchiveCode::Duplicate, message));
    }
    let others = || sets.iter().filter(|set| set.id != draft.id);
    if others().count() >= MOST_SETS {
        let message = format!("the archive of this program has {MOST_SETS} sets; delete some first");
        return Err(Refusal::new(ArchiveCode::Quota, message));
    }
    if others().filter(|set| set.progress == Progress::Open).count() >= MOST_OPEN {
        let message = format!("{MOST_OPEN} sets of this program are being written; complete or delete one first");
        return Err(Refusal::new(ArchiveCode::Busy, message));
    }
    draft.parent.map_or(Ok(()), |parent| {
        let unknown = |why: &str| {
            let message = format!("snapshot {parent} {why}; send a full set, or a difference from another one");
            Err(Refusal::new(ArchiveCode::UnknownParent, message))
        };
        if parent >= draft.id {
            return unknown("is not older than the new one");
        }
        match Sets::new(sets).usable_chain(parent) {
            None => unknown("cannot be restored from the archive"),
            Some(chain) if chain.len() >= LONGEST_CHAIN => unknown("has too many differences in a row below it"),
            Some(_) => Ok(()),
        }
    })
}

fn check_volumes(draft: &SetDraft, volumes: &[VolumeDraft]) -> Result<(), Refusal> {
    let refused = |message: String| Err(Refusal::new(ArchiveCode::Invalid, message));
    if volumes.is_empty() {
        return refused("the program has no volume with persistence 'store': nothing of it is archived".to_owned());
    }
    if let Some(large) = volumes.iter().find(|volume| volume.size_mib > LARGEST_VOLUME_MIB) {
        return refused(format!(
            "volume {:?} has {} MiB: volumes of more than {LARGEST_VOLUME_MIB} MiB are not archived",
            large.name, large.size_mib
        ));
    }
    let sorted = |volumes: &[VolumeDraft]| {
        let mut volumes: Vec<_> = volumes.iter().map(|volume| (volume.name.clone(), volume.size_mib)).collect();
        volumes.sort_unstable();
        volumes
    };
    if sorted(&draft.volumes) != sorted(volumes) {
        let list = volumes.iter().map(|volume| format!("{:?} of {} MiB", volume.name, volume.size_mib));
        return refused(format!(
            "a set of this program has exactly its volumes with persistence 'store': {}",
            list.collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(())
}

/// The most bytes that the stream of a volume may have.
pub(crate) fn stream_limit(size_mib: u64) -> u64 {
    size_mib.saturating_mul(2 * MIB).saturating_add(STREAM_SLACK)
}

/// The refusal of a stream that grew beyond its limit.
pub(crate) fn too_large(volume: &VolumeDraft) -> Refusal {
    let message = format!(
        "the stream of volume {:?} has more than {} bytes, which is more than a volume of {} MiB can need",
        volume.name,
        stream_limit(volume.size_mib),
        volume.size_mib
    );
    Refusal::new(ArchiveCode::TooLarge, message)
}

/// The refusal of a stream for which there is no room.
pub fn over_quota(used: u64, quota: u64) -> Refusal {
    let message = format!(
        "the archive of this program may have {quota} bytes and has {used}, which leaves no room for this stream; \
         delete older sets"
    );
    Refusal::new(ArchiveCode::Quota, message)
}

/// What becomes of a completion.
#[derive(Debug, PartialEq, Eq)]
pub enum Completion {
    /// All that was sent has arrived.
    Whole,
    /// The stream of this volume is another one than was sent: it must go, and be sent again.
    Wrong {
        /// What stands for the volume.
        key: String,
        /// What to answer.
        refusal: Refusal,
    },
}

/// Compares what arrived, by volume in the order of the draft, with what its sender says it sent.
///
/// # Errors
/// When the completion is none, or something has not arrived.
pub fn check_completion(
    arrived: &[(VolumeDraft, Option<StreamReceived>)],
    sent: &[SentStream],
) -> Result<Completion, Refusal> {
    for (volume, received) in arrived {
        let mut claims = sent.iter().filter(|stream| stream.name == volume.name);
        let (Some(claim), None) = (claims.next(), claims.next()) else {
            let message = format!("the completion does not name volume {:?} exactly once; name each once", volume.name);
            return Err(Refusal::new(ArchiveCode::Invalid, message));
        };
        let Some(received) = received else {
            let message = format!("the stream of volume {:?} has not arrived; send it first", volume.name);
            return Err(Refusal::new(ArchiveCode::Incomplete, message));
        };
        if (claim.bytes, claim.sha256) != (received.bytes, received.sha256) {
            let message = format!(
                "{} bytes with SHA-256 {} arrived of volume {:?}, not {} bytes with {}; send the stream again",
                received.bytes, received.sha256, volume.name, claim.bytes, claim.sha256
            );
            let refusal = Refusal::new(ArchiveCode::WrongDigest, message);
            return Ok(Completion::Wrong { key: volume_key(&volume.name), refusal });
        }
    }
    if sent.len() != arrived.len() {
        let message = "the completion names a volume that is not in the set; name those of the draft";
        return Err(Refusal::new(ArchiveCode::Invalid, message));
    }
    Ok(Completion::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use protocol::FileHash;
    use protocol::api::archive::StreamFormat;

    fn volume(name: &str, size_mib: u64) -> VolumeDraft {
        VolumeDraft { name: name.to_owned(), size_mib }
    }

    fn draft(id: &str, parent: Option<&str>, volumes: &[VolumeDraft]) -> SetDraft {
        SetDraft {
            id: id.parse().unwrap(),
            parent: parent.map(|parent| parent.parse().unwrap()),
            taken: DateTime::UNIX_EPOCH,
            format: StreamFormat::Btrfs,
            volumes: volumes.to_vec(),
        }
    }

    fn facts(id: &str, parent: Option<&str>) -> SetFacts {
        let progress = Progress::Complete { at_us: 0, usable: true };
        SetFacts { id: id.parse().unwrap(), parent: parent.map(|p| p.parse().unwrap()), bytes: 1, progress }
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> ArchiveCode {
        result.unwrap_err().code
    }

    #[test]
    fn only_the_holder_writes_and_only_in_its_epoch() {
        let (node, other) = (Address::new("0xA"), Address::new("0xB"));
        let account = Some(node.clone());
        let holder = Holder { node: NodeId::from_bytes([1; 32]), account, epoch: Epoch::new(5), starts_with: None };
        let check = |signer, epoch| check_writer(signer, Epoch::new(epoch), Some(&holder));
        assert_eq!(check(&node, 5), Ok(()));
        assert_eq!(check(&node, 4).unwrap_err().highest, Some(Epoch::new(5)));
        assert_eq!(code(check(&node, 6)), ArchiveCode::NotAllowed);
        assert_eq!(code(check(&other, 5)), ArchiveCode::NotAllowed);
        assert_eq!(code(check_writer(&node, Epoch::new(5), None)), ArchiveCode::NotAllowed);
        let unregistered = Holder { account: None, ..holder.clone() };
        assert_eq!(code(check_writer(&node, Epoch::new(5), Some(&unregistered))), ArchiveCode::NotAllowed);
        assert_eq!(check_reader(&node, Some(&holder)), Ok(Epoch::new(5)));
        assert_eq!(code(check_reader(&other, Some(&holder))), ArchiveCode::NotAllowed);
        assert_eq!(code(check_reader(&other, None)), ArchiveCode::NotAllowed);
    }

    #[test]
    fn what_another_program_starts_with_is_read_by_its_node_and_nothing_else() {
        let (node, other) = (Address::new("0xA"), Address::new("0xB"));
        let (program, set) = (ProgramId::from_bytes([1; 32]), SnapshotId::new(Epoch::new(9), 4));
        let (id, account) = (NodeId::from_bytes([1; 32]), Some(node.clone()));
        let holder = Holder { node: id, account, epoch: Epoch::new(5), starts_with: Some((program, set)) };
        let check = |signer, holder: &Holder, program| check_foreign_reader(signer, Some(holder), &program);
        assert_eq!(check(&node, &holder, program), Ok((Epoch::new(5), set)));
        assert_eq!(code(check(&other, &holder, program)), ArchiveCode::NotAllowed);
        assert_eq!(code(check(&node, &holder, ProgramId::from_bytes([2; 32]))), ArchiveCode::NotAllowed);
        let own = Holder { starts_with: None, ..holder };
        assert_eq!(code(check(&node, &own, program)), ArchiveCode::NotAllowed);
        assert_eq!(code(check_foreign_reader(&node, None, &program)), ArchiveCode::NotAllowed);
    }

    #[test]
    fn an_epoch_that_is_over_names_the_highest() {
        assert_eq!(check_epoch(Epoch::new(3), None), Ok(()));
        assert_eq!(check_epoch(Epoch::new(3), Some(Epoch::new(3))), Ok(()));
        let refusal = check_epoch(Epoch::new(3), Some(Epoch::new(4))).unwrap_err();
        assert_eq!((refusal.code, refusal.highest), (ArchiveCode::StaleEpoch, Some(Epoch::new(4))));
    }

    #[test]
    fn a_set_has_exactly_the_volumes_of_its_program() {
        let volumes = [volume("a", 10), volume("b/../c", 20)];
        let turned = [volumes[1].clone(), volumes[0].clone()];
        assert_eq!(check_draft(&draft("1-1", None, &turned), &volumes, &[]), Ok(()));
        for wrong in [&volumes[..1], &[], &[volume("a", 10), volume("b/../c", 21)]] {
            assert_eq!(code(check_draft(&draft("1-1", None, wrong), &volumes, &[])), ArchiveCode::Invalid);
        }
        assert_eq!(code(check_draft(&draft("1-1", None, &[]), &[], &[])), ArchiveCode::Invalid);
        let large = [volume("a", LARGEST_VOLUME_MIB + 1)];
        assert_eq!(code(check_draft(&draft("1-1", None, &large), &large, &[])), ArchiveCode::Invalid);
    }

    #[test]
    fn a_difference_needs_a_parent_that_can_be_restored() {
        let volumes = [volume("a", 10)];
        let mut sets = vec![facts("1-1", None), facts("1-2", Some("1-1"))];
        let check = |id, parent, sets: &[SetFacts]| check_draft(&draft(id, parent, &volumes), &volumes, sets);
        assert_eq!(check("2-1", Some("1-2"), &sets), Ok(()));
        assert_eq!(code(check("1-2", None, &sets)), ArchiveCode::Duplicate);
        assert_eq!(code(check("2-1", Some("1-3"), &sets)), ArchiveCode::UnknownParent);
        assert_eq!(code(check("0-1", Some("1-1"), &sets)), ArchiveCode::UnknownParent);
        sets[0].progress = Progress::Open;
        assert_eq!(code(check("2-1", Some("1-2"), &sets)), ArchiveCode::UnknownParent);
        assert_eq!(check("1-1", None, &sets), Ok(()), "begun anew");
        let chain: Vec<_> = (0..LONGEST_CHAIN)
            .map(|n| facts(&format!("1-{n}"), n.checked_sub(1).map(|n| format!("1-{n}")).as_deref()))
            .collect();
        assert_eq!(code(check("2-1", Some(&format!("1-{}", LONGEST_CHAIN - 1)), &chain)), ArchiveCode::UnknownParent);
    }

    #[test]
    fn sets_are_bounded() {
        let volumes = [volume("a", 10)];
        let mut sets: Vec<_> = (0..MOST_OPEN).map(|n| facts(&format!("1-{n}"), None)).collect();
        sets.iter_mut().for_each(|set| set.progress = Progress::Open);
        assert_eq!(code(check_draft(&draft("2-1", None, &volumes), &volumes, &sets)), ArchiveCode::Busy);
        let many: Vec<_> = (0..MOST_SETS).map(|n| facts(&format!("1-{n}"), None)).collect();
        assert_eq!(code(check_draft(&draft("2-1", None, &volumes), &volumes, &many)), ArchiveCode::Quota);
        assert_eq!(quota(&volumes, 4), 40 * MIB);
        assert_eq!(budget(&volumes, 4, &Sets::new(&[])), 30 * MIB);
        assert_eq!(stream_limit(10), 36 * MIB);
    }

    #[test]
    fn a_completion_names_what_arrived() {
        let received = |text: &[u8]| StreamReceived { bytes: text.len() as u64, sha256: FileHash::of(text) };
        let sent = |name: &str, text: &[u8]| {
            let StreamReceived { bytes, sha256 } = received(text);
            SentStream { name: name.to_owned(), bytes, sha256 }
        };
        let mut arrived = vec![(volume("a", 1), Some(received(b"x"))), (volume("b", 1), Some(received(b"y")))];
        let check = |arrived: &[_], sent: &[SentStream]| check_completion(arrived, sent);
        assert_eq!(check(&arrived, &[sent("b", b"y"), sent("a", b"x")]), Ok(Completion::Whole));
        let wrong = check(&arrived, &[sent("a", b"x"), sent("b", b"z")]);
        assert!(matches!(wrong, Ok(Completion::Wrong { key, .. }) if key == volume_key("b")));
        assert_eq!(code(check(&arrived, &[sent("a", b"x")])), ArchiveCode::Invalid);
        let more = [sent("a", b"x"), sent("b", b"y"), sent("c", b"y")];
        assert_eq!(code(check(&arrived, &more)), ArchiveCode::Invalid);
        arrived[1].1 = None;
        assert_eq!(code(check(&arrived, &[sent("a", b"x"), sent("b", b"y")])), ArchiveCode::Incomplete);
    }
}
