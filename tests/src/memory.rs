//! How much memory a process takes.

use std::fs;

/// The resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory(i32);

impl Memory {
    /// That of a process, by its id.
    pub fn of(pid: i32) -> Self {
        Self(pid)
    }

    /// What it takes now.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn now(self) -> u64 {
        self.field("VmRSS:")
    }

    /// The most that it took since [`Memory::forget_peak`].
    ///
    /// # Panics
    /// When the process is gone.
    pub fn peak(self) -> u64 {
        self.field("VmHWM:")
    }

    /// Has the kernel begin anew to look for the most.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn forget_peak(self) {
        fs::write(format!("/proc/{}/clear_refs", self.0), "5").expect("it runs");
    }

    fn field(self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says it");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib << 10
    }
}
