//! Requests to a program that runs: through our gateways, and through nginx and HAProxy in front of the very same sandbox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aleph_tests::{Aleph, Network, eventually};
use anyhow::Context;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::contestants::{App, end};
use crate::haproxy::Haproxy;
use crate::http::first_200;
use crate::network::{free_ports, gateway_port, node_port, up};
use crate::nginx::Nginx;
use crate::report::{Measurement, Table};
use crate::stats::{Samples, ratio, seconds};
use crate::wrk::{Load as Measured, wrk};

/// What is asked for, and over how many connections at once.
const LOADS: [Load; 6] = [
    Load { what: "short answers", path: "", connections: 32 },
    Load { what: "short answers", path: "", connections: 1 },
    Load { what: "short answers", path: "", connections: 256 },
    Load { what: "answers of 1 MiB", path: "bytes/1048576", connections: 32 },
    Load { what: "answers of 1 MiB", path: "bytes/1048576", connections: 1 },
    Load { what: "answers of 1 MiB", path: "bytes/1048576", connections: 256 },
];

/// For how many seconds each is measured in each round.
const SECONDS: u64 = 5;

/// How often everything is measured, one after the other.
const ROUNDS: u32 = 3;

/// How often a measurement is tried that something spoilt.
const TRIES: u32 = 3;

struct Load {
    what: &'static str,
    /// Below the program's.
    path: &'static str,
    connections: u32,
}

/// One way to the program.
struct Row {
    name: &'static str,
    port: u16,
    /// The row that does the same with nginx.
    compare: Option<usize>,
    times: Vec<Times>,
}

/// What one number of connections gave, round by round.
#[derive(Default, Clone)]
struct Times {
    per_second: Samples,
    p50: Samples,
    p99: Samples,
    /// Why measurements do not count.
    spoilt: Vec<String>,
}

/// The program's sandbox, by a name for its socket that stays when the sandbox is replaced: the compute node learns of a new
/// one by itself, nginx does not.
struct Sandbox<'a> {
    network: &'a Network,
    program: String,
    folder: TempDir,
}

pub(crate) async fn run() -> anyhow::Result<Measurement> {
    let network = up(1, &[]).await;
    eprintln!("bench: warm: upload");
    let (folder, entrypoint, options) = App::Bytes.upload();
    let options = [options, &["--persistent"]].concat();
    let program = Aleph::of(&network).upload(&folder, entrypoint, &options).await;
    first_200(Instant::now(), gateway_port(&network), &format!("/vm/{program}/")).await?;
    let sandbox =
        Sandbox { network: &network, program: program.clone(), folder: TempDir::with_prefix("aleph-bench-")? };
    sandbox.link().await?;
    let near = Nginx::start(&format!("unix:{}", sandbox.name().display())).await?;
    let far = Nginx::start(&format!("127.0.0.1:{}", near.port)).await?;
    let haproxy = Haproxy::start(&sandbox.name().display().to_string()).await?;
    let host_port = free_ports(1);
    let on_host = App::Bytes.start_on_host(host_port)?;

    let row = |name, port, compare| Row { name, port, compare, times: vec![Times::default(); LOADS.len()] };
    let mut rows = [
        row("same binary on the host, TCP, no proxy", host_port, None),
        row("nginx → sandbox", near.port, None),
        row("HAProxy → sandbox", haproxy.port, Some(1)),
        row("our compute node → sandbox", node_port(&network), Some(1)),
        row("nginx → nginx → sandbox", far.port, None),
        row("our gateway → our compute node → sandbox", gateway_port(&network), Some(4)),
    ];
    for port in [host_port, near.port, far.port, haproxy.port] {
        first_200(Instant::now(), port, &format!("/vm/{program}/")).await?;
    }
    measure(&mut rows, &sandbox).await?;
    end(on_host).await?;
    haproxy.stop().await?;
    far.stop().await?;
    near.stop().await?;
    Ok(report(&rows))
}

