//! Senders that do not do what they should.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use sha2::{Digest as _, Sha256};
use volumes::SnapshotId;
use volumes::replication::secure::{self, SecureReader, SecureWriter};
use volumes::replication::wire::{self, Begin, CHUNK, Digest, Frame, FromPrimary, FromStandby, Partial};
use volumes::replication::{ReceiveLimits, Receiver};

use super::cable::*;
use crate::support::*;

/// A sender by hand.
struct Sender {
    reader: SecureReader<Disturbed>,
    writer: SecureWriter<Disturbed>,
    partial: Option<Partial>,
}

impl Sender {
    async fn new(cable: &Arc<Cable>, from: &Node, to: &Node) -> Self {
        let stream = cable.connect(to.id);
        let dialed = secure::dial(stream, &from.account, from.id, to.id, to.account.address()).await;
        let (reader, writer) = dialed.unwrap();
        let mut sender = Self { reader, writer, partial: None };
        sender.say(&FromPrimary::Open { program: PROGRAM, epoch: epoch(1) }).await;
        let FromStandby::Have { partial, .. } = sender.hear().await else { panic!("refused") };
        sender.partial = partial;
        sender
    }

    async fn say(&mut self, message: &FromPrimary) {
        self.writer.send(&wire::message(message)).await.unwrap();
    }

    async fn hear(&mut self) -> FromStandby {
        match wire::read(&self.reader.receive().await.unwrap()).unwrap() {
            Frame::Message(message) => message,
            Frame::Bytes(_) => panic!("bytes"),
        }
    }

    async fn begin(&mut self, snapshot: SnapshotId, parent: Option<SnapshotId>, size_mib: u64) -> FromStandby {
        let volumes = vec![volume("data", size_mib)];
        self.say(&FromPrimary::Begin(Begin { snapshot, parent, volumes, taken: Utc::now(), resume: false })).await;
        self.hear().await
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(CHUNK) {
            self.writer.send(&wire::pack(chunk).unwrap()).await.unwrap();
        }
    }

    async fn end(&mut self, bytes: &[u8]) -> FromStandby {
        self.say(&FromPrimary::End { digest: Digest::of(&Sha256::new().chain_update(bytes)) }).await;
        self.hear().await
    }
}

async fn failure(answer: FromStandby) -> String {
    let FromStandby::Failed { reason, .. } = answer else { panic!("{answer:?}") };
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_what_was_sent_does_not_count() {
    let (a, b) = (Node::new(1).await, Node::new(2).await);
    let cable = Cable::between(&[&a, &b]);
    a.live(1).await;
    snapshot(&a.pool, id(1, 1)).await;
    let stream = all_of(a.pool.send(PROGRAM, id(1, 1), &name("data"), None).await.unwrap()).await;
    let again = all_of(a.pool.send(PROGRAM, id(1, 1), &name("data"), None).await.unwrap()).await;
    assert!(stream == again, "the same snapshot gives the same bytes");
    let mut sender = Sender::new(&cable, &a, &b).await;
    let ready = FromStandby::Ready { snapshot: id(1, 1) };

    assert_eq!(sender.begin(id(1, 1), None, 64).await, ready);
    sender.bytes(&stream).await;
    let wrong = failure(sender.end(b"something else").await).await;
    assert!(wrong.contains("the digest of a volume is another"), "{wrong}");

    assert_eq!(sender.begin(id(1, 1), None, 64).await, ready);
    sender.bytes(&stream[..stream.len() / 2]).await;
    let torn = failure(sender.end(&stream[..stream.len() / 2]).await).await;
    assert!(torn.contains("damaged or was cut"), "{torn}");

    let unknown = FromStandby::UnknownParent { snapshot: id(1, 1) };
    assert_eq!(sender.begin(id(1, 1), Some(id(1, 0)), 64).await, unknown);

    assert_eq!(sender.begin(id(1, 1), None, 0).await, ready);
    for _ in 0..20 {
        sender.bytes(&noise(MIB)).await;
    }
    let long = failure(sender.hear().await).await;
    assert!(long.contains("longer than") || long.contains("damaged"), "{long}");
    assert_eq!(b.pool.snapshots(PROGRAM).await.unwrap(), []);

    // After all that, the right one is taken, and taken once.
    assert_eq!(sender.begin(id(1, 1), None, 64).await, ready);
    sender.say(&FromPrimary::Age { taken_ago_ms: 5000 }).await;
    sender.bytes(&stream).await;
    assert_eq!(sender.end(&stream).await, FromStandby::Done { snapshot: id(1, 1) });
    assert_eq!(sender.begin(id(1, 1), None, 64).await, FromStandby::Done { snapshot: id(1, 1) });
    let copy = b.receiver.report(PROGRAM).await.unwrap().unwrap();
    assert!(copy.age_ms >= 5000, "{copy:?}");
    assert_eq!(sender.begin(id(1, 2), None, 64).await, FromStandby::Ready { snapshot: id(1, 2) });
    sender.say(&FromPrimary::Ping).await;
    assert_eq!(sender.hear().await, FromStandby::Pong);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_beginning_of_a_stream_is_kept_for_a_while_only() {
    let (a, mut b) = (Node::new(1).await, Node::new(2).await);
    let limits = ReceiveLimits { keep_cut: Duration::from_millis(300), ..ReceiveLimits::default() };
    b.receiver = Receiver::new(b.pool.clone(), b.account.clone(), b.id, limits);
    let cable = Cable::between(&[&a, &b]);
    a.live(4).await;
    snapshot(&a.pool, id(1, 1)).await;
    let stream = all_of(a.pool.send(PROGRAM, id(1, 1), &name("data"), None).await.unwrap()).await;
    let mut sender = Sender::new(&cable, &a, &b).await;
    sender.begin(id(1, 1), None, 64).await;
    sender.bytes(&stream[..2 * MIB]).await;
    // What is answered comes after what was sent.
    sender.say(&FromPrimary::Ping).await;
    sender.hear().await;
    let sender = Sender::new(&cable, &a, &b).await;
    let partial = sender.partial.expect("it is kept");
    assert_eq!(partial.offset, 2 * MIB as u64);
    assert_eq!(partial.digest, Digest::of(&Sha256::new().chain_update(&stream[..2 * MIB])));
    let ends = cable.ends.lock().unwrap().join("; ");
    assert!(ends.contains("a newer connection"), "{ends}");
    drop((sender.reader, sender.writer));
    let folder = b.place.data(PROGRAM).join("snapshots/1-1");
    until("it is given up", async || !folder.exists()).await;
    let mut sender = Sender::new(&cable, &a, &b).await;
    assert_eq!(sender.partial, None);

    // Also when it is not the connection that ends.
    sender.begin(id(1, 1), None, 64).await;
    sender.bytes(&stream[..2 * MIB]).await;
    until("something has come", async || folder.exists()).await;
    cable.servers.lock().unwrap().iter().for_each(tokio::task::AbortHandle::abort);
    until("it is given up", async || !folder.exists()).await;
}
