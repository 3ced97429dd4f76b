//! How long the first request to a program takes of which nothing runs: its image and its code are on the node, its sandbox
//! is not made. Beside it the same application started by hand, and in a container with nothing around it.

use std::collections::BTreeMap;

use aleph_tests::{Aleph, Network, eventually, reqwest_client};
use anyhow::Context;
use futures_util::future::{join_all, try_join_all};
use serde_json::json;
use tokio::time::Instant;

use crate::contestants::{App, Bundles, end};
use crate::http::{First, first_200};
use crate::network::{free_ports, gateway_port, up};
use crate::report::{Measurement, Table};
use crate::stats::{Samples, ratio, seconds};

/// How many programs are asked at once, and how often that is repeated. More rounds for what takes less.
const GROUPS: [(u16, u32); 2] = [(1, 15), (8, 6)];

/// How soon a copy that nobody uses ends: long enough for others that were started with it to become ready.
const IDLE_AFTER: &str = "2s";

/// The part of a compute node that copies on demand get, in its environment: all, so that eight programs fit at once on a
/// machine with two processors.
pub(crate) const ENVIRONMENT: (&str, &str) = ("ALEPH_NODE_ON_DEMAND_SHARE", "1");

/// MiB for sandboxes that wait: enough for the largest group.
const SPARE_MIB: &str = "1024";

/// Who starts the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Starter {
    Host,
    Crun,
    /// Our network, with as many sandboxes that wait as programs are asked for.
    Waiting,
    /// Our network, without any.
    Making,
}

impl Starter {
    const ALL: [Self; 4] = [Self::Host, Self::Crun, Self::Waiting, Self::Making];

    const fn name(self) -> &'static str {
        match self {
            Self::Host => "by hand on the host",
            Self::Crun => "crun run, nothing else",
            Self::Waiting => "our gateway, crun, sandboxes wait",
            Self::Making => "our gateway, crun, none waits",
        }
    }
}

/// What one way of starting took: of each program, and until the last one answered.
#[derive(Debug, Default)]
struct Times {
    each: Samples,
    last: Samples,
    refused: Vec<String>,
}

pub(crate) async fn run() -> anyhow::Result<Measurement> {
    let up = async |spare_mib| up(1, &["--idle-after", IDLE_AFTER, "--spare-mib", spare_mib]).await;
    let networks = [up(SPARE_MIB).await, up("0").await];
    let mut measurement = Measurement {
        settings: json!({ "idle_after": IDLE_AFTER, "spare_mib": SPARE_MIB, "groups": GROUPS, "environment": ENVIRONMENT }),
        results: Vec::new(),
        tables: Vec::new(),
        notes: Vec::new(),
    };
    for app in [App::Fastapi, App::Static] {
        let race = Race::prepare(&networks, app).await?;
        for (count, rounds) in GROUPS {
            let times = race.run(count, rounds).await?;
            report(&mut measurement, app, count, &times);
        }
    }
    Ok(measurement)
}

/// One application, ready to be started in every way.
struct Race<'a> {
    app: App,
    ours: [Ours<'a>; 2],
    bundles: Bundles,
}

/// A network of ours and its programs.
struct Ours<'a> {
    network: &'a Network,
    programs: Vec<String>,
    /// What its node counts of the sandboxes that wait for programs of this kind, if any do.
    waiting: Option<&'static str>,
}

impl<'a> Race<'a> {
    /// Uploads the programs, different by a variable only, and has each answer once, so that the node has all files.
    async fn prepare([waiting, making]: &'a [Network; 2], app: App) -> anyhow::Result<Self> {
        let kind = match app {
            App::Fastapi => "waiting_with_interpreter",
            App::Static | App::Bytes => "waiting",
        };
        let ours = [Ours::prepare(waiting, app, Some(kind)).await, Ours::prepare(making, app, None).await];
        let race = Self { app, ours, bundles: Bundles::new(app).await? };
        // Not counted: files come into the caches of all.
        for starter in Starter::ALL {
            race.start(starter, 8).await.with_context(|| format!("{} does not work", starter.name()))?;
        }
        Ok(race)
    }

    async fn run(&self, count: u16, rounds: u32) -> anyhow::Result<BTreeMap<Starter, Times>> {
        let mut all: BTreeMap<Starter, Times> = BTreeMap::new();
        for round in 0..rounds {
            let name = self.app.name();
            eprintln!("bench: first_request: {name}: {count} at once: round {} of {rounds}", round + 1);
            // Everybody is first, second and third equally often.
            let mut order = Starter::ALL;
            order.rotate_left(round as usize % Starter::ALL.len());
            for starter in order {
                if starter == Starter::Waiting {
                    self.ours[0].until_so_many_wait(count).await;
                }
                let answers = self.start(starter, count).await?;
                let times = all.entry(starter).or_default();
                times.each.extend(answers.iter().map(|first| first.seconds));
                times.last.add(answers.iter().map(|first| first.seconds).fold(0.0, f64::max));
                times.refused.extend(answers.into_iter().flat_map(|first| first.refused));
            }
        }
        Ok(all)
    }

