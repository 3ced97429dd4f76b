//! The program: how it is started, when it is ready, how it ended.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use aleph_guest::{CODE_DIRECTORY, Configure, FromGuest, GUEST_DIRECTORY, Interface, LISTENER_FD, StartFailure};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};

use crate::capabilities;
use crate::warm::Interpreter;

/// The descriptor on which the ASGI glue reports, and is told what to become when it was started before that was known.
const CHANNEL_FD: i32 = 5;

/// The longest report of the ASGI glue, in bytes.
const MAX_REPORT_BYTES: usize = 64 << 10;

/// How often a binary's port is tried: quickly at first, then more calmly.
const FIRST_PROBE: Duration = Duration::from_millis(2);
const SLOWEST_PROBE: Duration = Duration::from_millis(100);

/// How long to wait for the last report of a program that has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A started program.
pub(crate) struct Program {
    pid: Pid,
    readiness: Readiness,
}

/// How it is learnt that the program answers.
enum Readiness {
    /// The ASGI glue reports it.
    Reported(Channel),
    /// Its port is tried.
    Probed { port: u16, pause: Duration },
    /// Known already, or never to be known.
    Settled,
}

/// What the ASGI glue writes: `{"ready": true}` or `{"failed": "entrypoint"|"startup"|"runtime", "message": "..."}`, and
/// before that `{"warm": true}`, if it was started to wait.
#[derive(Deserialize)]
struct Report {
    failed: Option<StartFailure>,
    #[serde(default)]
    message: String,
}

/// The connection with the ASGI glue: one JSON object a line.
pub(crate) struct Channel {
    stream: UnixStream,
    read: Vec<u8>,
}

impl Program {
    /// Starts the program in a process group of its own.
    ///
    /// With an interpreter that waits, an ASGI program is that; the glue knows when it must begin anew.
    pub(crate) async fn start(
        configure: &Configure,
        interpreter: Option<Interpreter>,
    ) -> Result<Self, (StartFailure, String)> {
        let environment = &configure.environment;
        match &configure.interface {
            Interface::Asgi { module, attribute } => {
                let became = match interpreter {
                    Some(interpreter) => interpreter.become_program(module, attribute, environment).await.ok(),
                    None => None,
                };
                let (pid, channel) = match became {
                    Some(became) => became,
                    None => start_glue(&[module, attribute], CODE_DIRECTORY, environment)?,
                };
                Ok(Self { pid, readiness: Readiness::Reported(channel) })
            }
            Interface::Binary { path, arguments, port } => {
                drop(interpreter);
                start_binary(path, arguments, *port, environment)
            }
        }
    }

    /// Waits for the program to become ready or to report a failure; for ever once that is settled.
    pub(crate) async fn next_event(&mut self) -> FromGuest {
        let event = match &mut self.readiness {
            Readiness::Reported(channel) => channel.receive().await,
            Readiness::Probed { port, pause } => {
                while TcpStream::connect(("127.0.0.1", *port)).await.is_err() {
                    sleep(*pause).await;
                    *pause = (*pause * 2).min(SLOWEST_PROBE);
                }
                Some(FromGuest::Ready)
            }
            Readiness::Settled => None,
        };
        self.readiness = Readiness::Settled;
        match event {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// What the program reported just before it ended, if that was a failure.
    pub(crate) async fn last_words(&mut self) -> Option<FromGuest> {
        let Readiness::Reported(channel) = &mut self.readiness else { return None };
        let report = timeout(LAST_WORDS, channel.receive()).await.ok()??;
        matches!(report, FromGuest::Failed { .. }).then_some(report)
    }

    /// Collects every child that ended. Says how the program ended, when it is among them.
    pub(crate) fn reap(&self) -> Option<FromGuest> {
        let mut exited = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                exited = Some(FromGuest::Exited { code: status.exit_status(), signal: status.terminating_signal() });
            }
        }
        exited
    }

    /// Asks the program to end.
    pub(crate) fn terminate(&self) {
        // It fails only when the program has ended, which is what is wanted.
        let _ = kill_process_group(self.pid, Signal::TERM);
    }

