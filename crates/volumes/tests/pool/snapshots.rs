//! Snapshot sets: complete or not there, one point in time, and whether something has changed.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use volumes::{Error, Refusal, Source};

use crate::support::*;

#[tokio::test]
async fn sets_are_listed_and_deleted() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 16)]).await.unwrap();
    for sequence in 1..=4 {
        write(&pool, "data", "f", &[sequence as u8]).await;
        snapshot(&pool, id(1, sequence)).await;
    }
    let again = pool.snapshot(PROGRAM, id(1, 4), at(0), async || Ok(())).await.unwrap_err();
    assert!(matches!(again, Error::Refused(Refusal::SnapshotExists(_))), "{again}");
    let earlier = pool.snapshot(PROGRAM, id(1, 3), at(0), async || Ok(())).await.unwrap_err();
    assert!(matches!(earlier, Error::Refused(Refusal::NotNewer { .. })), "{earlier}");
    assert_eq!(pool.newest_snapshot(PROGRAM).await.unwrap().unwrap().id, id(1, 4));
    assert_eq!(pool.prune(PROGRAM, &[id(1, 2)]).await.unwrap(), [id(1, 1), id(1, 3)]);
    pool.delete_snapshot(PROGRAM, id(1, 2)).await.unwrap();
    let gone = pool.delete_snapshot(PROGRAM, id(1, 2)).await.unwrap_err();
    assert!(matches!(gone, Error::Refused(Refusal::NoSnapshot(_))), "{gone}");
    let folders: Vec<_> = fs::read_dir(place.data(PROGRAM).join("snapshots")).unwrap().collect();
    assert_eq!(folders.len(), 1);
    pool.promote(PROGRAM, Source::Snapshot(id(1, 4)), epoch(2), at(9)).await.unwrap();
    assert_eq!(read(&pool, "data", "f").await, [4]);
    let unknown = pool.promote(PROGRAM, Source::Snapshot(id(1, 1)), epoch(3), at(9)).await.unwrap_err();
    assert!(matches!(unknown, Error::Refused(Refusal::NoSnapshot(_))), "{unknown}");
}

/// btrfs counts what it has committed: neither what is in memory only nor what `fsync` put into its log.
#[tokio::test]
async fn a_change_is_seen_wherever_it_still_is() {
    let (_place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("a", 16), volume("b", 16)]).await.unwrap();
    write(&pool, "a", "f", b"1").await;
    let path = pool.live_path(PROGRAM, &name("a")).await.unwrap();
    snapshot(&pool, id(1, 1)).await;
    let mut last = id(1, 1);
    let changed = async |id| pool.changed_since(PROGRAM, id).await.unwrap();
    assert!(!changed(last).await);
    // Reading is no change, nor is asking.
    fs::read(path.join("f")).unwrap();
    fs::read_dir(&path).unwrap().count();
    pool.sync().await.unwrap();
    assert!(!changed(last).await);

    let synced = path.clone();
    let mapped = path.clone();
    let renamed = path.clone();
    let other = pool.live_path(PROGRAM, &name("b")).await.unwrap();
    type Change = (&'static str, Box<dyn Fn()>);
    let changes: [Change; 5] = [
        ("in memory", Box::new(move || fs::write(path.join("f"), "2").unwrap())),
        (
            "fsync",
            Box::new(move || {
                fs::write(synced.join("g"), "3").unwrap();
                fs::File::open(synced.join("g")).unwrap().sync_all().unwrap();
            }),
        ),
        ("mapped", Box::new(move || write_by_map(&mapped.join("f")))),
        ("renamed", Box::new(move || fs::rename(renamed.join("f"), renamed.join("h")).unwrap())),
        ("the other volume", Box::new(move || fs::write(other.join("x"), "").unwrap())),
    ];
    for (what, change) in changes {
        change();
        assert!(changed(last).await, "{what}");
        last.sequence += 1;
        snapshot(&pool, last).await;
        assert!(!changed(last).await, "after {what}");
    }
    // More volumes are a change, another live copy tells nothing.
    pool.open_live(PROGRAM, epoch(1), vec![volume("c", 16)]).await.unwrap();
    assert!(changed(last).await);
    pool.promote(PROGRAM, Source::Snapshot(last), epoch(2), at(0)).await.unwrap();
    assert!(changed(last).await);
}

fn write_by_map(path: &std::path::Path) {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    // SAFETY: a new mapping of one page of a file that nobody else uses; it is written within the file's one byte and
    // then unmapped.
    unsafe {
        let map =
            mmap(std::ptr::null_mut(), 1, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0).unwrap();
        map.cast::<u8>().write_volatile(b'9');
        munmap(map, 1).unwrap();
    }
}

#[tokio::test]
async fn several_volumes_are_snapshots_of_a_frozen_program() {
    let (_place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("a", 16)]).await.unwrap();
    let unused = async || -> io::Result<()> { panic!("one volume needs no freezing") };
    pool.snapshot(PROGRAM, id(1, 1), at(0), unused).await.unwrap();

    pool.open_live(PROGRAM, epoch(1), vec![volume("b", 16)]).await.unwrap();
    struct Frozen(Arc<AtomicBool>);
    impl Drop for Frozen {
        fn drop(&mut self) {
            self.0.store(false, Ordering::SeqCst);
        }
    }
    let frozen = Arc::new(AtomicBool::new(false));
    let freeze = async || {
        frozen.store(true, Ordering::SeqCst);
        Ok(Frozen(frozen.clone()))
    };
    let set = pool.snapshot(PROGRAM, id(1, 2), at(7), freeze).await.unwrap();
    assert!(!frozen.load(Ordering::SeqCst), "it goes on");
    assert_eq!((set.taken, set.volumes.len()), (at(7), 2));

    let stuck = async || -> io::Result<()> { Err(io::Error::other("a process does not stop")) };
    let error = pool.snapshot(PROGRAM, id(1, 3), at(0), stuck).await.unwrap_err();
    assert_eq!(error.to_string(), "the program could not be frozen for a snapshot: a process does not stop");
    assert_eq!(pool.newest_snapshot(PROGRAM).await.unwrap().unwrap().id, id(1, 2));
    snapshot(&pool, id(1, 3)).await;
}
