//! Copies as tar archives: everything is in them, and nothing is changed by it.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{XattrFlags, getxattr, setxattr};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use volumes::{Error, Evidence, Pool, Readable, Refusal, Source};

use crate::support::*;

async fn export(pool: &Pool, wanted: Option<Source>) -> (Readable, Vec<u8>) {
    let (what, stream) = pool.export(PROGRAM, wanted, async |_| Ok(())).await.unwrap();
    (what, all_of(stream).await)
}

/// What is in an archive, as root would unpack it.
fn unpacked(tar: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Command::new("tar")
        .args(["--extract", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "-p", "-C"])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(tar).unwrap();
    assert!(process.wait().unwrap().success());
    folder
}

async fn path_of(pool: &Pool, volume: &str) -> PathBuf {
    pool.live_path(PROGRAM, &name(volume)).await.unwrap()
}

/// The folders of exports that are not removed yet.
fn being_made(place: &Place) -> Vec<String> {
    let names = fs::read_dir(place.data(PROGRAM)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("export-")).collect()
}

#[tokio::test]
async fn a_volume_comes_back_as_it_was() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 64), volume("../x", 16)]).await.unwrap();
    let (data, other) = (path_of(&pool, "data").await, path_of(&pool, "../x").await);
    let secret = place.path().join("secret");
    fs::write(&secret, "of the machine").unwrap();
    fs::create_dir(data.join("folder")).unwrap();
    fs::write(data.join("folder/file"), "text").unwrap();
    chown(data.join("folder/file"), Some(0x7000_0001), Some(12)).unwrap();
    fs::set_permissions(data.join("folder/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    setxattr(data.join("folder/file"), "user.origin", b"here", XattrFlags::empty()).unwrap();
    fs::hard_link(data.join("folder/file"), data.join("hard")).unwrap();
    symlink(&secret, data.join("outside")).unwrap();
    // A link whose text looks like what the archive calls things.
    let key = name("data").key();
    symlink(format!("{key}/x"), data.join("inside")).unwrap();
    let mut sparse = fs::File::create(data.join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(40 << 20)).unwrap();
    sparse.write_all(b"end").unwrap();
    drop(sparse);
    fs::write(other.join("f"), "other").unwrap();

    let (what, tar) = export(&pool, None).await;
    assert_eq!(what, Readable::Live(1));
    assert!(tar.len() < 1 << 20, "holes take no room: {} bytes", tar.len());
    let folder = unpacked(&tar);
    let odd = name("../x").in_archive();
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_by_key(|name| *name != "data");
    assert_eq!(names, ["data", odd.as_str()], "a top folder for each volume, and nothing else");
    let data = folder.path().join("data");
    let file = fs::metadata(data.join("folder/file")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (0x7000_0001, 12, 0o4751, 2));
    assert_eq!(file.ino(), fs::metadata(data.join("hard")).unwrap().ino());
    let mut value = [0; 8];
    let length = getxattr(data.join("folder/file"), "user.origin", &mut value).unwrap();
    assert_eq!(&value[..length], b"here");
    assert_eq!(fs::read_link(data.join("outside")).unwrap(), secret, "a link, and not what it leads to");
    assert_eq!(fs::read_link(data.join("inside")).unwrap(), Path::new(&format!("{key}/x")));
    let sparse = fs::metadata(data.join("sparse")).unwrap();
    assert!(sparse.len() == (40 << 20) + 3 && sparse.blocks() * 512 < 1 << 20, "{sparse:?}");
    let mut end = String::new();
    let mut file = fs::File::open(data.join("sparse")).unwrap();
    file.seek(SeekFrom::End(-3)).unwrap();
    file.read_to_string(&mut end).unwrap();
    assert_eq!(end, "end");
    assert_eq!(fs::read_to_string(folder.path().join(odd).join("f")).unwrap(), "other");
    assert!(!String::from_utf8_lossy(&tar).contains("of the machine"));
    assert_eq!(being_made(&place), [] as [&str; 0], "nothing is left of it");
}

#[tokio::test]
async fn each_copy_can_be_taken_out_and_stays_while_it_is_read() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 64)]).await.unwrap();
    write(&pool, "data", "f", b"snapshot").await;
    snapshot(&pool, id(1, 1)).await;
    // More than fits into a pipe.
    write(&pool, "data", "big", &noise(4 * MIB)).await;
    write(&pool, "data", "f", b"retired").await;
    pool.promote(PROGRAM, Source::Snapshot(id(1, 1)), epoch(2), at(100)).await.unwrap();
    write(&pool, "data", "f", b"live").await;
    let asked = [
        (None, Readable::Live(2), "live"),
        (Some(Source::Snapshot(id(1, 1))), Readable::Snapshot(id(1, 1)), "snapshot"),
        (Some(Source::RecoveryPoint(1)), Readable::RecoveryPoint(1), "retired"),
    ];
    for (wanted, what, text) in asked {
        let (got, tar) = export(&pool, wanted).await;
        assert_eq!(got, what);
        assert_eq!(fs::read_to_string(unpacked(&tar).path().join("data/f")).unwrap(), text);
    }
    for (wanted, refusal) in [
        (Source::Snapshot(id(9, 9)), Refusal::NoSnapshot(id(9, 9))),
        (Source::RecoveryPoint(2), Refusal::NoRecoveryPoint(2)),
    ] {
        let error = pool.export(PROGRAM, Some(wanted), async |_| Ok(())).await.unwrap_err();
        assert!(matches!(&error, Error::Refused(r) if *r == refusal), "{error}");
    }

    // Its time is over while it is read; it goes when it was read.
    let wanted = Some(Source::RecoveryPoint(1));
    let (_, mut stream) = pool.export(PROGRAM, wanted, async |_| Ok(())).await.unwrap();
    let mut tar = vec![0; 512];
    stream.read_exact(&mut tar).await.unwrap();
    pool.heed(PROGRAM, Evidence::Over, at(50)).await.unwrap();
    assert!(pool.collect(at(1000)).await.unwrap().is_empty());
    tar.extend(all_of(stream).await);
    assert_eq!(fs::metadata(unpacked(&tar).path().join("data/big")).unwrap().len(), 4 << 20);
    // What was forgotten can be taken out without undeleting it.
    assert_eq!(export(&pool, None).await.0, Readable::Live(2));
    assert!(pool.collect(at(1000)).await.unwrap()[0].all);
    assert!(!place.data(PROGRAM).exists());
}

