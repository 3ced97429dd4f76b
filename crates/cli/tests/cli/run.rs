//! Runs the client as a process, with a home and a key of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use protocol::Account;
use serde_json::Value;
use tempfile::TempDir;

use crate::network::Network;

/// Somebody who uses the client.
pub(crate) struct User {
    pub(crate) home: TempDir,
    pub(crate) account: Account,
    pub(crate) network: Network,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl User {
    /// Somebody with a key, on a network of their own.
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), account: Account::generate(), network: Network::start() }
    }

    /// Writes files into the working folder.
    pub(crate) fn write(&self, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = self.home.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    /// The tutorial's program.
    pub(crate) fn write_tutorial(&self) {
        self.write(&[("src/main.py", "from fastapi import FastAPI\n\napp = FastAPI()\n")]);
    }

    /// A command that is not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare(self.home.path(), arguments);
        command.env("ALEPH_API_HOST", self.network.url());
        command.env("ALEPH_PRIVATE_KEY_STRING", hex::encode(self.account.secret().as_slice()));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        outcome(self.command(arguments))
    }

    /// Runs a command that has to succeed, with `--json`, and reads its answer.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let outcome = self.run(&[&["--json"], arguments].concat());
        assert_eq!(outcome.code, 0, "{outcome:?}");
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {outcome:?}"))
    }

    /// Runs a command that has to fail, with `--json`, and reads its error.
    pub(crate) fn json_error(&self, arguments: &[&str]) -> Value {
        let outcome = self.run(&[&["--json"], arguments].concat());
        assert_ne!(outcome.code, 0, "{outcome:?}");
        outcome.error()
    }
}

/// A command without a network or a key, in this home.
pub(crate) fn bare(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aleph"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home);
    command.current_dir(home).args(arguments).stdin(Stdio::null());
    command
}

pub(crate) fn outcome(mut command: Command) -> Outcome {
    let output = command.output().unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Outcome {
    /// The error that `--json` printed. Standard output has to be empty, standard error to be JSON lines.
    pub(crate) fn error(&self) -> Value {
        assert_eq!(self.stdout, "", "{self:?}");
        let lines: Vec<Value> = self
            .stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:?}")))
            .collect();
        let error = lines.last().and_then(|line| line.get("error")).unwrap_or_else(|| panic!("{self:?}"));
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{self:?}");
        error.clone()
    }
}

/// Presses Ctrl-C.
pub(crate) fn interrupt(child: &std::process::Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}
