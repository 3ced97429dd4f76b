//! Programs that start with a request and go when they are idle.

use std::time::{Duration, Instant};

use aleph_tests::{Aleph, Network, UpOptions, eventually, folder_with, reqwest_client};
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt, stream};
use tokio_tungstenite::tungstenite::Message;

use crate::shared::{aleph, network};

/// Takes its time to start, and counts its starts in its log.
const SLOW_START: &str = r#"
import asyncio, time
print("process started", flush=True)
time.sleep(0.5)

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    if scope["path"] == "/slow":
        await asyncio.sleep(30)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/trickle":
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"done"})
"#;

async fn starts(program: &str) -> usize {
    aleph().await.logs(program).await.lines().filter(|line| line.contains("process started")).count()
}

#[tokio::test]
async fn many_first_requests_start_one_copy_which_goes_when_it_is_idle() {
    let (network, aleph) = (network().await, aleph().await);
    let folder = folder_with("main.py", SLOW_START);
    let program = aleph.upload(folder.path(), "main:app", &[]).await;
    assert!(network.nodes_with(&program).await.is_empty(), "nothing runs before the first request");
    let requests = (0..20).map(|_| reqwest_client().get(network.program_url(&program)).send());
    for answer in join_all(requests).await {
        let answer = answer.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "done"));
    }
    assert_eq!(network.nodes_with(&program).await.len(), 1);
    network.until_gone(&program).await;
    assert_eq!(starts(&program).await, 1);
    // The next request starts it again.
    assert_eq!(reqwest_client().get(network.program_url(&program)).send().await.unwrap().status(), 200);
    assert_eq!(starts(&program).await, 2);
}

#[tokio::test]
async fn a_program_runs_on_one_node_whichever_gateway_is_asked() {
    let (network, aleph) = (network().await, aleph().await);
    let folder = folder_with("main.py", SLOW_START);
    let program = aleph.upload(folder.path(), "main:app", &["--name", "one node"]).await;
    let gateways = network.compute_nodes.iter().map(|node| format!("{}/vm/{program}", node.url));
    let gateways: Vec<_> = gateways.chain([network.program_url(&program)]).collect();
    let requests = gateways.iter().flat_map(|url| {
        let client = reqwest_client();
        [client.get(url).send(), client.post(url).body("a body").send()]
    });
    for answer in join_all(requests).await {
        let answer = answer.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "done"));
    }
    assert_eq!(network.nodes_with(&program).await.len(), 1);
    assert_eq!(starts(&program).await, 1);
    network.until_gone(&program).await;
}

