//! Bodies, and what goes with them, as they are.

use super::*;

#[tokio::test]
async fn answers_pass_as_they_are() {
    for (method, answer, expected) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", ("HTTP/1.1 200 OK", Some("content-length: 5"), "")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ("HTTP/1.1 200 OK", None, "")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", ("HTTP/1.1 204 No Content", None, "")),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
            ("HTTP/1.1 304 Not Modified", Some("etag: \"a\""), ""),
        ),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", ("HTTP/1.1 304 Not Modified", None, "")),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ("HTTP/1.1 200 OK", Some("content-length: 0"), "")),
        (
            "GET",
            "HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nhi",
            ("HTTP/1.1 299 Odd", Some("content-length: 2"), "hi"),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            ("HTTP/1.1 200 OK", Some("transfer-encoding: chunked"), "2\r\nhi\r\n0\r\n\r\n"),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nX-Yours: 2\r\nContent-Length: 0\r\n\r\n",
            ("HTTP/1.1 200 OK", Some("x-yours: 2"), ""),
        ),
    ] {
        let world = World::new().await;
        let (mut client, mut program) = world.ask(&format!("{method} {{P}}/")).await;
        program.send(answer).await;
        let head = client.head().await;
        let (line, header, body) = expected;
        assert!(head.starts_with(line), "{answer:?} became {head:?}");
        assert!(header.is_none_or(|header| head.contains(header)), "{answer:?} became {head:?}");
        for gone in ["x-mine", "keep-alive", "connection"] {
            assert!(!head.contains(gone), "{answer:?} became {head:?}");
        }
        assert!(head.contains(&format!("aleph-program-itemhash: {}", world.program)));
        assert_eq!(client.exactly(body.len()).await, body);
        // The connection is as good as before, and the next answer its own.
        client.send(world.fill("GET {P}/next HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let mut program = if answer.contains("close") { world.program().await } else { program };
        assert!(program.head().await.starts_with("GET /next HTTP/1.1\r\n"), "{answer:?}");
        program.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext").await;
        assert_eq!(client.answer().await, (200, "next".to_owned()), "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_is_used_again_and_again() {
    let world = World::new().await;
    let (mut client, mut program) = world.ask("GET {P}/").await;
    for number in 0..20 {
        let (length, chunked) =
            ("Content-Length: 2\r\n\r\nok", "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        program.send(format!("HTTP/1.1 200 OK\r\n{}", if number % 2 == 0 { length } else { chunked })).await;
        client.until("ok").await;
        if number % 2 == 1 {
            client.until("0\r\n\r\n").await;
        }
        let body = if number % 3 == 0 { "Content-Length: 2\r\n\r\nxy" } else { "\r\n" };
        client.send(world.fill(&format!("POST {{P}}/{number} HTTP/1.1\r\nHost: x\r\n{body}"))).await;
        let seen = read_request(&mut program).await.unwrap();
        assert_eq!(seen.line, format!("POST /{number} HTTP/1.1"));
    }
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let world = World::new().await;
    let mut client = world.client().await;
    client.send(world.fill("POST {P}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    let mut program = world.program().await;
    assert!(program.head().await.contains("transfer-encoding: chunked\r\n"));
    program.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.head().await;
    for number in 0..10 {
        client.send(format!("2\r\na{number}\r\n")).await;
        program.until(&format!("2\r\na{number}\r\n")).await;
        program.send(format!("2\r\nb{number}\r\n")).await;
        client.until(&format!("2\r\nb{number}\r\n")).await;
    }
    client.send("0\r\n\r\n").await;
    program.until("0\r\n\r\n").await;
    program.send("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let world = World::new().await;
    let mut client = world.client().await;
    let headers = "TE: trailers\r\nConnection: TE\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n";
    client
        .send(world.fill(&format!("POST {{P}}/ HTTP/1.1\r\nHost: x\r\n{headers}\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n")))
        .await;
    let mut program = world.program().await;
    let head = program.head().await;
    assert!(head.contains("te: trailers\r\n") && head.contains("trailer: X-Sum\r\n"), "{head}");
    assert_eq!(program.until("\r\n\r\n").await.to_ascii_lowercase(), "2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n");
    program
        .send("HTTP/1.1 200 OK\r\nTrailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nho\r\n0\r\nX-End: 2\r\n\r\n")
        .await;
    client.head().await;
    assert_eq!(client.until("\r\n\r\n").await.to_ascii_lowercase(), "2\r\nho\r\n0\r\nx-end: 2\r\n\r\n");
}

#[tokio::test]
async fn a_client_that_waits_is_told_to_go_on() {
    let world = World::new().await;
    let mut client = world.client().await;
    client.send(world.fill("PUT {P}/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")).await;
    let mut program = world.program().await;
    assert!(program.head().await.contains("expect: 100-continue\r\n"));
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("xy").await;
    assert_eq!(program.exactly(2).await, "xy");
    // What the program says about that itself has been said; what it says early is not for everybody.
    program.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer().await, (200, "ok".to_owned()));
}

#[tokio::test]
async fn an_old_client_gets_an_answer_of_its_version() {
    let world = World::new().await;
    let mut client = world.client().await;
    client.send(world.fill("GET {P}/ HTTP/1.0\r\n\r\n")).await;
    let mut program = world.program().await;
    let seen = read_request(&mut program).await.unwrap();
    assert_eq!((seen.line.as_str(), seen.header("host")), ("GET / HTTP/1.1", Some("localhost")));
    program.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nhi"), "{answer}");
}

#[tokio::test]
async fn websockets_pass_with_what_is_sent_right_after_the_handshake() {
    let world = World::new().await;
    let mut client = world.client().await;
    let handshake = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n";
    client.send(world.fill(&format!("GET {{P}}/ws HTTP/1.1\r\nHost: x\r\n{handshake}\r\nearly"))).await;
    let mut program = world.program().await;
    let head = program.head().await;
    for line in
        ["GET /ws HTTP/1.1\r\n", "connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-key: abc\r\n"]
    {
        assert!(head.contains(line), "{head}");
    }
    program.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello").await;
    assert!(client.head().await.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
    assert_eq!(client.exactly(5).await, "hello");
    assert_eq!(program.exactly(5).await, "early");
    for number in 0..3 {
        client.send(format!("a{number}")).await;
        program.until(&format!("a{number}")).await;
        program.send(format!("b{number}")).await;
        client.until(&format!("b{number}")).await;
    }
    assert_eq!(world.endpoint.idle_since(), None, "it counts as long as it lasts");
    // Each side may end before the other.
    client.finish().await;
    program.closed().await;
    program.send("bye").await;
    drop(program);
    assert_eq!(client.rest().await, "bye");
    world.is_empty().await;
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_answer() {
    let world = World::new().await;
    let mut client = world.client().await;
    client.send(world.fill("GET {P}/ HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")).await;
    let mut program = world.program().await;
    program.head().await;
    program.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    assert_eq!(client.answer().await, (403, "no".to_owned()));
    program.closed().await;
}

#[tokio::test]
async fn the_nodes_own_answers_are_beside_the_programs() {
    let world = World::new().await;
    let mut client = world.client().await;
    client.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /vm/nonsense HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(client.answer().await, (200, "healthy".to_owned()));
    assert_eq!(client.answer().await.0, 400);
}
