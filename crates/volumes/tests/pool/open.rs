//! Opening the pool: made, found again, refused, repaired.

use std::fs;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use volumes::{Error, Evidence, FileConfig, Pool, PoolConfig, Source, Storage};

use crate::support::*;

async fn refused(config: PoolConfig) -> Error {
    match Pool::open(config).await {
        Ok(_) => panic!("it should not open"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn the_mount_outlives_the_process_and_is_found_again() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 16)]).await.unwrap();
    write(&pool, "data", "f", b"here").await;
    let path = pool.live_path(PROGRAM, &name("data")).await.unwrap();
    let in_use = refused(place.config()).await;
    assert!(matches!(in_use, Error::InUse(_)), "{in_use}");

    drop(pool);
    assert_eq!(fs::read(path.join("f")).unwrap(), b"here", "sandboxes go on");
    let pool = place.open().await;
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let ours = mounts.lines().filter(|line| line.contains(place.mount().to_str().unwrap()));
    assert_eq!(ours.count(), 1, "{mounts}");
    pool.close().await.unwrap();
    let devices = Command::new("losetup").arg("-j").arg(place.file()).output().unwrap();
    assert!(devices.stdout.is_empty(), "no loop device is left");
    assert_eq!(read(&place.open().await, "data", "f").await, b"here");
}

#[tokio::test]
async fn another_process_is_refused() {
    let (place, pool) = pool().await;
    pool.close().await.unwrap();
    let lock = place.path().join("pool.btrfs.lock");
    let mut command = Command::new("flock");
    command.arg(&lock).args(["-c", "echo; read line"]);
    let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // It says when it has the lock.
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let error = refused(place.config()).await;
    assert_eq!(
        error.to_string(),
        format!(
            "the pool is in use: another process holds {}; stop it, or give this one a pool of its own",
            lock.display()
        )
    );
    drop(holder.stdin.take());
    holder.wait().unwrap();
    place.open().await;
}

#[tokio::test]
async fn what_is_there_is_never_overwritten() {
    let place = Place::new();
    for contents in [&b"my diary"[..], b"", &noise(MIB)] {
        fs::write(place.file(), contents).unwrap();
        let error = refused(place.config()).await;
        assert!(matches!(error, Error::NotAPool(_)), "{error}");
        assert!(error.to_string().contains("nothing was changed. Move it away"), "{error}");
        assert_eq!(fs::read(place.file()).unwrap(), contents);
    }
    fs::remove_file(place.file()).unwrap();
    // What was interrupted while it was made is made anew.
    fs::write(place.path().join("pool.btrfs.new"), "half").unwrap();
    fs::create_dir(place.mount()).unwrap();
    fs::write(place.mount().join("mine"), "x").unwrap();
    let error = refused(place.config()).await;
    assert!(matches!(error, Error::FolderInUse(_)), "{error}");
    fs::remove_file(place.mount().join("mine")).unwrap();
    place.open().await;
}

/// A file whose superblock is right, and nothing else.
#[tokio::test]
async fn a_damaged_file_system_is_an_error_and_leaves_no_loop_device() {
    let (place, pool) = pool().await;
    pool.close().await.unwrap();
    let superblocks = fs::read(place.file()).unwrap()[..MIB].to_vec();
    fs::write(place.file(), &superblocks).unwrap();
    fs::OpenOptions::new().write(true).open(place.file()).unwrap().set_len(256 << 20).unwrap();
    let error = refused(place.config()).await;
    assert!(error.to_string().starts_with("'mount -t btrfs"), "{error}");
    let devices = Command::new("losetup").arg("-j").arg(place.file()).output().unwrap();
    assert!(devices.stdout.is_empty());
}

