//! The container driver: an OCI container made by any OCI runtime binary, in a mount namespace of the supervisor's own.
//!
//! ```text
//!  machine:      image (squashfs, mounted once, shared)      code (squashfs or directory)
//!                     │ clone, ids mapped                         │ clone, ids mapped
//!  supervisor's       ▼                                           │
//!  namespace:    lower + scratch (tmpfs, limited) = rootfs        │
//!                     │ OCI runtime                               │ moved in at the claim
//!  container:         ▼ /                                         ▼ /opt/code
//! ```
//! Everything that is mounted per sandbox is mounted in the supervisor's namespace, so that nothing is left when it dies,
//! however it dies. Users of the container are mapped to a range of ids of the machine that no other sandbox has.

mod ephemeral;
mod gvisor;
mod mounts;
mod namespaces;
mod native;
mod network;
mod oci;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guest::{CODE_DIRECTORY, SetUp};
use protocol::Isolation;
use rustix::process::{Pid, WaitOptions, wait, waitpid};

use crate::cgroup::{Cgroup, Hierarchy, USUAL_SHARES, WaitingLimits};
use crate::layout::SandboxDirectory;
use crate::spec::{ClaimSpec, CodeSource, ContainerSpec, Limits, VolumeSource};

pub use gvisor::check as check_gvisor;
pub use mounts::{enter_own_namespace, id_mapped_mounts_work};

/// How many ids a container has.
pub const IDS_PER_CONTAINER: u32 = 65_536;

/// Processes before a claim sets the program's own limit: the init alone.
const UNCLAIMED_PIDS: u32 = 16;

/// MiB of memory before a claim sets the program's own limit.
const UNCLAIMED_MIB: u64 = 64;

/// The same with an interpreter that waits: 45 MiB with FastAPI, and the image's pages, which the first to read them pays for.
const WARM_MIB: u64 = 256;

/// Processor shares of what warms up: next to nothing when others want it. The claim gives it the usual share.
const WARM_SHARES: u64 = 8;

/// MiB of scratch space before a claim sets the program's own limit.
const UNCLAIMED_SCRATCH_MIB: u64 = 16;

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The operating system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The OCI runtime refused.
    #[error("{runtime} could not start the container: {message}")]
    Runtime {
        /// Its binary.
        runtime: String,
        /// What it printed.
        message: String,
    },
}

/// Why a sandbox could not be made a program's.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The code is not what it should be.
    #[error("{0}")]
    Code(String),
    /// The operating system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// Adds to an error what was tried.
trait During<T> {
    fn preparing(self, what: &'static str) -> Result<T, PrepareError>;
    fn claiming(self, what: &'static str) -> Result<T, ClaimError>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn preparing(self, what: &'static str) -> Result<T, PrepareError> {
        self.map_err(|e| PrepareError::System { what, source: e.into() })
    }

    fn claiming(self, what: &'static str) -> Result<T, ClaimError> {
        self.map_err(|e| ClaimError::System { what, source: e.into() })
    }
}

/// What connects the supervisor with the init and the program.
pub struct GuestChannels {
    /// The control socket.
    pub control: UnixStream,
    /// The reading end of the program's standard output.
    pub stdout: OwnedFd,
    /// The reading end of its standard error.
    pub stderr: OwnedFd,
}

/// The other ends of [`GuestChannels`].
struct Ends {
    control: UnixStream,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// What a way of isolation needs of memory and processes for itself.
#[derive(Debug, Clone, Copy)]
struct Overhead {
    memory_mib: u64,
    tasks: u32,
    tasks_per_process: u32,
}

impl ContainerSpec {
    /// The limits of the control group in which a program with these limits runs.
    #[must_use]
    pub fn group_limits(&self, limits: &Limits) -> Limits {
        let Overhead { memory_mib, tasks, tasks_per_process } = match self.isolation {
            Isolation::Container => Overhead { memory_mib: 0, tasks: 0, tasks_per_process: 1 },
            Isolation::Gvisor => gvisor::OVERHEAD,
        };
        let pids = limits.pids.saturating_mul(tasks_per_process).saturating_add(tasks);
        Limits { memory_mib: limits.memory_mib + memory_mib, pids, ..*limits }
    }
}

/// One container.
pub struct Container {
    name: String,
    spec: ContainerSpec,
    directory: SandboxDirectory,
    warm: bool,
    cgroup: Option<Cgroup>,
    init: Option<Pid>,
}

impl Container {
    /// A container that is not made yet; `warm` if more than its init is to wait in it.
    pub fn new(name: String, spec: ContainerSpec, directory: SandboxDirectory, warm: bool) -> Self {
        Self { name, spec, directory, warm, cgroup: None, init: None }
    }

