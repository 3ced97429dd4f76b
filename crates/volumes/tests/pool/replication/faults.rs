//! Cuts, disturbances, and nodes that may not send.

use std::sync::atomic::Ordering;
use std::time::Duration;

use volumes::replication::Replicator;

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
