//! Control groups, version 1 (also beside an empty version 2, the "hybrid" layout) and version 2.
//!
//! The OCI runtime makes a sandbox's group, or the supervisor where the runtime would remove it too early; limits, counters, killing and removal are ours, so that they do not depend on
//! the runtime being there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::spec::Limits;

mod freezer;
mod reclaim;

pub use freezer::Frozen;

/// How the machine's control groups are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// One hierarchy with all controllers.
    V2 {
        /// Where it is mounted.
        root: PathBuf,
    },
    /// One hierarchy per controller (or a few together).
    V1 {
        /// Where they are mounted, with the names of their controllers.
        mounts: Vec<(Vec<String>, PathBuf)>,
        /// Where an additional version 2 hierarchy is mounted, in the hybrid layout.
        unified: Option<PathBuf>,
    },
}

impl Hierarchy {
    /// Looks at what is mounted.
    ///
    /// # Errors
    /// When `/proc/self/mounts` cannot be read or no control groups are mounted.
    pub fn detect() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/self/mounts")?).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup")
        })
    }

    fn parse(mounts: &str) -> Option<Self> {
        let (mut v1, mut v2) = (Vec::new(), None);
        for line in mounts.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            let [_, path, kind, options, ..] = fields[..] else { continue };
            match kind {
                "cgroup2" => v2 = Some(PathBuf::from(path)),
                "cgroup" => v1.push((options.split(',').map(str::to_owned).collect(), PathBuf::from(path))),
                _ => {}
            }
        }
        match (v1.is_empty(), v2) {
            (false, unified) => Some(Self::V1 { mounts: v1, unified }),
            (true, Some(root)) => Some(Self::V2 { root }),
            (true, None) => None,
        }
    }

    /// The group with this path, relative to the root.
    pub fn group(&self, path: &str) -> Cgroup {
        Cgroup { hierarchy: self.clone(), path: path.trim_matches('/').to_owned() }
    }
}

/// One control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    path: String,
}

/// The share of the processor that a group has unless somebody says otherwise (version 1), and the same in version 2.
pub(crate) const USUAL_SHARES: u64 = 1024;
const USUAL_WEIGHT: u64 = 100;

/// The controllers that a sandbox needs.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "freezer"];

/// What a sandbox may use before a claim sets its program's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitingLimits {
    /// Bytes.
    pub(crate) memory: u64,
    /// Processes and threads.
    pub(crate) pids: u64,
    /// Its share of the processor, as of version 1.
    pub(crate) shares: u64,
}

/// The period over which processor time is counted, in microseconds.
const CPU_PERIOD: u64 = 100_000;

impl Cgroup {
    /// The directory of the group in the hierarchy with this controller.
    fn directory(&self, controller: &str) -> io::Result<PathBuf> {
        let root = match &self.hierarchy {
            Hierarchy::V2 { root } => root,
            Hierarchy::V1 { mounts, .. } => mounts
                .iter()
                .find(|(controllers, _)| controllers.iter().any(|c| c == controller))
                .map(|(_, path)| path)
                .ok_or_else(|| {
                    io::Error::new(io::ErrorKind::NotFound, format!("no cgroup controller '{controller}' is mounted"))
                })?,
        };
        Ok(root.join(&self.path))
    }

