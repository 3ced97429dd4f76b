//! What goes on as long as nothing is wrong.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use volumes::Source as From;
use volumes::replication::{ReceiveLimits, Receiver, ReplicationError, Replicator};

use super::cable::*;
use crate::support::*;

const LONG: Duration = Duration::from_secs(60);

/// Appends numbered lines with fsync until told to stop; counts what is durable here.
async fn writer(node: &Node) -> (std::thread::JoinHandle<()>, Arc<AtomicU64>, Arc<AtomicBool>) {
    let path = node.pool.live_path(PROGRAM, &name("data")).await.unwrap().join("log");
    let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, stopped) = (written.clone(), stop.clone());
    let thread = std::thread::spawn(move || {
        let mut file = std::fs::File::create(path).unwrap();
        while !stopped.load(Ordering::Relaxed) {
            let number = count.load(Ordering::Relaxed) + 1;
            file.write_all(format!("{number}\n").as_bytes()).unwrap();
            file.sync_all().unwrap();
            count.store(number, Ordering::Release);
        }
    });
    (thread, written, stop)
}

/// How many lines the log has, without a gap.
async fn prefix(node: &Node) -> u64 {
    let log = String::from_utf8(read(&node.pool, "data", "log").await).unwrap();
    let lines: Vec<u64> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.iter().copied().eq(1..=lines.len() as u64), "a gap");
    lines.len() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_is_followed_and_what_was_flushed_is_there() {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    a.live(1).await;
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    assert_eq!(replicator.flush().await, Err(ReplicationError::NoStandby));
    replicator.standby(Some(b.peer())).await;
    let (thread, written, stop) = writer(&a).await;
    until("ten snapshots", async || b.newest().await.is_some_and(|id| id.sequence >= 10)).await;
    let before = written.load(Ordering::Acquire);
    replicator.flush().await.unwrap();
    let status = replicator.status();
    assert!(status.sets <= 2 && b.pool.snapshots(PROGRAM).await.unwrap().len() <= 3, "{status:?}");
    assert!(a.pool.snapshots(PROGRAM).await.unwrap().len() <= 3);
    assert!(status.bytes_sent > 0 && status.bytes_sent < 8 * MIB as u64, "differences only: {status:?}");
    let copy = b.receiver.report(PROGRAM).await.unwrap().unwrap();
    assert!(copy.age_ms < 60_000 && copy.newest >= status.live.confirmed.unwrap(), "{copy:?}");
    // The node is lost.
    cable.down.store(true, Ordering::Relaxed);
    replicator.stop();
    let newest = b.newest().await.unwrap();
    b.pool.promote(PROGRAM, From::Snapshot(newest), epoch(2), at(9)).await.unwrap();
    let there = prefix(&b).await;
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    assert!(there >= before && there <= written.load(Ordering::Acquire), "{there} of {before}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_has_ended_is_final_and_comes_back_as_a_difference() {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    a.live(16).await;
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    let missing = replicator.finish(Duration::from_millis(1)).await.unwrap_err();
    assert!(missing.to_string().contains("the standby is not connected"), "{missing}");
    replicator.standby(Some(b.peer())).await;
    let last = replicator.finish(LONG).await.unwrap();
    let live = replicator.status().live;
    assert!(live.is_final && live.at_risk_ms == 0 && live.confirmed == Some(last) && b.newest().await == Some(last));
    replicator.stop();

    b.pool.promote(PROGRAM, From::Snapshot(last), epoch(2), at(9)).await.unwrap();
    write(&b.pool, "data", "f", b"back").await;
    let back = Replicator::start(b.source(2, &cable)).await.unwrap();
    back.standby(Some(a.peer())).await;
    let newest = back.finish(LONG).await.unwrap();
    assert_eq!(newest, id(2, 1));
    let status = back.status();
    assert!(status.bytes_sent < 64 << 10 && status.bytes_changed < 64 << 10, "in full: {status:?}");
    a.pool.promote(PROGRAM, From::Snapshot(newest), epoch(3), at(9)).await.unwrap();
    assert_eq!(read(&a.pool, "data", "f").await, b"back");
    assert_eq!(read(&a.pool, "data", "big").await, noise(16 * MIB));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_standby_is_filled_while_the_program_writes() {
    let (a, b, c) = (Node::new(1).await, Node::new(2).await, Node::new(3).await);
    let cable = Cable::between(&[&a, &b, &c]);
    a.live(4).await;
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    replicator.standby(Some(b.peer())).await;
    let (thread, written, stop) = writer(&a).await;
    replicator.flush().await.unwrap();
    replicator.standby(Some(c.peer())).await;
    let before = written.load(Ordering::Acquire);
    replicator.flush().await.unwrap();
    replicator.standby(None).await;
    assert_eq!(replicator.flush().await, Err(ReplicationError::NoStandby));
    assert_eq!(replicator.status().live.confirmed, None, "nobody keeps copies any more");
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    let newest = c.newest().await.unwrap();
    c.pool.promote(PROGRAM, From::Snapshot(newest), epoch(2), at(9)).await.unwrap();
    assert!(prefix(&c).await >= before);
    assert_eq!(read(&c.pool, "data", "big").await, noise(4 * MIB));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_go_on_after_a_restart() {
    let (a, mut b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    a.live(8).await;
    let replicator = Replicator::start(a.source(1, &cable)).await.unwrap();
    replicator.standby(Some(b.peer())).await;
    replicator.flush().await.unwrap();
    let before = confirmed(&replicator).await;
    replicator.stop();

    b.receiver = Receiver::new(b.pool.clone(), b.account.clone(), b.id, ReceiveLimits::default());
    let copy = b.receiver.report(PROGRAM).await.unwrap().unwrap();
    assert!(copy.newest >= before && copy.age_ms < 60_000, "by the clock on the wall: {copy:?}");
    let cable = Cable::between(&[&a, &b]);
    let mut source = a.source(1, &cable);
    source.unconfirmed_since = None;
    let replicator = Replicator::start(source).await.unwrap();
    assert_eq!(replicator.status().live.at_risk_ms, u64::MAX, "nobody knows before the standby says what it has");
    replicator.standby(Some(b.peer())).await;
    write(&a.pool, "data", "f", b"after").await;
    replicator.flush().await.unwrap();
    let status = replicator.status();
    assert!(status.live.confirmed.unwrap() > before && status.bytes_sent < 64 << 10, "{status:?}");
    assert!(status.live.at_risk_ms < 60_000);
}
