//! What it costs a program that another node keeps a copy.

use serde_json::json;

use super::ours::Holder;
use crate::report::{Measurement, Table};
use crate::stats::{Samples, ratio};

const ROUNDS: u32 = 5;
const APPENDS_FOR: &str = "/appends/5";
const STREAM_MIB: &str = "/stream/256";

pub(super) async fn measure(measurement: &mut Measurement) -> anyhow::Result<()> {
    // Alone there is nobody who could keep one.
    let (alone, copied) = (Holder::start(1, 512, &[], &[]).await, Holder::start(2, 512, &[], &[]).await);
    copied.is_copied().await;
    let columns = ["what it writes", "n", "alone", "copied", "copied ÷ alone"];
    let mut table = Table::new("What a copy on another node costs while the program writes", &columns);
    for (name, path) in
        [("appends of 4 KiB with fsync, per second", APPENDS_FOR), ("one large file, MiB/s", STREAM_MIB)]
    {
        let (mut without, mut with) = (Samples::default(), Samples::default());
        for round in 1..=ROUNDS {
            eprintln!("bench: moves: {name}: round {round} of {ROUNDS}");
            for (holder, samples) in [(&alone, &mut without), (&copied, &mut with)] {
                samples.add(holder.ask(path).await?["answer"].as_f64().unwrap_or(f64::NAN));
            }
            copied.is_copied().await;
        }
        table.row(vec![
            name.to_owned(),
            with.len().to_string(),
            format!("{:.0}", without.median()),
            format!("{:.0}", with.median()),
            ratio(with.median(), without.median()),
        ]);
        measurement.results.push(json!({ "writes": name, "alone": without.to_json(), "copied": with.to_json() }));
    }
    measurement.tables.push(table);
    measurement
        .notes
        .push("Both nodes are on one disk here, so the copy's own writes are part of the cost.".to_owned());
    Ok(())
}
