//! What a sandbox costs in memory beside its program, what one costs that waits, and how many programs fit into 8 GiB, by
//! starting them until they have taken as much.

use std::collections::HashMap;
use std::fs;

use aleph_tests::{Memory, Network, Publisher, eventually, repository};
use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::time::Instant;

use crate::contestants::{App, end};
use crate::http::first_200;
use crate::network::{free_ports, gateway_port, up};
use crate::report::{Measurement, Table};

/// How many are measured one by one.
const MEASURED: u16 = 16;

/// What programs may take before no more are started, MiB.
const FILL_MIB: u64 = 8192;

/// How many are started at once, and at most.
const STEP: usize = 16;
const MOST: usize = 3000;

/// What a compute node offers, in its environment: more than it has, as this measures what it has.
pub(crate) const ENVIRONMENT: [(&str, &str); 3] =
    [("ALEPH_NODE_ON_DEMAND_SHARE", "1"), ("ALEPH_NODE_VCPUS", "10000"), ("ALEPH_NODE_MEMORY_MIB", "10000000")];

/// Shares of what processes have in memory, KiB: what several share is divided among them (`Pss`).
#[derive(Debug, Default)]
struct Parts {
    supervisor: u64,
    init: u64,
    program: u64,
}

pub(crate) async fn run() -> anyhow::Result<Measurement> {
    let mut measurement = Measurement {
        settings: json!({ "measured": MEASURED, "fill_mib": FILL_MIB, "most": MOST, "environment": ENVIRONMENT }),
        results: Vec::new(),
        tables: Vec::new(),
        notes: Vec::new(),
    };
    let columns =
        ["application", "by hand", "program in its sandbox", "init", "supervisor", "around it", "all of it, frozen"];
    let mut one = Table::new("Memory of one that idles, PSS, MiB", &columns);
    let mut many = Table::new(
        format!("How many fit into {} GiB", FILL_MIB >> 10),
        &["application", "copies", "MiB each, kernel's included", "started in"],
    );
    for app in [App::Fastapi, App::Static] {
        eprintln!("bench: memory: {} by hand", app.name());
        let by_hand = by_hand(app).await?;
        let network = up(1, &["--idle-after", "1h", "--freeze-after", "1h", "--spare-mib", "0"]).await;
        let ours = Ours::of(&network, app).await;
        let copies = ours.start(MEASURED.into()).await?;
        let parts = ours.parts()?;
        let frozen = frozen(app).await?;
        one.row(vec![
            app.name().to_owned(),
            mib(by_hand),
            mib(parts.program),
            mib(parts.init),
            mib(parts.supervisor),
            mib(parts.init + parts.supervisor),
            mib(frozen),
        ]);
        eprintln!("bench: memory: {}: filling {FILL_MIB} MiB", app.name());
        let (copies, each_kib, seconds) = ours.fill(copies).await?;
        many.row(vec![
            app.name().to_owned(),
            if copies < MOST { copies.to_string() } else { format!("more than {MOST}") },
            mib(each_kib),
            format!("{seconds:.0} s"),
        ]);
        measurement.results.push(json!({
            "app": app.name(), "by_hand_kib": by_hand, "program_kib": parts.program, "init_kib": parts.init,
            "supervisor_kib": parts.supervisor, "frozen_kib": frozen, "copies": copies, "each_kib": each_kib, "fill_seconds": seconds,
        }));
    }
    measurement.tables.extend([one, many, waiting(&mut measurement.results).await?]);
    Ok(measurement)
}

/// What a frozen copy takes, all of its sandbox, KiB.
async fn frozen(app: App) -> anyhow::Result<u64> {
    let network = up(1, &["--idle-after", "1h", "--freeze-after", "0s", "--spare-mib", "0"]).await;
    let ours = Ours::of(&network, app).await;
    ours.start(MEASURED.into()).await?;
    eventually("all are frozen", async || {
        let frozen = network.compute_nodes[0].counted("aleph_sandboxes{kind=\"frozen\"}").await;
        (frozen == u64::from(MEASURED)).then_some(())
    })
    .await;
    let Parts { supervisor, init, program } = ours.parts()?;
    Ok(supervisor + init + program)
}

/// What one costs that waits for a program.
async fn waiting(results: &mut Vec<serde_json::Value>) -> anyhow::Result<Table> {
    let mut table = Table::new("Memory of a sandbox that waits, PSS, MiB", &["what waits in it", "all of it"]);
    for (app, what) in [(App::Fastapi, "interpreter and framework"), (App::Static, "its init only")] {
        let network = up(1, &["--spare-mib", "2048"]).await;
        let ours = Ours::of(&network, app).await;
        // As many as came at once are made for the next time.
        ours.start(MEASURED.into()).await?;
        let node = &network.compute_nodes[0];
        let all = 2 * usize::from(MEASURED);
        let supervisors =
            eventually("sandboxes wait", async || Some(node.all_supervisors()).filter(|all_| all_.len() >= all)).await;
        let claimed = node.supervisors();
        let children = children()?;
        let mut kib = Vec::new();
        for supervisor in supervisors.into_iter().filter(|pid| !claimed.contains(pid)) {
            kib.push(below(supervisor, &children).into_iter().map(share_kib).sum::<u64>());
        }
        let mean = kib.iter().sum::<u64>() / kib.len().max(1) as u64;
        table.row(vec![what.to_owned(), mib(mean)]);
        results.push(json!({ "waiting": what, "each_kib": kib }));
    }
    Ok(table)
}

