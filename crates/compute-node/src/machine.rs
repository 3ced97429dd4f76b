//! What this machine is and has.

use std::fs;
use std::io;
use std::path::Path;

use protocol::BootId;

/// Bytes of something, in all and left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// In all.
    pub total: u64,
    /// Left.
    pub available: u64,
}

/// The machine's memory.
///
/// # Errors
/// When `/proc/meminfo` cannot be read.
pub fn memory() -> io::Result<Amount> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let field = |name: &str| {
        let kib =
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no {name} in /proc/meminfo")))
    };
    Ok(Amount { total: field("MemTotal:")?, available: field("MemAvailable:")? })
}

/// A machine with less than this part of its memory left has little.
const SHORT_OF_MEMORY: u64 = 10;

/// Whether the machine has little memory left; not if that cannot be known.
pub(crate) fn memory_is_short() -> bool {
    memory().is_ok_and(|memory| memory.available < memory.total / SHORT_OF_MEMORY)
}

/// The disk that a path is on.
///
/// # Errors
/// When it cannot be asked.
pub fn disk(path: &Path) -> io::Result<Amount> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Amount { total: stat.f_blocks * stat.f_frsize, available: stat.f_bavail * stat.f_frsize })
}

/// How many processors the machine has.
pub fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// The load of the last 1, 5 and 15 minutes.
pub(crate) fn load() -> io::Result<[f64; 3]> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let mut numbers = text.split(' ').filter_map(|number| number.parse().ok());
    Ok(std::array::from_fn(|_| numbers.next().unwrap_or(0.0)))
}

/// The kernel's current run.
pub(crate) fn boot_id() -> io::Result<BootId> {
    Ok(BootId(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned()))
}

/// The processor's vendor and features, as the kernel names them.
pub(crate) fn processor() -> (String, Vec<String>) {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let features = field("flags").unwrap_or_default().split(' ').map(str::to_owned).collect();
    (field("vendor_id").unwrap_or_default(), features)
}

/// The processor's architecture, as messages name it.
pub(crate) const fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" }
}
