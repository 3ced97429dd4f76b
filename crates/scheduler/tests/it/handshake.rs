//! Who may connect as a node.

use protocol::control::{FromNode, FromScheduler, Hello};
use protocol::{Account, BootId, NodeId};

use crate::compute_node::{FakeNode, dial, open, receive, send};
use crate::network::{Network, until};

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
    use futures_util::SinkExt;
    socket.send(tokio_tungstenite::tungstenite::Message::Text("{}".into())).await.unwrap();
    assert_eq!(receive(&mut socket).await, None);
}

#[tokio::test]
async fn a_newer_connection_replaces_the_older() {
    let (_network, scheduler, nodes) = Network::with_nodes(&[]).await;
    assert!(nodes.is_empty());
    let node = FakeNode::new(1, 1000);
    _network.messages.register(node.listed());
    let (mut older, _, _) = open(&scheduler.url, &node.account, node.id, &node.url).await.unwrap();
    let (_newer, _, _) = open(&scheduler.url, &node.account, node.id, &node.url).await.unwrap();
    until("the older one ends", async || receive(&mut older).await.is_none().then_some(())).await;
}

#[tokio::test]
async fn a_node_with_another_id_cannot_use_the_key() {
    let (network, scheduler, nodes) = Network::with_nodes(&[1000]).await;
    let other = FakeNode::new(7, 1000);
    network.messages.register(other.listed());
    assert!(open(&scheduler.url, &nodes[0].account, other.id, &other.url).await.is_err());
    assert!(open(&scheduler.url, &nodes[0].account, NodeId::from_bytes([8; 32]), "http://x").await.is_err());
}
