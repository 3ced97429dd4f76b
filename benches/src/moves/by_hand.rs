//! The same program on the host, moved as people move one without a network that does it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use aleph_tests::repository;
use anyhow::{Context, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::http::first_200;
use crate::network::free_ports;
use crate::stats::Samples;

/// How its data is copied while it is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `rsync --archive`.
    Rsync,
    /// `btrfs send` of everything.
    Send,
}

impl Way {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rsync => "rsync",
            Self::Send => "btrfs send",
        }
    }
}

/// Two btrfs file systems in files of one disk. They are unmounted with this.
struct Disks {
    _folder: TempDir,
    mounts: [PathBuf; 2],
}

impl Disks {
    async fn new(mib: u64) -> anyhow::Result<Self> {
        // Beside the networks, which are on the same disk.
        let folder = TempDir::with_prefix("aleph-bench-")?;
        let mut mounts = Vec::new();
        for name in ["source", "target"] {
            let (file, mount) = (folder.path().join(format!("{name}.btrfs")), folder.path().join(name));
            std::fs::create_dir(&mount)?;
            std::fs::File::create(&file)?.set_len((mib * 2 + 2048) << 20)?;
            run("mkfs.btrfs", &["--quiet".as_ref(), file.as_ref()]).await?;
            run("mount", &["-o".as_ref(), "loop,noatime".as_ref(), file.as_ref(), mount.as_ref()]).await?;
            mounts.push(mount);
        }
        let mounts = mounts.try_into().expect("there are two");
        Ok(Self { _folder: folder, mounts })
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for mount in &self.mounts {
            let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Stops the program, copies so much data, and starts it there, so often with each way. Seconds without an answer.
pub(super) async fn copy_and_start(mib: u64, runs: u32) -> anyhow::Result<Vec<(Way, Samples)>> {
    let disks = Disks::new(mib).await?;
    let [source, target] = &disks.mounts;
    let data = source.join("data");
    run("btrfs", &["subvolume".as_ref(), "create".as_ref(), data.as_ref()]).await?;
    let code = aleph_tests::folder_with("main.py", include_str!("holder.py"));
    let port = free_ports(1);
    let mut program = start(code.path(), &data, port)?;
    eprintln!("bench: moves: {mib} MiB are written by hand");
    first_200(Instant::now(), port, "/").await?;
    first_200(Instant::now(), port, &format!("/fill/{mib}")).await?;
    let mut all = vec![(Way::Rsync, Samples::default()), (Way::Send, Samples::default())];
    for run in 1..=runs {
        for (way, pauses) in &mut all {
            eprintln!("bench: moves: {mib} MiB with {}: run {run} of {runs}", way.name());
            let began = Instant::now();
            stop(program).await?;
            let copy = copy(*way, source, target).await?;
            let moved = start(code.path(), &copy, port)?;
            pauses.add(first_200(began, port, "/").await?.seconds);
            // And back, without a copy, for the next.
            stop(moved).await?;
            remove(*way, &copy, source).await?;
            program = start(code.path(), &data, port)?;
            first_200(Instant::now(), port, "/").await?;
        }
    }
    stop(program).await?;
    Ok(all)
}

fn start(code: &Path, data: &Path, port: u16) -> anyhow::Result<Child> {
    let mut command = Command::new(repository("target/tools/bench").join("bin/python"));
    let port = port.to_string();
    command.args(["-m", "uvicorn", "main:app", "--host", "127.0.0.1", "--port", &port]);
    command.args(["--log-level", "warning", "--no-access-log"]).current_dir(code).env("BENCH_DATA", data);
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().context("cannot start uvicorn")
}

async fn stop(mut program: Child) -> anyhow::Result<()> {
    let pid = program.id().and_then(|pid| i32::try_from(pid).ok()).context("it has ended by itself")?;
    aleph_tests::signal(pid, Signal::TERM);
    timeout(Duration::from_secs(10), program.wait()).await.context("the program does not end")??;
    Ok(())
}

/// Copies the stopped program's data, durably. Says where to.
async fn copy(way: Way, source: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let (data, copy) = (source.join("data"), target.join("copy"));
    match way {
        Way::Rsync => {
            run("btrfs", &["subvolume".as_ref(), "create".as_ref(), copy.as_ref()]).await?;
            run("rsync", &["--archive".as_ref(), data.join("").as_ref(), copy.join("").as_ref()]).await?;
        }
        Way::Send => {
            let snapshot = source.join("copy");
            run("btrfs", &["subvolume".as_ref(), "snapshot".as_ref(), "-r".as_ref(), data.as_ref(), snapshot.as_ref()])
                .await?;
            let pipe = format!("btrfs send -q {} | btrfs receive -q {}", snapshot.display(), target.display());
            run("bash", &["-o".as_ref(), "pipefail".as_ref(), "-c".as_ref(), pipe.as_ref()]).await?;
            run(
                "btrfs",
                &["property".as_ref(), "set".as_ref(), "-f".as_ref(), copy.as_ref(), "ro".as_ref(), "false".as_ref()],
            )
            .await?;
        }
    }
    run("sync", &["-f".as_ref(), target.as_ref()]).await?;
    Ok(copy)
}

async fn remove(way: Way, copy: &Path, source: &Path) -> anyhow::Result<()> {
    let snapshot = (way == Way::Send).then(|| source.join("copy"));
    for subvolume in [Some(copy), snapshot.as_deref()].into_iter().flatten() {
        run("btrfs", &["subvolume".as_ref(), "delete".as_ref(), subvolume.as_ref()]).await?;
        // Its room is free a while later, and the next run needs it.
        let disk = subvolume.parent().context("it is on a disk")?;
        run("btrfs", &["subvolume".as_ref(), "sync".as_ref(), disk.as_ref()]).await?;
    }
    Ok(())
}

async fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().await;
    let output = output.with_context(|| format!("cannot start {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
