//! The processes of the network.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::layout::Environment;

/// How long one process may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long one process may take to end before it is killed. Compute nodes end all their programs in this time.
const END_WITHIN: Duration = Duration::from_secs(30);

/// A part of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    MessageNode,
    Scheduler,
    Gateway,
    ComputeNode(u16),
}

impl Child {
    fn name(self) -> String {
        match self {
            Self::MessageNode => "message-node".to_owned(),
            Self::Scheduler => "scheduler".to_owned(),
            Self::Gateway => "gateway".to_owned(),
            Self::ComputeNode(number) => format!("compute-node-{number}"),
        }
    }
}

struct Process {
    what: Child,
    pid: u32,
    process: tokio::process::Child,
    node_id: String,
    ended: Option<ExitStatus>,
}

/// What a part says when it is ready.
#[derive(Deserialize)]
struct Ready {
    #[serde(rename = "url")]
    _url: String,
}

/// All parts that were started.
pub(super) struct Children {
    logs: PathBuf,
    processes: Vec<Process>,
}

impl Children {
    pub(super) fn new(logs: PathBuf) -> Self {
        Self { logs, processes: Vec::new() }
    }

    /// Starts a part and waits until it is ready.
    pub(super) async fn start(&mut self, what: Child, arguments: Vec<OsString>) -> anyhow::Result<()> {
        self.start_with(what, arguments, Environment::new()).await
    }

    /// The same with these variables in its environment.
    pub(super) async fn start_with(
        &mut self,
        what: Child,
        arguments: Vec<OsString>,
        environment: Environment,
    ) -> anyhow::Result<()> {
        let (name, log_path) = (what.name(), self.logs.join(format!("{}.log", what.name())));
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.with_context(|| format!("cannot write {}", log_path.display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).envs(environment).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        // A group of its own: Ctrl-C is for this process, which ends the others in order.
        command.process_group(0);
        // SAFETY: only a system call that is async-signal-safe. Should this process be killed, the others are asked to end.
        unsafe {
            command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let mut process = command.spawn().with_context(|| format!("cannot start the {name}"))?;
        let output = process.stdout.take().context("its output is piped")?;
        let pid = process.id().context("it runs")?;
        self.processes.push(Process { what, pid, process, node_id: String::new(), ended: None });

        let mut lines = BufReader::new(output).lines();
        let line = timeout(READY_WITHIN, lines.next_line()).await;
        let ready = line.ok().and_then(Result::ok).flatten().and_then(|line| serde_json::from_str::<Ready>(&line).ok());
        if ready.is_some() {
            return Ok(());
        }
        bail!("the {name} did not start: {}", self.last_complaint(&log_path));
    }

    /// The end of a log, where the reason is.
    fn last_complaint(&self, log: &PathBuf) -> String {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        format!("{last} (log: {})", log.display())
    }

    /// Fails when a part has ended.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            if let Some(status) = process.process.try_wait()? {
                let log = self.logs.join(format!("{}.log", process.what.name()));
                bail!("the {} ended ({status}); its log is {}", process.what.name(), log.display());
            }
        }
        Ok(())
    }

    /// Waits until a part that still ran ends, and says so. The rest goes on.
    pub(super) async fn report_ended(&mut self) {
        let running = self.processes.iter_mut().filter(|process| process.ended.is_none());
        let waits: Vec<_> = running
            .map(|process| {
                Box::pin(async move {
                    let status = process.process.wait().await.ok();
                    (process, status)
                })
            })
            .collect();
        if waits.is_empty() {
            return std::future::pending().await;
        }
        let ((process, status), ..) = futures_util::future::select_all(waits).await;
        process.ended = status.or_else(|| Some(ExitStatus::default()));
        let how = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
        eprintln!("the {} (process {}) ended: {how}", process.what.name(), process.pid);
    }

    pub(super) fn pid(&self, what: Child) -> Option<u32> {
        self.processes.iter().find(|process| process.what == what).map(|process| process.pid)
    }

    pub(super) fn set_node_id(&mut self, number: u16, id: String) {
        if let Some(process) = self.processes.iter_mut().find(|process| process.what == Child::ComputeNode(number)) {
            process.node_id = id;
        }
    }

    /// Number, process id and node id of each compute node.
    pub(super) fn compute_nodes(&self) -> impl Iterator<Item = (u16, u32, String)> {
        self.processes.iter().filter_map(|process| match process.what {
            Child::ComputeNode(number) => Some((number, process.pid, process.node_id.clone())),
            _ => None,
        })
    }

    /// Ends all parts: first who would move programs away, then who runs them, last who stores.
    pub(super) async fn end(&mut self) {
        let order: [fn(Child) -> bool; 3] = [
            |what| matches!(what, Child::Gateway | Child::Scheduler),
            |what| matches!(what, Child::ComputeNode(_)),
            |what| what == Child::MessageNode,
        ];
        for belongs in order {
            let mut group: Vec<_> = self.processes.iter_mut().filter(|process| belongs(process.what)).collect();
            for process in &mut group {
                process.signal(Signal::TERM);
            }
            for process in group {
                if timeout(END_WITHIN, process.process.wait()).await.is_err() {
                    eprintln!("the {} does not end, killing it", process.what.name());
                    process.signal(Signal::KILL);
                    let _ = process.process.wait().await;
                }
            }
        }
    }

    /// Kills all parts at once.
    pub(super) fn kill(&mut self) {
        for process in &mut self.processes {
            process.signal(Signal::KILL);
        }
    }
}

impl Process {
    fn signal(&mut self, signal: Signal) {
        // Only while it has not been waited for is the process id certainly its own.
        if let Ok(None) = self.process.try_wait()
            && let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, signal);
        }
    }
}
