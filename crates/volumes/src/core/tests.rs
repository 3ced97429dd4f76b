use chrono::{DateTime, Utc};
use proptest::prelude::*;
use protocol::Epoch;

use super::growth::{Bounds, Growth, KEPT_FREE_ON_DISK, Levels, grow};
use super::keeping::{Collected, Evidence, Heeded, Readable, Role};
use super::name::{VolumeName, VolumeSpec};
use super::program::{MAX_SETS, MAX_VOLUMES, Program, RecoveryPoint, Refusal, Source};
use super::snapshot::{Origin, SnapshotId, SnapshotSet, surplus};

const MIB: u64 = 1 << 20;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn epoch(number: u64) -> Epoch {
    Epoch::new(number)
}

fn id(epoch: u64, sequence: u64) -> SnapshotId {
    SnapshotId::new(Epoch::new(epoch), sequence)
}

fn volume(name: &str, size_mib: u64) -> VolumeSpec {
    VolumeSpec::files(VolumeName::new(name).unwrap(), size_mib)
}

fn received(id: SnapshotId) -> SnapshotSet {
    SnapshotSet { id, taken: at(0), volumes: vec![volume("data", 10)], origin: Origin::Received }
}

#[test]
fn names_are_keys_and_never_paths() {
    let names = ["", "/", "..", "../../etc", "a\0b", "ünï/¢ode 🗄", ".", &"x".repeat(300), "live", "snapshots"];
    let keys: Vec<_> = names.iter().map(|name| VolumeName::new(*name).unwrap().key()).collect();
    for (index, key) in keys.iter().enumerate() {
        assert!(key.as_str().len() == 32 && key.as_str().bytes().all(|b| b.is_ascii_hexdigit()), "{key}");
        assert!(!keys[..index].contains(key));
        let name = VolumeName::new(names[index]).unwrap();
        let json = serde_json::to_string(&name).unwrap();
        assert_eq!(serde_json::from_str::<VolumeName>(&json).unwrap(), name);
        assert!(!name.to_string().contains('\0'), "what people read has no control characters");
    }
    let long = VolumeName::new("x".repeat(VolumeName::MAX_BYTES + 1)).unwrap_err();
    assert_eq!(long.to_string(), "the name of a volume has 4097 bytes; give it one of at most 4096");
}

#[test]
fn snapshots_are_ordered_by_epoch_and_have_one_text_each() {
    assert!(id(1, 900) < id(2, 1) && id(2, 1) < id(2, 2) && id(2, 9) < id(2, 10));
    assert_eq!("3-17".parse(), Ok(id(3, 17)));
    for text in ["", "3", "3-", "-3", "03-1", "3-+1", "3-1-1", "../x", "3-1.json"] {
        assert!(text.parse::<SnapshotId>().is_err(), "{text}");
    }
}

#[test]
fn an_epoch_that_is_over_moves_nothing() {
    let mut program = Program::default();
    program.create_live(epoch(3), vec![volume("data", 10)]).unwrap();
    let stale = Refusal::StaleEpoch { offered: epoch(2), highest: epoch(3) };
    let before = program.clone();
    assert_eq!(program.create_live(epoch(2), Vec::new()), Err(stale.clone()));
    assert_eq!(program.open_live(epoch(2), Vec::new()), Err(stale.clone()));
    assert_eq!(program.may_take(id(2, 9)), Err(stale.clone()));
    assert_eq!(program.may_receive(id(2, 9)), Err(stale.clone()));
    assert_eq!(program.promote(Source::Snapshot(id(2, 9)), epoch(2), at(0)), Err(stale.clone()));
    assert_eq!(program.retire(epoch(2), at(0)), Err(stale));
    assert_eq!(program, before);
}