    /// Starts so many at once, waits until each answers, and ends them.
    async fn start(&self, starter: Starter, count: u16) -> anyhow::Result<Vec<First>> {
        let port = free_ports(count);
        let ports = port..port + count;
        let [waiting, making] = &self.ours;
        let began = Instant::now();
        match starter {
            Starter::Host => {
                let processes: Vec<_> =
                    ports.clone().map(|port| self.app.start_on_host(port)).collect::<Result<_, _>>()?;
                let answers = answers(began, ports).await?;
                try_join_all(processes.into_iter().map(end)).await?;
                Ok(answers)
            }
            Starter::Crun => {
                let containers: Vec<_> =
                    ports.clone().map(|port| self.bundles.start(port)).collect::<Result<_, _>>()?;
                let answers = answers(began, ports).await?;
                try_join_all(containers.into_iter().map(|container| container.end())).await?;
                Ok(answers)
            }
            Starter::Waiting => waiting.start(began, count).await,
            Starter::Making => making.start(began, count).await,
        }
    }
}

impl<'a> Ours<'a> {
    async fn prepare(network: &'a Network, app: App, waiting: Option<&'static str>) -> Self {
        let aleph = Aleph::of(network);
        let (folder, entrypoint, options) = app.upload();
        let mut programs = Vec::new();
        for copy in 0..GROUPS.iter().map(|(count, _)| *count).max().unwrap_or(0) {
            eprintln!("bench: first_request: {}: upload {}", app.name(), copy + 1);
            let variable = format!("COPY={copy}");
            let options = [options, &["--env", &variable]].concat();
            programs.push(aleph.upload(&folder, entrypoint, &options).await);
        }
        Self { network, programs, waiting }
    }

    /// Waits until as many sandboxes wait as will be needed.
    async fn until_so_many_wait(&self, count: u16) {
        let Some(kind) = self.waiting else { return };
        let url = format!("{}/metrics", self.network.compute_nodes[0].url);
        let line = format!("aleph_sandboxes{{kind=\"{kind}\"}} ");
        eventually("sandboxes wait", async || {
            let text = reqwest_client().get(&url).send().await.ok()?.text().await.ok()?;
            let waiting = text.lines().find_map(|l| l.strip_prefix(&line)?.trim().parse::<u16>().ok())?;
            (waiting >= count).then_some(())
        })
        .await;
    }

    async fn start(&self, began: Instant, count: u16) -> anyhow::Result<Vec<First>> {
        let programs = &self.programs[..count.into()];
        let gateway = gateway_port(self.network);
        let requests = programs.iter().map(async |program| first_200(began, gateway, &format!("/vm/{program}/")).await);
        let answers = try_join_all(requests).await?;
        join_all(programs.iter().map(|program| self.network.until_gone(program))).await;
        Ok(answers)
    }
}

async fn answers(began: Instant, ports: impl Iterator<Item = u16>) -> anyhow::Result<Vec<First>> {
    try_join_all(ports.map(async |port| first_200(began, port, "/").await)).await
}

fn report(measurement: &mut Measurement, app: App, count: u16, all: &BTreeMap<Starter, Times>) {
    let median = |starter: Starter| all.get(&starter).map_or(f64::NAN, |times| times.each.median());
    let (host, crun) = (median(Starter::Host), median(Starter::Crun));
    let title = match count {
        1 => format!("First request: {}, one program", app.name()),
        _ => format!("First request: {}, {count} programs at once", app.name()),
    };
    let columns = ["started", "n", "median", "p99", "÷ host", "÷ crun", "all answer, median"];
    let mut table = Table::new(title, &columns);
    for (starter, times) in all {
        let (each, last) = (&times.each, &times.last);
        table.row(vec![
            starter.name().to_owned(),
            each.len().to_string(),
            seconds(each.median()),
            seconds(each.p99()),
            ratio(each.median(), host),
            ratio(each.median(), crun),
            seconds(last.median()),
        ]);
        measurement.results.push(json!({
            "app": app.name(), "at_once": count, "started": starter.name(), "each_seconds": each.to_json(),
            "last_seconds": last.to_json(), "refused": times.refused,
        }));
        if let Some(first) = times.refused.first() {
            let (name, refused) = (starter.name(), times.refused.len());
            let app = app.name();
            measurement.notes.push(format!(
                "{app}, {count} at once, {name}: {refused} answers other than 200 came first, such as: {first}"
            ));
        }
    }
    measurement.tables.push(table);
}
