//! Streams between two pools: there and back, torn, wrong, stale.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use protocol::ProgramId;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use volumes::{Error, Pool, Refusal, SnapshotId, Source};

use crate::support::*;

/// One pool with a snapshot, and one that has nothing.
async fn two_pools() -> ((Place, Pool), (Place, Pool)) {
    let (a, b) = (pool().await, pool().await);
    a.1.create_live(PROGRAM, epoch(1), vec![volume("data", 64)]).await.unwrap();
    write(&a.1, "data", "big", &noise(8 * MIB)).await;
    write(&a.1, "data", "f", b"1").await;
    snapshot(&a.1, id(1, 1)).await;
    (a, b)
}

#[tokio::test]
async fn differences_go_there_and_back() {
    let ((_x, a), (_y, b)) = two_pools().await;
    let full = transfer(&a, &b, id(1, 1), None).await;
    assert!(full > 8 << 20, "{full}");
    write(&a, "data", "f", b"2").await;
    snapshot(&a, id(1, 2)).await;
    let difference = transfer(&a, &b, id(1, 2), Some(id(1, 1))).await;
    assert!(difference < 4096, "{difference}");

    // b takes over from what it has, and sends what it writes back.
    b.promote(PROGRAM, Source::Snapshot(id(1, 2)), epoch(2), at(100)).await.unwrap();
    assert_eq!(read(&b, "data", "f").await, b"2");
    assert_eq!(b.volume_usage(PROGRAM).await.unwrap()[0].limit, 64 << 20);
    write(&b, "data", "f", b"3").await;
    snapshot(&b, id(2, 1)).await;
    let back = transfer(&b, &a, id(2, 1), Some(id(1, 2))).await;
    assert!(back < 4096, "{back}");
    let overtaken = a.open_live(PROGRAM, epoch(3), Vec::new()).await.unwrap_err();
    assert!(matches!(overtaken, Error::Refused(Refusal::Overtaken { .. })), "{overtaken}");

    // And once more round, also by way of a third that gets everything from the second.
    a.promote(PROGRAM, Source::Snapshot(id(2, 1)), epoch(3), at(100)).await.unwrap();
    assert_eq!(read(&a, "data", "f").await, b"3");
    assert_eq!(read(&a, "data", "big").await, noise(8 * MIB));
    write(&a, "data", "f", b"4").await;
    snapshot(&a, id(3, 1)).await;
    assert!(transfer(&a, &b, id(3, 1), Some(id(2, 1))).await < 4096);
    let (_z, c) = pool().await;
    assert!(transfer(&b, &c, id(3, 1), None).await > 8 << 20);
    c.promote(PROGRAM, Source::Snapshot(id(3, 1)), epoch(4), at(100)).await.unwrap();
    write(&c, "data", "f", b"5").await;
    snapshot(&c, id(4, 1)).await;
    assert!(transfer(&c, &a, id(4, 1), Some(id(3, 1))).await < 4096);
    a.promote(PROGRAM, Source::Snapshot(id(4, 1)), epoch(5), at(100)).await.unwrap();
    assert_eq!(read(&a, "data", "f").await, b"5");
}

#[tokio::test]
async fn received_snapshots_survive_a_crash_once_committed() {
    let ((_x, a), (y, b)) = two_pools().await;
    let stream = a.send(PROGRAM, id(1, 1), &name("data"), None).await.unwrap();
    b.receive(PROGRAM, id(1, 1), &name("data"), ENOUGH, stream).await.unwrap();
    assert!(b.newest_snapshot(PROGRAM).await.unwrap().is_none(), "not before it is committed");
    let early = b.promote(PROGRAM, Source::Snapshot(id(1, 1)), epoch(2), at(0)).await.unwrap_err();
    assert!(matches!(early, Error::Refused(Refusal::NoSnapshot(_))), "{early}");
    let partly = vec![volume("data", 64), volume("more", 64)];
    let error = b.commit_received(PROGRAM, id(2, 1), at(0), partly).await.unwrap_err();
    assert!(matches!(error, Error::Incomplete(_)), "{error}");

    let stream = a.send(PROGRAM, id(1, 1), &name("data"), None).await.unwrap();
    b.receive(PROGRAM, id(2, 5), &name("data"), ENOUGH, stream).await.unwrap();
    b.commit_received(PROGRAM, id(2, 5), at(0), vec![volume("data", 64)]).await.unwrap();
    let crashed = y.as_after_a_crash();
    b.close().await.unwrap();
    let b = crashed.open().await;
    assert_eq!(b.snapshots(PROGRAM).await.unwrap().len(), 1);
    b.promote(PROGRAM, Source::Snapshot(id(2, 5)), epoch(3), at(0)).await.unwrap();
    assert_eq!(read(&b, "data", "big").await, noise(8 * MIB));
}