/// Starts so many on this machine and says what one takes, KiB.
async fn by_hand(app: App) -> anyhow::Result<u64> {
    let port = free_ports(MEASURED);
    let ports = port..port + MEASURED;
    let began = Instant::now();
    let processes = ports.clone().map(|port| app.start_on_host(port)).collect::<Result<Vec<_>, _>>()?;
    try_join_all(ports.map(async |port| first_200(began, port, "/").await)).await?;
    let pids = processes.iter().map(|child| child.id().context("it ended"));
    let kib = pids.map(|pid| Ok(share_kib(pid?.cast_signed()))).sum::<anyhow::Result<u64>>()?;
    try_join_all(processes.into_iter().map(end)).await?;
    Ok(kib / u64::from(MEASURED))
}

/// A network of ours and what its programs are made from.
struct Ours<'a> {
    network: &'a Network,
    publisher: Publisher,
    code: String,
    fields: serde_json::Value,
    runtime: String,
}

impl<'a> Ours<'a> {
    async fn of(network: &'a Network, app: App) -> Self {
        let publisher = Publisher::of(network);
        let (file, runtime, entrypoint) = match app {
            App::Fastapi => ("examples/fastapi/src/main.py", "python3", "main:app"),
            App::Static | App::Bytes => ("target/examples/static-server/static-server", "minimal", "static-server"),
        };
        let code = publisher.file(fs::read(repository(file)).expect("it was built")).await;
        let fields = json!({ "code": { "entrypoint": entrypoint } });
        Self { network, publisher, code, fields, runtime: network.runtime(runtime).await }
    }

    /// Starts so many more, and waits until each has answered.
    async fn start(&self, count: usize) -> anyhow::Result<usize> {
        let mut programs = Vec::new();
        for _ in 0..count {
            programs.push(self.publisher.program(&self.code, &self.runtime, self.fields.clone()).await);
        }
        let (began, gateway) = (Instant::now(), gateway_port(self.network));
        let asked = programs.iter().map(async |program| first_200(began, gateway, &format!("/vm/{program}/")).await);
        try_join_all(asked).await?;
        Ok(count)
    }

    /// What the parts of a sandbox take, KiB, on average.
    fn parts(&self) -> anyhow::Result<Parts> {
        let children = children()?;
        let (mut parts, mut count) = (Parts::default(), 0);
        for supervisor in self.network.compute_nodes[0].supervisors() {
            let [init] = children.get(&supervisor).map_or(&[][..], Vec::as_slice) else {
                bail!("the supervisor {supervisor} has other children than one: {:?}", children.get(&supervisor));
            };
            parts.supervisor += share_kib(supervisor);
            parts.init += share_kib(*init);
            let all = below(*init, &children).into_iter().filter(|pid| pid != init);
            parts.program += all.map(share_kib).sum::<u64>();
            count += 1;
        }
        let mean = |sum: u64| sum / count;
        Ok(Parts { supervisor: mean(parts.supervisor), init: mean(parts.init), program: mean(parts.program) })
    }

    /// Starts more, beside `copies` that run, until the machine has [`FILL_MIB`] less than before. Says how many fit into that,
    /// what one takes of the machine's memory (KiB), and how long it took (seconds).
    async fn fill(&self, copies: usize) -> anyhow::Result<(usize, u64, f64)> {
        let (before, began) = (available_kib()?, Instant::now());
        let mut more = 0;
        let taken = loop {
            let taken = before.saturating_sub(available_kib()?);
            if taken >= FILL_MIB << 10 || copies + more >= MOST {
                break taken;
            }
            more += self.start(STEP).await?;
        };
        let each_kib = taken / more.max(1) as u64;
        let fit = if copies + more >= MOST { MOST } else { usize::try_from((FILL_MIB << 10) / each_kib.max(1))? };
        Ok((fit, each_kib, began.elapsed().as_secs_f64()))
    }
}

/// A process's share of memory, KiB.
fn share_kib(pid: i32) -> u64 {
    Memory::of(pid).share() >> 10
}

fn available_kib() -> anyhow::Result<u64> {
    kib_of(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:")
}

fn kib_of(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Which processes every process has started.
fn children() -> anyhow::Result<HashMap<i32, Vec<i32>>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // Its name, in brackets, can be anything.
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        children.entry(parent.context("a process without parent")?).or_default().push(pid);
    }
    Ok(children)
}

/// A process and all below it.
fn below(pid: i32, children: &HashMap<i32, Vec<i32>>) -> Vec<i32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        all.extend(children.get(pid).into_iter().flatten().copied().collect::<Vec<_>>());
        next += 1;
    }
    all
}

#[allow(clippy::cast_precision_loss)] // Of what a machine has.
fn mib(kib: u64) -> String {
    format!("{:.2}", kib as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_names() {
        assert_eq!(kib_of("Rss:  3 kB\nPss:                  17 kB\n", "Pss:").unwrap(), 17);
        assert!(kib_of("Rss:  3 kB\n", "Pss:").is_err());
        assert!(share_kib(std::process::id().cast_signed()) > 100);
    }

    #[test]
    fn all_below_a_process_are_found_once() {
        let children = HashMap::from([(1, vec![2, 3]), (3, vec![4]), (9, vec![8])]);
        assert_eq!(below(1, &children), [1, 2, 3, 4]);
    }
}