    /// All directories of the group.
    fn directories(&self) -> Vec<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V2 { root } => vec![root.join(&self.path)],
            Hierarchy::V1 { mounts, unified } => {
                mounts.iter().map(|(_, root)| root).chain(unified).map(|root| root.join(&self.path)).collect()
            }
        }
    }

    /// Makes the group, and says what a process has to write to to become one of it ([`join`]).
    ///
    /// # Errors
    /// When a controller is missing or refuses.
    pub(crate) fn make(&self) -> io::Result<Vec<File>> {
        if let Hierarchy::V2 { root } = &self.hierarchy {
            // Each group hands its controllers down.
            let mut above = root.clone();
            for name in Path::new(&self.path) {
                fs::create_dir_all(&above)?;
                write(&above.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
                above.push(name);
            }
        }
        let mut directories =
            CONTROLLERS.map(|controller| self.directory(controller)).into_iter().collect::<io::Result<Vec<_>>>()?;
        directories.sort();
        directories.dedup();
        let open = |directory: PathBuf| {
            fs::create_dir_all(&directory)?;
            File::options().write(true).open(directory.join("cgroup.procs"))
        };
        directories.into_iter().map(open).collect()
    }

    /// Sets the limits of a group that nobody has claimed yet.
    ///
    /// # Errors
    /// When a controller is missing or refuses.
    pub(crate) fn set_waiting_limits(&self, limits: &WaitingLimits) -> io::Result<()> {
        let WaitingLimits { memory, pids, shares } = limits;
        let settings = match self.hierarchy {
            Hierarchy::V2 { .. } => vec![
                ("memory", "memory.max", memory.to_string()),
                // As the OCI runtimes convert it.
                ("cpu", "cpu.weight", (1 + (shares - 2) * 9999 / 262_142).to_string()),
                ("pids", "pids.max", pids.to_string()),
            ],
            Hierarchy::V1 { .. } => vec![
                ("memory", "memory.limit_in_bytes", memory.to_string()),
                ("cpu", "cpu.shares", shares.to_string()),
                ("pids", "pids.max", pids.to_string()),
            ],
        };
        self.set(settings)
    }

    /// Sets the limits of a group that exists.
    ///
    /// # Errors
    /// When a controller is missing or refuses.
    pub fn set_limits(&self, limits: &Limits) -> io::Result<()> {
        let memory = limits.memory_mib * (1 << 20);
        let quota = u64::from(limits.vcpus) * CPU_PERIOD;
        let settings = match self.hierarchy {
            Hierarchy::V2 { .. } => vec![
                ("memory", "memory.max", memory.to_string()),
                ("cpu", "cpu.max", format!("{quota} {CPU_PERIOD}")),
                ("cpu", "cpu.weight", USUAL_WEIGHT.to_string()),
                ("pids", "pids.max", limits.pids.to_string()),
            ],
            Hierarchy::V1 { .. } => vec![
                ("memory", "memory.limit_in_bytes", memory.to_string()),
                ("cpu", "cpu.cfs_period_us", CPU_PERIOD.to_string()),
                ("cpu", "cpu.cfs_quota_us", quota.to_string()),
                ("cpu", "cpu.shares", USUAL_SHARES.to_string()),
                ("pids", "pids.max", limits.pids.to_string()),
            ],
        };
        self.set(settings)?;
        // Swap would let a program use more than its memory; kernels without swap accounting have no such file.
        if let Hierarchy::V2 { .. } = self.hierarchy {
            ignore_missing(write(&self.directory("memory")?.join("memory.swap.max"), "0"))?;
        }
        Ok(())
    }

    fn set(&self, settings: Vec<(&str, &str, String)>) -> io::Result<()> {
        settings
            .into_iter()
            .try_for_each(|(controller, file, value)| write(&self.directory(controller)?.join(file), &value))
    }

    /// How often the kernel killed a process of the group for want of memory; 0 when the group is gone.
    pub fn oom_kills(&self) -> u64 {
        let file = match self.hierarchy {
            Hierarchy::V2 { .. } => "memory.events",
            Hierarchy::V1 { .. } => "memory.oom_control",
        };
        let Ok(directory) = self.directory("memory") else { return 0 };
        let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }

    /// Bytes of memory that the group uses, when it exists.
    pub fn memory_bytes(&self) -> Option<u64> {
        let file = match self.hierarchy {
            Hierarchy::V2 { .. } => "memory.current",
            Hierarchy::V1 { .. } => "memory.usage_in_bytes",
        };
        fs::read_to_string(self.directory("memory").ok()?.join(file)).ok()?.trim().parse().ok()
    }

    /// Bytes of memory that the group has of its own, without what it has read of files, when it exists.
    pub fn own_memory_bytes(&self) -> Option<u64> {
        let anonymous = match self.hierarchy {
            Hierarchy::V2 { .. } => "anon ",
            Hierarchy::V1 { .. } => "rss ",
        };
        let text = fs::read_to_string(self.directory("memory").ok()?.join("memory.stat")).ok()?;
        let bytes = |field: &str| text.lines().find_map(|line| line.strip_prefix(field)?.parse::<u64>().ok());
        // What is in a tmpfs is as much its own; gVisor has all memory of programs in one.
        Some(bytes(anonymous)? + bytes("shmem ").unwrap_or(0))
    }

    /// The processes of the group; none when it is gone.
    fn processes(&self) -> Vec<Pid> {
        // Every process of a sandbox is in the same group of every hierarchy; which one is asked does not matter.
        let Some(directory) = self.directory("pids").ok() else { return Vec::new() };
        let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
    }

    /// Whether nothing runs in the group.
    pub fn is_empty(&self) -> bool {
        self.processes().is_empty()
    }

    /// Kills every process of the group, also those that are forked meanwhile, and waits until none is left.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when something is left after `within`, which a process in an uninterruptible wait can
    /// cause.
    pub fn kill_all(&self, within: Duration) -> io::Result<()> {
        let deadline = Instant::now() + within;
        loop {
            if let Hierarchy::V2 { root } = &self.hierarchy {
                // Kernels before 5.14 have no such file; then killing one by one is all there is.
                let _ = write(&root.join(&self.path).join("cgroup.kill"), "1");
            }
            let left = self.processes();
            if left.is_empty() {
                return Ok(());
            }
            for pid in &left {
                // It may have ended meanwhile.
                let _ = kill_process(*pid, Signal::KILL);
            }
            // Version 1 keeps what is killed from dying as long as it is frozen. Only now, so that it does nothing else any
            // more; and each time, as somebody may just have frozen it. Without a freezer nothing is frozen.
            let _ = self.thaw();
            if Instant::now() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{} processes of {} do not die", left.len(), self.path),
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes an empty group from all hierarchies. What is gone already is no error.
    ///
    /// # Errors
    /// When the group still has processes.
    pub fn remove(&self) -> io::Result<()> {
        self.directories().iter().try_for_each(|directory| ignore_missing(fs::remove_dir(directory)))
    }
}

/// Makes this process one of the group that was made.
///
/// # Errors
/// When a hierarchy refuses.
pub(crate) fn join(group: &[File]) -> io::Result<()> {
    group.iter().try_for_each(|mut procs| procs.write_all(b"0"))
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot write {value} to {}: {e}", path.display())))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory_mib: 64, vcpus: 2, pids: 99, scratch_mib: 1 };

    #[test]
    fn layouts_are_told_apart() {
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(Hierarchy::parse(v2), Some(Hierarchy::V2 { root: "/sys/fs/cgroup".into() }));
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let hierarchy = Hierarchy::parse(hybrid).unwrap();
        let group = hierarchy.group("/a/b");
        assert_eq!(group.directory("cpu").unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b"));
        assert_eq!(group.directory("memory").unwrap(), Path::new("/sys/fs/cgroup/memory/a/b"));
        assert!(group.directory("pids").is_err());
        assert!(group.directories().contains(&"/sys/fs/cgroup/unified/a/b".into()));
        assert_eq!(Hierarchy::parse("tmpfs / tmpfs rw 0 0"), None);
    }

    /// Version 2 cannot be mounted with controllers on machines of the hybrid layout, so its files are plain files here.
    #[test]
    fn version_2_files_are_written_and_read() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a");
        fs::create_dir(&directory).unwrap();
        let group = Hierarchy::V2 { root: root.path().into() }.group("a");
        group.set_limits(&LIMITS).unwrap();
        let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
        assert_eq!(read("memory.max"), (64 << 20).to_string());
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("cpu.max"), "200000 100000");
        assert_eq!(read("cpu.weight"), "100");
        assert_eq!(read("pids.max"), "99");
        assert_eq!(group.oom_kills(), 0);
        fs::write(directory.join("memory.events"), "low 0\noom 3\noom_kill 2\noom_group_kill 0\n").unwrap();
        assert_eq!(group.oom_kills(), 2);
        fs::write(directory.join("memory.current"), "4096\n").unwrap();
        assert_eq!(group.memory_bytes(), Some(4096));
        fs::write(directory.join("memory.stat"), "anon 1024\nfile 3072\nshmem 2048\n").unwrap();
        assert_eq!(group.own_memory_bytes(), Some(3072));
        assert!(group.is_empty());
    }

    #[test]
    fn version_2_groups_are_made_with_their_controllers_and_joined() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a/b");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("cgroup.procs"), "").unwrap();
        let group = Hierarchy::V2 { root: root.path().into() }.group("a/b");
        let members = group.make().unwrap();
        for above in ["", "a"] {
            let file = root.path().join(above).join("cgroup.subtree_control");
            assert_eq!(fs::read_to_string(file).unwrap(), "+cpu +memory +pids");
        }
        assert!(!directory.join("cgroup.subtree_control").exists(), "what has processes hands nothing down");
        join(&members).unwrap();
        assert_eq!(fs::read_to_string(directory.join("cgroup.procs")).unwrap(), "0");
        group.set_waiting_limits(&WaitingLimits { memory: 4096, pids: 3, shares: 8 }).unwrap();
        let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
        assert_eq!((read("memory.max"), read("pids.max"), read("cpu.weight")), ("4096".into(), "3".into(), "1".into()));
    }

    #[test]
    fn missing_groups_are_empty_and_removed() {
        let group = Hierarchy::V2 { root: "/nowhere".into() }.group("x");
        assert!(group.is_empty());
        group.kill_all(Duration::from_millis(1)).unwrap();
        group.remove().unwrap();
        assert!(group.set_limits(&LIMITS).unwrap_err().to_string().contains("/nowhere/x/memory.max"));
    }
}