#[tokio::test]
async fn an_export_that_is_given_up_or_fails_leaves_nothing() {
    let (place, pool) = pool().await;
    pool.create_live(PROGRAM, epoch(1), vec![volume("data", 64), volume("more", 16)]).await.unwrap();
    write(&pool, "data", "big", &noise(8 * MIB)).await;
    let (_, mut stream) = pool.export(PROGRAM, None, async |_| Ok(())).await.unwrap();
    stream.read_exact(&mut [0; 512]).await.unwrap();
    assert_eq!(being_made(&place).len(), 1);
    drop(stream);
    // It is removed by a task of its own.
    let is_gone = async {
        while !being_made(&place).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), is_gone).await.expect("it is removed");

    let frozen = async |_| Err::<(), _>(std::io::Error::other("it does not stand still"));
    let error = pool.export(PROGRAM, None, frozen).await.unwrap_err();
    assert!(matches!(error, Error::Freeze(_)), "{error}");
    assert_eq!(being_made(&place), [] as [&str; 0]);

    // What an interruption left is removed when the pool is opened.
    let (_, mut stream) = pool.export(PROGRAM, None, async |_| Ok(())).await.unwrap();
    stream.read_exact(&mut [0; 512]).await.unwrap();
    pool.sync().await.unwrap();
    let crashed = place.as_after_a_crash();
    let again = crashed.open().await;
    assert_eq!(being_made(&crashed), [] as [&str; 0]);
    assert_eq!(read(&again, "data", "big").await.len(), 8 * MIB);
}