fn leftovers(place: &Place) -> Vec<String> {
    let data = place.data(PROGRAM);
    let list = |folder: &str| match std::fs::read_dir(data.join(folder)) {
        Ok(entries) => entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect(),
        Err(_) => Vec::new(),
    };
    let mut all = list("");
    all.retain(|name| !["live", "snapshots"].contains(&name.as_str()));
    all.extend(list("snapshots/1-1"));
    all
}

#[tokio::test]
async fn streams_that_are_not_whole_leave_nothing() {
    let ((_x, a), (y, b)) = two_pools().await;
    let good = all_of(a.send(PROGRAM, id(1, 1), &name("data"), None).await.unwrap()).await;
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let streams: [(&str, Vec<u8>); 7] = [
        ("empty", Vec::new()),
        ("cut in the middle", good[..good.len() / 2].to_vec()),
        // The end mark has ten bytes.
        ("without its end mark", good[..good.len() - 10].to_vec()),
        ("one bit is another", flipped),
        ("twice", [good.clone(), good.clone()].concat()),
        ("noise", noise(MIB)),
        ("text", b"HTTP/1.1 502 Bad Gateway\r\n\r\n".to_vec()),
    ];
    for (what, bytes) in streams {
        let error = b.receive(PROGRAM, id(1, 1), &name("data"), ENOUGH, bytes.as_slice()).await.unwrap_err();
        assert!(matches!(error, Error::BadStream(_)), "{what}: {error}");
        assert_eq!(leftovers(&y), [""; 0], "{what}");
    }
    let long = b.receive(PROGRAM, id(1, 1), &name("data"), MIB as u64, good.as_slice()).await.unwrap_err();
    assert_eq!(long.to_string(), "the stream is damaged or was cut: it has more than 1048576 bytes; send it again");
    let cut = good[..MIB].chain(Broken);
    let error = b.receive(PROGRAM, id(1, 1), &name("data"), ENOUGH, cut).await.unwrap_err();
    assert!(matches!(&error, Error::StreamEnded(e) if e.kind() == io::ErrorKind::ConnectionReset), "{error}");
    assert_eq!(leftovers(&y), [""; 0]);
    let other = b.receive(PROGRAM, id(1, 1), &name("other"), ENOUGH, good.as_slice()).await.unwrap_err();
    assert!(other.to_string().contains("it is about another volume"), "{other}");

    // After all that it still works, and an abort takes it back.
    b.receive(PROGRAM, id(1, 1), &name("data"), ENOUGH, good.as_slice()).await.unwrap();
    b.abort_received(PROGRAM, id(1, 1)).await.unwrap();
    b.abort_received(PROGRAM, id(1, 1)).await.unwrap();
    assert_eq!(leftovers(&y), [""; 0]);
    transfer(&a, &b, id(1, 1), None).await;
    let complete = b.abort_received(PROGRAM, id(1, 1)).await.unwrap_err();
    assert!(matches!(complete, Error::Refused(Refusal::SnapshotExists(_))), "{complete}");
}

/// A connection that breaks.
struct Broken;

