use std::time::Duration;

use tokio::io::{DuplexStream, duplex};

use super::*;

const A: NodeId = NodeId::from_bytes([1; 32]);
const B: NodeId = NodeId::from_bytes([2; 32]);
const C: NodeId = NodeId::from_bytes([3; 32]);

type Connection = (SecureReader<DuplexStream>, SecureWriter<DuplexStream>);

fn accounts() -> (Account, Account) {
    (Account::generate(), Account::generate())
}

/// Copies messages with their lengths, as many as asked for, or until the end.
async fn pass(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), count: usize) -> Vec<Vec<u8>> {
    let mut passed = Vec::new();
    while passed.len() < count {
        let Ok(length) = from.read_u16().await else { break };
        let mut message = vec![0; usize::from(length)];
        from.read_exact(&mut message).await.unwrap();
        to.write_all(&framed(&message)).await.unwrap();
        passed.push(message);
    }
    passed
}

async fn connected() -> (Connection, Connection) {
    let ((a, b), (x, y)) = (accounts(), duplex(1 << 20));
    let (dialed, accepted) = tokio::join!(dial(x, &a, A, B, b.address()), accept(y, &b, B));
    let (reader, writer, proven) = accepted.unwrap();
    assert_eq!(proven, Proven { node: A, account: a.address().clone() });
    (dialed.unwrap(), (reader, writer))
}

#[tokio::test]
async fn frames_of_any_length_arrive_both_ways() {
    let (mut a, mut b) = connected().await;
    for length in [0, 1, MAX_MESSAGE - TAG - 1, MAX_MESSAGE - TAG, MAX_FRAME] {
        let frame: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let (sent, received) = tokio::join!(a.1.send(&frame), b.0.receive());
        assert!(sent.unwrap() > length as u64);
        assert_eq!(received.unwrap(), frame);
        let (_, back) = tokio::join!(b.1.send(&frame), a.0.receive());
        assert_eq!(back.unwrap(), frame);
    }
    assert!(matches!(a.1.send(&vec![0; MAX_FRAME + 1]).await, Err(SecureError::TooLong)));
}

#[tokio::test]
async fn receiving_that_is_given_up_loses_nothing() {
    let (mut a, mut b) = connected().await;
    assert!(tokio::time::timeout(Duration::from_millis(1), b.0.receive()).await.is_err());
    a.1.send(b"later").await.unwrap();
    assert_eq!(b.0.receive().await.unwrap(), b"later");
}

#[tokio::test]
async fn a_wrong_key_is_refused_by_who_dials_and_seen_by_who_accepts() {
    let ((a, b), (x, y)) = (accounts(), duplex(1 << 20));
    let other = Account::generate();
    let (dialed, accepted) = tokio::join!(dial(x, &a, A, B, other.address()), accept(y, &b, B));
    assert!(matches!(dialed, Err(SecureError::Unproven(_))));
    assert_eq!(accepted.unwrap().2.account, *a.address());
}

#[tokio::test]
async fn another_node_and_the_node_itself_are_refused() {
    let ((a, c), (x, y)) = (accounts(), duplex(1 << 20));
    let (dialed, _) = tokio::join!(dial(x, &a, A, B, c.address()), accept(y, &c, C));
    assert!(matches!(dialed, Err(SecureError::WrongNode { actual: C, expected: B })));
    let (x, y) = duplex(1 << 20);
    let (dialed, accepted) = tokio::join!(dial(x, &a, A, B, a.address()), accept(y, &a, A));
    assert!(dialed.is_err() && matches!(accepted, Err(SecureError::Itself(A))));
    let (x, y) = duplex(1 << 20);
    let (dialed, _) = tokio::join!(dial(x, &a, A, A, a.address()), accept(y, &a, A));
    assert!(matches!(dialed, Err(SecureError::Itself(A))));
}

#[tokio::test]
async fn a_reflected_handshake_is_refused() {
    let ((a, b), (x, mut y)) = (accounts(), duplex(1 << 20));
    let reflect = async {
        let mut message = [0; 34];
        y.read_exact(&mut message).await.unwrap();
        y.write_all(&message).await.unwrap();
    };
    let (dialed, ()) = tokio::join!(dial(x, &a, A, B, b.address()), reflect);
    assert!(matches!(dialed, Err(SecureError::Forged(_))));
}