#[test]
fn a_stale_copy_is_not_served_and_stays_as_a_recovery_point() {
    let mut program = Program::default();
    program.create_live(epoch(1), vec![volume("data", 10)]).unwrap();
    // The node was away. Another one has run the program, and sends what it wrote.
    program.may_receive(id(2, 1)).unwrap();
    let stale = Refusal::NotOfThisEpoch { live: epoch(1), newest: epoch(2) };
    assert_eq!(program.current(), Err(stale.clone()));
    assert_eq!(program.may_take(id(2, 2)), Err(stale));
    program.add_set(received(id(2, 1)));
    assert_eq!(program.open_live(epoch(3), Vec::new()), Err(Refusal::Overtaken { live: epoch(1), newer: id(2, 1) }));
    let live = program.promote(Source::Snapshot(id(2, 1)), epoch(3), at(100)).unwrap();
    assert_eq!((live.folder, live.epoch, live.made_of), (2, epoch(3), Some(id(2, 1))));
    assert_eq!(program.current(), Ok(&live));
    let [point] = program.recovery_points() else { panic!("one recovery point") };
    assert_eq!((point.was.epoch, point.until), (epoch(1), at(100)));
    // And back again, under the next epoch.
    let again = program.promote(Source::RecoveryPoint(1), epoch(4), at(100)).unwrap();
    assert_eq!((again.folder, again.made_of), (3, None));
    assert_eq!(program.promote(Source::RecoveryPoint(9), epoch(5), at(1)), Err(Refusal::NoRecoveryPoint(9)));
}

#[test]
fn only_one_copy_is_live() {
    let mut program = Program::default();
    assert_eq!(program.open_live(epoch(1), Vec::new()), Err(Refusal::NotLive));
    program.create_live(epoch(1), Vec::new()).unwrap();
    assert_eq!(program.create_live(epoch(2), Vec::new()), Err(Refusal::AlreadyLive(epoch(1))));
    assert_eq!(program.may_receive(id(2, 1)), Ok(()), "another node may have it now");
    program.add_set(received(id(2, 1)));
    program.promote(Source::Snapshot(id(2, 1)), epoch(3), at(1)).unwrap();
    assert_eq!(program.promote(Source::Snapshot(id(2, 1)), epoch(3), at(1)), Err(Refusal::AlreadyLive(epoch(3))));
    assert_eq!(program.may_receive(id(3, 1)), Err(Refusal::LiveHere(epoch(3))));
}

#[test]
fn snapshots_go_forward_only() {
    let mut program = Program::default();
    program.create_live(epoch(1), vec![volume("data", 10)]).unwrap();
    program.may_take(id(1, 5)).unwrap();
    program.add_set(received(id(1, 5)));
    assert_eq!(program.may_take(id(1, 5)), Err(Refusal::SnapshotExists(id(1, 5))));
    assert_eq!(program.may_take(id(1, 4)), Err(Refusal::NotNewer { offered: id(1, 4), newest: id(1, 5) }));
    assert!(matches!(program.may_take(id(2, 6)), Err(Refusal::NotOfThisEpoch { .. })));
    program.may_take(id(1, 6)).unwrap();
    assert_eq!(program.remove_set(id(1, 7)), Err(Refusal::NoSnapshot(id(1, 7))));
    for sequence in 6..5 + MAX_SETS as u64 {
        program.add_set(received(id(1, sequence)));
    }
    assert_eq!(program.may_take(id(1, 99)), Err(Refusal::TooManySets));
    assert_eq!(program.may_receive(id(2, 1)), Err(Refusal::TooManySets));
}

#[test]
fn an_update_keeps_volumes_adds_and_resizes() {
    let mut program = Program::default();
    program.create_live(epoch(1), vec![volume("a", 10), volume("b", 10)]).unwrap();
    let opening = program.open_live(epoch(2), vec![volume("b", 20), volume("c", 5)]).unwrap();
    assert_eq!(opening.previous, epoch(1));
    assert_eq!(opening.added, [volume("c", 5)]);
    assert_eq!(opening.resized, [volume("b", 20)]);
    assert_eq!(program.live().unwrap().volumes, [volume("a", 10), volume("b", 20), volume("c", 5)]);
    let same = VolumeName::new("a").unwrap();
    assert_eq!(program.open_live(epoch(2), vec![volume("a", 1), volume("a", 2)]), Err(Refusal::SameName(same)));
    let many = (0..=MAX_VOLUMES).map(|n| volume(&n.to_string(), 1)).collect();
    assert_eq!(program.open_live(epoch(2), many), Err(Refusal::TooMany(MAX_VOLUMES + 1)));
}

