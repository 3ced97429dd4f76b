//! The machine that measures: what it is, and mounts that end with this process.

use std::fmt;
use std::io;
use std::process::Command;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::{Value, json};

/// Facts without which a number says little.
#[derive(Debug)]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    memory_mib: u64,
    kernel: String,
    oci_runtime: String,
    gvisor: String,
    software: Vec<String>,
    load: String,
    date: String,
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn look() -> anyhow::Result<Self> {
        let uname = rustix::system::uname();
        let aleph_node = aleph_tests::binary("aleph-node");
        let software = [
            (aleph_node.to_string_lossy().into_owned(), "--version"),
            ("nginx".into(), "-v"),
            ("wrk".into(), "--version"),
        ];
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: field(&cpu, "model name").to_owned(),
            memory_mib: field(&memory, "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024,
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            oci_runtime: version("crun", "--version"),
            gvisor: version(&aleph_tests::runsc(), "--version"),
            software: software.iter().map(|(program, option)| version(program, option)).collect(),
            load: std::fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
            date: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        })
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "cores": self.cores,
            "processor": self.processor,
            "memory_mib": self.memory_mib,
            "kernel": self.kernel,
            "oci_runtime": self.oci_runtime,
            "gvisor": self.gvisor,
            "software": self.software,
            "load_average_before": self.load,
            "date": self.date,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, processor, memory_mib, kernel, oci_runtime, gvisor, software, load, date } = self;
        write!(
            f,
            "{date} · load {load} · {cores} cores ({processor}) · {memory_mib} MiB · {kernel} · {oci_runtime} · {gvisor}"
        )?;
        software.iter().try_for_each(|version| write!(f, " · {version}"))
    }
}

/// The value of a `name: value` line.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or("", |(_, value)| value.trim())
}

/// The first line that a program says about itself.
fn version(program: &str, option: &str) -> String {
    let Ok(output) = Command::new(program).arg(option).output() else { return format!("no {program}") };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let line = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned();
    line.split(" Copyright").next().unwrap_or_default().to_owned()
}

/// Gives this process mounts of its own, so that nothing stays mounted however it ends. Call it while there is one thread.
pub(crate) fn enter_own_namespace() -> io::Result<()> {
    // SAFETY: there are no other threads that could miss what is no longer shared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}
