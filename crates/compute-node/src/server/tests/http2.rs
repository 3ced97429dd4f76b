//! HTTP/2 without TLS in front, by prior knowledge.

use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;

use super::*;

type Http2 = SendRequest<Full<Bytes>>;

async fn http2(world: &World) -> (Http2, JoinHandle<hyper::Result<()>>) {
    let io = TokioIo::new(TcpStream::connect(world.address).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn request(world: &World, method: &str, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    let uri = world.fill(&format!("http://{{L}}.example{path}"));
    Request::builder().method(method).uri(uri).body(Full::new(Bytes::from(body))).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body = soon("the answer is over", response.into_body().collect()).await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn requests_of_one_connection_are_answered_side_by_side() {
    let world = World::new().await;
    let (sender, _connection) = http2(&world).await;
    let mut asking = JoinSet::new();
    for number in 0..20 {
        let (mut sender, request) = (sender.clone(), request(&world, "POST", &format!("/{number}"), "body"));
        asking.spawn(async move { (number, text(sender.send_request(request).await.unwrap()).await) });
    }
    let mut programs = Vec::new();
    for _ in 0..20 {
        let mut program = world.program().await;
        let seen = read_request(&mut program).await.unwrap();
        assert_eq!((seen.header("host"), seen.body.as_str()), (Some(&*world.fill("{L}.example")), "body"));
        programs.push((program, seen.line));
    }
    // The last one asked is answered first.
    for (program, line) in programs.iter_mut().rev() {
        let path = line.split(' ').nth(1).unwrap();
        program.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len())).await;
    }
    while let Some(answered) = asking.join_next().await {
        let (number, path) = answered.unwrap();
        assert_eq!(path, format!("/{number}"));
    }
}

#[tokio::test]
async fn what_only_http2_has_becomes_what_http1_has() {
    let world = World::new().await;
    let (mut sender, _connection) = http2(&world).await;
    let mut request = request(&world, "GET", "/a?b=c", "");
    for (name, value) in [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("host", "other")] {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    // Two names for the host are none.
    let refused = sender.send_request(request.clone()).await.unwrap();
    assert_eq!(refused.status(), 400);
    request.headers_mut().remove("host");
    let asking = tokio::spawn(sender.send_request(request));
    let mut program = world.program().await;
    let seen = read_request(&mut program).await.unwrap();
    assert_eq!(seen.line, "GET /a?b=c HTTP/1.1");
    assert_eq!((seen.header("cookie"), seen.header("te")), (Some("a=1; b=2"), Some("trailers")));
    let trailers = "Trailer: X-Sum\r\nConnection: X-Mine\r\nX-Mine: 1\r\nTransfer-Encoding: chunked";
    program.send(format!("HTTP/1.1 200 OK\r\n{trailers}\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n")).await;
    let response = asking.await.unwrap().unwrap();
    assert!(!response.headers().contains_key("x-mine") && !response.headers().contains_key("transfer-encoding"));
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "7");
}

#[tokio::test]
async fn an_answer_that_breaks_off_resets_its_stream() {
    let world = World::new().await;
    let (mut sender, _connection) = http2(&world).await;
    let asking = tokio::spawn(sender.send_request(request(&world, "GET", "/", "")));
    let mut program = world.program().await;
    program.head().await;
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
    let response = asking.await.unwrap().unwrap();
    drop(program);
    assert!(soon("the answer breaks off", response.into_body().collect()).await.is_err());
    // The others go on.
    let asking = tokio::spawn(sender.send_request(request(&world, "GET", "/", "")));
    let mut program = world.program().await;
    program.head().await;
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(text(asking.await.unwrap().unwrap()).await, "ok");
}

#[tokio::test]
async fn a_stream_that_is_given_up_is_given_up_at_the_program() {
    let world = World::new().await;
    let (mut sender, _connection) = http2(&world).await;
    let asking = tokio::spawn(sender.send_request(request(&world, "GET", "/", "")));
    let mut program = world.program().await;
    program.head().await;
    asking.abort();
    program.closed().await;
    world.is_empty().await;
}

/// A request whose answer has begun and is very long, and the program that gives it.
async fn stuck(world: &World, sender: &mut Http2) -> (Wire<UnixStream>, Response<Incoming>) {
    let asking = tokio::spawn(sender.send_request(request(world, "GET", "/stuck", "")));
    let mut program = world.program().await;
    program.head().await;
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    (program, asking.await.unwrap().unwrap())
}

async fn another_is_answered(world: &World, sender: &mut Http2) {
    let asking = tokio::spawn(sender.send_request(request(world, "GET", "/other", "")));
    let mut program = world.program().await;
    program.head().await;
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(text(asking.await.unwrap().unwrap()).await, "ok");
}

/// A client that takes nothing of one stream fills that stream's window, and nothing more is taken of the program.
#[tokio::test]
async fn one_stream_does_not_hold_up_another() {
    let world = World::new().await;
    let (mut sender, _connection) = http2(&world).await;
    let (mut program, _stuck) = stuck(&world, &mut sender).await;
    let piece = "x".repeat(1 << 16);
    let mut sent = 0;
    while tokio::time::timeout(SHORT, program.try_send(&piece)).await.is_ok() {
        sent += piece.len();
    }
    assert!(sent < 64 << 20, "{sent} bytes went somewhere");
    another_is_answered(&world, &mut sender).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_stream_loses_it_and_nothing_else() {
    let mut settings = Settings::default();
    settings.limits.idle_timeout = SHORT;
    let world = World::with(settings).await;
    let (mut sender, _connection) = http2(&world).await;
    let (mut program, _stuck) = stuck(&world, &mut sender).await;
    let piece = "x".repeat(1 << 16);
    soon("the program is left", async { while program.try_send(&piece).await.is_ok() {} }).await;
    world.is_empty().await;
    another_is_answered(&world, &mut sender).await;
}

/// A program may say nothing for longer than a client may take nothing.
#[tokio::test]
async fn a_slow_program_is_not_taken_for_a_slow_client() {
    let mut settings = Settings::default();
    settings.limits.idle_timeout = SHORT;
    let world = World::with(settings).await;
    let (mut sender, _connection) = http2(&world).await;
    let asking = tokio::spawn(sender.send_request(request(&world, "GET", "/", "")));
    let mut program = world.program().await;
    program.head().await;
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").await;
    let answer = asking.await.unwrap().unwrap();
    // Time is what this is about.
    tokio::time::sleep(SHORT * 3).await;
    program.send("k").await;
    assert_eq!(text(answer).await, "ok");
}

#[tokio::test]
async fn a_node_that_ends_says_so_and_finishes() {
    let mut world = World::new().await;
    let mut frames = Frames::connect(&world).await;
    frames.send(HEADERS, END_HEADERS | END_STREAM, 1, &get(&world)).await.unwrap();
    let mut program = world.program().await;
    program.head().await;
    world.shutdown.cancel();
    assert_eq!(frames.given_up().await, NO_ERROR);
    program.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let mut body = Vec::new();
    while let Some(frame) = frames.next().await {
        if frame.kind == DATA {
            assert_eq!(frame.stream, 1);
            body.extend(frame.payload);
        }
    }
    assert_eq!(body, b"ok");
    soon("the server ends", &mut world.server).await.unwrap();
}

#[tokio::test]
async fn an_unused_connection_is_left() {
    let mut settings = Settings::default();
    settings.limits.header_timeout = SHORT;
    let world = World::with(settings).await;
    let (sender, connection) = http2(&world).await;
    soon("the connection ends", connection).await.unwrap().unwrap();
    drop(sender);
}

/// Frames by hand.
struct Frames(Wire<TcpStream>);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Frames {
    async fn connect(world: &World) -> Self {
        let mut wire = world.client().await;
        wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut frames = Self(wire);
        frames.send(SETTINGS, 0, 0, &[]).await.unwrap();
        frames
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.try_send(frame).await
    }

    /// The next frame, `None` when the connection has ended. What has to be acknowledged is.
    async fn next(&mut self) -> Option<Frame> {
        use tokio::io::AsyncReadExt;
        let mut head = [0; 9];
        soon("something is said", self.0.stream.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        soon("a frame is whole", self.0.stream.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if frame.flags & ACK == 0 && frame.kind == PING {
            let _ = self.send(PING, ACK, 0, &frame.payload).await;
        }
        Some(frame)
    }

    /// Waits until the connection is given up; with which error (RFC 9113, 7).
    async fn given_up(&mut self) -> u32 {
        loop {
            let frame = self.next().await.expect("it says why");
            if frame.kind == GOAWAY {
                return u32::from_be_bytes(frame.payload[4..8].try_into().unwrap());
            }
        }
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// `:method: GET`, `:scheme: http`, `:path` and `:authority` (RFC 7541, 6).
fn get(world: &World) -> Vec<u8> {
    let authority = world.fill("{L}.example");
    let mut block = vec![0x82, 0x86, 0x84, 0x01, u8::try_from(authority.len()).unwrap()];
    block.extend(authority.as_bytes());
    block
}

const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 11;
const PROTOCOL_ERROR: u32 = 1;
const COMPRESSION_ERROR: u32 = 9;
const FRAME_SIZE_ERROR: u32 = 6;

/// CVE-2023-44487: streams that are reset as soon as they are begun.
#[tokio::test]
async fn a_flood_of_resets_ends_the_connection() {
    let world = World::new().await;
    let mut frames = Frames::connect(&world).await;
    let block = get(&world);
    for stream in (1..10_000).step_by(2) {
        let begun = frames.send(HEADERS, END_HEADERS | END_STREAM, stream, &block).await;
        if begun.is_err() || frames.send(RST_STREAM, 0, stream, &[0, 0, 0, 8]).await.is_err() {
            break;
        }
    }
    assert_eq!(frames.given_up().await, ENHANCE_YOUR_CALM);
    world.is_empty().await;
}

/// CVE-2024-27316: headers that never end.
#[tokio::test]
async fn a_flood_of_headers_ends_the_connection() {
    let world = World::new().await;
    let mut frames = Frames::connect(&world).await;
    frames.send(HEADERS, END_STREAM, 1, &get(&world)).await.unwrap();
    // A literal header without a place in the table.
    let mut header = vec![0x00, 1, b'x', 127, 0x80 | 0x01, 0x4e];
    header.extend([b'y'; 10_000]);
    for _ in 0..1000 {
        if frames.send(CONTINUATION, 0, 1, &header).await.is_err() {
            break;
        }
    }
    assert!(
        [ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR, FRAME_SIZE_ERROR].contains(&frames.given_up().await)
    );
}

#[tokio::test]
async fn what_is_no_http2_ends_the_connection() {
    // Where the standard has a finer word, the library says PROTOCOL_ERROR.
    for (kind, flags, stream, payload, error) in [
        // Streams of clients have odd numbers.
        (HEADERS, END_HEADERS, 2, &[0x82][..], PROTOCOL_ERROR),
        // A number that never ends.
        (HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], PROTOCOL_ERROR),
        (CONTINUATION, END_HEADERS, 1, &[0x82][..], PROTOCOL_ERROR),
        (PING, 0, 0, &[1][..], PROTOCOL_ERROR),
        (SETTINGS, 0, 1, &[][..], PROTOCOL_ERROR),
        (RST_STREAM, 0, 1, &[0, 0, 0, 8][..], PROTOCOL_ERROR),
    ] {
        let world = World::new().await;
        let mut frames = Frames::connect(&world).await;
        frames.send(kind, flags, stream, payload).await.unwrap();
        let given = frames.given_up().await;
        assert_eq!(given, error, "frame {kind} of stream {stream}");
    }
}
