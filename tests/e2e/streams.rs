//! Bodies that are larger than what a gateway may take of memory.

use aleph_tests::{Aleph, Memory, Network, UpOptions, folder_with};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const MIB: u64 = 1 << 20;

/// The size of a body.
const SIZE: u64 = 256 * MIB;

/// How much more memory a gateway may take for it: its buffers, those of the other direction, and what else it does meanwhile.
const MORE: u64 = 16 * MIB;

/// Sends as many bytes as it is asked for, or counts those that come.
const STREAMS: &str = r#"
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    size, headers = int(scope["path"].strip("/") or 0), [(b"content-type", b"text/plain")]
    if scope["method"] == "GET":
        headers.append((b"content-length", str(size).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while size > 0:
            piece = min(size, 1 << 20)
            size -= piece
            await send({"type": "http.response.body", "body": b"x" * piece, "more_body": size > 0})
        return
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body")
    body = str(length).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"#;

#[tokio::test]
async fn bodies_take_no_memory_of_gateways() {
    let network = Network::up(UpOptions { nodes: 1, ..UpOptions::default() }).await;
    let folder = folder_with("main.py", STREAMS);
    let program = Aleph::of(&network).upload(folder.path(), "main:app", &["--persistent"]).await;
    let gateway = format!("127.0.0.1:{}", network.port() + 2);
    // Until it runs, and everything is warm.
    let small = download(&gateway, &program, MIB).await;
    assert_eq!((small, upload(&gateway, &program, MIB).await), (MIB, MIB));
    let memory = [network.gateway_pid, network.compute_nodes[0].pid].map(Memory::of);
    let before = memory.map(Memory::now);
    memory.iter().for_each(|memory| memory.forget_peak());
    assert_eq!(download(&gateway, &program, SIZE).await, SIZE);
    assert_eq!(upload(&gateway, &program, SIZE).await, SIZE);
    for (memory, before) in memory.into_iter().zip(before) {
        let more = memory.peak().saturating_sub(before);
        assert!(more < MORE, "it took {} KiB more than the {} KiB before", more >> 10, before >> 10);
    }
}

/// Asks for so many bytes; how many came.
async fn download(gateway: &str, program: &str, size: u64) -> u64 {
    let mut connection = TcpStream::connect(gateway).await.unwrap();
    let request = format!("GET /vm/{program}/{size} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = BufReader::with_capacity(1 << 16, connection);
    good_head(&mut answer).await;
    tokio::io::copy_buf(&mut answer, &mut tokio::io::sink()).await.unwrap()
}

/// Sends so many bytes; how many the program says to have got.
async fn upload(gateway: &str, program: &str, size: u64) -> u64 {
    let mut connection = TcpStream::connect(gateway).await.unwrap();
    let head =
        format!("POST /vm/{program}/0 HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 1 << 16];
    for _ in 0..size / piece.len() as u64 {
        connection.write_all(&piece).await.unwrap();
    }
    let mut answer = BufReader::new(connection);
    good_head(&mut answer).await;
    let mut text = String::new();
    answer.read_to_string(&mut text).await.unwrap();
    text.parse().unwrap()
}

async fn good_head(answer: &mut BufReader<TcpStream>) {
    let mut line = String::new();
    answer.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    while line != "\r\n" {
        line.clear();
        assert_ne!(answer.read_line(&mut line).await.unwrap(), 0);
    }
}
