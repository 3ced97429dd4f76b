//! The first request to a program whose code is not on the node: it comes from the message node with the request. Beside it
//! the same done by hand: the same file from the same message node, mounted, and the application started in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

use aleph_tests::{Network, Publisher};
use anyhow::{Context, ensure};
use rustix::mount::UnmountFlags;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::contestants::{App, end};
use crate::first_request::until_waiting;
use crate::http::{Connection, first_200};
use crate::network::{free_ports, gateway_port, up};
use crate::report::{Measurement, Table};
use crate::stats::{Samples, ratio, seconds};

/// What lies beside the application's own file, in bytes that cannot be packed any smaller, and how often each is measured.
const SIZES: [(&str, u64, u32); 3] = [("its own file alone", 0, 15), ("1 MB", 1_000_000, 15), ("50 MB", 50_000_000, 7)];

/// How soon a copy that nobody uses ends.
const IDLE_AFTER: &str = "2s";

/// Who fetches and starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Starter {
    Host,
    Ours,
}

impl Starter {
    const fn name(self) -> &'static str {
        match self {
            Self::Host => "by hand on the host",
            Self::Ours => "our gateway, crun, sandboxes wait",
        }
    }
}

pub(crate) async fn run() -> anyhow::Result<Measurement> {
    let network = up(1, &["--idle-after", IDLE_AFTER]).await;
    let publisher = Publisher::of(&network);
    let runtime = network.runtime("python3").await;
    let mut measurement = Measurement {
        settings: json!({ "idle_after": IDLE_AFTER, "sizes": SIZES }),
        results: Vec::new(),
        tables: Vec::new(),
        notes: Vec::new(),
    };
    for (name, bytes, rounds) in SIZES {
        let mut all: BTreeMap<Starter, Samples> = BTreeMap::new();
        // The first round is not counted: what every start needs comes into the page cache, and the node learns what is asked for.
        for round in 0..=rounds {
            eprintln!("bench: fetch: {name}: round {round} of {rounds}");
            let code = publisher.file(archive(bytes)?).await;
            let code_name = network.get(&format!("/api/v0/messages/{code}")).await["message"]["content"]["item_hash"]
                .as_str()
                .context("a file's message names the file")?
                .to_owned();
            let changes = json!({ "code": { "encoding": "squashfs" } });
            let program = publisher.program(&code, &runtime, changes).await;
            let mut order = [Starter::Host, Starter::Ours];
            order.rotate_left(round as usize % 2);
            for starter in order {
                let took = match starter {
                    Starter::Host => by_hand(&network, &code_name).await?,
                    Starter::Ours => {
                        if round > 0 {
                            until_waiting(&network.compute_nodes[0], App::Fastapi, 1).await;
                        }
                        ours(&network, &program).await?
                    }
                };
                if round > 0 {
                    all.entry(starter).or_default().add(took);
                }
            }
        }
        report(&mut measurement, name, &all);
    }
    Ok(measurement)
}

/// An image with the application and so many random bytes, different each time.
fn archive(bytes: u64) -> anyhow::Result<Vec<u8>> {
    let folder = TempDir::with_prefix("aleph-bench-")?;
    let (code, image) = (folder.path().join("code"), folder.path().join("image"));
    fs::create_dir(&code)?;
    fs::copy(App::Fastapi.upload().0.join("main.py"), code.join("main.py"))?;
    // Some even if none are asked for, as nobody's code is that of somebody else.
    let mut random = File::open("/dev/urandom")?.take(bytes.max(16));
    io::copy(&mut random, &mut File::create(code.join("data"))?)?;
    let mut command = Command::new("mksquashfs");
    command.args([&code, &image]).args(["-noappend", "-all-root", "-no-xattrs", "-quiet", "-no-progress"]);
    ensure!(command.status()?.success(), "mksquashfs failed");
    Ok(fs::read(&image)?)
}

/// Fetches the file, mounts it and starts the application in it.
async fn by_hand(network: &Network, file: &str) -> anyhow::Result<f64> {
    let folder = TempDir::with_prefix("aleph-bench-")?;
    let (image, mounted) = (folder.path().join("image"), folder.path().join("code"));
    fs::create_dir(&mounted)?;
    let message_node = network.port();
    let port = free_ports(1);
    let began = Instant::now();
    let request = format!("GET /api/v0/storage/raw/{file} HTTP/1.1\r\nHost: 127.0.0.1:{message_node}\r\n\r\n");
    let (status, bytes) = Connection::open(message_node).await?.ask(request.as_bytes()).await?;
    ensure!(status == 200, "the message node answered {status}");
    fs::write(&image, bytes)?;
    mount(&image, &mounted)?;
    let process = App::Fastapi.start_in(&mounted, port)?;
    let first = first_200(began, port, "/").await;
    end(process).await?;
    rustix::mount::unmount(&mounted, UnmountFlags::DETACH)?;
    Ok(first?.seconds)
}

fn mount(image: &Path, at: &Path) -> anyhow::Result<()> {
    let mut mount = Command::new("mount");
    mount.args(["-t", "squashfs", "-o", "ro,loop,nosuid,nodev"]).args([image, at]);
    ensure!(mount.status()?.success(), "cannot mount {}", image.display());
    Ok(())
}

async fn ours(network: &Network, program: &str) -> anyhow::Result<f64> {
    let first = first_200(Instant::now(), gateway_port(network), &format!("/vm/{program}/")).await?;
    ensure!(first.refused.is_empty(), "refused: {:?}", first.refused);
    network.until_gone(program).await;
    Ok(first.seconds)
}

fn report(measurement: &mut Measurement, size: &str, all: &BTreeMap<Starter, Samples>) {
    let host = all.get(&Starter::Host).map_or(f64::NAN, Samples::median);
    let title = format!("First request: fastapi, one program whose code is not on the node, {size}");
    let mut table = Table::new(title, &["fetched and started", "n", "median", "p99", "÷ host"]);
    for (starter, each) in all {
        table.row(vec![
            starter.name().to_owned(),
            each.len().to_string(),
            seconds(each.median()),
            seconds(each.p99()),
            ratio(each.median(), host),
        ]);
        measurement.results.push(json!({ "size": size, "started": starter.name(), "each_seconds": each.to_json() }));
    }
    measurement.tables.push(table);
}