impl AsyncRead for Broken {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

#[tokio::test]
async fn a_receiver_that_is_dropped_leaves_nothing_for_the_next() {
    let ((_x, a), (y, b)) = two_pools().await;
    let good = all_of(a.send(PROGRAM, id(1, 1), &name("data"), None).await.unwrap()).await;
    let (mut sender, receiver) = tokio::io::duplex(MIB);
    let data = name("data");
    let receive = b.receive(PROGRAM, id(1, 1), &data, ENOUGH, receiver);
    let half = async {
        tokio::io::AsyncWriteExt::write_all(&mut sender, &good[..4 * MIB]).await.unwrap();
        std::future::pending::<()>().await;
    };
    let arrives = async {
        while leftovers(&y).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = receive => panic!("it is not whole"),
        () = half => {}
        () = arrives => {}
    }
    // Opened again, as by an agent after it was killed; the mount is still there.
    drop(b);
    let b = y.open().await;
    assert_eq!(leftovers(&y), [""; 0]);
    transfer(&a, &b, id(1, 1), None).await;
}

#[tokio::test]
async fn a_parent_that_is_not_here_is_an_error_of_its_own() {
    let ((_x, a), (_y, b)) = two_pools().await;
    write(&a, "data", "f", b"2").await;
    snapshot(&a, id(1, 2)).await;
    let receive = async || {
        let difference = a.send(PROGRAM, id(1, 2), &name("data"), Some(id(1, 1))).await.unwrap();
        b.receive(PROGRAM, id(1, 2), &name("data"), ENOUGH, difference).await.unwrap_err()
    };
    let error = receive().await;
    assert!(matches!(error, Error::UnknownParent), "{error}");
    // Neither does it count when another program has it: here the same bytes under another id.
    let stream = a.send(PROGRAM, id(1, 1), &name("data"), None).await.unwrap();
    b.receive(OTHER, id(1, 1), &name("data"), ENOUGH, stream).await.unwrap();
    b.commit_received(OTHER, id(1, 1), at(0), vec![volume("data", 64)]).await.unwrap();
    let error = receive().await;
    assert!(matches!(error, Error::UnknownParent), "{error}");
    transfer(&a, &b, id(1, 2), None).await;
    let unknown = a.send(PROGRAM, id(1, 2), &name("data"), Some(id(1, 9))).await.unwrap_err();
    assert!(matches!(unknown, Error::Refused(Refusal::NoSnapshot(_))), "{unknown}");
    let unknown = a.send(PROGRAM, id(1, 2), &name("other"), None).await.unwrap_err();
    assert!(matches!(unknown, Error::Refused(Refusal::NoVolume(_))), "{unknown}");
}

#[tokio::test]
async fn whose_epoch_is_over_cannot_send_any_more() {
    let ((_x, a), (_y, b)) = two_pools().await;
    transfer(&a, &b, id(1, 1), None).await;
    write(&a, "data", "f", b"2").await;
    snapshot(&a, id(1, 2)).await;
    // The difference is on its way when b takes over.
    let stream = a.send(PROGRAM, id(1, 2), &name("data"), Some(id(1, 1))).await.unwrap();
    b.receive(PROGRAM, id(1, 2), &name("data"), ENOUGH, stream).await.unwrap();
    b.promote(PROGRAM, Source::Snapshot(id(1, 1)), epoch(2), at(100)).await.unwrap();
    let late = b.commit_received(PROGRAM, id(1, 2), at(0), vec![volume("data", 64)]).await.unwrap_err();
    assert!(matches!(late, Error::Refused(Refusal::StaleEpoch { .. })), "{late}");
    let stream = a.send(PROGRAM, id(1, 2), &name("data"), None).await.unwrap();
    let later = b.receive(PROGRAM, id(1, 2), &name("data"), ENOUGH, stream).await.unwrap_err();
    assert!(matches!(later, Error::Refused(Refusal::StaleEpoch { .. })), "{later}");
    assert_eq!(read(&b, "data", "f").await, b"1");
    // Nor can anybody send what only b may make.
    let own = b.receive(PROGRAM, id(2, 1), &name("data"), ENOUGH, tokio::io::empty()).await.unwrap_err();
    assert!(matches!(own, Error::Refused(Refusal::LiveHere(_))), "{own}");
}

#[tokio::test]
async fn a_full_receiver_says_so_and_survives() {
    let ((_x, a), (_y, b)) = two_pools().await;
    b.create_live(OTHER, epoch(1), vec![volume("data", 4096)]).await.unwrap();
    let path = b.live_path(OTHER, &name("data")).await.unwrap();
    let chunk = noise(MIB);
    let full = |n: u32| {
        std::fs::write(path.join(n.to_string()), &chunk)
            .and_then(|()| std::fs::File::open(path.join(n.to_string()))?.sync_all())
    };
    let written = (0..).take_while(|n| full(*n).is_ok()).count();
    let stream = a.send(PROGRAM, id(1, 1), &name("data"), None).await.unwrap();
    let error = b.receive(PROGRAM, id(1, 1), &name("data"), ENOUGH, stream).await.unwrap_err();
    assert!(matches!(error, Error::Full), "{error}");
    for n in 0..written {
        std::fs::remove_file(path.join(n.to_string())).unwrap();
    }
    b.sync().await.unwrap();
    transfer(&a, &b, id(1, 1), None).await;
}

#[tokio::test]
async fn a_snapshot_is_not_deleted_while_it_is_sent() {
    let ((_x, a), _b) = two_pools().await;
    snapshot(&a, id(1, 2)).await;
    snapshot(&a, id(1, 3)).await;
    let mut stream = a.send(PROGRAM, id(1, 2), &name("data"), Some(id(1, 1))).await.unwrap();
    let mut first = [0; 13];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"btrfs-stream\0");
    for sent in [id(1, 1), id(1, 2)] {
        let error = a.delete_snapshot(PROGRAM, sent).await.unwrap_err();
        assert!(matches!(error, Error::Sending), "{error}");
    }
    assert!(a.prune(PROGRAM, &[]).await.unwrap().is_empty());
    drop(stream);
    // It is sent until the process that sends it has died.
    let mut pruned = Vec::new();
    while pruned.len() < 2 {
        pruned.extend(a.prune(PROGRAM, &[]).await.unwrap());
        tokio::task::yield_now().await;
    }
    assert_eq!(pruned, [id(1, 1), id(1, 2)]);
}

