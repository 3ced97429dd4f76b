//! Programs that work: frameworks, languages, encodings, and requests that pass as they are.

use aleph_tests::{eventually, folder_with, repository, reqwest_client};
use futures_util::{SinkExt, StreamExt};
use protocol::ProgramId;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::shared::{aleph, network};

/// Says back what it was asked, and answers as it is told.
const MIRROR: &str = r#"
import hashlib, json, os, socket
from urllib.parse import parse_qs

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    digest, length = hashlib.sha256(), 0
    while True:
        message = await receive()
        digest.update(message.get("body", b""))
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    query = parse_qs(scope["query_string"].decode())
    status = int(query.get("status", ["200"])[0])
    headers = [(b"x-answer", b"yes"), (b"location", b"/elsewhere")]
    if "raw" in query:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(range(256)) * int(query["raw"][0])})
        return
    seen = {
        "method": scope["method"],
        "raw_path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "headers": {k.decode(): v.decode() for k, v in scope["headers"]},
        "sha256": digest.hexdigest(), "length": length,
        "client": scope["client"], "scheme": scope["scheme"],
        "host": socket.gethostname(), "environment": dict(os.environ),
    }
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})
"#;

#[tokio::test]
async fn requests_and_answers_pass_as_they_are() {
    let (network, aleph) = (network().await, aleph().await);
    let folder = folder_with("main.py", MIRROR);
    let program = aleph.upload(folder.path(), "main:app", &["--env", "GREETING=hello world"]).await;
    let (base, http) = (network.program_url(&program), reqwest_client());

    // Path, query, method and headers. A plain connection, because URL libraries change paths.
    let host = format!("127.0.0.1:{}", network.port() + 2);
    let raw = raw_request(&host, &format!("GET /vm/{program}/a%2Fb//../c?x=%20&y HTTP/1.1")).await;
    let seen = json_in(&raw);
    assert_eq!((&seen["raw_path"], &seen["query"]), (&"/a%2Fb//../c".into(), &"x=%20&y".into()));
    let seen: Value = http
        .request("PROPFIND".parse().unwrap(), &base)
        .header("x-mine", "1")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!((&seen["method"], &seen["headers"]["x-mine"]), (&"PROPFIND".into(), &"1".into()));
    assert_eq!((&seen["client"][0], &seen["scheme"]), (&"127.0.0.1".into(), &"http".into()));

    // Identity and environment.
    let id: ProgramId = program.parse().unwrap();
    assert_eq!(seen["host"], id.host_label());
    assert_eq!(seen["environment"]["GREETING"], "hello world");
    assert_eq!(seen["environment"]["ALEPH_PROGRAM_ID"], program);

    // Status, headers and bodies, whatever they are.
    for status in [201, 302, 404, 418, 500] {
        let answer = http.get(format!("{base}/?status={status}&raw=1")).send().await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["x-answer"], "yes");
        assert_eq!(answer.headers()["aleph-program-itemhash"], program.as_str());
        assert_eq!(answer.bytes().await.unwrap()[..], (0..=255).collect::<Vec<u8>>());
    }
    let large = http.get(format!("{base}/?raw=40000")).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(large.len(), 256 * 40_000);
    let body = vec![7_u8; 20 << 20];
    let sha256 = protocol::FileHash::of(&body).to_string();
    let seen: Value = http.post(&base).body(body).send().await.unwrap().json().await.unwrap();
    assert_eq!((&seen["length"], &seen["sha256"]), (&(20 << 20).into(), &json!(sha256)));

    // By host name.
    let named = format!("{}.localhost:{}", id.host_label(), network.port() + 2);
    let raw = raw_request(&host, &format!("GET /vm/own?q HTTP/1.1\r\nhost: {named}")).await;
    let seen = json_in(&raw);
    assert_eq!((&seen["raw_path"], &seen["headers"]["host"]), (&"/vm/own".into(), &named.into()));
}

