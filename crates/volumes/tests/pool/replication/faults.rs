//! Cuts, disturbances, and nodes that may not send.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use volumes::Source as From;
use volumes::replication::{Bandwidth, ReceiveLimits, Receiver, Replicator};

use super::cable::*;
use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_cut_goes_on_where_it_was() {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    a.live(32).await;
    cable.cut_at.store(20 << 20, Ordering::Relaxed);
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    replicator.standby(Some(b.peer())).await;
    confirmed(&replicator).await;
    let (status, bytes) = (replicator.status(), cable.bytes.load(Ordering::Relaxed));
    println!("32 MiB with a cut after 20 MiB: {bytes} bytes on the wire, {} not sent again", status.bytes_resumed);
    assert!(bytes < 34 << 20 && status.bytes_resumed > 18 << 20, "{bytes} {status:?}");
    assert!(status.bytes_sent <= bytes + 4096, "{bytes} {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_ends_the_connection_and_nothing_else() {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    a.live(4).await;
    cable.flip_at.store(2 << 20, Ordering::Relaxed);
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    replicator.standby(Some(b.peer())).await;
    replicator.flush().await.unwrap();
    let ends = cable.ends.lock().unwrap().join("; ");
    assert!(ends.contains("was changed on the way"), "{ends}");
    assert_eq!(replicator.status().problem, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_without_the_parent_gets_everything() {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    a.live(4).await;
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    replicator.standby(Some(b.peer())).await;
    replicator.flush().await.unwrap();
    for set in b.pool.snapshots(PROGRAM).await.unwrap() {
        b.pool.delete_snapshot(PROGRAM, set.id).await.unwrap();
    }
    let before = replicator.status().bytes_sent;
    write(&a.pool, "data", "f", b"new").await;
    replicator.flush().await.unwrap();
    let status = replicator.status();
    assert!(status.bytes_sent - before > 4 << 20, "{status:?}");
    assert_eq!(b.newest().await, status.live.confirmed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_not_named_and_who_was_deposed_send_nothing() {
    let (a, b, c) = (Node::new(1).await, Node::new(2).await, Node::new(3).await);
    let cable = Cable::between(&[&a, &b]);
    a.live(1).await;
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    replicator.standby(Some(b.peer())).await;
    confirmed(&replicator).await;
    // The program was assigned again.
    b.pool.open_live(PROGRAM, epoch(2), Vec::new()).await.unwrap_err();
    write(&a.pool, "data", "f", b"too late").await;
    let is_over = |status: &volumes::replication::Status| {
        status.problem.as_ref().is_some_and(|problem| problem.contains("epoch 1 is over: epoch 2 has been seen"))
    };
    status(&replicator, "refused", is_over).await;
    assert_eq!(b.newest().await.unwrap().epoch, epoch(1));
    replicator.stop();

    cable.forbid(&a);
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    replicator.standby(Some(b.peer())).await;
    let refused = |status: &volumes::replication::Status| {
        status.problem.as_ref().is_some_and(|problem| problem.contains("does not send"))
    };
    status(&replicator, "refused", refused).await;
    replicator.stop();

    // Another node answers.
    let mut peer = b.peer();
    peer.account = c.account.address().clone();
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    replicator.standby(Some(peer)).await;
    let unproven = |status: &volumes::replication::Status| {
        status.problem.as_ref().is_some_and(|problem| problem.contains("did not prove its key"))
    };
    status(&replicator, "refused", unproven).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_or_absent_standby_keeps_nothing_from_the_program() {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    cable.down.store(true, Ordering::Relaxed);
    a.live(1).await;
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    replicator.standby(Some(b.peer())).await;
    status(&replicator, "a problem", |status| status.problem.is_some()).await;
    let first = replicator.status().live.at_risk_ms;
    write(&a.pool, "data", "f", b"1").await;
    until("risk grows", async || replicator.status().live.at_risk_ms > first).await;
    assert_eq!(a.pool.snapshots(PROGRAM).await.unwrap(), [], "nobody waits for one");
    let late = replicator.finish(Duration::from_millis(10)).await.unwrap_err();
    assert!(late.to_string().contains("cannot connect to the standby"), "{late}");
    cable.down.store(false, Ordering::Relaxed);
    replicator.finish(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_volumes_are_one_snapshot_also_after_a_cut() {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    a.pool.create_live(PROGRAM, epoch(1), vec![volume("data", 64), volume("more", 64)]).await.unwrap();
    write(&a.pool, "data", "big", &noise(8 * MIB)).await;
    write(&a.pool, "more", "big", &noise(16 * MIB)).await;
    cable.cut_at.store(14 << 20, Ordering::Relaxed);
    let frozen = Arc::new(AtomicU64::new(0));
    let (mut source, count) = (a.source(1, &cable), frozen.clone());
    source.freeze = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(Box::new(()) as Box<dyn Send>) })
    });
    let replicator = Replicator::start(source).await.unwrap();
    replicator.standby(Some(b.peer())).await;
    let last = replicator.finish(Duration::from_secs(60)).await.unwrap();
    let resumed = replicator.status().bytes_resumed;
    assert!(resumed > 4 << 20 && resumed < 7 << 20, "the first volume is not looked at again: {resumed}");
    assert!(frozen.load(Ordering::Relaxed) >= last.sequence);
    b.pool.promote(PROGRAM, From::Snapshot(last), epoch(2), at(9)).await.unwrap();
    assert_eq!(read(&b.pool, "data", "big").await, noise(8 * MIB));
    assert_eq!(read(&b.pool, "more", "big").await, noise(16 * MIB));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_given_up_is_sent_anew() {
    let (a, mut b) = (Node::new(1).await, Node::new(2).await);
    let limits = ReceiveLimits { keep_cut: Duration::ZERO, ..ReceiveLimits::default() };
    b.receiver = Receiver::new(b.pool.clone(), b.account.clone(), b.id, limits);
    let cable = Cable::between(&[&a, &b]);
    a.live(8).await;
    cable.cut_at.store(4 << 20, Ordering::Relaxed);
    // Away for as long as it takes to give up.
    let mut source = a.source(1, &cable);
    let (dial, folder) = (source.dial.clone(), b.place.data(PROGRAM).join("snapshots"));
    let waits = cable.clone();
    source.dial = Arc::new(move |peer| {
        let (dial, folder, waits) = (dial.clone(), folder.clone(), waits.clone());
        Box::pin(async move {
            let empty = std::fs::read_dir(&folder).is_ok_and(|mut all| all.next().is_none());
            if waits.bytes.load(Ordering::Relaxed) > MIB as u64 && !empty {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            dial(peer).await
        })
    });
    let replicator = Replicator::start(source).await.unwrap();
    replicator.standby(Some(b.peer())).await;
    confirmed(&replicator).await;
    assert_eq!(replicator.status().bytes_resumed, 0);
    assert!(cable.bytes.load(Ordering::Relaxed) > 12 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_taken_back_ends_it_with_the_next_snapshot() {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    a.live(1).await;
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    replicator.standby(Some(b.peer())).await;
    replicator.flush().await.unwrap();
    until("nothing changes any more", async || replicator.status().live.at_risk_ms < 1000).await;
    cable.forbid(&a);
    let before = b.newest().await;
    write(&a.pool, "data", "f", b"too late").await;
    let refused = |status: &volumes::replication::Status| {
        status.problem.as_ref().is_some_and(|problem| problem.contains("does not send"))
    };
    status(&replicator, "refused", refused).await;
    assert_eq!(b.newest().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_kept() {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    a.live(4).await;
    let source = a.source(1, &cable);
    let replicator =
        Replicator::start(volumes::replication::Source { bandwidth: Bandwidth::new(Some(2 << 20)), ..source });
    let (replicator, begun) = (replicator.await.unwrap(), Instant::now());
    replicator.standby(Some(b.peer())).await;
    confirmed(&replicator).await;
    assert!(begun.elapsed() > Duration::from_secs(1), "4 MiB at 2 MiB a second took {:?}", begun.elapsed());
}