impl Sandbox<'_> {
    /// The name that stays.
    fn name(&self) -> PathBuf {
        self.folder.path().join("http.sock")
    }

    /// Gives the name to the socket of the sandbox that runs now. Says which that is.
    async fn link(&self) -> anyhow::Result<PathBuf> {
        let socket = eventually("the sandbox has a socket", async || {
            let sandbox = self.network.compute_nodes[0].sandbox_of(&self.program)?;
            Some(sandbox.join("http.sock")).filter(|socket| socket.exists())
        })
        .await;
        let new = self.folder.path().join("new");
        symlink(&socket, &new)?;
        fs::rename(new, self.name())?;
        // It may have just been started.
        first_200(Instant::now(), node_port(self.network), &format!("/vm/{}/", self.program)).await?;
        Ok(socket)
    }
}

async fn measure(rows: &mut [Row], sandbox: &Sandbox<'_>) -> anyhow::Result<()> {
    let count = rows.len();
    for round in 0..ROUNDS {
        for (number, Load { what, path, connections }) in LOADS.iter().enumerate() {
            for turn in 0..count {
                // Everybody has another one before it in each round.
                let row = &mut rows[(turn + round as usize * 2) % count];
                let which = format!("{what}, {connections} connections: {}", row.name);
                eprintln!("bench: warm: round {} of {ROUNDS}: {which}", round + 1);
                let url = format!("http://127.0.0.1:{}/vm/{}/{path}", row.port, sandbox.program);
                for _ in 0..TRIES {
                    let socket = sandbox.link().await?;
                    let measured = wrk(&url, *connections, Duration::from_secs(SECONDS)).await;
                    let measured = measured.with_context(|| format!("cannot measure '{}'", row.name))?;
                    if row.times[number].count(measured, &socket) {
                        break;
                    }
                    eprintln!("bench: warm: {}", row.times[number].spoilt.last().map_or("", String::as_str));
                }
            }
        }
    }
    Ok(())
}

impl Times {
    /// Counts a measurement, unless it is not one of this program: errors are quick to answer.
    fn count(&mut self, measured: Measured, socket: &Path) -> bool {
        let why = match measured.errors {
            _ if !socket.exists() => Some("the sandbox was replaced meanwhile".to_owned()),
            0 => None,
            errors => Some(format!("{errors} answers were errors, at {:.0} a second", measured.per_second)),
        };
        if let Some(why) = why {
            self.spoilt.push(why);
            return false;
        }
        self.per_second.add(measured.per_second);
        self.p50.add(measured.p50);
        self.p99.add(measured.p99);
        true
    }
}

fn report(rows: &[Row]) -> Measurement {
    let mut measurement = Measurement {
        settings: json!({
            "loads": LOADS.iter().map(|load| (load.what, load.connections)).collect::<Vec<_>>(),
            "seconds": SECONDS, "rounds": ROUNDS, "wrk_threads": "one for one connection, otherwise two",
        }),
        results: Vec::new(),
        tables: Vec::new(),
        notes: vec![
            "Medians of rounds. ÷ nginx: against the nginx of as many hops. Spoilt: not counted, because answers \
             were errors or the sandbox was replaced meanwhile; tried again."
                .to_owned(),
        ],
    };
    for (number, Load { what, connections, .. }) in LOADS.iter().enumerate() {
        let columns = ["way", "requests/s", "÷ nginx", "p50", "÷ nginx", "p99", "÷ nginx", "n", "spoilt"];
        let title = format!("Warm requests: {what}, {connections} kept connections, {ROUNDS} × {SECONDS} s");
        let mut table = Table::new(title, &columns);
        for row in rows {
            let times = &row.times[number];
            let (rate, p50, p99) = (times.per_second.median(), times.p50.median(), times.p99.median());
            let against = |this: f64, of: fn(&Times) -> f64| {
                row.compare.map_or_else(|| "-".to_owned(), |other| ratio(this, of(&rows[other].times[number])))
            };
            table.row(vec![
                row.name.to_owned(),
                if rate.is_nan() { "-".to_owned() } else { format!("{rate:.0}") },
                against(rate, |times| times.per_second.median()),
                seconds(p50),
                against(p50, |times| times.p50.median()),
                seconds(p99),
                against(p99, |times| times.p99.median()),
                times.per_second.len().to_string(),
                times.spoilt.len().to_string(),
            ]);
            measurement.results.push(json!({
                "way": row.name, "what": what, "connections": connections, "spoilt": times.spoilt,
                "requests_per_second": times.per_second.to_json(),
                "p50_seconds": times.p50.to_json(), "p99_seconds": times.p99.to_json(),
            }));
        }
        measurement.tables.push(table);
    }
    measurement
}
