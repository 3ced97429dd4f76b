//! What many clients together, and slow ones, cannot do.

use protocol::Account;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::*;

const LIST: &str = "/api/v0/messages.json?pagination=50";

/// Asks for the list, reads the beginning of the answer, and no more.
async fn stalled(node: &TestNode) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = node.url.trim_start_matches("http://");
    let mut stream = socket.connect(address.parse().unwrap()).await.unwrap();
    stream.write_all(format!("GET {LIST} HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes()).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    stream
}

#[tokio::test]
async fn answers_that_nobody_reads_are_held_up_to_a_limit() {
    let node = TestNode::with(|config| config.limits.body_bytes = 30 * 1024 * 1024).await;
    let account = Account::generate();
    // Each is listed with its content twice: 20 MB in all, more than what the sockets take.
    for n in 0..50 {
        node.accept(&post(&account, "note", json!({"n": n, "text": "x".repeat(190_000)}))).await;
    }
    let (status, whole) = node.json(LIST).await;
    assert_eq!((status, whole["messages"].as_array().unwrap().len()), (200, 50));
    let stalled = stalled(&node).await;
    let response = node.http.get(format!("{}{LIST}", node.url)).send().await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"2".parse().unwrap()));
    let error: Value = response.json().await.unwrap();
    assert!(error["code"] == "busy" && error["message"].as_str().unwrap().contains("try again"), "{error}");
    assert_eq!(node.json("/api/v0/info/public.json").await.0, 200, "small answers need no room");
    drop(stalled);
    eventually(async || (node.json(LIST).await.0 == 200).then_some(())).await;
}

#[tokio::test]
async fn forms_have_few_parts() {
    let node = TestNode::start().await;
    let mut form = Form::new();
    for n in 0..9 {
        form = form.part(format!("other-{n}"), Part::bytes(&b"x"[..]));
    }
    let form = form.part("file", Part::bytes(&b"x"[..]));
    let sent = node.http.post(format!("{}/api/v0/storage/add_file", node.url)).multipart(form).send().await.unwrap();
    assert_eq!(sent.status().as_u16(), 400);
    assert!(sent.text().await.unwrap().contains("too many parts"));
}