#[test]
fn what_was_forgotten_is_kept_until_its_time_and_the_epoch_for_ever() {
    let mut program = Program::default();
    assert_eq!(program.heed(Evidence::Over, at(100)), Heeded::Nothing, "there is nothing to forget");
    program.create_live(epoch(4), vec![volume("a", 10)]).unwrap();
    assert_eq!(program.heed(Evidence::InForce, at(100)), Heeded::Nothing);
    assert_eq!(program.heed(Evidence::Over, at(100)), Heeded::Forgotten);
    assert_eq!(program.heed(Evidence::Over, at(200)), Heeded::Nothing, "the time does not start anew");
    assert_eq!(program.current(), Err(Refusal::Forgotten(at(100))));
    assert_eq!(program.open_live(epoch(4), Vec::new()), Err(Refusal::Forgotten(at(100))));
    assert!(!program.collect(at(99)).all);
    assert_eq!(program.heed(Evidence::InForce, at(100)), Heeded::InForceAgain);
    program.current().unwrap();
    program.heed(Evidence::Over, at(200));
    assert_eq!(program.undelete(at(200)), Err(Refusal::PastRetention(at(200))), "it may be going already");
    assert!(program.collect(at(200)).all);
    assert!(program.live().is_none() && program.forgotten().is_none());
    assert_eq!(program.undelete(at(200)), Err(Refusal::NothingHere));
    assert_eq!(program.forget(at(300)), Err(Refusal::NothingHere));
    assert!(matches!(program.create_live(epoch(3), Vec::new()), Err(Refusal::StaleEpoch { .. })));
    assert_eq!(program.create_live(epoch(4), Vec::new()), Ok(2), "a folder's number is not used twice");
}

#[test]
fn what_an_operator_undeleted_stays_until_it_is_forgotten_again_or_in_force() {
    let mut program = Program::default();
    program.create_live(epoch(1), vec![volume("a", 10)]).unwrap();
    program.retire(epoch(2), at(50)).unwrap();
    program.create_live(epoch(2), vec![volume("a", 10)]).unwrap();
    assert_eq!(program.undelete(at(0)), Err(Refusal::NotForgotten));
    assert_eq!(program.forget(at(0)), Err(Refusal::NotUndeleted), "its message has the last word on what is in force");
    program.heed(Evidence::Over, at(100));
    program.undelete(at(10)).unwrap();
    assert_eq!(program.role(), Role::Undeleted);
    // Its message is still forgotten, for ever.
    assert_eq!(program.heed(Evidence::Over, at(100)), Heeded::Undeleted);
    assert_eq!(program.collect(at(1000)), Collected::default(), "recovery points stay, too");
    assert_eq!(program.current().unwrap().epoch, epoch(2));
    assert_eq!(program.undelete(at(10)), Err(Refusal::NotForgotten));

    program.forget(at(2000)).unwrap();
    assert_eq!((program.forgotten(), program.is_undeleted()), (Some(at(2000)), false));
    program.forget(at(3000)).unwrap();
    assert_eq!(program.role(), Role::Forgotten(at(3000)), "once more moves the time");
    program.undelete(at(2500)).unwrap();
    assert_eq!(program.heed(Evidence::InForce, at(0)), Heeded::InForceAgain);
    assert_eq!(program.role(), Role::Live(epoch(2)));
    assert_eq!(program.heed(Evidence::Over, at(4000)), Heeded::Forgotten, "it is like any other again");
}

#[test]
fn each_role_has_a_word() {
    let mut program = Program::default();
    program.observe(epoch(1)).unwrap();
    assert_eq!(program.role(), Role::Nothing);
    program.add_set(received(id(1, 1)));
    assert_eq!(program.role(), Role::Standby);
    program.promote(Source::Snapshot(id(1, 1)), epoch(2), at(9)).unwrap();
    assert_eq!(program.role(), Role::Live(epoch(2)));
    program.observe(epoch(3)).unwrap();
    assert_eq!(program.role(), Role::Stale(epoch(2)));
    program.retire(epoch(3), at(9)).unwrap();
    assert_eq!(program.role(), Role::Standby, "the snapshot is still there");
    program.remove_set(id(1, 1)).unwrap();
    assert_eq!(program.role(), Role::Retired);
    program.heed(Evidence::Over, at(9));
    assert_eq!(program.role(), Role::Forgotten(at(9)));
}