#[tokio::test]
async fn a_folder_has_to_be_on_btrfs() {
    let ((_other, pool), (place, _mounted)) = (pool().await, pool().await);
    let config = |folder: &std::path::Path| PoolConfig {
        storage: Storage::Folder(folder.to_owned()),
        records: place.path().join("records of the folder"),
    };
    let error = refused(config(std::path::Path::new("/proc"))).await;
    assert!(matches!(error, Error::NotOnBtrfs(_)), "{error}");
    // A folder in a mounted btrfs serves as a pool like a file does.
    let folder = place.mount().join("folder");
    fs::create_dir(&folder).unwrap();
    let inner = Pool::open(config(&folder)).await.unwrap();
    let error = refused(config(&folder)).await;
    assert!(matches!(error, Error::InUse(_)), "{error}");
    inner.create_live(PROGRAM, epoch(1), vec![volume("data", 16)]).await.unwrap();
    write(&inner, "data", "f", b"1").await;
    snapshot(&inner, id(1, 1)).await;
    transfer(&inner, &pool, id(1, 1), None).await;
    pool.promote(PROGRAM, Source::Snapshot(id(1, 1)), epoch(2), at(0)).await.unwrap();
    assert_eq!(read(&pool, "data", "f").await, b"1");
    // And takes streams in, although it is not at the top of its file system.
    write(&pool, "data", "f", b"2").await;
    snapshot(&pool, id(2, 1)).await;
    transfer(&pool, &inner, id(2, 1), Some(id(1, 1))).await;
    inner.close().await.unwrap();
}

#[tokio::test]
async fn a_pool_that_cannot_be_written_says_what_to_do() {
    let (place, pool) = pool().await;
    drop(pool);
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(place.mount()).status().unwrap();
    assert!(remounted.success());
    let error = refused(place.config()).await;
    assert!(matches!(error, Error::ReadOnly(_)), "{error}");
}

/// Volumes that are made of snapshots would have no limit.
#[tokio::test]
async fn simple_quotas_are_refused() {
    let (place, pool) = pool().await;
    drop(pool);
    let off = Command::new("btrfs").args(["quota", "disable"]).arg(place.mount()).status().unwrap();
    assert!(off.success());
    // struct btrfs_ioctl_quota_ctl_args with BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA, which btrfs-progs 6.2 does not know.
    let (folder, mut args) = (fs::File::open(place.mount()).unwrap(), [4_u64, 0]);
    const QUOTA_CTL: u64 = 0xc010_9428;
    // SAFETY: the request reads and writes two numbers of 64 bits, which `args` is, and which outlives the call.
    if unsafe { libc::ioctl(folder.as_raw_fd(), QUOTA_CTL, args.as_mut_ptr()) } != 0 {
        eprintln!("this kernel has no simple quotas: {}", std::io::Error::last_os_error());
        return;
    }
    drop(folder);
    let error = refused(place.config()).await;
    assert!(matches!(error, Error::SimpleQuotas(_)), "{error}");
}

#[tokio::test]
async fn it_grows_when_it_has_to_and_as_far_as_it_may() {
    let place = Place::new();
    let storage = Storage::File(FileConfig { headroom_mib: 100, ..place.file_config() });
    let pool = Pool::open(PoolConfig { storage, ..place.config() }).await.unwrap();
    let length = || fs::metadata(place.file()).unwrap().len() >> 20;
    assert_eq!(length(), 256);
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 4096)]).await.unwrap();
    let mut lengths = vec![length()];
    for file in 0..8 {
        write(&pool, "data", &file.to_string(), &noise(40 * MIB)).await;
        pool.sync().await.unwrap();
        pool.grow_if_needed().await.unwrap();
        lengths.push(length());
    }
    assert!(lengths.is_sorted() && lengths.iter().any(|length| (257..512).contains(length)), "{lengths:?}");
    assert_eq!(length(), 512, "its limit: {lengths:?}");
    let usage = pool.usage().unwrap();
    assert_eq!(usage.total, 512 << 20);
    assert!(usage.used > 200 << 20 && usage.used + usage.free <= usage.total, "{usage:?}");
    pool.close().await.unwrap();
    // A growth that was interrupted after the file had grown is completed.
    fs::OpenOptions::new().write(true).open(place.file()).unwrap().set_len(600 << 20).unwrap();
    assert!(place.open().await.usage().unwrap().total >= 600 << 20);
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_durable() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 64)]).await.unwrap();
    write(&pool, "data", "f", b"in the snapshot").await;
    snapshot(&pool, id(1, 1)).await;
    write(&pool, "data", "f", b"after it").await;
    let crashed = place.as_after_a_crash();
    pool.close().await.unwrap();
    let pool = crashed.open().await;
    pool.promote(PROGRAM, Source::Snapshot(id(1, 1)), epoch(2), at(1)).await.unwrap();
    assert_eq!(read(&pool, "data", "f").await, b"in the snapshot");
    assert_eq!(pool.scrub().await.unwrap().errors, 0);
}

