//! Who may connect as a node.

use futures_util::{SinkExt, StreamExt};
use protocol::control::{FromNode, FromScheduler, Heartbeat, Hello};
use protocol::{Account, BootId, NodeId};
use tokio_tungstenite::tungstenite::Message;

use crate::compute_node::{FakeNode, capacity, dial, open, receive, send};
use crate::network::{LEASE, Network, until};

#[tokio::test]
async fn an_unknown_node_is_told_what_to_do() {
    let (_network, scheduler, _) = Network::with_nodes(&[]).await;
    let unknown = FakeNode::new(9, 1000);
    let reason = open(&scheduler.url, &unknown.account, unknown.id, &unknown.url).await.unwrap_err();
    assert!(reason.contains(&unknown.id.to_string()) && reason.contains("register it"), "{reason}");
}

#[tokio::test]
async fn a_node_that_registered_a_moment_ago_is_let_in() {
    let (network, scheduler, _) = Network::with_nodes(&[]).await;
    for number in 1..4 {
        let node = FakeNode::new(number, 1000);
        network.messages.register(node.listed());
        open(&scheduler.url, &node.account, node.id, &node.url).await.unwrap();
    }
}

#[tokio::test]
async fn only_the_owner_and_the_manager_speak_for_a_node() {
    let (network, scheduler, nodes) = Network::with_nodes(&[1000]).await;
    let (node, manager) = (&nodes[0], Account::generate());
    let reason = open(&scheduler.url, &manager, node.id, &node.url).await.unwrap_err();
    assert!(reason.contains(node.account.address().as_str()), "{reason}");
    let mut listed = node.listed();
    listed.manager = Some(manager.address().clone());
    network.messages.register(listed);
    open(&scheduler.url, &manager, node.id, &node.url).await.unwrap();
}

#[tokio::test]
async fn a_replayed_hello_is_refused() {
    let (_network, scheduler, nodes) = Network::with_nodes(&[1000]).await;
    let node = &nodes[0];
    let (_socket, hello, _) = open(&scheduler.url, &node.account, node.id, &node.url).await.unwrap();
    let (mut socket, challenge) = dial(&scheduler.url).await;
    assert_ne!(hello.signer(&challenge).unwrap(), *node.account.address());
    send(&mut socket, &FromNode::Hello(hello)).await;
    assert!(matches!(receive(&mut socket).await, Some(FromScheduler::Rejected { .. })));
    assert_eq!(receive(&mut socket).await, None, "and the connection ends");
}

#[tokio::test]
async fn nonsense_ends_the_connection() {
    let (_network, scheduler, nodes) = Network::with_nodes(&[1000]).await;
    let (mut socket, challenge) = dial(&scheduler.url).await;
    let node = &nodes[0];
    let mut hello = Hello::answer(&node.account, &challenge, node.id, BootId("b".into()), "no url".into(), "x".into());
    send(&mut socket, &FromNode::Hello(hello.clone())).await;
    assert!(matches!(receive(&mut socket).await, Some(FromScheduler::Rejected { reason }) if reason.contains("URL")));

    let (mut socket, _) = dial(&scheduler.url).await;
    hello.signature = "0x00".into();
    send(&mut socket, &FromNode::Hello(hello)).await;
    assert!(
        matches!(receive(&mut socket).await, Some(FromScheduler::Rejected { reason }) if reason.contains("signed"))
    );

    let (mut socket, _) = dial(&scheduler.url).await;
    socket.send(Message::Text("{}".into())).await.unwrap();
    assert_eq!(receive(&mut socket).await, None);
}

#[tokio::test]
async fn a_newer_connection_replaces_the_older() {
    let (network, scheduler, _) = Network::with_nodes(&[]).await;
    let node = FakeNode::new(1, 1000);
    network.messages.register(node.listed());
    let (mut older, _, _) = open(&scheduler.url, &node.account, node.id, &node.url).await.unwrap();
    let (_newer, _, _) = open(&scheduler.url, &node.account, node.id, &node.url).await.unwrap();
    until("the older one ends", async || receive(&mut older).await.is_none().then_some(())).await;
}

#[tokio::test]
async fn a_node_that_sends_too_much_is_slowed_down() {
    let (_network, scheduler, nodes) = Network::with_nodes(&[1000]).await;
    let node = &nodes[0];
    let (socket, _, _) = open(&scheduler.url, &node.account, node.id, &node.url).await.unwrap();
    let began = std::time::Instant::now();
    let (mut out, mut back) = socket.split();
    let sending = tokio::spawn(async move {
        for sequence in 1..=200 {
            let heartbeat = Heartbeat {
                sequence,
                capacity: capacity(1000),
                applied: None,
                programs: vec![],
                draining: None,
                heard: None,
                data: vec![],
            };
            let text = serde_json::to_string(&FromNode::Heartbeat(heartbeat)).unwrap();
            out.send(Message::Text(text.into())).await.unwrap();
        }
    });
    until("the last one is answered", async || {
        let frame = back.next().await.unwrap().unwrap();
        let frame = serde_json::from_str(frame.to_text().unwrap()).unwrap();
        matches!(frame, FromScheduler::Grant(grant) if grant.sequence == 200).then_some(())
    })
    .await;
    sending.await.unwrap();
    assert!(began.elapsed() >= LEASE.heartbeat * 10, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_node_with_another_id_cannot_use_the_key() {
    let (network, scheduler, nodes) = Network::with_nodes(&[1000]).await;
    let other = FakeNode::new(7, 1000);
    network.messages.register(other.listed());
    assert!(open(&scheduler.url, &nodes[0].account, other.id, &other.url).await.is_err());
    assert!(open(&scheduler.url, &nodes[0].account, NodeId::from_bytes([8; 32]), "http://x").await.is_err());
}
