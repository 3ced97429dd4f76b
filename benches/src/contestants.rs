//! What a first request is compared with: the same application started by hand on this machine, and by `crun run` in an
//! image, until it answers.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use aleph_tests::{repository, signal};
use anyhow::{Context, bail};
use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long something that was killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// An application that is started in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum App {
    /// `examples/fastapi`, with uvicorn.
    Fastapi,
    /// `examples/static-server`.
    Static,
    /// `benches/program`, which answers with as many bytes as it is asked for.
    Bytes,
}

impl App {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fastapi => "fastapi",
            Self::Static => "static binary",
            Self::Bytes => "bytes",
        }
    }

    /// Its folder and its entrypoint, as the client uploads them.
    pub(crate) fn upload(self) -> (PathBuf, &'static str, &'static [&'static str]) {
        match self {
            Self::Fastapi => (repository("examples/fastapi/src"), "main:app", &[]),
            Self::Static => (repository("target/examples/static-server"), "static-server", &["--interface", "binary"]),
            Self::Bytes => (repository("target/bench-program"), "bench-program", &["--interface", "binary"]),
        }
    }

    const fn image(self) -> &'static str {
        match self {
            Self::Fastapi => "target/runtimes/python3.squashfs",
            Self::Static | Self::Bytes => "target/runtimes/minimal.squashfs",
        }
    }

    /// Its arguments after the interpreter, for a port.
    fn uvicorn(port: u16) -> Vec<String> {
        let port = port.to_string();
        [
            "-m",
            "uvicorn",
            "main:app",
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--log-level",
            "warning",
            "--no-access-log",
        ]
        .map(str::to_owned)
        .into()
    }

    /// Starts it on this machine, with nothing around it.
    pub(crate) fn start_on_host(self, port: u16) -> anyhow::Result<Child> {
        self.start_in(&self.upload().0, port)
    }

    /// The same, from another folder.
    pub(crate) fn start_in(self, folder: &Path, port: u16) -> anyhow::Result<Child> {
        let mut command = match self {
            Self::Fastapi => {
                // The interpreter's own name: by what it links to it would not find its environment.
                let mut command = Command::new(repository("target/tools/bench").join("bin/python"));
                command.args(Self::uvicorn(port)).env("PYTHONDONTWRITEBYTECODE", "1");
                command
            }
            Self::Static => Command::new(folder.join("static-server")),
            Self::Bytes => Command::new(folder.join("bench-program")),
        };
        command.current_dir(folder).env("PORT", port.to_string());
        spawn(&mut command).with_context(|| format!("cannot start {} on the host", self.name()))
    }
}

/// What goes wrong is printed; nothing of this says anything otherwise.
fn spawn(command: &mut Command) -> io::Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn()
}

/// Ends a process and waits until it is gone.
pub(crate) async fn end(mut child: Child) -> anyhow::Result<()> {
    child.start_kill()?;
    timeout(GONE_WITHIN, child.wait()).await.context("a killed process does not end")??;
    Ok(())
}

/// Bundles of an application for `crun`, on the mounted runtime image.
#[derive(Debug)]
pub(crate) struct Bundles {
    app: App,
    folder: TempDir,
    /// A hierarchy of control groups beside version 1, on which crun gives up unless it is hidden.
    hidden: Option<CString>,
}

/// One container. What `crun` started ends with this.
#[derive(Debug)]
pub(crate) struct Container {
    runtime: Child,
    pid_file: PathBuf,
}