#[tokio::test]
async fn a_request_has_its_time_and_no_more() {
    let (network, aleph) = (network().await, aleph().await);
    let folder = folder_with("main.py", SLOW_START);
    let program = aleph.upload(folder.path(), "main:app", &["--timeout-seconds", "2"]).await;
    let url = network.program_url(&program);
    let answer = reqwest_client().get(format!("{url}/slow")).send().await.unwrap();
    assert_eq!(answer.status(), 504);
    assert!(answer.text().await.unwrap().contains("2 s"), "it says how long the program had");
    // An answer that has begun is cut off, too.
    let answer = reqwest_client().get(format!("{url}/trickle")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err(), "50 s of answer do not fit into 2 s");
    // Others were not disturbed.
    assert_eq!(reqwest_client().get(&url).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_program_that_starts_slowly_delays_no_other() {
    // One node, so that nothing but the node could be in the way, and nobody else takes its room.
    let network = Network::up(UpOptions::new(1, &[])).await;
    let aleph = Aleph::of(&network);
    let slow = SLOW_START.replace("time.sleep(0.5)", "time.sleep(7)");
    let slow = aleph.upload(folder_with("main.py", &slow).path(), "main:app", &["--timeout-seconds", "30"]).await;
    let quick =
        aleph.upload(folder_with("main.py", &SLOW_START.replace("time.sleep(0.5)", "")).path(), "main:app", &[]).await;
    let node = &network.compute_nodes[0].url;
    let get = async |program: &str| {
        let answer = reqwest_client().get(format!("{node}/vm/{program}")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    };
    let (slow_first, quick_first) = (std::cell::Cell::new(false), std::cell::Cell::new(false));
    let one = async {
        get(&slow).await;
        slow_first.set(!quick_first.get());
    };
    let other = async {
        eventually("the slow one is starting", async || (!network.nodes_with(&slow).await.is_empty()).then_some(()))
            .await;
        get(&quick).await;
        quick_first.set(true);
    };
    tokio::join!(one, other);
    assert!(!slow_first.get(), "the quick one answered while the slow one was starting");
}

/// Sends back what it gets, as it gets it.
const ECHO: &str = r#"
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        message = await receive()
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})
        if not more:
            return
"#;

#[tokio::test]
async fn large_bodies_stream_both_ways_at_once() {
    const PIECE: usize = 1 << 20;
    let (network, aleph) = (network().await, aleph().await);
    let folder = folder_with("main.py", ECHO);
    let options = ["--memory", "128", "--timeout-seconds", "120"];
    let program = aleph.upload(folder.path(), "main:app", &options).await;
    let (pieces, body) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    let body = stream::unfold(body, async |mut body| body.recv().await.map(|piece| (piece, body)));
    let request = reqwest_client().post(network.program_url(&program)).body(reqwest::Body::wrap_stream(body.boxed()));
    let exchange = async {
        // The answer begins before the request is over.
        let mut answer = request.send().await.unwrap().bytes_stream();
        for number in 0..64_u8 {
            // Each piece is sent only after the one before came back: whoever kept anything back would wait for ever.
            pieces.send(Ok(vec![number; PIECE].into())).await.unwrap();
            let mut back = 0;
            while back < PIECE {
                let bytes = answer.next().await.unwrap().unwrap();
                assert!(bytes.iter().all(|byte| *byte == number));
                back += bytes.len();
            }
            assert_eq!(back, PIECE);
        }
        drop(pieces);
        assert!(answer.next().await.is_none(), "the answer ends with the request");
    };
    tokio::time::timeout(Duration::from_secs(100), exchange).await.expect("nothing is kept back");
}

#[tokio::test]
async fn a_forgotten_program_answers_no_more() {
    let (network, aleph) = (network().await, aleph().await);
    let folder = folder_with("main.py", SLOW_START);
    let program = aleph.upload(folder.path(), "main:app", &[]).await;
    let url = network.program_url(&program);
    assert_eq!(reqwest_client().get(&url).send().await.unwrap().status(), 200);
    aleph.json(&["program", "delete", &program, "--yes"]).await;
    eventually("it is gone", async || (reqwest_client().get(&url).send().await.unwrap().status() == 410).then_some(()))
        .await;
    network.until_gone(&program).await;
}

#[tokio::test]
async fn what_is_no_program_is_told_apart() {
    let network = network().await;
    let get = async |path: &str| {
        let answer =
            reqwest_client().get(format!("http://127.0.0.1:{}{path}", network.port() + 2)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, text) = get("/vm/abc").await;
    assert!(status == 400 && text.contains("64 hexadecimal digits"), "{status} {text}");
    let (status, text) = get(&format!("/vm/{}", "ab".repeat(32))).await;
    assert!(status == 404 && text.contains("there is no program"), "{status} {text}");
    let programs = protocol::client::MessageNode::new(&network.message_node_url);
    let filter = protocol::api::message_node::MessageFilter {
        types: vec![protocol::message::MessageType::Store],
        ..Default::default()
    };
    let store = programs.messages(&filter, "").await.unwrap().messages.remove(0).envelope.item_hash;
    let (status, text) = get(&format!("/vm/{store}")).await;
    assert!(status == 404 && text.contains("STORE"), "{status} {text}");
}

/// Says which copy it is, to requests and to whatever comes by a WebSocket.
const WHO: &str = r#"
import uuid
who = str(uuid.uuid4())

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": who})
        return
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": who.encode()})
"#;

#[tokio::test]
async fn a_crowd_gets_another_copy_as_long_as_it_is_there() {
    let limits = ["--requests-per-copy", "2", "--copies", "2", "--freeze-after", "2s"];
    let network = Network::up(UpOptions::new(1, &limits)).await;
    let (aleph, node) = (Aleph::of(&network), &network.compute_nodes[0]);
    let folder = folder_with("main.py", WHO);
    let get = async |program: &str| {
        let answer = reqwest_client().get(network.program_url(program)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    };
    let copies = || node.claimed_sandboxes().len();
    // The second may have one only.
    for (options, most) in [(&[][..], 2), (&["--copies", "1"], 1)] {
        let program = aleph.upload(folder.path(), "main:app", options).await;
        let first = get(&program).await;
        let url = network.program_url(&program).replace("http://", "ws://");
        let mut crowd = Vec::new();
        for _ in 0..6 {
            crowd.push(tokio_tungstenite::connect_async(url.as_str()).await.unwrap().0);
        }
        if most == 2 {
            // The first is full, so the other gets this.
            eventually("another copy answers", async || (get(&program).await != first).then_some(())).await;
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(4) {
            assert_eq!(copies(), most, "the crowd is as large as it was");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(get(&program).await != first, most == 2);
        for socket in &mut crowd {
            socket.send(Message::text("who?")).await.unwrap();
            assert!(socket.next().await.unwrap().unwrap().is_text(), "who was inside is not disturbed");
        }
        drop(crowd);
        eventually("one copy is left", async || (copies() == 1).then_some(())).await;
        assert_eq!(get(&program).await, first);
        aleph.json(&["program", "delete", &program, "--yes"]).await;
        network.until_gone(&program).await;
    }
}
