//! A container on the machine's own kernel, made by crun or runc: namespaces, a list of system calls, no capabilities. The
//! supervisor passes the listening socket in, and enters the container to make it a program's.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use guest::{CONTROL_FD, LISTENER_FD};
use rustix::process::Pid;
use serde_json::{Value, json};

use super::{Container, During, Ends, GuestChannels, PrepareError, oci, runtime_error};
use crate::cgroup::WaitingLimits;
use crate::layout::SandboxDirectory;
use crate::spec::ContainerSpec;

/// System calls that programs may make; see the file for how it was chosen.
const SECCOMP: &str = include_str!("seccomp.json");

/// The configuration. A program's limits are set by the claim, at the control group.
pub(super) fn config(name: &str, spec: &ContainerSpec, directory: &SandboxDirectory, limits: &WaitingLimits) -> Value {
    let mut config = oci::config(name, spec, directory);
    oci::add(&mut config["linux"]["namespaces"], json!([{ "type": "network" }, { "type": "cgroup" }]));
    config["linux"]["cgroupsPath"] = format!("/{}", spec.cgroup.trim_matches('/')).into();
    config["linux"]["resources"] = json!({
        "devices": [{ "allow": false, "access": "rwm" }],
        "memory": { "limit": limits.memory },
        "cpu": { "shares": limits.shares },
        "pids": { "limit": limits.pids },
    });
    config["linux"]["seccomp"] = serde_json::from_str(SECCOMP).expect("the file is part of this program");
    config["linux"]["maskedPaths"] = json!([
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
        "/sys/fs/cgroup",
    ]);
    config["linux"]["readonlyPaths"] =
        json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    config
}

/// Has the OCI runtime start the init with its descriptors. Says which process the init is.
pub(super) fn start(container: &Container, ends: Ends, channels: &GuestChannels) -> Result<Option<Pid>, PrepareError> {
    let (directory, runtime) = (&container.directory, &container.spec.oci_runtime);
    let listener = UnixListener::bind(directory.http_socket()).preparing("cannot listen for requests")?;
    let pid_file = directory.path().join("init.pid");
    let mut command = Command::new(runtime);
    command.arg("--root").arg(directory.runtime_state());
    command.args(["run", "--detach", "--preserve-fds", "2", "--pid-file"]).arg(&pid_file);
    command.arg("--bundle").arg(directory.bundle()).arg(&container.name);
    command.stdin(Stdio::null()).stdout(ends.stdout).stderr(ends.stderr);
    let descriptors = [(ends.control.as_raw_fd(), CONTROL_FD), (listener.as_raw_fd(), LISTENER_FD)];
    // SAFETY: between fork and exec only async-signal-safe system calls are made, on memory that was allocated before.
    unsafe {
        command.pre_exec(move || pass_descriptors(descriptors));
    }
    let status = command.status().preparing("cannot execute the OCI runtime")?;
    if !status.success() {
        return Err(runtime_error(runtime, channels));
    }
    let pid = fs::read_to_string(&pid_file).preparing("the OCI runtime left no process id")?;
    Ok(pid.trim().parse().ok().and_then(Pid::from_raw))
}

/// Makes exactly these descriptors the next process's 3 and 4, whatever numbers they have now, and ties it to us.
fn pass_descriptors(descriptors: [(i32, i32); 2]) -> io::Result<()> {
    // First out of the way of each other, then into place.
    let mut moved = [0; 2];
    for (slot, (ours, _)) in moved.iter_mut().zip(descriptors) {
        // SAFETY: plain system calls on descriptors that this process owns.
        *slot = unsafe { libc::fcntl(ours, libc::F_DUPFD_CLOEXEC, 10) };
        if *slot < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    for (from, (_, to)) in moved.iter().zip(descriptors) {
        // SAFETY: as above.
        if unsafe { libc::dup2(*from, to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_no_capabilities_and_ids_of_their_own() {
        let spec = ContainerSpec {
            isolation: protocol::Isolation::Container,
            oci_runtime: "crun".into(),
            image: "/image".into(),
            guest: "/guest".into(),
            first_uid: 1_000_000,
            cgroup: "aleph/x".into(),
        };
        let config =
            config("x", &spec, &SandboxDirectory::new("/run/x"), &WaitingLimits { memory: 1, pids: 2, shares: 3 });
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