#[test]
fn what_was_written_last_is_read_if_nobody_says_what() {
    let mut program = Program::default();
    let readable = |program: &Program| program.readable(None).map(|(readable, _)| readable);
    assert_eq!(readable(&program), Err(Refusal::NothingHere));
    program.add_set(received(id(1, 1)));
    assert_eq!(readable(&program), Ok(Readable::Snapshot(id(1, 1))));
    program.promote(Source::Snapshot(id(1, 1)), epoch(2), at(9)).unwrap();
    program.add_set(received(id(2, 1)));
    assert_eq!(readable(&program), Ok(Readable::Live(1)), "of one epoch, the program itself wrote last");
    program.retire(epoch(3), at(9)).unwrap();
    assert_eq!(readable(&program), Ok(Readable::RecoveryPoint(1)));
    program.add_set(received(id(3, 1)));
    assert_eq!(readable(&program), Ok(Readable::Snapshot(id(3, 1))), "another node has written since");
    program.promote(Source::RecoveryPoint(1), epoch(4), at(9)).unwrap();
    program.heed(Evidence::Over, at(9));
    assert_eq!(readable(&program), Ok(Readable::Live(2)), "also of what is forgotten");

    let asked = |source| program.readable(Some(source)).map(|(readable, volumes)| (readable, volumes.len()));
    assert_eq!(asked(Source::Snapshot(id(2, 1))), Ok((Readable::Snapshot(id(2, 1)), 1)));
    assert_eq!(asked(Source::Snapshot(id(2, 9))), Err(Refusal::NoSnapshot(id(2, 9))));
    assert_eq!(asked(Source::RecoveryPoint(1)), Ok((Readable::RecoveryPoint(1), 1)));
    assert_eq!(asked(Source::RecoveryPoint(2)), Err(Refusal::NoRecoveryPoint(2)), "it is live");
}

#[test]
fn folders_in_archives_have_plain_names_and_each_its_own() {
    let key = VolumeName::new("x").unwrap().key().to_string();
    for plain in ["data", "my-data_2.old", "_x", &"x".repeat(100)] {
        assert_eq!(VolumeName::new(plain).unwrap().in_archive(), plain);
    }
    for odd in
        ["", ".", "..", ".hidden", "-rf", "a/b", "a b", "a\0", "ünï", "a,b", "a&b", key.as_str(), &"x".repeat(101)]
    {
        let name = VolumeName::new(odd).unwrap();
        assert_eq!(name.in_archive(), name.key().as_str(), "{odd}");
    }
}

#[test]
fn records_of_before_there_was_undeleting_are_read() {
    let old = r#"{"highest": 3, "next_folder": 2, "live": null, "recovery": [], "forgotten": "1970-01-01T00:01:40Z"}"#;
    let mut program: Program = serde_json::from_str(old).unwrap();
    assert_eq!((program.forgotten(), program.is_undeleted()), (Some(at(100)), false));
    program.undelete(at(5)).unwrap();
    let again: Program = serde_json::from_str(&serde_json::to_string(&program).unwrap()).unwrap();
    assert_eq!(again, program);
    assert!(again.is_undeleted());
}

#[test]
fn recovery_points_end_at_their_deadline() {
    let mut program = Program::default();
    program.create_live(epoch(1), Vec::new()).unwrap();
    program.retire(epoch(1), at(10)).unwrap();
    assert_eq!(program.retire(epoch(1), at(10)), Err(Refusal::NotLive));
    program.create_live(epoch(2), Vec::new()).unwrap();
    program.retire(epoch(2), at(20)).unwrap();
    assert!(program.collect(at(9)).folders.is_empty());
    assert_eq!(program.collect(at(10)).folders, [1]);
    assert!(program.has_folder(2) && !program.has_folder(1));
}

#[test]
fn the_newest_snapshot_and_those_in_use_are_kept() {
    let sets = [id(1, 1), id(1, 2), id(2, 1), id(2, 2)];
    assert_eq!(surplus(&sets, &[id(1, 2)]), [id(1, 1), id(2, 1)]);
    assert!(surplus(&sets[..1], &[]).is_empty());
    assert!(surplus(&[], &[id(1, 1)]).is_empty());
}

#[test]
fn a_file_grows_in_time_and_only_as_far_as_its_disk_has_room() {
    let levels = Levels { size: 1000 * MIB, free: 500 * MIB, on_disk: 500 * MIB, disk_free: 10_000 * MIB };
    let bounds = Bounds { limit: 4000 * MIB, headroom: 500 * MIB };
    assert_eq!(grow(levels, bounds), Growth::Enough);
    let low = Levels { free: 400 * MIB, ..levels };
    assert_eq!(grow(low, bounds), Growth::To(1250 * MIB), "a quarter at least");
    assert_eq!(grow(Levels { free: 0, ..low }, bounds), Growth::To(1500 * MIB), "the headroom at least");
    assert_eq!(grow(low, Bounds { limit: 1100 * MIB, ..bounds }), Growth::To(1100 * MIB));
    assert_eq!(grow(low, Bounds { limit: 900 * MIB, ..bounds }), Growth::AtLimit, "it never shrinks");
    let short = Levels { disk_free: 600 * MIB + KEPT_FREE_ON_DISK, ..low };
    assert_eq!(grow(short, bounds), Growth::To(1100 * MIB));
    assert_eq!(grow(Levels { disk_free: 500 * MIB, ..low }, bounds), Growth::DiskIsShort);
}

