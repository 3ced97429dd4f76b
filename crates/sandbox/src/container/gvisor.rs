//! A container with a kernel of its own: gVisor (`runsc`). What the program asks of a kernel is answered by gVisor's, a process
//! of the container's user on the machine, which asks little of the machine's itself.
//!
//! ```text
//!  supervisor ──▶ runsc: process 1 of a pid namespace, in mount and network namespaces of the sandbox
//!                   ├─▶ gofer: opens files of the machine for the kernel
//!                   └─▶ the kernel ── init ── program
//! ```
//! The supervisor's death is runsc's, by its death signal, and the death of process 1 is that of everything in its namespace. All
//! are in the control group before they are runsc, so limits and the freezer hold for all of them.
//!
//! Nobody can enter the sandbox from outside, as its namespaces are inside gVisor, and no listening socket can be passed in. So
//! the init makes the socket, in a directory that is taken from it before anything else runs, and does itself what the
//! claim asks for ([`guest::SetUp`]); code and volumes appear in a directory that it mounts them from. It has the
//! capabilities for that until then: they count in gVisor's kernel, not in the machine's.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use guest::{API_DIRECTORY, API_LINK, API_SOCKET, CONTROL_FD, LISTEN, Placed};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2, symlinkat};
use rustix::net::{RecvFlags, recv};
use rustix::process::Pid;
use serde_json::{Value, json};

use super::{
    Container, During, Ends, GuestChannels, Overhead, PrepareError, mounts, namespaces, network, oci, runtime_error,
};
use crate::cgroup::{WaitingLimits, join};
use crate::layout::SandboxDirectory;
use crate::spec::ContainerSpec;

/// The oldest release that this was tried with; it has what sandboxes need: `--pass-fd`, `--host-uds`, systrap.
const OLDEST: u32 = 20_240_729;

/// Whether this binary is a gVisor that sandboxes can be made with.
///
/// # Errors
/// Why it is none, for operators.
pub fn check(runsc: &Path) -> Result<(), String> {
    let path = runsc.display();
    let output = Command::new(runsc).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("cannot execute {path}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let release = release(&said).ok_or_else(|| format!("{path} is not gVisor: it says no version of it"))?;
    if release < OLDEST {
        return Err(format!(
            "{path} is gVisor of {release}, which is too old: {OLDEST} or newer is needed, as Debian has it in bookworm-backports"
        ));
    }
    Ok(())
}

/// The date in what `runsc --version` says: `runsc version 0.0~20240729.0`, or `release-20240729.0`.
fn release(said: &str) -> Option<u32> {
    let version = said.lines().find_map(|line| line.strip_prefix("runsc version "))?;
    version.split(|c: char| !c.is_ascii_digit()).find(|digits| digits.len() == 8)?.parse().ok()
}

/// What runsc, the gofer and the kernel need for themselves: measured with FastAPI, 35 MiB and 37 threads. A process of the program
/// is two of the machine.
pub(super) const OVERHEAD: Overhead = Overhead { memory_mib: 48, tasks: 64, tasks_per_process: 2 };

/// Where the init makes the socket that requests enter by.
const LISTEN_DIRECTORY: &str = "/opt/aleph-listen";
const SOCKET: &str = "http.sock";

/// Where code and volumes appear.
const ARRIVALS_DIRECTORY: &str = "/opt/aleph-arrivals";

/// What the init needs to make the sandbox a program's.
const CAPABILITIES: [&str; 5] = ["CAP_SYS_ADMIN", "CAP_SETPCAP", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_CHOWN"];

/// The namespaces that runsc is in. Those of the program are gVisor's.
const NAMESPACES: libc::c_int = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC;

/// How runsc is called, whatever it shall do.
const OPTIONS: [&str; 5] = [
    // Never /dev/kvm, which a machine may have and not mean for this.
    "--platform=systrap",
    // The network namespace that runsc is in, which is the sandbox's: its way out comes at the claim.
    "--network=host",
    // The sockets of guest API and requests.
    "--host-uds=all",
    // What is written goes to the limited file system that lies over the image already.
    "--overlay2=none",
    "--ignore-cgroups",
];

/// The configuration.
pub(super) fn config(name: &str, spec: &ContainerSpec, directory: &SandboxDirectory) -> Value {
    let mut config = oci::config(name, spec, directory);
    let process = &mut config["process"];
    oci::add(&mut process["args"], json!([LISTEN, Path::new(LISTEN_DIRECTORY).join(SOCKET)]));
    for set in ["bounding", "effective", "permitted"] {
        process["capabilities"][set] = json!(CAPABILITIES);
    }
    oci::add(
        &mut config["mounts"],
        json!([
            { "destination": LISTEN_DIRECTORY, "type": "bind", "source": directory.listen(),
              "options": ["bind", "nosuid", "nodev", "noexec"] },
            { "destination": ARRIVALS_DIRECTORY, "type": "bind", "source": directory.arrivals(),
              "options": ["rbind", "rslave", "nosuid", "nodev"] },
        ]),
    );
    config
}

/// Has something in `/tmp`, as runsc puts a file system without a limit over one that is empty: the link that programs expect there,
/// which the claim would make otherwise. An image that has no such directory goes without.
fn fill_tmp(root: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    // A link in the image leads nowhere else.
    let tmp = openat2(&root, "tmp", flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let target = Path::new(API_DIRECTORY).join(API_SOCKET);
    symlinkat(target, &tmp, Path::new(API_LINK).file_name().expect("it is a file"))?;
    Ok(())
}

/// Starts runsc, and waits until the init waits. Says which process runsc is.
pub(super) fn start(
    container: &Container,
    ends: Ends,
    channels: &GuestChannels,
    limits: &WaitingLimits,
) -> Result<Option<Pid>, PrepareError> {
    let directory = &container.directory;
    let cgroup = container.cgroup.as_ref().expect("it is found before anything is started");
    let members = cgroup.make().preparing("cannot make the control group")?;
    cgroup.set_waiting_limits(limits).preparing("cannot limit the container")?;
    make_directories(directory, container.spec.first_uid).preparing("cannot make the container's directories")?;
    if let Err(e) = fill_tmp(&container.mount_points()[2]) {
        eprintln!("the image's /tmp cannot be used: {e}");
    }

    let runtime = &container.spec.oci_runtime;
    let mut command = Command::new(runtime);
    command.arg("--root").arg(directory.runtime_state()).args(OPTIONS);
    command.args(["run", "--bundle"]).arg(directory.bundle());
    command.arg(format!("--pass-fd={}:{CONTROL_FD}", ends.control.as_raw_fd())).arg(&container.name);
    let runsc = namespaces::fork(NAMESPACES, move || {
        let error = become_runsc(command, ends, &members);
        Err(error)
    });
    let runsc = runsc.preparing("cannot start a process for runsc")?;
    wait_for_init(channels).map_err(|_| runtime_error(runtime, channels))?;
    take_socket(directory).preparing("cannot take the socket of requests")?;
    Ok(Some(runsc))
}

/// The directories that the sandbox shares with the machine, beside the guest API's.
fn make_directories(directory: &SandboxDirectory, first_uid: u32) -> io::Result<()> {
    let (listen, arrivals) = (directory.listen(), directory.arrivals());
    fs::DirBuilder::new().mode(0o700).create(&listen)?;
    chown(&listen, Some(first_uid), Some(first_uid))?;
    // Of nobody that the sandbox has: it can look, and change nothing.
    fs::DirBuilder::new().mode(0o711).create(&arrivals)?;
    mounts::share(&arrivals)
}

/// In a process of its own, in new namespaces. Comes back when that failed, and has said so where runsc would have.
fn become_runsc(mut command: Command, ends: Ends, members: &[File]) -> io::Error {
    let Ends { control, stdout, stderr } = ends;
    let said = stderr.try_clone();
    let become_it = || {
        join(members)?;
        mounts::enter_new_processes()?;
        network::bring_loopback_up()?;
        rustix::io::fcntl_setfd(&control, rustix::io::FdFlags::empty())?;
        Ok(())
    };
    let error = match become_it() {
        Ok(()) => command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).exec(),
        Err(error) => error,
    };
    if let Ok(said) = said {
        let _ = io::Write::write_all(&mut File::from(said), error.to_string().as_bytes());
    }
    error
}

/// Waits for the init's first word, and leaves it to be read.
fn wait_for_init(channels: &GuestChannels) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(channels.control.as_fd(), PollFlags::IN)], None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let (length, _) = recv(&channels.control, &mut [0; 1][..], RecvFlags::PEEK)?;
    if length == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Takes the socket that the init made to where requests are sent, and its directory from the sandbox: whoever connects never
/// follows what a program puts there. Only the init has run so far.
fn take_socket(directory: &SandboxDirectory) -> io::Result<()> {
    let listen = directory.listen();
    chown(&listen, Some(0), Some(0))?;
    fs::set_permissions(&listen, fs::Permissions::from_mode(0o700))?;
    let socket = listen.join(SOCKET);
    if !fs::symlink_metadata(&socket)?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no socket"));
    }
    fs::rename(socket, directory.http_socket())
}

