//! Requests that two readers may read differently: the program sees what the gateway understood, or nothing.

use std::sync::Mutex;

use super::*;

/// What the gateway makes of bytes: the statuses that the client sees until the connection is closed, and the requests that the
/// program sees, with their bodies.
struct Case {
    name: &'static str,
    sent: &'static str,
    statuses: &'static [u16],
    seen: &'static [(&'static str, &'static str)],
}

const fn refused(name: &'static str, sent: &'static str, status: &'static [u16]) -> Case {
    Case { name, sent, statuses: status, seen: &[] }
}

const END: &str = "GET {P}/end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

const CASES: &[Case] = &[
    Case {
        name: "two requests at once",
        sent: "GET {P}/a HTTP/1.1\r\nHost: x\r\n\r\n",
        statuses: &[200, 200],
        seen: &[("GET /a HTTP/1.1", ""), ("GET /end HTTP/1.1", "")],
    },
    // The standard lets the transfer coding win, if nothing more is read from that connection (RFC 9112, 6.1).
    Case {
        name: "a length and chunks",
        sent: "POST {P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET {P}/smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
        statuses: &[200],
        seen: &[("POST /a HTTP/1.1", "")],
    },
    Case {
        name: "chunks and a length",
        sent: "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGET {P}/smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
        statuses: &[400],
        seen: &[],
    },
    refused(
        "two lengths",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        &[400],
    ),
    Case {
        name: "the same length twice",
        sent: "POST {P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nxy",
        statuses: &[200, 200],
        seen: &[("POST /a HTTP/1.1", "xy"), ("GET /end HTTP/1.1", "")],
    },
    refused("a list of lengths", "POST {P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2, 2\r\n\r\nxy", &[400]),
    refused("a length with a plus", "POST {P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\nxy", &[400]),
    refused("a length with a minus", "POST {P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\nxy", &[400]),
    refused("a hexadecimal length", "POST {P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 0x2\r\n\r\nxy", &[400]),
    refused("two numbers as a length", "POST {P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2 2\r\n\r\nxy", &[400]),
    refused("no number as a length", "POST {P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\nxy", &[400]),
    refused(
        "a length that no number holds",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nxy",
        &[400],
    ),
    refused("another coding", "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", &[400]),
    refused("no coding", "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", &[400]),
    refused(
        "chunked is not the last coding",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    refused(
        "chunked is not the only coding",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        &[501],
    ),
    refused(
        "two codings in two lines",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[501],
    ),
    refused(
        "a coding with an odd letter",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    refused(
        "a space before the colon",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    refused(
        "a coding in HTTP/1.0",
        "POST {P}/a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
    ),
    refused("a folded header", "GET {P}/a HTTP/1.1\r\nHost: x\r\nX-A: a\r\n Content-Length: 5\r\n\r\n", &[400]),
    refused("a zero in a header", "GET {P}/a HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n", &[400]),
    refused("a carriage return in a header", "GET {P}/a HTTP/1.1\r\nHost: x\r\nX-A: a\rb\r\n\r\n", &[400]),
    refused("a space in a header's name", "GET {P}/a HTTP/1.1\r\nHost: x\r\nX A: a\r\n\r\n", &[400]),
    refused("a header without a name", "GET {P}/a HTTP/1.1\r\nHost: x\r\n: a\r\n\r\n", &[400]),
    refused("a header without a colon", "GET {P}/a HTTP/1.1\r\nHost: x\r\nnothing\r\n\r\n", &[400]),
    refused("a space before the first header", "GET {P}/a HTTP/1.1\r\n Host: x\r\n\r\n", &[400]),
    refused("two spaces in the request line", "GET  {P}/a HTTP/1.1\r\nHost: x\r\n\r\n", &[400]),
    refused("a space in the path", "GET {P}/a b HTTP/1.1\r\nHost: x\r\n\r\n", &[400]),
    refused("a tab in the request line", "GET {P}/a\tHTTP/1.1\r\nHost: x\r\n\r\n", &[400]),
    refused("another version", "GET {P}/a HTTP/1.2\r\nHost: x\r\n\r\n", &[400]),
    refused("no version", "GET {P}/a\r\nHost: x\r\n\r\n", &[400]),
    refused("no method", "{P}/a HTTP/1.1\r\nHost: x\r\n\r\n", &[400]),
    refused("no host", "GET {P}/a HTTP/1.1\r\n\r\n", &[400]),
    refused("two hosts", "GET {P}/a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", &[400]),
    refused("a host with a path", "GET {P}/a HTTP/1.1\r\nHost: x/y\r\n\r\n", &[400]),
    refused("a path without a slash", "GET a HTTP/1.1\r\nHost: {L}.example\r\n\r\n", &[400]),
    refused("a tunnel", "CONNECT {L}.example:80 HTTP/1.1\r\nHost: {L}.example\r\nConnection: close\r\n\r\n", &[405]),
    // Lines may end with a line feed alone (RFC 9112, 2.2); the program's lines do not.
    Case {
        name: "line feeds alone",
        sent: "GET {P}/a HTTP/1.1\nHost: x\n\n",
        statuses: &[200, 200],
        seen: &[("GET /a HTTP/1.1", ""), ("GET /end HTTP/1.1", "")],
    },
    Case {
        name: "an empty line before the request",
        sent: "\r\nGET {P}/a HTTP/1.1\r\nHost: x\r\n\r\n",
        statuses: &[200, 200],
        seen: &[("GET /a HTTP/1.1", ""), ("GET /end HTTP/1.1", "")],
    },
    Case {
        name: "a request in a body",
        sent: "GET {P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 28\r\n\r\nGET /smuggled HTTP/1.1\r\nX: y",
        statuses: &[200, 200],
        seen: &[("GET /a HTTP/1.1", "GET /smuggled HTTP/1.1\r\nX: y"), ("GET /end HTTP/1.1", "")],
    },
    Case {
        name: "a request in the chunks of a GET",
        sent: "GET {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n16\r\nGET /smuggled HTTP/1.1\r\n0\r\n\r\n",
        statuses: &[200],
        seen: &[("GET /a HTTP/1.1", "GET /smuggled HTTP/1.1")],
    },
    Case {
        name: "what belongs to chunks is dropped",
        sent: "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n2\r\nde\r\n0;x\r\n\r\n",
        statuses: &[200],
        seen: &[("POST /a HTTP/1.1", "abcde")],
    },
    refused(
        "a line feed in what belongs to a chunk",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nabc\r\n0\r\n\r\n",
        &[400],
    ),
    refused(
        "a chunk's size with a plus",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
        &[400],
    ),
    refused(
        "a chunk's size with a prefix",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        &[400],
    ),
    refused(
        "a chunk's size that no number holds",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
        &[400],
    ),
    refused(
        "a chunk without a size",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n",
        &[400],
    ),
    refused(
        "a chunk that is longer than it says",
        "POST {P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcde\r\n0\r\n\r\n",
        &[400],
    ),
    Case {
        name: "headers that a connection must not name",
        sent: "POST {P}/a HTTP/1.1\r\nHost: x\r\nConnection: host, content-length\r\nContent-Length: 2\r\n\r\nxy",
        statuses: &[200, 200],
        seen: &[("POST /a HTTP/1.1", "xy"), ("GET /end HTTP/1.1", "")],
    },
];

#[tokio::test]
async fn nothing_is_smuggled() {
    let world = World::new().await;
    let seen = Arc::new(Mutex::default());
    let mut answering = tokio::task::JoinSet::new();
    for case in CASES {
        let mut client = world.client().await;
        client.send(world.fill(case.sent) + &world.fill(END)).await;
        let text = loop {
            tokio::select! {
                text = client.rest() => break text,
                accepted = world.sandbox.accept() => {
                    answering.spawn(answer(Wire::new(accepted.unwrap().0), seen.clone()));
                }
            }
        };
        let statuses: Vec<u16> = text.split("HTTP/1.1 ").skip(1).map(|rest| rest[..3].parse().unwrap()).collect();
        let seen: Vec<Seen> = std::mem::take(&mut *seen.lock().unwrap());
        let seen: Vec<_> = seen.iter().map(|request| (request.line.as_str(), request.body.as_str())).collect();
        assert_eq!((statuses.as_slice(), seen.as_slice()), (case.statuses, case.seen), "{}", case.name);
    }
    answering.abort_all();
    while let Some(ended) = answering.join_next().await {
        assert!(!ended.is_err_and(|error| error.is_panic()), "the program saw what is no request");
    }
}

/// A program that reads strictly and answers all it understands.
async fn answer(mut program: Wire<UnixStream>, seen: Arc<Mutex<Vec<Seen>>>) {
    while let Some(request) = read_request(&mut program).await {
        seen.lock().unwrap().push(request);
        program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    }
}

#[tokio::test]
async fn the_address_names_the_host() {
    let world = World::new().await;
    let mut client = world.client().await;
    client.send(world.fill("GET http://{L}.example:81/x?y HTTP/1.1\r\nHost: other\r\n\r\n")).await;
    let mut program = world.program().await;
    let seen = read_request(&mut program).await.unwrap();
    assert_eq!(seen.line, "GET /x?y HTTP/1.1");
    let host = world.fill("{L}.example:81");
    assert_eq!((seen.header("host"), seen.header("x-forwarded-host")), (Some(&*host), Some(&*host)));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
}

/// A client of a gateway is none itself, whatever it says; otherwise the path would name the program instead of the host.
#[tokio::test]
async fn nobody_is_a_gateway_to_a_gateway() {
    let world = World::with(Settings { is_gateway_only: true, ..Settings::default() }).await;
    let mut client = world.client().await;
    client.send(world.fill("GET /x HTTP/1.1\r\nHost: {L}.example\r\nAleph-Gateway-Forwarded: 1\r\n\r\n")).await;
    let seen = read_request(&mut world.program().await).await.unwrap();
    assert_eq!((seen.line.as_str(), seen.header("aleph-gateway-forwarded")), ("GET /x HTTP/1.1", None));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn an_upgrade_to_http2_is_none() {
    let world = World::new().await;
    let mut client = world.client().await;
    let headers = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    client.send(world.fill(&format!("GET {{P}}/ HTTP/1.1\r\nHost: x\r\n{headers}\r\n"))).await;
    let seen = read_request(&mut world.program().await).await.unwrap();
    for name in ["upgrade", "connection", "http2-settings"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}