/// Anything that may be asked of a program's volumes.
#[derive(Debug, Clone)]
enum Step {
    Create(u64),
    Open(u64),
    Receive(u64, u64),
    Take(u64, u64),
    Promote(u64, u64, u64),
    Retire(u64),
    Heed(Evidence, i64),
    Forget(i64),
    Undelete(i64),
    Collect(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1..6_u64).prop_map(Step::Create),
        (1..6_u64).prop_map(Step::Open),
        (1..6_u64, 0..4_u64).prop_map(|(e, s)| Step::Receive(e, s)),
        (1..6_u64, 0..4_u64).prop_map(|(e, s)| Step::Take(e, s)),
        (1..6_u64, 0..4_u64, 1..6_u64).prop_map(|(e, s, n)| Step::Promote(e, s, n)),
        (1..6_u64).prop_map(Step::Retire),
        (prop_oneof![Just(Evidence::Over), Just(Evidence::InForce)], 0..9_i64).prop_map(|(e, u)| Step::Heed(e, u)),
        (0..9_i64).prop_map(Step::Forget),
        (0..9_i64).prop_map(Step::Undelete),
        (0..9_i64).prop_map(Step::Collect),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    /// Whatever comes in whatever order: the highest epoch never falls, what was accepted was not below it, what is
    /// current is of that epoch and not older than any snapshot, no two copies share a folder, and what an operator
    /// undeleted stays undeleted until it is forgotten by hand or in force, and all of it is there.
    #[test]
    fn epochs_fence(steps in steps()) {
        let mut program = Program::default();
        for step in steps {
            let (before, was) = (program.highest(), program.clone());
            let accepted = match step {
                Step::Create(e) => program.create_live(epoch(e), Vec::new()).ok().map(|_| e),
                Step::Open(e) => program.open_live(epoch(e), Vec::new()).ok().map(|_| e),
                Step::Receive(e, s) => {
                    let may = program.may_receive(id(e, s));
                    if may.is_ok() {
                        program.add_set(received(id(e, s)));
                    }
                    may.ok().map(|()| e)
                }
                Step::Take(e, s) => {
                    let may = program.may_take(id(e, s)).is_ok();
                    if may {
                        program.add_set(received(id(e, s)));
                    }
                    may.then_some(e)
                }
                Step::Promote(e, s, n) => program.promote(Source::Snapshot(id(e, s)), epoch(n), at(5)).ok().map(|_| n),
                Step::Retire(e) => program.retire(epoch(e), at(5)).ok().map(|()| e),
                Step::Heed(evidence, until) => { program.heed(evidence, at(until)); None }
                Step::Forget(until) => { let _ = program.forget(at(until)); None }
                Step::Undelete(now) => { let _ = program.undelete(at(now)); None }
                Step::Collect(now) => { program.collect(at(now)); None }
            };
            prop_assert!(!(program.is_undeleted() && program.forgotten().is_some()));
            if was.is_undeleted() {
                let is_kept = |point: &RecoveryPoint| program.recovery_points().contains(point);
                prop_assert!(was.recovery_points().iter().all(is_kept), "neither evidence nor time takes anything away");
                prop_assert!(was.live().is_none() || program.live().is_some() || matches!(step, Step::Retire(_)));
                let by_somebody = matches!(step, Step::Forget(_) | Step::Heed(Evidence::InForce, _));
                prop_assert!(program.is_undeleted() || by_somebody);
            }
            prop_assert!(program.highest() >= before);
            prop_assert!(accepted.is_none_or(|e| epoch(e) >= before));
            if let Ok(live) = program.current() {
                prop_assert_eq!(live.epoch, program.highest());
                prop_assert!(program.sets().all(|set| set.id.epoch <= live.epoch));
            }
            let mut folders: Vec<_> = program.recovery_points().iter().map(|point| point.was.folder).collect();
            folders.extend(program.live().map(|live| live.folder));
            folders.sort_unstable();
            prop_assert!(folders.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