    /// Makes it: the image is up, the init waits, nothing of anybody is in it.
    ///
    /// # Errors
    /// [`PrepareError`]; what was made so far is cleared away by [`Container::kill`] and [`Container::clean_up`].
    pub fn prepare(&mut self) -> Result<GuestChannels, PrepareError> {
        let hierarchy = Hierarchy::detect().preparing("cannot find control groups")?;
        self.cgroup = Some(hierarchy.group(&self.spec.cgroup));
        mounts::enter_own_namespace().preparing("cannot make a mount namespace")?;
        mounts::hide_from_runtimes(&hierarchy).preparing("cannot hide the version 2 control groups")?;
        self.make_root().preparing("cannot put the root file system together")?;
        // The init becomes this process's child once the OCI runtime has exited, so that its death signal means us.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).preparing("cannot adopt processes")?;

        let bundle = self.directory.bundle();
        fs::create_dir_all(&bundle).preparing("cannot make the bundle")?;
        let limits = self.waiting_limits();
        let config = match self.spec.isolation {
            Isolation::Container => native::config(&self.name, &self.spec, &self.directory, &limits),
            Isolation::Gvisor => gvisor::config(&self.name, &self.spec, &self.directory),
        };
        fs::write(bundle.join("config.json"), config.to_string()).preparing("cannot write the bundle")?;
        self.start(&limits)
    }

    /// What it may use before it is claimed.
    fn waiting_limits(&self) -> WaitingLimits {
        let (memory_mib, shares) = if self.warm { (WARM_MIB, WARM_SHARES) } else { (UNCLAIMED_MIB, USUAL_SHARES) };
        let limits = Limits { memory_mib, vcpus: 1, pids: UNCLAIMED_PIDS, scratch_mib: UNCLAIMED_SCRATCH_MIB };
        let Limits { memory_mib, pids, .. } = self.spec.group_limits(&limits);
        WaitingLimits { memory: memory_mib << 20, pids: pids.into(), shares }
    }

    /// Mounts the root file system: the image below, a limited tmpfs above.
    fn make_root(&self) -> io::Result<()> {
        let first = self.spec.first_uid;
        let map = namespaces::user_namespace(first, IDS_PER_CONTAINER)?;
        let [lower, scratch, root, guest] = self.mount_points();
        for directory in [&lower, &scratch, &root, &guest] {
            fs::DirBuilder::new().recursive(true).mode(0o711).create(directory)?;
        }
        mounts::mount_clone(&self.spec.image, &lower, Some(&map))?;
        mounts::mount_clone(&self.spec.guest, &guest, None)?;
        // Read-only over itself: here, and so in the container, while the agent goes on writing to it. Its ids are not
        // mapped: nobody may write to files of users that a map does not have, and to connect is to write.
        mounts::mount_clone(&self.directory.api(), &self.directory.api(), None)?;
        mounts::mount_tmpfs(&scratch, UNCLAIMED_SCRATCH_MIB)?;
        let (upper, work) = (scratch.join("upper"), scratch.join("work"));
        for directory in [&upper, &work] {
            fs::create_dir(directory)?;
        }
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))?;
        lchown(&upper, Some(first), Some(first))?;
        mounts::mount_overlay(&lower, &upper, &work, &root)
    }

    fn mount_points(&self) -> [PathBuf; 4] {
        ["lower", "scratch", "rootfs", "guest"].map(|name| self.directory.path().join(name))
    }

    /// Buries processes that have ended and were left to this one: the OCI runtime's helpers. The init is not asked how it ended:
    /// its number must not become that of anybody else, as it is what the container is entered by.
    pub fn bury_helpers(&self) {
        while let Some(ended) = namespaces::ended_child()
            && Some(ended) != self.init
            && waitpid(Some(ended), WaitOptions::NOHANG).is_ok()
        {}
    }

