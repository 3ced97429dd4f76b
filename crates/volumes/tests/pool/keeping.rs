//! Programs that are over: forgotten, undeleted, and what an operator sees of it.

use volumes::{Error, Evidence, Heeded, Readable, Refusal, Role, Source};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_program_can_be_undeleted_in_time() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 16)]).await.unwrap();
    write(&pool, "data", "f", b"here").await;
    snapshot(&pool, id(1, 1)).await;
    assert_eq!(pool.heed(PROGRAM, Evidence::Over, at(100)).await.unwrap(), Heeded::Forgotten);
    assert!(matches!(pool.live_path(PROGRAM, &name("data")).await, Err(Error::Refused(Refusal::Forgotten(_)))));
    pool.collect(at(99)).await.unwrap();
    pool.undelete(PROGRAM, at(99)).await.unwrap();
    assert_eq!(read(&pool, "data", "f").await, b"here");

    pool.forget(PROGRAM, at(200)).await.unwrap();
    assert!(pool.collect(at(200)).await.unwrap()[0].all);
    assert!(!place.data(PROGRAM).exists());
    assert!(matches!(pool.undelete(PROGRAM, at(200)).await, Err(Error::Refused(Refusal::NothingHere))));
    // Of a program that was never here, nothing is written down.
    assert_eq!(pool.heed(OTHER, Evidence::Over, at(300)).await.unwrap(), Heeded::Nothing);
    assert!(!place.records(OTHER).exists());
    pool.close().await.unwrap();
    let pool = place.open().await;
    assert!(pool.snapshots(PROGRAM).await.unwrap().is_empty());
    let again = pool.create_live(PROGRAM, epoch(0), Vec::new()).await;
    assert!(matches!(again, Err(Error::Refused(Refusal::StaleEpoch { .. }))));
}

#[tokio::test]
async fn what_was_undeleted_stays_whatever_is_said_about_it_and_after_a_crash() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 16)]).await.unwrap();
    write(&pool, "data", "f", b"old").await;
    pool.retire(PROGRAM, epoch(2), at(50)).await.unwrap();
    pool.create_live(PROGRAM, epoch(2), vec![volume("data", 16)]).await.unwrap();
    write(&pool, "data", "f", b"new").await;
    pool.sync().await.unwrap();
    pool.heed(PROGRAM, Evidence::Over, at(100)).await.unwrap();
    pool.undelete(PROGRAM, at(10)).await.unwrap();

    let crashed = place.as_after_a_crash();
    let again = crashed.open().await;
    assert_eq!(again.heed(PROGRAM, Evidence::Over, at(100)).await.unwrap(), Heeded::Undeleted);
    assert!(again.collect(at(1_000_000)).await.unwrap().is_empty());
    assert_eq!(read(&again, "data", "f").await, b"new");
    assert_eq!(std::fs::read_dir(crashed.data(PROGRAM).join("live")).unwrap().count(), 2);

    // In force again, it is like any other, and what was to go goes.
    assert_eq!(again.heed(PROGRAM, Evidence::InForce, at(0)).await.unwrap(), Heeded::InForceAgain);
    assert_eq!(again.collect(at(50)).await.unwrap()[0].recovery_points, 1);
    assert_eq!(again.heed(PROGRAM, Evidence::Over, at(100)).await.unwrap(), Heeded::Forgotten);
}

#[tokio::test]
async fn an_operator_sees_everything_that_is_here() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 16), volume("more", 32)]).await.unwrap();
    write(&pool, "data", "f", &noise(4 * MIB)).await;
    snapshot(&pool, id(1, 1)).await;
    pool.promote(PROGRAM, Source::Snapshot(id(1, 1)), epoch(2), at(100)).await.unwrap();
    pool.retire(OTHER, epoch(7), at(1)).await.unwrap_err();
    pool.sync().await.unwrap();

    let mut all = pool.inventory(&[PROGRAM, OTHER]).await.unwrap();
    let nothing = all.pop().unwrap().unwrap();
    assert_eq!((nothing.role, nothing.highest, nothing.copies.len()), (Role::Nothing, epoch(7), 0));
    let seen = all.pop().unwrap().unwrap();
    assert_eq!((seen.role, seen.highest), (Role::Live(epoch(2)), epoch(2)));
    let copies: Vec<_> = seen.copies.iter().map(|kept| (kept.what, kept.epoch, kept.taken, kept.until)).collect();
    let expected = [
        (Readable::Live(2), epoch(2), None, None),
        (Readable::Snapshot(id(1, 1)), epoch(1), Some(at(0)), None),
        (Readable::RecoveryPoint(1), epoch(1), None, Some(at(100))),
    ];
    assert_eq!(copies, expected);
    for kept in &seen.copies {
        let [data, more] = &kept.volumes[..] else { panic!("two volumes: {kept:?}") };
        assert!(data.used >= 4 << 20 && data.limit == 16 << 20, "{kept:?}");
        assert!(more.used < 1 << 20 && more.limit == 32 << 20, "{kept:?}");
    }

    // One whose records are damaged hides no other.
    pool.close().await.unwrap();
    std::fs::write(place.records(PROGRAM).join("program.json"), "{}").unwrap();
    let pool = place.open().await;
    let seen = pool.inventory(&[PROGRAM, OTHER]).await.unwrap();
    assert!(matches!(&seen[..], [Err(Error::Damaged { .. }), Ok(_)]), "{seen:?}");
}