/// In between are two handshakes with two hashes, so what each side signs is of no use on the other.
#[tokio::test]
async fn who_sits_in_between_is_noticed() {
    let (a, b) = accounts();
    let ((x, m1), (m2, y)) = (duplex(1 << 20), duplex(1 << 20));
    let between = async {
        let mut noise = builder().build_responder().unwrap();
        let mut m1 = m1;
        receive_handshake(&mut m1, &mut noise).await.unwrap();
        send_handshake(&mut m1, &mut noise).await.unwrap();
        let (mut from_a, mut to_a, _) = transport(m1, noise).unwrap();
        let (mut noise, mut m2) = (builder().build_initiator().unwrap(), m2);
        send_handshake(&mut m2, &mut noise).await.unwrap();
        receive_handshake(&mut m2, &mut noise).await.unwrap();
        let (mut from_b, mut to_b, _) = transport(m2, noise).unwrap();
        to_b.send(&from_a.receive().await.unwrap()).await.unwrap();
        if let Ok(hello) = from_b.receive().await {
            to_a.send(&hello).await.unwrap();
        }
    };
    let dialing = dial(x, &a, A, B, b.address());
    let (dialed, accepted, ()) = tokio::join!(dialing, accept(y, &b, B), between);
    assert!(dialed.is_err());
    // The signature gives some account or none, but not that of a.
    assert!(accepted.map_or(true, |(.., proven)| proven.account != *a.address()));
}

#[tokio::test]
async fn a_replayed_handshake_is_refused() {
    let (a, b) = accounts();
    let ((x, mut m1), (m2, y)) = (duplex(1 << 20), duplex(1 << 20));
    let recorded = async {
        let (mut from_b, mut to_b) = tokio::io::split(m2);
        let mut all = pass(&mut m1, &mut to_b, 1).await;
        pass(&mut from_b, &mut m1, 1).await;
        all.extend(pass(&mut m1, &mut to_b, 1).await);
        pass(&mut from_b, &mut m1, 1).await;
        all
    };
    let (dialed, accepted, recorded) = tokio::join!(dial(x, &a, A, B, b.address()), accept(y, &b, B), recorded);
    assert!(dialed.is_ok() && accepted.is_ok());
    let (mut x, y) = duplex(1 << 20);
    for message in recorded {
        x.write_all(&framed(&message)).await.unwrap();
    }
    assert!(matches!(accept(y, &b, B).await, Err(SecureError::Forged(_))));
}

#[tokio::test]
async fn flipped_lost_and_repeated_messages_and_the_end_are_errors() {
    for what in ["flipped", "lost", "repeated", "cut", "ended"] {
        let (a, b) = accounts();
        let ((x, m1), (m2, y)) = (duplex(1 << 20), duplex(1 << 20));
        let between = tokio::spawn(async move {
            let ((mut from_a, mut to_a), (mut from_b, mut to_b)) = (tokio::io::split(m1), tokio::io::split(m2));
            pass(&mut from_a, &mut to_b, 1).await;
            pass(&mut from_b, &mut to_a, 1).await;
            pass(&mut from_a, &mut to_b, 1).await;
            pass(&mut from_b, &mut to_a, 1).await;
            let mut held = Vec::new();
            let mut frames = pass(&mut from_a, &mut held, 2).await;
            match what {
                "flipped" => frames[0][9] ^= 1,
                "lost" => drop(frames.remove(0)),
                "repeated" => frames[1] = frames[0].clone(),
                "cut" => frames.truncate(1),
                _ => frames.clear(),
            }
            for (index, frame) in frames.iter().enumerate() {
                let bytes = framed(frame);
                let cut = if what == "cut" && index == 0 { bytes.len() - 1 } else { bytes.len() };
                to_b.write_all(&bytes[..cut]).await.unwrap();
            }
        });
        let (dialed, accepted) = tokio::join!(dial(x, &a, A, B, b.address()), accept(y, &b, B));
        let ((_reader, mut writer), (mut reader, ..)) = (dialed.unwrap(), accepted.unwrap());
        writer.send(b"the first frame").await.unwrap();
        writer.send(b"the second frame").await.unwrap();
        between.await.unwrap();
        let mut result = reader.receive().await;
        if what == "repeated" {
            assert_eq!(result.unwrap(), b"the first frame");
            result = reader.receive().await;
        }
        match what {
            "cut" | "ended" => assert!(matches!(result, Err(SecureError::Broken(_))), "{what}"),
            _ => assert!(matches!(result, Err(SecureError::Forged(_))), "{what}"),
        }
    }
}