    /// Has the OCI runtime start the init.
    fn start(&mut self, limits: &WaitingLimits) -> Result<GuestChannels, PrepareError> {
        let (control, theirs) = UnixStream::pair().preparing("cannot make the control socket")?;
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (stdout, stdout_theirs) = pipe().preparing("cannot make a pipe")?;
        let (stderr, stderr_theirs) = pipe().preparing("cannot make a pipe")?;
        // The container's user must be able to open them again, as programs that write to /dev/stdout do.
        for fd in [&stdout_theirs, &stderr_theirs] {
            let id = self.spec.first_uid;
            rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(id)), Some(rustix::fs::Gid::from_raw(id)))
                .preparing("cannot hand over a pipe")?;
        }
        for fd in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(fd, true).preparing("cannot set up a pipe")?;
        }
        control.set_nonblocking(true).preparing("cannot set up the control socket")?;
        let channels = GuestChannels { control, stdout, stderr };
        let ends = Ends { control: theirs, stdout: stdout_theirs, stderr: stderr_theirs };
        self.init = match self.spec.isolation {
            Isolation::Container => native::start(self, ends, &channels)?,
            Isolation::Gvisor => gvisor::start(self, ends, &channels, limits)?,
        };
        Ok(channels)
    }

    /// Makes it a program's: limits, identity, network and code. What this leaves to the init comes back.
    ///
    /// # Errors
    /// [`ClaimError`]; the container is of no use then.
    pub fn claim(&mut self, claim: &ClaimSpec) -> Result<Option<SetUp>, ClaimError> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "the init has not started");
        let init = self.init.ok_or_else(missing).claiming("cannot enter the container")?;
        let cgroup = self.cgroup.as_ref().ok_or_else(missing).claiming("cannot limit the container")?;
        cgroup.set_limits(&self.spec.group_limits(&claim.limits)).claiming("cannot limit the container")?;
        let [_, scratch, ..] = self.mount_points();
        mounts::resize_tmpfs(&scratch, claim.limits.scratch_mib).claiming("cannot limit what the container writes")?;
        if let Some(network) = &claim.network {
            network::connect(network, init).claiming("cannot connect the container to the network")?;
        }
        let map = namespaces::user_namespace(self.spec.first_uid, IDS_PER_CONTAINER).claiming("cannot map ids")?;
        let mut mounts = vec![(self.open_code(&claim.code, &map)?, PathBuf::from(CODE_DIRECTORY))];
        for (number, volume) in claim.volumes.iter().enumerate() {
            mounts.push((self.open_volume(number, &volume.source, &map)?, volume.mount.clone()));
        }
        let host_name = claim.program.host_label();
        let name_servers = claim.network.iter().flat_map(|network| network.name_servers.clone()).collect();
        let failed = "cannot put the code into the container";
        match self.spec.isolation {
            Isolation::Container => {
                let inside = namespaces::Inside { host_name, mounts, owner: self.spec.first_uid, name_servers };
                namespaces::set_up_inside(init, &inside).claiming(failed)?;
                Ok(None)
            }
            Isolation::Gvisor => {
                let mounts = gvisor::pass_mounts(&self.directory, mounts).claiming(failed)?;
                Ok(Some(SetUp { host_name, mounts, name_servers }))
            }
        }
    }

    /// The code as a mount that is nowhere yet.
    fn open_code(&self, code: &CodeSource, map: &OwnedFd) -> Result<OwnedFd, ClaimError> {
        match code {
            CodeSource::Directory(directory) => {
                mounts::clone_mount(directory, Some(map)).claiming("cannot open the code")
            }
            CodeSource::Squashfs(image) => self.open_image(image, "code", "the code", map),
        }
    }

    /// A volume as a mount that is nowhere yet.
    fn open_volume(&self, number: usize, source: &VolumeSource, map: &OwnedFd) -> Result<OwnedFd, ClaimError> {
        match source {
            VolumeSource::Directory(directory) => {
                mounts::clone_writable(directory, map).claiming("cannot open a volume")
            }
            VolumeSource::Ephemeral { directory, size_mib } => {
                let mount_point = self.directory.path().join(format!("volume-{number}"));
                fs::create_dir_all(&mount_point).claiming("cannot make an ephemeral volume")?;
                ephemeral::mount(directory, *size_mib, &mount_point).claiming("cannot make an ephemeral volume")?;
                mounts::clone_writable(&mount_point, map).claiming("cannot open a volume")
            }
            VolumeSource::Squashfs(image) => {
                self.open_image(image, &format!("volume-{number}"), &format!("volume {number}"), map)
            }
        }
    }

    fn open_image(&self, image: &Path, name: &str, what: &str, map: &OwnedFd) -> Result<OwnedFd, ClaimError> {
        let mount_point = self.directory.path().join(name);
        fs::create_dir_all(&mount_point).claiming("cannot mount an image")?;
        mounts::mount_squashfs(image, &mount_point)
            .map_err(|e| ClaimError::Code(format!("{what} is no squashfs image that this machine can mount: {e}")))?;
        mounts::clone_mount(&mount_point, Some(map)).claiming("cannot open an image")
    }

    /// How often the kernel killed something in it for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.cgroup.as_ref().map_or(0, Cgroup::oom_kills)
    }

    /// Lets everything in it go on, if it is frozen.
    ///
    /// # Errors
    /// When the control group refuses.
    pub fn thaw(&self) -> io::Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), Cgroup::thaw)
    }

    /// Kills everything in it.
    ///
    /// # Errors
    /// When something still lives after `within`.
    pub fn kill(&mut self, within: Duration) -> io::Result<()> {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill_all(within)?;
        }
        // Collect the init and what the OCI runtime left, so that no process is seen as running any more.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        Ok(())
    }

    /// Removes what is left of it outside. What stays is removed by the agent.
    pub fn clean_up(&self) {
        if let Some(cgroup) = &self.cgroup
            && let Err(e) = cgroup.remove()
        {
            eprintln!("cannot remove the control group: {e}");
        }
    }
}

/// What the OCI runtime complained about; it shares standard error with the container.
fn runtime_error(runtime: &Path, channels: &GuestChannels) -> PrepareError {
    let mut buffer = [0; 4096];
    let length = rustix::io::read(&channels.stderr, &mut buffer).unwrap_or(0);
    let message = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
    PrepareError::Runtime { runtime: runtime.display().to_string(), message }
}
