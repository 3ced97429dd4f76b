//! What a supervisor costs, and how soon after a deadline nothing of a sandbox runs any more. Part of `make bench`.
//!
//! Three ways to the end: a program that ends when it is told to, one of many processes that ignores it, and one whose
//! supervisor is stopped, so that only the kernel's timer is left.

#[path = "../tests/container/harness.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod harness;

use std::time::Duration;

use harness::{Sandbox, Start, binary};
use lease::{BootTime, HolderDeadline, clock};
use rustix::process::Signal;

const RUNS: usize = 20;

/// Answers on its port; `{}` is what it does before.
const SERVER: &str = "#!/usr/bin/python3\nimport http.server, os, signal, time\n{}\
    http.server.HTTPServer(('127.0.0.1', 8080), http.server.BaseHTTPRequestHandler).serve_forever()\n";

const STUBBORN: &str = "for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)\n\
    for _ in range(40):\n    if os.fork() == 0:\n        while True: time.sleep(1000)\n";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        println!("{RUNS} runs each; lease {:?}\n", harness::times().lease());
        println!("| end | from | median | max |\n|---|---|---|---|");
        let soft = |deadline: HolderDeadline| deadline.soft;
        let kill = |deadline: HolderDeadline| deadline.kill;
        let fuse = |deadline: HolderDeadline| deadline.fuse;
        measure("told to end, does", "soft deadline", "", None, soft).await;
        measure("told to end, 41 processes ignore it", "hard deadline", STUBBORN, None, kill).await;
        measure("supervisor stopped (SIGSTOP)", "fuse", STUBBORN, Some(Signal::STOP), fuse).await;
        println!("\nA supervisor's private memory while its program runs: {} KiB", private_memory_kib().await);
    });
}

/// Prints how long after the deadline the last process was gone.
async fn measure(
    name: &str,
    from: &str,
    before: &str,
    signal: Option<Signal>,
    deadline: impl Fn(HolderDeadline) -> BootTime,
) {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let mut sandbox = Sandbox::start("deadline", Start::Cold).await;
        let mut claim = binary(&SERVER.replace("{}", before), 8080);
        claim.deadline = harness::times().holder(clock::now());
        let due = deadline(claim.deadline);
        sandbox.claim(claim).await;
        sandbox.next_end_or_ready().await;
        if let Some(signal) = signal {
            sandbox.signal_supervisor(signal);
        }
        while !sandbox.cgroup().is_empty() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        times.push(due.until(clock::now()));
        sandbox.is_gone().await;
    }
    times.sort_unstable();
    println!("| {name} | {from} | {:.1?} | {:.1?} |", times[RUNS / 2], times[RUNS - 1]);
}

/// Of all memory that only the supervisor has, the median.
async fn private_memory_kib() -> u64 {
    let mut sizes = Vec::new();
    for _ in 0..5 {
        let mut sandbox = Sandbox::start("memory", Start::Cold).await;
        sandbox.claim(binary(&SERVER.replace("{}", ""), 8080)).await;
        sandbox.next_end_or_ready().await;
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", sandbox.supervisor_pid()));
        let smaps = smaps.expect("the supervisor runs");
        let private = smaps.lines().filter(|line| line.starts_with("Private_"));
        sizes.push(private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum());
        sandbox.stop_and_clear().await;
    }
    sizes.sort_unstable();
    sizes[sizes.len() / 2]
}