impl Bundles {
    /// Mounts the application's image, read-only; every container shares it.
    pub(crate) async fn new(app: App) -> anyhow::Result<Self> {
        let bundles = Self { app, folder: TempDir::with_prefix("aleph-bench-")?, hidden: beside_version_1()? };
        let image = repository(app.image());
        fs::create_dir(bundles.root())?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "squashfs", "-o", "ro,loop,nosuid,nodev"]).arg(&image).arg(bundles.root());
        if !mount.status().await?.success() {
            bail!("cannot mount {}", image.display());
        }
        Ok(bundles)
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Starts one container whose application listens on this port of the machine.
    pub(crate) fn start(&self, port: u16) -> anyhow::Result<Container> {
        let name = format!("aleph-bench-{port}");
        let bundle = self.folder.path().join(&name);
        fs::create_dir_all(&bundle)?;
        let pid_file = bundle.join("pid");
        let _ = fs::remove_file(&pid_file);
        fs::write(bundle.join("config.json"), self.config(&name, port).to_string())?;
        let mut command = Command::new("crun");
        // In the control groups of this process, as what is started by hand: otherwise each container would have a share of
        // the processors of its own as soon as anything else runs.
        command.arg("--cgroup-manager=disabled").arg("--root").arg(self.folder.path().join("state")).arg("run");
        command.arg("--bundle").arg(&bundle).arg("--pid-file").arg(&pid_file).arg(&name);
        if let Some(hidden) = self.hidden.clone() {
            // SAFETY: between fork and exec only system calls are made, on memory that was allocated before.
            unsafe {
                command.pre_exec(move || {
                    unshare_unsafe(UnshareFlags::NEWNS)?;
                    Ok(rustix::mount::unmount(hidden.as_c_str(), UnmountFlags::DETACH)?)
                });
            }
        }
        Ok(Container { runtime: spawn(&mut command).context("cannot start crun")?, pid_file })
    }

    /// The least that is sensible: namespaces of its own but the network's, the image as root, the code mounted into it.
    fn config(&self, name: &str, port: u16) -> Value {
        let (folder, ..) = self.app.upload();
        let mut arguments = vec!["/opt/code/static-server".to_owned()];
        let mut mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
            json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"] }),
            json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "size=64m"] }),
            bind(&folder, "/opt/code"),
        ];
        if self.app == App::Fastapi {
            mounts.push(bind(&repository("target/guest/python"), "/opt/packages"));
            arguments = vec!["/usr/bin/python3".to_owned()];
            arguments.extend(App::uvicorn(port));
        }
        let environment =
            ["PATH=/usr/bin:/bin", "PYTHONPATH=/opt/packages", "PYTHONDONTWRITEBYTECODE=1", &format!("PORT={port}")]
                .map(str::to_owned);
        json!({
            "ociVersion": "1.0.2",
            "hostname": name,
            "root": { "path": self.root(), "readonly": true },
            "process": {
                "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/opt/code",
                "args": arguments, "env": environment,
            },
            "mounts": mounts,
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }] },
        })
    }
}

impl Drop for Bundles {
    fn drop(&mut self) {
        // The folder is deleted next, and must be empty then. The image itself is read-only.
        let _ = rustix::mount::unmount(self.root(), UnmountFlags::DETACH);
    }
}

impl Container {
    /// Kills the application and waits until `crun` has cleared it away.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.kill();
        timeout(GONE_WITHIN, self.runtime.wait()).await.context("crun does not end")??;
        Ok(())
    }

    fn kill(&self) {
        let pid = fs::read_to_string(&self.pid_file).ok().and_then(|pid| pid.trim().parse().ok());
        if let Some(pid) = pid {
            signal(pid, Signal::KILL);
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.runtime.id().is_some() {
            self.kill();
        }
    }
}

fn bind(from: &Path, to: &str) -> Value {
    json!({ "destination": to, "type": "bind", "source": from, "options": ["bind", "ro"] })
}

/// Where version 2 control groups are mounted on a machine that uses version 1.
fn beside_version_1() -> io::Result<Option<CString>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let of_type = |kind: &str| {
        let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        lines.find(|fields| fields.get(2) == Some(&kind)).map(|fields| fields[1].to_owned())
    };
    let (version_1, version_2) = (of_type("cgroup"), of_type("cgroup2"));
    Ok(version_1.and(version_2).and_then(|path| CString::new(path).ok()))
}
