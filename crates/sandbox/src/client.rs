//! The agent's side: starts supervisors, finds those of an agent before it, and clears away what is left of a sandbox.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;

use crate::cgroup::Hierarchy;
use crate::layout::SandboxDirectory;
use crate::spec::{ClaimSpec, DriverSpec, End, PrepareSpec, Report, Request};

/// How long clearing away may wait for the last process to die.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// A connection to a living supervisor.
pub struct Supervisor {
    reports: Lines<BufReader<OwnedReadHalf>>,
    requests: OwnedWriteHalf,
}

impl Supervisor {
    /// Starts a supervisor for a new sandbox. It outlives this process.
    ///
    /// # Errors
    /// When the directory exists already or the supervisor cannot be started.
    pub async fn start(binary: &Path, directory: &SandboxDirectory, spec: &PrepareSpec) -> io::Result<Self> {
        for made in [directory.path(), &directory.api()] {
            DirBuilder::new().mode(0o711).create(made)?;
        }
        fs::write(directory.spec(), serde_json::to_vec(spec)?)?;
        let listener = UnixListener::bind(directory.supervisor_socket())?;
        let log = File::create(directory.supervisor_log())?;
        let mut command = Command::new(binary);
        command
            .arg(directory.path())
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(log.try_clone()?)
            .stderr(log)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .kill_on_drop(false);
        // SAFETY: setsid is async-signal-safe. A session of its own keeps the terminal's signals away.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
        }
        command.spawn().map_err(|e| io::Error::new(e.kind(), format!("cannot start {}: {e}", binary.display())))?;
        Self::connect(directory).await
    }

    /// Connects to the supervisor of a sandbox that exists.
    ///
    /// # Errors
    /// When it does not live any more.
    pub async fn connect(directory: &SandboxDirectory) -> io::Result<Self> {
        let (read, requests) = UnixStream::connect(directory.supervisor_socket()).await?.into_split();
        Ok(Self { reports: BufReader::new(read).lines(), requests })
    }

    /// Waits for the next report; `None` when the supervisor has ended. Nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// When a report cannot be read.
    pub async fn next_report(&mut self) -> io::Result<Option<Report>> {
        match self.reports.next_line().await? {
            Some(line) => Ok(Some(serde_json::from_str(&line)?)),
            None => Ok(None),
        }
    }

    /// Asks for something. What became of it is in the reports.
    ///
    /// # Errors
    /// When the supervisor has ended.
    pub async fn request(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.requests.write_all(&line).await
    }

    /// Makes the sandbox a program's, and notes it for an agent that comes later.
    ///
    /// # Errors
    /// When it cannot be noted or the supervisor has ended.
    pub async fn claim(&mut self, directory: &SandboxDirectory, claim: ClaimSpec) -> io::Result<()> {
        fs::write(directory.claim(), serde_json::to_vec(&claim)?)?;
        self.request(&Request::Claim(Box::new(claim))).await
    }
}

/// What the sandbox in this directory was prepared and claimed for; `None` where nothing was written yet.
///
/// # Errors
/// When a file is there but cannot be read.
pub fn read_specs(directory: &SandboxDirectory) -> io::Result<(Option<PrepareSpec>, Option<ClaimSpec>)> {
    Ok((read_json(&directory.spec())?, read_json(&directory.claim())?))
}

/// Makes sure that nothing of a sandbox runs, then removes its directory and control group. Says how it ended, when its
/// supervisor could still write that down. Blocks; call it where that is allowed.
///
/// When this returns without error the sandbox is gone for certain: no process is left in its control group and no
/// supervisor holds its lock.
///
/// # Errors
/// When something is left that does not die within ten seconds.
pub fn clear_away(directory: &SandboxDirectory) -> io::Result<Option<End>> {
    let (spec, _) = read_specs(directory).unwrap_or_default();
    if let Some(PrepareSpec { driver: DriverSpec::Container(container), .. }) = spec {
        let cgroup = Hierarchy::detect()?.group(&container.cgroup);
        kill_supervisor(directory)?;
        cgroup.kill_all(KILL_WITHIN)?;
        cgroup.remove()?;
    }
    let end = read_json(&directory.end()).unwrap_or_default();
    match fs::remove_dir_all(directory.path()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(end),
    }
}

/// Whether a supervisor owns the sandbox.
pub fn is_alive(directory: &SandboxDirectory) -> bool {
    File::open(directory.lock()).is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Kills the supervisor that holds the lock, if one does, and waits until the kernel has let go of it.
fn kill_supervisor(directory: &SandboxDirectory) -> io::Result<()> {
    let lock = match File::open(directory.lock()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        lock => lock?,
    };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        return Ok(());
    }
    // Locked, so the one who wrote its process id there still lives and still has it.
    if let Some(pid) = fs::read_to_string(directory.lock())?.trim().parse().ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
    Ok(flock(&lock, FlockOperation::LockExclusive)?)
}

/// Reads a JSON file; `None` when there is none.
fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
