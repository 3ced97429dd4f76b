//! Many different programs, each asked once and never before, as a network with many users has them: the node has the image,
//! and none of the code. Says how often a sandbox waited for them.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use aleph_tests::{Network, Publisher};
use anyhow::Context;
use futures_util::future::{join_all, try_join_all};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::contestants::{App, end};
use crate::http::first_200;
use crate::network::{free_ports, gateway_port, up};
use crate::report::{Measurement, Table};
use crate::stats::{Samples, ratio, seconds};

/// How many programs there are for each way of asking, in turns of so many.
const PROGRAMS: usize = 100;
const TURN: usize = 20;

/// How soon a copy that nobody uses ends.
const IDLE_AFTER: &str = "5s";

/// What a compute node offers, in its environment: room for all of a turn at once, whatever the machine.
pub(crate) const ENVIRONMENT: [(&str, &str); 2] = [("ALEPH_NODE_ON_DEMAND_SHARE", "1"), ("ALEPH_NODE_VCPUS", "1000")];

/// How they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    EverySecond,
    OneAfterAnother,
    TenAtATime,
}

impl Way {
    const ALL: [Self; 3] = [Self::EverySecond, Self::OneAfterAnother, Self::TenAtATime];

    const fn name(self) -> &'static str {
        match self {
            Self::EverySecond => "one every second",
            Self::OneAfterAnother => "one after another",
            Self::TenAtATime => "ten at a time",
        }
    }

    const fn at_a_time(self) -> usize {
        match self {
            Self::EverySecond | Self::OneAfterAnother => 1,
            Self::TenAtATime => 10,
        }
    }

    /// The time from one group to the next at least.
    const fn pace(self) -> Duration {
        match self {
            Self::EverySecond => Duration::from_secs(1),
            Self::OneAfterAnother | Self::TenAtATime => Duration::ZERO,
        }
    }
}

/// Who starts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Starter {
    Host,
    /// Our network as it is by default.
    Default,
    /// Our network, without sandboxes that wait.
    Making,
}

impl Starter {
    const ALL: [Self; 3] = [Self::Host, Self::Default, Self::Making];

    const fn name(self) -> &'static str {
        match self {
            Self::Host => "by hand on the host",
            Self::Default => "our gateway, crun, sandboxes wait",
            Self::Making => "our gateway, crun, none waits",
        }
    }
}

/// What one way took, of each program; and how many got a sandbox that waited.
#[derive(Debug, Default)]
struct Times {
    each: Samples,
    waited: u64,
}

pub(crate) async fn run() -> anyhow::Result<Measurement> {
    let networks =
        [up(1, &["--idle-after", IDLE_AFTER]).await, up(1, &["--idle-after", IDLE_AFTER, "--spare-mib", "0"]).await];
    let mut measurement = Measurement {
        settings: json!({ "programs": PROGRAMS, "turn": TURN, "idle_after": IDLE_AFTER, "environment": ENVIRONMENT }),
        results: Vec::new(),
        tables: Vec::new(),
        notes: Vec::new(),
    };
    let ours = [Ours::of(&networks[0]).await?, Ours::of(&networks[1]).await?];
    // Not counted: the image comes to the nodes, and the files of all into the page cache.
    for starter in Starter::ALL {
        turn(&ours, starter, Way::OneAfterAnother, 1).await?;
    }
    for way in Way::ALL {
        let mut all: BTreeMap<Starter, Times> = BTreeMap::new();
        for round in 0..PROGRAMS / TURN {
            let mut order = Starter::ALL;
            order.rotate_left(round % Starter::ALL.len());
            for starter in order {
                eprintln!("bench: many: {}: {}: round {}", way.name(), starter.name(), round + 1);
                let times = turn(&ours, starter, way, TURN).await?;
                let sum = all.entry(starter).or_default();
                sum.each.extend(times.0);
                sum.waited += times.1;
            }
        }
        report(&mut measurement, way, &all);
    }
    Ok(measurement)
}

