//! A role of `aleph-node` on its host, which can be ended and started again.

use std::path::PathBuf;
use std::sync::Arc;

use aleph_tests::{Namespace, Role};
use rustix::process::Signal;

/// See the module.
pub(crate) struct Daemon {
    host: Arc<Namespace>,
    arguments: Vec<String>,
    log: PathBuf,
    role: Option<Role>,
}

impl Daemon {
    /// Starts it and waits until it answers.
    pub(crate) async fn ready(host: &Arc<Namespace>, arguments: &[&str], log: PathBuf) -> Self {
        let arguments = ["--json"].iter().chain(arguments).map(|&argument| argument.to_owned()).collect();
        let mut daemon = Self { host: host.clone(), arguments, log, role: None };
        daemon.start();
        if let Some(role) = &mut daemon.role {
            role.answers(&daemon.log).await;
        }
        daemon
    }

    /// Starts it, unless it runs. Says whether it had to.
    pub(crate) fn start(&mut self) -> bool {
        if self.role.as_mut().is_some_and(Role::is_running) {
            return false;
        }
        self.role = Some(Role::start_in(&self.host, &self.arguments, &self.log));
        true
    }

    /// Its process, if it runs.
    pub(crate) fn pid(&mut self) -> Option<i32> {
        self.role.as_mut().and_then(|role| role.is_running().then(|| role.pid()))
    }

    /// Ends it as a crash does.
    pub(crate) async fn kill(&mut self) {
        let runs = self.pid().is_some();
        if let Some(role) = self.role.take()
            && runs
        {
            role.end(Signal::KILL).await;
        }
    }
}
