//! Programs that answer late, early, in part, or with something that is no answer.

use super::*;

/// What the client gets for what a program says before it closes.
#[tokio::test]
async fn what_is_no_answer_is_a_bad_gateway() {
    let long_header = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    for said in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "hello\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/3.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        &long_header,
    ] {
        let world = World::new().await;
        let (mut client, mut program) = world.ask("GET {P}/").await;
        let _ = program.try_send(said).await;
        drop(program);
        let (status, body) = client.answer().await;
        assert_eq!(status, 502, "{} → {body}", &said[..said.len().min(80)]);
        assert!(body.contains("\"broken\""), "{body}");
        world.is_empty().await;
        assert_eq!(world.endpoint.pool.kept(), 0);
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_connected_to_is_a_bad_gateway() {
    let mut world = World::new().await;
    let (other, _) = (tempfile::tempdir().unwrap(), ());
    // The socket is there, but nobody listens.
    world.sandbox = UnixListener::bind(other.path().join("other")).unwrap();
    let mut client = world.client().await;
    client.send(world.fill("GET {P}/ HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let (status, body) = client.answer().await;
    assert!(status == 502 && body.contains("\"unreachable\""), "{status} {body}");
}

/// Other gateways would send the request again, or start the program elsewhere.
#[tokio::test]
async fn a_program_does_not_speak_for_its_gateway() {
    let world = World::new().await;
    let (mut client, mut program) = world.ask("GET {P}/").await;
    program.send("HTTP/1.1 200 OK\r\nAleph-Gateway-Error: node_fault\r\nContent-Length: 0\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200") && !head.to_lowercase().contains("gateway-error"), "{head}");
}

/// What always has something more to say does not go on for ever.
#[tokio::test]
async fn an_answer_on_demand_that_never_pauses_is_cut_off() {
    let world = World::with(Settings { epoch: None, request_limit: SHORT, ..Settings::default() }).await;
    let (mut client, mut program) = world.ask("GET {P}/").await;
    let answer = tokio::spawn(async move {
        program.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        while program.try_send("5\r\nhello\r\n").await.is_ok() {}
    });
    let text = soon("the client's connection ends", client.rest()).await;
    assert!(text.starts_with("HTTP/1.1 200") && !text.ends_with("\r\n0\r\n\r\n"), "it looks whole");
    soon("the program's connection ends", answer).await.unwrap();
    world.is_empty().await;
}

#[tokio::test]
async fn a_program_that_never_answers_is_too_slow() {
    for epoch in [None, Some(Epoch::FIRST)] {
        let world = World::with(Settings { epoch, request_limit: SHORT, ..Settings::default() }).await;
        let (mut client, mut program) = world.ask("GET {P}/").await;
        let (status, body) = client.answer().await;
        assert!(status == 504 && body.contains("\"too_slow\""), "{status} {body}");
        program.closed().await;
        world.is_empty().await;
    }
}

/// What was cut off must not look like something whole.
#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to() {
    let (length, chunks) = ("Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    for (head, end, version) in [
        (length, "", "1.1"),
        (length, "", "1.0"),
        (chunks, "", "1.1"),
        (chunks, "5\r\nhe", "1.1"),
        (chunks, "nonsense\r\n", "1.1"),
    ] {
        let world = World::new().await;
        let mut client = world.client().await;
        client.send(world.fill(&format!("GET {{P}}/ HTTP/{version}\r\nHost: x\r\n\r\n"))).await;
        let mut program = world.program().await;
        program.head().await;
        program.send(format!("HTTP/1.1 200 OK\r\n{head}")).await;
        assert!(client.head().await.starts_with(&format!("HTTP/{version} 200 OK\r\n")), "{head}");
        client.until("hello").await;
        program.send(end).await;
        drop(program);
        let rest = client.rest().await;
        assert!(!rest.contains("0\r\n") && !rest.contains("hello"), "{head}{end}: {rest:?}");
        world.is_empty().await;
        assert_eq!(world.endpoint.pool.kept(), 0);
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole() {
    let world = World::new().await;
    let (mut client, mut program) = world.ask("GET {P}/").await;
    program.send("HTTP/1.0 200 OK\r\n\r\nhello").await;
    client.until("\r\n5\r\nhello\r\n").await;
    drop(program);
    client.until("0\r\n\r\n").await;
}

/// A copy on demand may take so long in all; a persistent program may go on as long as it likes.
#[tokio::test]
async fn answers_of_copies_on_demand_end_in_time() {
    let settings = Settings { request_limit: SHORT, ..Settings::default() };
    let begin = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let world = World::with(Settings { epoch: None, ..settings }).await;
    let (mut client, mut program) = world.ask("GET {P}/").await;
    program.send(begin).await;
    client.until("hello\r\n").await;
    client.closed().await;
    program.closed().await;

    let world = World::with(settings).await;
    let (mut client, mut program) = world.ask("GET {P}/").await;
    program.send(begin).await;
    client.until("hello\r\n").await;
    tokio::time::sleep(SHORT * 2).await;
    program.send("0\r\n\r\n").await;
    client.until("0\r\n\r\n").await;
}

/// `413` or `401`, say: the client reads it although it is not done with sending.
#[tokio::test]
async fn a_program_may_answer_before_it_has_read_the_body() {
    for closes in [false, true] {
        for length in ["Content-Length: 100000000", "Transfer-Encoding: chunked"] {
            let world = World::new().await;
            let mut client = world.client().await;
            client.send(world.fill(&format!("POST {{P}}/ HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n10000\r\n"))).await;
            let mut program = world.program().await;
            program.head().await;
            let piece = "x".repeat(65536);
            // More than all buffers hold.
            let upload = async {
                while client.try_send(&piece).await.is_ok() {
                    if client.try_send("\r\n10000\r\n").await.is_err() {
                        break;
                    }
                }
            };
            let answer = async {
                program.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
                if closes {
                    drop(program);
                } else {
                    // Without reading anything more.
                    world.is_empty().await;
                    assert_eq!(world.endpoint.pool.kept(), 0, "what was not read is still in that connection");
                    while program.try_until("no end").await.is_some() {}
                }
            };
            tokio::select! {
                () = upload => panic!("the client was cut off before it had its answer"),
                () = answer => {}
            }
            assert_eq!(client.answer().await, (413, "big".to_owned()), "{length}");
        }
    }
}

#[tokio::test]
async fn what_comes_unasked_is_nobodys_answer() {
    let world = World::new().await;
    let (mut client, mut program) = world.ask("GET {P}/").await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    program.send(format!("{answer}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")).await;
    assert_eq!(client.answer().await, (200, "ok".to_owned()));
    client.send(world.fill("GET {P}/b HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let mut another = world.program().await;
    another.head().await;
    another.send(answer).await;
    assert_eq!(client.answer().await, (200, "ok".to_owned()));
    program.closed().await;
}

#[tokio::test]
async fn a_kept_connection_that_the_program_closed_is_not_used() {
    let world = World::new().await;
    let (mut client, mut program) = world.ask("GET {P}/").await;
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer().await.0, 200);
    assert_eq!(world.endpoint.pool.kept(), 1);
    drop(program);
    // Even what may not be repeated is sent once, and answered.
    client.send(world.fill("POST {P}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nxy")).await;
    let mut program = world.program().await;
    assert_eq!(read_request(&mut program).await.unwrap().body, "xy");
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(client.answer().await.0, 200);
}

/// The program closes a kept connection at the moment at which a request is sent on it.
#[tokio::test]
async fn only_what_may_be_repeated_is_sent_again() {
    for (request, is_repeated) in [
        ("GET {P}/ HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("DELETE {P}/ HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("POST {P}/ HTTP/1.1\r\nHost: x\r\n\r\n", false),
        ("PUT {P}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nxy", false),
    ] {
        let world = World::new().await;
        let (mut client, mut program) = world.ask("GET {P}/").await;
        program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        assert_eq!(client.answer().await.0, 200);
        client.send(world.fill(request)).await;
        program.head().await;
        drop(program);
        if is_repeated {
            let mut program = world.program().await;
            program.head().await;
            program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            assert_eq!(client.answer().await.0, 200, "{request}");
        } else {
            assert_eq!(client.answer().await.0, 502, "{request}");
        }
    }
}

#[tokio::test]
async fn a_program_is_asked_once_on_a_new_connection() {
    let world = World::new().await;
    let (mut client, program) = world.ask("GET {P}/").await;
    drop(program);
    assert_eq!(client.answer().await.0, 502);
}