/// So many programs that were never asked before. Says what each took, and how many got a sandbox that waited.
async fn turn(ours: &[Ours<'_>; 2], starter: Starter, way: Way, count: usize) -> anyhow::Result<(Vec<f64>, u64)> {
    match starter {
        Starter::Host => Ok((by_hand(way, count).await?, 0)),
        Starter::Default => ours[0].turn(way, count).await,
        Starter::Making => ours[1].turn(way, count).await,
    }
}

async fn by_hand(way: Way, count: usize) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::new();
    while took.len() < count {
        let next = Instant::now() + way.pace();
        let group = u16::try_from(way.at_a_time().min(count - took.len())).expect("few");
        let port = free_ports(group);
        let began = Instant::now();
        let processes =
            (port..port + group).map(|port| App::Fastapi.start_on_host(port)).collect::<Result<Vec<_>, _>>()?;
        let answers = try_join_all((port..port + group).map(async |port| first_200(began, port, "/").await)).await?;
        took.extend(answers.into_iter().map(|first| first.seconds));
        try_join_all(processes.into_iter().map(end)).await?;
        sleep_until(next).await;
    }
    Ok(took)
}

/// A network of ours that is told of programs one by one.
struct Ours<'a> {
    network: &'a Network,
    publisher: Publisher,
    runtime: String,
    source: String,
}

impl<'a> Ours<'a> {
    async fn of(network: &'a Network) -> anyhow::Result<Self> {
        let source = fs::read_to_string(App::Fastapi.upload().0.join("main.py")).context("cannot read the program")?;
        Ok(Self { network, publisher: Publisher::of(network), runtime: network.runtime("python3").await, source })
    }

    async fn turn(&self, way: Way, count: usize) -> anyhow::Result<(Vec<f64>, u64)> {
        let mut programs = Vec::new();
        for _ in 0..count {
            // Different files, as those of different people are.
            let code = self.publisher.file(format!("{}\n# {}\n", self.source, programs.len())).await;
            programs.push(self.publisher.program(&code, &self.runtime, json!({})).await);
        }
        let (before, gateway) = (self.waited().await, gateway_port(self.network));
        let mut took = Vec::new();
        for group in programs.chunks(way.at_a_time()) {
            let (began, next) = (Instant::now(), Instant::now() + way.pace());
            let asked = group.iter().map(async |program| first_200(began, gateway, &format!("/vm/{program}/")).await);
            for first in try_join_all(asked).await? {
                anyhow::ensure!(first.refused.is_empty(), "refused: {:?}", first.refused);
                took.push(first.seconds);
            }
            sleep_until(next).await;
        }
        let waited = self.waited().await - before;
        join_all(programs.iter().map(|program| self.network.until_gone(program))).await;
        Ok((took, waited))
    }

    /// How many sandboxes that waited its node has given away.
    async fn waited(&self) -> u64 {
        self.network.compute_nodes[0].counted("aleph_sandboxes_claimed_total{start=\"waited\"}").await
    }
}

fn report(measurement: &mut Measurement, way: Way, all: &BTreeMap<Starter, Times>) {
    let host = all.get(&Starter::Host).map_or(f64::NAN, |times| times.each.median());
    let title = format!("{PROGRAMS} different FastAPI programs, never asked before, {}", way.name());
    let columns = ["started", "n", "median", "p99", "÷ host", "sandbox waited"];
    let mut table = Table::new(title, &columns);
    for (starter, Times { each, waited }) in all {
        table.row(vec![
            starter.name().to_owned(),
            each.len().to_string(),
            seconds(each.median()),
            seconds(each.p99()),
            ratio(each.median(), host),
            if *starter == Starter::Host { "-".to_owned() } else { waited.to_string() },
        ]);
        measurement.results.push(json!({
            "way": way.name(), "started": starter.name(), "each_seconds": each.to_json(), "waited": waited,
        }));
    }
    measurement.tables.push(table);
}
