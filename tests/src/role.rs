//! Single roles of `aleph-node`, started by a test instead of `aleph-node up`.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::{Namespace, binary, signal};

/// How long a role may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running role. It ends with this, and with the test's thread at the latest.
pub struct Role {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

/// What a role was started with.
///
/// # Panics
/// When the process has ended.
pub fn arguments_of(pid: i32) -> Vec<String> {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("the process runs");
    line.trim_end_matches('\0').split('\0').skip(1).map(str::to_owned).collect()
}

impl Role {
    /// Starts a role with these arguments, which print a line when it is ready, as those of `aleph-node up` do. Its log goes
    /// on in this file.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(arguments: &[String], log: &Path) -> Self {
        Self::spawn(Command::new(binary("aleph-node")), arguments, log)
    }

    /// As [`Role::start`], on another host.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_in(host: &Namespace, arguments: &[String], log: &Path) -> Self {
        let mut command = Command::new(binary("aleph-node"));
        host.host(command.as_std_mut());
        Self::spawn(command, arguments, log)
    }

    fn spawn(mut command: Command, arguments: &[String], log: &Path) -> Self {
        let log = OpenOptions::new().create(true).append(true).open(log).expect("a log can be written");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        // Who interrupts the test does not interrupt what it tests: that is the test's to end.
        command.process_group(0);
        // SAFETY: only a system call that is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?));
        }
        let mut process = command.spawn().expect("aleph-node starts");
        let output = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        Self { process, output }
    }

    /// Starts a role and waits until it answers requests.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn ready(arguments: &[String], log: &Path) -> Self {
        let mut role = Self::start(arguments, log);
        role.answers(log).await;
        role
    }

    /// Waits until it answers requests, once after it was started. Its log is said if it does not.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn answers(&mut self, log: &Path) {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await.expect("it becomes ready in time");
        let line = line.expect("its output can be read");
        line.unwrap_or_else(|| panic!("it did not start:\n{}", fs::read_to_string(log).unwrap_or_default()));
    }

    /// Its process.
    ///
    /// # Panics
    /// When it was ended.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id().expect("it runs")).expect("a process id")
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// When the operating system does not say.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("it is a child").is_none()
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn end(mut self, by: Signal) -> ExitStatus {
        signal(self.pid(), by);
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        ended.expect("it ends in time").expect("it can be waited for")
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let Ok(None) = self.process.try_wait() else { return };
        signal(self.pid(), Signal::TERM);
        for _ in 0..300 {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
