//! How fast it is: `cargo test --release -p aleph-volumes --test pool measure -- --ignored --nocapture`.

use std::io::Write;
use std::time::{Duration, Instant};

use volumes::replication::Replicator;
use volumes::replication::core::Pace;

use super::cable::*;
use crate::support::*;

/// Appends of 100 bytes with fsync, for two seconds.
async fn appends_a_second(node: &Node) -> usize {
    let path = node.pool.live_path(PROGRAM, &name("data")).await.unwrap().join("log");
    let append = move || {
        let (mut file, begun, mut count) = (std::fs::File::create(path).unwrap(), Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(2) {
            file.write_all(&[b'x'; 100]).unwrap();
            file.sync_all().unwrap();
            count += 1;
        }
        count / 2
    };
    tokio::task::spawn_blocking(append).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn measure() {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    a.live(100).await;
    let mut source = a.source(1, &cable);
    source.pace = Pace::default();
    let replicator = Replicator::start(source).await.unwrap();
    let alone = appends_a_second(&a).await;
    let begun = Instant::now();
    replicator.standby(Some(b.peer())).await;
    confirmed(&replicator).await;
    let first = begun.elapsed();
    println!("100 MiB of noise: {first:?}, {:.0} MiB/s", 100.0 / first.as_secs_f64());
    let together = appends_a_second(&a).await;
    println!("appends with fsync a second: {alone} without a standby, {together} with one, every second");
    let (mut times, before) = (Vec::new(), replicator.status().bytes_sent);
    for number in 0..50_u8 {
        write(&a.pool, "data", "f", &[number; 4096]).await;
        let begun = Instant::now();
        replicator.flush().await.unwrap();
        times.push(begun.elapsed());
    }
    times.sort();
    let bytes = (replicator.status().bytes_sent - before) / 50;
    println!("flush after 4 KiB: median {:?}, max {:?}, {bytes} bytes on the wire", times[25], times[49]);
}