#[tokio::test]
async fn damaged_records_block_their_program_only() {
    let (place, pool) = pool().await;
    for program in [PROGRAM, OTHER] {
        pool.create_live(program, epoch(1), vec![volume("data", 16)]).await.unwrap();
    }
    snapshot(&pool, id(1, 1)).await;
    pool.close().await.unwrap();
    for record in ["program.json", "sets/1-1.json"] {
        let pool = place.open().await;
        let path = place.records(PROGRAM).join(record);
        let good = fs::read(&path).unwrap();
        fs::write(&path, [0xff, b'{', 0]).unwrap();
        pool.close().await.unwrap();

        let pool = place.open().await;
        for error in [
            pool.live_path(PROGRAM, &name("data")).await.unwrap_err(),
            pool.create_live(PROGRAM, epoch(9), Vec::new()).await.unwrap_err(),
            pool.forget(PROGRAM, at(0)).await.unwrap_err(),
            pool.heed(PROGRAM, Evidence::Over, at(0)).await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            assert!(error.to_string().contains(record), "{error}");
        }
        pool.live_path(OTHER, &name("data")).await.unwrap();
        assert!(pool.collect(at(i64::from(u32::MAX))).await.unwrap().is_empty());
        assert!(place.data(PROGRAM).join("live/1").exists(), "nothing of it is removed");
        // Repaired, it is as it was.
        fs::write(&path, good).unwrap();
        pool.close().await.unwrap();
    }
    let pool = place.open().await;
    pool.live_path(PROGRAM, &name("data")).await.unwrap();
    pool.close().await.unwrap();

    // Neither is the pool without its records taken for an empty one.
    fs::rename(place.records(PROGRAM), place.path().join("lost")).unwrap();
    let error = place.open().await.create_live(PROGRAM, epoch(9), Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("program.json is damaged (it is missing)"), "{error}");
}

#[tokio::test]
async fn what_an_interruption_left_is_removed() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 16)]).await.unwrap();
    write(&pool, "data", "f", b"here").await;
    snapshot(&pool, id(1, 1)).await;
    let data = place.data(PROGRAM);
    let left = ["live/7", "snapshots/1-2"];
    for folder in left {
        fs::create_dir(data.join(folder)).unwrap();
        let made = Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(data.join(folder).join("v")).status();
        assert!(made.unwrap().success());
    }
    let arriving = "0".repeat(32);
    let made = Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(data.join(&arriving)).status();
    assert!(made.unwrap().success());
    pool.close().await.unwrap();
    let pool = place.open().await;
    for path in [left[0], left[1], &arriving] {
        assert!(!data.join(path).exists(), "{path}");
    }
    assert_eq!(read(&pool, "data", "f").await, b"here");
    assert_eq!(pool.newest_snapshot(PROGRAM).await.unwrap().unwrap().id, id(1, 1));
}

#[tokio::test]
async fn scrub_finds_what_the_disk_lost() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 64)]).await.unwrap();
    let pattern = b"the disk will forget this ".repeat(40_000);
    write(&pool, "data", "f", &pattern).await;
    pool.sync().await.unwrap();
    assert_eq!(pool.scrub().await.unwrap().errors, 0);
    pool.close().await.unwrap();
    let bytes = fs::read(place.file()).unwrap();
    let needle = &pattern[4096..4096 + 64];
    let found = bytes.windows(64).position(|window| window == needle).unwrap();
    use std::os::unix::fs::FileExt;
    fs::OpenOptions::new().write(true).open(place.file()).unwrap().write_all_at(b"X", found as u64).unwrap();
    let pool = place.open().await;
    let report = pool.scrub().await.unwrap();
    assert!(report.errors > 0 && report.uncorrectable > 0, "{report:?}");
}
