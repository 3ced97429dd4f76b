//! How long the first request to a program takes of which nothing runs: its image and its code are on the node, its sandbox
//! is not made, or stands still since the last request. Beside it the same application started by hand, and in a container
//! with nothing around it.

use std::collections::BTreeMap;

use aleph_tests::{Aleph, ComputeNode, Network, eventually, runsc};
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
const GROUPS: [(u16, u32); 2] = [(1, 15), (MOST, 6)];

/// The largest group.
const MOST: u16 = 8;

/// How soon a copy that nobody uses ends: long enough for others that were started with it to become ready.
const IDLE_AFTER: &str = "2s";

/// The part of a compute node that copies on demand get, in its environment: all, so that eight programs fit at once on a
/// machine with two processors.
pub(crate) const ENVIRONMENT: [(&str, &str); 1] = [("ALEPH_NODE_ON_DEMAND_SHARE", "1")];

/// MiB for sandboxes that wait: enough for the largest group of each application, also under gVisor.
const SPARE_MIB: &str = "4096";

/// Who starts the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Starter {
    Host,
    Crun,
    /// Our network, with as many sandboxes that wait as programs are asked for.
    Waiting,
    /// Our network, without any.
    Making,
    /// Our network, with copies that are frozen.
    Frozen,
    /// As [`Self::Waiting`], under gVisor.
    GvisorWaiting,
    /// As [`Self::Making`], under gVisor.
    GvisorMaking,
}

impl Starter {
    const ALL: [Self; 7] =
        [Self::Host, Self::Crun, Self::Waiting, Self::Making, Self::Frozen, Self::GvisorWaiting, Self::GvisorMaking];

    /// Those that are networks of ours.
    const OURS: [Self; 5] = [Self::Waiting, Self::Making, Self::Frozen, Self::GvisorWaiting, Self::GvisorMaking];

    const fn name(self) -> &'static str {
        match self {
            Self::Host => "by hand on the host",
            Self::Crun => "crun run, nothing else",
            Self::Waiting => "our gateway, crun, sandboxes wait",
            Self::Making => "our gateway, crun, none waits",
            Self::Frozen => "our gateway, crun, frozen",
            Self::GvisorWaiting => "our gateway, gVisor, sandboxes wait",
            Self::GvisorMaking => "our gateway, gVisor, none waits",
        }
    }

    /// What is there before the first request.
    const fn before(self) -> Before {
        match self {
            Self::Waiting | Self::GvisorWaiting => Before::Waiting,
            Self::Frozen => Before::Frozen,
            Self::Host | Self::Crun | Self::Making | Self::GvisorMaking => Before::Nothing,
        }
    }

    /// Starts the network, where it is one of ours.
    async fn network(self) -> Option<Network> {
        let runsc = runsc();
        let gvisor = ["--isolation", "gvisor", "--runsc", &runsc];
        let starting = ["--idle-after", IDLE_AFTER, "--spare-mib"];
        let frozen = ["--freeze-after", "0s", "--idle-after", "1h", "--spare-mib", "0"];
        let arguments = match self {
            Self::Host | Self::Crun => return None,
            Self::Waiting => [&starting[..], &[SPARE_MIB]].concat(),
            Self::Making => [&starting[..], &["0"]].concat(),
            Self::Frozen => frozen.to_vec(),
            Self::GvisorWaiting => [&starting[..], &[SPARE_MIB], &gvisor].concat(),
            Self::GvisorMaking => [&starting[..], &["0"], &gvisor].concat(),
        };
        Some(up(1, &arguments).await)
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
    let mut networks = BTreeMap::new();
    for starter in Starter::OURS {
        networks.extend(starter.network().await.map(|network| (starter, network)));
    }
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
    ours: BTreeMap<Starter, Ours<'a>>,
    bundles: Bundles,
}

/// What is there before the first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// Sandboxes that wait, of the kind that the programs can use.
    Waiting,
    /// Copies of all programs, frozen.
    Frozen,
}

/// A network of ours and its programs.
struct Ours<'a> {
    network: &'a Network,
    app: App,
    programs: Vec<String>,
    before: Before,
}

impl<'a> Race<'a> {
    /// Uploads the programs, different by a variable only, and has each answer once, so that the node has all files.
    async fn prepare(networks: &'a BTreeMap<Starter, Network>, app: App) -> anyhow::Result<Self> {
        let mut ours = BTreeMap::new();
        for (starter, network) in networks {
            ours.insert(*starter, Ours::prepare(network, app, starter.before()).await);
        }
        let race = Self { app, ours, bundles: Bundles::new(app).await? };
        // Not counted: files come into the caches of all.
        for starter in Starter::ALL {
            race.start(starter, MOST).await.with_context(|| format!("{} does not work", starter.name()))?;
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
                // All of them, whoever is next: sandboxes that are made to wait would be in its way.
                for ours in self.ours.values() {
                    ours.until_prepared().await;
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
            Starter::Waiting | Starter::Making | Starter::Frozen | Starter::GvisorWaiting | Starter::GvisorMaking => {
                self.ours[&starter].start(began, count).await
            }
        }
    }
}

impl<'a> Ours<'a> {
    async fn prepare(network: &'a Network, app: App, before: Before) -> Self {
        let aleph = Aleph::of(network);
        let (folder, entrypoint, options) = app.upload();
        let mut programs = Vec::new();
        for copy in 0..MOST {
            eprintln!("bench: first_request: {}: upload {}", app.name(), copy + 1);
            let variable = format!("COPY={copy}");
            let options = [options, &["--env", &variable]].concat();
            programs.push(aleph.upload(&folder, entrypoint, &options).await);
        }
        Self { network, app, programs, before }
    }

    /// Waits until everything is as it shall be before as many programs are asked as there are.
    async fn until_prepared(&self) {
        let node = &self.network.compute_nodes[0];
        match self.before {
            Before::Nothing => {}
            Before::Waiting => until_waiting(node, self.app, MOST.into()).await,
            // All, as one that still runs would be in the way.
            Before::Frozen => {
                let are_frozen = || self.programs.iter().all(|program| node.is_frozen(program) == Some(true));
                eventually("all are frozen", async || are_frozen().then_some(())).await;
            }
        }
    }

    async fn start(&self, began: Instant, count: u16) -> anyhow::Result<Vec<First>> {
        let programs = &self.programs[..count.into()];
        let gateway = gateway_port(self.network);
        let requests = programs.iter().map(async |program| first_200(began, gateway, &format!("/vm/{program}/")).await);
        let answers = try_join_all(requests).await?;
        if self.before != Before::Frozen {
            join_all(programs.iter().map(|program| self.network.until_gone(program))).await;
        }
        Ok(answers)
    }
}

/// Waits until so many sandboxes wait on a node that programs of this kind can use.
pub(crate) async fn until_waiting(node: &ComputeNode, app: App, count: u64) {
    let kind = match app {
        App::Fastapi => "waiting_with_interpreter",
        App::Static | App::Bytes => "waiting",
    };
    let name = format!("aleph_sandboxes{{kind=\"{kind}\"}}");
    eventually("sandboxes wait", async || (node.counted(&name).await >= count).then_some(())).await;
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
