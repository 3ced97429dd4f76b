//! Data that follows its program: the pause of a planned move beside stopping, copying and starting by hand, what a crash
//! costs, and what keeping a copy costs while nothing happens.

mod by_hand;
mod cost;
mod loss;
mod ours;

use anyhow::Context;
use serde_json::{Value, json};

use crate::report::{Measurement, Table};
use crate::stats::{Samples, ratio, seconds};
use by_hand::Way;

/// MiB of data.
const SIZES: [u64; 4] = [10, 100, 1024, 10_240];
/// MiB a second that are written meanwhile.
const RATES: [u32; 3] = [0, 1, 10];
/// How often each is moved; the largest once.
const RUNS: u32 = 3;

const fn runs(mib: u64) -> u32 {
    if mib > 2000 { 1 } else { RUNS }
}

/// The sizes to measure: those of `BENCH_MOVES_MIB`, or all.
fn sizes() -> anyhow::Result<Vec<u64>> {
    let Some(chosen) = std::env::var_os("BENCH_MOVES_MIB") else { return Ok(SIZES.to_vec()) };
    let chosen = chosen.into_string().ok().context("BENCH_MOVES_MIB is no text")?;
    chosen
        .split(',')
        .map(|size| size.parse().with_context(|| format!("BENCH_MOVES_MIB: '{size}' is no number")))
        .collect()
}

pub(crate) async fn run() -> anyhow::Result<Measurement> {
    let mut measurement = Measurement {
        settings: json!({ "runs": RUNS, "rates_mib": RATES }),
        results: Vec::new(),
        tables: Vec::new(),
        notes: vec![
            "Moves: the data is random bytes, and on both file systems of one disk. The program that moves is in a sandbox; \
             by hand it is started on the host, with nothing around it."
                .to_owned(),
        ],
    };
    let columns = [
        "data, written meanwhile",
        "n",
        "pause, median",
        "max",
        "÷ rsync",
        "÷ send",
        "whole move",
        "MiB sent",
        "MiB written",
    ];
    let mut table = Table::new("Planned move: stopped for how long", &columns);
    let mut other = Table::new("The same by hand: stop, copy, start", &["data", "way", "n", "pause, median", "max"]);
    for mib in sizes()? {
        let hands = by_hand::copy_and_start(mib, runs(mib)).await?;
        for (way, pauses) in &hands {
            other.row(vec![
                size(mib),
                way.name().to_owned(),
                pauses.len().to_string(),
                seconds(pauses.median()),
                seconds(pauses.max()),
            ]);
            measurement.results.push(json!({ "way": way.name(), "mib": mib, "pause": pauses.to_json() }));
        }
        let against =
            |way| hands.iter().find(|(other, _)| *other == way).map_or(f64::NAN, |(_, pauses)| pauses.median());
        for moved in ours::move_there_and_back(mib, &RATES, runs(mib)).await? {
            table.row(vec![
                format!("{}, {} MiB/s", size(mib), moved.rate),
                moved.pauses.len().to_string(),
                seconds(moved.pauses.median()),
                seconds(moved.pauses.max()),
                ratio(moved.pauses.median(), against(Way::Rsync)),
                ratio(moved.pauses.median(), against(Way::Send)),
                seconds(moved.whole.median()),
                format!("{:.1}", moved.sent_mib.median()),
                format!("{:.1}", moved.written_mib.median()),
            ]);
            measurement.results.push(moved.to_json(mib));
        }
    }
    measurement.tables.extend([table, other]);
    loss::measure(&mut measurement).await?;
    cost::measure(&mut measurement).await?;
    Ok(measurement)
}

fn size(mib: u64) -> String {
    if mib < 1024 { format!("{mib} MiB") } else { format!("{} GiB", mib / 1024) }
}

/// Moves at one rate.
#[derive(Debug, Default)]
struct Moved {
    rate: u32,
    /// Seconds without an answer.
    pauses: Samples,
    /// Seconds from the order to the end.
    whole: Samples,
    /// MiB that went over the wire meanwhile.
    sent_mib: Samples,
    /// MiB that the program wrote meanwhile.
    written_mib: Samples,
}

impl Moved {
    fn to_json(&self, mib: u64) -> Value {
        json!({
            "way": "move", "mib": mib, "rate_mib": self.rate, "pause": self.pauses.to_json(), "whole": self.whole.to_json(),
            "sent_mib": self.sent_mib.to_json(), "written_mib": self.written_mib.to_json(),
        })
    }
}
