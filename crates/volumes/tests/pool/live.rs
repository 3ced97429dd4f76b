//! Live volumes: names, sizes, epochs, retirement.

use std::io::{self, Write};

use volumes::{Error, Evidence, Refusal, Source};

use crate::support::*;

#[tokio::test]
async fn names_are_data_never_paths() {
    let (place, pool) = pool().await;
    let long = "x".repeat(300);
    let names = ["", "/", "..", "../../../etc", "a\0b", "ünï¢ode 🗄", long.as_str()];
    let specs = names.iter().map(|text| volume(text, 16)).collect();
    pool.create_live(PROGRAM, epoch(1), specs).await.unwrap();
    for text in names {
        write(&pool, text, "who", text.as_bytes()).await;
    }
    snapshot(&pool, id(1, 1)).await;
    pool.close().await.unwrap();

    let pool = place.open().await;
    let data = place.data(PROGRAM).join("live/1");
    for text in names {
        let path = pool.live_path(PROGRAM, &name(text)).await.unwrap();
        assert_eq!(path.parent().unwrap(), data.canonicalize().unwrap());
        assert_eq!(read(&pool, text, "who").await, text.as_bytes());
    }
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), names.len());
    let missing = pool.live_path(PROGRAM, &name("other")).await.unwrap_err();
    assert!(matches!(missing, Error::Refused(Refusal::NoVolume(_))), "{missing}");
    let twice = pool.create_live(OTHER, epoch(1), vec![volume("a", 16), volume("a", 16)]).await.unwrap_err();
    assert!(matches!(twice, Error::Refused(Refusal::SameName(_))), "{twice}");
}

/// Writes a file until that fails.
fn fill(path: &std::path::Path) -> io::Error {
    let (mut file, chunk) = (std::fs::File::create(path).unwrap(), noise(MIB));
    loop {
        if let Err(error) = file.write_all(&chunk).and_then(|()| file.sync_data()) {
            return error;
        }
    }
}

#[tokio::test]
async fn a_full_volume_is_its_programs_own_trouble() {
    let (_place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("small", 8), volume("large", 64)]).await.unwrap();
    pool.create_live(OTHER, epoch(1), vec![volume("data", 8)]).await.unwrap();
    let small = pool.live_path(PROGRAM, &name("small")).await.unwrap();
    assert_eq!(fill(&small.join("f")).kind(), io::ErrorKind::QuotaExceeded);
    // Neighbours do not notice, neither of the same program nor of another.
    write(&pool, "large", "f", &noise(10 * MIB)).await;
    let other = pool.live_path(OTHER, &name("data")).await.unwrap();
    std::fs::write(other.join("f"), noise(MIB)).unwrap();
    pool.sync().await.unwrap();
    let usage = pool.volume_usage(PROGRAM).await.unwrap();
    assert_eq!((usage[0].name.as_str(), usage[0].limit), ("small", 8 << 20));
    assert!(usage[0].used > 6 << 20 && usage[0].used <= 8 << 20, "{usage:?}");
    assert!(usage[1].used >= 10 << 20, "{usage:?}");

    // A snapshot does not count, and what is removed can be used again.
    snapshot(&pool, id(1, 1)).await;
    pool.sync().await.unwrap();
    let all = pool.volume_usages().await.unwrap();
    assert_eq!(all.iter().filter(|(program, _)| *program == PROGRAM || *program == OTHER).count(), 2);
    let (_, saved) = all.iter().find(|(program, _)| *program == PROGRAM).unwrap();
    let (_, unsaved) = all.iter().find(|(program, _)| *program == OTHER).unwrap();
    assert!(saved[1].unsaved < 1 << 20 && saved[1].used >= 10 << 20, "all of it is in the snapshot: {saved:?}");
    assert!(unsaved[0].unsaved >= 1 << 20, "nothing of it is in one: {unsaved:?}");
    std::fs::remove_file(small.join("f")).unwrap();
    pool.sync().await.unwrap();
    write(&pool, "small", "g", &noise(5 * MIB)).await;
    pool.sync().await.unwrap();

    // More room helps at once; less than is in use is refused, and changes nothing.
    let grown = vec![volume("small", 32)];
    assert_eq!(pool.open_live(PROGRAM, epoch(2), grown).await.unwrap(), epoch(1));
    write(&pool, "small", "h", &noise(16 * MIB)).await;
    let error = pool.open_live(PROGRAM, epoch(2), vec![volume("small", 8), volume("new", 8)]).await.unwrap_err();
    assert!(matches!(&error, Error::TooSmall { wanted: 8, used: 22, .. }), "{error}");
    assert!(pool.live_path(PROGRAM, &name("new")).await.is_err());
    write(&pool, "small", "i", &noise(5 * MIB)).await;
    pool.sync().await.unwrap();
}

#[tokio::test]
async fn a_promoted_volume_keeps_its_limit() {
    let (_place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 16)]).await.unwrap();
    write(&pool, "data", "f", &noise(8 * MIB)).await;
    snapshot(&pool, id(1, 1)).await;
    pool.promote(PROGRAM, Source::Snapshot(id(1, 1)), epoch(2), at(10)).await.unwrap();
    let usage = pool.volume_usage(PROGRAM).await.unwrap();
    assert!(usage[0].used >= 8 << 20, "what it shares with the snapshot counts: {usage:?}");
    let path = pool.live_path(PROGRAM, &name("data")).await.unwrap();
    assert_eq!(fill(&path.join("g")).kind(), io::ErrorKind::QuotaExceeded);
    assert!(std::fs::metadata(path.join("g")).unwrap().len() < 8 << 20);
}

