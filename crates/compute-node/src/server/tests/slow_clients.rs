//! Clients that send too much, too slowly, or vanish.

use super::*;

fn limits(header_timeout: Duration, idle_timeout: Duration) -> Settings {
    Settings { limits: ClientLimits { header_bytes: 16 << 10, header_timeout, idle_timeout }, ..Settings::default() }
}

#[tokio::test]
async fn heads_have_a_largest_size() {
    let header = |bytes: usize| format!("GET {{P}}/ HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    let many = format!("GET {{P}}/ HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let path = |bytes: usize| format!("GET {{P}}/{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(bytes));
    for (request, status) in [(header(17 << 10), 431), (header(10 << 20), 431), (many, 431), (path(17 << 10), 431)] {
        let world = World::new().await;
        let mut client = world.client().await;
        let _ = client.try_send(world.fill(&request)).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        client.rest().await;
    }
    for request in [header(15 << 10), path(15 << 10)] {
        let world = World::new().await;
        let mut client = world.client().await;
        client.send(world.fill(&request)).await;
        let mut program = world.program().await;
        program.head().await;
        program.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.answer().await.0, 200);
    }
}

#[tokio::test]
async fn addresses_have_a_largest_size() {
    let mut settings = Settings::default();
    settings.limits.header_bytes = 1 << 20;
    let world = World::with(settings).await;
    let mut client = world.client().await;
    client.send(world.fill(&format!("GET {{P}}/{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(70_000)))).await;
    assert!(client.head().await.starts_with("HTTP/1.1 414 "));
}

/// However much is sent in time, a byte now and then keeps no connection.
#[tokio::test]
async fn who_is_slow_with_a_head_is_cut_off() {
    for begin in ["", "P", "PRI", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let world = World::with(limits(SHORT, LONG)).await;
        let mut client = world.client().await;
        client.send(begin).await;
        let (mut read, mut write) = client.stream.split();
        let dribble = async {
            while tokio::io::AsyncWriteExt::write_all(&mut write, b"X").await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
        };
        let mut said = Vec::new();
        let closed = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut said);
        tokio::select! {
            _ = soon("the connection is closed", closed) => {}
            () = dribble => {}
        }
        assert!(!String::from_utf8_lossy(&said).contains("200"));
    }
}

#[tokio::test]
async fn an_unused_connection_is_closed() {
    let world = World::with(limits(SHORT, LONG)).await;
    let (mut client, mut program) = world.ask("GET {P}/").await;
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer().await.0, 200);
    client.closed().await;
}

#[tokio::test]
async fn who_is_slow_with_a_body_is_told_so() {
    for length in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello"] {
        let world = World::with(limits(LONG, SHORT)).await;
        let mut client = world.client().await;
        client.send(world.fill(&format!("POST {{P}}/ HTTP/1.1\r\nHost: x\r\n{length}"))).await;
        let mut program = world.program().await;
        program.head().await;
        let (status, body) = client.answer().await;
        assert!(status == 408 && body.contains("\"client_too_slow\""), "{status} {body}");
        client.closed().await;
        // It has seen that the body is not whole.
        assert!(!program.rest().await.contains("\r\n0\r\n"));
        world.is_empty().await;
    }
}

/// An upload may take longer than a request: the program's time begins when it is its turn.
#[tokio::test]
async fn an_upload_may_take_its_time() {
    let world = World::with(Settings { request_limit: SHORT, ..Settings::default() }).await;
    let mut client = world.client().await;
    client.send(world.fill("POST {P}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n")).await;
    let mut program = world.program().await;
    program.head().await;
    for _ in 0..12 {
        tokio::time::sleep(SHORT / 4).await;
        client.send("x").await;
        program.exactly(1).await;
    }
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer().await, (200, "ok".to_owned()));
}

/// A program that reads nothing of a body does not answer, whatever the client sends.
#[tokio::test]
async fn a_program_that_reads_nothing_is_too_slow() {
    let world = World::with(Settings { request_limit: SHORT, ..Settings::default() }).await;
    let mut client = world.client().await;
    client.send(world.fill("POST {P}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")).await;
    let _program = world.program().await;
    let piece = "x".repeat(65536);
    let upload = async {
        while client.stream.try_write(piece.as_bytes()).is_ok_and(|n| n > 0) || client.stream.writable().await.is_ok() {
        }
    };
    let _ = tokio::time::timeout(SHORT * 2, upload).await;
    assert_eq!(client.answer().await.0, 504);
    world.is_empty().await;
}

/// The buffers between program and client are bounded, and a program is not kept busy for a client that takes nothing.
#[tokio::test]
async fn who_takes_nothing_is_cut_off() {
    let world = World::with(limits(LONG, SHORT)).await;
    let (client, mut program) = world.ask("GET {P}/").await;
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    let piece = "x".repeat(1 << 16);
    let mut sent = 0;
    while program.try_send(&piece).await.is_ok() {
        sent += piece.len();
    }
    assert!(sent < 64 << 20, "{sent} bytes went somewhere");
    world.is_empty().await;
    drop(client);
}

#[tokio::test]
async fn who_vanishes_leaves_nothing_behind() {
    // While the program thinks.
    let world = World::new().await;
    let (client, mut program) = world.ask("GET {P}/").await;
    drop(client);
    program.closed().await;
    world.is_empty().await;

    // While it may become a WebSocket.
    let mut client = world.client().await;
    let handshake = "Connection: upgrade\r\nUpgrade: websocket";
    client.send(world.fill(&format!("GET {{P}}/ HTTP/1.1\r\nHost: x\r\n{handshake}\r\n\r\n"))).await;
    let mut program = world.program().await;
    program.head().await;
    drop(client);
    program.closed().await;
    world.is_empty().await;

    // While the body comes: the program must not take a part of it for the whole.
    for length in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let mut client = world.client().await;
        client.send(world.fill(&format!("POST {{P}}/ HTTP/1.1\r\nHost: x\r\n{length}"))).await;
        let mut program = world.program().await;
        program.until("hello").await;
        drop(client);
        assert!(!program.rest().await.contains("0\r\n\r\n"));
        world.is_empty().await;
    }

    // While the answer comes.
    let (mut client, mut program) = world.ask("GET {P}/").await;
    program.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    client.until("hello").await;
    drop(client);
    program.closed().await;
    world.is_empty().await;
    assert_eq!(world.endpoint.pool.kept(), 0);
}

/// Who closes one direction is taken for gone, as by nginx: a program does not work for nobody.
#[tokio::test]
async fn who_closes_one_direction_is_gone() {
    let world = World::new().await;
    let (mut client, mut program) = world.ask("GET {P}/").await;
    client.finish().await;
    program.closed().await;
    client.closed().await;
    world.is_empty().await;
}

#[tokio::test]
async fn what_is_under_way_is_finished_when_the_node_ends() {
    let mut world = World::new().await;
    let mut idle = world.client().await;
    idle.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(idle.answer().await.0, 200);
    let (mut client, mut program) = world.ask("GET {P}/").await;
    world.shutdown.cancel();
    idle.closed().await;
    soon("nobody listens any more", async {
        while TcpStream::connect(world.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer().await, (200, "ok".to_owned()));
    client.closed().await;
    soon("the server ends", &mut world.server).await.unwrap();
}