#[tokio::test]
async fn a_held_snapshot_is_not_deleted() {
    let ((_x, a), _b) = two_pools().await;
    let hold = a.hold(PROGRAM, id(1, 1)).await.unwrap();
    for sequence in 2..=3 {
        snapshot(&a, id(1, sequence)).await;
    }
    assert_eq!(a.prune(PROGRAM, &[]).await.unwrap(), [id(1, 2)]);
    let held = a.delete_snapshot(PROGRAM, hold.id()).await.unwrap_err();
    assert!(matches!(held, Error::Sending), "{held}");
    drop(hold);
    assert_eq!(a.prune(PROGRAM, &[]).await.unwrap(), [id(1, 1)]);
    assert!(matches!(a.hold(PROGRAM, id(1, 1)).await.unwrap_err(), Error::Refused(Refusal::NoSnapshot(_))));
}

#[tokio::test]
async fn a_chain_from_the_archive_counts_when_its_last_set_is_complete() {
    let ((_x, a), (_y, b)) = two_pools().await;
    write(&a, "data", "f", b"2").await;
    snapshot(&a, id(1, 2)).await;
    // It has seen more than that, as a node has on which the program ran later.
    b.create_live(PROGRAM, epoch(4), vec![volume("data", 64)]).await.unwrap();
    for (set, parent) in [(id(1, 1), None), (id(1, 2), Some(id(1, 1)))] {
        let stream = async || a.send(PROGRAM, set, &name("data"), parent).await.unwrap();
        let stale = b.receive_archived(PROGRAM, epoch(3), set, &name("data"), ENOUGH, stream().await).await;
        assert!(matches!(stale.unwrap_err(), Error::Refused(Refusal::StaleEpoch { .. })));
        let live = b.receive_archived(PROGRAM, epoch(4), set, &name("data"), ENOUGH, stream().await).await;
        assert!(matches!(live.unwrap_err(), Error::Refused(Refusal::AlreadyLive(_))));
    }
    for (set, parent) in [(id(1, 1), None), (id(1, 2), Some(id(1, 1)))] {
        let stream = a.send(PROGRAM, set, &name("data"), parent).await.unwrap();
        b.receive_archived(PROGRAM, epoch(5), set, &name("data"), ENOUGH, stream).await.unwrap();
        assert!(b.newest_snapshot(PROGRAM).await.unwrap().is_none());
    }
    b.commit_restored(PROGRAM, epoch(5), id(1, 2), at(0), vec![volume("data", 64)]).await.unwrap();
    b.abort_received(PROGRAM, id(1, 1)).await.unwrap();
    b.promote(PROGRAM, Source::Snapshot(id(1, 2)), epoch(5), at(100)).await.unwrap();
    assert_eq!(read(&b, "data", "f").await, b"2");
    b.open_live(PROGRAM, epoch(5), vec![volume("data", 64), volume("cache", 64)]).await.unwrap();
    assert_eq!(b.program(PROGRAM).await.unwrap().recovery_points().len(), 1, "what it had written is kept");
}