/// Sends exactly these lines and reads the whole answer.
async fn raw_request(address: &str, head: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let host = if head.contains("host:") { "" } else { "host: x\r\n" };
    connection.write_all(format!("{head}\r\n{host}connection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// The JSON object in an answer, whether it came in chunks or not.
fn json_in(answer: &str) -> Value {
    serde_json::from_str(&answer[answer.find('{').unwrap()..=answer.rfind('}').unwrap()]).unwrap()
}

#[tokio::test]
async fn another_framework_streams_and_keeps_websockets_open() {
    let (network, aleph) = (network().await, aleph().await);
    let program = aleph.upload(&repository("examples/starlette"), "main:app", &[]).await;
    let base = network.program_url(&program);
    let answer: Value = reqwest_client().get(&base).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["framework"], "starlette");

    let mut stream = reqwest_client().get(format!("{base}/count")).send().await.unwrap().bytes_stream();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first, "0\n", "the first line arrives before the others are made");
    let rest: Vec<u8> = stream.map(|chunk| chunk.unwrap()).collect::<Vec<_>>().await.concat();
    assert_eq!(rest, b"1\n2\n");

    let request = base.replace("http://", "ws://") + "/echo";
    let (mut socket, _) = tokio_tungstenite::connect_async(request.into_client_request().unwrap()).await.unwrap();
    for text in ["one", "two", &"x".repeat(100_000)] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn a_static_binary_runs_in_an_empty_image() {
    let (network, aleph) = (network().await, aleph().await);
    let folder = repository("target/examples/static-server");
    let program = aleph.upload(&folder, "static-server", &["--interface", "binary"]).await;
    let answer: Value =
        reqwest_client().get(network.program_url(&program) + "/a/b").send().await.unwrap().json().await.unwrap();
    assert_eq!(answer, json!({ "language": "rust", "path": "/a/b", "program": program }));
}

#[tokio::test]
async fn binaries_name_their_port_and_zip_archives_work_as_images_do() {
    let (network, aleph) = (network().await, aleph().await);
    let server = "#!/usr/bin/python3\nimport http.server, os\n\
        class H(http.server.BaseHTTPRequestHandler):\n\
        \x20   def do_GET(self):\n\
        \x20       self.send_response(200); self.send_header('content-length', '4'); self.end_headers()\n\
        \x20       self.wfile.write(os.environ['PORT'].encode())\n\
        \x20   protocol_version = 'HTTP/1.1'\n\
        http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n";
    let folder = folder_with("server", server);
    for (encoding, port) in [("zip", "9001"), ("squashfs", "9002")] {
        let options = ["--interface", "binary", "--runtime", "python3", "--encoding", encoding, "--env"];
        let variable = format!("PORT={port}");
        let program = aleph.upload(folder.path(), "server", &[&options[..], &[&variable]].concat()).await;
        let answer = reqwest_client().get(network.program_url(&program)).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, port));
    }
    let folder = folder_with("main.py", MIRROR);
    let program = aleph.upload(folder.path(), "main:app", &["--encoding", "zip"]).await;
    assert_eq!(reqwest_client().get(network.program_url(&program)).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn owners_see_the_output_and_nobody_else_does() {
    let (network, aleph) = (network().await, aleph().await);
    let text = "import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\n".to_owned() + MIRROR;
    let folder = folder_with("main.py", &text);
    let program = aleph.upload(folder.path(), "main:app", &["--persistent"]).await;
    let finished = aleph.run(&["program", "logs", &program]).await;
    assert!(finished.stdout.contains("to stdout") && finished.stderr.contains("to stderr"), "{finished:?}");

    let stranger = tempfile::tempdir().unwrap();
    let other = aleph_tests::Aleph::new(&network.message_node_url, stranger.path());
    other.json(&["account", "create"]).await;
    let error = other.error(&["program", "logs", &program]).await;
    assert!(error["message"].as_str().unwrap().contains("owner"), "{error}");

    // Followed live, from the node that runs it.
    let mut follow =
        aleph.command(&["program", "logs", "-f", &program]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(follow.stdout.take().unwrap()));
    let read = async { while !lines.next_line().await.unwrap().unwrap().contains("to stdout") {} };
    tokio::time::timeout(std::time::Duration::from_secs(30), read).await.expect("what was printed is shown first");
    follow.kill().await.unwrap();
    aleph.json(&["program", "delete", &program, "--yes"]).await;
    network.until_gone(&program).await;
}

#[tokio::test]
async fn new_code_replaces_the_old_by_itself() {
    let (network, aleph) = (network().await, aleph().await);
    let answer_of = |text: &str| MIRROR.replace("b\"yes\"", &format!("b\"{text}\""));
    let folder = folder_with("main.py", &answer_of("old"));
    for options in [&["--persistent"][..], &[]] {
        let program = aleph.upload(folder.path(), "main:app", options).await;
        let url = network.program_url(&program);
        let answer = async || reqwest_client().get(&url).send().await.unwrap().headers()["x-answer"].clone();
        assert_eq!(answer().await, "old");
        let new = folder_with("main.py", &answer_of("new"));
        aleph.json(&["program", "update", &program, new.path().to_str().unwrap()]).await;
        eventually("the new code answers", async || {
            let answer = reqwest_client().get(&url).send().await.ok()?;
            (answer.headers().get("x-answer")? == "new").then_some(())
        })
        .await;
        if !options.is_empty() {
            assert_eq!(aleph.find(&program).await["epoch"], 1, "the same assignment");
        }
        aleph.json(&["program", "delete", &program, "--yes"]).await;
        network.until_gone(&program).await;
    }
}