#[tokio::test]
async fn a_full_pool_survives() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 4096)]).await.unwrap();
    pool.create_live(OTHER, epoch(1), vec![volume("data", 64)]).await.unwrap();
    write(&pool, "data", "before", b"here").await;
    let path = pool.live_path(PROGRAM, &name("data")).await.unwrap();
    assert_eq!(fill(&path.join("f")).kind(), io::ErrorKind::StorageFull);
    let usage = pool.usage().unwrap();
    assert!(usage.used > 128 << 20 && usage.free > 200 << 20, "it may still grow: {usage:?}");

    // The pool is told what is going on, and goes on: epochs are remembered, volumes retired and removed.
    pool.retire(OTHER, epoch(2), at(5)).await.unwrap();
    pool.collect(at(5)).await.unwrap();
    std::fs::remove_file(path.join("f")).unwrap();
    pool.sync().await.unwrap();
    write(&pool, "data", "after", &noise(MIB)).await;
    pool.close().await.unwrap();
    let pool = place.open().await;
    assert_eq!(read(&pool, "data", "before").await, b"here");
    assert_eq!(read(&pool, "data", "after").await.len(), MIB);
    assert_eq!(pool.scrub().await.unwrap().errors, 0);
    assert_eq!(pool.program(OTHER).await.unwrap().highest(), epoch(2));
}

#[tokio::test]
async fn epochs_are_remembered_and_stale_ones_refused() {
    let (place, pool) = pool().await;
    let missing = pool.open_live(PROGRAM, epoch(3), Vec::new()).await.unwrap_err();
    assert!(matches!(missing, Error::Refused(Refusal::NotLive)), "{missing}");
    // Even an order that was refused has shown its epoch.
    pool.close().await.unwrap();
    let pool = place.open().await;
    let stale = pool.create_live(PROGRAM, epoch(2), vec![volume("data", 16)]).await.unwrap_err();
    assert!(matches!(stale, Error::Refused(Refusal::StaleEpoch { .. })), "{stale}");
    assert!(stale.to_string().contains("epoch 2 is over: epoch 3 has been seen"), "{stale}");
    pool.create_live(PROGRAM, epoch(3), vec![volume("data", 16)]).await.unwrap();
    snapshot(&pool, id(3, 1)).await;
    pool.open_live(PROGRAM, epoch(5), vec![volume("data", 16)]).await.unwrap();
    for stale in [
        pool.open_live(PROGRAM, epoch(4), Vec::new()).await.map(drop),
        pool.promote(PROGRAM, Source::Snapshot(id(3, 1)), epoch(4), at(1)).await,
        pool.retire(PROGRAM, epoch(4), at(1)).await,
        pool.snapshot(PROGRAM, id(4, 1), at(0), async || Ok(())).await.map(drop),
        pool.receive(PROGRAM, id(4, 1), &name("data"), ENOUGH, tokio::io::empty()).await.map(drop),
        pool.commit_received(PROGRAM, id(4, 1), at(0), Vec::new()).await.map(drop),
    ] {
        let stale = stale.unwrap_err();
        assert!(matches!(stale, Error::Refused(Refusal::StaleEpoch { .. })), "{stale}");
    }
}

#[tokio::test]
async fn a_retired_copy_is_kept_for_its_time_and_can_come_back() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 16)]).await.unwrap();
    write(&pool, "data", "f", b"old").await;
    snapshot(&pool, id(1, 1)).await;
    write(&pool, "data", "f", b"newer").await;
    pool.promote(PROGRAM, Source::Snapshot(id(1, 1)), epoch(2), at(100)).await.unwrap();
    assert_eq!(read(&pool, "data", "f").await, b"old");
    assert!(pool.collect(at(99)).await.unwrap().is_empty());

    pool.promote(PROGRAM, Source::RecoveryPoint(1), epoch(3), at(200)).await.unwrap();
    assert_eq!(read(&pool, "data", "f").await, b"newer");
    let removed = pool.collect(at(100)).await.unwrap();
    assert_eq!((removed.len(), removed[0].recovery_points, removed[0].all), (1, 1, false));
    let live = place.data(PROGRAM).join("live");
    let mut folders: Vec<_> = std::fs::read_dir(live).unwrap().map(|e| e.unwrap().file_name()).collect();
    folders.sort();
    assert_eq!(folders, ["2", "3"]);
    pool.retire(PROGRAM, epoch(3), at(300)).await.unwrap();
    assert!(matches!(pool.live_path(PROGRAM, &name("data")).await, Err(Error::Refused(Refusal::NotLive))));
}

/// Any process may make subvolumes in a directory that it may write.
#[tokio::test]
async fn subvolumes_that_a_program_made_go_with_the_volume() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 16)]).await.unwrap();
    let path = pool.live_path(PROGRAM, &name("data")).await.unwrap();
    std::fs::create_dir(path.join("deep")).unwrap();
    for nested in ["deep/a", "deep/a/b", "c"] {
        let made =
            std::process::Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(path.join(nested)).status();
        assert!(made.unwrap().success());
    }
    pool.heed(PROGRAM, Evidence::Over, at(1)).await.unwrap();
    pool.collect(at(1)).await.unwrap();
    assert!(!place.data(PROGRAM).exists());
}