/// Has code and volumes appear in the sandbox, under names that nobody has looked for. Says from where each goes where.
pub(super) fn pass_mounts(directory: &SandboxDirectory, mounts: Vec<(OwnedFd, PathBuf)>) -> io::Result<Vec<Placed>> {
    let pass = |(number, (mount, to)): (usize, (OwnedFd, PathBuf))| {
        let name = number.to_string();
        let outside = directory.arrivals().join(&name);
        fs::DirBuilder::new().mode(0o711).create(&outside)?;
        mounts::attach(mount.as_fd(), &outside)?;
        Ok(Placed { from: Path::new(ARRIVALS_DIRECTORY).join(name), to })
    };
    mounts.into_iter().enumerate().map(pass).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_debian_and_of_gvisor_itself_are_read() {
        assert_eq!(release("runsc version 0.0~20240729.0\nspec: 1.0.2-dev\n"), Some(20_240_729));
        assert_eq!(release("runsc version release-20250113.0\nspec: 1.1.0-rc.1\n"), Some(20_250_113));
        assert_eq!(release("crun version 1.8.1\n"), None);
    }

    fn check_script(says: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let runsc = folder.path().join("runsc");
        fs::write(&runsc, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(&runsc, fs::Permissions::from_mode(0o755)).unwrap();
        check(&runsc).err().unwrap_or_default()
    }

    #[test]
    fn what_is_too_old_or_no_gvisor_is_refused_with_what_is_needed() {
        assert_eq!(check_script("runsc version 0.0~20240729.0"), "");
        let old = check_script("runsc version 0.0~20221219.0");
        assert!(old.contains("20221219, which is too old: 20240729 or newer"), "{old}");
        assert!(check_script("crun version 1.8.1").contains("is not gVisor"));
        assert!(check(Path::new("/nowhere/runsc")).unwrap_err().starts_with("cannot execute /nowhere/runsc: "));
    }
}
