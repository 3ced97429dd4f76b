//! How much memory a process takes.

use std::fs;

/// The memory of a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory(i32);

impl Memory {
    /// That of a process, by its id.
    pub fn of(pid: i32) -> Self {
        Self(pid)
    }

    /// What of it is resident now.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn now(self) -> u64 {
        self.field("status", "VmRSS:")
    }

    /// Its share of what is resident: what several processes have is divided among them (`Pss`).
    ///
    /// # Panics
    /// When the process is gone.
    pub fn share(self) -> u64 {
        self.field("smaps_rollup", "Pss:")
    }

    /// The most that was resident since [`Memory::forget_peak`].
    ///
    /// # Panics
    /// When the process is gone.
    pub fn peak(self) -> u64 {
        self.field("status", "VmHWM:")
    }

    /// Has the kernel begin anew to look for the most.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn forget_peak(self) {
        fs::write(format!("/proc/{}/clear_refs", self.0), "5").expect("it runs");
    }

    fn field(self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.0)).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says it");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib << 10
    }
}
