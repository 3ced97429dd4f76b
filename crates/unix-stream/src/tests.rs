use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream as TokioStream;
use tokio::time::timeout;

use super::*;

/// More than a socket takes at once.
const MUCH: usize = 8 << 20;

fn pair() -> (Stream, TokioStream) {
    let (ours, theirs) = TokioStream::pair().unwrap();
    (Stream::new(ours).unwrap(), theirs)
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn what_does_not_fit_waits_until_there_is_room() {
    let (mut ours, mut theirs) = pair();
    let sending = tokio::spawn(async move {
        ours.write_all(&bytes(MUCH)).await.unwrap();
        ours
    });
    // Nobody reads, so it cannot be done with it.
    tokio::task::yield_now().await;
    assert!(!sending.is_finished());
    let mut received = vec![0; MUCH];
    theirs.read_exact(&mut received).await.unwrap();
    assert_eq!(received, bytes(MUCH));
    let ours = sending.await.unwrap();
    assert!(ours.full.is_none(), "everything fitted, so nobody is told of room any more");
}

#[tokio::test]
async fn only_who_waits_for_room_is_told_of_it() {
    let (mut ours, mut theirs) = pair();
    ours.write_all(b"short").await.unwrap();
    assert!(ours.full.is_none());

    let much = bytes(MUCH);
    let written = timeout(Duration::from_millis(50), ours.write_all(&much)).await;
    assert!(written.is_err(), "nobody reads");
    assert!(ours.full.is_some());

    // Whoever gives up waiting may go on later.
    let (mut read, mut buffer) = (0, vec![0; MUCH]);
    while let Ok(count) = timeout(Duration::from_millis(50), theirs.read(&mut buffer)).await {
        read += count.unwrap();
    }
    assert!(read > 5 && read < MUCH, "{read}");
    ours.write_all(b"more").await.unwrap();
    assert!(ours.full.is_none());
    assert_eq!(theirs.read(&mut buffer).await.unwrap(), 4);
    assert_eq!(&buffer[..4], b"more");
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    let (ours, mut theirs) = pair();
    let (mut read, mut write) = tokio::io::split(ours);
    let echo = tokio::spawn(async move {
        let mut buffer = vec![0; 10_000];
        loop {
            let count = theirs.read(&mut buffer).await.unwrap();
            if count == 0 {
                return;
            }
            theirs.write_all(&buffer[..count]).await.unwrap();
        }
    });
    let sending = tokio::spawn(async move {
        write.write_all(&bytes(MUCH)).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, bytes(MUCH));
    sending.await.unwrap();
    echo.await.unwrap();
}

#[tokio::test]
async fn what_comes_after_a_wait_is_read_in_any_pieces() {
    let (mut ours, mut theirs) = pair();
    let reading = tokio::spawn(async move {
        let mut piece = [0; 3];
        let mut all = Vec::new();
        loop {
            match ours.read(&mut piece).await.unwrap() {
                0 => return all,
                count => all.extend_from_slice(&piece[..count]),
            }
        }
    });
    for word in ["a", "four", "exactly six", ""] {
        tokio::time::sleep(Duration::from_millis(5)).await;
        theirs.write_all(word.as_bytes()).await.unwrap();
    }
    drop(theirs);
    let all = timeout(Duration::from_secs(10), reading).await.expect("the end is told").unwrap();
    assert_eq!(all, b"afourexactly six");
}

#[tokio::test]
async fn a_side_that_is_gone_is_an_error_also_for_who_waits_for_room() {
    let (mut ours, theirs) = pair();
    let sending = tokio::spawn(async move { ours.write_all(&bytes(MUCH)).await });
    tokio::task::yield_now().await;
    drop(theirs);
    let sent = timeout(Duration::from_secs(10), sending).await.expect("it is told").unwrap();
    assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
