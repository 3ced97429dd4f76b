//! Bodies of many gigabytes through our gateways, and through nginx: how fast, and what memory they take.

use std::time::Duration;

use aleph_tests::{Aleph, Memory};
use anyhow::{Context, bail, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::contestants::App;
use crate::http::first_200;
use crate::network::{gateway_port, node_port, up};
use crate::nginx::Nginx;
use crate::report::{Measurement, Table};
use crate::stats::ratio;

/// GB of a body, unless the environment says another number.
const GB: u64 = 10;
const ENVIRONMENT: &str = "BENCH_STREAMS_GB";

/// How long a body may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Bytes that are written or read at a time.
const PIECE: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Download,
    Upload,
}

/// A process that passes bodies on.
type Process = (&'static str, Memory);

/// What one body took.
struct Taken {
    seconds: f64,
    /// Of each process: its name, and its memory before, at most, and after, in bytes.
    memory: Vec<(&'static str, [u64; 3])>,
}

pub(crate) async fn run() -> anyhow::Result<Measurement> {
    let gb: u64 = match std::env::var(ENVIRONMENT) {
        Ok(text) => text.parse().with_context(|| format!("{ENVIRONMENT} is a number of GB, not '{text}'"))?,
        Err(_) => GB,
    };
    let size = gb * 1_000_000_000;
    let network = up(1, &[]).await;
    let (folder, entrypoint, options) = App::Bytes.upload();
    let program = Aleph::of(&network).upload(&folder, entrypoint, &[options, &["--persistent"]].concat()).await;
    first_200(Instant::now(), gateway_port(&network), &format!("/vm/{program}/")).await?;
    let sandbox = network.compute_nodes[0].sandbox_of(&program).context("the program has no sandbox")?;
    let nginx = Nginx::start(&format!("unix:{}", sandbox.join("http.sock").display())).await?;
    let node = ("compute node", Memory::of(network.compute_nodes[0].pid));
    let gateway = ("gateway", Memory::of(network.gateway_pid));
    let ways: [(&str, u16, &[Process]); 3] = [
        ("nginx → sandbox", nginx.port, &[]),
        ("our compute node → sandbox", node_port(&network), &[node]),
        ("our gateway → our compute node → sandbox", gateway_port(&network), &[gateway, node]),
    ];
    let columns = ["way", "body", "seconds", "MB/s", "÷ nginx", "process", "before", "at most", "after"];
    let mut table =
        Table::new(format!("Bodies of {gb} GB; memory of the processes that pass them on, in MiB"), &columns);
    let mut results = Vec::new();
    for direction in [Direction::Download, Direction::Upload] {
        let mut of_nginx = f64::NAN;
        for (name, port, processes) in ways {
            eprintln!("bench: streams: {direction:?} of {gb} GB: {name}");
            // Connections and buffers that stay.
            take(direction, port, &program, 100_000_000, processes).await?;
            let taken = take(direction, port, &program, size, processes).await?;
            #[allow(clippy::cast_precision_loss)] // Of petabytes.
            let rate = size as f64 / 1e6 / taken.seconds;
            if processes.is_empty() {
                of_nginx = rate;
            }
            let mut cells = vec![name.to_owned(), format!("{direction:?}").to_lowercase()];
            cells.extend([format!("{:.1}", taken.seconds), format!("{rate:.0}"), ratio(rate, of_nginx)]);
            let unknown = [("-", [0; 3])];
            let rows = if taken.memory.is_empty() { unknown.as_slice() } else { &taken.memory };
            for (process, memory) in rows {
                cells.push((*process).to_owned());
                cells.extend(memory.map(|bytes| if bytes == 0 { "-".to_owned() } else { (bytes >> 20).to_string() }));
                table.row(std::mem::replace(&mut cells, vec![String::new(); 5]));
            }
            results.push(json!({
                "way": name, "body": format!("{direction:?}").to_lowercase(), "bytes": size, "seconds": taken.seconds,
                "memory": taken.memory.iter().map(|(process, [before, most, after])| {
                    json!({ "process": process, "before": before, "at_most": most, "after": after })
                }).collect::<Vec<_>>(),
            }));
        }
    }
    nginx.stop().await?;
    let notes = vec!["Memory is what is resident; at most: as the kernel saw it during the body.".to_owned()];
    Ok(Measurement { settings: json!({ "gb": gb }), results, tables: vec![table], notes })
}

/// Passes one body, and looks at the memory of processes.
async fn take(
    direction: Direction,
    port: u16,
    program: &str,
    size: u64,
    processes: &[Process],
) -> anyhow::Result<Taken> {
    let before: Vec<_> = processes.iter().map(|(_, memory)| memory.now()).collect();
    processes.iter().for_each(|(_, memory)| memory.forget_peak());
    let began = Instant::now();
    let passed = match direction {
        Direction::Download => timeout(PATIENCE, download(port, program, size)).await,
        Direction::Upload => timeout(PATIENCE, upload(port, program, size)).await,
    };
    let passed = passed.context("the body took too long")??;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(passed == size, "{passed} of {size} bytes came");
    let memory = processes.iter().zip(before);
    let memory = memory.map(|((name, memory), before)| (*name, [before, memory.peak(), memory.now()])).collect();
    Ok(Taken { seconds, memory })
}

async fn download(port: u16, program: &str, size: u64) -> anyhow::Result<u64> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    let head = format!("GET /vm/{program}/bytes/{size} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.write_all(head.as_bytes()).await?;
    let mut answer = BufReader::with_capacity(PIECE, connection);
    good_head(&mut answer).await?;
    Ok(tokio::io::copy_buf(&mut answer, &mut tokio::io::sink()).await?)
}

/// Says how many bytes the program has got.
async fn upload(port: u16, program: &str, size: u64) -> anyhow::Result<u64> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    let head =
        format!("POST /vm/{program}/ HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n");
    connection.write_all(head.as_bytes()).await?;
    let (piece, mut left) = (vec![b'x'; PIECE], size);
    while left > 0 {
        let next = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        connection.write_all(&piece[..next]).await?;
        left -= next as u64;
    }
    let mut answer = BufReader::new(connection);
    good_head(&mut answer).await?;
    let mut text = String::new();
    answer.read_to_string(&mut text).await?;
    Ok(text.trim().parse()?)
}

async fn good_head(answer: &mut BufReader<TcpStream>) -> anyhow::Result<()> {
    let mut line = String::new();
    answer.read_line(&mut line).await?;
    ensure!(line.starts_with("HTTP/1.1 200 "), "the answer is {line}");
    while line != "\r\n" {
        line.clear();
        if answer.read_line(&mut line).await? == 0 {
            bail!("the answer ended within its head");
        }
    }
    Ok(())
}