    /// Ends the program.
    pub(crate) fn kill(&self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

impl Channel {
    /// Reads the glue's next report; `None` when it closed the channel without one. Nothing is lost when the wait is given
    /// up.
    pub(crate) async fn receive(&mut self) -> Option<FromGuest> {
        let end = loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            if self.read.len() >= MAX_REPORT_BYTES {
                return None;
            }
            self.stream.readable().await.ok()?;
            let mut chunk = [0; 4096];
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.read.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        };
        let line: Vec<u8> = self.read.drain(..=end).collect();
        let report: Report = serde_json::from_slice(&line).ok()?;
        Some(match report.failed {
            Some(kind) => FromGuest::Failed { kind, message: report.message },
            None => FromGuest::Ready,
        })
    }

    /// Tells the glue something.
    pub(crate) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stream.write_all(&line).await
    }
}

/// Starts the ASGI glue in this directory.
pub(crate) fn start_glue(
    arguments: &[&str],
    directory: &str,
    environment: &[(String, String)],
) -> Result<(Pid, Channel), (StartFailure, String)> {
    let python = find_in_path("python3", environment)
        .ok_or_else(|| (StartFailure::Runtime, "the runtime image has no python3 on its PATH".to_owned()))?;
    let start = || {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(&python);
        // -s: nothing from a home directory; the glue itself arranges the rest of the path.
        command.args(["-s", &format!("{GUEST_DIRECTORY}/asgi.py")]).args(arguments).current_dir(directory);
        let descriptors = [(LISTENER_FD, LISTENER_FD), (theirs.as_raw_fd(), CHANNEL_FD)];
        let pid = spawn(command, environment, &descriptors)?;
        Ok((pid, Channel { stream: UnixStream::from_std(ours)?, read: Vec::new() }))
    };
    start().map_err(|e: io::Error| (StartFailure::Runtime, format!("cannot start {}: {e}", python.display())))
}

fn start_binary(
    path: &str,
    arguments: &[String],
    port: u16,
    environment: &[(String, String)],
) -> Result<Program, (StartFailure, String)> {
    let failed = |why: String| (StartFailure::Entrypoint, why);
    let relative = Path::new(path.trim_start_matches("./"));
    if relative.is_absolute() || relative.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(failed(format!("the entrypoint '{path}' must be a path inside the code")));
    }
    let executable = Path::new(CODE_DIRECTORY).join(relative);
    if !executable.is_file() {
        return Err(failed(format!("the entrypoint '{path}' is not in the code")));
    }
    let mut command = Command::new(&executable);
    command.args(arguments).current_dir(CODE_DIRECTORY);
    let pid = spawn(command, environment, &[]).map_err(|e| {
        let hint = match e.raw_os_error() {
            Some(libc::ENOENT) => " (its interpreter or dynamic loader is not in the runtime image)",
            Some(libc::ENOEXEC) => " (it is neither a Linux executable of this architecture nor a script with `#!`)",
            Some(libc::EACCES) => " (it is not marked executable)",
            _ => "",
        };
        failed(format!("cannot execute '{path}': {e}{hint}"))
    })?;
    Ok(Program { pid, readiness: Readiness::Probed { port, pause: FIRST_PROBE } })
}

/// Starts a command with this environment only, as the leader of a new process group. Of our descriptors it gets those of
/// the list (ours, its) and the output pipes.
fn spawn(mut command: Command, environment: &[(String, String)], descriptors: &[(i32, i32)]) -> io::Result<Pid> {
    let descriptors = descriptors.to_vec();
    command.env_clear().envs(environment.iter().map(|(k, v)| (k, v))).stdin(Stdio::null()).process_group(0);
    // SAFETY: between fork and exec only async-signal-safe system calls are made, on memory that was allocated before.
    unsafe {
        command.pre_exec(move || {
            for (ours, its) in &descriptors {
                // dup3 onto itself is an error; clearing close-on-exec is all that is needed then.
                let result = if ours == its { libc::fcntl(*ours, libc::F_SETFD, 0) } else { libc::dup2(*ours, *its) };
                if result < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            // The listener belongs to the server alone.
            if !descriptors.iter().any(|(ours, _)| *ours == LISTENER_FD) {
                libc::close(LISTENER_FD);
            }
            // What the init may still need is not for what it starts.
            capabilities::give_up()
        });
    }
    let child = command.spawn()?;
    Ok(Pid::from_child(&child))
}

fn find_in_path(name: &str, environment: &[(String, String)]) -> Option<PathBuf> {
    let path = environment.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_str())?;
    std::env::split_paths(OsStr::new(path)).map(|folder| folder.join(name)).find(|file| file.is_file())
}
