//! The OCI runtime's configuration of a sandbox (runtime-spec 1.0): what a program can see and do.

use guest::{API_DIRECTORY, GUEST_DIRECTORY};
use serde_json::{Value, json};

use super::IDS_PER_CONTAINER;
use crate::cgroup::USUAL_SHARES;
use crate::layout::SandboxDirectory;
use crate::spec::ContainerSpec;

/// System calls that programs may make; see the file for how it was chosen.
const SECCOMP: &str = include_str!("seccomp.json");

/// How many files a program may have open, if the machine allows as many.
const MAX_OPEN_FILES: u64 = 16_384;

/// Processes before a claim sets the program's own limit: the init alone.
const UNCLAIMED_PIDS: u64 = 16;

/// Memory before a claim sets the program's own limit, in bytes.
const UNCLAIMED_MEMORY: u64 = 64 << 20;

/// The same with an interpreter that waits: 45 MiB with FastAPI, and the image's pages, which the first to read them pays for.
const WARM_MEMORY: u64 = 256 << 20;

/// Processor shares of what warms up: next to nothing when others want it. The claim gives it the usual share.
const WARM_SHARES: u64 = 8;

/// The configuration. Limits are set by the claim, at the control group.
pub(super) fn config(name: &str, spec: &ContainerSpec, directory: &SandboxDirectory, warm: bool) -> Value {
    let memory = if warm { WARM_MEMORY } else { UNCLAIMED_MEMORY };
    let shares = if warm { WARM_SHARES } else { USUAL_SHARES };
    let ids = json!([{ "containerID": 0, "hostID": spec.first_uid, "size": IDS_PER_CONTAINER }]);
    let seccomp: Value = serde_json::from_str(SECCOMP).expect("the file is part of this program");
    let files = open_files();
    json!({
        "ociVersion": "1.0.2",
        "hostname": name,
        "root": { "path": directory.path().join("rootfs"), "readonly": false },
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": [format!("{GUEST_DIRECTORY}/aleph-init")],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": { "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": [] },
            "noNewPrivileges": true,
            "rlimits": [
                { "type": "RLIMIT_NOFILE", "soft": files, "hard": files },
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            ],
        },
        "mounts": mounts(directory),
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" },
                { "type": "user" }, { "type": "cgroup" },
            ],
            "uidMappings": ids,
            "gidMappings": ids,
            "cgroupsPath": format!("/{}", spec.cgroup.trim_matches('/')),
            "resources": {
                "devices": [{ "allow": false, "access": "rwm" }],
                "memory": { "limit": memory },
                "cpu": { "shares": shares },
                "pids": { "limit": UNCLAIMED_PIDS },
            },
            "seccomp": seccomp,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
                "/sys/firmware", "/sys/fs/cgroup",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn mounts(directory: &SandboxDirectory) -> Value {
    let guest = directory.path().join("guest");
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "strictatime", "mode=755", "size=64k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
          "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
          "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=64m"] },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        { "destination": GUEST_DIRECTORY, "type": "bind", "source": guest,
          "options": ["bind", "ro", "nosuid", "nodev"] },
        { "destination": API_DIRECTORY, "type": "bind", "source": directory.api(),
          "options": ["bind", "ro", "nosuid", "nodev", "noexec"] },
    ])
}

/// [`MAX_OPEN_FILES`], or as many as this process may give.
fn open_files() -> u64 {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    hard.map_or(MAX_OPEN_FILES, |hard| hard.min(MAX_OPEN_FILES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_no_capabilities_and_ids_of_their_own() {
        let spec = ContainerSpec {
            oci_runtime: "crun".into(),
            image: "/image".into(),
            guest: "/guest".into(),
            first_uid: 1_000_000,
            cgroup: "aleph/x".into(),
        };
        let config = config("x", &spec, &SandboxDirectory::new("/run/x"), false);
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            assert_eq!(config["process"]["capabilities"][set], json!([]));
        }
        assert_eq!(config["process"]["noNewPrivileges"], true);
        assert_eq!(config["linux"]["uidMappings"][0]["hostID"], 1_000_000);
        assert_eq!(config["linux"]["cgroupsPath"], "/aleph/x");
        let kinds: Vec<_> =
            config["linux"]["namespaces"].as_array().unwrap().iter().map(|n| n["type"].clone()).collect();
        for kind in ["pid", "mount", "ipc", "uts", "network", "user"] {
            assert!(kinds.contains(&json!(kind)), "{kind}");
        }
    }

    #[test]
    fn dangerous_system_calls_are_not_allowed() {
        let seccomp: Value = serde_json::from_str(SECCOMP).unwrap();
        assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO");
        let allowed: Vec<&str> = seccomp["syscalls"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule.get("args").is_none())
            .flat_map(|rule| rule["names"].as_array().unwrap())
            .map(|name| name.as_str().unwrap())
            .collect();
        for call in [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "clone",
            "clone3",
            "bpf",
            "ptrace",
            "keyctl",
            "add_key",
            "kexec_load",
            "init_module",
            "perf_event_open",
            "io_uring_setup",
            "userfaultfd",
            "reboot",
            "swapon",
            "open_by_handle_at",
            "pivot_root",
            "move_mount",
            "fsopen",
            "personality",
            "socket",
        ] {
            assert!(!allowed.contains(&call), "{call} is allowed without conditions");
        }
        for call in ["read", "write", "execve", "futex", "epoll_wait", "mmap", "accept4", "fork", "vfork"] {
            assert!(allowed.contains(&call), "{call} is not allowed");
        }
    }
}