/// What another program wrote takes no name of this one's own snapshots, and what is written on top of it can be sent as the
/// difference from them, although nothing of it came out of them.
#[tokio::test]
async fn what_another_program_wrote_becomes_live_beside_its_own_snapshots() {
    let ((_x, other), (_y, b), (_z, standby)) = {
        let (other, b) = two_pools().await;
        (other, b, pool().await)
    };
    write(&other, "data", "f", b"2").await;
    snapshot(&other, id(1, 2)).await;
    b.create_live(PROGRAM, epoch(1), vec![volume("data", 64)]).await.unwrap();
    write(&b, "data", "f", b"own").await;
    write(&b, "data", "mine", b"own").await;
    snapshot(&b, id(1, 1)).await;
    transfer(&b, &standby, id(1, 1), None).await;

    let last = SnapshotId::foreign(epoch(2));
    let stream = async |set, parent| other.send(PROGRAM, set, &name("data"), parent).await.unwrap();
    for (set, parent, called) in [(id(1, 1), None, SnapshotId::below_foreign(0)), (id(1, 2), Some(id(1, 1)), last)] {
        let stream = stream(set, parent).await;
        b.receive_archived(PROGRAM, epoch(2), called, &name("data"), ENOUGH, stream).await.unwrap();
    }
    let taken = stream(id(1, 1), None).await;
    let taken = b.receive_archived(PROGRAM, epoch(2), id(2, 1), &name("data"), ENOUGH, taken).await.unwrap_err();
    assert!(matches!(taken, Error::Refused(Refusal::StaleEpoch { .. })), "the name of one that it will take: {taken}");
    b.commit_restored(PROGRAM, epoch(2), last, at(0), vec![volume("data", 64)]).await.unwrap();
    b.abort_received(PROGRAM, SnapshotId::below_foreign(0)).await.unwrap();
    b.promote(PROGRAM, Source::Snapshot(last), epoch(2), at(100)).await.unwrap();
    assert_eq!(read(&b, "data", "f").await, b"2");
    assert_eq!(b.program(PROGRAM).await.unwrap().recovery_points().len(), 1, "what it had written is kept");

    write(&b, "data", "f", b"3").await;
    snapshot(&b, id(2, 1)).await;
    transfer(&b, &standby, id(2, 1), Some(id(1, 1))).await;
    standby.promote(PROGRAM, Source::Snapshot(id(2, 1)), epoch(3), at(100)).await.unwrap();
    assert_eq!(read(&standby, "data", "f").await, b"3");
    assert_eq!(read(&standby, "data", "big").await, noise(8 * MIB));
    let mine = standby.live_path(PROGRAM, &name("data")).await.unwrap().join("mine");
    assert!(!mine.exists(), "what only its own had is gone");
}

/// The other program may have the same snapshots on the same node: `btrfs receive` would find those.
#[tokio::test]
async fn two_programs_on_one_node_take_in_the_same_snapshots() {
    const SECOND: ProgramId = ProgramId::from_bytes([2; 32]);
    const THIRD: ProgramId = ProgramId::from_bytes([3; 32]);
    let ((_x, a), (_y, b)) = two_pools().await;
    write(&a, "data", "f", b"2").await;
    snapshot(&a, id(1, 2)).await;
    transfer(&a, &b, id(1, 1), None).await;
    transfer(&a, &b, id(1, 2), Some(id(1, 1))).await;
    let take_in = async |program, parts: [(SnapshotId, Option<SnapshotId>, SnapshotId); 2]| {
        for (set, parent, called) in parts {
            let stream = a.send(PROGRAM, set, &name("data"), parent).await.unwrap();
            b.receive_archived(program, epoch(2), called, &name("data"), ENOUGH, stream).await?;
        }
        Ok::<(), Error>(())
    };
    let as_they_are = [(id(1, 1), None, id(1, 1)), (id(1, 2), Some(id(1, 1)), id(1, 2))];
    let found = take_in(SECOND, as_they_are).await;
    assert!(matches!(found, Err(Error::UnknownParent)), "what it must not reach: {found:?}");
    let last = SnapshotId::foreign(epoch(2));
    let renamed = [(id(1, 1), None, SnapshotId::below_foreign(0)), (id(1, 2), Some(id(1, 1)), last)];
    for program in [SECOND, THIRD] {
        take_in(program, renamed).await.unwrap();
        b.commit_restored(program, epoch(2), last, at(0), vec![volume("data", 64)]).await.unwrap();
        b.promote(program, Source::Snapshot(last), epoch(2), at(100)).await.unwrap();
        let live = b.live_path(program, &name("data")).await.unwrap();
        assert_eq!(std::fs::read(live.join("f")).unwrap(), b"2");
        assert_eq!(std::fs::read(live.join("big")).unwrap(), noise(8 * MIB));
    }
}
