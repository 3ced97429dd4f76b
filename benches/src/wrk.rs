//! `wrk`, and how its output is read.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;

/// What `wrk` measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    /// Requests answered per second.
    pub(crate) per_second: f64,
    /// Half of the answers took no longer, in seconds.
    pub(crate) p50: f64,
    /// 99 % of the answers took no longer, in seconds.
    pub(crate) p99: f64,
    /// Answers that were not 2xx, and broken connections.
    pub(crate) errors: u64,
}

/// Asks one URL over so many kept connections, each of them again as soon as it has its answer.
pub(crate) async fn wrk(url: &str, connections: u32, duration: Duration) -> anyhow::Result<Load> {
    let output = Command::new("wrk")
        .args([format!("-t{}", connections.min(2)), format!("-c{connections}"), format!("-d{}s", duration.as_secs())])
        .args(["--latency", url])
        .output()
        .await
        .context("cannot start wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("wrk {url} failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    read(&text).with_context(|| format!("wrk {url} printed something unknown: {text}"))
}

fn read(text: &str) -> Option<Load> {
    let value = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let bad_status = value("Non-2xx or 3xx responses:").and_then(|count| count.parse().ok()).unwrap_or(0);
    let broken: u64 = value("Socket errors:").map_or(0, |counts| {
        let numbers = counts.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok());
        numbers.sum()
    });
    Some(Load {
        per_second: value("Requests/sec:")?.parse().ok()?,
        p50: time(value("50%")?)?,
        p99: time(value("99%")?)?,
        errors: bad_status + broken,
    })
}

/// A time as `wrk` writes it: `812.00us`, `1.27ms`, `1.10s`, `1.00m`.
fn time(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let factor = match &text[unit..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Some(text[..unit].parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "Running 2s test @ http://127.0.0.1:1/\n  2 threads and 32 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.49ms    6.96ms  52.13ms   91.62%\n    \
        Req/Sec   353.08     63.34   484.00     80.00%\n  Latency Distribution\n     50%  843.00us\n     75%   47.79ms\n     \
        90%   50.85ms\n     99%    1.88s \n  1408 requests in 2.00s, 160.16KB read\n  \
        Socket errors: connect 0, read 2, write 0, timeout 1\n  Non-2xx or 3xx responses: 4\nRequests/sec:    703.36\n";

    #[test]
    fn its_output_is_understood() {
        let load = read(OUTPUT).unwrap();
        assert_eq!(load, Load { per_second: 703.36, p50: 0.000_843, p99: 1.88, errors: 7 });
        assert_eq!(read("nothing"), None);
    }
}
